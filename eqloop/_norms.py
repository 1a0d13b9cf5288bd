"""Norms of pytrees."""

import functools
from collections.abc import Callable

import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Float, PyTree


def two_norm(tree: PyTree[Array]) -> Float[Array, ""]:
    """`sqrt(sum of squares)` over all leaves, in the widest of their dtypes."""
    sums = [jnp.sum(jnp.square(x)) for x in jtu.tree_leaves(tree)]
    if not sums:
        return jnp.zeros(())
    dtype = functools.reduce(np.promote_types, (each.dtype for each in sums))
    return jnp.sqrt(sum((each.astype(dtype) for each in sums), start=jnp.zeros((), dtype)))


def normalise(tree: PyTree[Array]) -> tuple[PyTree[Array], Float[Array, ""]]:
    """`tree / |tree|` and `|tree|`, 2-norms; zeros and 1 for zeros."""
    size = two_norm(tree)
    scale = jnp.where(size > 0, size, 1)
    return jtu.tree_map(lambda x: x / scale.astype(x.dtype), tree), scale


def largest_cell_norm(tree: PyTree[Array]) -> Float[Array, ""]:
    """The largest 2-norm of a cell; a cell is what lies along the last axis of a leaf.

    Stricter than `two_norm` of the whole state where a few cells move and the rest stands still.
    """
    leaves = [jnp.atleast_1d(x) for x in jtu.tree_leaves(tree)]
    cells = [jnp.max(jnp.sum(jnp.square(x), axis=-1), initial=0) for x in leaves]
    return jnp.sqrt(jnp.max(jnp.stack(cells)))


def relative(
    value: PyTree[Array], z: PyTree[Array], norm: Callable = two_norm
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """`|value - z|`, `|value|` and their quotient, which is inf where the size overflows."""
    size = norm(value)
    difference = norm(jtu.tree_map(lambda a, b: a - b, value, z))
    quotient = difference / (size + jnp.finfo(size.dtype).tiny)
    return difference, size, jnp.where(size < jnp.inf, quotient, jnp.inf)


def relative_residual(value: PyTree[Array], z: PyTree[Array]) -> Float[Array, ""]:
    """`|value - z| / (|value| + eps)` in the 2-norm, for `value = f(z)`."""
    return relative(value, z)[2]
