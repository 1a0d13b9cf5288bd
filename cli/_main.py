"""The entry point: the table of commands, and how a mistake becomes one line and an exit code.

0: done. 1: done, and the answer is no (a puzzle not solved, a file with bad rows). 2: bad input.
130: stopped by Ctrl-C. An exception that is no `InputError` and not what a file system says of a
file is a defect of ours and keeps its traceback.

Nothing here imports JAX: `--help` answers at once, and a command pays for what it uses.
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
from . import report as _report
from . import solve as _solve
from . import stability as _stability
from . import sweep as _sweep
from . import train as _train
from ._encoding import tolerate_any_text

app = typer.Typer(
    name="eqloop",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help is the faster one, and rewraps its paragraphs
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(_train.train)
app.command("eval")(_eval.evaluate)
app.command("gradients")(_gradients.gradients)
app.command("solve")(_solve.solve)
app.command("stability")(_stability.stability)
app.command("sweep")(_sweep.sweep)
app.command("report")(_report.report)
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
    """Looped transformers: train a loop, run it for longer than it was trained, see what it does.

    A RUN is a folder: its spec, its metrics, its checkpoints. eqloop train with no options
    trains prefix sums in a few minutes on a laptop.
    """
    del version
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    tolerate_any_text()
    if logging.lastResort is not None:  # what prints a warning that nobody else handles
        logging.lastResort.setFormatter(_Printable())
    command = typer.main.get_command(app)
    try:
        code = command.main(args=args, prog_name="eqloop", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # at exit it would be too late to say that there is no room
    except InputError as error:
        return _refuse(str(error))
    except TyperException as error:  # an unknown option, a value that is no number, ...
        ctx = getattr(error, "ctx", None)
        hint = f"; see `{ctx.command_path} --help`" if ctx is not None else ""
        return _refuse(error.format_message().rstrip(".") + hint)
    except MemoryError as error:
        return _refuse(f"there is not enough memory ({error}); ask for less")
    except RuntimeError as error:
        if not str(error).startswith("RESOURCE_EXHAUSTED"):  # the same, of a device of JAX
            raise
        return _refuse(f"there is not enough memory ({error}); ask for less")
    except BrokenPipeError:  # `eqloop ... | head`: whoever read the output has seen enough
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
"""What writing to a file that is open fails with."""


def _drop_output() -> None:
    """What is left of the output goes nowhere, or Python would try once more to write it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # it may be no file at all
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _refuse(message: str) -> int:
    print(f"error: {one_line(message)}", file=sys.stderr)
    return 2


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
