"""The iterations at the end of a loop that a gradient makes itself: their number and its checks."""

from typing import Any

from .._iteration import Count, clamp
from .._solver import Solver, Unroll


def check_steps(gradient: Any) -> None:
    """**Raises** `ValueError` if `gradient.steps` is an integer below 1."""
    if isinstance(gradient.steps, int) and gradient.steps < 1:
        name = type(gradient).__name__
        raise ValueError(f"{name}: steps = {gradient.steps} must be at least 1")


def check_damping(gradient: Any) -> None:
    """**Raises** `ValueError` if `gradient.damping` is not in [0, 1)."""
    if not 0 <= gradient.damping < 1:
        name = type(gradient).__name__
        raise ValueError(f"{name}: damping = {gradient.damping} must be in [0, 1)")


def check_checkpoints(gradient: Any) -> None:
    """**Raises** `ValueError` if `gradient.checkpoints` is below 1."""
    if gradient.checkpoints is not None and gradient.checkpoints < 1:
        name = type(gradient).__name__
        raise ValueError(f"{name}: checkpoints = {gradient.checkpoints} must be at least 1")


def tail_steps(gradient: Any, solver: Solver) -> tuple[Count, int | None]:
    """Return the number of iterations that a gradient makes in place of the solver, and a static
    bound on it.

    **Raises** `ValueError` if `Unroll` has fewer iterations than the gradient needs.
    """
    steps, bound = gradient.steps, getattr(gradient, "max_steps", None)
    if isinstance(steps, int):
        bound = steps
    count = solver.count if isinstance(solver, Unroll) else None
    if isinstance(steps, int) and isinstance(count, int) and steps > count:
        name = type(gradient).__name__
        raise ValueError(f"{name}: steps = {steps} exceeds Unroll({count})")
    return clamp(clamp(steps, 1, bound), 0, count), bound
