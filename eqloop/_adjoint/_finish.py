"""From the last two iterates to a result."""

import jax.numpy as jnp
from jaxtyping import PyTree

from .._iteration import Count, stop_gradient
from .._norms import relative_residual
from .._solution import RESULTS, Equilibrium
from .._solver import Solver, Unroll


def finish(
    previous: PyTree, state: PyTree, steps: Count, solver: Solver, result: RESULTS | None
) -> Equilibrium:
    """`state = f(previous)`: measure its residual and say how the loop ended.

    `Unroll` has converged where the residual is at most its `rtol`; another solver has said for
    itself. Whatever it said, a residual that is not finite is `RESULTS.nonfinite`.
    """
    residual = relative_residual(*stop_gradient((state, previous)))
    if result is None or isinstance(solver, Unroll):
        assert isinstance(solver, Unroll)
        result = RESULTS.where(residual <= solver.rtol, RESULTS.successful, RESULTS.not_converged)
    nonfinite = RESULTS.nonfinite
    result = RESULTS.where(jnp.isfinite(residual), result, nonfinite)  # pyright: ignore[reportArgumentType]
    return Equilibrium(state=state, steps=jnp.asarray(steps), residual=residual, result=result)
