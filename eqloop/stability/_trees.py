"""Small operations on pytrees of arrays that several axes share."""

import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Float, PyTree


def take(tree: PyTree, index: np.ndarray | int) -> PyTree:
    """Rows of every array, or one."""
    return jtu.tree_map(lambda leaf: leaf[index], tree)


def head(tree: PyTree) -> PyTree:
    """The first row of every array."""
    return jtu.tree_map(lambda leaf: leaf[0], tree)


def subtract(a: PyTree[Array], b: PyTree[Array]) -> PyTree[Array]:
    return jtu.tree_map(lambda a, b: a - b, a, b)


def inner(a: PyTree[Array], b: PyTree[Array]) -> Float[Array, ""]:
    """The sum of products over all leaves."""
    leaves = zip(jtu.tree_leaves(a), jtu.tree_leaves(b), strict=True)
    return sum((jnp.sum(x * y) for x, y in leaves), start=jnp.zeros(()))
