"""Fixed points and slow points of the loop, those that no orbit reaches included."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

from .._schema import OPTIONAL
from ._words import POINT_KINDS, PointKind


@dataclasses.dataclass(frozen=True)
class PointRecord:
    """What a report holds of a point; see `eqloop.stability.Point`.

    **Attributes:**

    - `kind`, `because`, `unstable`, `candidates`: see `Point`.
    - `example`: index of the example among those of the report.
    - `eigenvalues`: the leading eigenvalues as pairs `[real, imaginary]`, largest modulus first.
    - `residual`: `|f(z) - z|` over the size of the states along the orbit.
    - `place`: its coordinates in the plane of its example; None without a plane.
    - `directions`: the parts in that plane of up to four of its orthonormal unstable directions. A
        direction in the plane has a part of length 1.
    """

    kind: PointKind
    because: str
    example: int
    unstable: int
    eigenvalues: list[list[float]]
    residual: float
    candidates: int
    place: list[float] | None = dataclasses.field(default=None, metadata=OPTIONAL)
    directions: list[list[float]] | None = dataclasses.field(default=None, metadata=OPTIONAL)


@dataclasses.dataclass(frozen=True)
class PlaneRecord:
    """Orbits of one example in the main plane of their states, without those of the starts.

    **Attributes:**

    - `example`: index of the example among those of the report.
    - `variance`: share of the variance of the states that the plane holds; NaN if they are equal.
    - `iterations`: numbers of iterations, from 0 for the start.
    - `own`: the coordinates of the orbit from the own start after these iterations; NaN once it
        has diverged.
    - `others`: those of orbits from noise with the size of the own start.

    **Raises** `ValueError` for an orbit that is not as long as `iterations`.
    """

    example: int
    variance: float
    iterations: list[int]
    own: list[list[float]]
    others: list[list[list[float]]]

    def __post_init__(self):
        if any(len(orbit) != len(self.iterations) for orbit in (self.own, *self.others)):
            raise ValueError("an orbit needs as many places as there are iterations")


@dataclasses.dataclass(frozen=True)
class EdgeRecord:
    """What a report holds of the search for the edge state between two stable points of an example;
    see `eqloop.stability.edge_state`.

    **Attributes:**

    - `example`: index of the example among those of the report.
    - `because`: why there is an edge state, or why none was located.
    - `gap`: see `eqloop.stability.EdgeState`.
    - `point`: the edge state; None if none was located.
    """

    example: int
    because: str
    gap: float
    point: PointRecord | None


def count_kinds(points: Sequence[PointRecord]) -> str:
    """The number of points of each kind in words, such as "2 stable, 1 saddle"."""
    counts = Counter(point.kind for point in points)
    return ", ".join(f"{counts[kind]} {kind}" for kind in POINT_KINDS if counts[kind]) or "none"
