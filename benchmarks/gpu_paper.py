"""On a GPU, in one call of under 9 minutes: is it right, how fast, and cells of the paper's grid.

    uv run --with pip python benchmarks/gpu_pack.py                # with network, before: gpu-pack/
    python3 -m pip install -q --no-index --no-deps --target /tmp/site gpu-pack/wheels/*.whl
    PYTHONPATH=/tmp/site python3 benchmarks/gpu_paper.py --out OUT --reference gpu-pack/reference \
        --sudoku gpu-pack/sudoku.csv.gz

    python benchmarks/gpu_paper.py --small --out /tmp/out          # rehearsal on a CPU
    python benchmarks/gpu_paper.py --out OUT --parts cells --cells sudoku --sudoku FILE

The machine needs no network: JAX with CUDA, Equinox, Optimistix, Lineax, Diffrax, Optax, Numba,
safetensors and PyTorch are installed there; `gpu_pack.py` collects everything else, under 64 MiB.
The repository itself is not installed: the root is the working folder.

**Parts**, in this order; what a part leaves of its time goes to the next one:

1. `right`: reference vectors, one training step of every solver with every gradient against the
   same step on the CPU, and a run that is resumed bit for bit (`gpu_right.py`).
2. `speed`: training at width 256 against a compiled PyTorch port (`gpu.py --parts train-256`).
3. `cells`: of the paper's grid, one seed: prefix sums (internal, external, none) x (post, peri),
   then sudoku internal x (post, peri) and external x post, by the recipe and the learning rate of
   `benchmarks/full`; evaluated to 500 iterations (`--rows` examples of each split). `--jobs` cells
   share the GPU, each in a process of its own, since the small kernels of one do not fill it and
   compiling is done by the CPU: their seconds are those of a shared GPU. A cell is not begun if it
   would not end in time, judged by those that have ended; and of those that run, the last ones are
   stopped if the first would not end in time otherwise. Steps are fewer than in the recipe only
   with `--steps TASK=N`, which the tables then show.

After each part, and each cell, `gpu.json` and `gpu.md` are replaced in one go, so a call that is
cut off loses one part, or the cells under way. Cells are in `runs-N.tar.gz`, `TOGETHER` in each,
about 4 MB a cell; unpacked in one folder they are sweeps as `eqloop sweep` makes them
(`eqloop report FOLDER/prefix-sums`), with logs, curves and the last checkpoint. The moments of
AdamW in it are zero: no command reads them once a run has ended. At most 6 files in all.

**Machine:** none yet. **Last numbers:** none yet. Rehearsed with `--small` on a CPU.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import tomli_w

if TYPE_CHECKING:
    from eqloop.sweep import Cell, Sweep

ROOT = Path(__file__).resolve().parents[1]
SECONDS = {"right": 100.0, "speed": 150.0, "cells": 240.0}
"""Of a call with all three; the last part of a call gets what is left."""
CLOSING = 20.0
"""Seconds at the end for cells that are stopped to save what they have, and for the report."""
LEAST = 45.0
"""Seconds below which no cell is begun, whatever it is expected to take."""
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


def plan(minutes: float, wanted: Sequence[str], stretch: bool = False) -> dict[str, float]:
    """Seconds after the beginning at which each part has to be over: never more than `SECONDS` for
    one but the last, unless `stretch`."""
    total = 60 * minutes - CLOSING
    share = total / sum(SECONDS.values())
    share = share if stretch else min(1.0, share)
    ends, end = {}, 0.0
    for part in wanted:
        end += share * SECONDS[part]
        ends[part] = end
    return ends | {wanted[-1]: total}


def clock(seconds: float) -> str:
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{seconds:02d}"


def grid_text(task: str, asked: argparse.Namespace) -> str:
    """The grid of `benchmarks/full`, with data, steps and rows as they are asked for."""
    tables = tomllib.loads((ROOT / "benchmarks" / "full" / f"{task}.toml").read_text("utf-8"))
    fields = tables.setdefault("set", {})
    if task == "sudoku" and asked.sudoku is not None:
        fields["task.data"] = str(asked.sudoku.resolve())
    evaluate = {"iterations": 500, "rows": asked.rows, "checkpoint": "last"}
    if asked.small:
        fields |= SMALL[task] | SMALL_RUN
        evaluate |= {"iterations": 16, "rows": 16}
    if task in asked.steps:
        fields["train.steps"] = asked.steps[task]
    return tomli_w.dumps(tables | {"evaluate": evaluate})


# ------------------------------------------------------------------------------------ processes


class Machine:
    """Starts processes, by a clock that began with this one."""

    def __init__(self, work: Path, log: Path, small: bool):
        self.began, self.work, self.small = time.monotonic(), work, small
        self.log, self.started = log.open("wb"), list[subprocess.Popen[bytes]]()
        self.environment = os.environ | {"EQLOOP_CACHE": str(work / "cache")}
        if small:
            self.environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
        sys.path.insert(0, str(ROOT))
        # For this process alone: it must leave the GPU to the others.
        os.environ |= {"JAX_PLATFORMS": "cpu", "EQLOOP_CACHE": str(work / "cache")}

    @property
    def now(self) -> float:
        return time.monotonic() - self.began

    def say(self, text: str) -> None:
        print(f"[{clock(self.now)}] {text}", flush=True)

    def start(
        self, script: str, *arguments: str, out: IO[bytes] | None = None, **more: str
    ) -> subprocess.Popen[bytes]:
        """`python benchmarks/SCRIPT ARGUMENTS`, with the variables `more`; what it says goes into
        the log."""
        path = os.pathsep.join(filter(None, (str(ROOT), self.environment.get("PYTHONPATH"))))
        environment = self.environment | {"PYTHONPATH": path} | more
        if "XLA_FLAGS" in more:
            flags = (self.environment.get("XLA_FLAGS"), more["XLA_FLAGS"])
            environment["XLA_FLAGS"] = " ".join(filter(None, flags))
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "benchmarks" / script), *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,  # closed when this process is gone: see stop_with_parent
            stdout=out or self.log,
            stderr=self.log,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def wait(self, processes: Sequence[subprocess.Popen[bytes]], until: float) -> bool:
        """Whether all have ended before `until`; those that have not are killed."""
        while any(process.poll() is None for process in processes):
            if self.now >= until:
                end(processes, 0)
                return False
            time.sleep(0.1)
        return True

    def close(self) -> None:
        end(self.started, CLOSING / 2)
        for process in self.started:
            if process.stdin is not None:
                process.stdin.close()
        self.log.close()
        shutil.rmtree(self.work, ignore_errors=True)


def end(processes: Sequence[subprocess.Popen[bytes]], grace: float) -> None:
    """SIGTERM, and after `grace` seconds SIGKILL, to all of them and what they started."""
    for number, wait in ((signal.SIGTERM, grace), (signal.SIGKILL, 5)):
        for process in processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
        until = time.monotonic() + wait
        while time.monotonic() < until and any(each.poll() is None for each in processes):
            time.sleep(0.1)


def lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of JSON that may have been cut off."""
    text = path.read_text("utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


# ---------------------------------------------------------------------------------- first parts


def describe(machine: Machine) -> dict[str, Any]:
    """The device, by a process that sees it. Ends the program where there is no GPU."""
    answers = machine.work / "device.jsonl"
    with answers.open("wb") as out:
        process = machine.start("gpu_right.py", "device", out=out)
        machine.wait([process], machine.now + 90)
    found = lines(answers)
    if not found:
        raise SystemExit("JAX could not name a device within 90 s: see log.txt")
    if found[0]["platform"] == "cpu" and not machine.small:
        raise SystemExit("JAX sees no GPU here; --small rehearses all parts on a CPU")
    return found[0] | {"cores": os.cpu_count(), "driver": _driver()}


def _driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return None


def right(machine: Machine, until: float, reference: Path | None) -> dict[str, Any]:
    from gpu_right import DETERMINISTIC, jobs

    names = jobs(reference)
    if machine.small:
        names = [*names[::12], *[name for name in names if name.startswith("reference")][:1]]
    count = max(1, min(16, os.cpu_count() or 1, len(names)))
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    # What is compiled here runs once or twice: choosing the fastest kernels would not pay.
    quick = shared | {"XLA_FLAGS": "--xla_gpu_autotune_level=0"}
    answers = [machine.work / f"right-{number}.jsonl" for number in range(count)]
    resumed = [machine.work / f"resume-{stage}.jsonl" for stage in ("begin", "resume")]
    with contextlib.ExitStack() as stack:
        outs = {path: stack.enter_context(path.open("wb")) for path in [*answers, *resumed]}

        def resume(path: Path) -> subprocess.Popen[bytes]:
            stage = path.stem.removeprefix("resume-")
            arguments = ("resume", str(machine.work), stage)
            return machine.start(
                "gpu_right.py", *arguments, out=outs[path], **shared, **DETERMINISTIC
            )

        processes = [resume(resumed[0])]
        for number, path in enumerate(answers):
            some = names[number::count]
            processes.append(machine.start("gpu_right.py", "job", *some, out=outs[path], **quick))
        if machine.wait(processes[:1], until) and processes[0].returncode == 0:
            processes.append(resume(resumed[1]))
        whole = machine.wait(processes, until)
    done = {each["job"]: each for path in answers for each in lines(path)}
    if again := lines(resumed[1]):
        done["resume"] = again[0]
    missing = [name for name in ("resume", *names) if name not in done]
    return {
        "jobs": done,
        "wrong": [f"{name}: {what}" for name, each in done.items() for what in each["wrong"]],
        "left_out": missing,
        "reference": "read" if reference else "left out: there is no folder of reference vectors",
        "cut": None if whole and not missing else _why(whole),
    }


def _why(whole: bool) -> str:
    return "a process ended before its time: see log.txt" if whole else "out of time"


def speed(machine: Machine, until: float) -> dict[str, Any]:
    budget, told = until - machine.now, machine.work / "speed.txt"
    size = ("--parts", "train-32", "--small") if machine.small else ("--parts", "train-256")
    arguments = (*size, "--budget", f"{budget - 5:.0f}", "--out", str(machine.work / "speed"))
    with told.open("wb") as out:
        process = machine.start("gpu.py", *arguments, out=out)
        whole = machine.wait([process], until)
    found = next((machine.work / "speed").glob("gpu-*.json"), None)
    return {
        "figures": None if found is None else json.loads(found.read_text("utf-8")),
        "tables": told.read_text("utf-8"),
        "cut": None if whole and process.returncode == 0 else _why(whole),
    }


# ---------------------------------------------------------------------------------------- cells


@dataclasses.dataclass
class Running:
    sweep: "Sweep"
    cell: "Cell"
    process: subprocess.Popen[bytes]
    began: float

    def progress(self) -> tuple[int, float]:
        """Steps done, and seconds a step since the first one, which was compiled."""
        path = self.sweep.run(self.cell) / "metrics.jsonl"
        if not path.exists():
            return 0, 0.0
        with path.open("rb") as file:
            first = file.readline()
            file.seek(max(file.tell(), path.stat().st_size - 8192))
            found = [first] if first.endswith(b"\n") else []
            found += file.read().splitlines()[1:-1]  # the others may be cut off
        rows = [row for row in map(json.loads, found) if row["kind"] == "train"]
        if len(rows) < 2:
            return len(rows), 0.0
        steps = rows[-1]["step"] - rows[0]["step"]
        return rows[-1]["step"], (rows[-1]["seconds"] - rows[0]["seconds"]) / steps


class Cells:
    """Runs cells of the grids, some at once, while there is time; keeps what comes out."""

    def __init__(self, machine: Machine, until: float, asked: argparse.Namespace, report: Any):
        self.machine, self.until, self.asked, self.report = machine, until, asked, report
        self.jobs: int = asked.jobs
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

        found = []
        for task in self.asked.cells:
            text = grid_text(task, self.asked)
            grid = parse_grid(text, task, f"benchmarks/full/{task}.toml", make_task=make_task)
            by_axes = {(cell.axes["recall"], cell.axes["norm"]): cell for cell in grid.cells}
            cells = tuple(by_axes[axes] for axes in ORDER[task])
            sweep = create_sweep(
                self.machine.work / "sweeps" / task, dataclasses.replace(grid, cells=cells)
            )
            found += [(sweep, cell) for cell in cells]
        return found

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
        """Start the next cell, or leave it out; False where it has to wait for others to end."""
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
        """Seconds that it takes beside so many others, by those that have ended; at least `LEAST`,
        which is all that is known at first."""
        from eqloop.sweep import count

        task = cell.spec.task_name
        pace = self.pace.get(task) or max(self.pace.values(), default=0.0)
        if task == "sudoku" and task not in self.pace:
            pace = self._measured() or pace
        flops = count(cell.spec.model).training(cell.spec)
        least = 1.0 if self.machine.small else LEAST
        return max(least, (beside + 1) * pace * flops + self.overhead)

    def _measured(self) -> float | None:
        """The pace of the sudoku recipe by the part `speed`."""
        figures = (self.report.found.get("speed") or {}).get("figures") or {}
        found = figures.get("train-256", {})
        try:
            return found["eqloop"]["step"] / found["needs"]["operations"]
        except KeyError:
            return None

    def _start(self, sweep: "Sweep", cell: "Cell", takes: float) -> None:
        process = self.machine.start(
            "gpu_paper.py",
            "--worker",
            str(sweep.path),
            cell.name,
            XLA_PYTHON_CLIENT_MEM_FRACTION=f"{0.9 / self.asked.jobs:.2f}",
        )
        self.running.append(Running(sweep, cell, process, self.machine.now))
        self.machine.say(f"{_name(cell)}: begins, expected to take at least {clock(takes)}")

    def _take_in(self) -> None:
        for run in [each for each in self.running if each.process.poll() is not None]:
            self.running.remove(run)
            ended = run.sweep.ended(run.cell)
            if ended is None:
                code = run.process.returncode
                self._keep(run.sweep, run.cell, f"failed: its process ended with code {code}")
                continue
            wall = self.machine.now - run.began
            seconds = dict(ended.seconds) | {"wall": wall}
            said = "finished" if ended.status == "finished" else f"failed: {ended.error}"
            if ended.status == "finished":
                task, trained = run.cell.spec.task_name, max(ended.seconds["train"], 1e-9)
                pace = trained / ended.flops["train"] / self.asked.jobs
                self.pace[task] = max(self.pace.get(task, 0.0), pace)
                self.overhead = max(self.overhead, wall - trained)
            self._keep(run.sweep, run.cell, said, seconds=seconds, flops=ended.flops)

    def _shed(self) -> None:
        """Stop the last cell where the first would not end in time beside it."""
        if len(self.running) < 2 or self.machine.now < self.shed_at + 20:
            return
        first = self.running[0]
        step, seconds = first.progress()
        steps = first.cell.spec.train.steps
        if not 0.05 * steps <= step < steps:
            return
        # Half of what is not training comes after it.
        ends = self.machine.now + (steps - step) * seconds + max(self.overhead / 2, 10)
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
        before = sum(each["archive"] is not None for each in self.ended)
        archive = f"runs-{1 + before // TOGETHER}.tar.gz"
        self._note(sweep, cell, status, archive, **more)
        names = {each["cell"] for each in self.ended if each["archive"] == archive}
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
    from eqloop.train._resolve import load_preset

    return load_preset(task, "paper")["train"]["steps"]


def curves(sweep: "Sweep", cell: "Cell") -> dict[str, Any]:
    """What was measured of a cell after its training: share solved over iterations, by split."""
    found = {}
    for split in cell.evaluate.splits:
        path = sweep.run(cell) / "eval" / f"{split}.json"
        if path.exists():
            table = json.loads(path.read_text("utf-8"))
            overall = table["overall"]
            found[split] = {
                "examples": overall["examples"],
                "iterations": table["iterations"],
                "exact": overall["scores"]["exact"],
                "converged": overall["converged"],
                "residual_median": overall["residual_median"],
                "seconds": table["seconds"],
            }
    return found


def pack(archive: Path, sweeps: Path, cells: set[str]) -> None:
    """Write the sweep folders with those `cells` (TASK/NAME) alone, atomically."""
    from eqloop._files import write_atomic

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
            kept = (
                "spec.toml",
                "data.json",
                "metrics.jsonl",
                *(f"eval/{s}.json" for s in ("test", "hard")),
            )
            for file in kept:
                if (run / file).exists():
                    tar.add(run / file, f"{task}/runs/{name}/{file}")
            if (last := slim(run)) is not None:
                tar.add(last, f"{task}/runs/{name}/checkpoints/{last.name}")
    write_atomic(archive, [held.getvalue()])


def slim(path: Path) -> Path | None:
    """The last checkpoint of a run whose training has ended, its moments zero, which compress to
    nothing; None of any other."""
    import equinox as eqx
    import jax
    import numpy as np

    from eqloop.train import open_run
    from eqloop.train._checkpoint import save

    if not (path / "spec.toml").exists():
        return None
    run = open_run(path)
    if not run.steps() or (last := run.steps()[-1]) < run.spec.train.steps:
        return None
    target = path / run.checkpoint(last).name
    if not target.exists():
        state, header = run.load("last")
        zeroed = jax.tree.map(
            lambda x: np.zeros_like(x) if eqx.is_inexact_array(x) else x, state.optimiser
        )
        save(target, eqx.tree_at(lambda s: s.optimiser, state, zeroed), header)
    return target


def work_at(path: Path, name: str) -> None:
    """In a process of its own: train and evaluate one cell of a sweep."""
    from eqloop.sweep import open_sweep, stop_with_parent, work
    from eqloop.tasks import make_task

    stop_with_parent()
    sweep = open_sweep(path, make_task=make_task)
    cells = tuple(cell for cell in sweep.grid.cells if cell.name == name)
    grid = dataclasses.replace(sweep.grid, cells=cells)
    work(dataclasses.replace(sweep, grid=grid), make_task=make_task)


# --------------------------------------------------------------------------------------- report


class Report:
    """Everything that is known so far: `gpu.json`, and `gpu.md` for people."""

    def __init__(self, out: Path):
        self.out, self.found = out, {}

    def save(self) -> None:
        from eqloop._files import write_atomic
        from eqloop.train._metrics import plain

        text = json.dumps(plain(self.found), indent=1) + "\n"
        write_atomic(self.out / "gpu.json", [text.encode()])
        write_atomic(self.out / "gpu.md", [markdown(self.found).encode()])


def markdown(found: Mapping[str, Any]) -> str:
    device = found["device"]
    text = [
        f"# {device['device']}, {found['when']}",
        "",
        f"Driver: {device['driver'] or 'none'}. jax {device['jax']}, jaxlib {device['jaxlib']}, "
        f"Python {device['python']}, {device['cores']} cores. {device['platform_version']}",
        "",
        f"`{found['command']}`",
    ]
    text += [f"\n{part} failed: {why}" for part, why in found.get("failed", {}).items()]
    for part, shown in (("right", _right), ("speed", _speed), ("cells", _cells)):
        if (figures := found.get(part)) is not None:
            text += ["", f"## {part}", "", *shown(figures)]
    return "\n".join(text) + "\n"


def _right(found: Mapping[str, Any]) -> list[str]:
    jobs = found["jobs"]
    ok = sum(not each["wrong"] for each in jobs.values())
    text = [f"{ok} of {len(jobs)} checks passed; reference vectors: {found['reference']}."]
    text += [f"- wrong: {what}" for what in found["wrong"]]
    if found["cut"]:
        text.append(f"- not done ({found['cut']}): {', '.join(found['left_out']) or 'nothing'}")
    worst: dict[str, float] = {}
    for name, each in jobs.items():
        kind = name.partition(":")[0]
        tables = each.get("errors", {})
        tables = {"": tables} if kind == "step" else tables
        for precision, errors in tables.items():
            for what, error in errors.items():
                key = ", ".join(filter(None, (kind, precision, what)))
                worst[key] = max(worst.get(key, 0.0), error)
    text += ["", "| largest relative error of | |", "|---|---|"]
    return text + [f"| {key} | {error:.1e} |" for key, error in worst.items()]


def _speed(found: Mapping[str, Any]) -> list[str]:
    cut = [f"Not whole: {found['cut']}.", ""] if found["cut"] else []
    return [*cut, "```text", found["tables"].strip("\n"), "```"]


def _cells(found: Sequence[Mapping[str, Any]]) -> list[str]:
    text = [
        "Share solved after so many iterations, in %; the cells of a call share the GPU.",
        "",
        "| task | recall | norm | lr | steps | split (examples) | 32 | 64 | 128 | 256 | last "
        "| best | converged | seconds: train, evaluate, all |",
        "|" + "---|" * 14,
    ]
    for each in found:
        axes = each["axes"]
        start = f"| {each['task']} | {axes['recall']} | {axes['norm']} | {axes['lr']:g} "
        whole = each["steps_of_the_recipe"]
        steps = (
            f"{each['steps']} of {whole}" if whole not in (None, each["steps"]) else each["steps"]
        )
        start += f"| {steps} "
        if each["status"] != "finished":
            text.append(start + f"| {each['status']} |" + " |" * 8)
            continue
        seconds = each["seconds"]
        for split, curve in each["curves"].items():
            at = dict(zip(curve["iterations"], curve["exact"], strict=True))
            cells = [f"{100 * at[n]:.1f}" if n in at else "" for n in (32, 64, 128, 256)]
            cells += [f"{100 * curve['exact'][-1]:.1f}", f"{100 * max(curve['exact']):.1f}"]
            cells += [f"{100 * curve['converged'][-1]:.1f}"]
            took = ", ".join(f"{seconds[name]:.0f}" for name in ("train", "evaluate", "wall"))
            text.append(start + f"| {split} ({curve['examples']}) | {' | '.join(cells)} | {took} |")
    return text


# ----------------------------------------------------------------------------------------- main


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--minutes", type=float, default=8.5, help="for all of it")
    parser.add_argument("--parts", default=",".join(SECONDS), help="with commas; default all")
    parser.add_argument("--cells", default=",".join(ORDER), help="tasks of the part cells")
    beside = ROOT.parent / "shared" / "data" / "reference"
    parser.add_argument(
        "--reference", type=Path, default=beside, help="folder of reference vectors"
    )
    parser.add_argument("--sudoku", type=Path, help="CSV file of real sudokus")
    parser.add_argument("--rows", type=int, default=1000, help="evaluated of each split; 0 for all")
    parser.add_argument(
        "--steps", action="append", default=[], metavar="TASK=N", help="fewer steps"
    )
    parser.add_argument("--jobs", type=int, default=3, help="cells that share the GPU")
    parser.add_argument("--small", action="store_true", help="toy sizes of all parts, for a CPU")
    asked = parser.parse_args(arguments)
    for name, known in (("parts", SECONDS), ("cells", ORDER)):
        given = getattr(asked, name).split(",")
        if unknown := set(given) - set(known):
            parser.error(f"--{name}: {', '.join(sorted(unknown))}: known are {', '.join(known)}")
        setattr(asked, name, [each for each in known if each in given])
    steps = {}
    for each in asked.steps:
        task, _, number = each.partition("=")
        if task not in ORDER or not number.isdecimal() or int(number) < 1:
            parser.error(f"--steps {each}: write TASK=N, TASK one of {', '.join(ORDER)}")
        steps[task] = int(number)
    asked.steps = steps
    if asked.jobs < 1 or asked.rows < 0:
        parser.error("--jobs must be at least 1, --rows at least 0")
    if 60 * asked.minutes < 3 * CLOSING:
        parser.error(f"--minutes {asked.minutes:g}: must be at least {3 * CLOSING / 60:g}")
    if asked.sudoku is not None and not asked.sudoku.is_file():
        parser.error(f"--sudoku {asked.sudoku}: there is no such file")
    return asked


def main() -> int:
    if sys.argv[1:2] == ["--worker"]:
        work_at(Path(sys.argv[2]), sys.argv[3])
        return 0
    asked = parse(sys.argv[1:])
    asked.out.mkdir(parents=True, exist_ok=True)
    asked.out = asked.out.resolve()
    work = Path(tempfile.mkdtemp(prefix="gpu-paper-"))
    machine, report = Machine(work, asked.out / "log.txt", asked.small), Report(asked.out)
    ends = plan(asked.minutes, asked.parts, stretch=asked.small)
    for part, until in ends.items():
        machine.say(f"plan: {part} until {clock(until)}")
    machine.say(f"plan: everything on disk until {clock(60 * asked.minutes)}")
    reference = asked.reference.resolve() if any(asked.reference.glob("*.npz")) else None
    if "right" in asked.parts and reference is None:
        machine.say(f"{asked.reference} has no reference vectors: that check is left out")
    if "cells" in asked.parts and "sudoku" in asked.cells and not (asked.sudoku or asked.small):
        machine.say("without --sudoku FILE there are no real sudokus: those cells are left out")
        asked.cells.remove("sudoku")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        report.found |= {"when": time.strftime("%Y-%m-%d"), "device": describe(machine)}
        report.found |= {"command": " ".join(sys.argv), "plan": ends}
        report.save()
        for part in asked.parts:
            began = machine.now
            machine.say(f"{part} begins: until {clock(ends[part])}")
            try:
                if part == "right":
                    report.found[part] = right(machine, ends[part], reference)
                elif part == "speed":
                    report.found[part] = speed(machine, ends[part])
                else:
                    cells = Cells(machine, ends[part], asked, report)
                    report.found[part] = cells.ended
                    cells.go()
            except Exception as error:  # the other parts are not to blame, and a GPU is rare
                traceback.print_exc()
                report.found.setdefault("failed", {})[part] = f"{type(error).__name__}: {error}"
                end(machine.started, CLOSING / 2)
            report.found.setdefault("seconds", {})[part] = machine.now - began
            report.save()
            machine.say(f"{part} is over: {asked.out} has it")
    finally:
        machine.close()
    print(markdown(report.found))
    machine.say("all is on disk")
    wrong = report.found.get("right", {}).get("wrong", [])
    failed = [e for e in report.found.get("cells", []) if e["status"].startswith("failed")]
    return 1 if wrong or failed or "failed" in report.found else 0


if __name__ == "__main__":
    sys.exit(main())
