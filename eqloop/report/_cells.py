"""Runs and sweeps as one list of cells: a run each, with the values of the axes it differs in."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from .._errors import InputError
from .._tables import read_json
from ..run import (
    METRICS,
    SPEC,
    SPEC_AXES,
    Evaluated,
    RunResults,
    Stability,
    finite,
    read_run,
    read_spec,
    say_steps,
    spec_axes,
    trained_seconds,
)

CELLS, STATE, RUNS = "cells.json", "state", "runs"
FORMAT = 1
"""Of the sweeps that are understood here."""

SILENT = {
    f"train.{name}" for name in ("log_every", "checkpoint_every", "keep", "tracker", "audit_every")
}
"""Fields of a spec in which runs may differ that are the same but for their seed."""

Scalar = str | int | float | bool | None
Status = Literal["finished", "failed", "unfinished"]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run, or what will be one.

    **Attributes:**

    - `source`, `name`: the folder that was given, and which of its runs it is.
    - `axes`: the value on each axis; None where it has none.
    - `error`: one line, of a failed cell.
    - `results`: of a finished cell.
    - `seconds`, `flops`: of `"train"` and `"evaluate"`, as far as known.
    - `parameters`; `rho_w_x`: the spectral radius of the recall's weights on the state.
    """

    source: str
    name: str
    axes: Mapping[str, Scalar]
    status: Status = "finished"
    error: str = ""
    results: RunResults | None = None
    seconds: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    flops: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    parameters: int | None = None
    rho_w_x: float | None = None

    def split(self, name: str) -> Evaluated | None:
        return None if self.results is None else self.results.splits.get(name)

    @property
    def stability(self) -> Stability | None:
        return None if self.results is None else self.results.stability


def read_cells(paths: Sequence[Path]) -> list[Cell]:
    """The cells of runs and sweeps, in order, all with the same axes.

    A sweep that is given alone has its own axes. Otherwise there are those of `SPEC_AXES`, which
    are read from the specs; any other field in which runs differ that agree on all of these but
    the seed; and where that leaves two sources with one run of the same axes, the axis "source".

    **Raises** `InputError` for a folder that is neither, or given twice, and for what is damaged.
    """
    if not paths:
        raise InputError("name a run folder or a sweep folder")
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError("a folder is given twice: leave one of them out")
    found: list[Cell] = []
    specs: dict[tuple[str, str], dict[str, Any]] = {}
    for path in paths:
        if (path / CELLS).exists():
            cells = list(_sweep(path))
            if len(paths) > 1:
                known = _specs(path, cells)
                specs |= {(cell.source, cell.name): known[cell.name] for cell in cells}
                cells = [_with(c, {**spec_axes(known[c.name]), **c.axes}) for c in cells]
            found += cells
        elif (path / SPEC).exists():
            spec = read_spec(path)
            cell = _run(path, spec_axes(spec))
            specs[cell.source, cell.name] = spec
            found.append(cell)
        elif path.is_dir():
            raise InputError(f"{path} is neither a run (no {SPEC}) nor a sweep (no {CELLS})")
        else:
            raise InputError(f"{path}: there is no such folder")
    axes = list(dict.fromkeys(axis for cell in found for axis in cell.axes))
    found = [_with(cell, {axis: cell.axes.get(axis) for axis in axes}) for cell in found]
    for field in _other_fields(found, specs):
        found = [
            _with(cell, {**cell.axes, field: specs[cell.source, cell.name].get(field)})
            for cell in found
        ]
    places: dict[tuple[Scalar, ...], set[str]] = {}
    for cell in found:
        places.setdefault(tuple(cell.axes.values()), set()).add(cell.source)
    if any(len(sources) > 1 for sources in places.values()):
        found = [_with(cell, {"source": cell.source, **cell.axes}) for cell in found]
    return found


def _specs(path: Path, cells: Sequence[Cell]) -> dict[str, dict[str, Any]]:
    """Of the cells of a sweep by name; of one that has not run the fields that all others share."""
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
    """Those in which finished cells differ that would else be taken for seeds of one another."""
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
    evaluations = [each.seconds for each in results.splits.values()]
    known = [each for each in evaluations if each is not None]
    return Cell(
        source=str(path),
        name=path.resolve().name,
        axes=axes,
        results=results,
        seconds={
            "train": trained_seconds(path / METRICS),
            "evaluate": sum(known) if known else None,
        },
        rho_w_x=None if results.stability is None else results.stability.rho_w_x,
    )


def _sweep(path: Path) -> Iterator[Cell]:
    again = "write it again: eqloop sweep"
    listed = read_json(path / CELLS, again)
    _check_format(path / CELLS, listed)
    try:
        planned = [_planned(each, listed["axes"]) for each in listed["cells"]]
        if len(dict(planned)) < len(planned):
            raise ValueError("a cell is listed twice")
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path / CELLS}: damaged ({error!r}); {again}") from None
    for name, axes in planned:
        cell = Cell(str(path), name, axes, status="unfinished")
        state = path / STATE / f"{name}.json"
        yield _ended(cell, state, path / RUNS / name) if state.exists() else cell


def _planned(cell: Any, axes: Sequence[str]) -> tuple[str, dict[str, Scalar]]:
    name, values = cell["name"], {axis: cell["axes"].get(axis) for axis in axes}
    if not isinstance(name, str) or Path(name).name != name:
        raise ValueError(f"{name!r} is no name of a run")
    for value in values.values():
        if not isinstance(value, Scalar):
            raise TypeError(f"{value!r} is no value of an axis")
    return name, values


def _ended(cell: Cell, path: Path, run: Path) -> Cell:
    """`cell` with what its state and its run folder say."""
    again = "delete it, and go on with the sweep"
    state = read_json(path, again)
    _check_format(path, state)
    try:
        status, error = state["status"], state.get("error")
        if status not in ("finished", "failed"):
            raise ValueError(f"status {status!r}")
        parameters = finite(state.get("parameters"))
        told: dict[str, Any] = {
            "seconds": _of_both(state.get("seconds")),
            "flops": _of_both(state.get("flops")),
            "parameters": None if parameters is None else int(parameters),
            "rho_w_x": finite(state.get("rho_w_x")),
        }
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({error!r}); {again}") from None
    if status == "failed":
        said = " ".join(str(error or "it does not say why").split())
        return dataclasses.replace(cell, status="failed", error=said, **told)
    if not (run / SPEC).exists():  # as the sweep sees it: it is done again
        return cell
    results = read_run(run)
    if told["rho_w_x"] is None and results.stability is not None:
        told["rho_w_x"] = results.stability.rho_w_x
    return dataclasses.replace(cell, status="finished", results=results, **told)


def _of_both(found: Any) -> dict[str, float | None]:
    return {name: finite((found or {}).get(name)) for name in ("train", "evaluate")}


def _check_format(path: Path, found: Any) -> None:
    has = found.get("format") if isinstance(found, Mapping) else None
    if has != FORMAT:
        raise InputError(
            f"{path}: format {has!r}, where {FORMAT} is understood; use the version of eqloop that "
            "wrote it"
        )


def _with(cell: Cell, axes: Mapping[str, Scalar]) -> Cell:
    return dataclasses.replace(cell, axes=axes)
