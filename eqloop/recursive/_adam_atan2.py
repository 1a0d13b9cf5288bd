"""AdamATan2: Adam with an arctangent in place of the quotient."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree


def adam_atan2(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.95,
    weight_decay: float = 0.1,
    mask: Any = None,
) -> optax.GradientTransformation:
    """`p <- (1 - lr weight_decay) p - lr / (1 - b1^t) atan2(m, sqrt(v) / sqrt(1 - b2^t))`, with the
    moments m and v of Adam.

    It needs no epsilon, and does not depend on the scale of the gradient. The bias correction of
    the first moment stands outside of the arctangent, so that the first step is 0.997 lr; inside,
    it would be 0.785 lr.

    **Arguments:**

    - `learning_rate`: a number, or a schedule.
    - `b1`, `b2`: rates of the moving averages of the gradient and of its square.
    - `weight_decay`: factor of the decay, which is not part of the moments.
    - `mask`: which arrays decay, as in `optax.add_decayed_weights`; by default all.

    **Returns:**

    An `optax.GradientTransformation`.

    **Source:** Everett et al. 2024, arXiv 2407.05872; package adam-atan2 0.0.3, which TRM, HRM and
    EqR train with.

    ```python
    >>> import eqloop, jax.numpy as jnp, optax
    >>> rule, p = eqloop.recursive.adam_atan2(0.1, weight_decay=0.0), jnp.zeros(2)
    >>> update, _ = rule.update(jnp.array([1e-6, -3.0]), rule.init(p), p)
    >>> print(update.round(5))
    [-0.09967  0.09967]

    ```
    """

    def init(params: PyTree) -> optax.ScaleByAdamState:
        # Two arrays each: one buffer cannot be donated twice.
        first, second = (optax.tree.zeros_like(params) for _ in range(2))
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), first, second)

    def update(gradient: PyTree, state: optax.ScaleByAdamState, params: PyTree = None):
        del params
        steps = jnp.asarray(state.count) + 1
        first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, gradient)
        second = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, gradient)

        def direction(m: Array, v: Array) -> Array:
            t = steps.astype(m.dtype)
            return jnp.atan2(m, jnp.sqrt(v) / jnp.sqrt(1 - b2**t)) / (1 - b1**t)

        moved = jax.tree.map(direction, first, second)
        return moved, optax.ScaleByAdamState(steps, first, second)

    return optax.chain(
        optax.GradientTransformation(init, update),  # pyright: ignore[reportArgumentType]
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
