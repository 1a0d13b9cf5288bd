"""A transformer block whose mixer and normalisation are chosen from outside."""

from collections.abc import Callable

import equinox as eqx
from jaxtyping import Array, Float

from ._attention import Attention
from ._swiglu import CellMLP, SwiGLU

Branch = Callable[[Float[Array, "*grid width"]], Float[Array, "*grid width"]]
Join = Callable[[Float[Array, "*grid width"], Branch, int], Float[Array, "*grid width"]]


class MixerBlock(eqx.Module):
    """A sub-block that mixes cells, then one for each cell alone.

    What a sub-block does with its branch is an argument of the call: `join(x, branch, axis)`
    returns the next x, and `axis` is the axis that the branch contracts, along which a norm of its
    input or output belongs: the features, or the cells for `CellMLP`.

    **Arguments:**

    - `mixer`: `Attention` or `CellMLP`.
    - `mlp`: the perceptron of each cell.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> mixer, mlp = eqloop.nn.CellMLP(9, 4, key=jr.key(0)), eqloop.nn.SwiGLU(8, 4, key=jr.key(1))
    >>> block = eqloop.nn.MixerBlock(mixer, mlp)
    >>> x = jr.normal(jr.key(2), (9, 8))
    >>> join = lambda x, branch, axis: x + branch(x)            # no norm
    >>> y = x + mixer(x)
    >>> print(jnp.abs(block(x, join) - (y + mlp(y))).max() < 1e-6)
    True

    ```
    """

    mixer: Attention | CellMLP
    mlp: SwiGLU

    def __call__(self, x: Float[Array, "*grid width"], join: Join) -> Float[Array, "*grid width"]:
        """Apply both sub-blocks to `x`, shape `(*grid, width)`, by `join`."""
        x = join(x, self.mixer, -2 if isinstance(self.mixer, CellMLP) else -1)
        return join(x, self.mlp, -1)
