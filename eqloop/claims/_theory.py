"""Predictions of the paper's framework, and whether a measurement agrees with them."""

import dataclasses
import math
from collections.abc import Mapping

from ..nn import NORMS, NormKind, RecallKind, ResidualKind
from ..stability import CONSTANT, Agreement, Statement, Verdict

REACHED = (Verdict.REACHED_FROM_EVERY_START, Verdict.REACHED_FROM_OWN_START)
"""The verdicts that confirm that fixed points are reached."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the framework predicts for one axis.

    **Attributes:**

    - `claim`: the prediction in words.
    - `because`: the argument for it.
    - `expects`: the verdicts that confirm it; None if the framework predicts nothing.
    - `bounds`: name of a number of the statement -> its upper bound. The verdict "differs, not
        smoothly" confirms the prediction only if these numbers are within their bounds.
    """

    claim: str
    because: str
    expects: tuple[Verdict, ...] | None = None
    bounds: Mapping[str, float] = dataclasses.field(default_factory=dict)


def predict(
    recall: RecallKind, norm: NormKind, residual: ResidualKind, rho: float | None = None
) -> dict[str, Prediction]:
    """The predictions of the framework for a model. Some of the arguments are our own inference
    from its formulas.

    **Arguments:**

    - `recall`, `norm`, `residual`: the parts of the block; see `eqloop.LoopedTransformer`.
    - `rho`: the spectral radius of W_x, for a model with recall; see `weight_figures`.

    **Returns:**

    Axis ("reachability", "input_dependence", "geometry") -> `Prediction`.

    **Raises** `KeyError` for an unknown placement of the norms of a model with recall.

    **Source:** Stability and Generalization in Looped Transformers, arXiv 2604.15259.

    ```python
    >>> import eqloop
    >>> eqloop.claims.predict("external", "pre", "add", rho=1.5)["reachability"].claim
    'the loop diverges'

    ```
    """
    silent = Prediction("no claim", "the framework says nothing about this combination")
    if residual != "add" or recall not in ("none", "external", "internal"):
        return dict.fromkeys(("reachability", "input_dependence", "geometry"), silent)
    if recall == "none":
        why = (
            "without recall all inputs share the fixed points of one map: these are countable, so "
            "that z* is locally constant in the input"
        )
        return {
            "reachability": dataclasses.replace(silent, because="it depends on the weights"),
            "input_dependence": Prediction(
                "no strong dependence on the input",
                why,
                (Verdict.ONE_FIXED_POINT, Verdict.FEW_FIXED_POINTS, Verdict.NOT_SMOOTH),
                {"input_dependence.kept": CONSTANT},
            ),
            "geometry": dataclasses.replace(silent, because="it depends on the weights"),
        }
    smooth = Prediction(
        "fixed points smooth in the input", "dz*/de = (I - J)⁻¹ df/de", (Verdict.SMOOTH,)
    )
    if NORMS[norm].out:
        compact = "outer normalisation keeps the state bounded and scales J by 1 / rms"
        return {
            "reachability": Prediction("fixed points are reached", compact, REACHED),
            "input_dependence": smooth,
            "geometry": Prediction("backpropagation is stable", compact, (Verdict.STABLE,)),
        }
    if recall == "internal":
        why = "the residual stream is never normalised: it drifts unless the two branches cancel"
        return {
            "reachability": Prediction("fixed points are not reached", why, (Verdict.NOT_REACHED,)),
            "input_dependence": Prediction("no claim", "there is no fixed point to depend on it"),
            "geometry": dataclasses.replace(silent, because="there is no fixed point"),
        }
    if rho is None:
        return dict.fromkeys(("reachability", "input_dependence", "geometry"), silent)
    if rho < 1:
        why = f"z' = W_x z + W_h e + bounded, and rho(W_x) = {rho:.2f} is below 1"
        return {
            "reachability": Prediction("fixed points are reached", why, REACHED),
            "input_dependence": smooth,
            "geometry": Prediction("backpropagation is stable", why, (Verdict.STABLE,)),
        }
    why = f"z' = W_x z + W_h e + bounded, and rho(W_x) = {rho:.2f} is not below 1"
    return {
        "reachability": Prediction("the loop diverges", why, (Verdict.NOT_REACHED,)),
        "input_dependence": Prediction("no claim", "there is no fixed point to depend on it"),
        "geometry": Prediction("backpropagation explodes", why, (Verdict.EXPLODING,)),
    }


def compare(
    predicted: Mapping[str, Prediction], verdict: Mapping[str, Statement]
) -> dict[str, Agreement]:
    """Whether the verdicts of a report agree with predictions.

    **Arguments:**

    - `predicted`: the result of `predict`.
    - `verdict`: axis -> `Statement`; see `eqloop.stability.StabilityReport`.

    **Returns:**

    Axis -> `eqloop.stability.Agreement`.

    **Raises** `KeyError` if `verdict` lacks an axis of `predicted`.

    ```python
    >>> import eqloop
    >>> from eqloop.stability import Statement, Verdict
    >>> smooth = Statement(Verdict.SMOOTH, "z* is differentiable.", {})
    >>> predicted = eqloop.claims.predict("internal", "post", "add")
    >>> only = {"input_dependence": predicted["input_dependence"]}
    >>> eqloop.claims.compare(only, {"input_dependence": smooth})["input_dependence"].agrees
    True

    ```
    """
    return {
        axis: Agreement(prediction.claim, prediction.because, _agrees(prediction, verdict[axis]))
        for axis, prediction in predicted.items()
    }


def _agrees(predicted: Prediction, measured: Statement) -> bool | None:
    if predicted.expects is None or not measured.verdict.measured:
        return None
    if measured.verdict not in predicted.expects:
        return False
    # Different fixed points confirm the prediction if they are locally constant. If z* moves with
    # x, but not as its derivative says, the measurement is inconclusive.
    within = all(
        measured.numbers.get(name, math.nan) <= bound for name, bound in predicted.bounds.items()
    )
    return None if measured.verdict == Verdict.NOT_SMOOTH and not within else True
