"""The growth of a perturbation of the state, split over the parts of the block."""

import dataclasses
from collections.abc import Callable, Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._model import LoopedTransformer
from .._norms import normalise
from ..nn import Block, Loop
from ..stability import block_means

BLOCKS = 8
Stage = Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class GrowthByPart:
    """The leading Lyapunov exponent of each example as a sum over the parts of the loop.

    **Attributes:**

    - `parts`: their names in the order in which they are applied: "recall", "attention" and
      "feedforward", with "block 1: " and so on before it if there is more than one block.
    - `growth`: the mean of `log(|v_after| / |v_before|)` per iteration, over each part, shape
      `(examples, parts)`. The sum over the parts is the leading exponent.
    - `errors`: half of the 95 % intervals of these means (see `eqloop.stability.block_means`).
    """

    parts: list[str]
    growth: Float[np.ndarray, "examples parts"]
    errors: Float[np.ndarray, "examples parts"]


def growth_by_part(
    model: LoopedTransformer,
    inputs: Float[Array, "examples *grid width"],
    *,
    key: PRNGKeyArray,
    iterations: int = 256,
) -> GrowthByPart:
    """Attribute the leading Lyapunov exponent to recall, attention and MLP sub-blocks.

    A random vector is pushed forward by the Jacobian of each part in turn, along the orbit from the
    own start of the model. After the first half of the iterations it has the direction that grows
    fastest; the logarithms of its growth over the parts are averaged over the second half. They add
    up to the exponent exactly. A part includes its residual connection and its norms.

    **Arguments:**

    - `model`: the model.
    - `inputs`: embeddings of the examples, as `make_problem` makes them.
    - `key`: a random key.
    - `iterations`: iterations per orbit, at least 16.

    **Returns:**

    The `GrowthByPart`.

    **Raises** `ValueError` for fewer than 16 iterations.

    ```python
    >>> import eqloop, jax.random as jr
    >>> model = eqloop.LoopedTransformer((4,), 1, 2, 8, 2, recall="external", key=jr.key(0))
    >>> inputs = jr.normal(jr.key(1), (1, 4, 8))
    >>> growth = eqloop.claims.growth_by_part(model, inputs, key=jr.key(2), iterations=16)
    >>> print(growth.parts, growth.growth.shape)
    ['recall', 'attention', 'feedforward'] (1, 3)

    ```
    """
    if iterations < 2 * BLOCKS:
        raise ValueError(f"iterations = {iterations} must be at least {2 * BLOCKS}")
    loop = model.loop()
    several = len(loop.blocks) > 1
    parts = [
        f"block {number}: {name}" if several else name
        for number, name, _ in _stages(loop, inputs[0])
    ]
    logs = np.asarray(_logs(loop, inputs, jr.split(key, len(inputs)), iterations), np.float64)
    length = iterations // 2 // BLOCKS
    late = logs[:, iterations // 2 :][:, : BLOCKS * length]
    means = late.reshape(len(late), BLOCKS, length, -1).mean(axis=2)
    return GrowthByPart(parts, *block_means(means))


def _stages(loop: Loop, e: Array) -> Iterator[tuple[int, str, Stage]]:
    """The number of the block, the name and the function of each part of an iteration."""
    for number, block in enumerate(loop.blocks, 1):
        assert isinstance(block, Block)  # `model.loop()` folds none
        yield from ((number, *stage) for stage in block.stages(block.inject(e)))


@eqx.filter_jit
def _logs(
    loop: Loop, inputs: Array, keys: PRNGKeyArray, iterations: int
) -> Float[Array, "examples iterations parts"]:
    def one(e: Array, key: PRNGKeyArray) -> Array:
        stages = [stage for _, _, stage in _stages(loop, e)]

        def iteration(carry, _):
            z, v = carry
            logs = []
            for stage in stages:
                z, v = jax.jvp(stage, (z,), (v,))
                v, size = normalise(v)
                logs.append(jnp.log(size))
            return (z, v), jnp.stack(logs)

        start = jr.normal(key, e.shape, e.dtype)
        return jax.lax.scan(iteration, (e, start), length=iterations)[1]

    return jax.vmap(one)(inputs, keys)
