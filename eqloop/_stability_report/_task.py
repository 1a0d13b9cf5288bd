"""The parts of a stability report that a model with a task has in addition."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """The share of the examples solved, over iterations.

    **Attributes:**

    - `iterations`: numbers of iterations.
    - `splits`: split -> share of its examples solved after these numbers of iterations.
    - `trained`: the fewest and the most iterations in training; None if they are not known.
    """

    iterations: list[int]
    splits: dict[str, list[float]]
    trained: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class WeightNoise:
    """The share of the examples solved with Gaussian noise added to all weights.

    **Attributes:**

    - `levels`: sizes of the noise, relative to the root mean square of each array of weights.
    - `accuracy`: the share solved at each level.
    - `low`, `high`: the ends of its 95 % interval.
    """

    levels: list[float]
    accuracy: list[float]
    low: list[float]
    high: list[float]


@dataclasses.dataclass(frozen=True)
class ComparedGradient:
    """A gradient of the weights, relative to two references; see `eqloop.gradient_audit`.

    **Attributes:**

    - `cosine_backprop`, `ratio_backprop`: cosine to the gradient of full backpropagation, and ratio
        of the norms.
    - `cosine_implicit`, `ratio_implicit`: the same for the converged implicit gradient.
    - `seconds`: time of loss and gradient.
    """

    cosine_backprop: float
    cosine_implicit: float
    ratio_backprop: float
    ratio_implicit: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class EquilibriumTest:
    """One of the four tests; see `eqloop.claims.four_tests`.

    **Attributes:**

    - `claim`: what holds if it is passed.
    - `measure`: what `value` is.
    - `value`: that number; NaN if it was not measured.
    - `low`: the lower end of its 95 % interval.
    - `high`: the upper end.
    - `limit`: it is passed if `low` is above this number, and failed if `high` is not.
    - `count`: number of examples, or of pairs of starts.
    - `verdict`: "passed", "failed", "undecided" or "not measured".
    - `numbers`: further numbers, by name.
    """

    claim: str
    measure: str
    value: float
    low: float
    high: float
    limit: float
    count: int
    verdict: Literal["passed", "failed", "undecided", "not measured"]
    numbers: dict[str, float]
