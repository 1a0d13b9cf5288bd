"""A fixed point or a slow point of a map, and what is known about it."""

import dataclasses
import math
from collections.abc import Iterator

import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Complex, Float, Int, PRNGKeyArray, PyTree

from .._iteration import Map
from .._stability_report import PointKind
from ._orbits import MIN_RESIDUAL_ULPS, ROUNDING_ULPS, precision
from ._trees import subtract, take
from ._unstable import MOST, Unstable, left_vectors, unstable_directions

SAME_POINT = 1e-3
"""Distance below which two points are one, relative to the size of the states."""
OUTSIDE = 10.0
"""Points further than this from the states of the orbit, relative to their size, are dropped."""
BYTES = 2**28
"""Memory for the Krylov spaces of the rows that are searched or measured at once."""
COPIES = 32
"""Copies of the state that a row needs."""


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

    kind: PointKind
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


def describe(
    f: Map,
    zs: PyTree,
    xs: PyTree,
    examples: Int[np.ndarray, " points"],
    misses: Float[np.ndarray, " points"],
    sizes: Float[np.ndarray, " points"],
    candidates: Int[np.ndarray, " points"],
    *,
    key: PRNGKeyArray,
    count: int,
) -> list[Point]:
    """The points at the states `zs`: fixed points where `misses = |f(z) - z|` is no more than
    rounding, else slow points. Marginal points that are not told apart are one.

    **Arguments:**

    - `zs`: the states, stacked along a first axis.
    - `xs`: the inputs of all examples.
    - `examples`: the example of each point.
    - `misses`: see above.
    - `sizes`: the size of the states along the orbit of its example.
    - `candidates`: number of searches that ended there.
    - `key`, `count`: see `find_points`.
    """
    points: list[Point] = []
    reaches: list[float] = []
    eps = precision(zs)
    eigen_key, left_key = jr.split(key)
    for index in chunks(len(examples), at_once(zs)):
        z, x, size = take(zs, index), take(xs, examples[index]), sizes[index]
        known = np.maximum(misses[index], MIN_RESIDUAL_ULPS * eps * size)
        parts = unstable_directions(
            f, z, x, misses=known, sizes=OUTSIDE * size, key=eigen_key, count=count
        )
        left = left_vectors(f, z, x, parts, key=left_key)
        # The last chunk has repeated rows at its end.
        for row, part, vector in zip(range(len(points), len(examples)), parts, left, strict=False):
            miss, scale = float(misses[row]), float(sizes[row])
            reaches.append(part.reach)
            kind, because = _kind(miss / scale, ROUNDING_ULPS * eps, part, part.reach / scale)
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
                    left=vector,
                    directions=part.basis,
                    residual=miss / scale,
                    q=miss**2 / 2,
                    candidates=int(candidates[row]),
                )
            )
    return _merge_marginal(points, reaches, sizes)


def _kind(residual: float, floor: float, linear: Unstable, reach: float) -> tuple[PointKind, str]:
    """The kind of a point, and why."""
    unstable, modulus, error = len(linear.basis), linear.modulus, linear.error
    inside = f"the largest eigenvalue has modulus {modulus:.6g} (error {error:.1g})"
    if not residual <= floor:
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
            gap = flattened(subtract(point.z, first.z), axes=0)
            along = np.real(first.right)
            part = gap @ along * along
            near = np.linalg.norm(gap - part) <= SAME_POINT * sizes[old]
            if near and np.linalg.norm(part) <= max(reaches[old], reaches[new]):
                points[old] = dataclasses.replace(
                    first, candidates=first.candidates + point.candidates
                )
                break
        else:
            kept.append(new)
    return [points[index] for index in kept]


def chunks(count: int, most: int) -> Iterator[Int[np.ndarray, " chunk"]]:
    """Indices of `count` rows, at most `most` at a time. The last row is repeated to fill the last
    chunk: the chunks have one length, a power of two, so that few programs are compiled."""
    length = 1 << (min(count, most) - 1).bit_length() if count else 1
    length = length if length <= most else max(1, length // 2)
    for first in range(0, count, length):
        yield np.minimum(np.arange(first, first + length), count - 1)


def at_once(zs: PyTree) -> int:
    """The number of states that are searched or measured at once."""
    row = sum(math.prod(leaf.shape[1:]) * leaf.dtype.itemsize for leaf in jtu.tree_leaves(zs))
    return max(1, BYTES // (COPIES * row))


def flattened(zs: PyTree, axes: int) -> np.ndarray:
    """Each state as one vector, in float64, after the first `axes` axes."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jtu.tree_leaves(zs)]
    return np.concatenate([leaf.reshape(*leaf.shape[:axes], -1) for leaf in leaves], axis=-1)
