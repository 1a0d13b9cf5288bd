"""What the figures share: how one is begun, and how lines are told apart."""

from typing import TYPE_CHECKING, Literal

from .._errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart by marker and dash as well as by colour: the colours are those of Okabe and Ito, which
# differ in lightness too, so the lines also survive a black-and-white printer.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches. **Raises** `InputError` where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise InputError("drawing needs matplotlib: pip install 'eqloop[plot]'") from None

    # Not pyplot: it keeps figures alive and may want a display.
    return Figure(figsize=(width, height), dpi=160, layout="constrained")


def tidy(axes: "Axes", *, grid: Literal["both", "y"] = "both") -> None:
    """A light grid and no box."""
    axes.grid(axis=grid, color="0.88", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
