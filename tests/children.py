"""Real processes that are forked from one that has imported JAX and eqloop.

These imports take 2 to 3 CPU seconds, most of what a short child takes. The first process only
imports: JAX starts its threads, which a fork would lose, where it first computes. A child that must
be a command of its own is started by `subprocess`.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
from compiled_programs import share_programs
from jax._src.xla_bridge import backends_are_initialized

HERE = Path(__file__).parent
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["children", "distributed_child", "resume_child", "sweep_child"])


def start_server(variables: Mapping[str, str]) -> None:
    """Start the process that is forked, with environment variables that JAX reads when it is
    imported. One serves all tests of this process."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", str(HERE))
        patch.setenv("PYTHONWARNINGS", "error")
        patch.setenv("OPENBLAS_NUM_THREADS", "1")  # fork cannot carry them over either
        forkserver.ensure_running()


class Child:
    """`sys.exit(main(*arguments))` in a process of its own.

    **Arguments:**

    - `output`: the file that stdout and stderr go to.
    - `variables`: environment variables that are read after the imports.
    """

    def __init__(
        self,
        output: Path,
        main: Callable[..., int],
        *arguments: Any,
        variables: Mapping[str, str] | None = None,
    ):
        self.output = output
        output.touch()
        self.process = _CONTEXT.Process(
            target=_run, args=(output, main, arguments, dict(variables or {}))
        )
        self.process.start()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def poll(self) -> int | None:
        """The exit code, or minus the number of the signal that killed it; None before its end."""
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.process.kill()

    def wait(self, timeout: float) -> tuple[int, str]:
        """Return the exit code and the output."""
        self.process.join(timeout)
        code = self.poll()
        assert code is not None, f"it has not ended after {timeout} s"
        return code, self.output.read_text()


def _run(output: Path, main: Callable[..., int], arguments: Any, variables: Any) -> None:
    os.environ.update(variables)
    with output.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    assert not backends_are_initialized(), "a preloaded module has started JAX's threads"
    share_programs()
    sys.exit(main(*arguments))
