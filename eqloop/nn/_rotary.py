"""Axial rotary position embedding."""

import functools
from typing import Final

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._float32_trig import cos_sin

ROTARY_BASE: Final = 10000.0
"""The base of the paper's code, that of language models with thousands of positions."""


@functools.lru_cache(maxsize=32)
def rotary_tables(
    grid: tuple[int, ...], head_width: int, base: float = ROTARY_BASE
) -> tuple[np.ndarray, np.ndarray]:
    """Return cosine and sine of the rotation angle of each cell and pair of features.

    Each axis of the grid has `head_width / (2 axes)` frequencies `base^(-i / frequencies)`, and
    the axes follow one another in order. The angle is the frequency times the position of the cell
    along that axis.

    **Arguments:**

    - `grid`: number of cells along each axis, a tuple of integers.
    - `head_width`: features of one attention head.
    - `base`: the frequencies, in radians per cell, lie in (1 / base, 1].

    **Returns:**

    Two float32 arrays of shape `(*grid, head_width / 2)`, also if the model is float64, as in the
    paper's code, to whose last bit `cos_sin` agrees (`np.cos` does not).

    **Raises** `ValueError` if `head_width` is not a multiple of `2 axes`.

    **Source:** RoFormer, arXiv 2104.09864, taken axis by axis.

    ```python
    >>> import eqloop
    >>> cos, sin = eqloop.nn.rotary_tables((3,), 2)
    >>> print(cos[:, 0].round(4), sin[:, 0].round(4))           # of 0, 1 and 2 radians
    [ 1.      0.5403 -0.4161] [0.     0.8415 0.9093]

    ```
    """
    axes = len(grid)
    if head_width % (2 * axes):
        raise ValueError(
            f"width / heads = {head_width} must be a multiple of {2 * axes}: a pair of features "
            f"for each of {axes} axes"
        )
    frequencies = head_width // (2 * axes)
    exponents = np.arange(frequencies, dtype=np.float32) / np.float32(frequencies)
    rates = np.float32(1) / np.float32(base) ** exponents
    position = np.moveaxis(np.indices(grid), 0, -1).astype(np.float32)
    angles = position[..., None] * rates
    return cos_sin(angles.reshape(*grid, -1))


def rotate(
    x: Float[Array, "*grid heads head_width"], base: float = ROTARY_BASE
) -> Float[Array, "*grid heads head_width"]:
    """Rotate each pair of neighbouring features `(x_2i, x_2i+1)` by its cell's angle.

    `x * (c, c) + (x_2i+1, x_2i) * (-s, s)`: a reversal swaps the pair, and its transpose is a
    reversal again. (Splitting the even and odd features and stacking them would make the backward
    pass pad and add.)

    **Arguments:**

    - `x`: queries or keys, shape `(*grid, heads, head_width)`.
    - `base`: see `rotary_tables`.

    **Returns:**

    An array like x. Products of a rotated query and a rotated key depend on the distance of their
    cells along each axis only.

    **Raises** `ValueError` as `rotary_tables` does.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> x = eqloop.nn.rotate(jnp.ones((4, 1, 2)))[:, 0]
    >>> print(jnp.sum(x[1:] * x[:-1], axis=-1).round(4))        # of neighbours: 2 cos(1)
    [1.0806 1.0806 1.0806]

    ```
    """
    *grid, _, head_width = x.shape
    cos, sin = rotary_tables(tuple(grid), head_width, base)
    cos, sin = np.repeat(cos, 2, axis=-1), np.stack([-sin, sin], axis=-1).reshape(*grid, -1)
    swapped = jnp.flip(x.reshape(*x.shape[:-1], -1, 2), axis=-1).reshape(x.shape)
    c, s = (
        jnp.broadcast_to(jnp.asarray(table, x.dtype)[..., None, :], x.shape) for table in (cos, sin)
    )
    return x * c + swapped * s
