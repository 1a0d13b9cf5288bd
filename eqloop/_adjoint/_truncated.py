"""Back-propagation through the last iterations only."""

import equinox as eqx
from jaxtyping import Array, Int

from .._iteration import later, python_int, unroll
from .._remat import Keep
from .._solution import Equilibrium
from .._solver import solve_forward
from ._base import AbstractGradient
from ._make_equilibrium import make_equilibrium
from ._tail import check_checkpoints, check_steps, tail_steps


class Truncated(AbstractGradient):
    """Back-propagation through the last `steps` iterations; earlier ones get no gradient.

    `Unroll(n + k)` with `Truncated(k)` is progressive training: n iterations without a gradient,
    then k with one. With any other solver, `steps` plain iterations follow the solve. Derivatives
    of any order and in both modes are those of these iterations from a constant state. When not to
    use it: if earlier iterations matter for the gradient, and if `Implicit` converges.

    **Arguments:**

    - `steps`: number of iterations, an integer or a traced integer scalar; a traced value below 1
        counts as 1.
    - `max_steps`: static upper bound on a traced `steps`, which is clamped to it and to the
        iterations of `Unroll`.
    - `keep`, `checkpoints`: see `Backprop`.

    **Raises** `ValueError` if `steps` is an integer below 1 or exceeds those of `Unroll`.

    ```python
    >>> import eqloop, jax, jax.numpy as jnp
    >>> def state(x):
    ...     f, z0 = lambda z, x: 0.5 * z + x, jnp.zeros(())
    ...     solver, gradient = eqloop.Unroll(10), eqloop.Truncated(2)
    ...     return eqloop.equilibrium(f, z0, x, solver=solver, gradient=gradient).state
    >>> print(jax.grad(state)(1.0))         # 1 + 0.5; all ten iterations would give almost 2
    1.5

    ```
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
        steps, bound = tail_steps(self, solver)
        forward = solve_forward(f, z0, x, solver, reserved_steps=steps, max_steps=max_steps)
        z, state = unroll(
            f, forward.state, later(x, forward.steps), steps, bound, self.keep, self.checkpoints
        )
        return make_equilibrium(state, z, state, solver, forward, steps)
