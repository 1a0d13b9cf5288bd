"""The points of a report that orbits do not find."""

import dataclasses

import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from .._stability_report import PointRecord
from .._task import Progress
from ..stability import Orbits, points


@dataclasses.dataclass(frozen=True)
class Effort:
    """How a report searches for points.

    **Attributes:**

    - `examples`: maximum number of examples; None for all examples that are measured in detail.
    - `candidates`, `steps`, `slow`: see `eqloop.stability.points`.
    """

    examples: int | None = None
    candidates: int = 32
    steps: int = 100
    slow: bool = True

    def work(self, examples: int) -> int:
        """The work of searches for the points of this number of examples, in evaluations of the
        loop. A step of Newton's method counts as 30, one of the minimisation as 90: as measured on
        the released prefix-sums run."""
        return examples * self.candidates * self.steps * (120 if self.slow else 30)


EFFORTS = {"quick": Effort(examples=2, candidates=4, steps=20, slow=False), "full": Effort()}
"""By the level of the census."""


def point_records(
    orbits: Orbits, effort: Effort, detail: int, *, key: PRNGKeyArray, progress: Progress
) -> list[PointRecord]:
    """Search for points of some of the examples, see `Effort`.

    **Arguments:**

    - `orbits`: the orbits of the examples of the report.
    - `effort`: how to search.
    - `detail`: number of examples that are measured in detail.
    - `key`: a random key.
    - `progress`: called with the number of examples that are done, and of all.
    """
    searched = orbits.evenly(min(detail, effort.examples or detail))
    records = []
    for done, example in enumerate(searched):
        progress(done, len(searched))
        records += [
            PointRecord(
                kind=point.kind,
                because=point.because,
                example=int(example),
                unstable=point.unstable,
                eigenvalues=[[value.real, value.imag] for value in point.eigenvalues.tolist()],
                residual=point.residual,
                candidates=point.candidates,
            )
            for point in points(
                orbits.take(np.array([example])),
                key=jr.fold_in(key, example),
                candidates=effort.candidates,
                steps=effort.steps,
                slow=effort.slow,
            )
        ]
    progress(len(searched), len(searched))
    return records
