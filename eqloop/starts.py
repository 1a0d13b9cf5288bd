"""Laws of the initial state z_0 of a loop.

A law is called for one example, with its default initial state and a key; `jax.vmap` it over the
examples and keys of a batch. It serves any state that is a pytree of arrays.
"""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, PRNGKeyArray, PyTree

from ._noise import normal_like
from ._solver import choose

Solve = Callable[[PyTree], PyTree]
"""The map from an initial state to the state at which a solver stops."""


class AbstractStart(eqx.Module):
    """A law of the initial state. A new law is a class with one method.

    ```python
    >>> import eqloop, jax, jax.numpy as jnp, jax.random as jr
    >>> class Nearby(eqloop.starts.AbstractStart):      # within a unit cube around z0
    ...     def __call__(self, z0, key, solve=None):
    ...         return z0 + jr.uniform(key, z0.shape, minval=-0.5, maxval=0.5)
    >>> z0s = jax.vmap(Nearby())(jnp.ones((400, 2)), jr.split(jr.key(0), 400))
    >>> print(f"{z0s.mean():.1f}, {jnp.abs(z0s - 1).max():.1f}")
    1.0, 0.5

    ```
    """

    @abc.abstractmethod
    def __call__(self, z0: PyTree, key: PRNGKeyArray, solve: Solve | None = None) -> PyTree:
        """Return an initial state, a pytree like `z0`.

        **Arguments:**

        - `z0`: the default initial state, a pytree of arrays; for a `LoopedTransformer` the
            embedding of its input, shape `(*grid, width)`.
        - `key`: a random key.
        - `solve`: maps an initial state to the state at which the solver stops; only `Solved`
            needs it.

        **Returns:**

        The initial state, a pytree like `z0`.
        """


class Embed(AbstractStart):
    """The default initial state `z0` itself.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> print(eqloop.starts.Embed()(jnp.ones(2), jr.key(0)))
    [1. 1.]

    ```
    """

    def __call__(self, z0, key, solve=None):
        del key, solve
        return z0


class Zeros(AbstractStart):
    """Zeros, in the shapes of the default initial state.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> print(eqloop.starts.Zeros()(jnp.ones(2), jr.key(0)))
    [0. 0.]

    ```
    """

    def __call__(self, z0, key, solve=None):
        del key, solve
        return jtu.tree_map(jnp.zeros_like, z0)


class Normal(AbstractStart):
    """Gaussian noise of mean 0, independent in every entry.

    **Arguments:**

    - `std`: standard deviation of an entry, in the units of the state.

    **Raises** `ValueError` for a standard deviation that is not above 0.

    **Source:** equilibrium reasoners (std 1) and fixed-point reasoning models (std 6) start each
    row so, with the Gaussian cut at two standard deviations.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> z0 = eqloop.starts.Normal(6.0)(jnp.zeros((9, 9, 256)), jr.key(0))
    >>> print(f"{z0.std():.1f}")
    6.0

    ```
    """

    std: float = 1.0

    def __check_init__(self):
        _check_std(self)

    def __call__(self, z0, key, solve=None):
        del solve
        return jtu.tree_map(lambda eps: self.std * eps, normal_like(z0, key))


class TruncatedNormal(AbstractStart):
    """Gaussian noise that is cut at two standard deviations and then scaled to a standard
    deviation of `std`, independent in every entry.

    **Arguments:**

    - `std`: standard deviation of an entry, in the units of the state. (The Gaussian that is cut
        has a larger one, by a factor of 1 / 0.8796.)

    **Raises** `ValueError` for a standard deviation that is not above 0.

    **Source:** EqR and FPRM start each row so; TRM and HRM draw their fixed vectors so.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> z0 = eqloop.starts.TruncatedNormal(6.0)(jnp.zeros((9, 9, 256)), jr.key(0))
    >>> print(f"{z0.std():.1f}, {jnp.abs(z0).max():.1f}")           # 2 / 0.8796 x 6
    6.0, 13.6

    ```
    """

    std: float = 1.0

    def __check_init__(self):
        _check_std(self)

    def __call__(self, z0, key, solve=None):
        del solve
        leaves, structure = jtu.tree_flatten(z0)
        keys = jr.split(key, max(1, len(leaves)))
        drawn = [
            jr.truncated_normal(k, -2.0, 2.0, leaf.shape, leaf.dtype) * (self.std / _CUT_STD)
            for k, leaf in zip(keys, leaves, strict=False)
        ]
        return jtu.tree_unflatten(structure, drawn)


_CUT_STD = 0.8796256610342398
"""The standard deviation of a standard Gaussian that is cut at -2 and 2."""


class Vector(AbstractStart):
    """One given vector for every cell of every example.

    **Arguments:**

    - `vector`: an array of the length of the last axis of the state.

    **Source:** TRM, arXiv 2510.04871, and HRM, arXiv 2506.21734.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> start = eqloop.starts.Vector(jnp.array([1.0, 2.0]))
    >>> print(start(jnp.zeros((3, 2)), jr.key(0))[2])
    [1. 2.]

    ```
    """

    vector: Array

    def __call__(self, z0, key, solve=None):
        del key, solve
        vector = self.vector
        return jtu.tree_map(lambda leaf: _repeated(vector.astype(leaf.dtype), leaf.shape), z0)


class FixedNormal(AbstractStart):
    """One random vector for every cell of every example, drawn once for all times.

    The vector has the length of the last axis of the state and is repeated along all other axes,
    so that a grid of any size starts from it. A scalar leaf of the state is one entry.

    **Arguments:**

    - `std`: standard deviation of the Gaussian that the vector is drawn from, in the units of the
        state.
    - `seed`: seed of the vector, an integer. The same seed gives the same vector in every call and
        program.

    **Raises** `ValueError` for a standard deviation that is not above 0.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> start = eqloop.starts.FixedNormal(seed=7)
    >>> a, b = start(jnp.zeros((3, 3, 8)), jr.key(0)), start(jnp.zeros((5, 8)), jr.key(1))
    >>> print(jnp.abs(a[2, 2] - b[0]).max())            # another grid and key, the same vector
    0.0

    ```
    """

    std: float = 1.0
    seed: int = 0

    def __check_init__(self):
        _check_std(self)

    def __call__(self, z0, key, solve=None):
        del key, solve
        cells = jtu.tree_map(lambda leaf: jnp.zeros(leaf.shape[-1:], leaf.dtype), z0)
        vectors = Normal(self.std)(cells, jr.key(self.seed))
        return jtu.tree_map(lambda vector, leaf: _repeated(vector, leaf.shape), vectors, z0)


def _repeated(vector: Array, shape: tuple[int, ...]) -> Array:
    return jnp.broadcast_to(vector.reshape((1,) * (len(shape) - vector.ndim) + vector.shape), shape)


class Solved(AbstractStart):
    """The state at which the solver stops when it starts from `z0`, without derivatives.

    A loss after a second solve then demands that a solution stays where it is (an anchor). The
    first solve costs as much as any other forward solve, and its steps are not reported.

    **Raises** `ValueError` if `solve` is not given.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> def solve(z0):
    ...     f = lambda z, x: 0.5 * z + x
    ...     return eqloop.equilibrium(f, z0, jnp.ones(()), solver=eqloop.FixedPoint(1e-6)).state
    >>> print(f"{eqloop.starts.Solved()(jnp.zeros(()), jr.key(0), solve):.4f}")
    2.0000

    ```
    """

    def __call__(self, z0, key, solve=None):
        del key
        if solve is None:
            raise ValueError("Solved: give solve=, the map from an initial state to the solution")
        return jax.lax.stop_gradient(solve(z0))


class Mixture(AbstractStart):
    """One of several laws, drawn for each example. All of them are computed.

    **Arguments:**

    - `laws`: a tuple of laws.
    - `weights`: a tuple of their probabilities, up to a common factor.

    **Raises** `ValueError` if there is no law, or not one weight above 0 for each.

    ```python
    >>> import eqloop, jax, jax.numpy as jnp, jax.random as jr
    >>> law = eqloop.starts.Mixture((eqloop.starts.Embed(), eqloop.starts.Zeros()), (3, 1))
    >>> z0 = jax.vmap(law)(jnp.ones((400, 2)), jr.split(jr.key(0), 400))
    >>> print(f"{z0.mean():.2f}")
    0.73

    ```
    """

    laws: tuple[AbstractStart, ...]
    weights: tuple[float, ...]

    def __check_init__(self):
        if not self.laws or len(self.laws) != len(self.weights):
            raise ValueError(
                f"Mixture: weights = {self.weights} must be one number for each of "
                f"{len(self.laws)} laws, of which there is at least one"
            )
        if not all(0 < weight < jnp.inf for weight in self.weights):
            raise ValueError(f"Mixture: weights = {self.weights} must be above 0 and finite")

    def __call__(self, z0, key, solve=None):
        which_key, *keys = jr.split(key, 1 + len(self.laws))
        which = jr.categorical(which_key, jnp.log(jnp.asarray(self.weights, jnp.float32)))
        states = [law(z0, k, solve) for law, k in zip(self.laws, keys, strict=True)]
        chosen = states[0]
        for number, state in enumerate(states[1:], 1):
            chosen = choose(which == number, state, chosen)
        return chosen


def _check_std(law: Normal | TruncatedNormal | FixedNormal) -> None:
    if not 0 < law.std < jnp.inf:
        name = type(law).__name__
        raise ValueError(f"{name}: std = {law.std} must be above 0 and finite")
