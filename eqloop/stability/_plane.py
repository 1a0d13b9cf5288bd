"""The main plane of the states along orbits, in which orbits, points and directions are drawn."""

import dataclasses
import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._iteration import Map, advance
from ._orbits import Orbits
from ._point import flattened
from ._reachability import gaussian_starts, geometric_grid

EVERY = 256
"""Every iteration up to this one is recorded; later ones become sparse."""


@dataclasses.dataclass(frozen=True)
class MainPlane:
    """The plane through the mean of some states along their two principal directions.

    **Attributes:**

    - `centre`: the mean of the states, flattened.
    - `axes`: orthonormal principal directions, the first one with the larger variance; zero where
        the states have fewer.
    - `variance`: share of the variance of the states in the plane; NaN if they are all equal.
    """

    centre: Float[np.ndarray, " size"]
    axes: Float[np.ndarray, "2 size"]
    variance: float

    def place(self, zs: PyTree) -> Float[np.ndarray, "states 2"]:
        """The coordinates of states that are stacked along a first axis."""
        return self.along(flattened(zs, axes=1) - self.centre)

    def along(self, vectors: Float[np.ndarray, "vectors size"]) -> Float[np.ndarray, "vectors 2"]:
        """The parts of flattened vectors in the plane. A unit vector in the plane has a part of
        length 1."""
        return vectors @ self.axes.T


@dataclasses.dataclass(frozen=True)
class OrbitPlane:
    """Orbits of one example in the main plane of their states.

    **Attributes:**

    - `plane`: the plane; the starts have no influence on it.
    - `iterations`: 0 for the start, then each number of iterations up to 256, then fewer.
    - `own`: the coordinates of the orbit from the own start after these iterations; not finite once
      it has diverged.
    - `others`: those of the orbits from noise.
    """

    plane: MainPlane
    iterations: list[int]
    own: Float[np.ndarray, "times 2"]
    others: Float[np.ndarray, "orbits times 2"]


def main_plane(zs: PyTree) -> MainPlane:
    """The main plane of at least one finite state, stacked along a first axis, by principal
    component analysis."""
    rows = flattened(zs, axes=1)
    centre = rows.mean(axis=0)
    rows = rows - centre
    # Eigenvectors of the smaller of the two products: the states are few or short, never both
    # many and long, and a singular value decomposition takes ten times as long.
    wide = rows.shape[0] < rows.shape[1]
    variances, vectors = np.linalg.eigh(rows @ rows.T if wide else rows.T @ rows)
    variances, vectors = variances[:-3:-1], vectors.T[:-3:-1]
    known = variances > np.finfo(np.float64).eps * variances[:1] * max(rows.shape)
    axes = np.zeros((2, len(centre)))
    axes[: len(known)][known] = (
        vectors[known] @ rows / np.sqrt(variances[known])[:, None] if wide else vectors[known]
    )
    total = np.sum(rows**2)
    share = float(variances[known].sum() / total) if total else math.nan
    return MainPlane(centre, axes, share)


def orbit_plane(
    orbits: Orbits, example: int, *, key: PRNGKeyArray, others: int = 2
) -> OrbitPlane | None:
    """Iterate an example again, from its own start and from noise, and project the states on their
    two principal directions.

    The directions are those of the states at a geometric grid of iterations, without the starts:
    those of noise lie anywhere.

    **Arguments:**

    - `orbits`: from `follow_orbits`.
    - `example`: index of the example.
    - `key`: a random key.
    - `others`: number of orbits from noise with the size of the own start.

    **Returns:**

    The `OrbitPlane`; None if the orbit from the own start is not finite after one iteration.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> turn = jnp.array([[0.0, -0.9, 0], [0.9, 0, 0], [0, 0, 0]])     # a spiral in a plane
    >>> f, xs = lambda z, x: turn @ z + x, jnp.zeros((1, 3))
    >>> orbits = eqloop.stability.follow_orbits(f, jnp.ones((1, 3)), xs, iterations=64)
    >>> drawn = eqloop.stability.orbit_plane(orbits, 0, key=jr.key(0))
    >>> print(f"{drawn.plane.variance:.3f}", drawn.own.shape, drawn.others.shape)
    1.000 (65, 2) (2, 65, 2)

    ```
    """
    copies = orbits.take(np.full(1 + others, example))
    noise = gaussian_starts(copies.z0s, key=key)
    z0s = jtu.tree_map(lambda own, other: jnp.asarray(other).at[0].set(own[0]), copies.z0s, noise)
    grid = geometric_grid(orbits.iterations)
    times = sorted({*range(1, min(EVERY, orbits.iterations) + 1), *grid})
    states = record_states(orbits.f, z0s, copies.xs, times)
    every = flattened(states, axes=2)
    every[~np.isfinite(every).all(axis=2)] = math.nan
    used = np.isfinite(every[..., 0]) & np.isin([0, *times], grid)
    if not used[0].any():
        return None
    plane = main_plane(every[used])
    own, *rest = np.stack([plane.place(orbit) for orbit in every])
    return OrbitPlane(plane, [0, *times], own, np.array(rest).reshape(others, -1, 2))


def record_states(f: Map, z0s: PyTree, xs: PyTree, iterations: Sequence[int]) -> PyTree:
    """The start of each orbit and its states after some numbers of iterations, increasing, along a
    second axis."""
    waits = jnp.asarray(np.diff([0, *iterations]), jnp.int32)
    states = _run(f, z0s, xs, waits)
    return jtu.tree_map(
        lambda z, later: np.concatenate([np.asarray(z)[:, None], np.asarray(later)], axis=1),
        z0s,
        states,
    )


@eqx.filter_jit
def _run(f: Map, z0s: PyTree, xs: PyTree, waits: Int[Array, " times"]) -> PyTree:
    def one(f, z, x):
        def wait(z, steps):
            z = advance(f, z, x, steps)
            return z, z

        return jax.lax.scan(wait, z, waits)[1]

    return eqx.filter_vmap(one, in_axes=(None, 0, 0))(f, z0s, xs)
