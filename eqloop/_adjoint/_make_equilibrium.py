"""From the last evaluation to an `Equilibrium`."""

import jax.numpy as jnp
from jaxtyping import PyTree

from .._iteration import Count, stop_gradient, with_derivatives_of
from .._norms import relative
from .._solution import RESULTS, Equilibrium, select
from .._solver import ForwardResult, Solver, Unroll, choose


def make_equilibrium(
    value: PyTree,
    z: PyTree,
    state: PyTree,
    solver: Solver,
    forward: ForwardResult,
    extra_steps: Count,
) -> Equilibrium:
    """Build the `Equilibrium`. `value = f(z)` is the last of `extra_steps` plain iterations made
    after the solver stopped.

    `Unroll` has converged if the residual is at most its `rtol`. Any other solver judged itself;
    if it was successful and the further iterations left its tolerance again, the result is
    `RESULTS.not_converged`. A residual that is not finite gives `RESULTS.nonfinite`.

    **Arguments:**

    - `value`, `z`: the last value of f and its argument, from which the residual is measured.
    - `state`: the differentiable state. For `Unroll` it is returned as it is; for any other solver
        only its derivatives are used, with the value of `z`, whose residual the solver judged.
    - `solver`: the solver, for its tolerances.
    - `forward`: where the solver stopped.
    - `extra_steps`: number of iterations made after that.
    """
    value, z = stop_gradient((value, z))
    residual = relative(value, z)[2]
    steps, result = forward.steps + extra_steps, forward.result
    if isinstance(solver, Unroll):
        rtol = jnp.asarray(solver.rtol, residual.dtype)
        result = select(residual <= rtol, RESULTS.successful, RESULTS.not_converged)
    else:
        norm, tolerances = solver.norm, (solver.rtol, solver.atol)  # pyright: ignore
        error, size, _ = relative(value, z, norm)
        rtol, atol = (jnp.asarray(tolerance, size.dtype) for tolerance in tolerances)
        # With one extra step, this evaluation is the one that the solver judged, up to rounding.
        left = (result == RESULTS.successful) & (extra_steps > 1) & (error > atol + rtol * size)
        result = select(left, RESULTS.not_converged, result)
    result = select(jnp.isfinite(residual), result, RESULTS.nonfinite)
    if not isinstance(solver, Unroll):
        state = with_derivatives_of(state, z)
    elif not isinstance(solver.count, int):
        no_steps = steps < 1
        residual = jnp.where(no_steps, jnp.inf, residual)
        result = select(no_steps, RESULTS.not_converged, result)
        if isinstance(extra_steps, int):  # the gradient made this evaluation, not the solver
            state = choose(no_steps, z, state)
    return Equilibrium(
        state=state,
        steps=jnp.asarray(steps),
        evaluations=jnp.asarray(forward.evaluations + extra_steps),
        residual=residual,
        result=result,
        curve=forward.curve,
    )
