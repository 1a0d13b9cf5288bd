"""How a branch joins the residual stream."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ._linear import Linear

ResidualKind = Literal["add", "gru"]
"""The name of a residual connection: `Add` or `GRU`."""


class Add(eqx.Module):
    """The sum `z + branch`.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> print(eqloop.nn.Add()(jnp.array([3.0, 4.0]), jnp.array([1.0, -1.0])))
    [4. 3.]

    ```
    """

    def __call__(
        self, z: Float[Array, "*grid width"], branch: Float[Array, "*grid width"]
    ) -> Float[Array, "*grid width"]:
        """Return the next residual stream, in the precision of `z`. The stream `z` and the output
        `branch` of a branch have shape `(*grid, width)`."""
        return z + branch.astype(z.dtype)


class GRU(eqx.Module):
    """A gated recurrent unit whose input is the branch and whose hidden state is `z`.

    ```
    r = sigmoid(W_ir b + c_ir + W_hr z + c_hr)
    u = sigmoid(W_iz b + c_iz + W_hz z + c_hz)
    n = tanh(W_in b + c_in + r * (W_hn z + c_hn))
    z <- (1 - u) * n + u * z
    ```

    **Arguments:**

    - `width`: features per cell.
    - `key`: a random key for the initial weights.

    **Source:** Cho et al. 2014, arXiv 1406.1078, with the reset gate after the product by `W_hn`.

    ```python
    >>> import eqloop, jax, jax.numpy as jnp, jax.random as jr
    >>> zero = jax.tree.map(jnp.zeros_like, eqloop.nn.GRU(2, key=jr.key(0)))
    >>> print(zero(jnp.array([3.0, 4.0]), jnp.ones(2)))         # u = 1/2, n = 0
    [1.5 2. ]

    ```
    """

    input: Linear
    hidden: Linear

    def __init__(self, width: int, *, key: PRNGKeyArray):
        input_key, hidden_key = jr.split(key)
        self.input = Linear(width, 3 * width, key=input_key)
        self.hidden = Linear(width, 3 * width, key=hidden_key)

    def __call__(
        self, z: Float[Array, "*grid width"], branch: Float[Array, "*grid width"]
    ) -> Float[Array, "*grid width"]:
        """Return the next residual stream, as `Add` does."""
        i_reset, i_update, i_new = jnp.split(self.input(branch).astype(z.dtype), 3, axis=-1)
        h_reset, h_update, h_new = jnp.split(self.hidden(z).astype(z.dtype), 3, axis=-1)
        reset = jax.nn.sigmoid(i_reset + h_reset)
        update = jax.nn.sigmoid(i_update + h_update)
        new = jnp.tanh(i_new + reset * h_new)
        return new + update * (z - new)


def make_residual(kind: ResidualKind, width: int, *, key: PRNGKeyArray) -> Add | GRU:
    """Return the residual connection named `kind`, "add" or "gru".

    **Raises** `ValueError` for any other kind.
    """
    if kind == "add":
        return Add()
    if kind == "gru":
        return GRU(width, key=key)
    raise ValueError(f'residual = {kind!r} must be "add" or "gru"')
