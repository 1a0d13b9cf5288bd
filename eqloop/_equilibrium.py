"""The one way in which a loop is run."""

from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import PyTree

from ._adjoint import AbstractGradient, Backprop, Implicit
from ._iteration import Count
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
    residual and result and stops changing once it has converged.

    **Arguments:**

    - `f`: any function of a state and an input, both pytrees of arrays. Arrays of its own get
        gradients too: those of an Equinox module, or those that a function closes over.
    - `z0`: the initial state, float32 or float64 (f may compute in bfloat16 inside).
    - `x`: the input; what does not change over the loop.
    - `solver`: `Unroll`, `FixedPoint`, `Anderson`, `Broyden`, `NewtonKrylov`, `Chord`,
        `SteadyState`, or any fixed-point solver or root-finder of Optimistix.
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
    for leaf in jtu.tree_leaves(z0):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating) or jnp.finfo(dtype).bits < 32:
            raise ValueError(
                f"z0 is {dtype}: a solver's state must be float32 or float64; cast inside f"
            )
    if gradient is None:
        gradient = Backprop() if isinstance(solver, Unroll) else Implicit()
    if not isinstance(f, eqx.Module):
        # Arrays that a plain function closes over become visible to differentiation.
        f = eqx.filter_closure_convert(f, z0, x)
    return gradient.run(f, z0, x, solver, max_steps=max_steps, probe=probe)
