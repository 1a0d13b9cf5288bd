"""Output of commands: text or JSON on stdout, progress and notes on stderr."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._numbers import format_duration
from .._text import one_line

if TYPE_CHECKING:
    from rich.table import Table

    from ._console import SafeConsole

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def console(*, stderr: bool = False) -> "SafeConsole":
    """A new console for every use, because tests and shells replace `sys.stdout`."""
    from ._console import SafeConsole  # here and below: `--help` does not import Rich

    return SafeConsole(stderr=stderr)


def notes() -> "SafeConsole":
    """The console for progress and remarks, which a pipe should not see."""
    return console(stderr=True)


def emit(answer: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout, in ASCII; NaN and infinity become null."""
    print(json.dumps(plain(answer), allow_nan=False))


def plain(value: Any) -> Any:
    """`value` in the types of JSON; NumPy scalars, arrays and paths are converted."""
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if hasattr(value, "tolist"):  # NumPy and JAX, without importing either
        return plain(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> "Table":
    """A table whose first column is a name and whose other columns are figures; a cell is one
    line."""
    from rich.table import Table

    made = Table(title=title or None, title_justify="left", title_style="bold", box=None)
    made.pad_edge = False
    for number, column in enumerate(columns):
        justify = "left" if number == 0 else "right"
        made.add_column(one_line(column), justify=justify, no_wrap=True)
    for row in rows:
        made.add_row(*map(one_line, row))
    return made


@contextmanager
def progress_of_work(label: str) -> Iterator[Any]:
    """Show a bar for a known amount of work, with the remaining time; yields `report(done, total,
    part)`. Nothing is shown in a pipe."""
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    class Left(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(time_left(task.completed, task.total, at, task.elapsed or 0.0))

    at = 0.0
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} % of the work"),
        TimeElapsedColumn(),
        Left(),
        console=notes(),
        transient=True,
    )
    if not bar.console.is_terminal:
        yield lambda done, total, part=label: None
        return
    task = bar.add_task(label, total=None)

    def report(done: int, total: int | None, part: str = label) -> None:
        nonlocal at
        if done > bar.tasks[0].completed:
            at = bar.tasks[0].elapsed or 0.0
        bar.update(task, completed=done, total=total, description=part)

    with bar:
        yield report


def time_left(done: float, total: float | None, at: float, now: float) -> str:
    """The remaining time at the speed so far; it is known once a twentieth of the work is done.

    The work `done` of `total` was reached after `at` seconds, and `now` seconds have passed.
    """
    if not total or done < total / 20:
        return "time left not known yet"
    left = max(at * (total - done) / done - (now - at), 0)
    return f"about {format_duration(left)} left"


@contextmanager
def finishing() -> Iterator[None]:
    """Delay Ctrl-C until the files are complete; a second Ctrl-C is not delayed."""
    import signal

    pressed: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        del frame
        pressed.append(number)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


@contextmanager
def progress(label: str) -> Iterator[Any]:
    """Show a progress bar; yields `report(done, total, part)`, where `part` names the current part
    and may be left out. Nothing is shown in a pipe."""
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    out = notes()
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=out,
        transient=True,
    )
    shown = out.is_terminal
    task = bar.add_task(out.shown(label), total=None)

    def report(done: int, total: int | None, part: str = label) -> None:
        if shown:
            bar.update(task, completed=done, total=total, description=out.shown(part))

    if not shown:
        yield report
        return
    with bar:
        yield report
