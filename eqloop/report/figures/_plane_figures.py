"""Orbits, points and unstable directions in the main planes of examples."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._numbers import typeset_percent
from ..._stability_report import PlaneRecord, PointRecord, StabilityReport
from ._style import COLOURS, legend_below, new_figure, note

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS = 4
"""Maximum number of panels of a figure."""
_NEAR = 2.0
"""Points are drawn up to this distance from the orbits, in multiples of their extent."""
_LENGTH = 0.3
"""Half of the length of a direction that lies in the plane, in multiples of the extent."""
_BLUE, _ORANGE, _GREEN, _PINK, *_ = COLOURS
_STYLES: dict[str, dict[str, Any]] = {
    "stable": {"marker": "o", "facecolor": _GREEN},
    "saddle": {"marker": "X", "facecolor": _ORANGE},
    "slow": {"marker": "^", "facecolor": _PINK},
    "undecided": {"marker": "s", "facecolor": "white"},
    "edge state": {"marker": "D", "facecolor": "none", "s": 110},  # around the saddle that it is
}
"""Kind of a point -> its marker; shapes differ as well as colours."""


def planes_figure(report: StabilityReport) -> "Figure":
    """The planes of at most four examples, first of those with most points."""
    planes = _chosen(report)
    columns = min(2, max(1, len(planes)))
    rows = -(-max(1, len(planes)) // columns)
    figure = new_figure(4.0, 0.9 + 2.0 * rows if columns == 2 else 3.8)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[max(1, len(planes)) :]:
        axes.set_visible(False)
    if not planes:
        _frame(panels[0])
        note(panels[0], "no state is finite")
        return figure
    for axes, plane in zip(panels, planes, strict=False):
        _draw(axes, plane, report)
        axes.set_title(
            f"example {plane.example + 1} ({typeset_percent(plane.variance)})", fontsize="small"
        )
    return legend_below(figure, panels[: len(planes)], columns=2)


def plane_figure(
    report: StabilityReport, plane: PlaneRecord
) -> tuple["Figure", list[list[float] | None]]:
    """The plane of one example, and where its own orbit is in the picture: a place for each of the
    recorded iterations, as shares of the width from the left and of the height from the top; None
    where the orbit is not finite."""
    figure = new_figure(4.0, 3.8)
    axes = figure.subplots()
    _draw(axes, plane, report)
    legend_below(figure, [axes], columns=2)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # saving must not move anything
    places = figure.transFigure.inverted().transform(axes.transData.transform(_array(plane.own)))
    return figure, [
        [round(float(left), 4), round(1 - float(bottom), 4)] if np.isfinite(left + bottom) else None
        for left, bottom in places
    ]


def _chosen(report: StabilityReport) -> list[PlaneRecord]:
    planes = [plane for plane in report.planes or [] if len(_finite(plane))]
    counts = [len(_points(report, plane.example)) for plane in planes]
    order = sorted(range(len(planes)), key=lambda index: -counts[index])[:_PANELS]
    return [planes[index] for index in sorted(order)]


def _finite(plane: PlaneRecord) -> np.ndarray:
    """The places of the orbits that are drawn: those of noise begin after one iteration."""
    places = np.concatenate([_array(plane.own), *(_array(orbit)[1:] for orbit in plane.others)])
    return places[np.isfinite(places).all(axis=1)]


def _points(report: StabilityReport, example: int) -> list[tuple[str, PointRecord]]:
    """The points of an example that have a place, and what each is."""
    points = [(point.kind, point) for point in report.points or []]
    points += [("edge state", edge.point) for edge in report.edges or [] if edge.point is not None]
    return [
        (name, point)
        for name, point in points
        if point.example == example and point.place is not None and np.isfinite(point.place).all()
    ]


def _draw(axes: "Axes", plane: PlaneRecord, report: StabilityReport) -> None:
    _frame(axes)
    own, others = _array(plane.own), [_array(orbit)[1:] for orbit in plane.others]
    for orbit in others:
        axes.plot(*orbit.T, color="0.5", linestyle="--", linewidth=0.8, label="orbit from noise")
    axes.plot(
        *own.T, color=_BLUE, linewidth=1.2, marker=".", markersize=3.5, label="orbit from own start"
    )
    axes.plot(*own[:1].T, color=_BLUE, linestyle="", marker="P", markersize=7, label="own start")
    drawn = _finite(plane)
    if not len(drawn):
        note(axes, "no state is finite")
        return
    low, high = drawn.min(axis=0), drawn.max(axis=0)
    extent = float(max(high - low)) or 1.0
    outside = 0
    for name, point in _points(report, plane.example):
        place = np.array(point.place)
        if np.any((place < low - _NEAR * extent) | (place > high + _NEAR * extent)):
            outside += 1
            continue
        for direction in _array(point.directions or []):
            ends = place + _LENGTH * extent * np.outer([-1, 1], direction)
            axes.plot(*ends.T, color="0", linewidth=1.2, zorder=3, label="unstable direction")
        axes.scatter(
            *place[:, None],
            **{"s": 42, "edgecolors": "0", "linewidths": 0.8, "zorder": 4, "label": name}
            | _STYLES[name],
        )
    if outside:
        axes.text(0.02, 0.02, f"{outside} outside", transform=axes.transAxes, fontsize="x-small")


def _frame(axes: "Axes") -> None:
    """Only directions and proportions have a meaning."""
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xticks([])
    axes.set_yticks([])


def _array(places: Sequence[Sequence[float]]) -> np.ndarray:
    return np.array(places, np.float64).reshape(-1, 2)
