"""Small operations on pytrees of arrays that several axes share."""

import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PyTree


def take(tree: PyTree, index: np.ndarray | int) -> PyTree:
    """Rows of every array, or one."""
    return jtu.tree_map(lambda leaf: leaf[index], tree)


def head(tree: PyTree) -> PyTree:
    """The first row of every array."""
    return jtu.tree_map(lambda leaf: leaf[0], tree)


def subtract(a: PyTree[Array], b: PyTree[Array]) -> PyTree[Array]:
    return jtu.tree_map(lambda a, b: a - b, a, b)


def single(tree: PyTree) -> PyTree:
    """A batch of one."""
    return jtu.tree_map(lambda leaf: jnp.asarray(leaf)[None], tree)


def inner(a: PyTree[Array], b: PyTree[Array], dtype: DTypeLike = float) -> Float[Array, ""]:
    """The sum of products over all leaves, added up in `dtype`."""
    leaves, zero = zip(jtu.tree_leaves(a), jtu.tree_leaves(b), strict=True), jnp.zeros((), dtype)
    return sum((jnp.sum(x * y).astype(zero.dtype) for x, y in leaves), start=zero)
