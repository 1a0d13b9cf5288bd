"""The executor of one machine: a number of worker processes, watched until the sweep is done."""

import contextlib
import os
import platform
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

from .._errors import InputError
from ..run import CellResult
from ._folder import Sweep

LOGS = "logs"
PAUSE = 0.5
"""Seconds between two looks at the workers."""
DEATHS = 3
"""Of one worker in a row, without a cell that ends meanwhile, after which it is not replaced."""


def run_local(
    sweep: Sweep, command: Sequence[str], jobs: int, *, watch: Callable[[], None]
) -> bool:
    """Do what is left of a sweep with `jobs` processes of `command`, each of which calls
    `stop_with_parent` and `work`.

    The cores are divided among the processes, and so are the GPUs that there are. A process that
    dies is replaced as long as cells end, and the one that it worked at has failed. SIGINT and
    SIGTERM are passed on: every worker saves and ends. When this process is gone, they notice and
    do the same.

    **Arguments:**

    - `watch`: called every half second, for whoever shows progress.

    **Returns** False where it was stopped by a signal. **Raises** `InputError` where the workers
    cannot even begin.
    """
    logs = sweep.path / LOGS
    logs.mkdir(exist_ok=True)
    compiled = sweep.path / f"compiled-{platform.node()}"
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context((logs / f"worker-{n}.txt").open("ab")) for n in range(jobs)]

        def start(number: int) -> subprocess.Popen[bytes]:
            return _start(command, number, jobs, compiled, files[number])

        workers = {number: start(number) for number in range(jobs)}
        seen = dict.fromkeys(workers, _ended(sweep))
        deaths = dict.fromkeys(workers, 0)
        given_up: list[str] = []
        with _passed_on(workers) as stopped:
            while workers:
                time.sleep(PAUSE)
                for number, process in list(workers.items()):
                    if process.poll() is None:
                        continue
                    del workers[number]
                    _close(process)
                    if process.returncode == 0 or stopped():
                        continue
                    _blame(sweep, process)
                    ended = _ended(sweep)
                    if ended == len(sweep.grid.cells):
                        continue
                    deaths[number] = deaths[number] + 1 if ended == seen[number] else 0
                    seen[number] = ended
                    if deaths[number] < DEATHS:
                        workers[number] = start(number)
                    else:
                        given_up.append(
                            f"a worker ended with code {process.returncode} before it had a cell: "
                            f"see {files[number].name}"
                        )
                watch()
            interrupted = stopped()
    whole = _ended(sweep) == len(sweep.grid.cells)
    if len(given_up) == jobs and not (whole or interrupted):
        raise InputError(given_up[0])
    if whole and not interrupted:
        shutil.rmtree(compiled, ignore_errors=True)
    return not interrupted


def stop_with_parent() -> None:
    """For a worker: once the process of `run_local`, which holds the other end of the pipe that is
    its standard input, is gone, it gets a SIGTERM."""

    def wait() -> None:
        # Not sys.stdin, whose lock would keep the interpreter from ending.
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _start(
    command: Sequence[str], number: int, jobs: int, compiled: Path, log: IO[bytes]
) -> subprocess.Popen[bytes]:
    # Workers of one shape share what is compiled; so do those of the next call.
    environment = {"JAX_COMPILATION_CACHE_DIR": str(compiled)} | os.environ
    gpus = _gpus()
    if jobs > 1 and gpus:
        some = gpus[number::jobs] or [gpus[number % len(gpus)]]
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(some)
        each = -(-jobs // len(gpus))
        environment.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 / each:.2f}")
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        # Ctrl-C goes to a whole process group: here it must arrive once, from `_passed_on`.
        start_new_session=True,
    )
    if jobs > 1 and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        some = [core for place, core in enumerate(cores) if place * jobs // len(cores) == number]
        with contextlib.suppress(ProcessLookupError):  # gone already: the next look tells
            os.sched_setaffinity(process.pid, some or [cores[number % len(cores)]])
    return process


def _gpus() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [each for each in visible.split(",") if each]
    return [str(n) for n in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def _ended(sweep: Sweep) -> int:
    """How many cells have."""
    return sum(sweep.ended(cell) is not None for cell in sweep.grid.cells)


def _blame(sweep: Sweep, process: subprocess.Popen[bytes]) -> None:
    """Mark the cell that a dead worker was at, if there was one, as failed."""
    for cell in sweep.grid.cells:
        if sweep.worker(cell) == process.pid and sweep.ended(cell) is None:
            with sweep.claim(cell) as ours:
                if ours:
                    sweep.end(cell, CellResult("failed", _last_words(process.returncode)))


def _last_words(code: int) -> str:
    if code >= 0:
        return f"its process ended with code {code}"
    hint = " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"its process died of {signal.Signals(-code).name}{hint}"


@contextlib.contextmanager
def _passed_on(workers: dict[int, subprocess.Popen[bytes]]) -> Iterator[Callable[[], bool]]:
    """Pass SIGINT and SIGTERM on to the workers as SIGTERM; yields whether that has happened."""
    stopped = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        for process in workers.values():
            process.terminate()

    before = {each: signal.signal(each, note) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: stopped
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        for process in workers.values():  # only where an exception ends this
            process.terminate()
            _close(process)


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
