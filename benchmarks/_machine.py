"""The processes of `gpu_paper.py`, and its clock."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
CLOSING = 20.0
"""Seconds at the end for cells that are stopped to save what they have, and for the report."""


def clock(seconds: float) -> str:
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{seconds:02d}"


class Machine:
    """Starts processes and measures time from its own creation."""

    def __init__(self, work: Path, log: Path, small: bool):
        self.began, self.work, self.small = time.monotonic(), work, small
        self.log, self.started = log.open("wb"), list[subprocess.Popen[bytes]]()
        self.environment = os.environ | {"EQLOOP_CACHE": str(work / "cache")}
        if small:
            self.environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
        sys.path.insert(0, str(ROOT))
        # These variables are for this process alone: it must leave the GPU to the others.
        os.environ |= {"JAX_PLATFORMS": "cpu", "EQLOOP_CACHE": str(work / "cache")}

    @property
    def now(self) -> float:
        return time.monotonic() - self.began

    def say(self, text: str) -> None:
        print(f"[{clock(self.now)}] {text}", flush=True)

    def start(
        self, script: str, *arguments: str, out: IO[bytes] | None = None, **more: str
    ) -> subprocess.Popen[bytes]:
        """Start `python benchmarks/SCRIPT ARGUMENTS` with the variables `more`; its output goes to
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
        """Whether all processes have ended before `until`; kills those that have not."""
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
    """Send SIGTERM, and after `grace` seconds SIGKILL, to all processes and their children."""
    for number, wait in ((signal.SIGTERM, grace), (signal.SIGKILL, 5)):
        for process in processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
        until = time.monotonic() + wait
        while time.monotonic() < until and any(process.poll() is None for process in processes):
            time.sleep(0.1)


def lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a JSON-lines file that may have been cut off."""
    text = path.read_text("utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
