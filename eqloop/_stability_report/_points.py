"""Fixed points and slow points of the loop, those that no orbit reaches included."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

from ._words import POINT_KINDS, PointKind


@dataclasses.dataclass(frozen=True)
class PointRecord:
    """What a report holds of a point; see `eqloop.stability.Point`.

    **Attributes:**

    - `kind`, `because`, `unstable`, `candidates`: see `Point`.
    - `example`: index of the example among those of the report.
    - `eigenvalues`: the leading eigenvalues as pairs `[real, imaginary]`, largest modulus first.
    - `residual`: `|f(z) - z|` over the size of the states along the orbit.
    """

    kind: PointKind
    because: str
    example: int
    unstable: int
    eigenvalues: list[list[float]]
    residual: float
    candidates: int


def count_kinds(points: Sequence[PointRecord]) -> str:
    """The number of points of each kind in words, such as "2 stable, 1 saddle"."""
    counts = Counter(point.kind for point in points)
    return ", ".join(f"{counts[kind]} {kind}" for kind in POINT_KINDS if counts[kind]) or "none"
