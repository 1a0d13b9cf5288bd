"""Norms of pytrees."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree


def two_norm(tree: PyTree[Array]) -> Float[Array, ""]:
    """`sqrt(sum of squares)` over all leaves, in the widest of their dtypes. Squares do not
    overflow or underflow.

    **Arguments:**

    - `tree`: a pytree of floating-point arrays of any shapes.

    **Returns:**

    A scalar, in the units of the entries; 0 for a tree without entries.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> print(eqloop.two_norm({"a": jnp.array([3.0]), "b": jnp.array(4.0)}))
    5.0

    ```
    """
    norms = [_leaf_norm(jnp.ravel(x)) for x in jtu.tree_leaves(tree)]
    if len(norms) > 1:
        return _leaf_norm(_stack(norms))
    return norms[0] if norms else jnp.zeros(())


def scale_of(x: Float[Array, "..."]) -> Float[Array, ""]:
    """The power of two at or below the largest absolute value of `x`, without a gradient.

    `x / scale_of(x)` is exact, and its squares and products neither overflow nor all underflow. If
    `x` is zero or not finite, the result is an arbitrary power of two.
    """
    largest = jnp.max(jnp.abs(jax.lax.stop_gradient(x)), initial=0)
    # `ldexp` returns inf for the largest power of two, so stay one below it.
    exponent = jnp.minimum(jnp.frexp(largest)[1] - 1, jnp.finfo(largest.dtype).maxexp - 2)
    return jnp.ldexp(jnp.ones_like(largest), exponent)


def sum_is_finite(x: Float[Array, "..."]) -> Bool[Array, ""]:
    """Whether no element of `x` is NaN or infinite, nor their sum, without a gradient."""
    return jnp.isfinite(jax.lax.stop_gradient(jnp.sum(x)))


def _leaf_norm(x: Float[Array, "*batch n"]) -> Float[Array, "*batch"]:
    """The 2-norm along the last axis."""
    scale = scale_of(x)
    return scale * jnp.sqrt(jnp.sum(jnp.square(x / scale), axis=-1))


def _stack(scalars: list[Float[Array, ""]]) -> Float[Array, " n"]:
    dtype = functools.reduce(np.promote_types, (x.dtype for x in scalars))
    return jnp.stack([x.astype(dtype) for x in scalars])


def normalise(tree: PyTree[Array]) -> tuple[PyTree[Array], Float[Array, ""]]:
    """`tree / |tree|` and `|tree|`, in the 2-norm; a tree of zeros gives zeros and 1."""
    size = two_norm(tree)
    scale = jnp.where(size > 0, size, 1)
    return jtu.tree_map(lambda x: x / scale.astype(x.dtype), tree), scale


def largest_cell_norm(tree: PyTree[Array]) -> Float[Array, ""]:
    """The largest 2-norm along the last axis of any leaf: of the features of one cell.

    As the norm of a solver it is stricter than `two_norm` if a few cells move while the others
    have converged.

    **Arguments:**

    - `tree`: a pytree of at least one floating-point array. The last axis of an array has the
        features of a cell; an array without axes is one feature of one cell.

    **Returns:**

    A scalar, in the units of the entries.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> print(eqloop.largest_cell_norm(jnp.array([[3.0, 4.0], [0.0, 1.0]])))
    5.0

    ```
    """
    leaves = [jnp.atleast_1d(x) for x in jtu.tree_leaves(tree)]
    return jnp.max(_stack([jnp.max(_leaf_norm(x), initial=0) for x in leaves]))


def relative(
    value: PyTree[Array], z: PyTree[Array], norm: Callable = two_norm
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """`|value - z|`, `|value|` and their quotient, which is inf if `|value|` overflows."""
    size = jnp.asarray(norm(value))
    difference = jnp.asarray(norm(jtu.tree_map(lambda a, b: a - b, value, z)))
    quotient = difference / (size + jnp.finfo(size.dtype).tiny)
    return difference, size, jnp.where(size < jnp.inf, quotient, jnp.inf)


def relative_residual(value: PyTree[Array], z: PyTree[Array]) -> Float[Array, ""]:
    """`|value - z| / (|value| + eps)` in the 2-norm, for `value = f(z)`."""
    return relative(value, z)[2]
