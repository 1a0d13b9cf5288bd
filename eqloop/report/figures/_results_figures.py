"""The figures of a report on runs. Narrow panels, so that their text can be read on a phone."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...run import SPLITS, Evaluated
from .._cells import Cell, Scalar
from .._escape import figure_text
from .._groups import RATE, Group, Results, label
from ._accuracy import accuracy_axes
from ._style import legend_below, line_style, new_figure, note, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LINES = 7
"""In one panel; from there on groups are spread over panels by their first axes."""
_WIDTH, _HEIGHT = 4.0, 2.7
_LONGEST = 44
"""Letters of a label of the legend that have room in a panel."""
_TRAINED = "iterations in training"
_WIDE = 30
"""Ratio of the largest to the smallest number from which an axis is logarithmic."""


def curves_figure(results: Results, splits: Sequence[str] = SPLITS) -> "Figure":
    """Share solved against iterations: a column of panels for each split, a line for each group
    (its mean over the seeds) with a band from the least to the most."""
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
            # One axis for all panels of a column: only the lowest has its numbers on it.
            _curves(axes, members, names, split, _iterations(groups, split))
            axes.set_title(f"{title}: {split}" if title else split, loc="left", fontsize="medium")
            axes.label_outer()
    panels[0, 0].set_ylim(0, _top(results, splits, lambda found: found.overall.best))
    return _legend(figure, panels.flat)


def rho_figure(results: Results, splits: Sequence[str] = SPLITS) -> "Figure":
    """Share solved against the spectral radius of the recall's weights, a point for each run."""
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
    """Share of hard examples solved against the leading Lyapunov exponent, a point for each run."""
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
    """The finished runs of which both are known: a number, and the share of `split` solved."""
    for cell in results.finished:
        value, found = of(cell), cell.split(split)
        if value is not None and found is not None:
            yield cell, value, found.overall.last


# --- parts of a figure


def _drawn_axes(results: Results) -> list[str]:
    """Where the learning rate was chosen, it tells no two groups apart."""
    axes = [axis for axis in results.axes if results.chosen is None or axis != RATE]
    return axes or list(results.axes)


def _facets(groups: Sequence[Group], axes: Sequence[str]) -> dict[str, dict[str, Group]]:
    """Title of a panel -> label of a line -> group: by as few of the first axes as leave each
    panel with no more than `MOST_LINES`, and at least one axis for the lines."""
    found: dict[str, dict[str, Group]] = {}
    for count in range(max(len(axes), 1)):
        found = {}
        for group in groups:
            title, name = (_label(group.axes, some) for some in (axes[:count], axes[count:]))
            found.setdefault(title, {})[name] = group
        if max(map(len, found.values()), default=0) <= MOST_LINES:
            break
    return found


def _label(axes: Mapping[str, Scalar], names: Sequence[str]) -> str:
    return figure_text(label({name: axes[name] for name in names}))


def _iterations(groups: Sequence[Group], split: str) -> list[int]:
    cells = (cell.split(split) for group in groups for cell in group.cells)
    return sorted({n for found in cells if found is not None for n in found.iterations})


def _curves(
    axes: "Axes",
    members: Mapping[str, Group],
    names: Sequence[str],
    split: str,
    iterations: Sequence[int],
) -> None:
    drawn = {
        name: each
        for name, group in members.items()
        if (each := [found for cell in group.cells if (found := cell.split(split)) is not None])
    }
    every = [found for each in drawn.values() for found in each]
    if not every:
        note(axes, "not evaluated")
        return
    trained = [found.trained for found in every if found.trained is not None]
    accuracy_axes(
        axes,
        iterations,
        trained=(min(t[0] for t in trained), max(t[1] for t in trained)) if trained else None,
    )
    for name, found in drawn.items():
        common, shares = _together(found)
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


def _together(found: Sequence[Evaluated]) -> tuple[list[int], np.ndarray]:
    """The iterations that all were evaluated after, and the shares there, `(runs, iterations)`."""
    common = sorted(set.intersection(*(set(each.iterations) for each in found)))
    shares = [
        [each.overall.exact[each.iterations.index(n)] for n in common] for each in found
    ]  # fmt: skip
    return common, np.array(shares)


def _points(axes: "Axes", results: Results, of: Callable[[Cell], float | None], split: str) -> None:
    from matplotlib.ticker import PercentFormatter

    tidy(axes)
    top = _top(results, SPLITS, lambda found: found.overall.last)
    axes.set_ylim(-0.03 * top, 1.03 * top)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylabel("examples solved")
    first = results.axes[0]
    names = list(dict.fromkeys(_label(group.axes, [first]) for group in results.groups))
    found: dict[str, list[tuple[float, float]]] = {}
    for cell, value, solved in located(results, of, split):
        found.setdefault(_label(cell.axes, [first]), []).append((value, solved))
    for name, points in found.items():
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
    every = [value for points in found.values() for value, _ in points]
    if not every:
        note(axes, "of no run is this known")
    elif min(every) > 0 and max(every) > _WIDE * min(every):
        axes.set_xscale("log")


def _top(results: Results, splits: Iterable[str], of: Callable[[Evaluated], float]) -> float:
    """Of the axis of shares: where all are small, there is something to see all the same."""
    shares = [
        of(found)
        for cell in results.finished
        for split in splits
        if (found := cell.split(split)) is not None
    ]
    return next(top for top in (0.1, 0.25, 0.5, 1.0) if top >= max(shares, default=1.0))


def _legend(figure: "Figure", panels: Iterable["Axes"]) -> "Figure":
    """One for all panels, below them."""
    panels = list(panels)
    names = [name for axes in panels for name in axes.get_legend_handles_labels()[1]]
    return legend_below(
        figure, panels, columns=_legend_columns(figure.get_figwidth(), names), wrap=_LONGEST
    )


def _legend_columns(width: float, names: Iterable[str]) -> int:
    """As many as have room: so many inches for a handle, and for a letter of small print."""
    longest = min(max(map(len, names), default=0), _LONGEST)
    return max(1, int(width / (0.55 + 0.075 * max(longest, len(_TRAINED)))))
