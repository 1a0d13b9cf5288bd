"""The executor for one machine: worker processes, watched until the sweep is finished."""

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
"""Seconds between two checks of the workers."""
DEATHS = 3
"""Consecutive crashes of a worker, with no cell finishing in between, after which it is not
restarted."""


def run_local(
    sweep: Sweep, command: Sequence[str], jobs: int, *, watch: Callable[[], None]
) -> bool:
    """Run the unfinished cells of a sweep with `jobs` processes of `command`, each of which calls
    `stop_with_parent` and `work`.

    The cores and GPUs are divided among the processes. A process that dies is replaced as long as
    cells finish; the cell that it ran has failed. SIGINT and SIGTERM are forwarded: every worker
    saves and ends. Workers also do so when this process is gone.

    **Arguments:**

    - `sweep`: the sweep.
    - `command`: the command line of a worker.
    - `jobs`: number of processes.
    - `watch`: called every half second, to show progress.

    **Returns** False if a signal stopped it.

    **Raises** `InputError` if no worker can start.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     grid = eqloop.sweep.Grid("empty", "", (), (), {})
    ...     sweep = eqloop.sweep.create_sweep(pathlib.Path(name, "out"), grid)
    ...     eqloop.sweep.run_local(sweep, ["true"], 1, watch=lambda: None)
    True

    ```
    """
    logs = sweep.path / LOGS
    logs.mkdir(exist_ok=True)
    compiled = sweep.path / f"compiled-{platform.node()}"
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context((logs / f"worker-{n}.txt").open("ab")) for n in range(jobs)]

        def start(number: int) -> subprocess.Popen[bytes]:
            return _start(command, number, jobs, compiled, files[number])

        workers = {number: start(number) for number in range(jobs)}
        ended_before = dict.fromkeys(workers, _ended(sweep))
        deaths = dict.fromkeys(workers, 0)
        given_up: list[str] = []
        with _forward_signals(workers) as stopped:
            while workers:
                time.sleep(PAUSE)
                for number, process in list(workers.items()):
                    if process.poll() is None:
                        continue
                    del workers[number]
                    _close(process)
                    if process.returncode == 0 or stopped():
                        continue
                    _fail_cell_of(sweep, process)
                    ended = _ended(sweep)
                    if ended == len(sweep.grid.cells):
                        continue
                    deaths[number] = deaths[number] + 1 if ended == ended_before[number] else 0
                    ended_before[number] = ended
                    if deaths[number] < DEATHS:
                        workers[number] = start(number)
                    else:
                        given_up.append(
                            f"a worker ended with code {process.returncode} before it had a cell: "
                            f"see {files[number].name}"
                        )
                watch()
            interrupted = stopped()
    is_finished = _ended(sweep) == len(sweep.grid.cells)
    if len(given_up) == jobs and not (is_finished or interrupted):
        raise InputError(given_up[0])
    if is_finished and not interrupted:
        shutil.rmtree(compiled, ignore_errors=True)
    return not interrupted


def stop_with_parent() -> None:
    """Send SIGTERM to this worker when the process of `run_local` is gone, which holds the other
    end of the pipe at the standard input of the worker.
    """

    def wait() -> None:
        # The lock of sys.stdin would keep the interpreter from ending, so read the descriptor.
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _start(
    command: Sequence[str], number: int, jobs: int, compiled: Path, log: IO[bytes]
) -> subprocess.Popen[bytes]:
    # Workers with equal shapes share compiled programs, also across calls.
    environment = {"JAX_COMPILATION_CACHE_DIR": str(compiled)} | os.environ
    gpus = _gpus()
    if jobs > 1 and gpus:
        own_gpus = gpus[number::jobs] or [gpus[number % len(gpus)]]
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(own_gpus)
        workers_per_gpu = -(-jobs // len(gpus))
        environment.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 / workers_per_gpu:.2f}")
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        # Ctrl-C reaches a whole process group; a worker must get it once, from `_forward_signals`.
        start_new_session=True,
    )
    if jobs > 1 and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        own_cores = [
            core for place, core in enumerate(cores) if place * jobs // len(cores) == number
        ]
        with contextlib.suppress(ProcessLookupError):  # the next check sees that it has ended
            os.sched_setaffinity(process.pid, own_cores or [cores[number % len(cores)]])
    return process


def _gpus() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu]
    return [str(n) for n in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def _ended(sweep: Sweep) -> int:
    """The number of cells that have ended."""
    return sum(sweep.ended(cell) is not None for cell in sweep.grid.cells)


def _fail_cell_of(sweep: Sweep, process: subprocess.Popen[bytes]) -> None:
    """Mark the cell that a dead worker was running, if any, as failed."""
    for cell in sweep.grid.cells:
        if sweep.worker(cell) == process.pid and sweep.ended(cell) is None:
            with sweep.claim(cell) as ours:
                if ours:
                    sweep.end(cell, CellResult("failed", _cause_of_death(process.returncode)))


def _cause_of_death(code: int) -> str:
    if code >= 0:
        return f"its process ended with code {code}"
    hint = " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"its process died of {signal.Signals(-code).name}{hint}"


@contextlib.contextmanager
def _forward_signals(workers: dict[int, subprocess.Popen[bytes]]) -> Iterator[Callable[[], bool]]:
    """Forward SIGINT and SIGTERM to the workers as SIGTERM; yields a function that says whether one
    arrived."""
    stopped = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        for process in workers.values():
            process.terminate()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for process in workers.values():  # some are left only after an exception
            process.terminate()
            _close(process)


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
