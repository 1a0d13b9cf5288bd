"""Does settling mean being right: the parts of a census."""

import dataclasses

from ._statistics import Auroc, RankCorrelation, Share, Summary
from ._words import Outcome


@dataclasses.dataclass(frozen=True)
class OutcomeCorrect:
    """How the loops end against whether their answers are right.

    **Attributes:**

    - `outcomes`: the outcome of each example.
    - `right`: whether its answer at the end of the loop is right.
    - `shares`: outcome -> share of the examples with this outcome that are right.
    """

    outcomes: list[Outcome]
    right: list[bool]
    shares: dict[str, Share]


@dataclasses.dataclass(frozen=True)
class SettledWrong:
    """Where settling and being right part. A loop has settled if its outcome is "converged".

    **Attributes:**

    - `wrong_of_settled`: share of the settled examples that are wrong.
    - `settled_and_wrong`: share of all examples that are settled and wrong.
    - `unsettled_of_right`: share of the right examples that are not settled.
    - `right_and_unsettled`: share of all examples that are right and not settled.
    """

    wrong_of_settled: Share
    settled_and_wrong: Share
    unsettled_of_right: Share
    right_and_unsettled: Share


@dataclasses.dataclass(frozen=True)
class Froze:
    """When the answer stopped changing, and when the state settled, in iterations.

    **Attributes:**

    - `answer`: the first iteration from which the decoded answer never changes, 0 for the start;
        NaN if it changes within the last 16 iterations.
    - `state`: the first iteration, counted from 1, from which the residual stays at most the
        tolerance; NaN if the loop did not settle.
    - `difference`: `state - answer`.
    - `answer_first`: share of the examples with both numbers whose answer stopped changing before
        the state settled.
    """

    answer: Summary
    state: Summary
    difference: Summary
    answer_first: Share


@dataclasses.dataclass(frozen=True)
class Bypass:
    """Does the loop do anything?

    **Attributes:**

    - `right_at_start`: share of the examples whose start z_0 is decoded to the right answer.
    - `right_after_one`: the same after one iteration.
    - `right_at_end`: the same at the end of the loop.
    - `distance`: `|z_0 - z*| / |z*|` of each example that settled.
    - `difficulty`: rank correlation of the iterations to the tolerance with the difficulty of the
        examples.
    - `iteration_probe`: R^2, on held-out examples, of a linear probe from the state to the number
        of its iteration, over the start and the first 16 iterations; None for too few examples. See
        `eqloop.stability.linear_probe`.
    """

    right_at_start: Share
    right_after_one: Share
    right_at_end: Share
    distance: Summary
    difficulty: RankCorrelation
    iteration_probe: float | None


@dataclasses.dataclass(frozen=True)
class Census:
    """Does settling mean being right? See `eqloop.claims.census`.

    **Attributes:**

    - `examples`: number of examples.
    - `restarts`: number of restarts from noise per example.
    - `outcome_correct`, `settled_wrong`, `froze`, `bypass`: see their types.
    - `scores`: name -> one number per example, by which the answer might be verified; the higher
        it is, the more it speaks for the answer.
    - `auroc`: name of a score -> how well it separates the right examples (the positive ones) from
        the wrong ones. 1: all right examples have higher scores; 0.5: chance.
    """

    examples: int
    restarts: int
    outcome_correct: OutcomeCorrect
    settled_wrong: SettledWrong
    scores: dict[str, list[float]]
    auroc: dict[str, Auroc]
    froze: Froze
    bypass: Bypass
