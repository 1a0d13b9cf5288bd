"""The loss of one example."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Integer

from .nn import at_least_float32


def cross_entropy(
    logits: Float[Array, "*grid classes"], targets: Integer[Array, "*grid"]
) -> Float[Array, ""]:
    """Mean of `-log softmax(logits)[target]` over all cells, in float32 or wider.

    **Arguments:**

    - `logits`: class scores, shape `(*grid, classes)`.
    - `targets`: class of each cell, shape `grid`.
    """
    logits = logits.astype(at_least_float32(logits.dtype))
    return jnp.mean(
        optax.softmax_cross_entropy_with_integer_labels(logits, targets.astype(jnp.int32))
    )
