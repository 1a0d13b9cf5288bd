"""Back-propagation through every iteration, or through the last ones only."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Int

from .._iteration import unroll
from .._remat import Keep
from .._solution import Equilibrium
from .._solver import FixedPoint, Unroll, approach
from ._base import AbstractGradient
from ._finish import finish


class Backprop(AbstractGradient):
    """Back-propagation through all the iterations of the loop (rematerialised).

    Exact for what was computed, converged or not. Memory: one state per iteration. With
    `FixedPoint` the solve is run first, then repeated with a gradient in `max_steps` slots; under
    `vmap` every slot is computed, as the counts differ, so keep `max_steps` small or prefer
    `Implicit`.

    **Arguments:**

    - `keep`: "marked" or "products". The second is faster by a tenth on a CPU (more where
        products are slow against memory) and needs four times the memory: see
        `rematerialised`.

    **Raises** `ValueError` for a solver that is not a plain (damped) iteration.
    """

    keep: Keep = eqx.field(default="marked", static=True)

    def run(self, f, z0, x, solver, *, max_steps, probe) -> Equilibrium:
        del probe
        if isinstance(solver, Unroll):
            previous, state = unroll(f, z0, x, solver.steps, solver.max_steps, self.keep)
            return finish(previous, state, solver.steps, solver, None)
        if not isinstance(solver, FixedPoint):
            raise ValueError(
                f"Backprop cannot follow the steps of {type(solver).__name__}: use Truncated, "
                "OneStep or Implicit"
            )
        _, steps, result = approach(f, z0, x, solver, reserve=0, max_steps=max_steps)

        def damped(z, x):
            return solver.relax(f(z, x), z)

        # One plain evaluation comes last, so that the residual is that of f.
        _, state = unroll(damped, z0, x, steps - 1, max_steps, self.keep)
        previous, state = unroll(f, state, x, 1)
        return finish(previous, state, steps, solver, result)


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
        if isinstance(self.steps, int) and self.steps < 1:
            raise ValueError(f"Truncated: steps = {self.steps} must be at least 1")

    def run(self, f, z0, x, solver, *, max_steps, probe) -> Equilibrium:
        del probe
        if (
            isinstance(solver, Unroll)
            and isinstance(solver.steps, int)
            and isinstance(self.steps, int)
            and self.steps > solver.steps
        ):
            raise ValueError(f"Truncated: steps = {self.steps} exceeds Unroll({solver.steps})")
        start, steps, result = approach(f, z0, x, solver, reserve=self.steps, max_steps=max_steps)
        previous, state = unroll(f, start, x, self.steps, self.max_steps, self.keep)
        return finish(previous, state, jnp.asarray(steps + self.steps), solver, result)


class OneStep(AbstractGradient):
    """The gradient of one iteration at the end of the loop: `Truncated(1)`.

    It takes (I - J)^-1 for I: the "Jacobian-free" gradient (arXiv 2103.12803). Cheap, and in
    the right half-space where J is a contraction; when not to use it: where |J| is near one.
    """

    def run(self, f, z0, x, solver, *, max_steps, probe) -> Equilibrium:
        return Truncated(1).run(f, z0, x, solver, max_steps=max_steps, probe=probe)
