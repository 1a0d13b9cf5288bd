"""The work of a report on a model and its task, estimated before it starts."""

from collections.abc import Mapping

from .. import stability
from ..stability import COMPILE
from ._census import RESTARTS, CensusLevel
from ._four_tests import LONGER, PUSHED
from ._points import EFFORTS
from ._task_measurements import AUDITED, GRADIENTS, NOISE

DISTANCES = (0.1, 0.3, 1.0, 3.0)
"""Distances of the starts for the basins."""
SAMPLES = 8
"""Number of starts of an example at each distance."""


def planned(
    examples: Mapping[str, int],
    split: str,
    detail: int,
    iterations: int,
    *,
    census: CensusLevel = "quick",
    available: int = 0,
) -> dict[str, int]:
    """The approximate work of `examine`; see `eqloop.stability.planned`.

    **Arguments:**

    - `examples`: number of examples of each split.
    - `split`, `detail`, `iterations`, `census`: see `examine`.
    - `available`: number of examples that the split has, for a full census.

    **Returns:**

    Name of a part -> number of evaluations of the loop.

    ```python
    >>> import eqloop
    >>> plan = eqloop.claims.planned({"test": 64, "hard": 64}, "hard", detail=16, iterations=256)
    >>> print(", ".join(list(plan)[:3]), "...", list(plan)[-1])
    orbits, stability, accuracy ... exponents

    ```
    """
    count, programs = examples[split], len(GRADIENTS) + 2
    stages = stability.planned(count, min(detail, count), iterations)
    plan = {
        "orbits": stages["orbits"],
        "stability": sum(stages_after_orbits(count, detail, iterations).values()),
        "accuracy": sum(examples.values()) * iterations + COMPILE,
        "weight noise": len(NOISE) * count * iterations // 2 + COMPILE,
        "gradients": programs * (min(AUDITED, count) * 100 + COMPILE),
        "four tests": sum(examples.values()) * iterations // 2
        + min(PUSHED, count) * (LONGER + 1) * iterations
        + (len(examples) + 1) * COMPILE,
    }
    if census != "off":
        counted = count if census == "quick" else available
        plan["census"] = RESTARTS[census] * counted * iterations // 2 + 3 * COMPILE
        if census == "full":
            plan["census"] += stability.planned(counted, 1, iterations)["orbits"]
        effort, detail = EFFORTS[census], min(count, detail)
        drawn = min(detail, effort.planes or detail)
        plan["planes"] = 3 * drawn * iterations + COMPILE
        searched = min(detail, effort.examples or detail)
        plan["points"] = effort.work(searched) + 5 * COMPILE
        plan["exponents"] = 20 * searched * iterations + 4 * COMPILE
        if census == "full":
            starts = detail * SAMPLES * (len(DISTANCES) + 1)
            plan["basins"] = stability.planned(starts, 1, iterations)["orbits"] + 2 * COMPILE
    return plan


def stages_after_orbits(count: int, detail: int, iterations: int) -> dict[str, int]:
    """The work of `analyse_orbits`."""
    stages = stability.planned(count, min(detail, count), iterations)
    del stages["orbits"]
    return stages
