"""The figures of a report on runs. Their panels are narrow, so that a phone can show their text."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...run import SPLITS, Evaluation
from .._cells import Cell, Scalar
from .._escape import figure_text
from .._groups import RATE, Group, Results, label
from ._accuracy import accuracy_axes
from ._style import legend_below, line_style, new_figure, note, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LINES = 7
"""Maximum number of lines in a panel; more groups are spread over panels by their first axes."""
_WIDTH, _HEIGHT = 4.0, 2.7
_LONGEST = 44
"""Number of letters of a legend label that fit into a panel."""
_TRAINED = "iterations in training"
_WIDE = 30
"""An axis is logarithmic if the ratio of its largest to its smallest number exceeds this."""


def curves_figure(results: Results, splits: Sequence[str] = SPLITS) -> "Figure":
    """Share solved against iterations: one column of panels per split, one line per group (its mean
    over the seeds) with a band from the worst to the best seed."""
    groups = [group for group in results.shown if group.cells]
    facets = _facets(groups, _drawn_axes(results))
    names = list(dict.fromkeys(name for members in facets.values() for name in members))
    rows = max(len(facets), 1)
    width = _WIDTH * len(splits)
    legend = 0.2 * math.ceil((1 + len(names)) / _legend_columns(width, names))
    figure = new_figure(width, _HEIGHT * rows + 0.6 + legend)
    panels = figure.subplots(rows, len(splits), squeeze=False, sharey=True)
    for line, (title, members) in zip(panels, facets.items(), strict=False):
        for axes, split in zip(line, splits, strict=True):
            # All panels of a column share an axis; the lowest panel labels it.
            solved_lines(axes, members, names, split, _iterations(groups, split))
            axes.set_title(f"{title}: {split}" if title else split, loc="left", fontsize="medium")
            axes.label_outer()
    panels[0, 0].set_ylim(0, _top(results, splits, lambda evaluated: evaluated.overall.best))
    return _legend(figure, panels.flat)


def rho_figure(results: Results, splits: Sequence[str] = SPLITS) -> "Figure":
    """Share solved against the spectral radius of the recall's weights, one point per run."""
    figure = new_figure(_WIDTH * len(splits), 3.4)
    panels = figure.subplots(1, len(splits), squeeze=False, sharey=True)
    for axes, split in zip(panels.flat, splits, strict=True):
        _points(axes, results, lambda cell: cell.rho_w_x, split)
        axes.axvline(1, color="0.45", linestyle="--", linewidth=1, zorder=1)
        axes.set_xlabel("ρ(W$_x$)")
        axes.set_title(split, loc="left", fontsize="medium")
        axes.label_outer()
    return _legend(figure, panels.flat)


def lyapunov_figure(results: Results) -> "Figure":
    """Share of hard examples solved against the leading Lyapunov exponent, one point per run."""
    figure = new_figure(_WIDTH, 3.4)
    axes = figure.add_subplot()
    _points(axes, results, exponent, "hard")
    axes.axvline(0, color="0.45", linestyle="--", linewidth=1, zorder=1)
    axes.set_xlabel("leading Lyapunov exponent")
    axes.set_ylabel("hard examples solved")
    return _legend(figure, [axes])


def exponent(cell: Cell) -> float | None:
    return None if cell.stability is None else cell.stability.measures["Lyapunov exponent"]


def located(
    results: Results, of: Callable[[Cell], float | None], split: str
) -> Iterator[tuple[Cell, float, float]]:
    """Cell, number and share of `split` solved, of the finished runs for which both are known."""
    for cell in results.finished:
        value, evaluated = of(cell), cell.split(split)
        if value is not None and evaluated is not None:
            yield cell, value, evaluated.overall.last


# --- parts of a figure


def _drawn_axes(results: Results) -> list[str]:
    """The axes that distinguish groups; a chosen learning rate does not."""
    axes = [axis for axis in results.axes if results.chosen is None or axis != RATE]
    return axes or list(results.axes)


def _facets(groups: Sequence[Group], axes: Sequence[str]) -> dict[str, dict[str, Group]]:
    """Title of a panel -> label of a line -> group.

    The title has the fewest first axes for which no panel has more than `MOST_LINES` lines; at
    least one axis is left for the lines.
    """
    facets: dict[str, dict[str, Group]] = {}
    for count in range(max(len(axes), 1)):
        facets = {}
        for group in groups:
            title, name = (_label(group.axes, part) for part in (axes[:count], axes[count:]))
            facets.setdefault(title, {})[name] = group
        if max(map(len, facets.values()), default=0) <= MOST_LINES:
            break
    return facets


def _label(axes: Mapping[str, Scalar], names: Sequence[str]) -> str:
    return figure_text(label({name: axes[name] for name in names}))


def _iterations(groups: Sequence[Group], split: str) -> list[int]:
    evaluations = (cell.split(split) for group in groups for cell in group.cells)
    return sorted({n for data in evaluations if data is not None for n in data.iterations})


def solved_lines(
    axes: "Axes",
    members: Mapping[str, Group],
    names: Sequence[str],
    split: str,
    iterations: Sequence[int] = (),
) -> None:
    """Draw the share solved against iterations: for each group the mean over its seeds, and a band
    from the worst seed to the best; and a dotted line at the known depth of the examples, if there
    is a law.

    **Arguments:**

    - `axes`: the panel.
    - `members`: label -> group.
    - `names`: the labels of all panels; the place of a label is the number of its style.
    - `split`: name of the split.
    - `iterations`: the range of the axis; by default that of the groups.
    """
    drawn = {
        name: evaluations
        for name, group in members.items()
        if (evaluations := [data for c in group.cells if (data := c.split(split)) is not None])
    }
    if not drawn:
        note(axes, "not evaluated")
        return
    trained = [
        record.trained_iterations
        for group in members.values()
        for cell in group.cells
        if (record := cell.record(split)) is not None and record.trained_iterations is not None
    ]
    accuracy_axes(
        axes,
        iterations or _iterations(list(members.values()), split),
        trained=(min(t[0] for t in trained), max(t[1] for t in trained)) if trained else None,
    )
    depths = {data.overall.known_depth for data in itertools.chain(*drawn.values())}
    for number, depth in enumerate(sorted(depth for depth in depths if not math.isnan(depth))):
        # An underscore keeps further lines out of the legend.
        label = "_" if number else "known depth"
        axes.axvline(depth, color="0.25", linestyle=":", linewidth=1.4, label=label, zorder=2)
    for name, evaluations in drawn.items():
        common, shares = _on_common_grid(evaluations)
        style = line_style(names.index(name))
        if len(shares) > 1:
            low, high = shares.min(axis=0), shares.max(axis=0)
            axes.fill_between(common, low, high, color=style["color"], alpha=0.15, linewidth=0)
        axes.plot(
            common,
            shares.mean(axis=0),
            label=name,
            markersize=4,
            linewidth=1.5,
            clip_on=False,
            zorder=3,
            **style,
        )


def _on_common_grid(evaluations: Sequence[Evaluation]) -> tuple[list[int], np.ndarray]:
    """The iteration counts of all evaluations, and the shares there, `(runs, iterations)`."""
    common = sorted(set.intersection(*(set(data.iterations) for data in evaluations)))
    shares = [
        [data.overall.exact[data.iterations.index(n)] for n in common] for data in evaluations
    ]
    return common, np.array(shares)


def _points(axes: "Axes", results: Results, of: Callable[[Cell], float | None], split: str) -> None:
    from matplotlib.ticker import PercentFormatter

    tidy(axes)
    top = _top(results, SPLITS, lambda evaluated: evaluated.overall.last)
    axes.set_ylim(-0.03 * top, 1.03 * top)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylabel("examples solved")
    first = results.axes[0]
    names = list(dict.fromkeys(_label(group.axes, [first]) for group in results.groups))
    points_of: dict[str, list[tuple[float, float]]] = {}
    for cell, value, solved in located(results, of, split):
        points_of.setdefault(_label(cell.axes, [first]), []).append((value, solved))
    for name, points in points_of.items():
        style = line_style(names.index(name))
        style["linestyle"] = ""
        values, solved = np.array(points).T
        axes.plot(
            values,
            solved,
            label=name,
            markersize=6,
            markeredgecolor="white",
            markeredgewidth=0.6,
            alpha=0.8,
            zorder=3,
            **style,
        )
    values = [value for points in points_of.values() for value, _ in points]
    if not values:
        note(axes, "not known for any run")
    elif min(values) > 0 and max(values) > _WIDE * min(values):
        axes.set_xscale("log")


def _top(results: Results, splits: Iterable[str], of: Callable[[Evaluation], float]) -> float:
    """The upper limit of the axis of shares; it is below 1 if all shares are small."""
    shares = [
        of(evaluated)
        for cell in results.finished
        for split in splits
        if (evaluated := cell.split(split)) is not None
    ]
    return next(top for top in (0.1, 0.25, 0.5, 1.0) if top >= max(shares, default=1.0))


def _legend(figure: "Figure", panels: Iterable["Axes"]) -> "Figure":
    """Draw one legend for all panels, below them."""
    panels = list(panels)
    names = [name for axes in panels for name in axes.get_legend_handles_labels()[1]]
    return legend_below(
        figure, panels, columns=_legend_columns(figure.get_figwidth(), names), wrap=_LONGEST
    )


def _legend_columns(width: float, names: Iterable[str]) -> int:
    """Number of columns of the legend that fit; a handle takes 0.55 inches, a letter 0.075."""
    longest = min(max(map(len, names), default=0), _LONGEST)
    return max(1, int(width / (0.55 + 0.075 * max(longest, len(_TRAINED)))))
