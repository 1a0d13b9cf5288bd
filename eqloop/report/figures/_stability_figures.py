"""The figures of a stability report.

The figures are narrow, so that their text can be read on a phone. An empty panel says why it is
empty.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..._stability_report import Band, StabilityReport
from ._accuracy import accuracy_lines
from ._style import COLOURS, iteration_axis, legend_below, new_figure, note, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE = (4.0, 3.2)
_THIN_LINES = 64
"""Maximum number of curves of single examples; more make a blot and a large file."""
_MANY_POINTS = 2000
"""Rasterise scatter plots with more points than this, to keep the SVG small."""
_BLUE, _ORANGE, _GREEN, *_ = COLOURS


def residual_figure(report: StabilityReport) -> "Figure":
    """Relative residual against iterations, both logarithmic: median, band, single examples and
    tolerance."""
    figure, axes = _begin("iterations of the loop", "relative residual")
    part = report.reachability
    curves = part.curves[:_THIN_LINES]
    floor = _smallest(part.residual.median, part.residual.low, *curves)
    if floor is None:
        return _empty(axes, "no residual was measured")
    for number, curve in enumerate(curves):
        axes.plot(
            part.iterations,
            _positive(curve, floor),
            color="0.35",
            alpha=0.25,
            linewidth=0.5,
            label="" if number else "single examples",
        )
    _band(axes, part.iterations, part.residual, floor)
    axes.axhline(part.tolerance, color=_ORANGE, linestyle="--", linewidth=1.4, label="tolerance")
    iteration_axis(axes, part.iterations)
    _log_up(axes)
    return legend_below(figure, [axes], columns=2)


def eigenvalue_figure(report: StabilityReport) -> "Figure":
    """The leading eigenvalues of df/dz in the complex plane, with the unit circle."""
    figure, axes = _begin("real part", "imaginary part")
    rows = [
        values for example in report.spectrum.eigenvalues for values in example if len(values) == 3
    ]
    points = np.array(rows, np.float64).reshape(-1, 3)
    points = points[np.isfinite(points[:, :2]).all(axis=1)]
    turn = np.linspace(0, 2 * np.pi, 181)
    axes.plot(
        np.cos(turn), np.sin(turn), color="0.35", linestyle="--", linewidth=1, label="unit circle"
    )
    kinds = (
        (points[:, 2] == 1, "eigenvalue", {"marker": "o", "facecolors": _BLUE, "alpha": 0.55}),
        (points[:, 2] != 1, "did not converge", {"marker": "x", "color": _ORANGE}),
    )
    for mask, label, style in kinds:
        if mask.any():
            axes.scatter(
                *points[mask, :2].T,
                s=16,
                linewidths=0.8,
                label=label,
                rasterized=len(points) > _MANY_POINTS,
                **style,
            )
    axes.axhline(0, color="0.8", linewidth=0.7, zorder=0)
    axes.axvline(0, color="0.8", linewidth=0.7, zorder=0)
    axes.set_aspect("equal", adjustable="datalim")
    if not len(points):
        return _empty(axes, "no eigenvalue was found")
    return legend_below(figure, [axes], columns=2)


def gradient_norm_figure(report: StabilityReport) -> "Figure":
    """The norm of the gradient at iteration t, over that at the last iteration."""
    figure, axes = _begin("iteration t", "|dL/dz$_t$| / |dL/dz$_T$|")
    part = report.geometry
    floor = _smallest(*_quantiles(part.gradient_norm))
    if floor is None:
        return _empty(axes, "no gradient was measured")
    _band(axes, part.iterations, part.gradient_norm, floor)
    axes.axhline(1, color=_ORANGE, linestyle="--", linewidth=1.2, label="neither grows nor fades")
    _log_up(axes)
    return legend_below(figure, [axes], columns=2)


def solved_figure(report: StabilityReport) -> "Figure":
    """Share solved against iterations, with the range of training shaded."""
    figure, axes = _begin("iterations of the loop", "examples solved")
    part = report.reachability.accuracy
    if not part or not part.iterations:
        return _empty(axes, "this map has no task to solve")
    if not np.isfinite(np.concatenate(list(part.splits.values()))).any():
        return _empty(axes, "no score is finite")
    accuracy_lines(axes, part.splits, part.iterations, trained=part.trained)
    return legend_below(figure, [axes], columns=2)


def fixed_points_figure(report: StabilityReport) -> "Figure":
    """The fixed points of the inputs in the plane of their two main directions."""
    figure, axes = _begin("first main direction", "second main direction")
    part = report.input_dependence
    known = [point for point in part.points if point is not None]
    points = np.array([point for point in known if np.isfinite(point).all()]).reshape(-1, 2)
    if not len(points):
        return _empty(axes, "nothing converged")
    label = f"one point per input ({len(points)} of {len(part.points)} converged)"
    axes.scatter(*points.T, s=24, marker="o", facecolors=_BLUE, alpha=0.45, label=label)
    axes.set_aspect("equal", adjustable="datalim")
    return legend_below(figure, [axes], columns=2)


def sensitivity_figure(report: StabilityReport) -> "Figure":
    """|dz_t/dx| against t, and the derivative of the fixed point (implicit function theorem)."""
    figure, axes = _begin("iterations of the loop", "|dz$_t$/dx|")
    part = report.input_dependence
    floor = _smallest(*_quantiles(part.sensitivity))
    if floor is None:
        return _empty(axes, "no sensitivity was measured")
    _band(axes, part.iterations, part.sensitivity, floor)
    if (implicit := part.implicit.median) > 0:
        label = "|(I − J)$^{-1}$ df/dx|, median"
        axes.axhline(implicit, color=_ORANGE, linestyle="--", linewidth=1.4, label=label)
    iteration_axis(axes, part.iterations)
    _log_up(axes)
    return legend_below(figure, [axes], columns=2)


def distinct_figure(report: StabilityReport) -> "Figure":
    """Number of distinct fixed points against number of inputs, both on axes of powers of two."""
    figure, axes = _begin("inputs", "distinct fixed points")
    part = report.input_dependence
    inputs, clusters = np.array(part.inputs), np.array(part.clusters)
    known = np.isfinite(clusters) & (clusters > 0)
    if not known.any():
        return _empty(axes, "nothing converged")
    axes.plot(
        inputs, inputs, color="0.35", linestyle="--", linewidth=1, label="one for every input"
    )
    axes.plot(
        inputs[known], clusters[known], color=_BLUE, marker="o", markersize=5, label="measured"
    )
    for scale, ticks in ((axes.set_xscale, axes.set_xticks), (axes.set_yscale, axes.set_yticks)):
        scale("log", base=2)
        ticks(inputs, [f"{n:g}" for n in inputs])
    axes.minorticks_off()
    return legend_below(figure, [axes], columns=2)


# --- shared parts


def _begin(across: str, up: str) -> "tuple[Figure, Axes]":
    figure = new_figure(*_SIZE)
    axes = figure.add_subplot()
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    tidy(axes)
    return figure, axes


def _log_up(axes: "Axes") -> None:
    """Make the vertical axis logarithmic; label it even if it spans less than two decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high / low < 100:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:g}"))
        axes.yaxis.set_minor_locator(NullLocator())


def _empty(axes: "Axes", text: str) -> "Figure":
    """An empty panel with a sentence that says why it is empty."""
    note(axes, text)
    axes.set_xticks([])
    axes.set_yticks([])
    return axes.get_figure(root=True)  # pyright: ignore[reportReturnType]


def _band(axes: "Axes", at: Sequence[int], band: Band, floor: float) -> None:
    """Draw the median over the examples and a band from the 5 % to the 95 % quantile."""
    low, median, high = (_positive(values, floor) for values in _quantiles(band))
    axes.fill_between(at, low, high, color=_BLUE, alpha=0.2, linewidth=0, label="5 to 95 %")
    marker = "o" if len(at) <= 24 else ""
    axes.plot(at, median, color=_BLUE, linewidth=1.8, marker=marker, markersize=4, label="median")


def _quantiles(band: Band) -> tuple[list[float], ...]:
    return band.low, band.median, band.high


def _smallest(*lists: Sequence[float]) -> float | None:
    """The smallest positive number, the floor of a logarithmic axis; None if there is none."""
    values = np.concatenate(lists)
    values = values[np.isfinite(values) & (values > 0)]
    return float(values.min()) if values.size else None


def _positive(values: Sequence[float], floor: float) -> NDArray[np.float64]:
    """The values with 0, which has no logarithm, replaced by `floor`."""
    return np.where(np.array(values) <= 0, floor, values)
