"""The one way in which a loop is run."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.core import Tracer
from jaxtyping import PyTree

from ._adjoint import AbstractGradient, Backprop, Implicit
from ._closed_map import ClosedMap, as_array, close
from ._iteration import Count, python_int
from ._solution import BackwardReport, Equilibrium
from ._solver import Solver, Unroll

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
    """Iterate `z <- f(z, x)` from `z0` by a solver, so that it is differentiated by a gradient.

    Written for one example: `jax.vmap` it for a batch, and each example gets its own steps,
    residual and result and stops changing once it has converged. Outside of `jax.jit` it compiles
    itself, once for all f that trace to the same operations.

    **Arguments:**

    - `f`: any function of a state and an input, both pytrees of arrays. Arrays of its own get
        gradients too: those of an Equinox module, or those that a function closes over, however it
        is wrapped. It is traced at every call, so that they are those of this call.
    - `z0`: the initial state, float32 or float64 (f may compute in bfloat16 inside).
    - `x`: the input; what does not change over the loop.
    - `solver`: `Unroll`, `FixedPoint`, `Anderson`, `Broyden`, `NewtonKrylov`, `Chord`,
        `SteadyState`, or any fixed-point solver or root-finder of Optimistix that needs
        no interval.
    - `gradient`: `Backprop`, `Truncated`, `OneStep`, `Phantom`, `Neumann` or `Implicit`. By
        default `Backprop` for `Unroll` and `Implicit` for all others.
    - `max_steps`: bounds the steps of a solver that converges; `Unroll` has its own. It may be
        traced, so that another bound compiles no other program (not for `Backprop`, nor for a
        solver of Optimistix).
    - `probe`: `BackwardReport.zeros()`; its gradient reports on the backward solve.

    **Returns:**

    An `Equilibrium`: state, steps, evaluations, relative residual, result. Not converging is never
    an exception: look at `result`.

    **Raises** `ValueError` for a combination that cannot work, when tracing.
    """
    if gradient is None:
        gradient = Backprop() if isinstance(solver, Unroll) else Implicit()
    if not isinstance(solver, Solver):
        raise ValueError(f"solver = {solver!r} is not a solver: make one, as in eqloop.Anderson()")
    if not isinstance(gradient, AbstractGradient):
        raise ValueError(
            f"gradient = {gradient!r} is not a gradient: make one, as in eqloop.Implicit()"
        )
    max_steps = python_int(max_steps)
    if isinstance(max_steps, int) and max_steps < 1:
        raise ValueError(f"max_steps = {max_steps} must be at least 1")
    z0 = jtu.tree_map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), z0)
    x = jtu.tree_map(as_array, x)
    closed = _closed(f, z0, x)
    if isinstance(jnp.zeros(()), Tracer):  # within a program that is compiled as a whole
        return _run(gradient, closed, z0, x, solver, max_steps, probe)
    return _compiled_run(gradient, closed, z0, x, solver, max_steps, probe)


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
    returned, wanted = (jtu.tree_map(_described, tree) for tree in (closed.returned, z0))
    # Not the trees themselves: an `OrderedDict` equals a dict.
    if jtu.tree_flatten(returned) != jtu.tree_flatten(wanted):
        raise ValueError(f"f returns {returned} for a state z0 of {wanted}: they must be alike")
    return closed


def _described(leaf: Any) -> str:
    is_array = hasattr(leaf, "dtype")
    return f"{leaf.dtype}{list(leaf.shape)}" if is_array else f"{type(leaf).__name__} {leaf}"
