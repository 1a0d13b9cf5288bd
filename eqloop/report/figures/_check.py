"""The picture of one checked claim."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .._escape import figure_text
from ._style import COLOURS, DASHES, MARKERS, legend_below, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_figure(check: Mapping[str, Any]) -> "Figure":
    """One line for each model, the claim above and whether it holds.

    **Arguments:** `check`: the tables of an `eqloop.claims.Check`.

    **Raises** `InputError` where matplotlib is not installed.
    """
    figure = new_figure(8.4, 4.2)
    axes = figure.add_subplot()
    for number, (name, points) in enumerate(check["curves"].items()):
        # What is infinite, or not positive on a logarithmic axis, has no place in the picture.
        shown = [
            (x, y)
            for x, y in points
            if all(
                value is not None and math.isfinite(value) and (value > 0 or not logarithmic)
                for value, logarithmic in zip((x, y), check["logarithmic"], strict=True)
            )
        ]
        axes.plot(
            *(zip(*shown, strict=True) if shown else ([], [])),
            label=figure_text(name),
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            linestyle="" if check["scatter"] else DASHES[number % len(DASHES)],
            markersize=4.5,
            linewidth=1.4,
        )
        if check["scatter"] and shown:
            most = max(max(point) for point in shown)
            axes.plot([0, most], [0, most], color="0.6", linewidth=0.8, zorder=0)
    for name, logarithmic in zip(("x", "y"), check["logarithmic"], strict=True):
        if logarithmic:
            axes.set(**{f"{name}scale": "log"})
    axes.set_xlabel(check["axes"][0])
    axes.set_ylabel(check["axes"][1])
    tidy(axes)
    said = {True: "holds", False: "does not hold", None: "could not be measured"}[check["holds"]]
    axes.set_title(f"{check['claim']}:\n{said} here", loc="left", fontsize="medium", wrap=True)
    return legend_below(figure, [axes], columns=3)
