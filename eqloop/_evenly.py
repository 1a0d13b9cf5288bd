"""Which examples to take if not all are taken."""

import numpy as np
from jaxtyping import Int


def evenly(count: int, most: int) -> Int[np.ndarray, " some"]:
    """Indices of at most `most` of `count` examples, evenly spread, since they may be sorted."""
    taken = min(most, count)
    return np.arange(taken) * count // max(taken, 1)
