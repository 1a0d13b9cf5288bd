"""`metrics.jsonl`: one line per logged step and per validation, one JSON object each."""

import abc
import logging
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .._errors import InputError
from .._files import open_regular, read_bytes, write_atomic
from .._schema import from_table, to_table
from .._tables import format_json, parse_json
from ._lines import Line, TrainingLine

_LOG = logging.getLogger(__name__)


class AbstractLog(abc.ABC):
    """The destination of the lines of one run: `MetricsLog`, `NoLog`, or one of yours.

    ```python
    >>> import eqloop
    >>> class Printed(eqloop.run.AbstractLog):
    ...     def write(self, line):
    ...         print(line.kind, line.step)
    ...     def sync(self):
    ...         pass
    ...     def close(self):
    ...         pass
    >>> Printed().write(eqloop.run.TrainingLine(1, 0, {"loss": 0.5}, 64.0, 0.5))
    train 1

    ```
    """

    @abc.abstractmethod
    def write(self, line: Line) -> None:
        """Write one line.

        **Arguments:**

        - `line`: what it says: a `TrainingLine`, `ValidationLine` or `GradientsLine`.
        """

    @abc.abstractmethod
    def sync(self) -> None:
        """Flush the written lines to the disk; a checkpoint is written after it."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close the log."""


class NoLog(AbstractLog):
    """The log of a process that only computes: it drops all lines.

    ```python
    >>> import eqloop
    >>> log = eqloop.run.NoLog()
    >>> log.write(eqloop.run.TrainingLine(1, 0, {"loss": 0.7}, 64.0, 0.5))
    >>> log.close()

    ```
    """

    def write(self, line: Line) -> None:
        pass

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


class MetricsLog(AbstractLog):
    """Appends lines to `metrics.jsonl`; only the process that owns the run folder may open it.

    Opening it deletes all lines after the step `start` and an incomplete last line, so that the log
    of a resumed run equals that of a run that was never stopped, but for what a `TrainingLine` says
    of its process. Damaged lines are deleted too, and a warning is logged.

    **Arguments:**

    - `path`: the path of the log.
    - `start`: the step from which the run continues.

    **Raises** `OSError` if the log cannot be read or written.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "metrics.jsonl")
    ...     log = eqloop.run.MetricsLog(path, start=0)
    ...     for step in (1, 2, 3):
    ...         log.write(eqloop.run.TrainingLine(step, 0, {"loss": 1 / step}, 64.0, 0.5))
    ...     log.close()
    ...     eqloop.run.MetricsLog(path, start=1).close()  # as a run that is resumed from step 1
    ...     [(line["step"], line["loss"]) for line in eqloop.run.read_metrics(path)]
    [(1, 1.0)]

    ```
    """

    def __init__(self, path: Path, start: int):
        if path.exists():
            write_atomic(path, _until(path, start))
        self.file = path.open("ab")

    def write(self, line: Line) -> None:
        self.file.write(format_json(to_table(line)))
        self.file.flush()

    def sync(self) -> None:
        os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()


def _whole_lines(content: bytes) -> list[bytes]:
    """The complete lines of a log, without their newlines.

    An incomplete line after the last newline was cut off by a kill and is left out. If it is a
    complete line whose newline was changed to another byte, it is damaged and is returned as it is.
    `bytes.splitlines` cannot be used: it would take some damaged bytes for line ends.
    """
    *lines, rest = content.split(b"\n")
    try:
        parse_json(rest[:-1])
    except ValueError:
        return lines
    return [*lines, rest]


def _until(path: Path, step: int) -> list[bytes]:
    """The lines of a log up to a step, without damaged lines."""
    lines, damaged = [], []
    for number, line in enumerate(_whole_lines(read_bytes(path)), 1):
        try:
            if parse_json(line)["step"] <= step:
                lines.append(line + b"\n")
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
    return lines


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the complete lines of a `metrics.jsonl`, which another process may be writing.

    **Arguments:**

    - `path`: the path of the log.

    **Returns** one table per line, in order.

    **Raises** `InputError` if the file does not exist or a line is damaged; the message names it.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "metrics.jsonl")
    ...     log = eqloop.run.MetricsLog(path, start=0)
    ...     log.write(eqloop.run.TrainingLine(1, 0, {"loss": 0.5}, 64.0, 0.5))
    ...     log.close()
    ...     eqloop.run.read_metrics(path)[-1]["loss"]
    0.5

    ```
    """
    if not path.exists():
        raise InputError(f"{path} does not exist: the run has logged nothing yet")
    return [row for _, row in read_log(path)]


class MetricsReader:
    """Reads a `metrics.jsonl` while another process writes it: each line once.

    **Arguments:**

    - `path`: the path of the log.

    **Attributes:**

    - `rows`: one table per complete line so far, in order.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "metrics.jsonl")
    ...     reader, log = eqloop.run.MetricsReader(path), eqloop.run.MetricsLog(path, start=0)
    ...     for step in (1, 2):
    ...         log.write(eqloop.run.TrainingLine(step, 0, {"loss": 1 / step}, 64.0, 0.5))
    ...         print(reader.update(), reader.update(), len(reader.rows))
    ...     log.close()
    True False 1
    True False 2

    ```
    """

    def __init__(self, path: Path):
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._file = self._end = 0

    def update(self) -> bool:
        """Read what was written since the last call. A log that was shortened, as a run does that
        is resumed, is read from its beginning.

        **Returns** whether `rows` has changed; False if there is no log yet.

        **Raises** `InputError` if the log cannot be read or a line is damaged, and again until that
        line is mended; `rows` then lacks all lines since the last call that did not raise.
        """
        try:
            with open_regular(self.path) as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._file or status.st_size < self._end:
                    self.rows, self._file, self._end = [], status.st_ino, 0
                file.seek(self._end)
                lines, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return False
        except OSError as error:
            raise InputError(f"cannot read {self.path}: {error.strerror}") from None
        if newline:
            first = 1 + len(self.rows)
            self.rows += [row for _, row in _parsed(self.path, lines.split(b"\n"), first)]
        # Only now: a call after one that raised must read the same lines again.
        self._end += len(lines + newline)
        return bool(newline)


def read_log(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and content of the complete lines of a `metrics.jsonl`.

    **Raises** `InputError` if a line is damaged; the message names it.
    """
    try:
        lines = _whole_lines(read_bytes(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    yield from _parsed(path, lines)


def _parsed(
    path: Path, lines: Iterable[bytes], first: int = 1
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and content of lines of the log `path`, of which the first has the number `first`."""
    for number, line in enumerate(lines, first):
        try:
            yield number, parse_json(line)
        except ValueError as error:
            raise InputError(
                f"{path}:{number}: not a line of a log: {error}; mend the line, or delete it"
            ) from None


def last_training_line(log: Path) -> TrainingLine | None:
    """Read the last line of a training step in a log that another process is writing.

    Only the end of the file is read. Damaged lines are passed over: the process that owns the log
    reports them.

    **Arguments:**

    - `log`: the path of the log.

    **Returns** the line; None if there is none.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "metrics.jsonl")
    ...     log = eqloop.run.MetricsLog(path, start=0)
    ...     line = eqloop.run.TrainingLine(1, 0, {"loss": 0.5}, 64.0, 0.5)
    ...     log.write(line)
    ...     log.close()
    ...     eqloop.run.last_training_line(path) == line
    True

    ```
    """
    try:
        with log.open("rb") as file:
            begin = max(0, log.stat().st_size - _END)
            file.seek(begin)
            lines = _whole_lines(file.read())
    except FileNotFoundError:
        return None
    for line in reversed(lines[1:] if begin else lines):  # the first may be cut off
        try:
            return from_table(TrainingLine, parse_json(line))
        except ValueError:  # damaged, or of another kind
            continue
    return None


_END = 4096
"""Bytes of a log that hold its last lines."""


def trained_seconds(log: Path) -> float | None:
    """The wall time of the training steps in a log.

    The time is summed over all processes that trained the run: the clock of a process starts at 0.
    The steps after its last checkpoint are repeated by the next process and count once. A process
    begins at a line with `began_at`, and, in logs of versions that did not write it, where the
    clock goes back.

    **Arguments:**

    - `log`: the path of the log.

    **Returns** the time in seconds; None if nothing was logged.

    **Raises** `InputError` if a line is damaged; the message names it.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "metrics.jsonl")
    ...     log = eqloop.run.MetricsLog(path, start=0)
    ...     for step, seconds, began in ((1, 2.0, 0), (2, 3.0, None), (3, 4.5, 2)):
    ...         log.write(eqloop.run.TrainingLine(step, 0, {}, 64.0, seconds, began))
    ...     log.close()
    ...     eqloop.run.trained_seconds(path)  # 3 s, and 4.5 s of the process that resumed it
    7.5

    ```
    """
    total = last = 0.0
    for number, row in read_log(log) if log.exists() else ():
        now = row.get("seconds")
        if now is None:
            continue
        if isinstance(now, bool) or not isinstance(now, int | float) or not math.isfinite(now):
            raise InputError(f"{log}:{number}: seconds is {now!r}; mend the line, or delete it")
        if now < last or row.get("began_at") is not None:
            total += last
        last = float(now)
    return total + last or None
