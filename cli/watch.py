"""`eqloop watch RUN`: the curves of a training run, drawn again as it goes on."""

import time
from pathlib import Path
from typing import Annotated

import typer

from ._curves import drawing, show, tables
from ._output import Json, emit, notes

_PAUSE = 1.0


def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Read this run folder.")],
    as_json: Json = False,
) -> None:
    """Show a training in the terminal until it ends.

    The command draws what eqloop plot draws, and draws it again each second in which the run has
    logged something. Ctrl-C ends the command and not the training. Without a terminal the curves
    are printed once, at the end.

    Reads spec.toml and metrics.jsonl of RUN. Writes nothing.

    Example: eqloop watch runs/prefix-sums-001
    """
    from rich.live import Live

    from ..report import read_training
    from ..run import MetricsReader, open_run

    opened, screen = open_run(run), notes()
    reader = MetricsReader(opened.metrics)
    with Live(console=screen, transient=True, auto_refresh=False) as live:
        try:
            going = changed = True
            while going:
                going = opened.in_training  # before the log is read: its last lines count
                changed = reader.update() or changed
                if changed and screen.is_terminal:
                    training = read_training(opened, reader.rows)
                    live.update(drawing(opened, training, screen.width), refresh=True)
                    changed = False
                if going:
                    time.sleep(_PAUSE)
        except KeyboardInterrupt:
            pass  # the user has seen enough
    training = read_training(opened, reader.rows)
    if as_json:
        emit(tables(opened, training))
    else:
        show(opened, training)
