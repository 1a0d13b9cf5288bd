"""The curves of a training run in the terminal."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .._numbers import format_duration, format_number, format_percent
from ._output import console, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..report import Training, TrainingCurve
    from ..run import Run

_LEVELS = "▁▂▃▄▅▆▇█"
_REST = 56
"""Columns of the terminal beside the curves."""


def facts(run: "Run", training: "Training") -> list[str]:
    """How far a run is, and the values of its curves: one line each."""
    line = f"{run.path}: step {training.step} of {training.steps}"
    left = training.seconds_left
    if run.in_training and left is not None:
        line += f", about {format_duration(left)} left"
    elif not run.in_training and training.step < training.steps:
        line += f", not in training: go on with eqloop train --resume {run.path}"
    lines = [line]
    if training.phases:
        lines.append(f"phases end after {', '.join(map(str, training.phases))} steps")
    for curve in training.curves:
        first, last = _figure(curve, curve.values[0]), _figure(curve, curve.values[-1])
        unit = " %" if curve.is_share else ""
        lines.append(f"{curve.label}: {first} at step {curve.steps[0]}, {last}{unit} now")
    return lines


def show(run: "Run", training: "Training") -> None:
    """Print how far a run is, and its curves."""
    out = console()
    for line in _head(run, training):
        out.print(line, markup=False, soft_wrap=True)
    out.print(_table(training, out.width))


def drawing(run: "Run", training: "Training", width: int) -> "RenderableType":
    """What `show` prints, for a terminal of `width` columns that draws it again and again."""
    from rich.console import Group
    from rich.text import Text

    return Group(*map(Text, _head(run, training)), _table(training, width))


def _head(run: "Run", training: "Training") -> list[str]:
    return facts(run, training)[: 1 + bool(training.phases)]


def _table(training: "Training", width: int) -> "RenderableType":
    """A row for each curve."""
    count = min(max(width - _REST, 10), max(training.step, 1))
    rows = [
        (
            curve.label + (" %" if curve.is_share else ""),
            _figure(curve, curve.values[0]),
            "".join(_levels(curve, count, training.step)),
            *(_figure(curve, v) for v in (curve.values[-1], min(curve.values), max(curve.values))),
        )
        for curve in training.curves
    ]
    if not rows:
        return "nothing is logged yet"
    return table(("", "first", "", "last", "least", "most"), rows)


def tables(run: "Run", training: "Training") -> dict[str, Any]:
    """The curves for `--json`."""
    return {
        "run": run.path,
        "step": training.step,
        "steps": training.steps,
        "in_training": run.in_training,
        "seconds_left": training.seconds_left,
        "phases": training.phases,
        "curves": {
            curve.label: {"steps": curve.steps, "values": curve.values} for curve in training.curves
        },
    }


def _figure(curve: "TrainingCurve", value: float) -> str:
    return format_percent(value) if curve.is_share else format_number(value)


def _levels(curve: "TrainingCurve", count: int, last: int) -> Iterator[str]:
    """One letter for each of `count` ranges of steps. Shares are drawn from 0 to 1, a loss from its
    lowest to its highest mean; a range without a value repeats the one before."""
    means = [None if part is None else part.mean for part in curve.bins(count, last)]
    known = [mean for mean in means if mean is not None]
    low, high = (0.0, 1.0) if curve.is_share else (min(known, default=0), max(known, default=0))
    scale = math.log if curve.is_wide(low, high) else float
    letter = " "
    for mean in means:
        if mean is not None:
            letter = _letter(mean, (low, high), scale)
        yield letter


def _letter(mean: float, ends: Sequence[float], scale: Any) -> str:
    low, high = map(scale, ends)
    height = (scale(mean) - low) / (high - low) if high > low else 0.0
    return _LEVELS[min(max(int(height * len(_LEVELS)), 0), len(_LEVELS) - 1)]
