"""The tables of a census: outcomes and answers, scores that verify, what the loop contributes."""

from collections.abc import Iterator

from ..._numbers import typeset_interval, typeset_number, typeset_percent
from ..._stability_report import Census, Share, Summary
from ._table import Table

SCORES = {
    "residual": "last residual",
    "rate": "rate of the residual",
    "agreement": "agreement of restarts",
    "entropy": "entropy of the answer",
}
"""Score of a census -> what it is called."""

Value = Summary | Share | tuple[float, float, float] | float | None
"""What a table shows with its interval; three numbers are a mean and its interval."""


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
    heads = ("score", "AUROC", "95 % interval", "by chance", "p")
    return Table("verifiers", "Do scores verify the answer?", heads, rows, note)


def census_groups(census: Census) -> Iterator[tuple[str, list[tuple[str, Value]]]]:
    """The other numbers of a census, in groups: title, labels and values."""
    parts, froze, bypass = census.settled_wrong, census.froze, census.bypass
    correlation = bypass.difficulty
    yield (
        "Does settling mean being right?",
        [
            ("settled but wrong, of those that settled", parts.wrong_of_settled),
            ("settled but wrong, of all", parts.settled_and_wrong),
            ("right but not settled, of those that are right", parts.unsettled_of_right),
            ("right but not settled, of all", parts.right_and_unsettled),
            ("iteration at which the answer froze", froze.answer),
            ("iteration at which the state settled", froze.state),
            ("iterations between them", froze.difference),
            ("the answer froze first", froze.answer_first),
        ],
    )
    yield (
        "Does the loop do anything?",
        [
            ("right at the start", bypass.right_at_start),
            ("right after one iteration", bypass.right_after_one),
            ("right at the end", bypass.right_at_end),
            ("distance from start to fixed point, relative", bypass.distance),
            (
                "rank correlation of difficulty with iterations",
                (correlation.value, correlation.low, correlation.high),
            ),
            ("iteration read off the state, R<sup>2</sup>", bypass.iteration_probe),
        ],
    )
