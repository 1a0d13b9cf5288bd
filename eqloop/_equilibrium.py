"""`equilibrium`: solve a loop with any solver and differentiate it with any gradient."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.core import Tracer
from jaxtyping import PyTree

from ._adjoint import AbstractGradient, Backprop, Implicit
from ._closed_map import ClosedMap, as_array, close
from ._iteration import Count, halted, python_int
from ._solution import BackwardReport, Equilibrium
from ._solver import AbstractSolver, Solver, Unroll

Z = TypeVar("Z", bound=PyTree)
X = TypeVar("X", bound=PyTree)


def equilibrium(
    f: Callable[[Z, X], Z],
    z0: Z,
    x: X,
    *,
    solver: Solver,
    gradient: AbstractGradient | None = None,
    max_steps: Count = 256,
    probe: BackwardReport | None = None,
) -> Equilibrium[Z]:
    """Solve `z = f(z, x)` from `z0` with a solver; differentiate the result with a gradient.

    Written for one example: `jax.vmap` it for a batch. Each example then has its own steps,
    residual and result, and stops changing once it has converged. Outside of `jax.jit` it compiles
    itself, once for all functions f that trace to the same operations.

    **Arguments:**

    - `f`: any function of a state and an input, both pytrees of arrays, that returns the next
        state. Its own arrays get gradients too, whether they are leaves of an Equinox module or
        closed over. f is traced at every call, so that it uses their current values.
    - `z0`: the initial state, a pytree of float32 or float64 arrays (f may compute in bfloat16
        inside).
    - `x`: the input, a pytree that stays constant over the loop.
    - `solver`: `Unroll`, `FixedPoint`, `Anderson`, `Broyden`, `NewtonKrylov`, `Chord`,
        `Reversible`, `SteadyState`, or any fixed-point solver or root-finder of Optimistix that
        needs no interval.
    - `gradient`: `Backprop`, `Truncated`, `OneStep`, `Phantom`, `Neumann` or `Implicit`. The
        default is `Backprop` for `Unroll` and `Implicit` for any other solver.
    - `max_steps`: maximum number of steps of a solver that stops at a tolerance; `Unroll` ignores
        it. A traced value can change without recompiling (not with `Backprop`, nor with a solver
        of Optimistix).
    - `probe`: `BackwardReport.zeros()`; the gradient with respect to it reports on the backward
        solve.

    **Returns:**

    An `Equilibrium`: state (a pytree like `z0`), steps, evaluations, relative residual, result. A
    solve that does not converge does not raise: check `result`.

    **Raises** `ValueError` when tracing: if `solver` or `gradient` is not an object of its kind; if
    `max_steps` is below 1 or below the `min_steps` of the solver; if `z0` has no elements, or an
    array that is not float32 or float64; if f does not return a pytree like `z0`; and if solver
    and gradient do not go together (see the gradient).

    ```python
    >>> import eqloop, jax, jax.numpy as jnp
    >>> w = jnp.array([[0.0, 0.5], [-0.5, 0.0]])
    >>> def solve(x):
    ...     f, z0 = lambda z, x: jnp.tanh(w @ z + x), jnp.zeros(2)
    ...     return eqloop.equilibrium(f, z0, x, solver=eqloop.FixedPoint(rtol=1e-6))
    >>> xs = jnp.array([[0.0, 0.0], [1.0, -1.0], [2.0, 0.0]])
    >>> batch = jax.vmap(solve)(xs)
    >>> print(batch.state.shape, bool(jnp.all(batch.residual <= 1e-6)))
    (3, 2) True

    ```
    """
    if gradient is None:
        gradient = default_gradient(solver)
    if not isinstance(solver, Solver):
        raise ValueError(f"solver = {solver!r} is not a solver: make one, as in eqloop.Anderson()")
    if not isinstance(gradient, AbstractGradient):
        raise ValueError(
            f"gradient = {gradient!r} is not a gradient: make one, as in eqloop.Implicit()"
        )
    max_steps = python_int(max_steps)
    if isinstance(max_steps, int) and max_steps < 1:
        raise ValueError(f"max_steps = {max_steps} must be at least 1")
    least = solver.min_steps if isinstance(solver, AbstractSolver) else 1
    if isinstance(max_steps, int) and max_steps < least:
        raise ValueError(f"max_steps = {max_steps} must be at least min_steps = {least}")
    z0 = jtu.tree_map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), z0)
    x = jtu.tree_map(as_array, x if isinstance(solver, Unroll) else halted(x))
    closed = _closed(f, z0, x)
    if isinstance(jnp.zeros(()), Tracer):  # inside of `jax.jit`, which compiles the whole
        return _run(gradient, closed, z0, x, solver, max_steps, probe)
    return _compiled_run(gradient, closed, z0, x, solver, max_steps, probe)


def default_gradient(solver: Solver) -> AbstractGradient:
    """The gradient of a loop that names none: exact for its iterations, or for its fixed point."""
    return Backprop() if isinstance(solver, Unroll) else Implicit()


def _run(
    gradient: AbstractGradient,
    f: ClosedMap,
    z0: PyTree,
    x: PyTree,
    solver: Solver,
    max_steps: Count,
    probe: BackwardReport | None,
) -> Equilibrium:
    return gradient.run(f, z0, x, solver, max_steps=max_steps, probe=probe)


_compiled_run = eqx.filter_jit(_run)


def _closed(f: Callable, z0: PyTree, x: PyTree) -> ClosedMap:
    for leaf in jtu.tree_leaves(z0):
        if not jnp.issubdtype(leaf.dtype, jnp.floating) or jnp.finfo(leaf.dtype).bits < 32:
            raise ValueError(
                f"z0 is {leaf.dtype}: a solver's state must be float32 or float64; cast inside f"
            )
    if not sum(leaf.size for leaf in jtu.tree_leaves(z0)):
        raise ValueError(f"z0 = {eqx.tree_pformat(z0)} has no elements: there is nothing to solve")
    closed = close(f, z0, x)
    returned, expected = (jtu.tree_map(_described, tree) for tree in (closed.returned, z0))
    # Compare flattened trees: an `OrderedDict` equals a dict, but has another structure.
    if jtu.tree_flatten(returned) != jtu.tree_flatten(expected):
        raise ValueError(f"f returns {returned} for a state z0 of {expected}: they must be alike")
    return closed


def _described(leaf: Any) -> str:
    is_array = hasattr(leaf, "dtype")
    return f"{leaf.dtype}{list(leaf.shape)}" if is_array else f"{type(leaf).__name__} {leaf}"
