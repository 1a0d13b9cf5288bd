"""Checks of five claims of the paper's framework on several models.

The sixth claim, on the scalar regions, needs no model: `eqloop.stability.scalar_experiment`.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._adjoint import Backprop, Implicit
from .._equilibrium import equilibrium
from .._model import LoopedTransformer, own_start
from .._solver import FixedPoint, Unroll
from ..nn import NormKind, RecallKind
from ..stability import Orbits, follow_orbits, input_dependence, jacobian_eigenvalues, return_test
from ._problem import RecurrentMap
from ._weights import weight_figures

LENGTHS = (1, 4, 16, 64, 256)
"""Numbers of iterations of the unrolled gradient in `check_gradients`."""
RADII = (0.5, 0.8, 0.95, 1.05, 1.25, 1.5, 2.0, 3.0)
"""Values of rho(W_x) in `check_scan`."""
SCANNED: tuple[NormKind, ...] = ("pre", "peri", "post")
"""Placements of the norms in `check_scan`."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model that a claim is checked on.

    **Attributes:**

    - `name`: its name in tables and figures.
    - `model`: the model.
    - `inputs`: embeddings of examples, of shape (examples, *grid, width).

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> model = eqloop.LoopedTransformer((4, 4), 5, 5, 8, 2, recall="external", key=jr.key(0))
    >>> eqloop.claims.Subject("mine", model, jnp.zeros((2, 4, 4, 8))).recall
    'external'

    ```
    """

    name: str
    model: LoopedTransformer
    inputs: Float[Array, "examples *grid width"]

    @property
    def recall(self) -> RecallKind:
        """The recall of the first block."""
        return self.model.blocks[0].recall_kind

    @property
    def f(self) -> RecurrentMap:
        """The loop as a map `f(z, e)`."""
        return RecurrentMap(self.model.loop())

    def orbits(self, iterations: int) -> Orbits:
        """The orbits of the loop on all inputs, each from `z_0 = e`.

        **Arguments:**

        - `iterations`: number of iterations.

        **Returns** the orbits; see `eqloop.stability.follow_orbits`.
        """
        return follow_orbits(self.f, own_start, self.inputs, iterations=iterations)


@dataclasses.dataclass(frozen=True)
class Check:
    """A claim, and whether the measurement confirms it.

    **Attributes:**

    - `claim`: the claim in words.
    - `holds`: whether it holds on every model that it speaks of; None if none could be measured.
    - `outcome`: the measurement in words, with numbers.
    - `columns`: the heads of the table.
    - `rows`: the table, one row per model or setting.
    - `curves`: label -> points (x, y) of the figure.
    - `axes`: the labels of x and y.
    - `logarithmic`: whether x and y have logarithmic axes.
    - `scatter`: whether the points of a curve are separate measurements, to be compared with the
        line y = x.

    ```python
    >>> import eqloop
    >>> check = eqloop.claims.Check(
    ...     claim="the residual falls", holds=True, outcome="from 1 to 0.1",
    ...     columns=("model", "last"), rows=[("mine", 0.1)],
    ...     curves={"mine": [(1.0, 1.0), (2.0, 0.1)]}, axes=("iterations", "residual"),
    ... )
    >>> check.tables()["rows"]
    [('mine', 0.1)]

    ```
    """

    claim: str
    holds: bool | None
    outcome: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    curves: dict[str, list[tuple[float, float]]]
    axes: tuple[str, str]
    logarithmic: tuple[bool, bool] = (True, True)
    scatter: bool = False

    def tables(self) -> dict[str, Any]:
        """The attributes as nested plain values."""
        return dataclasses.asdict(self)


def random_subjects(
    *, key: PRNGKeyArray, examples: int = 32, norm: NormKind = "post", width: int = 32
) -> list[Subject]:
    """One untrained model per recall, all with the same key and the same random 4x4 boards.

    **Arguments:**

    - `key`: random key of the weights and the boards.
    - `examples`: number of boards.
    - `norm`: placement of the norms.
    - `width`: width of the models, a multiple of 16.

    **Returns** one subject for each of the recalls "none", "external" and "internal".

    **Raises** `ValueError` for another width.

    ```python
    >>> import eqloop, jax.random as jr
    >>> subjects = eqloop.claims.random_subjects(key=jr.key(0), examples=2, width=16)
    >>> [subject.name for subject in subjects]
    ['none, post, untrained', 'external, post, untrained', 'internal, post, untrained']

    ```
    """
    model_key, board_key = jr.split(key)
    boards = jax.nn.one_hot(jr.randint(board_key, (examples, 4, 4), 0, 5), 5)
    subjects = []
    for recall in ("none", "external", "internal"):
        model = LoopedTransformer((4, 4), 5, 5, width, 4, recall=recall, norm=norm, key=model_key)
        inputs = jax.vmap(model.embed)(boards)
        subjects.append(Subject(f"{recall}, {norm}, untrained", model, inputs))
    return subjects


def check_clusters(subjects: Sequence[Subject], *, key: PRNGKeyArray, iterations: int) -> Check:
    """Without recall the number of distinct limits saturates; with recall it grows with the number
    of inputs."""
    rows, curves = [], {}
    without: list[bool] = []
    with_recall: list[bool] = []
    for subject in subjects:
        orbits = subject.orbits(iterations)
        measured = input_dependence(orbits, key=key, detail=orbits.take(np.arange(1)))
        converged = int(orbits.converged.sum())
        count = measured.clusters[-1] if measured.clusters else math.nan
        curves[subject.name] = list(
            zip(map(float, measured.inputs), measured.clusters, strict=True)
        )
        rows.append((subject.name, len(orbits), converged, count))
        if converged > 1:
            if subject.recall == "none":
                without.append(measured.distinct <= 0.5)
            else:
                with_recall.append(measured.distinct == 1)
    outcome = "; ".join(
        f"{name}: {count:.0f} distinct limits of {converged} that converged"
        if converged
        else f"{name}: none converged"
        for name, _, converged, count in rows
    )
    return Check(
        "Without recall the number of distinct limits saturates; with it, it grows with the inputs",
        _both(without, with_recall),
        outcome,
        ("model", "inputs", "converged", "distinct limits"),
        rows,
        curves,
        ("inputs", "distinct limits"),
    )


def check_sensitivity(subjects: Sequence[Subject], *, key: PRNGKeyArray, iterations: int) -> Check:
    """|dz_T/de| goes to zero without recall, and to |(I - J)^-1 df/de| with recall."""
    rows, curves = [], {}
    without: list[bool] = []
    with_recall: list[bool] = []
    for subject in subjects:
        orbits = subject.orbits(iterations)
        orbits = orbits.take(np.arange(min(8, len(orbits))))
        measured = input_dependence(orbits, key=key)
        first, last = measured.sensitivity.median[0], measured.sensitivity.median[-1]
        points = zip(map(float, measured.iterations), measured.sensitivity.median, strict=True)
        curves[subject.name] = list(points)
        converged = int(orbits.converged.sum())
        rows.append((subject.name, converged, first, last, measured.implicit.median,
                     measured.agreement.median))  # fmt: skip
        if converged:
            if subject.recall == "none":
                without.append(last < 1e-3 * first)
            else:
                with_recall.append(abs(measured.agreement.median - 1) < 0.1)
    outcome = "; ".join(
        f"{name}: {last:.2g} after the last iteration, {implicit:.2g} implicit"
        for name, _, _, last, implicit, _ in rows
    )
    return Check(
        "|dz_T/de| goes to zero without recall, and to |(I - J)^-1 df/de| with recall",
        _both(without, with_recall),
        outcome,
        ("model", "converged", "after 1", "after the last", "implicit", "last / implicit"),
        rows,
        curves,
        ("iterations", "|dz_t/de|"),
    )


def check_return(subjects: Sequence[Subject], *, key: PRNGKeyArray, iterations: int) -> Check:
    """A small push along the leading eigenvector of a fixed point returns iff |lambda| < 1."""
    rows, curves = [], {}
    as_predicted: list[bool] = []
    for subject in subjects:
        orbits = subject.orbits(iterations)
        orbits = orbits.take(np.arange(min(16, len(orbits))))
        leading = jacobian_eigenvalues(orbits, key=key)
        factor, returned = return_test(orbits, leading)
        modulus = np.abs(leading.values[:, 0])
        known = np.isfinite(factor)
        agrees = (returned == (modulus < 1))[known]
        curves[subject.name] = [
            (float(a), float(b)) for a, b in zip(modulus[known], factor[known], strict=True)
        ]
        rows.append((subject.name, int(known.sum()), _mean(modulus[known]), _mean(factor[known]),
                     int(returned[known].sum()), int(agrees.sum())))  # fmt: skip
        as_predicted += agrees.tolist()
    return Check(
        "A push along the leading eigenvector returns if and only if its eigenvalue is inside the "
        "unit circle",
        bool(np.mean(as_predicted) >= 0.95) if as_predicted else None,
        f"as predicted at {sum(as_predicted)} of {len(as_predicted)} fixed points",
        ("model", "fixed points", "|lambda|", "measured factor", "returned", "as predicted"),
        rows,
        curves,
        ("|lambda| of the leading eigenvalue", "measured growth per iteration"),
        (False, False),
        scatter=True,
    )


def check_scan(subjects: Sequence[Subject], *, key: PRNGKeyArray, iterations: int) -> Check:
    """Without outer normalisation external recall diverges if rho(W_x) > 1; with it, never.

    The weights W_x of one-block models with external recall are scaled to `RADII`, under every
    placement of `SCANNED`.
    """
    del key
    scanned = [
        subject
        for subject in subjects
        if subject.recall == "external" and len(subject.model.blocks) == 1
    ]
    rows, curves = [], {}
    as_predicted: list[bool] = []
    for subject in scanned:
        for norm in SCANNED:
            curve, name = [], f"{subject.name} as {norm}"
            for radius in RADII:
                model = _rescaled(_placed(subject.model, norm), radius)
                orbits = Subject(name, model, subject.inputs).orbits(iterations)
                outcomes = orbits.outcomes
                growth = float(np.median(orbits.sizes[:, -1] / orbits.sizes[:, 0]))
                shares = [outcomes.count(o) / len(outcomes) for o in ("converged", "diverged")]
                curve.append((radius, growth if math.isfinite(growth) else math.inf))
                rows.append((name, radius, *shares, growth))
                bounded = outcomes.count("diverged") == 0
                is_bounded_in_theory = norm == "post" or radius < 1
                as_predicted.append(bounded == is_bounded_in_theory)
            curves[name] = curve
    return Check(
        "External recall without outer normalisation diverges if rho(W_x) > 1; with it, it never "
        "diverges",
        all(as_predicted) if as_predicted else None,
        f"as predicted in {sum(as_predicted)} of {len(as_predicted)} settings"
        if as_predicted
        else "no model has external recall and a loop of one block",
        ("model", "rho(W_x)", "converged", "diverged", "|z_T| / |z_1|"),
        rows,
        curves,
        ("rho(W_x)", "|z_T| / |z_1|"),
        (False, True),
    )


def check_gradients(subjects: Sequence[Subject], *, key: PRNGKeyArray, iterations: int) -> Check:
    """The unrolled gradient stays bounded, and becomes the implicit one, as T grows."""
    lengths = [length for length in LENGTHS if length <= iterations]
    rows, curves = [], {}
    as_predicted: list[bool] = []
    for subject in subjects:
        inputs = subject.inputs[: min(8, len(subject.inputs))]
        # The loss is a random linear function of the last state.
        direction = jr.normal(key, inputs.shape[1:], inputs.dtype)
        implicit, converged = map(np.asarray, _implicit(subject.f, inputs, direction, iterations))
        implicit = implicit.reshape(len(inputs), -1)
        curve = []
        for length in lengths:
            unrolled = np.asarray(_unrolled(subject.f, inputs, direction, length))
            unrolled = unrolled.reshape(len(inputs), -1)
            norms = np.linalg.norm(unrolled, axis=1)
            with np.errstate(divide="ignore", invalid="ignore"):
                cosines = np.sum(unrolled * implicit, 1) / norms / np.linalg.norm(implicit, axis=1)
            cosine, norm = _mean(cosines[converged]), float(np.median(norms))
            curve.append((float(length), norm))
            rows.append((subject.name, length, int(converged.sum()), norm, cosine))
        curves[subject.name] = curve
        if subject.recall != "none" and converged.any():
            as_predicted.append(rows[-1][-1] > 0.99 and curve[-1][1] < 100 * curve[0][1])
    last_rows = [row for row in rows if row[1] == lengths[-1]]
    cosines = "; ".join(f"{name}: cosine {cosine:.3f}" for name, _, _, _, cosine in last_rows)
    return Check(
        "With recall and outer normalisation the unrolled gradient stays bounded and becomes the "
        "implicit one",
        all(as_predicted) if as_predicted else None,
        f"after {lengths[-1]} iterations: {cosines}",
        ("model", "iterations", "converged", "|dL/de| unrolled", "cosine to implicit"),
        rows,
        curves,
        ("iterations that are differentiated", "|dL/de|"),
    )


CHECKS: dict[str, Callable[..., Check]] = {
    "clusters": check_clusters,
    "sensitivity": check_sensitivity,
    "return": check_return,
    "scan": check_scan,
    "gradients": check_gradients,
}
"""Name -> function of `subjects`, with the keywords `key` and `iterations`, that gives `Check`."""


def _both(without: list[bool], with_recall: list[bool]) -> bool | None:
    """Whether a claim about models without and with recall holds; None if one half was not
    measured and nothing contradicts the other."""
    if not all(without + with_recall):
        return False
    return True if without and with_recall else None


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _rescaled(model: LoopedTransformer, radius: float) -> LoopedTransformer:
    """The model with W_x scaled to the spectral radius `radius`."""

    def weight(model: LoopedTransformer) -> Array:
        recall = model.blocks[0].recall
        assert recall is not None
        return recall.state.weight

    return eqx.tree_at(weight, model, weight(model) * (radius / weight_figures(model)["rho_w_x"]))


def _placed(model: LoopedTransformer, norm: NormKind) -> LoopedTransformer:
    """The same weights under another placement of the norms, whose gains are set to one."""
    block = model.blocks[0]
    other = LoopedTransformer(
        model.grid,
        model.prelude.weight.shape[1],
        model.coda.output.weight.shape[0],
        model.prelude.weight.shape[0],
        block.attention.heads,
        recall=block.recall_kind,
        norm=norm,
        attention=block.attention.window,
        rotary_base=block.attention.rotary_base,
        key=jr.key(0),
    )
    return eqx.tree_at(lambda m: m.blocks[0].norms, model, other.blocks[0].norms)


@eqx.filter_jit
def _implicit(f: RecurrentMap, inputs: Array, direction: Array, iterations: int):
    def one(e):
        def objective(e):
            out = equilibrium(
                f, e, e, solver=FixedPoint(rtol=1e-5), gradient=Implicit(), max_steps=iterations
            )
            return jnp.sum(out.state * direction), out.residual

        gradient, residual = jax.grad(objective, has_aux=True)(e)
        return gradient, residual <= 1e-4

    return jax.vmap(one)(inputs)


@eqx.filter_jit
def _unrolled(f: RecurrentMap, inputs: Array, direction: Array, length: int) -> Array:
    def objective(e):
        out = equilibrium(f, e, e, solver=Unroll(length), gradient=Backprop())
        return jnp.sum(out.state * direction)

    return jax.vmap(jax.grad(objective))(inputs)
