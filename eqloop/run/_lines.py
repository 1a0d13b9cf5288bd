"""The lines of `metrics.jsonl`: one class per kind, which is the schema for writer and reader."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from .._errors import InputError
from .._schema import FLAT, OPTIONAL


@dataclasses.dataclass(frozen=True)
class TrainingLine:
    """An optimiser step.

    **Attributes:**

    - `kind`: "train".
    - `step`: the number of the step, from 1.
    - `epoch`: the number of its epoch, from 0.
    - `metrics`: name -> mean over the batch, such as `loss` and `residual`.
    - `examples_per_s`: examples per second since the line before.
    - `seconds`: wall time since the process began to train.
    - `began_at`: the step from which the process trains, in its first line; None in the others,
        whose tables lack the key.
    """

    kind: Literal["train"] = dataclasses.field(default="train", kw_only=True)
    step: int
    epoch: int
    metrics: Mapping[str, float] = dataclasses.field(metadata=FLAT)
    examples_per_s: float
    seconds: float
    began_at: int | None = dataclasses.field(default=None, metadata=OPTIONAL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationLine:
    """A validation.

    **Attributes:**

    - `kind`: "validation".
    - `step`: the optimiser step after which it was made.
    - `split`: the name of the split.
    - `best`: whether its scores are the best so far.
    - `examples`: number of examples.
    - `iterations`: the numbers of iterations of all curves.
    - `scores`: name of a score of the task -> its mean after these iterations.
    - `residual`: the mean relative residual after these iterations.
    - `converged`: the share of the examples that have converged by then.

    **Raises** `InputError` for a score with the name of another field.
    """

    kind: Literal["validation"] = "validation"
    step: int
    split: str
    best: bool
    examples: int
    iterations: list[int]
    scores: Mapping[str, list[float]] = dataclasses.field(metadata=FLAT)
    residual: list[float]
    converged: list[float]

    def __post_init__(self) -> None:
        own = {field.name for field in dataclasses.fields(self)} - {"scores"}
        if shadowed := self.scores.keys() & own:
            raise InputError(
                f"the task has a score {min(shadowed)!r}, which is the name of another quantity in "
                "metrics.jsonl: rename the score"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientsLine:
    """A comparison of gradients. It has no times, since these differ between identical runs.

    **Attributes:**

    - `kind`: "gradients".
    - `step`: the optimiser step after which it was made.
    - `examples`: number of examples.
    - `iterations`: iterations of the loop whose gradients are compared.
    - `share`: the share of the examples whose loop converged.
    - `cosine_to_backprop`: name of a gradient -> its cosine with full backpropagation.
    - `ratio_to_backprop`: name of a gradient -> the ratio of its norm to that of full
        backpropagation.
    - `cosine_to_implicit`, `ratio_to_implicit`: the same for the implicit gradient of the converged
        loop.
    """

    kind: Literal["gradients"] = "gradients"
    step: int
    examples: int
    iterations: int
    share: float
    cosine_to_backprop: Mapping[str, float]
    ratio_to_backprop: Mapping[str, float]
    cosine_to_implicit: Mapping[str, float]
    ratio_to_implicit: Mapping[str, float]


Line = TrainingLine | ValidationLine | GradientsLine
"""One line of the log."""
LINES: Mapping[str, Any] = {
    "train": TrainingLine,
    "validation": ValidationLine,
    "gradients": GradientsLine,
}
"""The class of a line by its `kind`."""
