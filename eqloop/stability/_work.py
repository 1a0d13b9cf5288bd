"""The work of a report, estimated before it starts, so that progress measures work and not the
number of stages."""

from collections.abc import Callable, Mapping

from ._orbits import MAX_PERIOD, Progress

COMPILE = 3_000
"""Evaluations that compiling a stage counts as: those that a small model makes in that time."""

Tick = Callable[[str], None]
"""Called with the name of a stage that is done."""


def planned(examples: int, detail: int, iterations: int) -> dict[str, int]:
    """Estimate the work of `analyse`, stage by stage, in evaluations of f for one example.

    A product with the Jacobian counts as two evaluations, compiling a stage as `COMPILE`. A loop
    that ends by itself is assumed to need half of the iterations.

    **Arguments:**

    - `examples`: number of examples.
    - `detail`: number of examples that the measurements with many products use.
    - `iterations`: iterations per orbit.

    **Returns:**

    A dictionary from the name of each stage to its work.

    ```python
    >>> import eqloop
    >>> small, large = (eqloop.stability.planned(examples, 1, 32) for examples in (1, 3))
    >>> print(large["orbits"] - small["orbits"])        # 2 x (32 + 8 + 48)
    176

    ```
    """
    whole, half = detail * iterations, detail * iterations // 2
    stages = {
        "orbits": examples * (iterations + iterations // 4 + 3 * MAX_PERIOD),
        "eigenvalues": 100 * detail,
        "singular values": 100 * detail,
        "Lyapunov exponents": 5 * whole,
        "sensitivity to the input": 5 * whole,
        "derivative of the fixed points": 200 * detail,
        "smoothness": 2 * whole,
        "gradients": 200 * detail,
        "conditioning": 1_000 * detail,
        "return to the fixed points": half,
        "other starts": 2 * half,
        "basins": 7 * 4 * half,
    }
    return {name: count + COMPILE for name, count in stages.items()}


class Work:
    """Adds up what is done: `progress(done, total)`, in evaluations."""

    def __init__(self, stages: Mapping[str, int], progress: Progress | None):
        self.stages, self.progress = dict(stages), progress
        self.total, self.done = sum(stages.values()), 0

    def tick(self, name: str) -> None:
        """Record that a stage is done."""
        self.done += self.stages.pop(name)
        self.show(0)

    def part(self, name: str) -> Progress:
        """Return a progress callback for a stage that reports its own work."""
        return lambda done, total: self.show(self.stages[name] * done // max(1, total or 1))

    def show(self, more: int) -> None:
        if self.progress is not None:
            self.progress(self.done + more, self.total)


def silent(name: str) -> None:
    """A `Tick` that does nothing."""
