"""Five claims of the paper's framework that a program can check, each on several models.

The sixth, the scalar regions, needs no model: `eqloop.stability.scalar_experiment`.
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
from .._model import LoopedTransformer
from .._solver import FixedPoint, Unroll
from ..nn import NormKind, RecallKind
from ..stability import Orbits, follow_orbits, input_dependence, jacobian_eigenvalues, return_test
from ._problem import RecurrentMap, own_start
from ._weights import weight_figures

LENGTHS = (1, 4, 16, 64, 256)
RADII = (0.5, 0.8, 0.95, 1.05, 1.25, 1.5, 2.0, 3.0)
SCANNED: tuple[NormKind, ...] = ("pre", "peri", "post")


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model that a claim is checked on: `inputs` are embeddings."""

    name: str
    model: LoopedTransformer
    inputs: Float[Array, "examples *grid width"]

    @property
    def recall(self) -> RecallKind:
        return self.model.blocks[0].recall_kind

    @property
    def f(self) -> RecurrentMap:
        return RecurrentMap(self.model.loop())

    def limits(self, iterations: int) -> Orbits:
        return follow_orbits(self.f, own_start, self.inputs, iterations=iterations)


@dataclasses.dataclass(frozen=True)
class Check:
    """How a claim came out.

    **Attributes:**

    - `claim`: in words; `holds`: whether it does on every model that it speaks of, None where none
      could be measured; `outcome`: in words, with the numbers.
    - `columns`, `rows`: the table, one line for each model (or setting).
    - `curves`: label -> points (x, y) for the picture; `axes`: the names of x and y; `logarithmic`:
      which of them are.
    - `scatter`: the points of a curve are separate measurements, compared with the line y = x.
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
        """As nested plain values."""
        return dataclasses.asdict(self)


def random_subjects(
    *, key: PRNGKeyArray, examples: int = 32, norm: NormKind = "post", width: int = 32
) -> list[Subject]:
    """Untrained models of each recall on random 4x4 boards, with the same key."""
    model_key, board_key = jr.split(key)
    boards = jax.nn.one_hot(jr.randint(board_key, (examples, 4, 4), 0, 5), 5)
    found = []
    for recall in ("none", "external", "internal"):
        model = LoopedTransformer((4, 4), 5, 5, width, 4, recall=recall, norm=norm, key=model_key)
        found.append(Subject(f"{recall}, {norm}, untrained", model, jax.vmap(model.embed)(boards)))
    return found


def check_clusters(subjects: Sequence[Subject], *, key: PRNGKeyArray, iterations: int) -> Check:
    """The number of distinct limits saturates without recall and grows with the inputs with it."""
    rows, curves = [], {}
    without: list[bool] = []
    with_recall: list[bool] = []
    for subject in subjects:
        limits = subject.limits(iterations)
        found = input_dependence(limits, key=key, detail=limits.take(np.arange(1)))
        converged = int(limits.converged.sum())
        count = found.clusters[-1] if found.clusters else math.nan
        curves[subject.name] = list(zip(map(float, found.inputs), found.clusters, strict=True))
        rows.append((subject.name, len(limits), converged, count))
        if converged > 1:
            if subject.recall == "none":
                without.append(found.distinct <= 0.5)
            else:
                with_recall.append(found.distinct == 1)
    told = "; ".join(
        f"{name}: {count:.0f} limits of {converged} that converged"
        if converged
        else f"{name}: none converged"
        for name, _, converged, count in rows
    )
    return Check(
        "Without recall the number of distinct limits saturates; with it, it grows with the inputs",
        _both(without, with_recall),
        told,
        ("model", "inputs", "converged", "distinct limits"),
        rows,
        curves,
        ("inputs", "distinct limits"),
    )


def check_sensitivity(subjects: Sequence[Subject], *, key: PRNGKeyArray, iterations: int) -> Check:
    """|dz_T/de| goes to nothing without recall, and to |(I - J)^-1 df/de| with it."""
    rows, curves = [], {}
    without: list[bool] = []
    with_recall: list[bool] = []
    for subject in subjects:
        limits = subject.limits(iterations)
        limits = limits.take(np.arange(min(8, len(limits))))
        found = input_dependence(limits, key=key)
        first, last = found.sensitivity.median[0], found.sensitivity.median[-1]
        points = zip(map(float, found.iterations), found.sensitivity.median, strict=True)
        curves[subject.name] = list(points)
        converged = int(limits.converged.sum())
        rows.append((subject.name, converged, first, last, found.implicit.median,
                     found.agreement.median))  # fmt: skip
        if converged:
            if subject.recall == "none":
                without.append(last < 1e-3 * first)
            else:
                with_recall.append(abs(found.agreement.median - 1) < 0.1)
    told = "; ".join(
        f"{name}: {last:.2g} after the last iteration, {implicit:.2g} implicit"
        for name, _, _, last, implicit, _ in rows
    )
    return Check(
        "|dz_T/de| goes to zero without recall, and to |(I - J)^-1 df/de| with it",
        _both(without, with_recall),
        told,
        ("model", "converged", "after 1", "after the last", "implicit", "last / implicit"),
        rows,
        curves,
        ("iterations", "|dz_t/de|"),
    )


def check_return(subjects: Sequence[Subject], *, key: PRNGKeyArray, iterations: int) -> Check:
    """A small push along the leading eigenvector of a fixed point returns iff |lambda| < 1."""
    rows, curves, good = [], {}, []
    for subject in subjects:
        limits = subject.limits(iterations)
        limits = limits.take(np.arange(min(16, len(limits))))
        leading = jacobian_eigenvalues(limits, key=key)
        factor, returned = return_test(limits, leading)
        modulus = np.abs(leading.values[:, 0])
        known = np.isfinite(factor)
        agree = (returned == (modulus < 1))[known]
        curves[subject.name] = [
            (float(a), float(b)) for a, b in zip(modulus[known], factor[known], strict=True)
        ]
        rows.append((subject.name, int(known.sum()), _mean(modulus[known]), _mean(factor[known]),
                     int(returned[known].sum()), int(agree.sum())))  # fmt: skip
        good += agree.tolist()
    return Check(
        "A push along the leading eigenvector returns if and only if its eigenvalue is inside the "
        "unit circle",
        bool(np.mean(good) >= 0.95) if good else None,
        f"as predicted in {sum(good)} of {len(good)} fixed points",
        ("model", "fixed points", "|lambda|", "measured factor", "returned", "as predicted"),
        rows,
        curves,
        ("|lambda| of the leading eigenvalue", "measured growth per iteration"),
        (False, False),
        scatter=True,
    )


def check_scan(subjects: Sequence[Subject], *, key: PRNGKeyArray, iterations: int) -> Check:
    """rho(W_x) from 0.5 to 3 for external recall: without outer normalisation it decides."""
    del key
    externals = [
        each for each in subjects if each.recall == "external" and len(each.model.blocks) == 1
    ]
    rows, curves, good = [], {}, []
    for subject in externals:
        for norm in SCANNED:
            curve, name = [], f"{subject.name} as {norm}"
            for radius in RADII:
                model = _rescaled(_placed(subject.model, norm), radius)
                limits = Subject(name, model, subject.inputs).limits(iterations)
                outcomes = limits.outcomes
                growth = float(np.median(limits.sizes[:, -1] / limits.sizes[:, 0]))
                shares = [outcomes.count(o) / len(outcomes) for o in ("converged", "diverged")]
                curve.append((radius, growth if math.isfinite(growth) else math.inf))
                rows.append((name, radius, *shares, growth))
                bounded = outcomes.count("diverged") == 0
                good.append(bounded if norm == "post" or radius < 1 else not bounded)
            curves[name] = curve
    return Check(
        "External recall without outer normalisation diverges where rho(W_x) > 1; with it, it does "
        "not",
        all(good) if good else None,
        f"as predicted in {sum(good)} of {len(good)} settings"
        if good
        else "no external recall in a loop of one block",
        ("model", "rho(W_x)", "converged", "diverged", "|z_T| / |z_1|"),
        rows,
        curves,
        ("rho(W_x)", "|z_T| / |z_1|"),
        (False, True),
    )


def check_gradients(subjects: Sequence[Subject], *, key: PRNGKeyArray, iterations: int) -> Check:
    """The unrolled gradient stays bounded, and becomes the implicit one, as T grows."""
    lengths = [each for each in LENGTHS if each <= iterations]
    rows, curves, good = [], {}, []
    for subject in subjects:
        inputs = subject.inputs[: min(8, len(subject.inputs))]
        wanted = jr.normal(key, inputs.shape[1:], inputs.dtype)
        implicit, converged = _implicit(subject.f, inputs, wanted, iterations)
        flat, there = np.asarray(implicit).reshape(len(inputs), -1), np.asarray(converged)
        curve = []
        for length in lengths:
            unrolled = np.asarray(_unrolled(subject.f, inputs, wanted, length))
            unrolled = unrolled.reshape(len(inputs), -1)
            norms = np.linalg.norm(unrolled, axis=1)
            with np.errstate(divide="ignore", invalid="ignore"):
                cosines = np.sum(unrolled * flat, 1) / norms / np.linalg.norm(flat, axis=1)
            cosine = _mean(cosines[there])
            curve.append((float(length), float(np.median(norms))))
            rows.append((subject.name, length, int(there.sum()), float(np.median(norms)), cosine))
        curves[subject.name] = curve
        if subject.recall != "none" and there.any():
            good.append(rows[-1][-1] > 0.99 and curve[-1][1] < 100 * curve[0][1])
    ends = [row for row in rows if row[1] == lengths[-1]]
    told = "; ".join(f"{name}: cosine {cosine:.3f}" for name, _, _, _, cosine in ends)
    return Check(
        "With recall and outer normalisation the unrolled gradient stays bounded and becomes the "
        "implicit one",
        all(good) if good else None,
        f"after {lengths[-1]} iterations: {told}",
        ("model", "iterations", "converged", "|dL/de| unrolled", "cosine to implicit"),
        rows,
        curves,
        ("iterations gone back through", "|dL/de|"),
    )


CHECKS: dict[str, Callable[..., Check]] = {
    "clusters": check_clusters,
    "sensitivity": check_sensitivity,
    "return": check_return,
    "scan": check_scan,
    "gradients": check_gradients,
}


def _both(without: list[bool], with_recall: list[bool]) -> bool | None:
    """Whether a claim of two halves holds: one that was not measured leaves it open."""
    if not all(without + with_recall):
        return False
    return True if without and with_recall else None


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _rescaled(model: LoopedTransformer, radius: float) -> LoopedTransformer:
    """With W_x scaled to a spectral radius."""

    def weight(model: LoopedTransformer) -> Array:
        recall = model.blocks[0].recall
        assert recall is not None
        return recall.state.weight

    return eqx.tree_at(weight, model, weight(model) * (radius / weight_figures(model)["rho_w_x"]))


def _placed(model: LoopedTransformer, norm: NormKind) -> LoopedTransformer:
    """The same weights under another placement of the norms, whose gains are one."""
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
        key=jr.key(0),
    )
    return eqx.tree_at(lambda m: m.blocks[0].norms, model, other.blocks[0].norms)


@eqx.filter_jit
def _implicit(f: RecurrentMap, inputs: Array, wanted: Array, iterations: int):
    def one(e):
        def objective(e):
            out = equilibrium(
                f, e, e, solver=FixedPoint(rtol=1e-5), gradient=Implicit(), max_steps=iterations
            )
            return jnp.sum(out.state * wanted), out.residual

        gradient, residual = jax.grad(objective, has_aux=True)(e)
        return gradient, residual <= 1e-4

    return jax.vmap(one)(inputs)


@eqx.filter_jit
def _unrolled(f: RecurrentMap, inputs: Array, wanted: Array, length: int) -> Array:
    def objective(e):
        out = equilibrium(f, e, e, solver=Unroll(length), gradient=Backprop())
        return jnp.sum(out.state * wanted)

    return jax.vmap(jax.grad(objective))(inputs)
