"""Norms of pytrees."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Float, PyTree


def two_norm(tree: PyTree[Array]) -> Float[Array, ""]:
    """`sqrt(sum of squares)` over all leaves, in the widest of their dtypes. Right also where the
    squares would overflow or underflow."""
    norms = [_leaf_norm(jnp.ravel(x)) for x in jtu.tree_leaves(tree)]
    if len(norms) > 1:
        return _leaf_norm(_stack(norms))
    return norms[0] if norms else jnp.zeros(())


def scale_of(x: Float[Array, "..."]) -> Float[Array, ""]:
    """The power of two at or below the largest absolute value, which no gradient passes through.

    `x / scale_of(x)` has the digits of `x`, and squares and products that neither overflow nor
    all underflow. Some power of two where `x` is zero or not finite.
    """
    largest = jnp.max(jnp.abs(jax.lax.stop_gradient(x)), initial=0)
    # The largest power of two, ldexp takes for inf.
    exponent = jnp.minimum(jnp.frexp(largest)[1] - 1, jnp.finfo(largest.dtype).maxexp - 2)
    return jnp.ldexp(jnp.ones_like(largest), exponent)


def _leaf_norm(x: Float[Array, "*batch n"]) -> Float[Array, "*batch"]:
    """The 2-norm along the last axis."""
    scale = scale_of(x)
    return scale * jnp.sqrt(jnp.sum(jnp.square(x / scale), axis=-1))


def _stack(scalars: list[Float[Array, ""]]) -> Float[Array, " n"]:
    dtype = functools.reduce(np.promote_types, (x.dtype for x in scalars))
    return jnp.stack([x.astype(dtype) for x in scalars])


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
    return jnp.max(_stack([jnp.max(_leaf_norm(x), initial=0) for x in leaves]))


def relative(
    value: PyTree[Array], z: PyTree[Array], norm: Callable = two_norm
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """`|value - z|`, `|value|` and their quotient, which is inf where the size overflows."""
    size = jnp.asarray(norm(value))
    difference = jnp.asarray(norm(jtu.tree_map(lambda a, b: a - b, value, z)))
    quotient = difference / (size + jnp.finfo(size.dtype).tiny)
    return difference, size, jnp.where(size < jnp.inf, quotient, jnp.inf)


def relative_residual(value: PyTree[Array], z: PyTree[Array]) -> Float[Array, ""]:
    """`|value - z| / (|value| + eps)` in the 2-norm, for `value = f(z)`."""
    return relative(value, z)[2]
