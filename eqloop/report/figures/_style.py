"""The style of all figures: size and layout, colours and markers, legend, notes, axes."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ..._errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Markers and dashes distinguish lines as well as colours. The colours of Okabe and Ito also differ
# in lightness, so that the lines survive a black-and-white printer.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure; sizes in inches. **Raises** `InputError` if matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise InputError("drawing needs matplotlib: pip install matplotlib") from None

    # pyplot would keep figures alive, and may need a display.
    return Figure(figsize=(width, height), dpi=160, layout="constrained")


def line_style(number: int) -> dict[str, Any]:
    """Colour, marker and dash of the `number`-th line or set of points. The first 49 differ in
    marker or dash."""
    place, turn = number % len(COLOURS), number // len(COLOURS)
    return {
        "color": COLOURS[place],
        "marker": MARKERS[(place + turn) % len(MARKERS)],
        "linestyle": DASHES[(place + 2 * turn) % len(DASHES)],
    }


def tidy(axes: "Axes", *, grid: Literal["both", "y"] = "both") -> None:
    """Draw a light grid, and no box."""
    axes.grid(axis=grid, color="0.88", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def note(axes: "Axes", text: str) -> None:
    """Write a sentence in the middle of an empty panel."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", style="italic")
    axes.grid(visible=False)


def legend_below(
    figure: "Figure",
    panels: Iterable["Axes"],
    *,
    columns: int,
    order: Sequence[str] = (),
    wrap: int | None = None,
) -> "Figure":
    """Draw one legend for all panels, below them. A label of several panels appears once.

    **Arguments:**

    - `figure`, `panels`: the figure, and its panels with labelled lines.
    - `columns`: number of columns.
    - `order`: labels that come first, if a panel has them.
    - `wrap`: number of letters after which a label continues on a new line.

    **Returns** `figure`.
    """
    handles = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    labels = [label for label in order if label in handles]
    labels += [label for label in handles if label not in labels]
    figure.legend(
        [handles[label] for label in labels],
        labels if wrap is None else [textwrap.fill(label, wrap) for label in labels],
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize="small",
    )
    return figure


def iteration_axis(axes: "Axes", iterations: Sequence[int]) -> None:
    """Make the horizontal axis logarithmic, with ticks at powers of two.

    `iterations` are ascending and at least 1.
    """
    from matplotlib.ticker import NullLocator

    first, last = iterations[0], iterations[-1]
    axes.set_xscale("log", base=2)
    axes.set_xlim(first, max(last, 2 * first))
    ticks = [1 << n for n in range(last.bit_length()) if 1 << n >= first]
    ticks = ticks[:: 1 + len(ticks) // 10]  # about ten have room
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("iterations of the loop")
