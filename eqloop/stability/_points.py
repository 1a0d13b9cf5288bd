"""Fixed points and slow points of a map, those that no orbit reaches included."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray, PyTree

from .._iteration import Map
from .._noise import normal_like
from .._stability_report import POINT_KINDS
from ._orbits import MIN_RESIDUAL_ULPS, ROUNDING_ULPS, Orbits, closed_problem, precision
from ._plane import record_states
from ._point import OUTSIDE, SAME_POINT, Point, at_once, chunks, describe, flattened
from ._reachability import geometric_grid
from ._searches import measure, minimise, newton
from ._trees import take


def find_points(
    f: Map,
    z0s: PyTree,
    xs: PyTree,
    *,
    key: PRNGKeyArray,
    iterations: int = 256,
    candidates: int = 32,
    noise: float = 2.0,
    count: int = 6,
    steps: int = 100,
    slow: bool = True,
) -> list[Point]:
    """Find fixed points of any stability, and slow points, of `z <- f(z, x)` for each input.

    Searches start at states along the orbit from the own start, plus Gaussian noise. From each
    state there are two: Newton-Krylov steps with a line search, and minimisation of
    `q(z) = |f(z) - z|^2 / 2` by Levenberg and Marquardt's method (Sussillo and Barak 2013
    minimise q by other methods). Ends within 0.001 of the size of the states are one point; ends
    further than 10 times that size from the orbit are dropped, and so are searches that end at
    neither a fixed point nor a local minimum of q.

    Every product with a Jacobian is one derivative of f; no matrix as large as the state is built.
    That a point is not in the list does not prove that it does not exist: more candidates and other
    keys may find it. When not to use it: if the stable fixed points are enough, which
    `follow_orbits` finds at less cost.

    **Arguments:**

    - `f`: the map, of a state and an input of one example, both pytrees of arrays. It needs
        derivatives in both modes.
    - `z0s`: the starts, stacked along a first axis; or a function from the input of one example to
        its start.
    - `xs`: the inputs, stacked along a first axis.
    - `key`: a random key.
    - `iterations`: iterations of the orbit of each example.
    - `candidates`: number of states per example at which searches start.
    - `noise`: largest norm of the noise, relative to the size of the states along the orbit. The
        candidates have between none and all of it, most of them less than half.
    - `count`: number of eigenvalues.
    - `steps`: maximum number of steps of each search.
    - `slow`: also minimise q. Without it slow points are not searched for, and some fixed points
        are missed, at about a quarter of the work.

    **Returns:**

    The `Point`s, by example and within one by kind: stable, saddle, slow, undecided.

    **Raises** `ValueError` for arguments out of range, and if the numbers of starts and inputs
    differ.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> f, x = lambda z, x: jnp.tanh(x * z), jnp.array([[2.0]])    # 0 repels, +-0.9575 attract
    >>> points = eqloop.stability.find_points(f, 0 * x + 0.5, x, key=jr.key(0), iterations=32)
    >>> for p in points:
    ...     print(p.kind, p.unstable, p.z.round(3), p.eigenvalues.real.round(3))
    stable 0 [0.958] [0.166]
    stable 0 [-0.958] [0.166]
    saddle 1 [0.] [2.]

    ```
    """
    if iterations < 1:
        raise ValueError(f"iterations = {iterations} must be at least 1")
    f, _, z0s = closed_problem(f, z0s, xs)
    states = record_states(f, z0s, xs, geometric_grid(iterations))
    return _points(f, states, xs, key, candidates, noise, count, steps, slow)


def points(
    orbits: Orbits,
    *,
    key: PRNGKeyArray,
    candidates: int = 32,
    noise: float = 2.0,
    count: int = 6,
    steps: int = 100,
    slow: bool = True,
) -> list[Point]:
    """`find_points` along orbits that were followed before. The end of each is a candidate.

    **Arguments:**

    - `orbits`: from `follow_orbits`.
    - `key`, `candidates`, `noise`, `count`, `steps`, `slow`: see `find_points`.

    **Returns:**

    The `Point`s, as `find_points` does.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> f, x = lambda z, x: jnp.tanh(x * z), jnp.array([[2.0]])
    >>> orbits = eqloop.stability.follow_orbits(f, 0 * x + 0.5, x, iterations=32)
    >>> print([point.kind for point in eqloop.stability.points(orbits, key=jr.key(0))])
    ['stable', 'stable', 'saddle']

    ```
    """
    states = record_states(orbits.f, orbits.z0s, orbits.xs, geometric_grid(orbits.iterations))
    states = jtu.tree_map(
        lambda a, end: np.concatenate([a, np.asarray(end)[:, None]], axis=1), states, orbits.state
    )
    return _points(orbits.f, states, orbits.xs, key, candidates, noise, count, steps, slow)


@dataclasses.dataclass(frozen=True)
class _Cloud:
    """The states along the orbit of one example: their mean, their size (root mean square of the
    norms, 1 if that is zero), and the indices of those where it moves and of the last one."""

    centre: Float[np.ndarray, " size"]
    size: float
    members: Int[np.ndarray, " some"]


def _cloud(states: Float[np.ndarray, "times size"]) -> _Cloud:
    norms = np.linalg.norm(states.astype(np.float64), axis=1)
    early = norms[:2].max()
    limit = np.inf
    if not norms[-1] <= 1e3 * max(early, np.median(norms)):
        # The orbit diverges: its last states say nothing about the size of the others.
        limit = 10 * early
    members = np.flatnonzero(np.isfinite(norms) & (norms <= limit))
    if not members.size:
        return _Cloud(np.zeros(states.shape[1]), 1.0, members)
    size = float(np.sqrt(np.mean(norms[members] ** 2))) or 1.0
    centre = states[members].mean(axis=0)
    moved = np.linalg.norm(states[members] - states[members[-1]], axis=1) > SAME_POINT * size
    return _Cloud(centre, size, np.append(members[moved], members[-1]))


def _points(
    f: Map,
    states: PyTree,
    xs: PyTree,
    key: PRNGKeyArray,
    candidates: int,
    noise: float,
    count: int,
    steps: int,
    slow: bool,
) -> list[Point]:
    if candidates < 1:
        raise ValueError(f"candidates = {candidates} must be at least 1")
    if not noise >= 0:
        raise ValueError(f"noise = {noise} must be at least 0")
    if count < 1:
        raise ValueError(f"count = {count} must be at least 1")
    if steps < 1:
        raise ValueError(f"steps = {steps} must be at least 1")
    noise_key, eigen_key = jr.split(key)
    clouds = [_cloud(rows) for rows in flattened(states, axes=2)]
    searched = [e for e, cloud in enumerate(clouds) if cloud.members.size]
    if not searched:
        return []
    examples = np.repeat(searched, candidates)
    places = np.concatenate([_places(clouds[e].members, candidates) for e in searched])
    sizes = np.array([clouds[e].size for e in examples])
    zs = jtu.tree_map(lambda leaf: leaf[examples, places], states)
    # Multiples of the golden ratio: states at any place along the orbit get noise of any size.
    levels = noise * ((np.arange(candidates) * (np.sqrt(5) - 1) / 2) % 1) ** 2
    lengths = np.tile(levels, len(searched)) * sizes
    zs = _noisy(zs, lengths, jr.split(noise_key, len(examples)))
    eps = precision(zs)
    floor = MIN_RESIDUAL_ULPS * eps
    searches = (newton, minimise) if slow else (newton,)
    ends = [_ends(search, f, zs, xs, examples, sizes, floor, steps) for search in searches]
    zs, ended, misses, slopes, around = jtu.tree_map(lambda *parts: np.concatenate(parts), *ends)
    examples, sizes = np.tile(examples, len(ends)), np.tile(sizes, len(ends))
    residuals = misses / sizes
    fixed = residuals <= ROUNDING_ULPS * eps
    # Where q is least, A^T r is zero; rounding leaves about sqrt(eps) |r| of it. Where q is nearly
    # flat, the slope is as small, but |r| becomes smaller elsewhere.
    lowest = ended & (slopes <= 30 * np.sqrt(eps)) & (around >= misses - floor * sizes)
    chosen, merged = _merge(flattened(zs, axes=1), examples, residuals, fixed | lowest, clouds)
    points = describe(
        f,
        take(zs, chosen),
        xs,
        examples[chosen],
        misses[chosen],
        sizes[chosen],
        merged,
        key=eigen_key,
        count=count,
    )
    return sorted(points, key=lambda point: (point.example, POINT_KINDS.index(point.kind)))


def _noisy(zs: PyTree, lengths: Float[np.ndarray, " rows"], keys: PRNGKeyArray) -> PyTree:
    """The states plus Gaussian noise whose norm is about `lengths`."""

    @jax.vmap
    def draw(z, key):
        noise = normal_like(z, key)
        scale = 1 / np.sqrt(sum(leaf.size for leaf in jtu.tree_leaves(z)))
        return jtu.tree_map(lambda leaf: leaf * scale, noise)

    def add(z, noise):
        return z + np.asarray(noise) * _column(lengths, noise).astype(z.dtype)

    return jtu.tree_map(add, zs, draw(zs, keys))


def _ends(
    search: Callable[..., tuple[PyTree, Any]],
    f: Map,
    zs: PyTree,
    xs: PyTree,
    examples: Int[np.ndarray, " rows"],
    sizes: Float[np.ndarray, " rows"],
    floor: float,
    steps: int,
) -> tuple[PyTree, ...]:
    """Where the search ends from each state, whether it ended there by itself, and `measure` of
    those ends."""
    parts = []
    for index in chunks(len(examples), at_once(zs)):
        x, size = take(xs, examples[index]), sizes[index]
        end, ended = search(f, take(zs, index), x, floor * size, jnp.asarray(steps))
        numbers = (np.asarray(a, np.float64) for a in measure(f, end, x, jnp.asarray(size)))
        parts.append((end, ended, *numbers))

    def join(*arrays):
        return np.concatenate([np.asarray(array) for array in arrays])[: len(examples)]

    return jtu.tree_map(join, *parts)


def _merge(
    flat: Float[np.ndarray, "rows size"],
    examples: Int[np.ndarray, " rows"],
    residuals: Float[np.ndarray, " rows"],
    candidate: np.ndarray,
    clouds: list[_Cloud],
) -> tuple[Int[np.ndarray, " points"], Int[np.ndarray, " points"]]:
    """The row of lowest residual of each point, and the number of rows that ended at it."""
    chosen: list[int] = []
    merged: list[int] = []
    for example in np.unique(examples):
        cloud, mine = clouds[example], []
        rows = np.flatnonzero(candidate & (examples == example))
        for row in rows[np.argsort(residuals[rows], kind="stable")]:
            if not np.linalg.norm(flat[row] - cloud.centre) <= OUTSIDE * cloud.size:
                continue
            gaps = np.linalg.norm(flat[mine] - flat[row], axis=1) if mine else np.zeros(0)
            if mine and gaps.min() <= SAME_POINT * cloud.size:
                merged[len(chosen) - len(mine) + int(gaps.argmin())] += 1
            else:
                mine.append(row)
                chosen.append(row)
                merged.append(1)
    return np.array(chosen, np.int64), np.array(merged, np.int64)


def _places(members: Int[np.ndarray, " some"], candidates: int) -> Int[np.ndarray, " candidates"]:
    """For each candidate one of the states along the orbit, evenly spread from the last to the
    first."""
    return members[np.linspace(len(members) - 1, 0, candidates).round().astype(np.int64)]


def _column(values: np.ndarray, like: Any) -> np.ndarray:
    """`values`, with further axes of length 1 to multiply an array that has more."""
    return values.reshape(-1, *[1] * (np.ndim(like) - 1))
