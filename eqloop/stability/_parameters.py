"""Scalar parameters of a map, for `continuation`: each gives the map at a value s."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._closed_map import close
from .._iteration import Map
from .._noise import PathNoise

Parameter = Callable[[Any, Any], Map]
"""A function of a map f and a number s that returns the map at s."""


def blend(a: PyTree, b: PyTree, s: Float[Array, ""]) -> PyTree:
    """`(1 - s) a + s b` for the floating-point arrays; other leaves are those of `a`."""

    def mix(a, b):
        if not eqx.is_inexact_array(a):
            return a
        weight = s.astype(a.dtype)
        return (1 - weight) * a + weight * jnp.asarray(b, a.dtype)

    return jtu.tree_map(mix, a, b)


class Damping(eqx.Module):
    """`z + s (f(z, x) - z)`: the map at s = 1, no motion at s = 0. The fixed points are the same
    for all s, and an eigenvalue v of `df/dz` becomes `1 + s (v - 1)`.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> f, z = lambda z, x: -3 * z, jnp.ones(1)
    >>> branch = eqloop.stability.continuation(
    ...     f, 0 * z, None, parameter=eqloop.stability.Damping(), start=0.1)
    >>> for event in branch.bifurcations:                       # 1 + s (-3 - 1) = -1
    ...     print(f"{event.kind} at {event.parameter:.3f}")
    flip at 0.500

    ```
    """

    def __call__(self, f: Map, s: Float[Array, ""]) -> Map:
        """Return the map at s."""
        return lambda z, x: blend(z, f(z, x), s)


class InputScale(eqx.Module):
    """`f(z, s x)`: all floating-point arrays of the input times s.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> f, x = lambda z, x: 0.5 * z + x, jnp.ones(1)
    >>> branch = eqloop.stability.continuation(
    ...     f, 0 * x, x, parameter=eqloop.stability.InputScale())
    >>> print(branch.states[-1].round(3), branch.ended)         # x / (1 - 0.5)
    [2.] reached stop

    ```
    """

    def __call__(self, f: Map, s: Float[Array, ""]) -> Map:
        """Return the map at s."""

        def scale(leaf):
            return s.astype(leaf.dtype) * leaf if eqx.is_inexact_array(leaf) else leaf

        return lambda z, x: f(z, jtu.tree_map(scale, x))


class BetweenInputs(eqx.Module):
    """`f(z, (1 - s) x + s other)`: from the input x at s = 0 to another at s = 1.

    **Arguments:**

    - `other`: the input at s = 1, like x. Only its floating-point arrays are used.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> f, x = lambda z, x: 0.5 * z + x, jnp.ones(1)
    >>> branch = eqloop.stability.continuation(
    ...     f, 2 * x, x, parameter=eqloop.stability.BetweenInputs(3 * x))
    >>> print(branch.states[-1].round(3))                       # 3 / (1 - 0.5)
    [6.]

    ```
    """

    other: PyTree

    def __call__(self, f: Map, s: Float[Array, ""]) -> Map:
        """Return the map at s."""
        return lambda z, x: f(z, blend(x, self.other, s))


class BetweenMaps(eqx.Module):
    """The map whose weights are `(1 - s)` times those of f plus `s` times those of `other`, such as
    two checkpoints of a model.

    **Arguments:**

    - `other`: the map at s = 1: any function that computes what f does, with other arrays. The
        arrays may be leaves of a module or closed over.

    **Raises** `ValueError`, when called, if the two maps differ in more than their arrays.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> def make(slope):
    ...     slope = jnp.full(1, slope)
    ...     return lambda z, x: slope * z + x
    >>> branch = eqloop.stability.continuation(
    ...     make(0.0), jnp.ones(1), jnp.ones(1), parameter=eqloop.stability.BetweenMaps(make(0.5)))
    >>> print(branch.states[-1].round(3))                       # 1 / (1 - 0.5)
    [2.]

    ```
    """

    other: Map

    def __call__(self, f: Map, s: Float[Array, ""]) -> Map:
        """Return the map at s."""

        def between(z, x):
            a, b = close(f, z, x), close(self.other, z, x)
            if jtu.tree_structure(a) != jtu.tree_structure(b):
                raise ValueError(
                    "BetweenMaps: other must compute what f does, with other arrays of these shapes"
                )
            return blend(a, b, s)(z, x)

        return between


class Noise(eqx.Module):
    """`f(z, x) + s eps` with Gaussian noise eps, drawn once: see `eqloop.PathNoise`.

    **Arguments:**

    - `key`: a random key for the noise.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> f, x = lambda z, x: 0.5 * z + x, jnp.ones(1000)
    >>> branch = eqloop.stability.continuation(
    ...     f, 2 * x, x, parameter=eqloop.stability.Noise(jr.key(0)), stop=0.1)
    >>> print(branch.states[-1].std().round(1))                 # 0.1 / (1 - 0.5)
    0.2

    ```
    """

    key: PRNGKeyArray

    def __call__(self, f: Map, s: Float[Array, ""]) -> Map:
        """Return the map at s."""
        noisy: Any = PathNoise(f, s)  # pyright: ignore[reportArgumentType]
        return lambda z, x: noisy(z, noisy.inject(x, self.key))
