"""Fixed points and slow points of a map, those that no orbit reaches included."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Complex, Float, Int, PRNGKeyArray, PyTree

from .._iteration import Map
from .._noise import normal_like
from ._orbits import MIN_RESIDUAL_ULPS, ROUNDING_ULPS, Orbits, closed_problem, precision
from ._reachability import geometric_grid
from ._searches import measure, minimise, newton
from ._trees import subtract, take
from ._unstable import MOST, Unstable, left_vectors, unstable_directions

SAME = 1e-3
"""Distance below which two points are one, relative to the size of the states."""
OUTSIDE = 10.0
"""Points further than this from the states of the orbit, relative to their size, are dropped."""
STEPS = 100
"""Maximum number of steps of each search."""
BYTES = 2**28
"""Memory for the Krylov spaces of the rows that are searched or measured at once."""
COPIES = 32
"""Copies of the state that a row needs."""
SEARCHES = (newton, minimise)
ORDER = ("stable", "saddle", "slow", "undecided")

Kind = Literal["stable", "saddle", "slow", "undecided"]
"""The kind of a point; see `Point`."""


@dataclasses.dataclass(frozen=True)
class Point:
    """A fixed point or a slow point of `z <- f(z, x)`, for the input of one example.

    **Attributes:**

    - `kind`: "stable" or "saddle" for a fixed point without or with unstable directions; "slow" for
        a local minimum of `|f(z) - z|` that is not a fixed point; "undecided" for a fixed point
        with an eigenvalue whose modulus is 1 within its error.
    - `because`: why it is of that kind, with the numbers.
    - `z`: the point, a pytree like one start.
    - `x`: its input, a pytree like one input.
    - `example`: index of the input.
    - `unstable`: number of eigenvalues of `J = df/dz` whose modulus exceeds 1 by more than their
        error, with multiplicity.
    - `eigenvalues`: the leading eigenvalues, largest modulus first; of equal ones inside the unit
        circle, at least one.
    - `errors`: estimate of the error of each eigenvalue.
    - `right`: unit vector v with `J v = eigenvalues[0] v`, flattened.
    - `left`: unit vector w with `J^T w = eigenvalues[0] w`, flattened; NaN if it is not known.
    - `directions`: orthonormal basis of the unstable directions, shape `(unstable, size)`.
    - `residual`: `|f(z) - z|` over the size of the states along the orbit.
    - `q`: `|f(z) - z|^2 / 2`.
    - `candidates`: number of searches that ended at this point.
    """

    kind: Kind
    because: str
    z: PyTree
    x: PyTree
    example: int
    unstable: int
    eigenvalues: Complex[np.ndarray, " count"]
    errors: Float[np.ndarray, " count"]
    right: Complex[np.ndarray, " size"]
    left: Complex[np.ndarray, " size"]
    directions: Float[np.ndarray, "unstable size"]
    residual: float
    q: float
    candidates: int


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
    saddle 1 [0.] [2.]

    ```
    """
    if iterations < 1:
        raise ValueError(f"iterations = {iterations} must be at least 1")
    f, _, z0s = closed_problem(f, z0s, xs)
    states = _record(f, z0s, xs, iterations)
    return _points(f, states, xs, key, candidates, noise, count)


def points(
    orbits: Orbits,
    *,
    key: PRNGKeyArray,
    candidates: int = 32,
    noise: float = 2.0,
    count: int = 6,
) -> list[Point]:
    """`find_points` along orbits that were followed before. The end of each is a candidate.

    **Arguments:**

    - `orbits`: from `follow_orbits`.
    - `key`, `candidates`, `noise`, `count`: see `find_points`.

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
    states = _record(orbits.f, orbits.z0s, orbits.xs, orbits.iterations)
    states = jtu.tree_map(
        lambda a, end: np.concatenate([a, np.asarray(end)[:, None]], axis=1), states, orbits.state
    )
    return _points(orbits.f, states, orbits.xs, key, candidates, noise, count)


def _record(f: Map, z0s: PyTree, xs: PyTree, iterations: int) -> PyTree:
    """The start of each orbit and its states at a geometric grid of iterations, along a second
    axis."""
    waits = jnp.asarray(np.diff([0, *geometric_grid(iterations)]), jnp.int32)
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
            z = jax.lax.fori_loop(0, steps, lambda _, z: f(z, x), z)
            return z, z

        return jax.lax.scan(wait, z, waits)[1]

    return eqx.filter_vmap(one, in_axes=(None, 0, 0))(f, z0s, xs)


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
    moved = np.linalg.norm(states[members] - states[members[-1]], axis=1) > SAME * size
    return _Cloud(centre, size, np.append(members[moved], members[-1]))


def _points(
    f: Map,
    states: PyTree,
    xs: PyTree,
    key: PRNGKeyArray,
    candidates: int,
    noise: float,
    count: int,
) -> list[Point]:
    if candidates < 1:
        raise ValueError(f"candidates = {candidates} must be at least 1")
    if not noise >= 0:
        raise ValueError(f"noise = {noise} must be at least 0")
    if count < 1:
        raise ValueError(f"count = {count} must be at least 1")
    noise_key, eigen_key, left_key = jr.split(key, 3)
    clouds = [_cloud(rows) for rows in _flat(states, axes=2)]
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
    eps, at_once = precision(zs), _at_once(zs)
    floor = MIN_RESIDUAL_ULPS * eps
    ends = [_ends(search, f, zs, xs, examples, sizes, floor, at_once) for search in SEARCHES]
    zs, ended, misses, slopes, around = jtu.tree_map(lambda *parts: np.concatenate(parts), *ends)
    examples, sizes = np.tile(examples, 2), np.tile(sizes, 2)
    residuals = misses / sizes
    fixed = residuals <= ROUNDING_ULPS * eps
    # Where q is least, A^T r is zero; rounding leaves about sqrt(eps) |r| of it. Where q is nearly
    # flat, the slope is as small, but |r| becomes smaller elsewhere.
    slow = ended & (slopes <= 30 * np.sqrt(eps)) & (around >= misses - floor * sizes)
    chosen, merged = _merge(_flat(zs, axes=1), examples, residuals, fixed | slow, clouds)
    points: list[Point] = []
    reaches: list[float] = []
    for index in _chunks(len(chosen), at_once):
        rows = chosen[index]
        z, x = take(zs, rows), take(xs, examples[rows])
        linear = unstable_directions(
            f,
            z,
            x,
            misses=np.maximum(misses[rows], floor * sizes[rows]),
            sizes=OUTSIDE * sizes[rows],
            key=eigen_key,
            count=count,
        )
        left = left_vectors(f, z, x, linear, key=left_key)
        for place, row in enumerate(rows[: len(chosen) - len(points)]):
            part = linear[place]
            reaches.append(part.reach / sizes[row])
            kind, because = _kind(
                fixed[row], residuals[row], ROUNDING_ULPS * eps, part, reaches[-1]
            )
            points.append(
                Point(
                    kind=kind,
                    because=because,
                    z=take(zs, row),
                    x=take(xs, examples[row]),
                    example=int(examples[row]),
                    unstable=len(part.basis),
                    eigenvalues=part.values,
                    errors=part.errors,
                    right=part.right,
                    left=left[place],
                    directions=part.basis,
                    residual=float(residuals[row]),
                    q=float(misses[row] ** 2 / 2),
                    candidates=int(merged[len(points)]),
                )
            )
    points = _merge_marginal(points, reaches, sizes[chosen])
    return sorted(points, key=lambda point: (point.example, ORDER.index(point.kind)))


def _kind(
    fixed: bool, residual: float, floor: float, linear: Unstable, reach: float
) -> tuple[Kind, str]:
    """The kind of a point, and why."""
    unstable, modulus, error = len(linear.basis), linear.modulus, linear.error
    inside = f"the largest eigenvalue has modulus {modulus:.6g} (error {error:.1g})"
    if not fixed:
        return "slow", (
            f"|f(z) - z| has a local minimum, {residual:.1e} of the size of the states; rounding "
            f"would be at most {floor:.1e}"
        )
    if unstable:
        number = f"{unstable} eigenvalue{'s' * (unstable > 1)} outside of the unit circle"
        if unstable >= MOST:
            return "saddle", f"at least {number}; no more are counted"
        if linear.complete:
            return "saddle", number
        return "saddle", f"at least {number}; of the others {inside}"
    if not np.isfinite(modulus):
        return "undecided", "the derivative of f is not finite there"
    if linear.complete:
        return "stable", inside
    return "undecided", (
        f"marginal: {inside}, which may be 1; along its eigenvector the point is known to within "
        f"{reach:.1g} of the size of the states"
    )


def _merge_marginal(
    points: list[Point], reaches: list[float], sizes: Float[np.ndarray, " points"]
) -> list[Point]:
    """Merge the undecided points that differ by no more than their error along the eigenvector: one
    point that is not known better, or several of a line of fixed points."""
    kept: list[int] = []
    for new, point in enumerate(points):
        for old in kept:
            first = points[old]
            if not first.kind == point.kind == "undecided" or first.example != point.example:
                continue
            gap = _flat(subtract(point.z, first.z), axes=0)
            along = np.real(first.right)
            part = gap @ along * along
            near = np.linalg.norm(gap - part) <= SAME * sizes[old]
            if near and np.linalg.norm(part) <= max(reaches[old], reaches[new]) * sizes[old]:
                points[old] = dataclasses.replace(
                    first, candidates=first.candidates + point.candidates
                )
                break
        else:
            kept.append(new)
    return [points[index] for index in kept]


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
    at_once: int,
) -> tuple[PyTree, ...]:
    """Where the search ends from each state, whether it ended there by itself, and `measure` of
    those ends."""
    parts = []
    for index in _chunks(len(examples), at_once):
        x, size = take(xs, examples[index]), sizes[index]
        end, ended = search(f, take(zs, index), x, floor * size, jnp.asarray(STEPS))
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
            if mine and gaps.min() <= SAME * cloud.size:
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


def _chunks(count: int, most: int) -> Iterator[Int[np.ndarray, " chunk"]]:
    """Indices of `count` rows, at most `most` at a time. The last row is repeated to fill the last
    chunk: the chunks have one length, a power of two, so that few programs are compiled."""
    length = 1 << (min(count, most) - 1).bit_length() if count else 1
    length = length if length <= most else max(1, length // 2)
    for first in range(0, count, length):
        yield np.minimum(np.arange(first, first + length), count - 1)


def _at_once(zs: PyTree) -> int:
    """The number of states that are searched or measured at once."""
    return max(1, BYTES // (COPIES * sum(leaf[0].nbytes for leaf in jtu.tree_leaves(zs))))


def _flat(zs: PyTree, axes: int) -> np.ndarray:
    """Each state as one vector, in float64, after the first `axes` axes."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jtu.tree_leaves(zs)]
    return np.concatenate([leaf.reshape(*leaf.shape[:axes], -1) for leaf in leaves], axis=-1)


def _column(values: np.ndarray, like: Any) -> np.ndarray:
    """`values`, with further axes of length 1 to multiply an array that has more."""
    return values.reshape(-1, *[1] * (np.ndim(like) - 1))
