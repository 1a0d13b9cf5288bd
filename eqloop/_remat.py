"""What the forward pass of an iteration keeps for the backward pass; the rest is computed again."""

from collections.abc import Callable
from typing import Literal, TypeVar

import jax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

F = TypeVar("F", bound=Callable)
Keep = Literal["marked", "products"]

_MARKED = "eqloop.marked"


def mark(x: Array) -> Array:
    """The identity; says that `x` is small for the work that made it, and so worth keeping."""
    return checkpoint_name(x, _MARKED)


def rematerialised(f: F, keep: Keep = "marked") -> F:
    """`f`, which keeps little of what it computes and computes the rest again going backwards.

    **Arguments:**

    - `keep`: "marked": the arguments and what f marks (for `nn.Block` the outputs of the two
        branches: with the state itself three states per iteration). "products": the results of
        matrix products with weights too: about 12 states per iteration for an MLP ratio of 4,
        and in exchange almost nothing is multiplied twice.
    """
    policies = jax.checkpoint_policies
    policy = policies.save_only_these_names(_MARKED)
    if keep == "products":
        # Attention's products have batch axes (heads), so they are not among them.
        policy = policies.save_from_both_policies(policy, policies.dots_with_no_batch_dims_saveable)
    elif keep != "marked":
        raise ValueError(f'keep = {keep!r} must be "marked" or "products"')
    return jax.checkpoint(f, prevent_cse=False, policy=policy)  # pyright: ignore
