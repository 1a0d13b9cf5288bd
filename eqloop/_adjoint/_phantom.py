"""The phantom gradient."""

import equinox as eqx
import jax.tree_util as jtu

from .._iteration import python_int, unroll
from .._solution import Equilibrium
from .._solver import approach
from ._base import AbstractGradient
from ._finish import finish
from ._truncated import check_steps, reserved


class Phantom(AbstractGradient):
    """Back-propagation through `steps` damped iterations after the solve.

    `z <- (1 - damping) f(z) + damping z` has the same fixed points as f and a Jacobian `A = (1 -
    damping) J + damping I`, so that a cotangent g of the fixed point becomes `(1 - damping) sum_{k
    < steps} (A^T)^k g`: the Neumann series of `(I - J)^-T`, damped and cut off ("unrolled phantom
    gradient", arXiv 2111.05177). Memory is `steps` states. Without damping it is `Truncated`.
    Derivatives of any order and in both modes are those of these iterations from a constant state.
    When not to use it: near a fixed point where `Neumann` gives the same for less memory, and
    where `Implicit` converges.

    **Arguments:**

    - `steps`: K, an integer.
    - `damping`: in [0, 1); 0.5 in the paper's experiments on damping.

    **Raises** `ValueError` for an argument out of range, or more steps than an `Unroll` has.
    """

    steps: int = eqx.field(default=5, static=True, converter=python_int)
    damping: float = eqx.field(default=0.5, static=True)

    def __check_init__(self):
        check_steps(self)
        if not 0 <= self.damping < 1:
            raise ValueError(f"Phantom: damping = {self.damping} must be in [0, 1)")

    def run(self, f, z0, x, solver, *, max_steps, probe) -> Equilibrium:
        del probe
        steps, bound = reserved(self, solver)
        reached = approach(f, z0, x, solver, reserve=steps, max_steps=max_steps)

        def damped(z, x):
            return jtu.tree_map(lambda a, b: a + self.damping * (b - a), f(z, x), z)

        z, state = unroll(damped, reached.state, x, steps, bound)
        # The last plain value, from the damped one: the residual is that of f.
        value = jtu.tree_map(lambda a, b: b + (a - b) / (1 - self.damping), state, z)
        return finish(value, z, state, solver, reached, steps)
