"""What can be read off the weights alone, and the entropy of attention where the loop ended."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._model import LoopedTransformer


def weight_figures(model: LoopedTransformer) -> dict[str, float]:
    """Of the first block: `rho(W_x)` (the largest modulus of an eigenvalue), the 2-norm `|W_x|`,
    `|W_x| / |W_h|` (Frobenius), and `sigma_0 / sigma_10` of W_x. Empty without recall, since there
    are no such matrices; NaN where they are not finite.

    These say where an external loop without outer normalisation diverges (`rho(W_x) > 1`), and no
    more than that: the loop's own Jacobian is measured by `eqloop.stability`.
    """
    recall = model.blocks[0].recall
    if recall is None:
        return {}
    w_x, w_h = (np.asarray(each.weight, np.float64) for each in (recall.state, recall.input))
    names = ("rho_w_x", "norm_w_x", "w_x_over_w_h", "sigma_0_over_sigma_10")
    if not (np.all(np.isfinite(w_x)) and np.all(np.isfinite(w_h))):
        return dict.fromkeys(names, math.nan)
    sigma = np.linalg.svd(w_x, compute_uv=False)
    figures = (
        np.abs(np.linalg.eigvals(w_x)).max(),
        sigma[0],
        np.linalg.norm(w_x) / np.linalg.norm(w_h),
        sigma[0] / sigma[min(10, len(sigma) - 1)],
    )
    return dict(zip(names, map(float, figures), strict=True))


@eqx.filter_jit
def attention_entropy(
    model: LoopedTransformer,
    states: Float[Array, "examples *grid width"],
    inputs: Float[Array, "examples *grid width"],
) -> Float[Array, " examples"]:
    """The entropy of the attention weights of the first block, over that of even weights: from 0
    (one cell) to 1 (all alike); mean over cells and heads."""
    block = model.blocks[0]

    def one(z, e):
        r = block.inject(e)
        weights = block.attention.weights(block.branch_input(block.recalled(z, r), r))
        entropy = -jnp.sum(jax.scipy.special.xlogy(weights, weights), axis=0)
        return jnp.mean(entropy) / math.log(len(weights))

    return jax.vmap(one)(states, inputs)
