"""The q head in training: its loss, and the rows that it ends."""

import jax
import optax
from jaxtyping import Array, Bool, Float

from .._adjoint import AbstractGradient
from .._iteration import Count, stop_gradient
from .._model import AbstractLoopedModel
from .._q_head import continue_target, says_right
from .._solver import Solver
from ..run import TrainSpec


def q_losses(
    q: Float[Array, "batch 2"],
    right: Bool[Array, " batch"],
    target: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch"]:
    """The binary cross-entropy of `q_halt` with "all cells are right", and that of `q_continue`
    with its target, if there is one.

    **Source:** TRM, arXiv 2510.04871; HRM, arXiv 2506.21734.
    """
    binary = optax.sigmoid_binary_cross_entropy
    losses = binary(q[:, 0], right.astype(q.dtype))
    return losses if target is None else losses + binary(q[:, 1], target)


def bootstrapped(
    model: AbstractLoopedModel,
    inputs: Float[Array, "batch *grid channels"],
    states: Float[Array, "batch *grid width"],
    is_last: Bool[Array, " batch"],
    *,
    solver: Solver,
    gradient: AbstractGradient,
    max_steps: Count,
) -> Float[Array, " batch"]:
    """The target of `q_continue` (see `continue_target`), by one more solve from `states`, without
    derivatives.

    **Arguments:**

    - `model`: a model with a q head.
    - `inputs`: the encoded inputs, of shape (batch, *grid, channels).
    - `states`: where the solve of this step ended, of shape (batch, *grid, width).
    - `is_last`: the rows that end by age.
    - `solver`, `gradient`, `max_steps`: those of the step. Nothing is differentiated: the gradient
      only counts its iterations.
    """
    frozen = stop_gradient(model)

    def one(x, z):
        out = frozen(x, start=z, solver=solver, gradient=gradient, max_steps=max_steps)
        q = frozen.q_values(out.state)
        assert q is not None
        return q

    q = jax.vmap(one)(inputs, jax.lax.stop_gradient(states))
    return continue_target(q[:, 0], q[:, 1], is_last)


def is_thought_right(
    q: Float[Array, "batch 2"] | None, spec: TrainSpec
) -> Bool[Array, " batch"] | bool:
    """The rows that the q head ends by the rule `train.carry_q`."""
    if q is None or spec.carry_q == "none":
        return False
    return says_right(q[:, 0], q[:, 1], compare=spec.carry_q == "compare")
