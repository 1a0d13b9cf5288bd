"""Self-attention over the cells of a grid: over all cells, or over a neighbourhood."""

import math
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ._linear import Linear, at_least_float32
from ._norm import RMSNorm
from ._rotary import ROTARY_BASE, RotaryPairs, rotate


class AttentionBias(NamedTuple):
    """Biases per cell that replace the biases of the three projections; None keeps the bias of the
    layer (see `Linear`).

    **Arguments:**

    - `query`, `key`, `value`: the biases of the three projections, shape `(*grid, width)`.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> attention = eqloop.nn.Attention(8, 2, key=jr.key(0))
    >>> x = jr.normal(jr.key(1), (3, 3, 8))
    >>> bias = eqloop.nn.AttentionBias(value=-attention.value.matmul(x))    # values become zero
    >>> print(jnp.abs(attention(x, bias) - attention.output.bias[None, None]).max() < 1e-6)
    True

    ```
    """

    query: Float[Array, "*grid width"] | None = None
    key: Float[Array, "*grid width"] | None = None
    value: Float[Array, "*grid width"] | None = None


class Attention(eqx.Module):
    """Multi-head self-attention with axial rotary positions and normalised queries and keys.

    `softmax(q k^T / sqrt(head_width)) v`, where queries and keys are first rotated, then divided
    by their root mean square per head (with gain). With `window = "full"` each cell attends to
    all cells. With an integer it attends to the block of `window` cells along each axis that is
    centred on it, shifted (not cropped) at the edges so that every cell has `window ** axes`
    neighbours: neighbourhood attention in plain JAX, at a cost linear in the number of cells.

    The defaults are those of the paper's model; TRM, HRM, EqR and FPRM have `pairs = "halves"`,
    no norms and no biases.

    **Arguments:**

    - `width`: features per cell, a multiple of `heads`.
    - `heads`: number of attention heads.
    - `window`: "full", or an odd number of cells along each axis.
    - `rotary_base`: see `rotary_tables`. On a grid of a dozen cells, 10 gives every frequency a
        use; of those of 10,000, three in four hardly turn.
    - `pairs`: see `rotate`; None for no rotary positions.
    - `causal`: whether a cell attends only to itself and the cells before it, on a grid of one
        axis; with `window = "full"`.
    - `use_norm`: whether queries and keys are normalised.
    - `use_bias`: whether the four projections add a bias.
    - `key`: a random key for the initial weights.

    **Raises** `ValueError` if `width` is not a multiple of `heads`, if `window` is neither "full"
    nor an odd positive integer, and if it is not "full" for causal attention; and, when called, if
    the grid is smaller than the window, or `width / heads` is not a multiple of 2 x axes.

    **Source:** neighbourhood attention, arXiv 2204.07143; rotary positions, arXiv 2104.09864.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> attention = eqloop.nn.Attention(8, 2, key=jr.key(0))
    >>> weights = attention.weights(jr.normal(jr.key(1), (3, 3, 8)))
    >>> print(weights.shape, jnp.abs(weights.sum(0) - 1).max() < 1e-6)
    (9, 3, 3, 2) True

    ```
    """

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    query_norm: RMSNorm | None
    key_norm: RMSNorm | None
    heads: int = eqx.field(static=True)
    window: Literal["full"] | int = eqx.field(static=True)
    rotary_base: float = eqx.field(static=True)
    pairs: RotaryPairs | None = eqx.field(static=True)
    causal: bool = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        heads: int,
        window: Literal["full"] | int = "full",
        *,
        rotary_base: float = ROTARY_BASE,
        pairs: RotaryPairs | None = "neighbours",
        causal: bool = False,
        use_norm: bool = True,
        use_bias: bool = True,
        key: PRNGKeyArray,
    ):
        self.query, self.key, self.value, self.output = (
            Linear(width, width, use_bias=use_bias, key=k) for k in jr.split(key, 4)
        )
        self.query_norm = RMSNorm(width // heads) if use_norm else None
        self.key_norm = RMSNorm(width // heads) if use_norm else None
        self.heads = heads
        self.window = window
        self.rotary_base = rotary_base
        self.pairs = pairs
        self.causal = causal

    def __check_init__(self):
        width = len(self.output.weight)
        if width % self.heads:
            raise ValueError(f"width = {width} must be a multiple of heads = {self.heads}")
        if self.window != "full" and (self.window < 1 or self.window % 2 == 0):
            raise ValueError(
                f'attention = {self.window!r} must be "full" or an odd number of cells'
            )
        if not self.rotary_base > 1:
            raise ValueError(f"rotary_base = {self.rotary_base!r} must be above 1")
        if self.causal and self.window != "full":
            raise ValueError(f'attention = {self.window!r} must be "full" to be causal')

    @jax.named_scope("attention")
    def __call__(
        self, x: Float[Array, "*grid width"], bias: AttentionBias | None = None
    ) -> Float[Array, "*grid width"]:
        """Attend from every cell.

        **Arguments:**

        - `x`: the cells, shape `(*grid, width)`.
        - `bias`: replaces the biases of the projections; see `AttentionBias`.

        **Returns:**

        An array of shape `(*grid, width)`.
        """
        q, k, v = self._project(x, bias)
        mixed = _full(q, k, v, self.causal) if self.window == "full" else self._near(q, k, v)
        return self.output(mixed.reshape(x.shape))

    def weights(self, x: Float[Array, "*grid width"]) -> Float[Array, "attended *grid heads"]:
        """Return the attention weights, `softmax(q k^T / sqrt(head_width))`, for inspection.

        `__call__` does not build this array.

        **Arguments:**

        - `x`: the cells, shape `(*grid, width)`.

        **Returns:**

        An array of shape `(attended, *grid, heads)`, with sums of 1 along the first axis, which
        runs over the attended cells: all cells, or the neighbours of each cell.
        """
        q, k, _ = self._project(x, None)
        if self.window == "full":
            k = k.reshape(-1, *k.shape[-2:])
            scores = jnp.einsum("...hc,jhc->j...h", q, k)
            if self.causal:
                scores = jnp.where(_earlier(len(k)).T, scores, -jnp.inf)
        else:
            scores = jnp.einsum("...hc,j...hc->j...h", q, _neighbours(k, self.window))
        return jax.nn.softmax(scores.astype(at_least_float32(q.dtype)), axis=0)

    def _project(
        self, x: Float[Array, "*grid width"], bias: AttentionBias | None
    ) -> tuple[Array, Array, Array]:
        """Return scaled queries, keys and values, each of shape `(*grid, heads, head_width)`."""
        b = bias or AttentionBias()
        q, k, v = self.query(x, b.query), self.key(x, b.key), self.value(x, b.value)
        q, k, v = (a.reshape(*a.shape[:-1], self.heads, -1) for a in (q, k, v))
        if self.pairs is not None:
            q, k = (rotate(a, self.rotary_base, self.pairs) for a in (q, k))
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        scale = 1 / math.sqrt(q.shape[-1])
        return (q * scale).astype(v.dtype), k.astype(v.dtype), v

    def _near(self, q: Array, k: Array, v: Array) -> Array:
        assert self.window != "full"
        keys, values = _neighbours(k, self.window), _neighbours(v, self.window)
        accumulate = at_least_float32(q.dtype)
        scores = jnp.einsum("...hc,j...hc->j...h", q, keys, preferred_element_type=accumulate)
        largest = jax.lax.stop_gradient(jnp.max(scores, axis=0, keepdims=True))
        weights = jnp.exp(scores - largest)
        mixed = jnp.einsum(
            "j...h,j...hc->...hc",
            weights.astype(v.dtype),
            values,
            preferred_element_type=accumulate,
        )
        return (mixed / jnp.sum(weights, axis=0)[..., None]).astype(v.dtype)


def _full(
    q: Float[Array, "*grid heads head_width"],
    k: Float[Array, "*grid heads head_width"],
    v: Float[Array, "*grid heads head_width"],
    causal: bool,
) -> Float[Array, "*grid heads head_width"]:
    """`softmax(q k^T) v` over all cells, or those up to each cell; q is already scaled.

    The head axis comes first, and the division by the sum of the softmax last: this saves one pass
    over the scores, and its derivative is the backward pass of flash attention (arXiv 2205.14135),
    which needs no row sums over `scores * gradient`. On a CPU, XLA takes a third of the time of
    `softmax(...) @ v`.
    """
    shape = v.shape
    q, k, v = (a.reshape(-1, *shape[-2:]).swapaxes(0, 1) for a in (q, k, v))
    accumulate = at_least_float32(q.dtype)
    scores = jnp.einsum("hqc,hkc->hqk", q, k, preferred_element_type=accumulate)
    if causal:
        scores = jnp.where(_earlier(scores.shape[-1]), scores, -jnp.inf)
    largest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    mixed = jnp.einsum(
        "hqk,hkc->hqc", weights.astype(v.dtype), v, preferred_element_type=accumulate
    )
    return (mixed / total).astype(v.dtype).swapaxes(0, 1).reshape(shape)


def _earlier(cells: int) -> np.ndarray:
    """Whether cell i may attend to cell j, shape `(1, cells, cells)`."""
    return np.tri(cells, dtype=bool)[None]


def _neighbours(
    x: Float[Array, "*grid heads head_width"], window: int
) -> Float[Array, "neighbours *grid heads head_width"]:
    """Return the values at the `window ** axes` neighbours of each cell, along a new first axis.

    Neighbour j of cell i along an axis of n cells is `clip(i - window // 2, 0, n - window) + j`.
    For a fixed j this is the slice `x[j : j + n - window + 1]` with its ends repeated. Slices and
    copies need no scatter in the backward pass.
    """
    stacked = x[None]
    for axis in range(1, x.ndim - 1):
        cells = stacked.shape[axis]
        if cells < window:
            raise ValueError(
                f"a grid of {x.shape[:-2]} is smaller than the neighbourhood of {window} cells"
            )
        pad = [(0, 0)] * stacked.ndim
        pad[axis] = (window // 2, window // 2)
        stacked = jnp.concatenate(
            [
                jnp.pad(
                    jax.lax.slice_in_dim(stacked, j, j + cells - window + 1, axis=axis),
                    pad,
                    mode="edge",
                )
                for j in range(window)
            ]
        )
    return stacked
