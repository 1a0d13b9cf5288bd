"""The figure of the scalar model: the stable regions, and the distance from balance."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._errors import InputError
from ._style import COLOURS, DASHES, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Recall -> colour and width of its lines; the dash depends on sigma.
_RECALLS = {"external": (COLOURS[0], 1.2), "internal": (COLOURS[1], 2.4)}
_STABLE = {"external": r"$|(1 + y)\,x| \leq 1$", "internal": r"$-2 \leq x\,y \leq 0$"}


def scalar_figure(scalar: Mapping[str, Any], *, sigma: float | None = None) -> "Figure":
    """Draw the two stable regions with draws, and the distribution of the anisotropy.

    The hatched region is stable. A dot is a stable draw; an open circle is an unstable draw, and
    its arrow ends at the nearest stable point. In the third panel a line that ends below 100 %
    leaves out the draws on an axis, where the anisotropy is infinite.

    **Arguments:**

    - `scalar`: the tables of a `ScalarReport`.
    - `sigma`: the standard deviation whose draws are drawn; the middle one by default.

    **Returns** a `matplotlib.figure.Figure`.

    **Raises** `InputError` if matplotlib is missing, and if the report has no such sigma.

    ```python
    >>> import eqloop
    >>> report = eqloop.stability.scalar_experiment(sigmas=[1.0], n=100)
    >>> figure = eqloop.report.scalar_figure(report.tables())
    >>> len(figure.axes), figure.axes[0].get_ylabel()
    (3, 'y, Jacobian of the block')

    ```
    """
    sigmas = sorted(scalar["settings"]["sigmas"])
    chosen = sigmas[len(sigmas) // 2] if sigma is None else sigma
    name = f"{chosen:g}"
    if name not in scalar["shown"]:
        raise InputError(f"sigma = {name}: there are {', '.join(scalar['shown'])}")

    figure = new_figure(12.6, 4.3)
    *regions, curves = figure.subplots(1, 3, width_ratios=(1, 1, 1.25))
    shown = scalar["shown"][name]
    for recall, axes in zip(_RECALLS, regions, strict=True):
        _region(axes, recall, 3 * chosen)
        _moves(axes, np.array(shown["drawn"]), np.array(shown[recall]))
        axes.set_title(f"{recall}: stable if {_STABLE[recall]}", loc="left", fontsize="medium")
        axes.set_xlabel(f"x, weight on the state (draws: $\\sigma$ = {name})")
    regions[0].set_ylabel("y, Jacobian of the block")
    _distribution(curves, scalar)
    return figure


def _region(axes: "Axes", recall: str, reach: float) -> None:
    x = np.linspace(-reach, reach, 2001)
    with np.errstate(divide="ignore"):
        if recall == "external":
            low, high = -1 - 1 / np.abs(x), -1 + 1 / np.abs(x)
        else:
            low, high = np.minimum(-2 / x, 0), np.maximum(-2 / x, 0)
    low, high = np.maximum(low, -2 * reach), np.minimum(high, 2 * reach)
    axes.fill_between(
        x, low, high, facecolor="0.93", edgecolor="0.72", hatch="////", linewidth=0, zorder=0
    )
    for edge in (low, high):
        axes.plot(x, edge, color="0.35", linewidth=1, zorder=1)
    if recall == "internal":  # the axes are stable, and bound the unstable quadrants
        axes.axvline(0, color="0.35", linewidth=1, zorder=1)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-reach, reach)
    axes.set_aspect("equal")


def _moves(axes: "Axes", drawn: np.ndarray, moved: np.ndarray) -> None:
    from matplotlib.patches import FancyArrowPatch

    stays = (drawn == moved).all(axis=-1)
    axes.plot(*drawn[stays].T, "o", color="black", markersize=4, label="stays", zorder=3)
    for start, end in zip(drawn[~stays], moved[~stays], strict=True):
        # A patch and not `annotate`, whose arrows leave the axes with a draw that is outside.
        arrow = FancyArrowPatch(
            tuple(start),
            tuple(end),
            arrowstyle="-|>",
            mutation_scale=7,
            shrinkA=2.5,
            shrinkB=0,
            linewidth=0.8,
            color="black",
            zorder=3,
        )
        axes.add_patch(arrow)
    axes.plot(
        *drawn[~stays].T,
        "o",
        color="black",
        markerfacecolor="white",
        markersize=4.5,
        label="moves",
        zorder=4,
    )
    axes.legend(loc="upper right", fontsize="small", framealpha=1)


def _distribution(axes: "Axes", scalar: Mapping[str, Any]) -> None:
    from matplotlib.ticker import PercentFormatter

    thresholds = scalar["thresholds"]
    for recall, (colour, width) in _RECALLS.items():
        for number, (sigma, cases) in enumerate(scalar["cases"].items()):
            axes.plot(
                thresholds,
                cases[recall]["at_most"],
                color=colour,
                linewidth=width,
                linestyle=DASHES[number % len(DASHES)],
                label=f"{recall}, $\\sigma$ = {sigma}",
            )
    axes.axhline(0.5, color="0.35", linewidth=0.8, zorder=0)
    side = {"x": thresholds[-1], "ha": "right", "fontsize": "small"}
    axes.text(**side, y=0.545, s="internal: the others are on an axis", va="bottom")
    axes.text(**side, y=0.49, s="half: the median", va="top")
    axes.set_xlim(0, thresholds[-1])
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(r"anisotropy $|\log(|x|\,/\,|y|)|$ of the nearest stable point")
    axes.set_ylabel("of the draws at most")
    axes.set_title("how far from balance", loc="left", fontsize="medium")
    tidy(axes, grid="y")
    axes.legend(loc="lower right", fontsize="small", frameon=False, handlelength=3)
