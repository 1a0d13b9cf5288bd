"""From the last evaluation to a result."""

import jax.numpy as jnp
from jaxtyping import PyTree

from .._iteration import Count, stop_gradient, with_derivatives_of
from .._norms import relative
from .._solution import RESULTS, Equilibrium
from .._solver import Approach, Solver, Unroll, choose


def finish(
    value: PyTree,
    z: PyTree,
    state: PyTree,
    solver: Solver,
    reached: Approach,
    more: Count,
) -> Equilibrium:
    """`value = f(z)` is the last of `more` evaluations after what the solver `reached`: measure
    its residual and say how the loop ended.

    Returned are the value of z, of which the residual is, and the derivative of `state`; for
    `Unroll`, all of `state`.

    `Unroll` has converged where the residual is at most its `rtol`; another solver has said for
    itself, but where it was successful and further iterations have led out of its tolerance again,
    the result is `RESULTS.not_converged`. A residual that is not finite is `RESULTS.nonfinite`.
    """
    value, z = stop_gradient((value, z))
    residual = relative(value, z)[2]
    steps, result = reached.steps + more, reached.result
    if result is None:
        rtol = jnp.asarray(solver.rtol, residual.dtype)  # pyright: ignore[reportAttributeAccessIssue]
        result = RESULTS.where(residual <= rtol, RESULTS.successful, RESULTS.not_converged)
    else:
        error, size, _ = relative(value, z, solver.norm)  # pyright: ignore[reportAttributeAccessIssue]
        rtol, atol = (jnp.asarray(each, size.dtype) for each in (solver.rtol, solver.atol))  # pyright: ignore[reportAttributeAccessIssue]
        # The first evaluation is the one that the solver judged, up to rounding.
        left = (result == RESULTS.successful) & (more > 1) & (error > atol + rtol * size)
        result = RESULTS.where(left, RESULTS.not_converged, result)
    nonfinite = RESULTS.nonfinite
    result = RESULTS.where(jnp.isfinite(residual), result, nonfinite)  # pyright: ignore[reportArgumentType]
    if not isinstance(solver, Unroll):
        state = with_derivatives_of(state, z)
    elif not isinstance(solver.count, int):
        none = steps < 1
        residual = jnp.where(none, jnp.inf, residual)
        result = RESULTS.where(none, RESULTS.not_converged, result)  # pyright: ignore
        if isinstance(more, int):  # this evaluation was the gradient's alone
            state = choose(none, z, state)
    return Equilibrium(
        state=state,
        steps=jnp.asarray(steps),
        evaluations=jnp.asarray(reached.evaluations + more),
        residual=residual,
        result=result,
        curve=reached.curve,
    )
