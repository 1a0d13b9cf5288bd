"""Where loops go from other starts."""

import dataclasses

from ._statistics import Share, Summary


@dataclasses.dataclass(frozen=True)
class Basins:
    """Where a loop goes from starts around the end of its own orbit, and from random ones.

    The ends are "own", the attractor of the own start, a fixed point or a cycle; "other", another
    fixed point; "cycle", another cycle; and the other outcomes of `classify`.

    **Attributes:**

    - `sizes`: distances of the starts from the end of the own orbit, relative to its norm (absolute
        if that is zero).
    - `samples`: number of starts of each example at each distance.
    - `ends`: end -> its share of the starts at each distance, with Wilson's interval over all
        starts.
    - `random`: end -> its share of the random starts: Gaussian, of the norm of the end of the own
        orbit.
    - `own`: at each distance, the share of the starts of each example that end at its own
        attractor, NaN if the own start leads to none; the interval of the mean is over the
        examples.
    - `half`: the largest distance of `sizes` up to which at least half of the starts of an example
        end at its own attractor; 0 if fewer do at the smallest; NaN if the own start leads to none.
    - `fixed_points`: number of fixed points that the starts of each example reach, its own
        included.
    """

    sizes: list[float]
    samples: int
    ends: dict[str, list[Share]]
    random: dict[str, Share]
    own: list[Summary]
    half: Summary
    fixed_points: list[int]
