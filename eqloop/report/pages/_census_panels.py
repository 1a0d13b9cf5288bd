"""The figures of a census on the page of a stability report."""

from ..._numbers import typeset_number
from ..._stability_report import Census
from ..figures import _census_figures as figures
from ._stability_panels import Panel


def _outcomes(census: Census) -> str:
    parts = ", ".join(
        f"{name} {part.hits} right and {part.count - part.hits} wrong"
        for name, part in census.outcome_correct.shares.items()
        if part.count
    )
    return f"Right and wrong answers by how the loop ends: {parts}."


def _verifiers(census: Census) -> str:
    areas = ", ".join(
        f"{name} {typeset_number(area.value)}"
        for name, area in census.auroc.items()
        if area.because is None
    )
    return f"ROC curves of scores for being right, by the area below them: {areas or 'none'}."


CENSUS_PANELS = (
    Panel(
        "outcomes",
        "Census: settled, and right?",
        figures.outcomes_figure,
        "examples by how the loop ends; right where every cell of the answer is",
        "Hatched answers are wrong. A loop that settles can be wrong, and one that does not can be "
        "right: the numbers beside the bars count the right ones.",
        _outcomes,
    ),
    Panel(
        "verifiers",
        "Census: does the residual verify the answer?",
        figures.verifiers_figure,
        "share of right against share of wrong answers whose score passes a threshold",
        "A score that separates right from wrong answers rises along the left edge; one that says "
        "nothing stays near the grey line. The scores are the last residual, its rate, the "
        "agreement of restarts from noise, and the entropy of the answer.",
        _verifiers,
    ),
)
