"""Run a solver without a gradient."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float, Int, PyTree

from .._iteration import Count, advance, stop_gradient
from .._solution import RESULTS
from ._iterative import AbstractSolver, iterate
from ._unroll import Unroll

Solver = Unroll | AbstractSolver | optx.AbstractFixedPointSolver | optx.AbstractRootFinder


class Approach(NamedTuple):
    """Where a solver got to: see `Equilibrium`. `result` is None for `Unroll`, which is judged by
    its last residual."""

    state: PyTree
    steps: Int[Array, ""]
    evaluations: Int[Array, ""]
    result: RESULTS | None
    curve: Float[Array, " curve"] | None


def approach(
    f: Any, z0: PyTree, x: PyTree, solver: Solver, *, reserve: Count, max_steps: Count
) -> Approach:
    """Run the solver up to where `reserve` plain iterations, which the gradient will make, end it.

    For `Unroll` that is its steps less the reserve; for a solver that converges, all of it.
    """
    f, z0, x = stop_gradient((f, z0, x))
    if isinstance(solver, Unroll):
        # -1 where a traced count is 0 and the gradient makes an evaluation all the same.
        steps = jnp.asarray(solver.count - reserve)
        z = advance(f, z0, x, solver.count - reserve)
        return Approach(z, steps, jnp.maximum(steps, 0), None, None)
    if isinstance(solver, AbstractSolver):
        _, progress = iterate(lambda z: f(z, x), solver, z0, max_steps=max_steps)
        return Approach(
            stop_gradient(progress.best),
            progress.steps,
            progress.evaluations,
            solver.result(progress),
            progress.curve if solver.curve else None,
        )
    if isinstance(solver, optx.Bisection):
        raise ValueError(
            "solver = Bisection needs an interval, and a loop begins at a state: use "
            "eqloop.Anderson() or optimistix.Newton(rtol, atol), say"
        )
    solution = optx.fixed_point(_apply, solver, z0, args=(f, x), max_steps=max_steps, throw=False)  # pyright: ignore
    steps = solution.stats["num_steps"]
    result = RESULTS.promote(solution.result)
    return Approach(stop_gradient(solution.value), steps, steps, result, None)


def _apply(z: PyTree, args: tuple[Any, PyTree]) -> PyTree:
    # One function for all solves, the map in `args`: a fresh closure would compile anew.
    f, x = args
    return f(z, x)
