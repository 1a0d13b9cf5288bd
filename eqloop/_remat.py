"""Rematerialisation: what the forward pass stores; the backward pass recomputes the rest."""

from collections.abc import Callable
from typing import Literal, TypeVar

import jax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

F = TypeVar("F", bound=Callable)
Keep = Literal["marked", "products"]

_MARKED = "eqloop.marked"


def mark(x: Array) -> Array:
    """Identity that tags `x` to be saved for the backward pass: cheap to store relative to
    recomputing it."""
    return checkpoint_name(x, _MARKED)


def rematerialised(f: F, keep: Keep = "marked") -> F:
    """`f`, which stores few intermediate values and recomputes the others in the backward pass.

    **Arguments:**

    - `f`: any function.
    - `keep`: what is stored. "marked": the arguments and the values that f passes to `mark` (for
        `nn.Block` the outputs of the two branches; with the state itself three states per
        iteration). "products": also the results of matrix products with weights (about 12 states
        per iteration for an MLP ratio of 4), so that almost no product is recomputed.

    **Raises** `ValueError` for any other `keep`.
    """
    policies = jax.checkpoint_policies
    policy = policies.save_only_these_names(_MARKED)
    if keep == "products":
        # The products inside attention have batch axes (heads), so this policy does not save them.
        policy = policies.save_from_both_policies(policy, policies.dots_with_no_batch_dims_saveable)
    elif keep != "marked":
        raise ValueError(f'keep = {keep!r} must be "marked" or "products"')
    return jax.checkpoint(f, prevent_cse=False, policy=policy)  # pyright: ignore
