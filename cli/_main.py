"""The entry point: the table of commands, and the conversion of errors to a line and an exit code.

Exit codes: 0, success. 1, the answer is no (a puzzle is not solved, a file has bad rows), or the
work is not finished (a training that was stopped or diverged, a sweep with a failed cell). 2, bad
input. 130, stopped by Ctrl-C (`train` and `sweep` exit with 1). An exception that is neither an
`InputError` nor an error of the file system is a defect of the program and keeps its traceback.

This module does not import JAX, so that `--help` answers at once.
"""

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from .. import InputError, __version__
from .._text import one_line, printable
from . import data as _data
from . import eval as _eval
from . import fields as _fields
from . import gradients as _gradients
from . import import_weights as _import_weights
from . import plot as _plot
from . import report as _report
from . import solve as _solve
from . import stability as _stability
from . import sweep as _sweep
from . import train as _train
from . import watch as _watch
from ._encoding import tolerate_any_text
from ._malloc import keep_freed_memory
from ._programs import keep_programs

app = typer.Typer(
    name="eqloop",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help is faster, and rewraps its paragraphs
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(_train.train)
app.command("eval")(_eval.evaluate)
app.command("gradients")(_gradients.gradients)
app.command("solve")(_solve.solve)
app.command("stability")(_stability.stability)
app.command("sweep")(_sweep.sweep)
app.command("plot")(_plot.plot)
app.command("watch")(_watch.watch)
app.command("report")(_report.report)
app.command("import")(_import_weights.import_weights)
app.command("fields")(_fields.fields)
app.add_typer(_data.app, name="data")


def _version(asked: bool) -> None:
    if asked:
        print(f"eqloop {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Train looped transformers, run the loop longer than in training, and measure its stability.

    A RUN is a folder with a spec, metrics and checkpoints. eqloop train without options trains
    prefix sums in a few minutes on a laptop.
    """
    del version
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())
    else:
        keep_freed_memory()
        keep_programs()


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    tolerate_any_text()
    if logging.lastResort is not None:  # prints the warnings that no other handler takes
        logging.lastResort.setFormatter(_Printable())
    command = typer.main.get_command(app)
    try:
        code = command.main(args=args, prog_name="eqloop", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # an error at exit could not be reported
    except InputError as error:
        return _refuse(str(error))
    except TyperException as error:  # an unknown option, a value that is no number, ...
        ctx = getattr(error, "ctx", None)
        hint = f"; see `{ctx.command_path} --help`" if ctx is not None else ""
        return _refuse(error.format_message().rstrip(".") + hint)
    except MemoryError as error:
        return _refuse(f"there is not enough memory ({error}); ask for less")
    except RuntimeError as error:
        # JAX reports in this way that a device has no memory left.
        if not str(error).startswith("RESOURCE_EXHAUSTED"):
            raise
        return _refuse(f"there is not enough memory ({error}); ask for less")
    except BrokenPipeError:  # `eqloop ... | head` closes the pipe
        sys.stderr.close()
        return 1
    except OSError as error:
        if error.filename is None and error.errno not in _FULL:
            raise
        if error.filename is None:
            _drop_output()
        return _refuse(f"{error.filename or 'cannot write the output'}: {error.strerror}")
    return code if isinstance(code, int) else 0


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""Errors of writing to an open file."""


def _drop_output() -> None:
    """Discard the rest of the output; otherwise Python tries to write it at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stdout may be no file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _refuse(message: str) -> int:
    print(f"error: {one_line(message)}", file=sys.stderr)
    return 2


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
