"""The figures of a census: outcomes against answers, and the scores that might verify an answer."""

from typing import TYPE_CHECKING

import numpy as np

from ..._numbers import is_known, typeset_hits, typeset_number
from ..._stability_report import Census
from ._stability_figures import _begin, _empty
from ._style import COLOURS, legend_below, line_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BLUE, _ORANGE, *_ = COLOURS


def outcomes_figure(census: Census) -> "Figure":
    """One bar per outcome: right answers solid, wrong ones hatched."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = _begin("examples", "")
    shares = {name: part for name, part in census.outcome_correct.shares.items() if part.count}
    if not shares:
        return _empty(axes, "no loop was counted")
    places = np.arange(len(shares))
    right = np.array([part.hits for part in shares.values()])
    wrong = np.array([part.count - part.hits for part in shares.values()])
    axes.barh(places, right, height=0.6, color=_BLUE, edgecolor="black", label="right")
    axes.barh(
        places,
        wrong,
        left=right,
        height=0.6,
        color="white",
        edgecolor=_ORANGE,
        hatch="////",
        linewidth=np.where(wrong > 0, 1.0, 0.0),  # no edge of an empty bar
        label="wrong",
    )
    for place, part in enumerate(shares.values()):
        text = f" {typeset_hits(part.hits, part.count)}"
        axes.text(part.count, place, text, va="center", fontsize="small")
    axes.set_yticks(places, list(shares))
    axes.set_ylim(len(shares) - 0.4, -0.6)
    axes.set_xlim(0, 1.25 * max(right + wrong))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", visible=False)
    return legend_below(figure, [axes], columns=2)


def verifiers_figure(census: Census) -> "Figure":
    """The ROC curve of each score for being right."""
    figure, axes = _begin("wrong answers accepted", "right answers accepted")
    measured = {name: area for name, area in census.auroc.items() if is_known(area.value)}
    if not measured:
        reasons = dict.fromkeys(area.because for area in census.auroc.values() if area.because)
        return _empty(axes, "\n".join(["not measurable", *reasons]))
    right = np.array(census.outcome_correct.right)
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, zorder=0, label="chance")
    for number, (name, area) in enumerate(measured.items()):
        wrong_accepted, right_accepted = _roc(np.array(census.scores[name], np.float64), right)
        axes.plot(
            wrong_accepted,
            right_accepted,
            **line_style(number),
            markersize=3.5,
            markevery=max(1, len(right_accepted) // 8),
            linewidth=1.4,
            label=f"{name}: {typeset_number(area.value)}",
        )
    axes.set_aspect("equal")
    return legend_below(figure, [axes], columns=2)


def _roc(scores: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The shares of wrong and of right answers whose score is at least a threshold, for all
    thresholds from the highest."""
    known = ~np.isnan(scores)
    scores, right = scores[known], right[known]
    thresholds = np.concatenate([[np.inf], np.unique(scores)[::-1]])
    wrong_scores, right_scores = np.sort(scores[~right]), np.sort(scores[right])

    def accepted(ordered: np.ndarray) -> np.ndarray:
        return 1 - np.searchsorted(ordered, thresholds, side="left") / len(ordered)

    return accepted(wrong_scores), accepted(right_scores)
