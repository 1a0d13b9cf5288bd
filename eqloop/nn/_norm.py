"""Root-mean-square normalisation."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._linear import add_axes, at_least_float32


def rms_normalise(
    x: Float[Array, "*shape"], *, eps: float | None = None, axis: int = -1
) -> Float[Array, "*shape"]:
    """`x / sqrt(mean(x^2) + eps)` along one axis, without a gain, in float32 or wider.

    **Arguments:**

    - `x`: an array of any shape.
    - `eps`: by default the machine epsilon of the dtype of the computation.
    - `axis`: the axis of the mean.

    **Returns:**

    An array like `x`, in float32 or wider.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> x = jnp.array([[3.0, 4.0], [3.0, 0.0]])
    >>> print(eqloop.nn.rms_normalise(x, axis=0).round(3)[0])            # (9 + 9) / 2 is 9
    [1.    1.414]

    ```
    """
    x = x.astype(at_least_float32(x.dtype))
    mean_square = jnp.mean(jnp.square(x), axis=axis, keepdims=True)
    return x * jax.lax.rsqrt(mean_square + (jnp.finfo(x.dtype).eps if eps is None else eps))


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
        return rms_normalise(x) * add_axes(self.gain, x.ndim)
