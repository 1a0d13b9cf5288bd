"""What the two outputs of a q head mean, in training of a run and in `RecursiveModel`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def says_right(
    q_halt: Float[Array, " batch"], q_continue: Float[Array, " batch"], *, compare: bool
) -> Bool[Array, " batch"]:
    """Whether a q head says that all cells of a row are right: `q_halt > 0`, or
    `q_halt > q_continue` if it is to `compare` them, as in HRM."""
    return q_halt > (q_continue if compare else 0)


def continue_target(
    q_halt: Float[Array, " batch"],
    q_continue: Float[Array, " batch"],
    is_last: Bool[Array, " batch"],
) -> Float[Array, " batch"]:
    """The target of `q_continue`, from the outputs after one more solve: `sigmoid(q_halt)` for rows
    that end by age, else `sigmoid(max(q_halt, q_continue))`.

    **Source:** HRM, arXiv 2506.21734.
    """
    return jax.nn.sigmoid(jnp.where(is_last, q_halt, jnp.maximum(q_halt, q_continue)))
