"""`eqloop sweep GRID`: every run of a grid, on this machine or on a cluster."""

import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import InputError
from .._numbers import format_duration, format_percent
from ..tasks import named
from ._output import Json, console, emit, notes, table
from ._run import check_task

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..run import CellResult
    from ..sweep import Cell, Classes, Sweep


def sweep(
    grid: Annotated[
        str,
        typer.Argument(
            metavar="GRID",
            help="Run the grid of this TOML file, go on with this sweep folder, or run "
            "paper/TASK or paper-small/TASK.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Write the sweep into this folder. The default is sweeps/NAME."
        ),
    ] = None,
    executor: Annotated[
        str,
        typer.Option(help="Run the cells on this machine (local), or as an array of jobs (slurm)."),
    ] = "local",
    jobs: Annotated[
        int, typer.Option(min=1, help="Share the cores and GPUs among this number of processes.")
    ] = 1,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only print the cells, their FLOPs, and how long they take."
        ),
    ] = False,
    as_json: Json = False,
    task_class: Annotated[
        str | None,
        typer.Option(
            "--task",
            "-t",
            metavar="FILE.py:CLASS",
            help="Load the task that GRID names, which is a class of a file, from this file.",
        ),
    ] = None,
    solver: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE.py:CLASS",
            help="Load this solver from outside eqloop, which GRID names as solver.name. The "
            "option can be repeated.",
        ),
    ] = None,
    gradient: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE.py:CLASS",
            help="Load this gradient from outside eqloop, which GRID names as solver.gradient. The "
            "option can be repeated.",
        ),
    ] = None,
    worker: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Train and evaluate every cell of a grid.

    Reads GRID, a TOML file of axes (see eqloop.sweep.read_grid); paper/TASK is that of the paper,
    paper-small/TASK the same at a size for two cores. Writes the sweep folder: sweep.toml,
    cells.json, a run folder for each cell in runs/, and how it ended in state/.

    A class from outside eqloop runs only where an option names it, also with a sweep folder:
    --task, --solver and --gradient load the classes that GRID names.

    The same command again does what is missing or failed, and no more, from where it stopped.
    Several may work on one folder, also from several machines: no cell is done twice. Ctrl-C saves
    all. A cell that fails does not stop the others. Exits with 1 if a cell failed or it was
    stopped. Next: eqloop report SWEEP.

    Example: eqloop sweep paper-small/sudoku --jobs 2
    """
    if executor not in ("local", "slurm"):
        raise InputError(f"--executor must be local or slurm, got {executor!r}")
    if task_class is not None:
        named(task_class)
    from .._outside import outside_classes
    from ..run import GRID
    from ..sweep import create_sweep, open_sweep, plan_sweep, read_grid
    from ..tasks import make_task

    classes = {
        "solver": outside_classes("solver", solver or ()),
        "gradient": outside_classes("gradient", gradient or ()),
    }
    if worker is not None:
        _work(Path(grid), classes, tied=worker == "tied")
        return
    loaded = [("task", task_class)] if task_class is not None else []
    loaded += [(option, text) for option, known in classes.items() for text in known]

    if (Path(grid) / GRID).is_file():
        if out is not None:
            raise InputError(f"{grid} is a sweep folder: leave out --out")
        path = Path(grid)
        planned = open_sweep(path, make_task=make_task, classes=classes).grid
    else:
        planned = read_grid(grid, make_task=make_task, classes=classes)
        path = out or Path("sweeps") / planned.name.replace("/", "-")
    if task_class is not None:
        check_task(task_class, {cell.spec.task_name for cell in planned.cells}, grid)
    used = {type(made) for cell in planned.cells for made in cell.objects.values()}
    for option, known in classes.items():
        for text in (text for text, cls in known.items() if cls not in used):
            raise InputError(f"--{option} {text}: no cell of {grid} names it")
    if dry_run:
        _dry_run(plan_sweep(path, planned), jobs, as_json)
        return
    begun = create_sweep(path, planned)
    begun.retry()
    if executor == "slurm":
        _submit(begun, jobs, loaded, as_json)
    else:
        _run(begun, jobs, loaded, as_json)


Loaded = list[tuple[str, str]]
"""The classes that the user has named: the option, and what it says."""


def _command(path: Path, leash: str, loaded: Loaded) -> list[str]:
    command = [sys.executable, "-m", "eqloop.cli", "sweep", str(path.resolve())]
    for option, text in loaded:
        file, _, name = text.rpartition(":")
        command += [f"--{option}"]
        command += [f"{Path(file).absolute()}:{name}" if file.endswith(".py") else text]
    return [*command, "--worker", leash]


def _work(path: Path, classes: "Classes", *, tied: bool) -> None:
    """What each process of a sweep does."""
    from ..sweep import open_sweep, stop_with_parent, work
    from ..tasks import make_task

    if tied:
        stop_with_parent()
    work(open_sweep(path, make_task=make_task, classes=classes), make_task=make_task)


def _submit(begun: "Sweep", jobs: int, loaded: Loaded, as_json: bool) -> None:
    from ..sweep import submit

    ids = [job.job_id for job in submit(begun, _command(begun.path, "free", loaded), jobs)]
    if as_json:
        emit({"sweep": begun.path, "jobs": ids})
        return
    console().print(
        f"{len(ids)} workers submitted: {', '.join(ids)}\n{begun.path}: see how far it is with "
        f"`eqloop report {begun.path}`",
        markup=False,
        soft_wrap=True,
    )


def _run(begun: "Sweep", jobs: int, loaded: Loaded, as_json: bool) -> None:
    from ..sweep import run_local

    shown = _Shown(begun)
    with shown:
        command = _command(begun.path, "tied", loaded)
        whole = run_local(begun, command, min(jobs, len(begun.grid.cells)), watch=shown.look)
    ends = {cell.name: begun.ended(cell) for cell in begun.grid.cells}
    failed = {name: end.error for name, end in ends.items() if end and end.status == "failed"}
    busy = [cell.name for cell in begun.grid.cells if not ends[cell.name] and begun.busy(cell)]
    missing = [name for name, end in ends.items() if end is None and name not in busy]
    done = len(ends) - len(failed) - len(missing) - len(busy)
    if as_json:
        emit(
            {"sweep": begun.path, "finished": done, "failed": failed, "missing": missing}
            | {"busy": busy, "interrupted": not whole}
        )
    else:
        out = console()
        for name, error in failed.items():
            out.print(f"failed: {name}: {error}", markup=False, soft_wrap=True)
        state = f"{done} of {len(ends)} cells finished, {len(failed)} failed"
        state += f", {len(busy)} being worked at by another process" if busy else ""
        state += f", {len(missing)} missing: the same command goes on" if missing else ""
        out.print(f"{state}\nnext: eqloop report {begun.path}", markup=False, soft_wrap=True)
    if done < len(ends):
        raise typer.Exit(1)


class _Shown:
    """What is going on, as a live table where there is a terminal, else a line per cell."""

    def __init__(self, begun: "Sweep"):
        from rich.live import Live

        self.sweep, self.out = begun, notes()
        self.ended = {cell.name for cell in begun.grid.cells if begun.ended(cell) is not None}
        self.before, self.began = len(self.ended), time.perf_counter()
        self.live = Live(console=self.out, transient=True, auto_refresh=False)

    def __enter__(self) -> "_Shown":
        total = len(self.sweep.grid.cells)
        there = f", {self.before} of them done already" if self.before else ""
        self.out.print(f"{self.sweep.path}: {total} cells{there}", markup=False, soft_wrap=True)
        if self.out.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.live.stop()

    def look(self) -> None:
        cells = [cell for cell in self.sweep.grid.cells if cell.name not in self.ended]
        for cell in cells:
            end = self.sweep.ended(cell)
            if end is not None:
                self.ended.add(cell.name)
                line = f"{len(self.ended)}/{len(self.sweep.grid.cells)} {self._end(cell, end)}"
                self.out.print(line, markup=False, soft_wrap=True)
        if self.out.is_terminal:
            self.live.update(self._table(cells), refresh=True)

    def _end(self, cell: "Cell", end: "CellResult") -> str:
        if end.status == "failed":
            return f"{cell.name}: failed: {end.error}"
        scores = ", ".join(
            f"{name} {format_percent(score)} %" for name, score in _scores(self.sweep, cell).items()
        )
        return f"{cell.name}: {scores}, {sum(end.seconds.values()):.0f} s"

    def _table(self, cells: "list[Cell]") -> "RenderableType":
        from rich.console import Group
        from rich.text import Text

        from ..run import METRICS, last_training_line

        rows = []
        for cell in cells:
            if self.sweep.worker(cell) is None:
                continue
            line = last_training_line(self.sweep.run(cell) / METRICS)
            step, loss, rate = "0", "-", "-"
            if line is not None:
                step, rate = str(line.step), f"{line.examples_per_s:.0f}"
                loss = f"{line.metrics.get('loss', math.nan):.4f}"
            rows.append((cell.name, f"{step}/{cell.spec.train.steps}", loss, rate))
        done, total = len(self.ended), len(self.sweep.grid.cells)
        spent, here = time.perf_counter() - self.began, done - self.before
        left = f", about {format_duration(spent / here * (total - done))} left" if here else ""
        head = Text(f"{done} of {total} cells, {format_duration(spent)} so far{left}")
        return Group(head, table(("cell", "step", "loss", "examples/s"), rows))


def _scores(begun: "Sweep", cell: "Cell") -> dict[str, float]:
    """Share solved at the last iteration, by split."""
    from ..run import read_evaluation

    records = {name: read_evaluation(begun.run(cell), name) for name in cell.evaluate.splits}
    return {
        name: record.evaluation.overall.last
        for name, record in records.items()
        if record is not None
    }


def _state(cell: "Cell", end: "CellResult | None") -> str:
    if end is None:
        return "missing"
    from ..sweep import is_up_to_date

    again = end.status == "finished" and not is_up_to_date(end, cell)
    return "evaluate again" if again else end.status


def _dry_run(planned: "Sweep", jobs: int, as_json: bool) -> None:
    from ..sweep import flops, measure_rate

    grid = planned.grid
    costs = {cell.name: flops(cell) for cell in grid.cells}
    states = {cell.name: _state(cell, planned.ended(cell)) for cell in grid.cells}
    left = [cell for cell in grid.cells if states[cell.name] != "finished"]
    total = sum(sum(costs[cell.name]) for cell in left)
    # All cores work on a cell, however many processes share them.
    rate = measure_rate(left[0].spec) if left else None
    seconds = 0.0 if rate is None else total / rate
    cells = [
        {
            "cell": cell.name,
            "state": states[cell.name],
            "train_flops": costs[cell.name][0],
            "evaluate_flops": costs[cell.name][1],
        }
        for cell in grid.cells
    ]
    if as_json:
        emit(
            {"grid": grid.name, "sweep": planned.path, "cells": cells, "flops": total}
            | {"seconds": seconds, "flops_per_s": rate}
        )
        return
    out = console()
    rows = [
        (
            cell["cell"],
            cell["state"],
            f"{cell['train_flops']:.1e}",
            f"{cell['evaluate_flops']:.1e}",
        )
        for cell in cells
    ]
    out.print(table(("cell", "state", "FLOPs to train", "to evaluate, at most"), rows))
    line = f"{grid.name}: {len(left)} of {len(cells)} cells to do, {total:.1e} FLOPs"
    if rate is not None:
        shapes = len({cell.spec.model for cell in left})
        line += (
            f", about {format_duration(seconds)} at the {rate / 1e9:.1f} GFLOP/s that the first "
            f"one is estimated to reach here; compiling {shapes} shape{'s' * (shapes > 1)} of "
            "models comes on top"
        )
    out.print(f"\n{line}; nothing was written", markup=False, soft_wrap=True)
