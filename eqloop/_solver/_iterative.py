"""The interface of solvers that stop at a tolerance, and the loop that runs them."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import optimistix as optx
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._iteration import Count, Scalar, python_int
from .._norms import relative, two_norm
from .._solution import RESULTS, select
from ._traced import check_not_negative

Norm = Callable[[PyTree], Float[Array, ""]]


class Iterate(eqx.Module):
    """An iterate and the value of the map there, as a solver sees them.

    **Attributes:**

    - `z`: the iterate.
    - `value`: `f(z)`.
    - `residual`: `|f(z) - z| / |f(z)|`, in the solver's norm; a scalar.
    - `steps`: the number of steps that this example made before this one.
    - `count`: a step counter shared by all examples under `vmap`, so `count % memory` indexes a
        ring buffer without a scatter. An example that replaces another one in a running batch
        starts at `steps = 0` with any `count`.
    - `converged`: whether this example has converged, here or earlier.
    """

    z: PyTree
    value: PyTree
    residual: Float[Array, ""]
    steps: Int[Array, ""]
    count: Int[Array, ""]
    converged: Bool[Array, ""]


class Proposal(eqx.Module):
    """What a solver returns from one step.

    **Attributes:**

    - `z`: the next iterate.
    - `state`: the solver's state for the next step, a pytree of arrays.
    - `evaluations`: evaluations of f and products with its Jacobian that this step made, besides
        the one that gave `Iterate.value`.
    """

    z: PyTree
    state: PyTree
    evaluations: Count


class SolveState(eqx.Module):
    """The state of a running solve.

    **Attributes:**

    - `state`: the solver's own state; see `AbstractSolver.start`.
    - `best`: the iterate that met the tolerance; until then, the one of lowest relative residual.
    - `best_step`: the number of steps made before `best` was evaluated, which led to it.
    - `residual`: the relative residual of `best`.
    - `steps`, `evaluations`: numbers of steps, and of evaluations of f.
    - `curve`: relative residuals of the first steps.
    - `converged`: whether the tolerance was met.
    - `done`: whether the solve has ended, converged or not.
    - `count`: the step counter that all examples of a batch share.
    """

    state: PyTree
    best: PyTree
    best_step: Int[Array, ""]
    residual: Float[Array, ""]
    steps: Int[Array, ""]
    evaluations: Int[Array, ""]
    curve: Float[Array, " curve"]
    converged: Bool[Array, ""]
    done: Bool[Array, ""]
    count: Int[Array, ""]


class AbstractSolver(optx.AbstractFixedPointSolver):
    """A solver of `z = f(z, x)` that stops at a tolerance. A new solver is one file with two
    methods, `start` and `propose`.

    A solve has converged when `|f(z) - z| <= atol + rtol |f(z)|`, and returns that iterate; a
    solve that fails returns the iterate of lowest relative residual. Under `vmap` the batch runs
    until every example has stopped; an example that has stopped no longer changes, so that its
    result does not depend on the rest of the batch.

    It also works in `optimistix.fixed_point`, where `stats` holds `evaluations`, `residual` and
    `curve`. A new solver declares the first four attributes as fields, with defaults.

    **Attributes:**

    - `rtol`: relative tolerance. Float32 rarely reaches values below 1e-6. Changing it does not
        recompile.
    - `atol`: absolute tolerance, in the units of the norm. Changing it does not recompile.
    - `norm`: maps a state to a number: `two_norm`, `largest_cell_norm`, or any function of a
        pytree.
    - `curve`: number of first steps whose relative residuals are returned, in an array of this
        length; NaN after the last step.
    - `min_steps`: the tolerance is not tested before this step, so that a solve takes at least
        this number of steps. Every solver has this keyword argument.

    **Raises** `ValueError` for a tolerance that is negative or NaN, and for `min_steps` below 1.

    ```python
    >>> import eqloop, equinox as eqx, jax.numpy as jnp
    >>> class Halfway(eqloop.AbstractSolver):
    ...     rtol: float = 1e-3
    ...     atol: float = 0.0
    ...     norm: object = eqx.field(default=eqloop.two_norm, static=True)
    ...     curve: int = eqx.field(default=0, static=True)
    ...     def start(self, f, z):
    ...         return ()                               # it remembers nothing
    ...     def propose(self, f, at, state):
    ...         return eqloop.Proposal((at.z + at.value) / 2, state, evaluations=0)
    >>> f = lambda z, x: -z + x                         # cycles under plain iteration
    >>> eq = eqloop.equilibrium(f, jnp.zeros(()), jnp.ones(()), solver=Halfway())
    >>> print(eq.state)
    0.5

    ```
    """

    rtol: eqx.AbstractVar[Scalar]  # pyright: ignore[reportIncompatibleVariableOverride]
    atol: eqx.AbstractVar[Scalar]  # pyright: ignore[reportIncompatibleVariableOverride]
    norm: eqx.AbstractVar[Norm]
    curve: eqx.AbstractVar[int]
    min_steps: int = eqx.field(default=1, static=True, kw_only=True, converter=python_int)

    def __check_init__(self):
        check_not_negative(self, "rtol", "atol")
        if self.min_steps < 1:
            name = type(self).__name__
            raise ValueError(f"{name}: min_steps = {self.min_steps} must be at least 1")

    followed: ClassVar[bool] = True
    """Whether `Backprop` can differentiate its steps."""

    @abc.abstractmethod
    def start(self, f: Callable[[PyTree], PyTree], z: PyTree) -> PyTree:
        """Return the solver's state before the first step: a pytree of arrays.

        **Arguments:**

        - `f`: the map, of the state alone.
        - `z`: the initial iterate.
        """

    @abc.abstractmethod
    def propose(self, f: Callable[[PyTree], PyTree], at: Iterate, state: PyTree) -> Proposal:
        """Return the next iterate. An iterate that is not finite ends the solve.

        **Arguments:**

        - `f`: the map, of the state alone.
        - `at`: the current iterate and its value.
        - `state`: what `start` or the last `propose` returned.
        """

    def explain(self, state: PyTree) -> RESULTS:
        """Return the result of a solve that ran out of steps, by the solver's last `state`."""
        del state
        return RESULTS.not_converged  # pyright: ignore[reportReturnType]

    def begin(self, f: Callable, z: PyTree) -> SolveState:
        """Return the state of a solve before its first step."""
        norm_struct = jax.eval_shape(self.norm, z)
        zero, false = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        return SolveState(
            state=self.start(f, z),
            best=z,
            best_step=zero,
            residual=jnp.full((), jnp.inf, norm_struct.dtype),
            steps=zero,
            evaluations=zero,
            # Made by NumPy: `jax_debug_nans` rejects a JAX operation whose output is NaN.
            curve=jnp.asarray(np.full((self.curve,), np.nan, norm_struct.dtype)),
            converged=false,
            done=false,
            count=zero,
        )

    def advance(self, f: Callable, z: PyTree, solve: SolveState) -> tuple[PyTree, SolveState]:
        """Make one step: evaluate f at z, record the residual, and move to the proposed iterate."""
        value = f(z)
        error, size, residual = relative(*jax.lax.stop_gradient((value, z)), self.norm)
        rtol, atol = (jnp.asarray(tolerance, error.dtype) for tolerance in (self.rtol, self.atol))
        converged = (error <= atol + rtol * size) & jnp.isfinite(residual)
        if self.min_steps > 1:
            converged &= solve.steps + 1 >= self.min_steps
        proposal = self.propose(
            f,
            Iterate(z, value, residual, solve.steps, solve.count, solve.done | converged),
            solve.state,
        )
        live = jnp.logical_not(solve.done)
        # With an absolute tolerance, the iterate that meets it need not have the lowest relative
        # residual. A NaN compares as False, so it never becomes the best residual.
        better = live & (converged | (residual < solve.residual))
        finite = jnp.isfinite(self.norm(jax.lax.stop_gradient(proposal.z)))
        stops = converged | jnp.logical_not(finite)
        # Do not count evaluations of a discarded proposal: whether they happened depends on the
        # rest of the batch (solvers skip expensive work once everything has converged).
        further = jnp.where(converged, 0, jnp.asarray(proposal.evaluations, jnp.int32))
        is_this_step = live & (jnp.arange(self.curve, dtype=jnp.int32) == solve.steps)
        return choose(live & jnp.logical_not(stops), proposal.z, z), SolveState(
            state=proposal.state,
            best=choose(better, z, solve.best),
            best_step=jnp.where(better, solve.steps, solve.best_step),
            residual=jnp.where(better, residual, solve.residual),
            steps=solve.steps + live.astype(jnp.int32),
            evaluations=solve.evaluations + jnp.where(live, 1 + further, 0),
            curve=jnp.where(is_this_step, residual, solve.curve),
            converged=solve.converged | (live & converged),
            done=solve.done | stops,
            count=solve.count + 1,
        )

    def result(self, solve: SolveState) -> RESULTS:
        """Return how the solve ended."""
        failed = select(solve.done, RESULTS.nonfinite, self.explain(solve.state))
        return select(solve.converged, RESULTS.successful, failed)

    # --- the interface of Optimistix

    def init(self, fn, y, args, options, f_struct, aux_struct, tags) -> SolveState:
        return self.begin(lambda z: fn(z, args)[0], y)

    def step(self, fn, y, args, options, state, tags) -> tuple[PyTree, SolveState, Any]:
        y_next, state = self.advance(lambda z: fn(z, args)[0], y, state)
        return y_next, state, fn(y, args)[1]

    def terminate(self, fn, y, args, options, state, tags) -> tuple[Bool[Array, ""], optx.RESULTS]:
        # Optimistix itself checks for inf and NaN.
        return state.done, optx.RESULTS.successful

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        stats = {name: getattr(state, name) for name in ("evaluations", "residual", "curve")}
        return state.best, aux, stats


def choose(condition: Bool[Array, ""], a: PyTree, b: PyTree) -> PyTree:
    """`a` if the condition holds, else `b`, leaf by leaf."""
    return jtu.tree_map(lambda x, y: jnp.where(condition, x, y), a, b)


def iterate(
    f: Callable, solver: AbstractSolver, z: PyTree, *, max_steps: Count
) -> tuple[PyTree, SolveState]:
    """Step the solver until every example is done, or for `max_steps` steps (may be traced).

    The loop of Optimistix evaluates its stopping test per example, so that `vmap` copies the whole
    state of the solver, history included, at each step. Here one test serves the batch, and
    `AbstractSolver.advance` freezes the examples that are done.

    **Returns:**

    The last iterate and the state of the solve, which holds the best one.
    """
    z, solve, _ = iterate_watched(f, solver, z, None, lambda seen, *_: seen, max_steps=max_steps)
    return z, solve


def iterate_watched(
    f: Callable,
    solver: AbstractSolver,
    z: PyTree,
    seen: PyTree,
    watch: Callable[[PyTree, PyTree, SolveState, SolveState], PyTree],
    *,
    max_steps: Count,
) -> tuple[PyTree, SolveState, PyTree]:
    """`iterate`, which also returns what `watch` has made of `seen`: at each step it is called with
    `seen`, the iterate before the step, and the states of the solve before and after it."""
    solve, static = eqx.partition(solver.begin(f, z), eqx.is_array)

    def any_live(carry):
        _, solve, _ = carry
        return eqxi.unvmap_any(jnp.logical_not(solve.done)) & (solve.count < max_steps)

    def body(carry):
        z, solve, seen = carry
        before = eqx.combine(solve, static)
        z_next, after = solver.advance(f, z, before)
        return z_next, eqx.filter(after, eqx.is_array), watch(seen, z, before, after)

    z, solve, seen = jax.lax.while_loop(any_live, body, (z, solve, seen))
    return z, eqx.combine(solve, static), seen


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether every number of every leaf is finite, reduced to a single scalar via the norm."""
    return jnp.isfinite(two_norm(tree))


def newest(slot: Int[Array, ""], memory: int, used: Int[Array, ""]) -> Bool[Array, " memory"]:
    """Mask of the `used` most recent rows of a ring buffer of `memory` rows whose newest row is
    `slot`."""
    return (slot - jnp.arange(memory, dtype=slot.dtype)) % memory < used
