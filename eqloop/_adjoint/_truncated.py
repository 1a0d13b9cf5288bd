"""Back-propagation through the last iterations only."""

import equinox as eqx
from jaxtyping import Array, Int

from .._iteration import unroll
from .._remat import Keep
from .._solution import Equilibrium
from .._solver import Unroll, approach
from ._base import AbstractGradient
from ._finish import finish


class Truncated(AbstractGradient):
    """Back-propagation through the last `steps` iterations only; those before get no gradient.

    With `Unroll(n + k)` and `Truncated(k)` this is progressive training: n iterations without a
    gradient, then k with. With another solver, `steps` plain iterations follow the solve.

    **Arguments:**

    - `steps`: an integer, or a traced one (then at most `Unroll.steps`).
    - `max_steps`: a static bound on a traced `steps`.
    - `keep`: as for `Backprop`.

    **Raises** `ValueError` where `steps` is an integer below 1 or above those of `Unroll`.
    """

    steps: int | Int[Array, ""]
    max_steps: int | None = eqx.field(default=None, static=True)
    keep: Keep = eqx.field(default="marked", static=True)

    def __check_init__(self):
        check_steps(self)

    def run(self, f, z0, x, solver, *, max_steps, probe) -> Equilibrium:
        del probe
        reached = approach(f, z0, x, solver, reserve=reserved(self, solver), max_steps=max_steps)
        z, state = unroll(f, reached.state, x, self.steps, self.max_steps, self.keep)
        return finish(state, z, state, solver, reached, self.steps)


def check_steps(gradient) -> None:
    """**Raises** `ValueError` where the steps of a gradient are an integer below 1."""
    if isinstance(gradient.steps, int) and gradient.steps < 1:
        name = type(gradient).__name__
        raise ValueError(f"{name}: steps = {gradient.steps} must be at least 1")


def reserved(gradient, solver) -> int | Int[Array, ""]:
    """The iterations that a gradient takes over from a solver. **Raises** `ValueError` where it
    has not so many."""
    both = isinstance(solver, Unroll) and isinstance(solver.steps, int)
    if both and isinstance(gradient.steps, int) and gradient.steps > solver.steps:
        name = type(gradient).__name__
        raise ValueError(f"{name}: steps = {gradient.steps} exceeds Unroll({solver.steps})")
    return gradient.steps
