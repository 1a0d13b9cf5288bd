"""The table of fixed points and slow points that searches located."""

from collections.abc import Sequence

from ..._numbers import typeset_number
from ..._stability_report import PointRecord, count_kinds
from ._table import Table


def points_table(points: Sequence[PointRecord]) -> Table:
    """One row per point; the number of each kind is in the note."""
    rows = [
        (
            str(point.example + 1),
            point.kind,
            str(point.unstable),
            typeset_number(max((abs(complex(*pair)) for pair in point.eigenvalues), default=None)),
            typeset_number(point.residual),
        )
        for point in points
    ]
    heads = ("example", "kind", "unstable directions", "largest |λ|", "residual")
    note = (
        f"Searches from states along the orbits, with noise: {count_kinds(points)}. They prove "
        "that these points exist, not that there are no others."
    )
    return Table("points", "Points that orbits do not find", heads, rows, note)
