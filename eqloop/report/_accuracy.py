"""Accuracy against iterations, as a picture: does running the loop longer help, and when not."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .._errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Told apart by marker and dash as well as by colour: the colours are those of Okabe and Ito, which
# differ in lightness too, so the lines also survive a black-and-white printer.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
_DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))


def accuracy_figure(
    curves: Mapping[str, Sequence[float]],
    iterations: Sequence[int],
    *,
    trained: tuple[int, int] | None = None,
    title: str = "",
    score: str = "examples solved",
) -> "Figure":
    """One line for each curve, over a logarithmic axis of iterations.

    **Arguments:**

    - `curves`: label -> shares in [0, 1], one for each of `iterations`.
    - `iterations`: the test-time iteration counts, ascending, from 1.
    - `trained`: the fewest and most iterations in training; shaded.
    - `score`: what the shares are shares of, for the axis.

    **Raises** `InputError` where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import NullLocator, PercentFormatter
    except ModuleNotFoundError:
        raise InputError("drawing needs matplotlib: pip install 'eqloop[plot]'") from None

    # Not pyplot: it keeps figures alive and may want a display.
    figure = Figure(figsize=(7.2, 4.0), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    if trained is not None:
        axes.axvspan(*trained, color="0.9", lw=0, label="iterations in training", zorder=0)
    for number, (label, shares) in enumerate(curves.items()):
        axes.plot(
            iterations,
            shares,
            label=label,
            color=_COLOURS[number % len(_COLOURS)],
            marker=_MARKERS[number % len(_MARKERS)],
            linestyle=_DASHES[number % len(_DASHES)],
            markersize=4.5,
            linewidth=1.6,
            clip_on=False,
            zorder=3,
        )
    axes.set_xscale("log", base=2)
    axes.set_xlim(iterations[0], max(iterations[-1], 2 * iterations[0]))
    ticks = [n for n in _powers_of_two(iterations[-1]) if n >= iterations[0]]
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("iterations of the loop")
    axes.set_ylabel(score)
    axes.grid(axis="y", color="0.85", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    if title:
        axes.set_title(title, loc="left", fontsize="medium")
    # Beside the lines and not on them: where they run is not known beforehand.
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return figure


def _powers_of_two(most: int) -> list[int]:
    return [1 << n for n in range(most.bit_length()) if 1 << n <= most]
