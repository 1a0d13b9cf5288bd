"""The gated perceptron of a transformer block."""

import math

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ._linear import Linear

MULTIPLE = 256


def swiglu_width(width: int, ratio: float) -> int:
    """The hidden width of a `SwiGLU`: `ratio x width x 2/3`, which gives it about the weights of a
    perceptron of `ratio x width`, rounded up to a multiple of 256.

    **Arguments:**

    - `width`: features of the input.
    - `ratio`: hidden width of the perceptron that it replaces, in units of `width`.

    **Returns:**

    An integer.

    ```python
    >>> import eqloop
    >>> print(eqloop.nn.swiglu_width(512, 4), eqloop.nn.swiglu_width(32, 4))
    1536 256

    ```
    """
    return MULTIPLE * math.ceil(round(ratio * width * 2 / 3) / MULTIPLE)


class SwiGLU(eqx.Module):
    """`W_down (silu(W_gate x) * W_up x)` over the last axis, without biases.

    **Arguments:**

    - `width`: features of the input and of the output.
    - `ratio`: see `swiglu_width`.
    - `key`: a random key for the initial weights.

    **Source:** Shazeer 2020, arXiv 2002.05202.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> layer = eqloop.nn.SwiGLU(8, 4, key=jr.key(0))
    >>> print(layer(jnp.ones((3, 3, 8))).shape, layer.gate.weight.shape)
    (3, 3, 8) (256, 8)

    ```
    """

    gate: Linear
    up: Linear
    down: Linear

    def __init__(self, width: int, ratio: float, *, key: PRNGKeyArray):
        hidden = swiglu_width(width, ratio)
        gate_key, up_key, down_key = jr.split(key, 3)
        self.gate = Linear(width, hidden, use_bias=False, key=gate_key)
        self.up = Linear(width, hidden, use_bias=False, key=up_key)
        self.down = Linear(hidden, width, use_bias=False, key=down_key)

    @jax.named_scope("swiglu")
    def __call__(self, x: Float[Array, "*grid width"]) -> Float[Array, "*grid width"]:
        """Apply the perceptron to each cell of `x`, shape `(*grid, width)`."""

        # For the backward pass JAX would store six arrays of the hidden width; all follow from the
        # two products without another product. `down` is inside because its input is one of them.
        def gated(gate, up):
            return self.down(jax.nn.silu(gate) * up)

        return jax.checkpoint(gated, prevent_cse=False)(self.gate(x), self.up(x))


class CellMLP(eqx.Module):
    """A `SwiGLU` over the cells of a line, the same for every feature: mixes cells as attention
    does, with weights that depend on their places only.

    **Arguments:**

    - `cells`: number of cells; the layer serves no other.
    - `ratio`: see `swiglu_width`.
    - `key`: a random key for the initial weights.

    **Source:** MLP-Mixer, arXiv 2105.01601; TRM, arXiv 2510.04871.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> mixer = eqloop.nn.CellMLP(9, 4, key=jr.key(0))
    >>> x = jr.normal(jr.key(1), (9, 4))
    >>> print(jnp.abs(mixer(x)[:, :2] - mixer(x[:, :2])).max() < 1e-5)      # feature by feature
    True

    ```
    """

    mlp: SwiGLU

    def __init__(self, cells: int, ratio: float, *, key: PRNGKeyArray):
        self.mlp = SwiGLU(cells, ratio, key=key)

    def __call__(self, x: Float[Array, "cells width"]) -> Float[Array, "cells width"]:
        """Mix the cells of `x`, shape `(cells, width)`."""
        return self.mlp(x.T).T
