"""Back-propagation through the last iterations only."""

import equinox as eqx
from jaxtyping import Array, Int

from .._iteration import Count, clamp, python_int, unroll
from .._remat import Keep
from .._solution import Equilibrium
from .._solver import Unroll, approach
from ._base import AbstractGradient
from ._finish import finish


class Truncated(AbstractGradient):
    """Back-propagation through the last `steps` iterations only; those before get no gradient.

    With `Unroll(n + k)` and `Truncated(k)` this is progressive training: n iterations without a
    gradient, then k with. With another solver, `steps` plain iterations follow the solve.
    Derivatives of any order and in both modes are those of these iterations from a constant state.

    **Arguments:**

    - `steps`: an integer, or a traced one, which counts as at least 1.
    - `max_steps`: a static bound on a traced `steps`, which counts as no more than that, nor than
        those of `Unroll`.
    - `keep`, `checkpoints`: as for `Backprop`.

    **Raises** `ValueError` where `steps` is an integer below 1 or above those of `Unroll`.
    """

    steps: int | Int[Array, ""] = eqx.field(converter=python_int)
    max_steps: int | None = eqx.field(default=None, static=True, converter=python_int)
    keep: Keep = eqx.field(default="marked", static=True)
    checkpoints: int | None = eqx.field(default=None, static=True)

    def __check_init__(self):
        check_steps(self)
        check_checkpoints(self)

    def run(self, f, z0, x, solver, *, max_steps, probe) -> Equilibrium:
        del probe
        steps, bound = reserved(self, solver)
        reached = approach(f, z0, x, solver, reserve=steps, max_steps=max_steps)
        z, state = unroll(f, reached.state, x, steps, bound, self.keep, self.checkpoints)
        return finish(state, z, state, solver, reached, steps)


def check_steps(gradient) -> None:
    """**Raises** `ValueError` where the steps of a gradient are an integer below 1."""
    if isinstance(gradient.steps, int) and gradient.steps < 1:
        name = type(gradient).__name__
        raise ValueError(f"{name}: steps = {gradient.steps} must be at least 1")


def check_checkpoints(gradient) -> None:
    """**Raises** `ValueError` where there are less than 1."""
    if gradient.checkpoints is not None and gradient.checkpoints < 1:
        name = type(gradient).__name__
        raise ValueError(f"{name}: checkpoints = {gradient.checkpoints} must be at least 1")


def reserved(gradient, solver) -> tuple[Count, int | None]:
    """The iterations that a gradient takes over from a solver, and a static bound on them.
    **Raises** `ValueError` where the solver has not so many."""
    steps, bound = gradient.steps, getattr(gradient, "max_steps", None)
    if isinstance(steps, int):
        bound = steps
    count = solver.count if isinstance(solver, Unroll) else None
    if isinstance(steps, int) and isinstance(count, int) and steps > count:
        name = type(gradient).__name__
        raise ValueError(f"{name}: steps = {steps} exceeds Unroll({count})")
    return clamp(clamp(steps, 1, bound), 0, count), bound
