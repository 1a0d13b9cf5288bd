"""`eqloop report RUN_OR_SWEEP...`: tables, figures and a page of the results of runs."""

from pathlib import Path
from typing import Annotated

import typer

from .. import InputError
from ._output import Json, console, emit, notes, table
from ._plot import warn_no_matplotlib

_FOLDER = Path("report")
_SHOWN = 5


def report(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="RUN_OR_SWEEP...", help="Read these run folders and sweep folders."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write into this folder. The default is SWEEP/report for one sweep, else report."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare runs in tables, figures and one page.

    The main table has one line per group of runs that differ only in their seed: mean and 95 %
    interval of the share solved after the last iteration, of the best share over iterations, and of
    the difference (overthinking). If learning rates differ, a short table has the rate of each
    group with the best validation score. Further tables show difficulty bands, cost, and, for runs
    with a report of eqloop stability, its numbers and their correlation with extrapolation. Up to
    four groups are shown side by side: accuracy and residual over iterations, eigenvalues, and
    every number. The sweep need not have ended.

    Reads the spec, eval/test.json, eval/hard.json and stability/report.json of every run.
    Writes results.md, results.csv, results.tex, results.json and, with matplotlib, report.html
    (one page that opens from disk) and its figures.

    Example: eqloop report sweeps/paper-small-sudoku
    """
    from ..report import counts, read_results, results_tables, short_table, write_results
    from ..run import is_sweep

    sweep = len(paths) == 1 and is_sweep(paths[0])
    folder = out or (paths[0] / "report" if sweep else _FOLDER)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: choose another --out")
    results = read_results(paths)
    written = write_results(results, folder)
    if as_json:
        emit({**results_tables(results), "files": written})
    else:
        best = short_table(results)
        screen = console()
        screen.print(f"{results.title}: {counts(results)}\n", markup=False, soft_wrap=True)
        screen.print(table(best.head, best.rows, title=best.title))
        screen.print(f"\n{best.note}", markup=False, soft_wrap=True)
        for cell in results.failed[:_SHOWN]:
            screen.print(f"failed: {cell.name}: {cell.error}", markup=False, soft_wrap=True)
        if more := len(results.failed[_SHOWN:]):
            screen.print(f"... and {more} more")
    names = ", ".join(path.name for path in written)
    notes().print(f"wrote {folder}/: {names}", markup=False, soft_wrap=True)
    if not any(path.suffix == ".html" for path in written):
        warn_no_matplotlib()
