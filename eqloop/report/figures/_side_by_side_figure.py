"""The loops of a few groups of runs side by side: accuracy, residual, and eigenvalues."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from ..._stability_report import StabilityReport
from .._cells import Cell
from .._escape import figure_text
from .._groups import Group, label
from ._results_figures import solved_lines
from ._style import iteration_axis, legend_below, line_style, new_figure, note, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Part = Literal["solved", "residual", "eigenvalues"]

_WIDTH, _HEIGHT = 4.0, 3.6
_SIZES = (34, 20, 16, 12)
"""Areas of the marks of the groups: later ones are smaller, and do not hide the ones below."""


def side_by_side_figure(
    groups: Sequence[Group], parts: Sequence[Part] = get_args(Part)
) -> "Figure":
    """One panel per part, one line or kind of mark per group.

    **Arguments:**

    - `groups`: the groups; those without a stability report have no residual and no eigenvalues.
    - `parts`: `"solved"`, the share of hard examples solved against iterations; `"residual"`, the
        median relative residual against iterations; `"eigenvalues"` of df/dz at the last state.

    **Raises** `InputError` if matplotlib is not installed.
    """
    named = {figure_text(label(group.axes)): group for group in groups}
    draw = {"solved": _solved, "residual": _residual, "eigenvalues": _eigenvalues}
    figure = new_figure(_WIDTH * len(parts), _HEIGHT)
    panels = figure.subplots(1, len(parts), squeeze=False)[0]
    for axes, part in zip(panels, parts, strict=True):
        tidy(axes)
        draw[part](axes, named)
    # From the right: a line, where there is one, stands in the legend rather than a mark.
    return legend_below(figure, panels[::-1], columns=2 * len(parts), order=list(named))


def _solved(axes: "Axes", named: Mapping[str, Group]) -> None:
    axes.set_title("accuracy: hard", loc="left", fontsize="medium")
    solved_lines(axes, named, list(named), "hard")


def _residual(axes: "Axes", named: Mapping[str, Group]) -> None:
    """The median over the examples of a run; the line is the median of the runs of a group, the
    band goes from the lowest to the highest."""
    reports = _reports([cell for group in named.values() for cell in group.cells])
    splits = dict.fromkeys(str(report.settings.get("split", "")) for report in reports)
    axes.set_title(f"residual: {', '.join(splits)}".rstrip(": "), loc="left", fontsize="medium")
    last = 1
    for number, (name, group) in enumerate(named.items()):
        runs = [report.reachability for report in _reports(group.cells)]
        curves = [dict(zip(r.iterations, r.residual.median, strict=True)) for r in runs]
        common = sorted(set.intersection(*map(set, curves))) if curves else []
        values = np.array([[curve[n] for n in common] for curve in curves], np.float64)
        if not np.isfinite(values).any():
            continue
        values[values <= 0] = np.nan  # zero has no logarithm
        last, style = max(last, common[-1]), line_style(number)
        if len(values) > 1:
            low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
            axes.fill_between(common, low, high, color=style["color"], alpha=0.15, linewidth=0)
        middle = np.nanmedian(values, axis=0)
        axes.plot(common, middle, label=name, linewidth=1.5, markersize=4, markevery=4, **style)
    if last == 1:
        note(axes, "not measured")
        return
    axes.set_yscale("log")
    axes.set_ylabel("relative residual")
    iteration_axis(axes, [1, last])


def _eigenvalues(axes: "Axes", named: Mapping[str, Group]) -> None:
    axes.set_title("eigenvalues of ∂f/∂z at the last state", loc="left", fontsize="medium")
    turn = np.linspace(0, 2 * np.pi, 181)
    axes.plot(np.cos(turn), np.sin(turn), color="0.35", linestyle="--", linewidth=1)
    axes.axhline(0, color="0.8", linewidth=0.7, zorder=0)
    axes.axvline(0, color="0.8", linewidth=0.7, zorder=0)
    for number, (name, group) in enumerate(named.items()):
        points = [
            value[:2]
            for report in _reports(group.cells)
            for example in report.spectrum.eigenvalues
            for value in example
            if len(value) == 3 and value[2] == 1 and np.isfinite(value).all()
        ]
        if points:
            style = line_style(number)
            axes.scatter(
                *np.array(points, np.float64).T,
                s=_SIZES[number % len(_SIZES)],
                marker=style["marker"],
                facecolors="none" if number % 2 else style["color"],
                edgecolors=style["color"],
                linewidths=0.8,
                alpha=0.6,
                label=name,
            )
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel("real part")
    axes.set_ylabel("imaginary part")


def _reports(cells: Sequence[Cell]) -> list[StabilityReport]:
    return [report for cell in cells if (report := cell.stability_report) is not None]
