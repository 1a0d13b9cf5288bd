"""Where starts lead, by their distance from the end of the own orbit."""

from typing import TYPE_CHECKING

import numpy as np

from ..._numbers import typeset_number
from ..._stability_report import Basins
from ._stability_figures import _begin
from ._style import COLOURS, legend_below

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "----", "++++")


def basins_figure(basins: Basins) -> "Figure":
    """One bar of shares per distance, and one of random starts; ends differ in hatch as well as in
    colour."""
    figure, axes = _begin("distance of the starts / |z*|", "share of the starts, %")
    heads = [typeset_number(size) for size in basins.sizes] + ["random"]
    places, bottom = np.arange(len(heads)), np.zeros(len(heads))
    for number, (end, shares) in enumerate(basins.ends.items()):
        heights = 100 * np.array([part.share for part in (*shares, basins.random[end])])
        if end != "own" and not heights.any():
            continue
        axes.bar(
            places,
            heights,
            bottom=bottom,
            width=0.7,
            color=COLOURS[number % len(COLOURS)] if end == "own" else "white",
            edgecolor="black" if end == "own" else COLOURS[number % len(COLOURS)],
            hatch=_HATCHES[number % len(_HATCHES)],
            linewidth=np.where(heights > 0, 0.8, 0.0),  # no edge of an empty bar
            label=end,
        )
        bottom += heights
    axes.set_xticks(places, heads)
    axes.set_ylim(0, 100)
    axes.grid(axis="x", visible=False)
    return legend_below(figure, [axes], columns=3)
