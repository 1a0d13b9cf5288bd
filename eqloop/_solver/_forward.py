"""The forward pass: run a solver without differentiating it."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float, Int, PyTree

from .._iteration import Count, advance, stop_gradient
from .._solution import RESULTS
from ._iterative import AbstractSolver, SolveState, iterate
from ._unroll import Unroll

Solver = Unroll | AbstractSolver | optx.AbstractFixedPointSolver | optx.AbstractRootFinder


class ForwardResult(NamedTuple):
    """Where a solver stopped; see `Equilibrium`. `result` is None for `Unroll`, which is judged by
    the residual of its last iteration."""

    state: PyTree
    steps: Int[Array, ""]
    evaluations: Int[Array, ""]
    result: RESULTS | None
    curve: Float[Array, " curve"] | None


def solve_forward(
    f: Any, z0: PyTree, x: PyTree, solver: Solver, *, reserved_steps: Count, max_steps: Count
) -> ForwardResult:
    """Run the solver, leaving the last `reserved_steps` iterations to the gradient, which performs
    them differentiably.

    `Unroll` makes its own number of steps less the reserved ones. A solver that stops at a
    tolerance runs until it stops; the reserved iterations follow.
    """
    f, z0, x = stop_gradient((f, z0, x))
    if isinstance(solver, Unroll):
        # -1 if a traced count is 0: the gradient makes one evaluation all the same.
        steps = jnp.asarray(solver.count - reserved_steps)
        z = advance(f, z0, x, solver.count - reserved_steps)
        return ForwardResult(z, steps, jnp.maximum(steps, 0), None, None)
    if isinstance(solver, AbstractSolver):
        _, solve = iterate(lambda z: f(z, x), solver, z0, max_steps=max_steps)
        return stop_gradient(forward_result(solver, solve))
    if isinstance(solver, optx.Bisection):
        raise ValueError(
            "solver = Bisection needs an interval, and a loop begins at a state: use "
            "eqloop.Anderson() or optimistix.Newton(rtol, atol), say"
        )
    solution = optx.fixed_point(_apply, solver, z0, args=(f, x), max_steps=max_steps, throw=False)  # pyright: ignore
    steps = solution.stats["num_steps"]
    result = RESULTS.promote(solution.result)
    return ForwardResult(stop_gradient(solution.value), steps, steps, result, None)


def forward_result(solver: AbstractSolver, solve: SolveState) -> ForwardResult:
    """What a solve that has ended returns."""
    curve = solve.curve if solver.curve else None
    return ForwardResult(solve.best, solve.steps, solve.evaluations, solver.result(solve), curve)


def _apply(z: PyTree, args: tuple[Any, PyTree]) -> PyTree:
    # One function for all solves, with the map in `args`: a new closure would recompile.
    f, x = args
    return f(z, x)
