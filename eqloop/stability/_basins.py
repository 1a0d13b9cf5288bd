"""Basins: where loops go from other starts, as shares of all outcomes."""

import math
from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Int, PRNGKeyArray, PyTree
from scipy.spatial.distance import pdist

from .._iteration import Map
from .._stability_report import Basins
from ._input_dependence import cluster
from ._orbits import MAX_PERIOD, SAME, Orbits, Progress, distance, follow_orbits, states_of_cycle
from ._point import at_once, chunks, flattened
from ._reachability import directions_like, move
from ._statistics import share, summary
from ._trees import take

SIZES = (0.1, 0.3, 1.0, 3.0)
ENDS = ("own", "other", "cycle", "slow", "unresolved", "wandering", "diverged")


def basins(
    f: Map,
    z0s: PyTree,
    xs: PyTree,
    *,
    key: PRNGKeyArray,
    iterations: int = 256,
    rtol: float = 1e-4,
    sizes: Sequence[float] = SIZES,
    samples: int = 8,
) -> Basins:
    """Measure the shares of all outcomes of `z <- f(z, x)` over a sample of starts, and how that of
    the own attractor shrinks with the distance of the start.

    The starts lie in random directions from the end of the own orbit, at each distance of `sizes`.
    Each is iterated as long as the own start and classified as `follow_orbits` does; two fixed
    points within 1 % are one, and two cycles if a state of one is within 1 % of one of the other.

    **Arguments:**

    - `f`, `z0s`, `xs`, `iterations`, `rtol`: see `follow_orbits`.
    - `key`: a random key.
    - `sizes`: distances, increasing, relative to the norm of the end of the own orbit.
    - `samples`: number of starts of each example at each distance.

    **Returns:**

    The `Basins`.

    **Raises** `ValueError` for arguments out of range.

    **Source:** Menck et al. 2013, doi:10.1038/nphys2516, for shares of basins by sampling.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> f, x = lambda z, x: jnp.tanh(x * z), jnp.array([[2.0]])     # -0.96 and 0.96 attract
    >>> z, sizes = 0 * x + 0.5, (0.5, 0.9, 4.0)
    >>> part = eqloop.stability.basins(f, z, x, key=jr.key(0), iterations=32, sizes=sizes)
    >>> for size, own, other in zip(sizes, part.ends["own"], part.ends["other"]):
    ...     print(size, own.share, own.share + other.share)
    0.5 1.0 1.0
    0.9 1.0 1.0
    4.0 0.5 1.0

    ```
    """
    orbits = follow_orbits(f, z0s, xs, iterations=iterations, rtol=rtol)
    return basin_shares(orbits, key=key, sizes=sizes, samples=samples)


def basin_shares(
    orbits: Orbits,
    *,
    key: PRNGKeyArray,
    sizes: Sequence[float] = SIZES,
    samples: int = 8,
    progress: Progress | None = None,
) -> Basins:
    """`basins` of orbits that were followed before.

    **Arguments:**

    - `orbits`: from `follow_orbits`.
    - `key`, `sizes`, `samples`: see `basins`.
    - `progress`: called with the number of distances that are done, and of all; random starts count
        as one.

    **Returns:**

    The `Basins`.

    **Raises** `ValueError` for arguments out of range.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> f, xs = lambda z, x: 0.5 * jnp.tanh(z) + x, jr.normal(jr.key(0), (4, 2))
    >>> orbits = eqloop.stability.follow_orbits(f, 0 * xs, xs, iterations=32)
    >>> basins = eqloop.stability.basin_shares(orbits, key=jr.key(1), samples=2)
    >>> print(basins.random["own"].share, basins.fixed_points)          # f contracts everywhere
    1.0 [1, 1, 1, 1]

    ```
    """
    distances = [float(size) for size in sizes]
    if not distances or distances != sorted(distances) or not distances[0] > 0:
        raise ValueError(f"sizes = {distances} must be positive and increase")
    if samples < 1:
        raise ValueError(f"samples = {samples} must be at least 1")
    rows = np.repeat(np.arange(len(orbits)), samples)
    # A state that is not finite has no surroundings: those of the start take their place.
    finite = np.asarray(np.isfinite(flattened(orbits.state, axes=1)).all(axis=1))

    def choose(a, b):
        return jnp.where(finite.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    home = take(jtu.tree_map(choose, orbits.state, orbits.z0s), rows)
    cycles = _cycles(orbits)
    ends: list[list[str]] = []
    reached = [[point] for point in flattened(orbits.state, axes=1)]
    keys = jr.split(key, len(distances) + 1)
    for done, (size, size_key) in enumerate(zip([*distances, None], keys, strict=True)):
        if progress is not None:
            progress(done, len(keys))
        zs = directions_like(home, jr.split(size_key, len(rows)))
        if size is not None:
            zs = move(home, zs, jnp.full(len(rows), size))
        at_size: list[str] = []
        for index in chunks(len(rows), at_once(home)):
            others = follow_orbits(
                orbits.f,
                take(zs, index),
                take(orbits.xs, rows[index]),
                iterations=orbits.iterations,
                rtol=orbits.rtol,
            )
            at_size += _ends(orbits, others, rows[index], cycles)
            states = flattened(others.state, axes=1)
            for row in np.flatnonzero(others.converged):
                reached[rows[index[row]]].append(states[row])
        ends.append(at_size[: len(rows)])
    if progress is not None:
        progress(len(keys), len(keys))
    own = np.array(ends[:-1]).reshape(len(distances), len(orbits), samples) == "own"
    known = orbits.converged | (orbits.periods > 0)
    by_example = np.where(known, own.mean(axis=2), math.nan)
    held = np.cumprod(by_example >= 0.5, axis=0).sum(axis=0)
    half = np.where(known, np.array([0.0, *distances])[held], math.nan)
    return Basins(
        sizes=distances,
        samples=samples,
        ends={name: [share(np.array(at) == name) for at in ends[:-1]] for name in ENDS},
        random={name: share(np.array(ends[-1]) == name) for name in ENDS},
        own=[summary(values) for values in by_example],
        half=summary(half),
        fixed_points=[
            _count(np.array(points[0 if converged else 1 :]))
            for points, converged in zip(reached, orbits.converged, strict=True)
        ],
    )


def _ends(
    orbits: Orbits, others: Orbits, rows: Int[np.ndarray, " rows"], cycles: PyTree
) -> list[str]:
    """The end of each of the other orbits, row i of the example `rows[i]`."""
    near = distance(others.state, take(orbits.state, rows)) <= SAME
    same = others.converged & orbits.converged[rows] & near
    looped = (others.periods > 0) & (others.periods == orbits.periods[rows])
    if looped.any():
        phases = [
            distance(others.state, jtu.tree_map(lambda leaf, p=p: leaf[rows, p], cycles)) <= SAME
            for p in range(MAX_PERIOD)
        ]
        same |= looped & np.any(phases, axis=0)
    ends: list[str] = ["other" if end == "converged" else end for end in others.outcomes]
    return ["own" if is_own else end for is_own, end in zip(same, ends, strict=True)]


@eqx.filter_jit
def _phases(f: Map, zs: PyTree, xs: PyTree) -> PyTree:
    return eqx.filter_vmap(states_of_cycle, in_axes=(None, 0, 0))(f, zs, xs)


def _cycles(orbits: Orbits) -> PyTree:
    """The next states after the end of each orbit, along a second axis; None if none is a cycle."""
    return _phases(orbits.f, orbits.state, orbits.xs) if (orbits.periods > 0).any() else None


def _count(points: np.ndarray) -> int:
    """The number of points that differ by more than `SAME` of the largest norm."""
    if len(points) < 2:
        return len(points)
    size = np.linalg.norm(points, axis=1).max()
    return int(cluster(pdist(points), SAME * (size if size > 0 else 1)).max())
