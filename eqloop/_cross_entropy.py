"""The losses of one example: the cross-entropy of its cells by softmax or stablemax."""

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


def log_stablemax(logits: Float[Array, "*grid classes"]) -> Float[Array, "*grid classes"]:
    """`log(s(x) / sum s(x))` over the classes, with `s(x) = x + 1` for x >= 0, else `1 / (1 - x)`.

    s grows linearly where softmax has an exponential, so that large logits do not saturate. It is
    computed in float64 where JAX has it, as by its authors.

    **Arguments:**

    - `logits`: class scores, shape `(*grid, classes)`.

    **Source:** Prieto et al. 2025, arXiv 2501.04697.
    """
    x = logits.astype(jnp.result_type(float))
    # Both branches are evaluated: the clipped argument keeps the one that is not taken, and its
    # derivative, finite at x = 1.
    scores = jnp.where(x < 0, 1 / (1 - jnp.minimum(x, 0)), x + 1)
    return jnp.log(scores / jnp.sum(scores, axis=-1, keepdims=True))


IGNORED = -100
"""The label of a cell without a target."""


def stablemax_cross_entropy(
    logits: Float[Array, "*grid classes"], labels: Integer[Array, "*grid"]
) -> Float[Array, ""]:
    """Mean of `-log_stablemax(logits)[label]` over the cells that have a label; 0 for none.

    **Arguments:**

    - `logits`: class scores, shape `(*grid, classes)`.
    - `labels`: class of each cell, or `IGNORED`, shape `grid`.
    """
    labels = labels.astype(jnp.int32)
    has_label = labels != IGNORED
    picked = jnp.where(has_label, labels, 0)[..., None]
    losses = -jnp.take_along_axis(log_stablemax(logits), picked, axis=-1)[..., 0]
    count = jnp.maximum(jnp.sum(has_label, dtype=losses.dtype), 1)
    return jnp.sum(jnp.where(has_label, losses, 0)) / count


CROSS_ENTROPIES = {"softmax": cross_entropy, "stablemax": stablemax_cross_entropy}
"""Name of the normalisation of the scores -> the loss of an example."""
