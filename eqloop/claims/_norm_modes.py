"""Directions of the state that the norms of a block leave exactly neutral or remove."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._model import LoopedTransformer
from .._norms import two_norm
from ..stability import state_jacobian
from ._problem import RecurrentMap


@dataclasses.dataclass(frozen=True)
class NormModes:
    """The exact modes that the norms leave in the Jacobian `J = df/dz` of a loop.

    **Attributes:**

    - `zero`: number of eigenvalues that are exactly 0, one per cell, and as many Lyapunov exponents
      of minus infinity: with an outer norm the next state has a fixed size in each cell, so J has
      the left null vector `y / g^2` there, for `y = f(z)` and the gain g. 0 without an outer norm.
    - `zero_residual`: `|J^T l| / |J^T v|` for a random combination l of these vectors and a random
      vector v of the same norm, shape `(examples,)`: of the order of rounding. NaN without an outer
      norm.
    - `neutral_residual`: `|J s - s| / |s|` for a random combination s of the scales of the cells,
      where each cell points along its own state, shape `(examples,)`. 0 would be an eigenvalue of
      exactly 1. A norm before each branch makes that of one sub-block 0, but not that of a block:
      the MLP sub-block sees the sum of the scaled state and the branch of the attention.
    - `statement`: what this means, in a sentence.
    """

    zero: int
    zero_residual: Float[np.ndarray, " examples"]
    neutral_residual: Float[np.ndarray, " examples"]
    statement: str


def norm_modes(
    model: LoopedTransformer,
    states: Float[Array, "examples *grid width"],
    inputs: Float[Array, "examples *grid width"],
    *,
    key: PRNGKeyArray,
) -> NormModes:
    """Name the exact modes that the norm placement of a model leaves, and measure them.

    **Arguments:**

    - `model`: the model.
    - `states`: states at which to measure, such as the ends of orbits.
    - `inputs`: embeddings of the examples, as `make_problem` makes them.
    - `key`: a random key.

    **Returns:**

    The `NormModes`.

    ```python
    >>> import eqloop, jax.random as jr
    >>> model = eqloop.LoopedTransformer((4,), 1, 2, 8, 2, norm="post", key=jr.key(0))
    >>> states, inputs = jr.normal(jr.key(1), (2, 1, 4, 8))
    >>> modes = eqloop.claims.norm_modes(model, states, inputs, key=jr.key(2))
    >>> print(modes.zero, bool(modes.zero_residual[0] < 1e-5))
    4 True

    ```
    """
    loop = model.loop()
    keys = jr.split(key, len(states))
    neutral, zero = (np.asarray(a) for a in _residuals(RecurrentMap(loop), states, inputs, keys))
    cells = states[0].size // states.shape[-1]
    if loop.blocks[-1].norms.out is None:
        kind = loop.blocks[-1].norms.kind
        statement = f"no exact mode: norm placement {kind} does not fix the size of a cell"
        return NormModes(0, np.full(len(states), np.nan), neutral, statement)
    statement = (
        f"{cells} eigenvalues are exactly 0, one for the scale of each cell, which the outer norm"
        " removes; none is exactly 1"
    )
    return NormModes(cells, zero, neutral, statement)


@eqx.filter_jit
def _residuals(f: RecurrentMap, states: Array, inputs: Array, keys: PRNGKeyArray):
    def one(z: Array, e: Array, key: PRNGKeyArray) -> tuple[Array, Array]:
        cell_key, probe_key = jr.split(key)
        per_cell = jr.normal(cell_key, (*z.shape[:-1], 1), z.dtype)
        jacobian = state_jacobian(f, z, e)
        scale = per_cell * z
        neutral = two_norm(jacobian.mv(scale) - scale) / two_norm(scale)
        out = f.loop.blocks[-1].norms.out
        if out is None:
            return neutral, jnp.full_like(neutral, jnp.nan)
        left = per_cell * f(z, e) / jnp.square(out.gain).reshape((1,) * (z.ndim - 1) + (-1,))
        probe = jr.normal(probe_key, z.shape, z.dtype)
        probe = probe * two_norm(left) / two_norm(probe)
        return neutral, two_norm(jacobian.T.mv(left)) / two_norm(jacobian.T.mv(probe))

    return jax.vmap(one)(states, inputs, keys)
