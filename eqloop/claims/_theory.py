"""What the paper's framework says of a recall and a placement, and whether a measurement agrees."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from ..nn import NORMS, NormKind, RecallKind, ResidualKind
from ..stability import CONSTANT, Statement, Verdict

REACHED = (Verdict.REACHED_FROM_EVERY_START, Verdict.REACHED_FROM_OWN_START)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """**Attributes:**

    - `claim`: in words; `because`: the argument.
    - `expects`: verdicts that bear it out; None where the framework is silent.
    - `bounds`: numbers of the statement, and what they must not exceed for "differs, not smoothly"
        to be decisive.
    """

    claim: str
    because: str
    expects: tuple[Verdict, ...] | None = None
    bounds: Mapping[str, float] = dataclasses.field(default_factory=dict)


def predict(
    recall: RecallKind, norm: NormKind, residual: ResidualKind, rho: float | None = None
) -> dict[str, Prediction]:
    """Axis -> what "Stability and Generalization in Looped Transformers" (arXiv 2604.15259) has to
    say of it; the argument is partly our own inference from its formulas.

    **Arguments:** `rho`: the spectral radius of W_x, where there is recall.
    """
    silent = Prediction("no claim", "the framework has nothing to say of this combination")
    if residual != "add" or recall not in ("none", "external", "internal"):
        return dict.fromkeys(("reachability", "input_dependence", "geometry"), silent)
    if recall == "none":
        why = (
            "without recall the fixed points are those of one map, whatever the input: countable, "
            "so that z* is locally constant in it"
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
) -> dict[str, dict[str, Any]]:
    """Axis -> `{"claim", "because", "agrees"}`; `agrees` is None where nothing was claimed, where
    the axis could not be measured, and where what was measured decides nothing."""
    return {
        axis: {
            "claim": each.claim,
            "because": each.because,
            "agrees": _agrees(each, verdict[axis]),
        }
        for axis, each in predicted.items()
    }


def _agrees(predicted: Prediction, found: Statement) -> bool | None:
    if predicted.expects is None or not found.verdict.measured:
        return None
    if found.verdict not in predicted.expects:
        return False
    # Fixed points that differ are as predicted if they are locally constant; if z* moves with x,
    # but not as its derivative says, neither is borne out.
    within = (found.numbers.get(name, math.nan) <= most for name, most in predicted.bounds.items())
    return None if found.verdict == Verdict.NOT_SMOOTH and not all(within) else True
