"""The figure of a training run: loss, right answers, converged loops, gradients that fell back."""

from typing import TYPE_CHECKING

from .._escape import figure_text
from .._training import Training, TrainingCurve
from ._style import COLOURS, DASHES, new_figure, note, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BINS = 300


def training_figure(training: Training, *, title: str = "") -> "Figure":
    """Draw the curves of a training run over its optimiser steps: one panel for each kind.

    A line is the mean of neighbouring steps, with a band from the lowest to the highest of them. A
    dashed vertical line is the end of a phase.

    **Arguments:**

    - `training`: see `read_training`.
    - `title`: the title of the figure.

    **Returns** a `matplotlib.figure.Figure`.

    **Raises** `InputError` if matplotlib is missing.

    ```python
    >>> import eqloop
    >>> curve = eqloop.report.TrainingCurve("loss", "loss", [1, 2], [1.0, 0.5])
    >>> figure = eqloop.report.training_figure(eqloop.report.Training(2, 2, (), 0.5, (curve,)))
    >>> [axes.get_title(loc="left") for axes in figure.axes]
    ['loss']

    ```
    """
    panels: dict[str, list[TrainingCurve]] = {}
    for curve in training.curves:
        panels.setdefault(curve.panel, []).append(curve)
    figure = new_figure(7.2, 1.8 * max(len(panels), 1) + 0.5)
    axes_of_panels = figure.subplots(max(len(panels), 1), 1, squeeze=False, sharex=True)[:, 0]
    if not panels:
        note(axes_of_panels[0], "nothing is logged yet")
    for axes, (name, curves) in zip(axes_of_panels, panels.items(), strict=False):
        axes.set_title(name, loc="left", fontsize="medium")
        for number, curve in enumerate(curves):
            _draw(axes, curve, number, training.step)
        for until in training.phases:
            axes.axvline(until, color="0.45", linestyle="--", linewidth=1, zorder=1)
        if len(curves) > 1:
            axes.legend(frameon=False, fontsize="small")
        tidy(axes)
    axes_of_panels[-1].set_xlabel("optimiser steps")
    if title:
        figure.suptitle(figure_text(title), x=0.01, ha="left", fontsize="medium")
    return figure


def _draw(axes: "Axes", curve: TrainingCurve, number: int, last: int) -> None:
    bins = [part for part in curve.bins(min(_BINS, last), last) if part is not None]
    steps = [part.step for part in bins]
    lows, highs = [part.low for part in bins], [part.high for part in bins]
    colour = COLOURS[number]
    axes.fill_between(steps, lows, highs, color=colour, alpha=0.2, linewidth=0)
    axes.plot(
        steps,
        [part.mean for part in bins],
        color=colour,
        linestyle=DASHES[number],
        linewidth=1.6,
        label=figure_text(curve.label),
        marker="." if len(steps) < 30 else None,
    )
    if curve.is_share:
        from matplotlib.ticker import PercentFormatter

        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    elif lows and curve.is_wide(min(lows), max(highs)):
        axes.set_yscale("log")
