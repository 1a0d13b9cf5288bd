"""Iterate a fixed number of times."""

import equinox as eqx
from jaxtyping import Array, Int

from .._iteration import Count, Scalar, clamp, python_int
from ._traced import traced_float


class Unroll(eqx.Module):
    """`z <- f(z, x)`, `steps` times, whether or not it converges.

    This is how the paper runs the loop, in training and at test time. See `eqloop.trajectory` for
    all iterates. When not to use it: if you need a fixed point and do not know how many iterations
    reach it.

    **Arguments:**

    - `steps`: number of iterations, an integer (of Python or NumPy) or a traced integer scalar; a
        traced one can change from call to call without recompiling. A traced value below 1 makes
        no iteration: the state is `z0`, the residual inf, the result `RESULTS.not_converged`.
    - `max_steps`: static upper bound on a traced `steps`, which is clamped to it;
        back-propagation needs it. Ignored if `steps` is an integer.
    - `rtol`: the result is `successful` if the last relative residual is at most this.

    **Raises** `ValueError` if `steps` is an integer below 1.

    **Source:** arXiv 2604.15259.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> f = lambda z, x: 0.5 * z + x
    >>> eq = eqloop.equilibrium(f, jnp.zeros(()), jnp.ones(()), solver=eqloop.Unroll(3))
    >>> print(eq.state, eq.steps)
    1.75 3

    ```
    """

    steps: int | Int[Array, ""] = eqx.field(converter=python_int)
    max_steps: int | None = eqx.field(default=None, static=True, converter=python_int)
    rtol: Scalar = traced_float(1e-3)

    def __check_init__(self):
        if isinstance(self.steps, float):
            raise ValueError(f"Unroll: steps = {self.steps} must be a whole number")
        if isinstance(self.steps, int) and self.steps < 1:
            raise ValueError(f"Unroll: steps = {self.steps} must be at least 1")

    @property
    def count(self) -> Count:
        """The number of iterations made: `steps`, clamped if it is traced."""
        return clamp(self.steps, 0, self.max_steps)
