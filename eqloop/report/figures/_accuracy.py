"""The figure of accuracy against iterations: does running the loop longer help?"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .._escape import figure_text
from ._style import iteration_axis, line_style, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def accuracy_figure(
    curves: Mapping[str, Sequence[float]],
    iterations: Sequence[int],
    *,
    trained: tuple[int, int] | None = None,
    depths: Mapping[str, float] | None = None,
    title: str = "",
    score: str = "examples solved",
) -> "Figure":
    """Draw accuracy against iterations, one line per curve; the axis of iterations is logarithmic.

    **Arguments:**

    - `curves`: label -> shares in [0, 1], one per entry of `iterations`.
    - `iterations`: the test-time iteration counts, ascending, from 1.
    - `trained`: the least and most iterations in training; this range is shaded.
    - `depths`: label -> known depth of the examples of a curve, where a dotted line is drawn; none
        for NaN.
    - `title`: the title of the figure.
    - `score`: the label of the vertical axis.

    **Returns** a `matplotlib.figure.Figure`.

    **Raises** `InputError` if matplotlib is missing.

    ```python
    >>> import eqloop
    >>> curves = {"test": [0.1, 0.6, 0.9], "hard": [0.0, 0.2, 0.4]}
    >>> figure = eqloop.report.accuracy_figure(curves, [1, 4, 16], trained=(1, 8))
    >>> figure.axes[0].get_ylabel(), [line.get_label() for line in figure.axes[0].lines]
    ('examples solved', ['test', 'hard'])

    ```
    """
    figure = new_figure(7.2, 4.0)
    axes = figure.add_subplot()
    accuracy_lines(axes, curves, iterations, trained=trained, score=score)
    _depth_lines(axes, list(curves), depths or {}, iterations)
    if title:
        axes.set_title(figure_text(title), loc="left", fontsize="medium")
    # The legend is beside the panel, where no line can run through it.
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return figure


def accuracy_lines(
    axes: "Axes",
    curves: Mapping[str, Sequence[float]],
    iterations: Sequence[int],
    *,
    trained: tuple[int, int] | None = None,
    score: str = "examples solved",
) -> None:
    """Draw the lines of `accuracy_figure` into `axes`, without a legend."""
    accuracy_axes(axes, iterations, trained=trained, score=score)
    for number, (label, shares) in enumerate(curves.items()):
        axes.plot(
            iterations,
            shares,
            label=figure_text(label),
            **line_style(number),
            markersize=4.5,
            linewidth=1.6,
            clip_on=False,
            zorder=3,
        )


def _depth_lines(
    axes: "Axes", labels: Sequence[str], depths: Mapping[str, float], iterations: Sequence[int]
) -> None:
    """A dotted line at the known depth of each curve, in its colour; the first is in the legend."""
    name = "known depth"
    for number, label in enumerate(labels):
        depth = depths.get(label, math.nan)
        if iterations[0] <= depth <= iterations[-1]:  # false for NaN
            colour = line_style(number)["color"]
            axes.axvline(depth, color=colour, linestyle=":", linewidth=1.4, label=name, zorder=2)
            name = "_"  # no further entry of the legend


def accuracy_axes(
    axes: "Axes",
    iterations: Sequence[int],
    *,
    trained: tuple[int, int] | None = None,
    score: str = "examples solved",
) -> None:
    """Set up axes: iterations across, shares from 0 to 1 up, the range of training shaded."""
    from matplotlib.ticker import PercentFormatter

    if trained is not None:
        axes.axvspan(*trained, color="0.9", lw=0, label="iterations in training", zorder=0)
    iteration_axis(axes, iterations)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylabel(score)
    tidy(axes, grid="y")
