"""Workers of benchmarks: processes of their own that run when they are told to, and time it."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np

Run = Callable[[], Any]
"""One unit of work, to the end; what it returns is compared between the contenders."""


def timed(run: Run) -> tuple[float, float]:
    """Return the seconds of wall and of CPU time (all threads) of one run."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def answer(run: Run, out: TextIO) -> None:
    """Serve as a worker: make one timed run for each line of input."""
    for _ in sys.stdin:
        run()  # warms the caches that the other workers have filled
        print(json.dumps(timed(run)), file=out, flush=True)


def serve(check: Run, run: Run, file: Path) -> None:
    """Serve as a worker: write the arrays of `check` to a file, warm up, then `answer`."""
    out = sys.stdout
    sys.stdout = sys.stderr  # only the answers may reach the driver
    arrays = {k: np.asarray(v) for k, v in check().items()}
    np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    for _ in range(3):
        run()
    print("ready", file=out, flush=True)
    answer(run, out)


def start(script: str, *arguments: str) -> subprocess.Popen:
    """Start a worker: `script --worker ARGUMENTS`."""
    command = [sys.executable, script, "--worker", *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def compare(folder: Path, names: list[str], tolerance: float = 2e-3) -> None:
    """Compare the arrays of all workers with those of the first, relative, in the 2-norm."""
    expected = dict(np.load(folder / f"{names[0]}.npz"))
    for name in names[1:]:
        for key, array in np.load(folder / f"{name}.npz").items():
            # Gradients that vanish are noise (a softmax ignores key biases).
            size = max(np.linalg.norm(expected[key]), 1e-5)
            error = np.linalg.norm(array - expected[key]) / size
            if not error < tolerance:
                raise SystemExit(f"{name}: {key} differs from that of {names[0]} by {error:.1e}")


def in_turn(workers: dict[str, subprocess.Popen], rounds: int) -> dict[str, np.ndarray]:
    """Run the workers one at a time (A B C A B C ...); return wall and CPU seconds, (rounds, 2)."""
    times = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
            times[name].append(json.loads(worker.stdout.readline()))
    return {name: np.array(rows) for name, rows in times.items()}


def stop(workers: dict[str, subprocess.Popen]) -> None:
    for worker in workers.values():
        worker.kill()
        worker.wait()


def drive(
    script: str, kind: str, names: list[str], folder: Path, rounds: int, say: Callable[[str], Any]
) -> dict[str, np.ndarray]:
    """Start the workers `script --worker KIND NAME FOLDER`, compare what they computed, and run
    them in turn; return wall and CPU seconds, (rounds, 2), per contender."""
    workers = {}
    try:
        for name in names:
            say(f"starting {name}")
            workers[name] = start(script, kind, name, str(folder))
            if workers[name].stdout.readline() != "ready\n":
                raise SystemExit(f"{name} did not start")
        compare(folder, names)
        return in_turn(workers, rounds)
    finally:
        stop(workers)
