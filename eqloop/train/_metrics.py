"""`metrics.jsonl`: one line per logged step and per validation, one JSON object each."""

import abc
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._errors import InputError
from .._files import write_atomic


def plain(value: Any) -> Any:
    """Without NaN and infinities, which JSON does not have: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value


class AbstractLog(abc.ABC):
    """Where the lines of one run go."""

    @abc.abstractmethod
    def write(self, line: Mapping[str, Any]) -> None:
        """One line, with its `kind` and `step`."""

    @abc.abstractmethod
    def sync(self) -> None:
        """Put what is written on the disk: before a checkpoint, whose log it is."""

    @abc.abstractmethod
    def close(self) -> None:
        """Nothing is written after it."""


class NoLog(AbstractLog):
    """Of a process that only computes."""

    def write(self, line: Mapping[str, Any]) -> None:
        pass

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


class MetricsLog(AbstractLog):
    """Appends to `metrics.jsonl`.

    Opening it for a run that goes on from `start` first takes back every line past that step
    (and a last line that was cut off), so that the log of a resumed run reads like that of one
    that was never stopped.
    """

    def __init__(self, path: Path, start: int):
        if path.exists():
            kept = [
                line for line in path.read_bytes().splitlines(keepends=True) if _until(line, start)
            ]
            write_atomic(path, kept)
        self.file = path.open("ab")

    def write(self, line: Mapping[str, Any]) -> None:
        self.file.write(json.dumps(plain(line), allow_nan=False).encode() + b"\n")
        self.file.flush()

    def sync(self) -> None:
        os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()


def _until(line: bytes, step: int) -> bool:
    try:
        return line.endswith(b"\n") and json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a `metrics.jsonl`; the last may be in the middle of being written.

    **Raises** `InputError` naming the first line that is damaged.
    """
    try:
        lines = path.read_text("utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: the run has logged nothing yet") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            break
        try:
            rows.append(json.loads(line))
        except ValueError:
            raise InputError(f"{path}:{number}: not valid JSON") from None
    return rows
