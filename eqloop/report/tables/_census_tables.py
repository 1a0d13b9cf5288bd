"""The tables of a census: outcomes and answers, scores that verify, what the loop contributes."""

from collections.abc import Iterator
from typing import Any

from ..._numbers import DASH, typeset_hits, typeset_interval, typeset_number, typeset_percent
from ..._stability_report import Auroc, Census, RankCorrelation, Share, Summary
from ._table import Table

SCORES = {
    "residual": "last residual",
    "rate": "rate of the residual",
    "agreement": "agreement of restarts",
    "entropy": "entropy of the answer",
}
"""Score of a census -> what it is called."""


def census_numbers(census: Census) -> dict[str, list[tuple[str, Any]]]:
    """The numbers of a census in groups: title -> names and values, which are a `Share`, a
    `Summary`, an `Auroc`, a `RankCorrelation` or a number."""
    parts, froze, bypass = census.settled_wrong, census.froze, census.bypass
    return {
        "Does settling mean being right?": [
            ("settled but wrong, of those that settled", parts.wrong_of_settled),
            ("settled but wrong, of all", parts.settled_and_wrong),
            ("right but not settled, of those that are right", parts.unsettled_of_right),
            ("right but not settled, of all", parts.right_and_unsettled),
            ("iteration at which the answer froze", froze.answer),
            ("iteration at which the state settled", froze.state),
            ("the state settled later by", froze.difference),
            ("the answer froze first", froze.answer_first),
        ],
        "Does the loop do anything?": [
            ("right at the start", bypass.right_at_start),
            ("right after one iteration", bypass.right_after_one),
            ("right at the end", bypass.right_at_end),
            ("distance from start to fixed point, relative", bypass.distance),
            ("rank correlation of difficulty with iterations", bypass.difficulty),
            ("number of the iteration read off the state, R²", bypass.iteration_probe),
        ],
        "AUROC for being right": [
            (SCORES.get(name, name), area) for name, area in census.auroc.items()
        ],
    }


def outcomes_table(census: Census) -> Table:
    """Right and wrong answers by outcome, without the outcomes that no loop has."""
    rows = [
        (
            outcome,
            str(part.hits),
            str(part.count - part.hits),
            typeset_percent(part.share),
            typeset_interval(part.low, part.high, typeset_percent),
        )
        for outcome, part in census.outcome_correct.shares.items()
        if part.count
    ]
    heads = ("how the loop ends", "right", "wrong", "share right", "95 % interval")
    return Table("outcomes", "How loops end, and whether they are right", heads, rows)


def verifiers_table(census: Census) -> Table:
    """How well each score separates right from wrong answers."""
    rows = [
        (
            SCORES.get(name, name),
            typeset_number(area.value),
            typeset_interval(area.low, area.high),
            typeset_interval(area.null_low, area.null_high),
            typeset_number(area.p),
            typeset_hits(area.positives, area.positives + area.negatives),
        )
        for name, area in census.auroc.items()
    ]
    because = {area.because for area in census.auroc.values() if area.because is not None}
    note = (
        "AUROC: the probability that a right answer has a better score than a wrong one; a low "
        "residual, rate and entropy and a high agreement are good scores. By chance and p: from "
        f"permutations of right and wrong. {census.restarts} restarts from noise."
    )
    if because:
        note += f" Not measurable, because {'; '.join(sorted(because))}."
    heads = ("score", "AUROC", "95 % interval", "by chance", "p", "right")
    return Table("verifiers", "Do scores verify the answer?", heads, rows, note)


def census_tables(census: Census) -> Iterator[Table]:
    """The tables of the page."""
    yield outcomes_table(census)
    yield verifiers_table(census)
    heads = ("", "value", "95 % interval", "examples")
    for number, (title, rows) in enumerate(census_numbers(census).items()):
        cells = [(name, *_cells(value)) for name, value in rows if not isinstance(value, Auroc)]
        if cells:
            yield Table(f"census-{number}", title, heads, cells)


def _cells(value: Share | Summary | RankCorrelation | float | None) -> tuple[str, str, str]:
    if isinstance(value, Share):
        interval = typeset_interval(value.low, value.high, typeset_percent)
        return typeset_percent(value.share), interval, typeset_hits(value.hits, value.count)
    if isinstance(value, Summary):
        return typeset_number(value.mean), typeset_interval(value.low, value.high), str(value.count)
    if isinstance(value, RankCorrelation):
        interval = typeset_interval(value.low, value.high)
        return typeset_number(value.value), interval, str(value.count)
    return typeset_number(value), DASH, DASH
