"""The initial weights of TRM, HRM, EqR and FPRM."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, PRNGKeyArray

from ..nn import Linear
from ..starts import TruncatedNormal


def normal(std: float, *shape: int, key: PRNGKeyArray) -> Array:
    """Numbers of a truncated normal distribution of this standard deviation."""
    return TruncatedNormal(std)(jnp.zeros(shape), key)


def logits_of(share: float, width: int) -> Array:
    """The vector whose sigmoid is `share`."""
    return jnp.full(width, math.log(share / (1 - share)))


def new_q_head(width: int) -> Linear:
    """A q head as its authors begin: `q_halt` and `q_continue` are -5 whatever the state."""
    head = Linear(width, 2, key=jr.key(0))
    first = jnp.zeros((2, width)), jnp.full(2, -5.0)
    return eqx.tree_at(lambda m: (m.weight, m.bias), head, first)


def initialised(tree: Any, key: PRNGKeyArray) -> Any:
    """`tree` with the weights of its linear layers drawn with std `1 / sqrt(inputs)`."""

    def layers(tree: Any) -> list[Linear]:
        nodes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, Linear))
        return [node for node in nodes if isinstance(node, Linear)]

    shapes = [layer.weight.shape for layer in layers(tree)]
    weights = [
        normal(1 / math.sqrt(shape[1]), *shape, key=k)
        for shape, k in zip(shapes, jr.split(key, len(shapes)), strict=True)
    ]
    return eqx.tree_at(lambda tree: [layer.weight for layer in layers(tree)], tree, weights)
