"""Norms of pytrees."""

import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, PyTree


def two_norm(tree: PyTree[Array]) -> Float[Array, ""]:
    """`sqrt(sum of squares)` over all leaves."""
    return jnp.sqrt(
        sum((jnp.sum(jnp.square(x)) for x in jtu.tree_leaves(tree)), start=jnp.zeros(()))
    )


def relative_residual(value: PyTree[Array], z: PyTree[Array]) -> Float[Array, ""]:
    """`|value - z| / (|value| + eps)` in the 2-norm, for `value = f(z)`."""
    size = two_norm(value)
    difference = two_norm(jtu.tree_map(lambda a, b: a - b, value, z))
    return difference / (size + jnp.finfo(size.dtype).tiny)
