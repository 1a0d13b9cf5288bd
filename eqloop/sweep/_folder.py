"""A sweep is a folder: its grid, its runs, and what became of each cell."""

import contextlib
import dataclasses
import hashlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .._errors import InputError
from .._files import TEMPORARY, Held, exclusive, read_bytes, write_atomic
from .._plugins import origin
from .._tables import read_text
from ..run import (
    GRID,
    RUNS,
    SPEC,
    STATE,
    CellResult,
    MakeTask,
    Run,
    SweepRecord,
    open_run,
    read_cell_result,
    read_sweep,
    save_cell_result,
    save_sweep,
    state_path,
)
from ._grid import Cell, Classes, Grid, parse_grid

_LOG = logging.getLogger(__name__)


def is_up_to_date(result: CellResult, cell: Cell) -> bool:
    """Whether a cell is finished and was evaluated with the `[evaluate]` table that it has now.

    **Arguments:**

    - `result`: the result of the cell.
    - `cell`: the cell.

    **Returns** False if something is left to do.

    ```python
    >>> import dataclasses, eqloop
    >>> options = eqloop.sweep.EvaluateSpec(splits=("test",))
    >>> cell = eqloop.sweep.Cell("one", {}, eqloop.run.Spec({"name": "prefix-sums"}), options)
    >>> table = {"iterations": 500, "rows": 1000, "splits": ["test"], "checkpoint": "best"}
    >>> result = eqloop.run.CellResult("finished", evaluated=table)
    >>> eqloop.sweep.is_up_to_date(result, cell)
    True

    ```
    """
    wanted = dataclasses.asdict(cell.evaluate)
    wanted["splits"] = list(wanted["splits"])  # JSON has lists in place of tuples
    return result.status == "finished" and result.evaluated == wanted


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep folder; see `create_sweep` and `open_sweep`.

    ```
    sweep.toml           the grid, as it was given
    cells.json           its cells and their values on the axes, and a hash of sweep.toml
    runs/CELL/           one run folder each, as `eqloop train` writes it
    state/CELL.json      its result; absent before it has ended
    state/CELL.lock      locked by the process that runs it
    ```

    **Attributes:**

    - `path`: the folder.
    - `grid`: its grid.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     source = pathlib.Path(name, "seeds.toml")
    ...     _ = source.write_text('task = "prefix-sums"\\naxes.seed = [0, 1]')
    ...     grid = eqloop.sweep.read_grid(str(source), make_task=eqloop.tasks.make_task)
    ...     sweep = eqloop.sweep.create_sweep(pathlib.Path(name, "out"), grid)
    ...     with sweep.claim(grid.cells[0]) as ours:
    ...         ours, sweep.ended(grid.cells[0]) is None
    (True, True)

    ```
    """

    path: Path
    grid: Grid

    def run(self, cell: Cell) -> Path:
        """The run folder of a cell."""
        return self.path / RUNS / cell.name

    def ended(self, cell: Cell) -> CellResult | None:
        """The result of a cell; None before it has ended, or if its run or an evaluation of it was
        deleted. A cell with a damaged result has failed, since the result is unknown."""
        try:
            result = read_cell_result(self.path, cell.name)
        except InputError:
            path = state_path(self.path, cell.name)
            return CellResult("failed", f"{path} is damaged: delete it, and the cell is done again")
        if result is None or result.status == "failed":
            return result
        splits = result.evaluated.get("splits", ())
        files = [SPEC, *(f"eval/{split}.json" for split in splits)]
        return result if all((self.run(cell) / file).is_file() for file in files) else None

    def end(self, cell: Cell, result: CellResult) -> None:
        """Record the result of a cell. **Raises** `OSError` if it cannot be written."""
        save_cell_result(self.path, cell.name, result)

    def forget(self, cell: Cell) -> None:
        """Delete the result of a cell, so that it continues from the state of its run."""
        state_path(self.path, cell.name).unlink(missing_ok=True)

    def retry(self) -> None:
        """Forget the cells that have failed, or that were evaluated with other options than now;
        cells that another process runs are not changed."""

        def serves(cell: Cell) -> bool:
            ended = self.ended(cell)
            return ended is None or is_up_to_date(ended, cell)

        for cell in self.grid.cells:
            if not serves(cell):
                with self.claim(cell) as ours:
                    if ours and not serves(cell):
                        self.forget(cell)

    @contextlib.contextmanager
    def claim(self, cell: Cell) -> Iterator[bool]:
        """Claim a cell for the duration of the context (`exclusive`); yields whether it succeeded.
        **Raises** `InputError` if its lock is not a file."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(exclusive(self._lock(cell)))
            except Held:
                yield False
                return
            except OSError as error:
                raise InputError(f"cannot lock {self._lock(cell)}: {error.strerror}") from None
            yield True

    def worker(self, cell: Cell) -> int | None:
        """The process that claimed the cell last and has not released it; it may be dead."""
        try:
            return int(read_bytes(self._lock(cell)).split()[0])
        except (OSError, ValueError, IndexError):
            return None

    def _lock(self, cell: Cell) -> Path:
        return self.path / STATE / f"{cell.name}.lock"

    def busy(self, cell: Cell) -> bool:
        """Whether a process runs the cell, on any machine."""
        if self.worker(cell) is None:
            return False
        with self.claim(cell) as ours:
            return not ours

    def opened(self, cell: Cell) -> Run | None:
        """The run of a cell, if it has begun. **Raises** `InputError` for a damaged run."""
        path = self.run(cell)
        return open_run(path) if (path / SPEC).exists() else None


def plan_sweep(path: Path, grid: Grid) -> Sweep:
    """The sweep that `create_sweep` starts or continues. Nothing is written.

    **Arguments:**

    - `path`: the sweep folder, which may be missing.
    - `grid`: the grid.

    **Returns** the sweep.

    **Raises** `InputError` if the folder has other content, or if a cell was run with another spec.

    ```python
    >>> import eqloop, pathlib
    >>> grid = eqloop.sweep.Grid("empty", "", (), (), {})
    >>> eqloop.sweep.plan_sweep(pathlib.Path("sweeps/none"), grid).path.name
    'none'

    ```
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: choose another --out")
    # Leftovers of a process that was killed at its start do not count.
    own = re.compile(rf"\.{re.escape(GRID)}.*{re.escape(TEMPORARY)}")
    others = path.exists() and [file for file in path.iterdir() if not own.fullmatch(file.name)]
    if others and not (path / GRID).is_file():  # in this order: it may be made meanwhile
        raise InputError(f"{path} is not empty and not a sweep: choose another --out")
    sweep = Sweep(path, grid)
    for cell in grid.cells:
        try:
            run = sweep.opened(cell)
        except InputError:
            continue  # of this cell alone: it fails once a worker takes it
        if run is not None and cell.objects:
            from ..train import Objects  # imports JAX, as the objects did

            Objects(**cell.objects).check(run.spec, run.path)
        if run is not None and (changed := run.spec.differences(cell.spec)):
            raise InputError(
                f"{run.path} was begun with another spec ({'; '.join(changed[:3])}): choose "
                "another --out, or delete it"
            )
    return sweep


def create_sweep(path: Path, grid: Grid) -> Sweep:
    """Start a sweep in `path`, or continue the existing one with `grid` as its new grid: new cells
    are scheduled; runs of cells that left the grid are kept but ignored.

    **Arguments:**

    - `path`: the sweep folder; it is made if it is missing.
    - `grid`: the grid; see `read_grid`.

    **Returns** the sweep.

    **Raises** `InputError` if the folder has other content, if a cell was run with another spec, or
    if the folder cannot be written.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     source = pathlib.Path(name, "seeds.toml")
    ...     _ = source.write_text('task = "prefix-sums"\\naxes.seed = [0, 1]')
    ...     grid = eqloop.sweep.read_grid(str(source), make_task=eqloop.tasks.make_task)
    ...     sweep = eqloop.sweep.create_sweep(pathlib.Path(name, "out"), grid)
    ...     sorted(path.name for path in sweep.path.iterdir())
    ['cells.json', 'runs', 'state', 'sweep.toml']

    ```
    """
    sweep = plan_sweep(path, grid)
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Written first: after an interruption the same command continues this sweep.
        write_atomic(path / GRID, [grid.text.encode()])
        for folder in (STATE, RUNS):
            (path / folder).mkdir(exist_ok=True)
        cells = {cell.name: dict(cell.axes) for cell in grid.cells}
        code = dict(filter(None, (origin(type(made)) for _, made in _objects(grid))))
        record = SweepRecord(grid.name, tuple(grid.axes), cells, _digest(grid.text), code)
        save_sweep(path, record)
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror}") from None
    return sweep


def open_sweep(path: Path, *, make_task: MakeTask, classes: Classes | None = None) -> Sweep:
    """Open an existing sweep. If `sweep.toml` has changed since the sweep was last started, the new
    content counts, and a warning is logged.

    **Arguments:**

    - `path`: the sweep folder.
    - `make_task`, `classes`: see `read_grid`.

    **Returns** the sweep.

    **Raises** `InputError` if `path` is not a sweep, if its grid has an error, or if the file of a
    class has changed since the sweep was last started.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> make_task = eqloop.tasks.make_task
    >>> with tempfile.TemporaryDirectory() as name:
    ...     source, out = pathlib.Path(name, "seeds.toml"), pathlib.Path(name, "out")
    ...     _ = source.write_text('task = "prefix-sums"\\naxes.seed = [0, 1]')
    ...     grid = eqloop.sweep.read_grid(str(source), make_task=make_task)
    ...     _ = eqloop.sweep.create_sweep(out, grid)
    ...     eqloop.sweep.open_sweep(out, make_task=make_task).grid.cells == grid.cells
    True

    ```
    """
    if not (path / GRID).is_file():
        raise InputError(f"{path} is not a sweep: it has no {GRID}")
    try:
        record = read_sweep(path)
    except InputError:
        raise InputError(
            f"{path / 'cells.json'} is missing or damaged: write it again with eqloop sweep "
            f"{path / GRID} --out {path}"
        ) from None
    text = read_text(path / GRID)
    where = str(path / GRID)
    grid = parse_grid(text, record.name, where, make_task=make_task, classes=classes)
    for option, made in _objects(grid):
        from ._objects import check_code  # imports JAX, as the object did

        check_code(option, made, record.code)
    if record.grid not in (None, _digest(text)):
        _LOG.warning("%s has been changed since the sweep was last begun", path / GRID)
    return Sweep(path, grid)


def _objects(grid: Grid) -> list[tuple[str, Any]]:
    """(`"solver"` or `"gradient"`, object of the user) for each cell with such objects."""
    return [pair for cell in grid.cells for pair in cell.objects.items()]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
