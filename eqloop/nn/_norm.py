"""Root-mean-square normalisation."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._linear import add_axes, at_least_float32


class RMSNorm(eqx.Module):
    """`g x / sqrt(mean(x^2) + eps)` over the last axis, computed in float32 or wider.

    `eps` is the machine epsilon of the dtype of the computation, as in the paper's code. The gain g
    is 1 at first.

    **Arguments:**

    - `width`: features per cell.

    **Source:** Zhang and Sennrich 2019, arXiv 1910.07467.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> print(eqloop.nn.RMSNorm(2)(jnp.array([3.0, 4.0])) * jnp.sqrt(12.5))    # (9 + 16) / 2
    [3. 4.]

    ```
    """

    gain: Float[Array, " width"]

    def __init__(self, width: int):
        self.gain = jnp.ones(width)

    def __call__(self, x: Float[Array, "*grid width"]) -> Float[Array, "*grid width"]:
        """Return `x`, shape `(*grid, width)`, normalised cell by cell, in float32 or wider."""
        x = x.astype(at_least_float32(x.dtype))
        mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        eps = jnp.finfo(x.dtype).eps
        return x * jax.lax.rsqrt(mean_square + eps) * add_axes(self.gain, x.ndim)
