"""Axial rotary position embedding."""

import functools
from typing import Final, Literal

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ._float32_trig import cos_sin
from ._linear import at_least_float32

ROTARY_BASE: Final = 10000.0
"""The base of the paper's code, that of language models with thousands of positions."""

RotaryPairs = Literal["neighbours", "halves"]
"""Which features a rotation turns together; see `rotate`."""


@functools.lru_cache(maxsize=32)
def rotary_tables(
    grid: tuple[int, ...],
    head_width: int,
    base: float = ROTARY_BASE,
    dtype: DTypeLike = np.float32,
) -> tuple[np.ndarray, np.ndarray]:
    """Return cosine and sine of the rotation angle of each cell and pair of features.

    Each axis of the grid has `head_width / (2 axes)` frequencies `base^(-i / frequencies)`, and
    the axes follow one another in order. The angle is the frequency times the position of the cell
    along that axis.

    **Arguments:**

    - `grid`: number of cells along each axis, a tuple of integers.
    - `head_width`: features of one attention head.
    - `base`: the frequencies, in radians per cell, lie in (1 / base, 1].
    - `dtype`: precision of the tables, float32 or float64.

    **Returns:**

    Two arrays of shape `(*grid, head_width / 2)`. In float32 they agree with the paper's code to
    the last bit (those of `np.cos` do not).

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
    number = np.dtype(dtype).type
    exponents = np.arange(frequencies, dtype=dtype) / number(frequencies)
    rates = number(1) / number(base) ** exponents
    position = np.moveaxis(np.indices(grid), 0, -1).astype(dtype)
    angles = (position[..., None] * rates).reshape(*grid, -1)
    return cos_sin(angles) if number is np.float32 else (np.cos(angles), np.sin(angles))


def rotate(
    x: Float[Array, "*grid heads head_width"],
    base: float = ROTARY_BASE,
    pairs: RotaryPairs = "neighbours",
) -> Float[Array, "*grid heads head_width"]:
    """Rotate pairs of features `(a, b)` by the angle of their cell: `a cos - b sin, b cos + a sin`.

    The features of a head are divided among the axes of the grid, in order, and the pairs of one
    axis are neighbours, `(x_2i, x_2i+1)`, or the two halves of its features, `(x_i, x_i+h)`.

    It is computed as `x * (c, c) + (b, a) * (-s, s)`: a reversal swaps the pair, and its transpose
    is a reversal again. (Splitting the features and stacking them would make the backward pass pad
    and add.)

    **Arguments:**

    - `x`: queries or keys, shape `(*grid, heads, head_width)`.
    - `base`: see `rotary_tables`.
    - `pairs`: "neighbours", with tables in float32 also if x is float64, as in the paper's code; or
        "halves", with tables in the precision of x, as in TRM, HRM, EqR and FPRM.

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
    axes = len(grid)
    halves = pairs == "halves"
    dtype = at_least_float32(x.dtype) if halves else np.float32
    tables = rotary_tables(tuple(grid), head_width, base, dtype)
    # The pair is the last axis for neighbours, and the last but one for halves.
    pair = -2 if halves else -1
    split = (axes, 2, -1) if halves else (axes, -1, 2)
    cos, sin = (table.reshape(*grid, axes, -1) for table in tables)
    signs = (np.stack(part, pair).reshape(*grid, -1) for part in ((cos, cos), (-sin, sin)))
    swapped = jnp.flip(x.reshape(*x.shape[:-1], *split), axis=pair).reshape(x.shape)
    c, s = (jnp.broadcast_to(jnp.asarray(table, x.dtype)[..., None, :], x.shape) for table in signs)
    return x * c + swapped * s
