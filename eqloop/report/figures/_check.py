"""The figure of one checked claim."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .._escape import figure_text
from ._style import COLOURS, DASHES, MARKERS, legend_below, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_figure(check: Mapping[str, Any]) -> "Figure":
    """Draw a check, one line per model; the title says the claim and whether it holds.

    **Arguments:**

    - `check`: the tables of an `eqloop.claims.Check`.

    **Returns** a `matplotlib.figure.Figure`.

    **Raises** `InputError` if matplotlib is missing.

    ```python
    >>> import eqloop
    >>> check = eqloop.claims.Check(
    ...     claim="the residual falls", holds=True, outcome="from 1 to 0.1",
    ...     columns=("model", "last"), rows=[("mine", 0.1)],
    ...     curves={"mine": [(1.0, 1.0), (2.0, 0.1)]}, axes=("iterations", "residual"),
    ... )
    >>> figure = eqloop.report.check_figure(check.tables())
    >>> figure.axes[0].get_title(loc="left").splitlines()
    ['the residual falls:', 'holds here']

    ```
    """
    figure = new_figure(8.4, 4.2)
    axes = figure.add_subplot()
    for number, (name, points) in enumerate(check["curves"].items()):
        # Points that are infinite, or not positive on a logarithmic axis, cannot be drawn.
        drawable = [
            (x, y)
            for x, y in points
            if all(
                value is not None and math.isfinite(value) and (value > 0 or not logarithmic)
                for value, logarithmic in zip((x, y), check["logarithmic"], strict=True)
            )
        ]
        axes.plot(
            *(zip(*drawable, strict=True) if drawable else ([], [])),
            label=figure_text(name),
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            linestyle="" if check["scatter"] else DASHES[number % len(DASHES)],
            markersize=4.5,
            linewidth=1.4,
        )
        if check["scatter"] and drawable:
            largest = max(max(point) for point in drawable)
            axes.plot([0, largest], [0, largest], color="0.6", linewidth=0.8, zorder=0)
    for name, logarithmic in zip(("x", "y"), check["logarithmic"], strict=True):
        if logarithmic:
            axes.set(**{f"{name}scale": "log"})
    axes.set_xlabel(check["axes"][0])
    axes.set_ylabel(check["axes"][1])
    tidy(axes)
    outcomes = {True: "holds here", False: "does not hold here", None: "could not be measured"}
    axes.set_title(
        f"{check['claim']}:\n{outcomes[check['holds']]}", loc="left", fontsize="medium", wrap=True
    )
    return legend_below(figure, [axes], columns=3)
