"""Compare gradients of one loop: direction, norm and cost."""

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

BACKPROP, CONVERGED = "backprop", "implicit-converged"
REFERENCES = BACKPROP, CONVERGED
"""The names of the two references."""

Model = Callable[..., Output]
Loss = Callable[[Any, Any], Array]
Batch = tuple[PyTree, PyTree]
Start = PyTree | Callable[[PyTree], PyTree]
Progress = Callable[[int, int | None], None]

_ENOUGH = 1.0
"""Stop repeating after this many seconds of timed runs; long runs need fewer repeats."""


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
    """Compare gradients with full backpropagation and with the converged implicit gradient.

    All gradients are of the same weights on the same batch: the weights of a model or, with `z0`,
    of any map `f(z, x)`. The references are

    ```
    backprop             Unroll(iterations), Backprop()
    implicit-converged   FixedPoint(rtol) of at most max_steps, Implicit(rtol)
    ```

    The first is exact for the finite loop, the second for its limit. They agree if the loop has
    converged and the spectral radius of its Jacobian is below one. `GradientAudit.share` says for
    how many examples it has converged.

    When not to use it: for timings on a busy machine, or if full backpropagation on the batch does
    not fit into memory; use fewer examples then.

    **Arguments:**

    - `model`: a `LoopedTransformer`, or any Equinox module with its call signature that returns an
        `Output`. With `z0` any map `f(z, x)`, whose weights are its arrays: an Equinox module, or
        `jax.tree_util.Partial(f, weights)`.
    - `batch`: inputs `(batch, *grid, channels)` and targets `(batch, *grid)`. With `z0` the inputs
        x of the map and the targets of `loss`, two pytrees of arrays stacked along a first axis.
    - `z0`: the start of a map, a pytree of arrays without the axis of examples; or a function from
        the input of one example to its start. The audit does not differentiate it.
    - `iterations`: number of iterations of the loop.
    - `gradients`: name -> gradient; by default `default_gradients(iterations)`.
    - `solver`: the solver of the loop for `gradients` (not for the references), with at most
        `max_steps` steps; by default `Unroll(iterations)`.
    - `loss`: function `(logits, targets) -> loss` of one example; by default the mean
        cross-entropy. With `z0` a function `loss(state, target)`, which has no default.
    - `rtol`: tolerance of the converged implicit gradient. In float32 solvers rarely reach an
        `rtol` below 1e-6.
    - `max_steps`: maximum number of steps of the converged implicit gradient.
    - `repeats`: maximum number of timed runs of each gradient; no run begins after one second of
        timing.
    - `progress`: called with the number of finished gradients and the total number.

    **Returns** a `GradientAudit`.

    **Raises** `ValueError` for an argument out of range, for a map without weights, and for a
    solver and a gradient that cannot be combined.

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
    """The gradients that `gradient_audit` compares by default: each family with several numbers of
    terms below `iterations`.

    **Arguments:**

    - `iterations`: number of iterations of the loop.

    **Returns** name -> gradient.

    ```python
    >>> import eqloop
    >>> sorted(eqloop.default_gradients(2))[:2]
    ['implicit', 'implicit-anderson']

    ```
    """
    gradients: dict[str, AbstractGradient] = {}
    for name, facts in GRADIENTS.items():
        calls = dict(facts.others)
        if facts.family is not None:
            calls |= {f"{name}-{k}": facts.family(k) for k in facts.terms if k < iterations}
        gradients |= {called: construct(call) for called, call in calls.items()}
    return gradients


class GradientAuditor:
    """`gradient_audit` for weights that change, with cached compiled programs.

    Call it with a model and a batch, and optionally `repeats` (1 by default) and `progress`.
    Another model or batch of the same shapes does not recompile.

    **Arguments:**

    - `iterations`, `z0`, `gradients`, `solver`, `loss`, `rtol`, `max_steps`: see `gradient_audit`.

    **Raises** `ValueError` as `gradient_audit`.

    ```python
    >>> import eqloop, jax, jax.numpy as jnp
    >>> auditor = eqloop.GradientAuditor(
    ...     iterations=30, z0=jnp.zeros(1), gradients={"one-step": eqloop.OneStep()},
    ...     loss=lambda z, target: jnp.sum((z - target) ** 2),
    ... )
    >>> batch = jnp.ones((1, 1)), jnp.zeros((1, 1))
    >>> for w in (0.1, 0.5):
    ...     f = jax.tree_util.Partial(lambda w, z, x: w * z + x, jnp.array(w))
    ...     ratio = auditor(f, batch).gradients["one-step"].total.implicit.ratio
    ...     print(f"w = {w}: size {ratio:.2f}")
    w = 0.1: size 0.90
    w = 0.5: size 0.50

    ```
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
        if reserved := {*REFERENCES} & gradients.keys():
            raise ValueError(f"gradients: {min(reserved)!r} is the name of a reference")
        if loss is None:
            if z0 is not None:
                raise ValueError("loss is missing: with z0 it is a function loss(state, target)")
            loss = cross_entropy
        self.iterations, self.rtol, self.max_steps = iterations, rtol, max_steps
        self.z0 = z0
        solve = _solve_model if z0 is None else _solve_map
        unrolled = Unroll(iterations)
        # A restart loses information about a nearly singular Jacobian, so restart rarely.
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
        start = time.perf_counter()
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
        for number, (name, program) in enumerate(self.programs.items()):
            if progress is not None:
                progress(number, len(self.programs))
            runs[name] = program.run(model, inputs, targets, size, repeats)
        if progress is not None:
            progress(len(self.programs), len(self.programs))
        solves = runs[CONVERGED].solves
        share = float(np.mean(solves.converged & (solves.report.fallback == 0)))
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
            seconds=time.perf_counter() - start,
        )


class _Solves(eqx.Module):
    """The results of the forward and backward solves of each example."""

    evaluations: Int[Array, " batch"]
    residual: Float[Array, " batch"]
    converged: Bool[Array, " batch"]
    report: BackwardReport


@dataclasses.dataclass(frozen=True)
class _Run:
    gradient: dict[str, np.ndarray]
    solves: _Solves
    seconds: float
    program: "_Program"


class _Program:
    """One (solver, gradient) pair, compiled ahead of time on first use. Pairs that lower to the
    same HLO, the key of `executables`, share an executable."""

    def __init__(
        self,
        solve: "_Solve",
        solver: Solver,
        gradient: AbstractGradient,
        loss: Loss,
        max_steps: int,
        executables: dict[str, Any],
    ):
        self.gradient, self.executables = gradient, executables
        self.static = (solve, solver, gradient, loss, max_steps)
        self.compiled: Any = None
        self.compile_seconds = 0.0

    def run(
        self, model: Model | Map, inputs: PyTree, targets: PyTree, size: int, repeats: int
    ) -> _Run:
        probes = jax.tree.map(lambda a: jnp.zeros(size, a.dtype), BackwardReport.zeros())
        arguments = (model, probes, inputs, targets, *self.static)
        if self.compiled is None:
            start = time.perf_counter()
            lowered = _differentiate.lower(*arguments)  # pyright: ignore[reportFunctionMemberAccess]
            text = lowered.as_text()
            if text not in self.executables:
                self.executables[text] = lowered.compile()
            self.compiled = self.executables[text]
            self.compile_seconds = time.perf_counter() - start
        times: list[float] = []
        while True:
            start = time.perf_counter()
            outputs = jax.block_until_ready(self.compiled(*arguments))
            times.append(time.perf_counter() - start)
            if len(times) == repeats or sum(times) > _ENOUGH:
                break
        weights, solves = jax.device_get(outputs)
        return _Run(_leaves_by_path(weights), solves, min(times), self)

    @property
    def memory(self) -> int | None:
        planned = self.compiled.compiled.memory_analysis()
        return getattr(planned, "temp_size_in_bytes", None)

    def backward(self, solves: _Solves) -> tuple[float, float]:
        """The counts `repeated` and `products` of `AuditedGradient`."""
        solve = float(np.mean(solves.report.products))
        if isinstance(self.gradient, Backprop):
            through = float(np.mean(solves.evaluations))
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
) -> tuple[PyTree[Array], _Solves]:
    def objective(differentiated):
        model, probes = differentiated

        def loss_of_example(x, target, probe):
            options = {"gradient": gradient, "max_steps": max_steps, "probe": probe}
            answer, out = solve(model, x, solver=solver, **options)
            return loss(answer, target), (out.evaluations, out.residual, out.result)

        losses, solves = jax.vmap(loss_of_example)(inputs, targets, probes)
        return jnp.mean(losses), solves

    differentiate = eqx.filter_grad(objective, has_aux=True)
    (weights, report), (evaluations, residual, result) = differentiate((model, probes))
    return weights, _Solves(evaluations, residual, result == RESULTS.successful, report)


def _leaves_by_path(weights: PyTree) -> dict[str, np.ndarray]:
    """Dotted path -> leaf, in float64, for accurate sums of squares of many small numbers."""
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
        g, r, s = (_joined(leaves, names) for leaves in (run.gradient, backprop, implicit))
        return Comparison(float(np.linalg.norm(g)), _likeness(g, r), _likeness(g, s))

    solves = run.solves
    repeated, products = run.program.backward(solves)
    solved = bool(np.any(solves.report.products > 0))
    return AuditedGradient(
        total=compare(list(run.gradient)),
        layers={layer: compare(names) for layer, names in layers.items()},
        seconds=run.seconds,
        compile_seconds=run.program.compile_seconds,
        evaluations=float(np.mean(solves.evaluations)),
        repeated=repeated,
        products=products,
        memory=run.program.memory,
        residual=float(np.mean(solves.residual)),
        converged=float(np.mean(solves.converged)),
        backward_residual=float(np.mean(solves.report.residual)) if solved else None,
        fallback=float(np.mean(solves.report.fallback)),
    )


def _joined(leaves: Mapping[str, np.ndarray], names: list[str]) -> np.ndarray:
    return np.concatenate([leaves[name] for name in names])


def _likeness(g: np.ndarray, r: np.ndarray) -> Likeness:
    g_norm, r_norm = float(np.linalg.norm(g)), float(np.linalg.norm(r))
    if not g_norm * r_norm > 0:
        return Likeness(np.nan, np.nan if not r_norm > 0 else g_norm / r_norm)
    return Likeness(float(np.dot(g, r)) / (g_norm * r_norm), g_norm / r_norm)
