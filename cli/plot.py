"""`eqloop plot RUN`: the curves of a training run."""

from pathlib import Path
from typing import Annotated

import typer

from .._files import write_atomic
from ._curves import facts, show, tables
from ._output import Json, emit, notes
from ._plot import check_plot, save_plot

_FORMATS = (".png", ".svg", ".pdf", ".html")


def plot(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Read this run folder.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Draw into this file: .png, .svg, .pdf or .html (a page)."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw loss, right answers, converged loops and gradients that fell back over the steps.

    The command prints one line for each quantity: its first value, its curve, and its last, least
    and greatest values. A letter of a curve is the mean of neighbouring steps; shares are drawn
    from 0 to 100 %, the loss from its least to its greatest mean. The run may still be in
    training.

    Reads spec.toml and metrics.jsonl of RUN. Writes the file of --out, which needs matplotlib.

    Example: eqloop plot runs/prefix-sums-001
    """
    from ..report import read_training, training_figure, training_page
    from ..run import open_run, read_metrics

    if out is not None:
        check_plot(out, "--out", _FORMATS)
    opened = open_run(run)
    training = read_training(opened, read_metrics(opened.metrics))
    if out is not None and out.suffix == ".html":
        title = f"Training of {opened.path.name}"
        write_atomic(out, [training_page(training, title, facts(opened, training))])
    elif out is not None:
        save_plot(training_figure(training, title=facts(opened, training)[0]), out)
    if as_json:
        emit(tables(opened, training))
        return
    show(opened, training)
    if out is not None:
        notes().print(f"wrote {out}", markup=False, soft_wrap=True)
