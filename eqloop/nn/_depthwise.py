"""Depthwise convolution over the cells of a grid."""

import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ._linear import add_axes


class DepthwiseConv(eqx.Module):
    """Each feature of a cell becomes a weighted sum of that feature in the cells around it.

    `y_i = sum_j w_j x_(i + j)`, a correlation, with zeros outside of the grid and no bias. On a
    plane the window is centred on the cell; on a line it ends there, so that the layer is causal:
    the last weight belongs to the cell itself.

    **Arguments:**

    - `width`: features per cell.
    - `window`: number of cells along each axis, a tuple of one or two integers.
    - `key`: a random key for the initial weights, drawn from U(-1/sqrt(n), 1/sqrt(n)) for a window
        of n cells.

    **Raises** `ValueError` for a window of more axes, or one on a plane that has no centre.

    ```python
    >>> import eqloop, equinox as eqx, jax.numpy as jnp, jax.random as jr
    >>> conv = eqloop.nn.DepthwiseConv(1, (2,), key=jr.key(0))
    >>> conv = eqx.tree_at(lambda m: m.weight, conv, jnp.array([[[1.0, 10.0]]]))
    >>> print(conv(jnp.array([[1.0], [2.0], [3.0]]))[:, 0])
    [10. 21. 32.]

    ```
    """

    weight: Float[Array, "width 1 *window"]

    def __init__(self, width: int, window: tuple[int, ...], *, key: PRNGKeyArray):
        bound = 1 / math.sqrt(math.prod(window))
        self.weight = jr.uniform(key, (width, 1, *window), minval=-bound, maxval=bound)

    def __check_init__(self):
        window = self.weight.shape[2:]
        if len(window) not in (1, 2) or (len(window) == 2 and any(n % 2 == 0 for n in window)):
            raise ValueError(
                f"window = {window} must be a number of cells along a line, or two odd numbers"
            )

    @jax.named_scope("depthwise_conv")
    def __call__(self, x: Float[Array, "*grid width"]) -> Float[Array, "*grid width"]:
        """Convolve the cells of `x`, shape `(*grid, width)`."""
        window = self.weight.shape[2:]
        before = [n - 1 if len(window) == 1 else n // 2 for n in window]
        pads = [(b, n - 1 - b) for b, n in zip(before, window, strict=True)]
        padded = jnp.pad(x, [*pads, (0, 0)])
        # One multiplication per cell of the window: a grouped convolution is slow on a CPU.
        total = jnp.zeros_like(x)
        for offset in itertools.product(*map(range, window)):
            near = padded[tuple(slice(o, o + n) for o, n in zip(offset, x.shape[:-1], strict=True))]
            total += near * add_axes(self.weight[(slice(None), 0, *offset)], x.ndim)
        return total
