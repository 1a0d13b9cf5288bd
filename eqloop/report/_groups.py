"""Groups of cells that differ only in their seed: means, intervals, the best learning rate."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .._errors import InputError
from .._numbers import typeset_value
from ._cells import Cell, Scalar, read_cells

SEED, RATE = "seed", "lr"
MOST_BESIDE = 4
"""Maximum number of groups that are shown side by side, one column or mark for each."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The mean of some numbers, with its 95 % interval.

    **Attributes:**

    - `mean`: the mean; None for no numbers.
    - `half_width`: half the width of the interval by Student's t; None for fewer than two numbers.
    - `count`: number of numbers.
    """

    mean: float | None
    half_width: float | None
    count: int


def estimate(values: Sequence[float | None]) -> Estimate:
    """Mean and confidence interval, ignoring missing values."""
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
    """Cells with the same values on all axes but the seed.

    **Attributes:**

    - `axes`: the common values.
    - `cells`: the finished cells.
    - `failed`: the failed cells.
    """

    axes: Mapping[str, Scalar]
    cells: Sequence[Cell]
    failed: Sequence[Cell]

    def estimate(self, of: Callable[[Cell], float | None]) -> Estimate:
        """The mean of `of(cell)` over the finished cells."""
        return estimate([of(cell) for cell in self.cells])

    def share(self, split: str, name: str) -> Estimate:
        """The mean share of examples of a split that are solved; `name` is last, best or lost."""
        splits = [cell.split(split) for cell in self.cells]
        return estimate([None if data is None else getattr(data.overall, name) for data in splits])

    def validation(self, place: int = 0) -> Estimate:
        """The mean validation score at the best step of each run: the share of examples solved, or
        with `place` 1 of cells right. A failed run counts as 0, so that a learning rate gains
        nothing from runs that diverge."""
        scores = [cell.results.validation for cell in self.cells if cell.results is not None]
        known = [None if score is None else score[place] for score in scores]
        return estimate([*known, *(0.0 for _ in self.failed)])


@dataclasses.dataclass(frozen=True)
class Results:
    """The content of a report on runs.

    **Attributes:**

    - `title`: the folder, or the number of folders.
    - `cells`: all cells, including those that failed or have not ended.
    - `axes`: the axes that distinguish groups.
    - `constants`: axis -> the value that all cells share.
    - `groups`: the groups with an ended cell.
    - `chosen`: if learning rates differ, the group with the best validation score for each
        combination of the other axes; else None.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> cells = {"lr-0.1": {"lr": 0.1}, "lr-1": {"lr": 1.0}}
    >>> record = eqloop.run.SweepRecord("rates", ("lr",), cells)
    >>> with tempfile.TemporaryDirectory() as name:
    ...     folder = pathlib.Path(name)
    ...     pathlib.Path(folder, "state").mkdir()
    ...     eqloop.run.save_sweep(folder, record)
    ...     failed = eqloop.run.CellResult("failed", "the loss is not finite")
    ...     eqloop.run.save_cell_result(folder, "lr-1", failed)
    ...     results = eqloop.report.read_results([folder])
    >>> [cell.error for cell in results.failed]
    ['the loss is not finite']

    ```
    """

    title: str
    cells: Sequence[Cell]
    axes: Sequence[str]
    constants: Mapping[str, Scalar]
    groups: Sequence[Group]
    chosen: Sequence[Group] | None

    @property
    def shown(self) -> Sequence[Group]:
        """The groups to show if there is no room for every learning rate."""
        return self.groups if self.chosen is None else self.chosen

    @property
    def examined(self) -> list[Group]:
        """The groups with a stability report."""
        return [group for group in self.groups if any(cell.stability for cell in group.cells)]

    @property
    def beside(self) -> list[Group]:
        """The groups with a stability report, if they are few enough to be shown side by side."""
        return self.examined if len(self.examined) <= MOST_BESIDE else []

    @property
    def finished(self) -> list[Cell]:
        """The cells that finished."""
        return [cell for cell in self.cells if cell.status == "finished"]

    @property
    def failed(self) -> list[Cell]:
        """The cells that failed."""
        return [cell for cell in self.cells if cell.status == "failed"]


def read_results(paths: Sequence[Path]) -> Results:
    """Read run folders and sweep folders.

    **Arguments:**

    - `paths`: the folders.

    **Returns** the content of a report on them.

    **Raises** `InputError` for a folder that is neither a run nor a sweep, a run without an
    evaluation, a damaged file, a folder that is named twice, and a sweep without an ended cell.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> cells = {"lr-0.1": {"lr": 0.1}, "lr-1": {"lr": 1.0}}
    >>> record = eqloop.run.SweepRecord("rates", ("lr",), cells)
    >>> with tempfile.TemporaryDirectory() as name:
    ...     folder = pathlib.Path(name)
    ...     pathlib.Path(folder, "state").mkdir()
    ...     eqloop.run.save_sweep(folder, record)
    ...     eqloop.run.save_cell_result(folder, "lr-1", eqloop.run.CellResult("failed", "nan"))
    ...     results = eqloop.report.read_results([folder])
    >>> list(results.axes), [cell.status for cell in results.cells]
    (['lr'], ['unfinished', 'failed'])

    ```
    """
    cells = read_cells(paths)
    if all(cell.status == "unfinished" for cell in cells):
        raise InputError(f"none of the {len(cells)} runs of {paths[0]} has ended yet: wait for one")
    if not set(cells[0].axes) - {SEED}:  # a row needs a label
        cells = [
            dataclasses.replace(cell, axes={"source": cell.source, **cell.axes}) for cell in cells
        ]
    values = {axis: [cell.axes[axis] for cell in cells] for axis in cells[0].axes}
    varying = [
        axis for axis, column in values.items() if axis != SEED and len(set(map(repr, column))) > 1
    ]
    axes = varying or [axis for axis in values if axis != SEED][:1]
    groups = grouped(cells, axes)
    return Results(
        title=str(paths[0]) if len(paths) == 1 else f"{len(paths)} runs and sweeps",
        cells=cells,
        axes=axes,
        constants={
            axis: column[0]
            for axis, column in values.items()
            if axis not in axes and len(set(map(repr, column))) == 1 and column[0] is not None
        },
        groups=groups,
        chosen=choose_rates(groups) if RATE in varying else None,
    )


def grouped(cells: Sequence[Cell], axes: Sequence[str]) -> list[Group]:
    """The ended cells in groups, in the order of the cells."""
    members_of: dict[tuple[Scalar, ...], list[Cell]] = {}
    for cell in cells:
        if cell.status != "unfinished":
            members_of.setdefault(tuple(cell.axes[axis] for axis in axes), []).append(cell)
    return [
        Group(
            axes=dict(zip(axes, key, strict=True)),
            cells=[cell for cell in members if cell.status == "finished"],
            failed=[cell for cell in members if cell.status == "failed"],
        )
        for key, members in members_of.items()
    ]


def choose_rates(groups: Sequence[Group]) -> list[Group]:
    """Of groups that differ only in the learning rate, the one with the best mean validation score:
    most examples solved, then most cells right, then the first. Test scores are not used."""
    rivals: dict[tuple[Scalar, ...], list[Group]] = {}
    for group in groups:
        key = tuple(value for axis, value in group.axes.items() if axis != RATE)
        rivals.setdefault(key, []).append(group)
    return [max(groups, key=_validation_scores) for groups in rivals.values()]


def _validation_scores(group: Group) -> tuple[float, float]:
    means = (group.validation(place).mean for place in (0, 1))
    first, second = (-1.0 if mean is None else mean for mean in means)
    return first, second


def label(axes: Mapping[str, Scalar]) -> str:
    """A short label: text values as they are, other values with the names of their axes."""
    return ", ".join(
        value if isinstance(value, str) else f"{axis} {typeset_value(value)}"
        for axis, value in axes.items()
    )
