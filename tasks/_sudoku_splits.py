"""Which sudokus of a file are easy and which are hard, where no bands of ratings are given."""

import numpy as np

from .._task import Split

BY_QUANTILE = "80 % quantile of the ratings"
_QUANTILE = 0.8
_FEWEST = 0.1
"""Share of the rows that each side must have at least, or a rule does not part them."""


def easy_and_hard(split: Split, numbers: np.ndarray) -> tuple[np.ndarray, str]:
    """A mask of the easy rows, and the rule that chose them. `numbers` are those of `orbits`.

    The hard ones are the fifth with the highest ratings. Where too many ratings are equal for
    that, it is the fifth with the fewest givens; where these are equal too, a fifth at random, by
    the number of each, so that it stays the same whatever else is in the file.
    """
    ratings = split.difficulty.astype(np.float64)
    givens = np.count_nonzero(split.inputs, axis=(1, 2))
    edge, exact = _edge(ratings)
    if edge is not None:
        rule = BY_QUANTILE if exact else "most ratings are equal; hard from the next higher one on"
        return ratings < edge, f"{rule}: {edge:.6g}"
    edge, _ = _edge(-givens.astype(np.float64))
    if edge is not None:
        least = int(np.floor(-edge))
        return givens > least, f"most ratings are equal; hard puzzles have {least} givens or fewer"
    easy = numbers % np.uint64(5) != 0
    return easy, "most ratings and givens are equal; a fifth at random is hard"


def _edge(values: np.ndarray) -> tuple[float | None, bool]:
    """The value from which on a row is hard, and whether that is the quantile; None where no value
    parts the rows."""
    if not len(values):
        return None, False
    quantile = float(np.quantile(values, _QUANTILE))
    above = values[values > quantile]
    for edge in (quantile, float(above.min()) if len(above) else quantile):
        if _FEWEST <= np.mean(values < edge) <= 1 - _FEWEST:
            return edge, edge == quantile
    return None, False
