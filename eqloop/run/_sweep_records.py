"""The records of a sweep folder: its list of cells, and the result of each cell.

Each record is written and read here: `eqloop sweep` and `eqloop report` use the same types.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from .._tables import write_json
from ._record import read_record
from ._values import finite

SWEEP_FORMAT = 1
"""Version of `cells.json` and of `state/CELL.json`."""
GRID = "sweep.toml"
"""The file of the grid in the folder of a sweep."""
CELLS = "cells.json"
"""The file of the cells in the folder of a sweep."""
STATE = "state"
"""The folder of the results of the cells, one file each, in the folder of a sweep."""
RUNS = "runs"
"""The folder of the runs in the folder of a sweep."""

Scalar = str | int | float | bool | None
"""The value of a cell on an axis; None: the cell has no value on it."""
Status = Literal["finished", "failed"]
"""How the run of a cell ended."""


@dataclasses.dataclass(frozen=True)
class CellResult:
    """The result of one cell of a sweep: `state/CELL.json`.

    **Attributes:**

    - `status`: whether the cell finished or failed.
    - `error`: the reason for a failure, one line; None for a cell that finished.
    - `seconds`: `"train"` and `"evaluate"` -> wall time in seconds, over all the processes that
      worked on the cell.
    - `flops`: `"train"` and `"evaluate"` -> FLOPs, as `eqloop.sweep.Cost` counts them.
    - `evaluated`: the `[evaluate]` table that the cell was evaluated with.
    - `parameters`: the number of weights of the model; None for a cell that failed.
    - `rho_w_x`: the spectral radius of the recall's state matrix; None without recall.

    ```python
    >>> import eqloop
    >>> eqloop.run.CellResult("failed", error="out of memory").seconds
    {}

    ```
    """

    status: Status
    error: str | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    flops: dict[str, float] = dataclasses.field(default_factory=dict)
    evaluated: dict[str, Any] = dataclasses.field(default_factory=dict)
    parameters: int | None = None
    rho_w_x: float | None = None


@dataclasses.dataclass(frozen=True)
class SweepRecord:
    """The list of cells of a sweep: `cells.json`.

    **Attributes:**

    - `name`: name of the grid.
    - `axes`: names of its axes, in order.
    - `cells`: name of a cell -> its value on each axis.
    - `grid`: SHA-256 of `sweep.toml`; None in sweeps of earlier versions, which lack it.
    - `code`: a class of a file that trains a cell, as `/path/to/file.py:Class` -> SHA-256 of the
      file.

    ```python
    >>> import eqloop
    >>> record = eqloop.run.SweepRecord("rates", ("lr",), {"lr-0.001": {"lr": 1e-3}})
    >>> record.cells["lr-0.001"]["lr"]
    0.001

    ```
    """

    name: str
    axes: tuple[str, ...]
    cells: Mapping[str, Mapping[str, Scalar]]
    grid: str | None = None
    code: Mapping[str, str] = dataclasses.field(default_factory=dict)


def state_path(sweep: Path, cell: str) -> Path:
    """The path of the result of a cell, `state/CELL.json`.

    **Arguments:**

    - `sweep`: the sweep folder.
    - `cell`: name of the cell.

    **Returns** the path; the file may be missing.

    ```python
    >>> import eqloop, pathlib
    >>> eqloop.run.state_path(pathlib.Path("sweeps/mine"), "lr-0.001").as_posix()
    'sweeps/mine/state/lr-0.001.json'

    ```
    """
    return sweep / STATE / f"{cell}.json"


def is_sweep(folder: Path) -> bool:
    """Whether a folder has a list of cells.

    **Arguments:**

    - `folder`: any path.

    **Returns** True if `cells.json` exists.

    ```python
    >>> import eqloop, pathlib
    >>> eqloop.run.is_sweep(pathlib.Path("sweeps/none"))
    False

    ```
    """
    return (folder / CELLS).exists()


def save_sweep(sweep: Path, record: SweepRecord) -> None:
    """Write `cells.json`, in place of an older file.

    **Arguments:**

    - `sweep`: the sweep folder, which must exist.
    - `record`: the content.

    **Raises** `OSError` if it cannot be written.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> record = eqloop.run.SweepRecord("rates", ("lr",), {"lr-0.001": {"lr": 1e-3}})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     eqloop.run.save_sweep(pathlib.Path(folder), record)
    ...     eqloop.run.read_sweep(pathlib.Path(folder)) == record
    True

    ```
    """
    cells = [{"name": name, "axes": dict(axes)} for name, axes in record.cells.items()]
    table = {"format": SWEEP_FORMAT, "name": record.name, "axes": list(record.axes)}
    table |= {"cells": cells, "grid": record.grid, "code": dict(record.code)}
    write_json(sweep / CELLS, table)


def read_sweep(sweep: Path) -> SweepRecord:
    """Read `cells.json`.

    **Arguments:**

    - `sweep`: the sweep folder.

    **Returns** the list of cells.

    **Raises** `InputError` if the file is missing, damaged or of another format.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> record = eqloop.run.SweepRecord("rates", ("lr",), {"lr-0.001": {"lr": 1e-3}})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     eqloop.run.save_sweep(pathlib.Path(folder), record)
    ...     list(eqloop.run.read_sweep(pathlib.Path(folder)).cells)
    ['lr-0.001']

    ```
    """
    return read_record(sweep / CELLS, _sweep, "write it again: eqloop sweep", SWEEP_FORMAT)


def _sweep(table: Mapping[str, Any]) -> SweepRecord:
    axes = tuple(table["axes"])
    cells = [_cell(cell, axes) for cell in table["cells"]]
    if len(dict(cells)) < len(cells):
        raise ValueError("a cell is listed twice")
    code = {str(name): str(sha256) for name, sha256 in (table.get("code") or {}).items()}
    return SweepRecord(str(table.get("name", "")), axes, dict(cells), table.get("grid"), code)


def _cell(table: Any, axes: tuple[str, ...]) -> tuple[str, dict[str, Scalar]]:
    name, values = table["name"], {axis: table["axes"].get(axis) for axis in axes}
    if not isinstance(name, str) or Path(name).name != name:
        raise ValueError(f"{name!r} is no name of a run")
    for value in values.values():
        if not isinstance(value, Scalar):
            raise TypeError(f"{value!r} is no value of an axis")
    return name, values


def save_cell_result(sweep: Path, cell: str, result: CellResult) -> None:
    """Write `state/CELL.json`, in place of an older file.

    **Arguments:**

    - `sweep`: the sweep folder, whose folder `state` must exist.
    - `cell`: name of the cell.
    - `result`: the content.

    **Raises** `OSError` if it cannot be written.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     folder = pathlib.Path(name)
    ...     eqloop.run.state_path(folder, "lr-0.001").parent.mkdir()
    ...     result = eqloop.run.CellResult("finished", seconds={"train": 2.0})
    ...     eqloop.run.save_cell_result(folder, "lr-0.001", result)
    ...     eqloop.run.read_cell_result(folder, "lr-0.001") == result
    True

    ```
    """
    table = {"format": SWEEP_FORMAT} | dataclasses.asdict(result)
    write_json(state_path(sweep, cell), table)


def read_cell_result(sweep: Path, cell: str) -> CellResult | None:
    """Read `state/CELL.json`.

    **Arguments:**

    - `sweep`: the sweep folder.
    - `cell`: name of the cell.

    **Returns** the result; None if the cell has none yet.

    **Raises** `InputError` if the file is damaged or of another format.

    ```python
    >>> import eqloop, pathlib
    >>> eqloop.run.read_cell_result(pathlib.Path("sweeps/none"), "lr-0.001") is None
    True

    ```
    """
    path, again = state_path(sweep, cell), "delete it, and go on with the sweep"
    return read_record(path, _cell_result, again, SWEEP_FORMAT) if path.exists() else None


def _cell_result(table: Mapping[str, Any]) -> CellResult:
    status, error = table["status"], table.get("error")
    if status not in get_args(Status):
        raise ValueError(f"status {status!r}")
    parameters = finite(table.get("parameters"))
    return CellResult(
        status=status,
        error=None if error is None else " ".join(str(error).split()),
        seconds=_parts(table.get("seconds")),
        flops=_parts(table.get("flops")),
        evaluated=dict(table.get("evaluated") or {}),
        parameters=None if parameters is None else int(parameters),
        rho_w_x=finite(table.get("rho_w_x")),
    )


def _parts(table: Any) -> dict[str, float]:
    """The costs of `"train"` and `"evaluate"` that are known."""
    values = {name: finite((table or {}).get(name)) for name in ("train", "evaluate")}
    return {name: value for name, value in values.items() if value is not None}
