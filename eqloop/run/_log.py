"""`metrics.jsonl`: one line per logged step and per validation, one JSON object each."""

import abc
import logging
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .._errors import InputError
from .._files import read_bytes, write_atomic
from .._tables import format_json, parse_json

_LOG = logging.getLogger(__name__)


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
    """Appends to `metrics.jsonl`; only for whoever owns the run folder.

    Opening it for a run that goes on from `start` first takes back every line past that step
    (and a last line that was cut off), so that the log of a resumed run reads like that of one
    that was never stopped. A damaged line is left out too, which is logged as a warning.

    **Raises** `OSError` where it cannot be read or written.
    """

    def __init__(self, path: Path, start: int):
        if path.exists():
            write_atomic(path, _until(path, start))
        self.file = path.open("ab")

    def write(self, line: Mapping[str, Any]) -> None:
        self.file.write(format_json(line))
        self.file.flush()

    def sync(self) -> None:
        os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()


def _whole_lines(content: bytes) -> list[bytes]:
    """The lines of a log, without the newline that ends them. What follows the last newline was cut
    off in the middle of a write, unless it is a whole line whose newline is another byte now: that
    line is damaged, and is returned as it is.

    Lines end in a newline alone: `bytes.splitlines` would take a damaged byte for an end of line.
    """
    *lines, rest = content.split(b"\n")
    try:
        parse_json(rest[:-1])
    except ValueError:
        return lines
    return [*lines, rest]


def _until(path: Path, step: int) -> list[bytes]:
    """The lines of a log up to a step."""
    kept, damaged = [], []
    for number, line in enumerate(_whole_lines(read_bytes(path)), 1):
        try:
            if parse_json(line)["step"] <= step:
                kept.append(line + b"\n")
        except (ValueError, KeyError, TypeError):
            damaged.append(str(number))
    if damaged:
        _LOG.warning(
            "%s: %d damaged lines are left out from now on: %s%s",
            path,
            len(damaged),
            ", ".join(damaged[:5]),
            ", ..." if damaged[5:] else "",
        )
    return kept


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a `metrics.jsonl`; the last may be in the middle of being written.

    **Raises** `InputError` naming the first line that is damaged.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist: the run has logged nothing yet")
    return [row for _, row in read_log(path)]


def read_log(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and content of each whole line of a `metrics.jsonl`; the last line may be in the
    middle of being written.

    **Raises** `InputError` naming the first line that is damaged.
    """
    try:
        lines = _whole_lines(read_bytes(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        try:
            yield number, parse_json(line)
        except ValueError as error:
            raise InputError(
                f"{path}:{number}: not a line of a log: {error}; mend the line, or delete it"
            ) from None


def trained_seconds(log: Path) -> float | None:
    """Wall time of the steps in a log that count, over all the processes that trained the run:
    each begins its clock anew, and what it did past the last checkpoint is done again. None where
    nothing was logged."""
    total = last = 0.0
    for number, row in read_log(log) if log.exists() else ():
        now = row.get("seconds")
        if now is None:
            continue
        if isinstance(now, bool) or not isinstance(now, int | float) or not math.isfinite(now):
            raise InputError(f"{log}:{number}: seconds is {now!r}; mend the line, or delete it")
        total += last if now < last else 0.0
        last = float(now)
    return total + last or None
