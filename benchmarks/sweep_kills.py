"""Does a sweep survive kills, at whatever moment?

    python benchmarks/sweep_kills.py FOLDER [--kills 20] [--seed 0] [--jobs 2]

**Question:** `eqloop sweep` is killed while it creates its folder and again while its workers train
and evaluate; then the same command does the rest. Is every cell finished, is the table of results
that of a sweep that nobody disturbed, and is nothing left over: no process, no unfinished file, no
lock? Last, three of the same command begin at once and share a sweep.

Kills come in pairs of these two moments, each pair on a sweep of its own, at moments drawn from the
seed: SIGKILL of everything, of the command alone or of its workers alone, or Ctrl-C. Exits with 1
at the first answer that is no.

**Machine:** 2 cores of an AMD EPYC (Zen 4), shared.

**Last numbers** (2026-11-26, a load of 20 to 30): 20 kills with seed 0 (10 at creation, all
before the folder was whole or just after; 10 at work) and 8 with seed 1: all answers were yes.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

GRID = """
task = "prefix-sums"
[set]
"task.length" = 8
"task.hard_length" = 16
"task.validation_length" = 8
"task.rows" = 200
"task.test_rows" = 32
"model.width" = 8
"model.heads" = 2
"solver.steps" = 3
"train.burn_in" = 2
"train.batch" = 16
"train.steps" = 60
"train.validate_every" = 10
"train.validation_iterations" = 4
"train.checkpoint_every" = 5
[axes]
seed = [0, 1, 2]
[evaluate]
iterations = 8
rows = 16
"""
CREATION, WORK = 0.05, 40.0
"""Seconds after the folder is there, and after it is whole, within which a kill falls."""
KINDS = ("all", "command", "workers", "interrupt")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()

    options.folder.mkdir(parents=True)
    grid = options.folder / "grid.toml"
    grid.write_text(GRID)
    compiled = {"JAX_COMPILATION_CACHE_DIR": str(options.folder / "compiled")}
    environment = {**os.environ, **compiled, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    chance, kinds, stages = random.Random(options.seed), Counter(), Counter()

    def begin(path: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "eqloop.cli", "sweep", str(grid), "--out", str(path)]
        return subprocess.Popen(
            [*command, "--jobs", str(options.jobs)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=(options.folder / "errors.txt").open("ab"),
            start_new_session=True,
        )

    def finish(path: Path) -> dict[str, Any]:
        """Run the same command to the end of the sweep and return the table of results."""
        if (code := begin(path).wait(timeout=1200)) != 0:
            sys.exit(f"{path}: the same command ended with code {code}")
        if left := leftovers(path):
            sys.exit(f"{path}: left over: {left}")
        return results(path)

    expected = finish(options.folder / "whole")
    for number in range(options.kills):
        path = options.folder / f"sweep-{number // 2}"
        command = begin(path)
        at_work = number % 2 == 1
        wait_for(path / "cells.json" if at_work else path, command)
        time.sleep(chance.uniform(0, WORK if at_work else CREATION))
        kind = chance.choice(KINDS)
        stage = ("work" if at_work else "creation", kind)
        kinds[stage] += 1
        stages[reached(path)] += 1
        disturb(command, kind)
        print(f"kill {number + 1}: {' '.join(stage)}, {reached(path)}", flush=True)
        if (at_work or number == options.kills - 1) and finish(path) != expected:
            sys.exit(f"{path}: another table than undisturbed")
    path = options.folder / "shared"
    codes = [process.wait(timeout=1200) for process in [begin(path) for _ in range(3)]]
    # The code is 1 for a process that leaves the last cells to another one.
    if 0 not in codes or not {*codes} <= {0, 1} or finish(path) != expected:
        sys.exit(f"{path}: three at once ended with the codes {codes}, or with another table")
    for file in (options.folder / "errors.txt", *options.folder.glob("*/logs/*.txt")):
        if "Traceback" in file.read_text():
            sys.exit(f"{file} has a traceback")
    print(f"{options.kills} kills, seed {options.seed}: nothing lost, nothing left over, one table")
    for stage, count in sorted(kinds.items()):
        print(f"  {' '.join(stage)}: {count}")
    for stage, count in sorted(stages.items()):
        print(f"  reached {stage}: {count}")


def wait_for(path: Path, command: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        if command.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"{path} was never made")
        time.sleep(0.0005)


def reached(path: Path) -> str:
    """Say how far a sweep has come."""
    if not (path / "cells.json").exists():
        return "no cells.json" if (path / "sweep.toml").exists() else "no sweep.toml"
    return f"{len(list(path.glob('state/*.json')))} cells ended"


def disturb(command: subprocess.Popen[bytes], kind: str) -> None:
    """Kill processes of the sweep, and assert that none stays behind."""
    workers = children(command.pid)
    if kind in ("all", "workers"):
        for worker in workers:
            kill(worker, signal.SIGKILL)
    if kind in ("all", "command"):
        kill(command.pid, signal.SIGKILL)
    if kind == "workers":
        time.sleep(0.7)  # the parent notices the deaths and replaces the workers
        workers += children(command.pid)
    if kind in ("workers", "interrupt"):
        kill(command.pid, signal.SIGINT)
    command.wait(timeout=300)
    deadline = time.monotonic() + 120
    while alive := [worker for worker in workers if is_alive(worker)]:
        if time.monotonic() > deadline:
            sys.exit(f"{kind}: processes {alive} are still there")
        time.sleep(0.05)


def leftovers(path: Path) -> list[str]:
    """List files that a finished sweep does not have."""
    kinds = ("*.tmp", "*.part", "lock", "compiled-*")
    return sorted(str(file) for kind in kinds for file in path.rglob(kind))


def results(path: Path) -> dict[str, Any]:
    """Return the tables that the results of a sweep come from, without the times."""
    tables = {}
    for file in sorted(path.glob("runs/*/eval/*.json")):
        table = json.loads(file.read_text())
        tables[str(file.relative_to(path))] = {
            name: value for name, value in table.items() if name not in ("seconds", "crc32")
        }
    return tables


def children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def is_alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().split()[2] not in "ZX"
    return False


if __name__ == "__main__":
    main()
