"""An affine map over the last axis."""

import math

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray


class Linear(eqx.Module):
    """`y = W x + b` over the last axis of an array with any number of leading axes.

    Unlike `equinox.nn.Linear` it takes whole grids: one matrix product, with the cells as rows,
    instead of a `vmap` whose transposed layout costs a copy. Weights and bias are drawn from
    U(-1/sqrt(inputs), 1/sqrt(inputs)), as in the paper's code.

    **Arguments:**

    - `inputs`: length of the last axis of the input.
    - `outputs`: length of the last axis of the output.
    - `use_bias`: whether the map adds a bias; without, `y = W x`, and `bias` is None.
    - `key`: a random key for the initial weights.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> layer = eqloop.nn.Linear(8, 8, key=jr.key(0))
    >>> x = jnp.ones((3, 3, 8))
    >>> print(jnp.abs(layer(x) - layer(0 * x) - layer.matmul(x)).max() < 1e-6, layer(x).shape)
    True (3, 3, 8)

    ```
    """

    weight: Float[Array, "outputs inputs"]
    bias: Float[Array, " outputs"] | None

    def __init__(self, inputs: int, outputs: int, *, use_bias: bool = True, key: PRNGKeyArray):
        weight_key, bias_key = jr.split(key)
        bound = 1 / math.sqrt(inputs)
        self.weight = jr.uniform(weight_key, (outputs, inputs), minval=-bound, maxval=bound)
        self.bias = None
        if use_bias:
            self.bias = jr.uniform(bias_key, (outputs,), minval=-bound, maxval=bound)

    def matmul(self, x: Float[Array, "*grid inputs"]) -> Float[Array, "*grid outputs"]:
        """Return `W x`, in the precision of the weights; `x` has shape `(*grid, inputs)`."""
        return x.astype(self.weight.dtype) @ self.weight.T

    def __call__(
        self,
        x: Float[Array, "*grid inputs"],
        bias: Float[Array, "*grid outputs"] | None = None,
    ) -> Float[Array, "*grid outputs"]:
        """Apply the map to each cell.

        **Arguments:**

        - `x`: shape `(*grid, inputs)`.
        - `bias`: replaces the bias of the layer by one for each cell, shape `(*grid, outputs)`.

        **Returns:**

        `W x + b`, shape `(*grid, outputs)`, in the precision of the weights.
        """
        y = self.matmul(x)
        if bias is None and self.bias is not None:
            bias = add_axes(self.bias, x.ndim)
        return y if bias is None else plus(y, bias)

    def astype(self, dtype: DTypeLike) -> "Linear":
        """Return the same map with its product in `dtype`; the bias keeps its own (see `plus`)."""
        return eqx.tree_at(lambda m: m.weight, self, self.weight.astype(dtype))


def plus(y: Float[Array, "*shape"], bias: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`y + bias` in the precision of y, added in the wider of the two.

    The gradient of a float32 bias is then a float32 sum over all cells of the batch; a bfloat16
    sum would ignore terms below 1/256 of it.
    """
    wide = np.promote_types(y.dtype, bias.dtype)
    return (y.astype(wide) + bias.astype(wide)).astype(y.dtype)


def add_axes(x: Array, ndim: int) -> Array:
    """`x` with leading axes of length one, up to `ndim` axes (rank promotion is an error here)."""
    return jnp.reshape(x, (1,) * (ndim - x.ndim) + x.shape)


def at_least_float32(dtype: DTypeLike) -> np.dtype:
    """The dtype to accumulate in: float32 for narrower ones, else the dtype itself.

    **Arguments:**

    - `dtype`: a floating-point dtype.

    **Returns:**

    A NumPy dtype.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> print(eqloop.nn.at_least_float32(jnp.bfloat16), eqloop.nn.at_least_float32("float64"))
    float32 float64

    ```
    """
    return np.promote_types(dtype, np.float32)
