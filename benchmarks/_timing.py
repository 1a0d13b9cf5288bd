"""Workers of benchmarks: processes of their own that run when they are told to, and time it."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """Return the seconds of wall and of CPU time (all threads) of one run."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def answer(run: Callable[[], Any], out: TextIO) -> None:
    """Serve as a worker: make one timed run for each line of input."""
    for _ in sys.stdin:
        run()  # warms the caches that the other workers have filled
        print(json.dumps(timed(run)), file=out, flush=True)


def start(script: str, *arguments: str) -> subprocess.Popen:
    """Start a worker: `script --worker ARGUMENTS`."""
    command = [sys.executable, script, "--worker", *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


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
