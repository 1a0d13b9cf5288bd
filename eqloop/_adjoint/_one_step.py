"""The gradient of the last iteration alone."""

from .._solution import Equilibrium
from ._base import AbstractGradient
from ._truncated import Truncated


class OneStep(AbstractGradient):
    """The gradient of one iteration at the end of the loop: `Truncated(1)`.

    It replaces `(I - J)^-1` by I: the "Jacobian-free" gradient. It is cheap, and a descent
    direction if J is a contraction. When not to use it: if |J| is near one. Derivatives of any
    order and in both modes are those of this iteration from a constant state.

    **Source:** Fung et al. 2021, arXiv 2103.12803.

    ```python
    >>> import eqloop, jax, jax.numpy as jnp
    >>> def state(x):
    ...     f, z0 = lambda z, x: 0.5 * z + x, jnp.zeros(())
    ...     solver, gradient = eqloop.FixedPoint(), eqloop.OneStep()
    ...     return eqloop.equilibrium(f, z0, x, solver=solver, gradient=gradient).state
    >>> print(jax.grad(state)(1.0))         # df/dx; the fixed point's derivative is 2
    1.0

    ```
    """

    def run(self, f, z0, x, solver, *, max_steps, probe) -> Equilibrium:
        return Truncated(1).run(f, z0, x, solver, max_steps=max_steps, probe=probe)
