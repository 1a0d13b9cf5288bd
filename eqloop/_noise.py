"""Gaussian noise, and a loop whose every iteration adds it to the state."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import PRNGKeyArray, PyTree

from ._iteration import Iteration


def normal_like(tree: PyTree, key: PRNGKeyArray) -> PyTree:
    """Standard normal numbers in the shapes of the floating-point arrays of `tree`."""
    leaves, structure = jtu.tree_flatten(eqx.filter(tree, eqx.is_inexact_array))
    keys = jr.split(key, max(1, len(leaves)))
    samples = [jr.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=False)]
    return jtu.tree_unflatten(structure, samples)


class NoisyInput(eqx.Module):
    """The input of a `PathNoise`; see `PathNoise.inject`."""

    x: PyTree
    key: PRNGKeyArray
    iteration: Iteration


class PathNoise(eqx.Module):
    """`z <- f(z, x) + std eps` with Gaussian noise eps, independent in every entry of the state.

    The map is a function of the state and of `noisy.inject(x, key)`, which has the key of the
    noise. `Unroll` draws eps anew at every iteration. Any other solver needs a map that stays the
    same: eps is drawn once, frozen within the solve, so that a fixed point exists. Gradients are
    those of the noisy map for the eps that were drawn: on a linear map `A z + x` a solver finds
    `(I - A)^-1 (x + std eps)` and `Implicit` differentiates that.

    Give each example and each training step another key. When not to use it: at test time, where a
    draw moves the fixed point.

    **Arguments:**

    - `f`: the map, a function `f(z, x)` of a state and an input.
    - `std`: standard deviation of an entry of the noise, in the units of the state.

    **Raises** `ValueError` for a standard deviation below 0.

    **Source:** equilibrium reasoners, which train with std 0.01.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> noisy = eqloop.PathNoise(lambda z, x: 0.5 * z + x, 0.1)
    >>> z0, x = jnp.zeros(10_000), noisy.inject(jnp.ones(10_000), jr.key(0))
    >>> for solver in (eqloop.FixedPoint(1e-6), eqloop.Unroll(20)):   # frozen; drawn anew
    ...     print(f"{eqloop.equilibrium(noisy, z0, x, solver=solver).state.std():.2f}")
    0.20
    0.12

    ```
    """

    f: Callable[[Any, Any], Any]
    std: float

    def __check_init__(self):
        if isinstance(self.std, int | float) and not 0 <= self.std < jnp.inf:
            raise ValueError(f"PathNoise: std = {self.std} must be at least 0 and finite")

    def inject(self, x: PyTree, key: PRNGKeyArray) -> NoisyInput:
        """Return the input of the noisy map: the input `x` of f, and the random `key` of its
        noise."""
        return NoisyInput(x, key, Iteration(jnp.zeros((), jnp.int32)))

    def __call__(self, z: PyTree, x: NoisyInput) -> PyTree:
        value = self.f(z, x.x)
        noise = normal_like(value, jr.fold_in(x.key, x.iteration.number))
        return jtu.tree_map(lambda a, eps: a + self.std * eps, value, noise)
