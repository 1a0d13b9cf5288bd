"""The tables of points that searches located, of edge states, and of basins."""

import math
from collections.abc import Sequence

from ..._numbers import typeset_interval, typeset_number, typeset_percent
from ..._stability_report import Basins, EdgeRecord, PointRecord, count_kinds
from ._table import Table


def points_table(points: Sequence[PointRecord]) -> Table:
    """One row per point; the number of each kind is in the note."""
    rows = [
        (
            str(point.example + 1),
            point.kind,
            str(point.unstable),
            _largest(point),
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


def edges_table(edges: Sequence[EdgeRecord]) -> Table:
    """One row per search for an edge state, with the reason for its end."""
    rows = [
        (
            str(edge.example + 1),
            "–" if edge.point is None else _largest(edge.point),
            typeset_number(edge.gap),
            edge.because,
        )
        for edge in edges
    ]
    heads = ("example", "largest |λ|", "gap", "edge state")
    note = (
        "The saddle on the boundary between the basins of two stable points, by bisection. Gap: "
        "distance of the two states between which the boundary lies, relative to that of the "
        "attractors. za and zb are the two stable points."
    )
    return Table("edges", "Edge states between stable points", heads, rows, note)


def basins_table(basins: Basins) -> Table:
    """One row per distance of the starts, and one of random starts; a column for each end that a
    start leads to."""
    occurring = [
        name
        for name, shares in basins.ends.items()
        if name != "own" and (basins.random[name].hits or any(share.hits for share in shares))
    ]
    rows = [
        (
            typeset_number(size),
            typeset_percent(own.mean),
            # Student's interval of few examples leaves the range of a share.
            typeset_interval(max(own.low, 0.0), min(own.high, 1.0), typeset_percent),
            *(typeset_percent(basins.ends[name][place].share) for name in occurring),
        )
        for place, (size, own) in enumerate(zip(basins.sizes, basins.own, strict=True))
    ]
    random = (typeset_percent(basins.random[name].share) for name in occurring)
    mine = basins.random["own"]
    rows.append(("random", typeset_percent(mine.share), "", *random))
    note = (
        f"Where {basins.samples} starts per example lead, by their distance from the end of its "
        "own orbit, relative to the norm of that end. own: its own fixed point or cycle, mean and "
        "interval over the examples that have one; the other columns are shares of all starts. "
    )
    if math.isnan(basins.half.mean):
        note += "The own share is not measurable, because no own orbit has a fixed point or cycle."
    else:
        note += (
            "The largest distance from which at least half of the starts return is "
            f"{typeset_number(basins.half.mean)} on average. Fixed points that the starts of one "
            f"example reach: at most {max(basins.fixed_points)}."
        )
    heads = ("distance", "own", "95 % interval", *occurring)
    return Table("basins", "Basins: where other starts lead", heads, rows, note)


def _largest(point: PointRecord) -> str:
    """The largest modulus of its eigenvalues."""
    return typeset_number(max((abs(complex(*pair)) for pair in point.eigenvalues), default=None))
