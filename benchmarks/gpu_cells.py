"""Cells of the paper's grid on one GPU, some at once, while there is time: part of `gpu_paper.py`.

python benchmarks/gpu_cells.py SWEEP CELL       # what each process does: train, evaluate
"""

import argparse
import dataclasses
import io
import json
import subprocess
import sys
import tarfile
import time
import tomllib
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w
from _machine import CLOSING, ROOT, Machine, clock, end

if TYPE_CHECKING:
    from eqloop.sweep import Cell, Sweep

LEAST = 45.0
"""Seconds below which no cell is begun, whatever it is expected to take."""
AFTER = 25.0
"""Seconds that evaluating a cell is expected to take, until one has ended."""
TOGETHER = 3
"""Cells in an archive."""
ORDER = {
    "prefix-sums": [(r, n) for r in ("internal", "external", "none") for n in ("post", "peri")],
    "sudoku": [("internal", "post"), ("internal", "peri"), ("external", "post")],
}
"""Recall and norm of the cells, in the order of their worth."""
SMALL: dict[str, dict[str, Any]] = {
    "prefix-sums": {"task.length": 8, "task.hard_length": 12, "task.test_rows": 16},
    "sudoku": {"task.box": 2, "task.data": "", "task.scale": "", "task.easy": "", "task.hard": ""},
}
SMALL_RUN = {
    "task.rows": 80,
    "model.width": 16,
    "model.heads": 2,
    "solver.steps": 4,
    "train.batch": 16,
    "train.steps": 12,
    "train.epochs": 4,
    "train.checkpoint_every": 6,
    "train.validate_every": 6,
    "train.validation_rows": 16,
}


def grid_text(task: str, options: argparse.Namespace) -> str:
    """Return the grid of `benchmarks/full` with the requested data, steps and rows."""
    tables = tomllib.loads((ROOT / "benchmarks" / "full" / f"{task}.toml").read_text("utf-8"))
    fields = tables.setdefault("set", {})
    if task == "sudoku" and options.sudoku is not None:
        fields["task.data"] = str(options.sudoku.resolve())
    evaluate = {"iterations": 500, "rows": options.rows, "checkpoint": "last"}
    if options.small:
        fields |= SMALL[task] | SMALL_RUN
        evaluate |= {"iterations": 16, "rows": 16}
    if task in options.steps:
        fields["train.steps"] = options.steps[task]
    return tomli_w.dumps(tables | {"evaluate": evaluate})


@dataclasses.dataclass
class Running:
    sweep: "Sweep"
    cell: "Cell"
    process: subprocess.Popen[bytes]
    began: float

    def progress(self) -> tuple[int, float]:
        """Return the steps done, and the seconds per step after the first, which includes
        compilation."""
        path = self.sweep.run(self.cell) / "metrics.jsonl"
        if not path.exists():
            return 0, 0.0
        with path.open("rb") as file:
            first = file.readline()
            file.seek(max(file.tell(), path.stat().st_size - 8192))
            entries = [first] if first.endswith(b"\n") else []
            entries += file.read().splitlines()[1:-1]  # the others may be cut off
        rows = [row for row in map(json.loads, entries) if row["kind"] == "train"]
        if len(rows) < 2:
            return len(rows), 0.0
        steps = rows[-1]["step"] - rows[0]["step"]
        return rows[-1]["step"], (rows[-1]["seconds"] - rows[0]["seconds"]) / steps


class Cells:
    """Runs cells of the grids, some at the same time, while there is time, and packs their
    results."""

    def __init__(self, machine: Machine, until: float, options: argparse.Namespace, report: Any):
        self.machine, self.until, self.asked, self.report = machine, until, options, report
        self.jobs: int = options.jobs
        self.queue = self._queue()
        self.running: list[Running] = []
        self.ended: list[dict[str, Any]] = []
        self.shed_at = 0.0
        self.pace: dict[str, float] = {}
        """Seconds per training FLOP, by task: measured beside others, divided by their number."""
        self.overhead = 0.0
        """Seconds of a cell that were not training: starts, compiling, evaluation."""

    def _queue(self) -> "list[tuple[Sweep, Cell]]":
        from eqloop.sweep import create_sweep
        from eqloop.sweep._grid import parse_grid
        from eqloop.tasks import make_task

        entries = []
        for task in self.asked.cells:
            text = grid_text(task, self.asked)
            grid = parse_grid(text, task, f"benchmarks/full/{task}.toml", make_task=make_task)
            by_axes = {(cell.axes["recall"], cell.axes["norm"]): cell for cell in grid.cells}
            cells = tuple(by_axes[axes] for axes in self.asked.cells[task])
            sweep = create_sweep(
                self.machine.work / "sweeps" / task, dataclasses.replace(grid, cells=cells)
            )
            entries += [(sweep, cell) for cell in cells]
        return entries

    def go(self) -> None:
        while self.queue or self.running:
            self._take_in()
            if self.machine.now >= self.until:
                self._stop(self.running, "cut off: out of time")
                for sweep, cell in self.queue:
                    self._leave_out(sweep, cell, "left out: out of time")
                return
            self._shed()
            while self.queue and len(self.running) < self.jobs and self._next():
                pass
            time.sleep(0.5)

    def _next(self) -> bool:
        """Start the next cell, or leave it out; return False if it must wait for others to end."""
        sweep, cell = self.queue[0]
        left, beside = self.until - self.machine.now, len(self.running)
        takes, alone = self.expected(cell, beside), self.expected(cell, 0)
        if takes > left >= alone and beside:
            return False
        del self.queue[0]
        if takes <= left:
            self._start(sweep, cell, takes)
        else:
            why = f"left out: takes about {clock(alone)} of the {clock(left)} that are left"
            self._leave_out(sweep, cell, why)
        return True

    def expected(self, cell: "Cell", beside: int) -> float:
        """Estimate the seconds of a cell beside that many others, from the cells that have ended;
        at least `LEAST`, the only estimate at first."""
        from eqloop.sweep import count

        task = cell.spec.task_name
        pace = self.pace.get(task) or max(self.pace.values(), default=0.0)
        if task == "sudoku" and task not in self.pace:
            pace = self._measured() or pace
        flops = count(cell.spec.model).training(cell.spec)
        least = 1.0 if self.machine.small else LEAST
        return max(least, (beside + 1) * pace * flops + self.overhead)

    def _measured(self) -> float | None:
        """Return the pace of the sudoku recipe that the part `speed` measured."""
        figures = (self.report.found.get("speed") or {}).get("figures") or {}
        entries = figures.get("train-256", {})
        try:
            return entries["eqloop"]["step"] / entries["needs"]["operations"]
        except KeyError:
            return None

    def _start(self, sweep: "Sweep", cell: "Cell", takes: float) -> None:
        process = self.machine.start(
            "gpu_cells.py",
            str(sweep.path),
            cell.name,
            XLA_PYTHON_CLIENT_MEM_FRACTION=f"{0.9 / self.asked.jobs:.2f}",
        )
        self.running.append(Running(sweep, cell, process, self.machine.now))
        self.machine.say(f"{_name(cell)}: begins, expected to take at least {clock(takes)}")

    def _take_in(self) -> None:
        for run in [job for job in self.running if job.process.poll() is not None]:
            self.running.remove(run)
            ended = run.sweep.ended(run.cell)
            if ended is None:
                code = run.process.returncode
                self._keep(run.sweep, run.cell, f"failed: its process ended with code {code}")
                continue
            wall = self.machine.now - run.began
            seconds = dict(ended.seconds) | {"wall": wall}
            outcome = "finished" if ended.status == "finished" else f"failed: {ended.error}"
            if ended.status == "finished":
                task, trained = run.cell.spec.task_name, max(ended.seconds["train"], 1e-9)
                pace = trained / ended.flops["train"] / self.asked.jobs
                self.pace[task] = max(self.pace.get(task, 0.0), pace)
                self.overhead = max(self.overhead, wall - trained)
            self._keep(run.sweep, run.cell, outcome, seconds=seconds, flops=ended.flops)

    def _shed(self) -> None:
        """Stop the last cell if the first would not end in time beside it."""
        if len(self.running) < 2 or self.machine.now < self.shed_at + 20:
            return
        first = self.running[0]
        step, seconds = first.progress()
        steps = first.cell.spec.train.steps
        if not 0.05 * steps <= step < steps:
            return
        # About half of the time that is not training comes after it.
        ends = self.machine.now + (steps - step) * seconds + max(self.overhead / 2, AFTER)
        if ends > self.until:
            self.jobs, self.shed_at = len(self.running) - 1, self.machine.now
            self._stop(self.running[-1:], "stopped, so that those before it end in time")

    def _stop(self, runs: list[Running], why: str) -> None:
        runs = list(runs)
        end([run.process for run in runs], CLOSING / 2)
        for run in runs:
            self.running.remove(run)
            step, _ = run.progress()
            self._keep(run.sweep, run.cell, f"{why}, at step {step}")

    def _leave_out(self, sweep: "Sweep", cell: "Cell", why: str) -> None:
        self._note(sweep, cell, why, None)

    def _keep(self, sweep: "Sweep", cell: "Cell", status: str, **more: Any) -> None:
        before = sum(entry["archive"] is not None for entry in self.ended)
        archive = f"runs-{1 + before // TOGETHER}.tar.gz"
        self._note(sweep, cell, status, archive, **more)
        names = {entry["cell"] for entry in self.ended if entry["archive"] == archive}
        try:
            pack(self.asked.out / archive, self.machine.work / "sweeps", names)
        except Exception as error:  # its figures are on disk; the other cells go on
            traceback.print_exc()
            self.ended[-1]["not_archived"] = f"{type(error).__name__}: {error}"
            self.report.save()

    def _note(
        self, sweep: "Sweep", cell: "Cell", status: str, archive: str | None, **more: Any
    ) -> None:
        spec = cell.spec
        self.machine.say(f"{_name(cell)}: {status}")
        self.ended.append(
            {
                "cell": f"{sweep.path.name}/{cell.name}",
                "task": spec.task_name,
                "axes": dict(cell.axes),
                "status": status,
                "archive": archive,
                "steps": spec.train.steps,
                "steps_of_the_recipe": None if self.asked.small else _recipe(spec.task_name),
                "cells_at_once": self.asked.jobs,
                "curves": curves(sweep, cell),
            }
            | more
        )
        self.report.save()


def _name(cell: "Cell") -> str:
    return f"{cell.spec.task_name}, {cell.axes['recall']}, {cell.axes['norm']}"


def _recipe(task: str) -> int:
    from eqloop.run import load_preset

    return load_preset(task, "paper")["train"]["steps"]


def curves(sweep: "Sweep", cell: "Cell") -> dict[str, Any]:
    """Return the curves of a trained cell: share solved over iterations, by split."""
    entries = {}
    for split in cell.evaluate.splits:
        path = sweep.run(cell) / "eval" / f"{split}.json"
        if path.exists():
            table = json.loads(path.read_text("utf-8"))
            overall = table["overall"]
            entries[split] = {
                "examples": overall["examples"],
                "iterations": table["iterations"],
                "exact": overall["scores"]["exact"],
                "converged": overall["converged"],
                "residual_median": overall["residual_median"],
                "seconds": table["seconds"],
            }
    return entries


def pack(archive: Path, sweeps: Path, cells: set[str]) -> None:
    """Write a tar of the sweep folders with only those `cells` (TASK/NAME), atomically."""
    from eqloop._files import write_atomic
    from eqloop.run import open_run

    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz", compresslevel=6) as tar:
        for task in sorted({cell.partition("/")[0] for cell in cells}):
            for name in ("sweep.toml", "cells.json"):
                tar.add(sweeps / task / name, f"{task}/{name}")
        for cell in sorted(cells):
            task, _, name = cell.partition("/")
            state, run = sweeps / task / "state" / f"{name}.json", sweeps / task / "runs" / name
            if state.exists():
                tar.add(state, f"{task}/state/{name}.json")
            files = (
                "spec.toml",
                "data.json",
                "metrics.jsonl",
                *(f"eval/{s}.json" for s in ("test", "hard")),
            )
            for file in files:
                if (run / file).exists():
                    tar.add(run / file, f"{task}/runs/{name}/{file}")
            if (weights := slim(run)) is not None:
                last = f"step-{open_run(run).steps()[-1]:08d}.safetensors"
                tar.add(weights, f"{task}/runs/{name}/checkpoints/{last}")
    write_atomic(archive, [held.getvalue()])


def slim(path: Path) -> Path | None:
    """Return the last checkpoint, with the weights alone, of a run whose training has ended; None
    for any other run."""
    from eqloop.run import open_run
    from eqloop.run._checkpoint import save
    from eqloop.train._state import skeleton

    if not (path / "spec.toml").exists():
        return None
    run = open_run(path)
    if not run.steps() or run.steps()[-1] < run.spec.train.steps:
        return None
    state, header = run.load("last", skeleton(run.spec))
    target = path / "weights.safetensors"
    save(target, {"model": state.model} | ({} if state.ema is None else {"ema": state.ema}), header)
    return target


def work_at(path: Path, name: str) -> None:
    """Train and evaluate one cell of a sweep, in a process of its own."""
    from eqloop.sweep import open_sweep, stop_with_parent, work
    from eqloop.tasks import make_task

    stop_with_parent()
    sweep = open_sweep(path, make_task=make_task)
    cells = tuple(cell for cell in sweep.grid.cells if cell.name == name)
    grid = dataclasses.replace(sweep.grid, cells=cells)
    work(dataclasses.replace(sweep, grid=grid), make_task=make_task)


if __name__ == "__main__":
    work_at(Path(sys.argv[1]), sys.argv[2])
