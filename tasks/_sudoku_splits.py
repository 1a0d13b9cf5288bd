"""Divide the sudokus of a file into easy and hard ones if the task sets no bands of ratings."""

import numpy as np

from .._task import Split

BY_QUANTILE = "80 % quantile of the ratings"
_QUANTILE = 0.8
_FEWEST = 0.1
"""Minimum share of the rows on each side of a rule; otherwise the rule does not apply."""


def easy_and_hard(split: Split, numbers: np.ndarray) -> tuple[np.ndarray, str]:
    """A mask of the easy rows, and the rule that chose them. `numbers` are from `orbits`.

    Hard are the 20 % with the highest ratings. If too many ratings are equal, hard are the 20 %
    with the fewest givens. If these are equal too, hard are 20 % at random, chosen by `numbers` so
    that the choice for a puzzle does not depend on the rest of the file.
    """
    ratings = split.difficulty.astype(np.float64)
    givens = np.count_nonzero(split.inputs, axis=(1, 2))
    edge, exact = _edge(ratings)
    if edge is not None:
        rule = BY_QUANTILE if exact else "most ratings are equal; hard from the next higher one on"
        return ratings < edge, f"{rule}: {edge:.6g}"
    edge, _ = _edge(-givens.astype(np.float64))
    if edge is not None:
        fewest = int(np.floor(-edge))
        return (
            givens > fewest,
            f"most ratings are equal; hard puzzles have {fewest} givens or fewer",
        )
    easy = numbers % np.uint64(5) != 0
    return easy, "most ratings and givens are equal; a fifth at random is hard"


def _edge(values: np.ndarray) -> tuple[float | None, bool]:
    """The smallest value of a hard row, and whether it is the quantile; None if no value divides
    the rows."""
    if not len(values):
        return None, False
    quantile = float(np.quantile(values, _QUANTILE))
    above = values[values > quantile]
    for edge in (quantile, float(above.min()) if len(above) else quantile):
        if _FEWEST <= np.mean(values < edge) <= 1 - _FEWEST:
            return edge, edge == quantile
    return None, False
