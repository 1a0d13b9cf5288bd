"""The gradients of one loop held against each other: direction, size and cost."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._adjoint import AbstractGradient, Backprop, Implicit, Phantom, Truncated
from .._build import construct
from .._cross_entropy import cross_entropy
from .._equilibrium import equilibrium
from .._iteration import Map
from .._model import Output
from .._solution import RESULTS, BackwardReport, Equilibrium
from .._solver import FixedPoint, Solver, Unroll
from ..run import GRADIENTS, AuditedGradient, Comparison, GradientAudit, Likeness

REFERENCES = BACKPROP, CONVERGED = "backprop", "implicit-converged"
"""The names of the two references."""

Model = Callable[..., Output]
Loss = Callable[[Any, Any], Array]
Batch = tuple[PyTree, PyTree]
Start = PyTree | Callable[[PyTree], PyTree]
Progress = Callable[[int, int | None], None]

_ENOUGH = 1.0
"""Seconds of timed runs after which no other begins: a long run is the least disturbed."""


def gradient_audit(
    model: Model | Map,
    batch: Batch,
    *,
    z0: Start | None = None,
    iterations: int = 30,
    gradients: Mapping[str, AbstractGradient] | None = None,
    solver: Solver | None = None,
    loss: Loss | None = None,
    rtol: float = 1e-5,
    max_steps: int = 256,
    repeats: int = 3,
    progress: Progress | None = None,
) -> GradientAudit:
    """Hold gradients against full backpropagation and against the converged implicit gradient.

    All are of the same weights on the same batch: those of a model, or with `z0` those of any map
    `f(z, x)`. The references are

    ```
    backprop             Unroll(iterations), Backprop()
    implicit-converged   FixedPoint(rtol) of at most max_steps, Implicit(rtol)
    ```

    The first is exact for the loop as it was run; the second for the loop run for ever. Where the
    loop has converged and its Jacobian's spectral radius is below one they agree. Whether it has
    is part of the answer: see `GradientAudit.share`.

    When not to use it: for timing on a machine that has other work to do, and for a model whose
    batch in full backpropagation does not fit into memory; take fewer examples then.

    **Arguments:**

    - `model`: a `LoopedTransformer`, or any Equinox module that is called as one and returns an
        `Output`. With `z0` any map `f(z, x)`, whose weights are its arrays: an Equinox module, or
        `jax.tree_util.Partial(f, weights)`.
    - `batch`: inputs `(batch, *grid, channels)` and targets `(batch, *grid)`. With `z0` the inputs
        x of the map and the targets of `loss`, two pytrees of arrays stacked along a first axis.
    - `z0`: the start of a map, a pytree of arrays without the axis of examples; or a function from
        the input of one example to its start. The audit does not differentiate it.
    - `iterations`: of the loop.
    - `gradients`: by name; by default those of `default_gradients`.
    - `solver`: that runs the loop for them (not for the references), in at most `max_steps`; by
        default `Unroll(iterations)`.
    - `loss`: of one example, from logits and targets; by default the mean cross-entropy. With `z0`
        a function `loss(state, target)`, which has no default.
    - `rtol`, `max_steps`: of the converged implicit gradient. In float32 an `rtol` below 1e-6 is
        hardly reached.
    - `repeats`: timed runs of each gradient at most: none begins after a second of them.
    - `progress`: called with the gradients done and their number.

    **Raises** `ValueError` for an argument out of range, for a map without weights, and for a
    solver and a gradient that cannot work together.

    ```python
    >>> import eqloop, jax, jax.numpy as jnp
    >>> def f(w, z, x):
    ...     return jnp.tanh(w @ z + x)
    >>> w = jnp.array([[0.0, 0.5], [-0.5, 0.0]])
    >>> batch = jnp.array([[0.0, 1.0], [1.0, -1.0]]), jnp.ones((2, 2))
    >>> audit = eqloop.gradient_audit(
    ...     jax.tree_util.Partial(f, w), batch, z0=jnp.zeros(2),
    ...     loss=lambda z, target: jnp.sum((z - target) ** 2),
    ...     gradients={"one-step": eqloop.OneStep(), "implicit": eqloop.Implicit()},
    ... )
    >>> print(audit.share)
    1.0
    >>> for name in ("one-step", "implicit"):
    ...     like = audit.gradients[name].total.implicit
    ...     print(f"{name}: cosine {like.cosine:.3f}, size {like.ratio:.3f}")
    one-step: cosine 0.954, size 1.110
    implicit: cosine 1.000, size 1.000

    ```
    """
    auditor = GradientAuditor(
        z0=z0,
        iterations=iterations,
        gradients=gradients,
        solver=solver,
        loss=loss,
        rtol=rtol,
        max_steps=max_steps,
    )
    return auditor(model, batch, repeats=repeats, progress=progress)


def default_gradients(iterations: int) -> dict[str, AbstractGradient]:
    """Each gradient at few and at more terms (fewer than `iterations`): a family is a curve."""
    made: dict[str, AbstractGradient] = {}
    for name, facts in GRADIENTS.items():
        calls = dict(facts.others)
        if facts.family is not None:
            calls |= {f"{name}-{k}": facts.family(k) for k in facts.terms if k < iterations}
        made |= {called: construct(call) for called, call in calls.items()}
    return made


class GradientAuditor:
    """`gradient_audit` for weights that change: what it compiles, it keeps.

    Called with a model and a batch; arguments as for `gradient_audit`. Another model or batch of
    the same shapes compiles nothing.
    """

    def __init__(
        self,
        *,
        iterations: int,
        z0: Start | None = None,
        gradients: Mapping[str, AbstractGradient] | None = None,
        solver: Solver | None = None,
        loss: Loss | None = None,
        rtol: float = 1e-5,
        max_steps: int = 256,
    ):
        for name, value in (("iterations", iterations), ("max_steps", max_steps)):
            if value < 1:
                raise ValueError(f"{name} = {value} must be at least 1")
        if not 0 < rtol < 1:
            raise ValueError(f"rtol = {rtol} must be between 0 and 1")
        if gradients is None:
            gradients = default_gradients(iterations)
        if taken := {*REFERENCES} & gradients.keys():
            raise ValueError(f"gradients: {min(taken)!r} is the name of a reference")
        if loss is None:
            if z0 is not None:
                raise ValueError("loss is missing: with z0 it is a function loss(state, target)")
            loss = cross_entropy
        self.iterations, self.rtol, self.max_steps = iterations, rtol, max_steps
        self.z0 = z0
        solve = _solve_model if z0 is None else _solve_map
        unrolled = Unroll(iterations)
        # Restarts cost GMRES some of what it knows of a Jacobian that is nearly singular.
        exact = Implicit(rtol=rtol, restart=20)
        pairs = {
            BACKPROP: (unrolled, Backprop()),
            CONVERGED: (FixedPoint(rtol=rtol), exact),
            **{name: (solver or unrolled, gradient) for name, gradient in gradients.items()},
        }
        compiled: dict[str, Any] = {}
        self.programs = {
            name: _Program(solve, solver, gradient, loss, max_steps, compiled)
            for name, (solver, gradient) in pairs.items()
        }

    def __call__(
        self, model: Model, batch: Batch, *, repeats: int = 1, progress: Progress | None = None
    ) -> GradientAudit:
        if repeats < 1:
            raise ValueError(f"repeats = {repeats} must be at least 1")
        began = time.perf_counter()
        if not jtu.tree_leaves(eqx.filter(model, eqx.is_inexact_array)):
            raise ValueError(
                "model has no weights to differentiate: its arrays must be its leaves, as those of "
                "an Equinox module or of jax.tree_util.Partial(f, weights)"
            )
        inputs, targets = batch
        size = len(jtu.tree_leaves(inputs)[0])
        if self.z0 is not None:
            inputs = (_starts(self.z0, inputs, size), inputs)
        runs = {}
        for done, (name, program) in enumerate(self.programs.items()):
            if progress is not None:
                progress(done, len(self.programs))
            runs[name] = program.run(model, inputs, targets, size, repeats)
        there = runs[CONVERGED].told
        share = float(np.mean(there.converged & (there.report.fallback == 0)))
        backprop, implicit = runs[BACKPROP].gradient, runs[CONVERGED].gradient
        if not share:
            implicit = {name: np.full_like(leaf, np.nan) for name, leaf in implicit.items()}
        return GradientAudit(
            examples=size,
            iterations=self.iterations,
            rtol=self.rtol,
            max_steps=self.max_steps,
            share=share,
            gradients={name: _judge(run, backprop, implicit) for name, run in runs.items()},
            seconds=time.perf_counter() - began,
        )


class _Told(eqx.Module):
    """What the solves of each example said."""

    evaluations: Int[Array, " batch"]
    residual: Float[Array, " batch"]
    converged: Bool[Array, " batch"]
    report: BackwardReport


@dataclasses.dataclass(frozen=True)
class _Run:
    gradient: dict[str, np.ndarray]
    told: _Told
    seconds: float
    program: "_Program"


class _Program:
    """One gradient, compiled ahead of time at its first run, if its text is not in `known`."""

    def __init__(
        self,
        solve: "_Solve",
        solver: Solver,
        gradient: AbstractGradient,
        loss: Loss,
        max_steps: int,
        known: dict[str, Any],
    ):
        self.gradient, self.known = gradient, known
        self.rest = (solve, solver, gradient, loss, max_steps)
        self.compiled: Any = None
        self.compile_seconds = 0.0

    def run(
        self, model: Model | Map, inputs: PyTree, targets: PyTree, size: int, repeats: int
    ) -> _Run:
        probes = jax.tree.map(lambda a: jnp.zeros(size, a.dtype), BackwardReport.zeros())
        arguments = (model, probes, inputs, targets, *self.rest)
        if self.compiled is None:
            began = time.perf_counter()
            lowered = _differentiate.lower(*arguments)  # pyright: ignore[reportFunctionMemberAccess]
            text = lowered.as_text()
            if text not in self.known:
                self.known[text] = lowered.compile()
            self.compiled = self.known[text]
            self.compile_seconds = time.perf_counter() - began
        times: list[float] = []
        while True:
            began = time.perf_counter()
            found = jax.block_until_ready(self.compiled(*arguments))
            times.append(time.perf_counter() - began)
            if len(times) == repeats or sum(times) > _ENOUGH:
                break
        weights, told = jax.device_get(found)
        return _Run(_named(weights), told, min(times), self)

    @property
    def memory(self) -> int | None:
        planned = self.compiled.compiled.memory_analysis()
        return getattr(planned, "temp_size_in_bytes", None)

    def backward(self, told: _Told) -> tuple[float, float]:
        """`repeated` and `products`, see `AuditedGradient`."""
        solve = float(np.mean(told.report.products))
        if isinstance(self.gradient, Backprop):
            through = float(np.mean(told.evaluations))
            times = 1 if self.gradient.checkpoints is None else 2
        else:
            steps = getattr(self.gradient, "steps", 1)
            through = float(steps if isinstance(self.gradient, Truncated | Phantom) else 1)
            times = 1
        return times * through + (solve > 0), through + solve


_Solve = Callable[..., tuple[PyTree, Output | Equilibrium]]


def _solve_model(model: Model, x: Array, **options: Any) -> tuple[Array, Output]:
    out = model(x, **options)
    return out.logits, out


def _solve_map(f: Map, start_and_x: tuple[PyTree, PyTree], **options: Any):
    out = equilibrium(f, *start_and_x, **options)
    return out.state, out


def _starts(z0: Start, xs: PyTree, size: int) -> PyTree:
    """The starts of `size` examples, stacked."""
    if callable(z0):
        return jax.vmap(z0)(xs)
    return jtu.tree_map(lambda leaf: jnp.broadcast_to(leaf, (size, *jnp.shape(leaf))), z0)


@eqx.filter_jit
def _differentiate(
    model: Model | Map,
    probes: BackwardReport,
    inputs: PyTree,
    targets: PyTree,
    solve: _Solve,
    solver: Solver,
    gradient: AbstractGradient,
    loss: Loss,
    max_steps: int,
) -> tuple[PyTree[Array], _Told]:
    def objective(differentiated):
        model, probes = differentiated

        def one(x, wanted, probe):
            options = {"gradient": gradient, "max_steps": max_steps, "probe": probe}
            answer, out = solve(model, x, solver=solver, **options)
            return loss(answer, wanted), (out.evaluations, out.residual, out.result)

        losses, told = jax.vmap(one)(inputs, targets, probes)
        return jnp.mean(losses), told

    differentiate = eqx.filter_grad(objective, has_aux=True)
    (weights, report), (evaluations, residual, result) = differentiate((model, probes))
    return weights, _Told(evaluations, residual, result == RESULTS.successful, report)


def _named(weights: PyTree) -> dict[str, np.ndarray]:
    """The leaves by their dotted paths, in float64: sums of squares of many small numbers."""
    return {
        jtu.keystr(path, simple=True, separator="."): np.asarray(leaf, np.float64).ravel()
        for path, leaf in jtu.tree_leaves_with_path(weights)
    }


def _judge(
    run: _Run, backprop: Mapping[str, np.ndarray], implicit: Mapping[str, np.ndarray]
) -> AuditedGradient:
    layers: dict[str, list[str]] = {}
    for name in run.gradient:
        layers.setdefault(name.rpartition(".")[0] or name, []).append(name)

    def compare(names: list[str]) -> Comparison:
        mine, one, other = (_joined(each, names) for each in (run.gradient, backprop, implicit))
        return Comparison(float(np.linalg.norm(mine)), _likeness(mine, one), _likeness(mine, other))

    told = run.told
    repeated, products = run.program.backward(told)
    solved = bool(np.any(told.report.products > 0))
    return AuditedGradient(
        total=compare(list(run.gradient)),
        layers={layer: compare(names) for layer, names in layers.items()},
        seconds=run.seconds,
        compile_seconds=run.program.compile_seconds,
        evaluations=float(np.mean(told.evaluations)),
        repeated=repeated,
        products=products,
        memory=run.program.memory,
        residual=float(np.mean(told.residual)),
        converged=float(np.mean(told.converged)),
        backward_residual=float(np.mean(told.report.residual)) if solved else None,
        fallback=float(np.mean(told.report.fallback)),
    )


def _joined(leaves: Mapping[str, np.ndarray], names: list[str]) -> np.ndarray:
    return np.concatenate([leaves[name] for name in names])


def _likeness(g: np.ndarray, r: np.ndarray) -> Likeness:
    mine, other = float(np.linalg.norm(g)), float(np.linalg.norm(r))
    if not mine * other > 0:
        return Likeness(np.nan, np.nan if not other > 0 else mine / other)
    return Likeness(float(np.dot(g, r)) / (mine * other), mine / other)
