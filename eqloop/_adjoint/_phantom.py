"""The phantom gradient."""

import equinox as eqx
import jax.tree_util as jtu

from .._iteration import later, python_int, unroll
from .._solution import Equilibrium
from .._solver import solve_forward
from ._base import AbstractGradient
from ._make_equilibrium import make_equilibrium
from ._tail import check_damping, check_steps, tail_steps


class Phantom(AbstractGradient):
    """Back-propagation through `steps` damped iterations after the solve.

    `z <- (1 - damping) f(z) + damping z` has the fixed points of f and the Jacobian `A = (1 -
    damping) J + damping I`, so a cotangent g of the fixed point becomes

    ```
    u = (1 - damping) sum_{k < steps} (A^T)^k g
    ```

    the damped and truncated Neumann series of `(I - J)^-T` ("unrolled phantom gradient"). Memory
    is `steps` states. Without damping it is `Truncated`. Derivatives of any order and in both modes
    are those of these iterations from a constant state. When not to use it: near a fixed point,
    where `Neumann` with the same damping gives the same with less memory, and if `Implicit`
    converges.

    **Arguments:**

    - `steps`: number of damped iterations, an integer.
    - `damping`: weight of the old iterate, in [0, 1); the paper's experiments use 0.5.

    **Raises** `ValueError` for an argument out of range, or if `steps` exceeds those of `Unroll`.

    **Source:** Geng et al. 2021, arXiv 2111.05177.

    ```python
    >>> import eqloop, jax, jax.numpy as jnp
    >>> def state(x):
    ...     f, z0 = lambda z, x: 0.5 * z + x, jnp.zeros(())
    ...     solver, gradient = eqloop.FixedPoint(), eqloop.Phantom(2, damping=0.5)
    ...     return eqloop.equilibrium(f, z0, x, solver=solver, gradient=gradient).state
    >>> print(jax.grad(state)(1.0))         # A = 0.75: 0.5 (1 + 0.75)
    0.875

    ```
    """

    steps: int = eqx.field(default=5, static=True, converter=python_int)
    damping: float = eqx.field(default=0.5, static=True)

    def __check_init__(self):
        check_steps(self)
        check_damping(self)

    def run(self, f, z0, x, solver, *, max_steps, probe) -> Equilibrium:
        del probe
        steps, bound = tail_steps(self, solver)
        forward = solve_forward(f, z0, x, solver, reserved_steps=steps, max_steps=max_steps)

        def damped(z, x):
            return jtu.tree_map(lambda a, b: a + self.damping * (b - a), f(z, x), z)

        z, state = unroll(damped, forward.state, later(x, forward.steps), steps, bound)
        # Recover f(z) from the damped iterate: the residual is that of f.
        value = jtu.tree_map(lambda a, b: b + (a - b) / (1 - self.damping), state, z)
        return make_equilibrium(value, z, state, solver, forward, steps)
