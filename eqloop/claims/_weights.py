"""Numbers of the weight matrices alone, and the entropy of the attention."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._iteration import advance
from .._model import AbstractLoopedModel, LoopedTransformer


def weight_figures(model: AbstractLoopedModel) -> dict[str, float]:
    """Numbers of the two matrices of the recall `W_x z + W_h e` of the first block.

    If `rho(W_x) > 1`, an external loop without outer normalisation diverges. These numbers say no
    more than that: `eqloop.stability` measures the Jacobian of the loop itself.

    **Arguments:**

    - `model`: the model.

    **Returns:**

    Empty for a model without recall, which has no such matrices, and NaN if a weight is not finite:

    - `rho_w_x`: the spectral radius of W_x, its largest modulus of an eigenvalue.
    - `norm_w_x`: the 2-norm of W_x.
    - `w_x_over_w_h`: `|W_x| / |W_h|` in the Frobenius norm.
    - `sigma_0_over_sigma_10`: the largest singular value of W_x over the eleventh.

    ```python
    >>> import eqloop, jax.random as jr
    >>> model = eqloop.LoopedTransformer((4, 4), 5, 5, 8, 2, recall="internal", key=jr.key(0))
    >>> numbers = eqloop.claims.weight_figures(model)
    >>> bool(numbers["rho_w_x"] <= numbers["norm_w_x"])
    True

    ```
    """
    recall = model.blocks[0].recall if isinstance(model, LoopedTransformer) else None
    if recall is None:
        return {}
    w_x, w_h = (np.asarray(part.weight, np.float64) for part in (recall.state, recall.input))
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


def entropy_figures(
    model: LoopedTransformer, inputs: Float[Array, "examples *grid width"], iterations: int
) -> dict[str, float]:
    """The mean of `attention_entropy` at the start of the loop and after `iterations`."""
    ends = _iterated(model, inputs, jnp.asarray(iterations, jnp.int32))
    return {
        "attention_entropy_start": float(np.mean(attention_entropy(model, inputs, inputs))),
        "attention_entropy_end": float(np.mean(attention_entropy(model, ends, inputs))),
    }


@eqx.filter_jit
def attention_entropy(
    model: LoopedTransformer,
    states: Float[Array, "examples *grid width"],
    inputs: Float[Array, "examples *grid width"],
) -> Float[Array, " examples"]:
    """The entropy of the attention weights of the first block over that of uniform weights.

    It is 0 if every cell attends to one cell and 1 if the weights are equal; the mean over cells
    and heads is taken.
    """
    block = model.blocks[0]

    def one(z, e):
        r = block.inject(e)
        weights = block.attention.weights(block.branch_input(block.recalled(z, r), r))
        entropy = -jnp.sum(jax.scipy.special.xlogy(weights, weights), axis=0)
        return jnp.mean(entropy) / math.log(len(weights))

    return jax.vmap(one)(states, inputs)


@eqx.filter_jit
def _iterated(model: LoopedTransformer, inputs: Array, iterations: Array) -> Array:
    loop = model.loop(fold=True)
    return jax.vmap(lambda e: advance(loop, e, loop.inject(e), iterations))(inputs)
