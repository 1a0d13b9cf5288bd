"""Run a solver without a gradient."""

from typing import Any

import optimistix as optx
from jaxtyping import Array, Int, PyTree

from .._iteration import advance, stop_gradient
from .._solution import RESULTS
from ._unroll import Unroll

Solver = Unroll | optx.AbstractFixedPointSolver | optx.AbstractRootFinder


def approach(
    f: Any, z0: PyTree, x: PyTree, solver: Solver, *, reserve: Int[Array, ""] | int, max_steps: int
) -> tuple[PyTree, Int[Array, ""] | int, RESULTS]:
    """Run the solver up to where `reserve` plain iterations, which the gradient will make, end it.

    For `Unroll` that is its steps less the reserve; for a solver that converges, all of it.
    Returns the state, the evaluations of f so far and how the solver ended.
    """
    f, z0, x = stop_gradient((f, z0, x))
    if isinstance(solver, Unroll):
        steps = solver.steps - reserve
        return advance(f, z0, x, steps), steps, RESULTS.successful
    solution = optx.fixed_point(_apply, solver, z0, args=(f, x), max_steps=max_steps, throw=False)
    steps = solution.stats["num_steps"]
    return stop_gradient(solution.value), steps, RESULTS.promote(solution.result)


def _apply(z: PyTree, args: tuple[Any, PyTree]) -> PyTree:
    # One function for all solves, the map in `args`: a fresh closure would compile anew.
    f, x = args
    return f(z, x)
