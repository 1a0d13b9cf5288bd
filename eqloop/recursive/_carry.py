"""Carried state: rows of a batch continue from segment to segment until they end."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from .._solver import Damping
from ._states import LowLevel, OneState, State, TwoLevels


class Puzzles(NamedTuple):
    """The puzzles of a batch.

    **Attributes:**

    - `inputs`: the token of each cell, shape `(batch, cells)`.
    - `labels`: the class of each cell, or -100, of the same shape.
    - `puzzle_identifiers`: which vector each puzzle has, shape `(batch,)`.
    """

    inputs: Int[Array, "batch cells"]
    labels: Int[Array, "batch cells"]
    puzzle_identifiers: Int[Array, " batch"]


class Carry(eqx.Module):
    """The rows of a batch between two segments; without derivatives.

    **Attributes:**

    - `state`: the state of the loop of each row, with its parts as `z_H`, `z_L` or `z`.
    - `damping`: what `eqloop.AdaptiveDamping` remembers of each row, or None.
    - `steps`: segments that each row has been worked on.
    - `halted`: rows that have ended: the puzzle that is offered next takes their place.
    - `current`: the puzzles that were worked on.
    - `key`: a random key, from which the next segment draws what it is not given.
    """

    state: State
    damping: Damping | None
    steps: Int[Array, " batch"]
    halted: Bool[Array, " batch"]
    current: Puzzles
    key: PRNGKeyArray

    @property
    def z_H(self) -> Float[Array, "batch positions width"]:
        """The high level of TRM, HRM and EqR."""
        assert isinstance(self.state, TwoLevels)
        return self.state.z_H

    @property
    def z_L(self) -> Float[Array, "batch positions width"]:
        """The low level of TRM, HRM and EqR, or the only one of TRM."""
        assert isinstance(self.state, TwoLevels | LowLevel)
        return self.state.z_L

    @property
    def z(self) -> Float[Array, "batch positions width"]:
        """The state of FPRM."""
        assert isinstance(self.state, OneState)
        return self.state.z


def replaced(rows: Bool[Array, " batch"], new: PyTree, old: PyTree) -> PyTree:
    """`new` in these rows, else `old`, for every array of two alike pytrees of batches."""
    return jax.tree.map(lambda a, b: jax.vmap(jnp.where)(rows, a, b), new, old)
