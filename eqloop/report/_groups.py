"""Cells that differ in their seed alone, as one group: means, intervals, the learning rate."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .._errors import InputError
from .._numbers import typeset_value
from ._cells import Cell, Scalar, read_cells

SEED, RATE = "seed", "lr"


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The mean of so many numbers, and half the width of its 95 % interval (Student's t; None for
    fewer than two)."""

    mean: float | None
    half_width: float | None
    count: int


def estimate(values: Sequence[float | None]) -> Estimate:
    """Of those that are known."""
    known = [value for value in values if value is not None]
    if not known:
        return Estimate(None, None, 0)
    if len(known) == 1:
        return Estimate(known[0], None, 1)
    from scipy.special import stdtrit

    error = statistics.stdev(known) / math.sqrt(len(known))
    half = float(stdtrit(len(known) - 1, 0.975)) * error
    return Estimate(statistics.fmean(known), half, len(known))


@dataclasses.dataclass(frozen=True)
class Group:
    """**Attributes:** `axes`: what its cells share; `cells`: the finished ones; `failed`: those
    that failed."""

    axes: Mapping[str, Scalar]
    cells: Sequence[Cell]
    failed: Sequence[Cell]

    def estimate(self, of: Callable[[Cell], float | None]) -> Estimate:
        return estimate([of(cell) for cell in self.cells])

    def share(self, split: str, name: str) -> Estimate:
        """Of the examples of a split that are solved: `name` is last, best or lost."""
        found = [cell.split(split) for cell in self.cells]
        return estimate([None if each is None else getattr(each.overall, name) for each in found])

    def validation(self, place: int = 0) -> Estimate:
        """Of the examples solved (or, `place` 1, of the cells right) at the best step of each run.
        A failed run counts as one that solves nothing: a learning rate is no better for those of
        its runs that diverged."""
        scores = [each.results.validation for each in self.cells if each.results is not None]
        known = [None if each is None else each[place] for each in scores]
        return estimate([*known, *(0.0 for _ in self.failed)])


@dataclasses.dataclass(frozen=True)
class Results:
    """All that a report is made of.

    **Attributes:**

    - `title`: of what.
    - `cells`: every one, also those that failed or have not ended.
    - `axes`: those that tell groups apart; `constants`: those on which all cells agree.
    - `groups`: those in which something has ended.
    - `chosen`: where learning rates differ, for all else the group whose rate is best on
      validation; else None.
    """

    title: str
    cells: Sequence[Cell]
    axes: Sequence[str]
    constants: Mapping[str, Scalar]
    groups: Sequence[Group]
    chosen: Sequence[Group] | None

    @property
    def shown(self) -> Sequence[Group]:
        """The groups for what has no room for every learning rate."""
        return self.groups if self.chosen is None else self.chosen

    @property
    def finished(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.status == "finished"]

    @property
    def failed(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.status == "failed"]


def read_results(paths: Sequence[Path]) -> Results:
    """What run folders and sweep folders hold.

    **Raises** `InputError` for a folder that is neither, for a run without an evaluation, for a
    damaged file, and for a sweep in which nothing has ended.
    """
    cells = read_cells(paths)
    if all(cell.status == "unfinished" for cell in cells):
        raise InputError(f"none of the {len(cells)} runs of {paths[0]} has ended yet: wait for one")
    if not set(cells[0].axes) - {SEED}:  # something must name a row
        cells = [
            dataclasses.replace(cell, axes={"source": cell.source, **cell.axes}) for cell in cells
        ]
    values = {axis: [cell.axes[axis] for cell in cells] for axis in cells[0].axes}
    varying = [
        axis for axis, found in values.items() if axis != SEED and len(set(map(repr, found))) > 1
    ]
    axes = varying or [axis for axis in values if axis != SEED][:1]
    groups = grouped(cells, axes)
    return Results(
        title=str(paths[0]) if len(paths) == 1 else f"{len(paths)} runs and sweeps",
        cells=cells,
        axes=axes,
        constants={
            axis: found[0]
            for axis, found in values.items()
            if axis not in axes and len(set(map(repr, found))) == 1 and found[0] is not None
        },
        groups=groups,
        chosen=choose_rates(groups) if RATE in varying else None,
    )


def grouped(cells: Sequence[Cell], axes: Sequence[str]) -> list[Group]:
    """In the order of the cells; those that have not ended are in none."""
    found: dict[tuple[Scalar, ...], list[Cell]] = {}
    for cell in cells:
        if cell.status != "unfinished":
            found.setdefault(tuple(cell.axes[axis] for axis in axes), []).append(cell)
    return [
        Group(
            axes=dict(zip(axes, key, strict=True)),
            cells=[cell for cell in members if cell.status == "finished"],
            failed=[cell for cell in members if cell.status == "failed"],
        )
        for key, members in found.items()
    ]


def choose_rates(groups: Sequence[Group]) -> list[Group]:
    """For all that agree but for the learning rate the group with the best mean validation score:
    most examples solved, then most cells right, then the first. Test scores have no say."""
    rivals: dict[tuple[Scalar, ...], list[Group]] = {}
    for group in groups:
        key = tuple(value for axis, value in group.axes.items() if axis != RATE)
        rivals.setdefault(key, []).append(group)
    return [max(each, key=_validated) for each in rivals.values()]


def _validated(group: Group) -> tuple[float, float]:
    means = (group.validation(place).mean for place in (0, 1))
    first, second = (-1.0 if mean is None else mean for mean in means)
    return first, second


def label(axes: Mapping[str, Scalar]) -> str:
    """The values in short: text as it is, anything else with the name of its axis."""
    return ", ".join(
        value if isinstance(value, str) else f"{axis} {typeset_value(value)}"
        for axis, value in axes.items()
    )
