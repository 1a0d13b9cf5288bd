"""Runs and sweeps as one list of cells: runs with their values on the axes in which they differ."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from .._errors import InputError
from .._stability_report import StabilityReport
from ..run import (
    METRICS,
    RUNS,
    SPEC,
    SPEC_AXES,
    STABILITY,
    CellResult,
    Evaluation,
    EvaluationRecord,
    RunResults,
    Scalar,
    Stability,
    Status,
    is_sweep,
    read_cell_result,
    read_run,
    read_spec,
    read_stability,
    read_sweep,
    say_steps,
    spec_axes,
    trained_seconds,
)

SILENT = {
    f"train.{name}" for name in ("log_every", "checkpoint_every", "keep", "tracker", "audit_every")
}
"""Spec fields that do not affect results: runs that differ only in these and in the seed are
replicates."""

CellStatus = Status | Literal["unfinished"]


@dataclasses.dataclass(frozen=True)
class Cell:
    """A run, or a cell of a sweep that has not run yet.

    **Attributes:**

    - `source`: the run or sweep folder that was read.
    - `name`: the name of the run.
    - `axes`: axis -> value; None if the cell has no value on the axis.
    - `status`: whether the cell finished, failed, or has not ended.
    - `error`: the error of a failed cell, one line.
    - `results`: the records of a finished cell.
    - `seconds`, `flops`: the known costs of `"train"` and `"evaluate"`.
    - `parameters`: number of weights of the model.
    - `rho_w_x`: spectral radius of the recall's weights on the state.
    """

    source: str
    name: str
    axes: Mapping[str, Scalar]
    status: CellStatus = "finished"
    error: str = ""
    results: RunResults | None = None
    seconds: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    flops: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    parameters: int | None = None
    rho_w_x: float | None = None

    def record(self, split: str) -> EvaluationRecord | None:
        return None if self.results is None else self.results.splits.get(split)

    def split(self, name: str) -> Evaluation | None:
        record = self.record(name)
        return None if record is None else record.evaluation

    @property
    def stability(self) -> Stability | None:
        return None if self.results is None else self.results.stability

    @functools.cached_property
    def stability_report(self) -> StabilityReport | None:
        """The whole of `stability/report.json`; None if the loop was not examined."""
        if self.stability is None:
            return None
        source = Path(self.source)
        run = source / RUNS / self.name if is_sweep(source) else source
        return read_stability(run / STABILITY)


def read_cells(paths: Sequence[Path]) -> list[Cell]:
    """The cells of runs and sweeps, in order, all with the same axes.

    A single sweep has its own axes. Otherwise the axes are: `SPEC_AXES`, read from the specs; every
    other field that distinguishes runs which agree on `SPEC_AXES` up to the seed; and "source" if
    two sources still have runs with equal axes.

    **Raises** `InputError` for a folder that is neither a run nor a sweep, a folder that is named
    twice, and a damaged file.
    """
    if not paths:
        raise InputError("name a run folder or a sweep folder")
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError("a folder is given twice: leave one of them out")
    all_cells: list[Cell] = []
    specs: dict[tuple[str, str], dict[str, Any]] = {}
    for path in paths:
        if is_sweep(path):
            cells = list(_sweep(path))
            if len(paths) > 1:
                known = _specs(path, cells)
                specs |= {(cell.source, cell.name): known[cell.name] for cell in cells}
                cells = [_with(c, {**spec_axes(known[c.name]), **c.axes}) for c in cells]
            all_cells += cells
        elif (path / SPEC).exists():
            spec = read_spec(path)
            cell = _run(path, spec_axes(spec))
            specs[cell.source, cell.name] = spec
            all_cells.append(cell)
        elif path.is_dir():
            raise InputError(f"{path} is neither a run (no {SPEC}) nor a sweep (no cells.json)")
        else:
            raise InputError(f"{path}: there is no such folder")
    axes = list(dict.fromkeys(axis for cell in all_cells for axis in cell.axes))
    all_cells = [_with(cell, {axis: cell.axes.get(axis) for axis in axes}) for cell in all_cells]
    for field in _other_fields(all_cells, specs):
        all_cells = [
            _with(cell, {**cell.axes, field: specs[cell.source, cell.name].get(field)})
            for cell in all_cells
        ]
    sources_of: dict[tuple[Scalar, ...], set[str]] = {}
    for cell in all_cells:
        sources_of.setdefault(tuple(cell.axes.values()), set()).add(cell.source)
    if any(len(sources) > 1 for sources in sources_of.values()):
        all_cells = [_with(cell, {"source": cell.source, **cell.axes}) for cell in all_cells]
    return all_cells


def _specs(path: Path, cells: Sequence[Cell]) -> dict[str, dict[str, Any]]:
    """Name of a cell -> the fields of its spec; for a cell that has not run, the fields that all
    others share."""
    known = {c.name: read_spec(path / RUNS / c.name) for c in cells if c.status == "finished"}
    first = next(iter(known.values()), {})
    shared = {
        field: value
        for field, value in first.items()
        if all(spec.get(field) == value for spec in known.values())
    }
    return {cell.name: known.get(cell.name, shared) for cell in cells}


def _other_fields(
    cells: Sequence[Cell], specs: Mapping[tuple[str, str], Mapping[str, Any]]
) -> list[str]:
    """The fields in which finished cells differ that agree on all axes but the seed."""
    alike: dict[tuple[Scalar, ...], list[Mapping[str, Any]]] = {}
    for cell in cells:
        spec = specs.get((cell.source, cell.name))
        if spec is not None and cell.status == "finished":
            key = tuple(value for axis, value in cell.axes.items() if axis != "seed")
            alike.setdefault(key, []).append(spec)
    known = {SPEC_AXES["seed"], *SILENT}
    fields = dict.fromkeys(
        field for members in alike.values() for spec in members for field in spec
    )
    return [
        field
        for field in fields
        if field not in known
        and any(len({spec.get(field) for spec in members}) > 1 for members in alike.values())
    ]


def _run(path: Path, axes: Mapping[str, Scalar]) -> Cell:
    results = read_run(path)
    if not results.splits:
        raise InputError(f"{path} has no evaluation of test or hard yet: eqloop eval {path}")
    say_steps(path, results)
    seconds = [record.evaluation.seconds for record in results.splits.values()]
    return Cell(
        source=str(path),
        name=path.resolve().name,
        axes=axes,
        results=results,
        seconds={
            "train": trained_seconds(path / METRICS),
            "evaluate": sum(seconds),
        },
        rho_w_x=None if results.stability is None else results.stability.rho_w_x,
    )


def _sweep(path: Path) -> Iterator[Cell]:
    for name, axes in read_sweep(path).cells.items():
        cell = Cell(str(path), name, axes, status="unfinished")
        result = read_cell_result(path, name)
        yield cell if result is None else _with_result(cell, result, path / RUNS / name)


def _with_result(cell: Cell, result: CellResult, run: Path) -> Cell:
    costs: dict[str, Any] = {name: getattr(result, name) for name in _COSTS}
    if result.status == "failed":
        error = result.error or "no reason is recorded"
        return dataclasses.replace(cell, status="failed", error=error, **costs)
    if not (run / SPEC).exists():  # the sweep will train this cell again
        return cell
    results = read_run(run)
    if result.rho_w_x is None and results.stability is not None:
        costs["rho_w_x"] = results.stability.rho_w_x
    return dataclasses.replace(cell, status="finished", results=results, **costs)


_COSTS = ("seconds", "flops", "parameters", "rho_w_x")


def _with(cell: Cell, axes: Mapping[str, Scalar]) -> Cell:
    return dataclasses.replace(cell, axes=axes)
