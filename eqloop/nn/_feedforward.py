"""The two-layer perceptron of a transformer block."""

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ._gelu import gelu
from ._linear import Linear


class FeedForward(eqx.Module):
    """`W_2 gelu(W_1 x + b_1) + b_2` for each cell, with the exact (erf) GELU.

    **Arguments:**

    - `width`: features per cell.
    - `ratio`: width of the hidden layer, in units of `width`.
    - `key`: a random key for the initial weights.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> layer = eqloop.nn.FeedForward(8, key=jr.key(0))
    >>> x = jr.normal(jr.key(1), (3, 3, 8))
    >>> print(jnp.abs(layer(x)[0] - layer(x[0])).max() < 1e-6, layer.hidden.weight.shape)
    True (32, 8)

    ```
    """

    hidden: Linear
    output: Linear

    def __init__(self, width: int, ratio: int = 4, *, key: PRNGKeyArray):
        hidden_key, output_key = jr.split(key)
        self.hidden = Linear(width, ratio * width, key=hidden_key)
        self.output = Linear(ratio * width, width, key=output_key)

    @jax.named_scope("feedforward")
    def __call__(
        self,
        x: Float[Array, "*grid width"],
        bias: Float[Array, "*grid hidden"] | None = None,
    ) -> Float[Array, "*grid width"]:
        """Apply the perceptron to each cell.

        **Arguments:**

        - `x`: shape `(*grid, width)`.
        - `bias`: replaces `b_1` by one for each cell, shape `(*grid, ratio * width)`.

        **Returns:**

        An array of shape `(*grid, width)`.
        """
        return self.output(gelu(self.hidden(x, bias)))
