"""The figure of an audit of gradients: cosine against cost."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..._numbers import format_percent, is_known
from ...run import GradientAudit
from .._escape import figure_text
from ._style import COLOURS, legend_below, new_figure, note, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _ORANGE, _GREEN, _PINK, _, _SKY, _BLACK = COLOURS
# Family -> marker, colour, label. The markers alone distinguish the families.
_FAMILIES = {
    "backprop": ("*", _BLACK, "full backpropagation"),
    "truncated": ("o", _BLUE, "truncated: last K iterations"),
    "phantom": ("s", _ORANGE, "phantom: K damped iterations"),
    "neumann": ("D", _GREEN, "Neumann series of K terms"),
    "implicit": ("^", _PINK, "implicit, by GMRES"),
    "implicit-anderson": ("v", _PINK, "implicit, by Anderson"),
    "implicit-converged": ("P", _BLACK, "implicit, loop converged"),
}
_OTHER = ("X", _SKY)
_FINEST = 1e-6
"""The smallest value of 1 - cosine that float32 resolves."""
_TICKS = {2: "-1", 1: "0", 0.5: "0.5", 0.1: "0.9", 1e-2: "0.99", 1e-3: "0.999"}
_TICKS |= {1e-4: "0.9999", 1e-5: "0.99999", _FINEST: "1.0"}


def gradients_figure(audit: GradientAudit, *, title: str = "") -> "Figure":
    """Draw one point per gradient, in one panel per reference; lines join a family.

    The vertical axis is `1 - cosine`, logarithmic and downwards, labelled with the cosine: 0.99 and
    0.999 are as far apart as 0.9 and 0.99. A reference is not compared with itself. If no example
    converged, the second panel says so.

    **Arguments:**

    - `audit`: a `GradientAudit`: the result of `eqloop.gradient_audit`, or that of
        `eqloop.run.read_gradients`.
    - `title`: the title of the figure.

    **Returns** a `matplotlib.figure.Figure`.

    **Raises** `InputError` if matplotlib is missing.

    ```python
    >>> import eqloop
    >>> near = eqloop.run.Likeness(cosine=0.95, ratio=1.1)
    >>> one_step = eqloop.run.AuditedGradient(
    ...     total=eqloop.run.Comparison(3.0, near, near), layers={}, seconds=0.1,
    ...     compile_seconds=2.0, evaluations=30.0, repeated=1.0, products=1.0, memory=None,
    ...     residual=1e-3, converged=0.75, backward_residual=None, fallback=0.0,
    ... )
    >>> audit = eqloop.run.GradientAudit(
    ...     examples=16, iterations=30, rtol=1e-5, max_steps=256, share=0.75,
    ...     gradients={"one-step": one_step}, seconds=2.0,
    ... )
    >>> figure = eqloop.report.gradients_figure(audit)
    >>> [axes.get_title(loc="left") for axes in figure.axes][1]
    'against the converged implicit gradient (75 % converged)'

    ```
    """
    figure = new_figure(9.6, 4.4)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    seconds = [gradient.seconds for gradient in audit.gradients.values()]
    converged = f"{format_percent(audit.share, '.0f')} % converged"
    names = {
        "backprop": ("backprop", "against full backpropagation"),
        "implicit": (
            "implicit-converged",
            f"against the converged implicit gradient ({converged})",
        ),
    }
    distances: list[float] = []
    for axes, (reference, (itself, heading)) in zip(panels, names.items(), strict=True):
        points = {
            name: (gradient.seconds, _distance(cosine))
            for name, gradient in audit.gradients.items()
            if name != itself and is_known(cosine := getattr(gradient.total, reference).cosine)
        }
        distances += [distance for _, distance in points.values()]
        _points(axes, points)
        axes.set_title(heading, fontsize="medium", loc="left")
        axes.set_xlabel("seconds for one gradient of the batch")
        if not points:
            note(axes, "no fixed point was found")
    _scales(panels, seconds, distances)
    panels[0].set_ylabel("cosine")
    if title:
        figure.suptitle(figure_text(title), x=0.01, ha="left")
    order = [label for _, _, label in _FAMILIES.values()]
    return legend_below(figure, panels, columns=4, order=order)


def _distance(cosine: float) -> float:
    return max(1 - cosine, _FINEST)


def _points(axes: "Axes", points: Mapping[str, tuple[float, float]]) -> None:
    from matplotlib.patheffects import withStroke

    families: dict[str, list[tuple[str, tuple[float, float]]]] = {}
    for name, point in points.items():
        family, terms = _family(name)
        families.setdefault(family, []).append((terms, point))
    for family, members in families.items():
        marker, colour, label = _FAMILIES.get(family, (*_OTHER, family))
        members.sort(key=lambda member: int(member[0] or 0))
        axes.plot(
            *zip(*(point for _, point in members), strict=True),
            label=label,
            color=colour,
            marker=marker,
            markersize=11 if marker == "*" else 6.5,
            markeredgecolor="white",
            markeredgewidth=0.6,
            linestyle="-" if len(members) > 1 else "",
            linewidth=1.2,
            clip_on=False,
            zorder=3,
        )
        for terms, point in members:
            axes.annotate(
                terms,
                point,
                (0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=colour,
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
                zorder=4,
            )


def _family(name: str) -> tuple[str, str]:
    """A family and its K; the one-step gradient is truncated to one iteration."""
    if name == "one-step":
        return "truncated", "1"
    family, _, terms = name.rpartition("-")
    return (family, terms) if terms.isdecimal() else (name, "")


def _scales(panels: Sequence["Axes"], seconds: Sequence[float], distances: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low = 1.3 * max([*distances, 0.1])
    high = min([*distances, 1e-2]) / 3
    shown = {at: text for at, text in _TICKS.items() if high <= at <= low}
    for axes in panels:
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        axes.set_yticks(list(shown), list(shown.values()))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlim(0.7 * min(seconds), 1.5 * max(seconds))
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        tidy(axes)
