"""The curves of a training run over its optimiser steps, from the lines of its log."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .._scores import CELLS, EXACT
from ..run import Run


@dataclasses.dataclass(frozen=True)
class Bin:
    """Neighbouring values of a curve.

    **Attributes:**

    - `step`: the last step.
    - `low`, `mean`, `high`: the lowest value, the mean, and the highest value.
    """

    step: int
    low: float
    mean: float
    high: float


@dataclasses.dataclass(frozen=True)
class TrainingCurve:
    """A quantity over the optimiser steps of a run.

    **Attributes:**

    - `label`: what it is.
    - `panel`: the name of the panel that it is drawn in.
    - `steps`: the steps that have a value, ascending.
    - `values`: its values: shares from 0 to 1, but for a loss.

    ```python
    >>> import eqloop
    >>> curve = eqloop.report.TrainingCurve("loss", "loss", [1, 2, 3, 4], [4.0, 2.0, 1.0, 0.0])
    >>> [(part.step, part.mean) for part in curve.bins(2, 4)]
    [(2, 3.0), (4, 0.5)]

    ```
    """

    label: str
    panel: str
    steps: Sequence[int]
    values: Sequence[float]

    @property
    def is_share(self) -> bool:
        """Whether its values are shares."""
        return self.panel != LOSS

    def is_wide(self, low: float, high: float) -> bool:
        """Whether values from `low` to `high` are drawn by their logarithms: those of a loss above
        0, if the ratio of its ends exceeds 30."""
        return not self.is_share and 0 < low * 30 < high

    def bins(self, count: int, last: int) -> list[Bin | None]:
        """Divide the steps from 1 to `last` into ranges of equal length.

        **Arguments:**

        - `count`: number of ranges.
        - `last`: the last step.

        **Returns** what the curve is in each range; None where it has no value.
        """
        members: list[list[tuple[int, float]]] = [[] for _ in range(count)]
        for step, value in zip(self.steps, self.values, strict=True):
            if 1 <= step <= last:
                members[(step - 1) * count // last].append((step, value))
        return [_bin(part) if part else None for part in members]


def _bin(part: Sequence[tuple[int, float]]) -> Bin:
    values = [value for _, value in part]
    return Bin(part[-1][0], min(values), sum(values) / len(values), max(values))


LOSS = "loss"
_CURVES = (
    # panel, label, kind of line, field
    (LOSS, "loss", "train", "loss"),
    ("right answers", "cells right", "train", CELLS),
    ("right answers", "solved, validation", "validation", EXACT),
    ("loops that converged", "converged", "train", "converged"),
    ("gradients that fell back", "fallback", "train", "fallback"),
)


@dataclasses.dataclass(frozen=True)
class Training:
    """How far the training of a run is.

    **Attributes:**

    - `step`: the last step that is logged; 0 before the first one.
    - `steps`: the number of steps that the spec of the run asks for.
    - `phases`: the last step of each phase.
    - `seconds_per_step`: the mean of the last steps; None before the second step.
    - `curves`: the curves that have values.

    ```python
    >>> import eqloop
    >>> training = eqloop.report.Training(30, 90, (), 0.5, ())
    >>> training.seconds_left
    30.0

    ```
    """

    step: int
    steps: int
    phases: tuple[int, ...]
    seconds_per_step: float | None
    curves: tuple[TrainingCurve, ...]

    @property
    def seconds_left(self) -> float | None:
        """The time until the last step at the speed of the last steps; None if that is unknown."""
        pace = self.seconds_per_step
        return None if pace is None else pace * (self.steps - self.step)


def read_training(run: Run, rows: Iterable[Mapping[str, Any]]) -> Training:
    """The curves of a run, which may still be in training.

    **Arguments:**

    - `run`: the run.
    - `rows`: the lines of its log; see `eqloop.run.read_metrics` and `MetricsReader`. Lines without
        a step and values that are no finite numbers are left out.

    **Returns** its curves and how far it is.

    ```python
    >>> import eqloop
    >>> model = eqloop.run.ModelSpec(8, 2, attention="full", grid=(8,), channels=1, classes=2)
    >>> spec = eqloop.run.Spec({"name": "prefix-sums"}, model)
    >>> run = eqloop.run.Run("runs/mine", spec, {})
    >>> rows = [{"kind": "train", "step": n, "loss": 1 / n, "seconds": 2.0 * n} for n in (1, 2)]
    >>> training = eqloop.report.read_training(run, rows)
    >>> training.step, training.seconds_per_step, training.curves[0].values
    (2, 2.0, [1.0, 0.5])

    ```
    """
    rows = [row for row in rows if isinstance(row.get("step"), int)]
    curves = []
    for panel, label, kind, field in _CURVES:
        points = [
            (row["step"], value)
            for row in rows
            if row.get("kind") == kind and (value := _last_number(row.get(field))) is not None
        ]
        if points:
            steps, values = map(list, zip(*points, strict=True))
            curves.append(TrainingCurve(label, panel, steps, values))
    laps = [
        (row["step"], seconds, "began_at" in row)
        for row in rows
        if (seconds := _last_number(row.get("seconds"))) is not None
    ]
    spec = run.spec
    return Training(
        step=rows[-1]["step"] if rows else 0,
        steps=spec.train.steps,
        phases=tuple(phase.until for phase in spec.phases if phase.until < spec.train.steps),
        seconds_per_step=_pace(laps[-_LAPS:]),
        curves=tuple(curves),
    )


_LAPS = 20


def _pace(laps: Sequence[tuple[int, float, bool]]) -> float | None:
    """Mean seconds per step between lines of one process: step, seconds, and whether a process
    begins. The clock starts again where a run is resumed."""
    pairs = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(laps) if not b[2]]
    pairs = [(steps, seconds) for steps, seconds in pairs if seconds > 0]
    steps = sum(steps for steps, _ in pairs)
    return sum(seconds for _, seconds in pairs) / steps if steps else None


def _last_number(value: Any) -> float | None:
    """A number, or the last one of a list, which is that after the most iterations."""
    if isinstance(value, list) and value:
        value = value[-1]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
