"""Recall: the input is injected at every iteration."""

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ._linear import Linear, add_axes, plus

RecallKind = str
"""A name of `RECALLS`: `none`, `external`, `internal`, or another row. `Block` checks it."""


class Recall(eqx.Module):
    """`R(z, e) = W_x z + W_h e + b`, with `W_x` on the state and `W_h` on the input embedding.

    External recall replaces the residual stream by `R(z, e)` before the block; internal recall
    uses `R(N_pre(z), e)` as the input of each residual branch.

    **Arguments:**

    - `width`: features per cell.
    - `key`: a random key for the initial weights.

    **Source:** arXiv 2604.15259.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> recall, zeros = eqloop.nn.Recall(8, key=jr.key(0)), jnp.zeros((3, 3, 8))
    >>> z = e = jnp.ones((3, 3, 8))
    >>> sum_of_parts = recall(z, zeros) + recall(zeros, recall.inject(e))
    >>> print(jnp.abs(recall(z, recall.inject(e)) - sum_of_parts).max() < 1e-6)
    True

    ```
    """

    state: Linear
    input: Linear

    def __init__(self, width: int, *, key: PRNGKeyArray):
        state_key, input_key = jr.split(key)
        self.state = Linear(width, width, key=state_key)
        self.input = Linear(width, width, key=input_key)

    def inject(self, e: Float[Array, "*grid width"]) -> Float[Array, "*grid width"]:
        """Return `W_h e + b`, which is constant over the loop, for the embedding `e`, shape
        `(*grid, width)`."""
        assert self.state.bias is not None
        return plus(self.input(e), add_axes(self.state.bias, e.ndim))

    @jax.named_scope("recall")
    def __call__(
        self, z: Float[Array, "*grid width"], injected: Float[Array, "*grid width"]
    ) -> Float[Array, "*grid width"]:
        """Return `R(z, e)`, for a state `z` and `injected = recall.inject(e)`, both of shape
        `(*grid, width)`."""
        return self.state(z, injected)
