"""Writes a report on runs: tables, figures and one page."""

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._errors import InputError
from .._text import one_line
from ..run import SPLITS
from ._cells import Cell
from ._escape import markdown_text
from ._groups import Group, Results
from .figures._results_figures import curves_figure, exponent, located, lyapunov_figure, rho_figure
from .figures._side_by_side_figure import side_by_side_figure
from .pages._page import saved, write_files
from .pages._results_page import counts, results_page
from .tables._results_tables import agreement, all_tables, cells_csv, hard_correlations
from .tables._table import latex, markdown

PAGE = "report.html"


def write_results(results: Results, folder: Path) -> list[Path]:
    """Write `results.md`, `.csv`, `.tex` and `.json`, and with matplotlib `report.html` and its
    figures as PNG.

    All files are made before the first is written.

    **Arguments:**

    - `results`: see `read_results`.
    - `folder`: the folder for the files; it is made if it is missing.

    **Returns** the paths of the files.

    **Raises** `InputError` if a file cannot be written.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> cells = {"lr-0.1": {"lr": 0.1}, "lr-1": {"lr": 1.0}}
    >>> record = eqloop.run.SweepRecord("rates", ("lr",), cells)
    >>> with tempfile.TemporaryDirectory() as name:
    ...     folder = pathlib.Path(name)
    ...     pathlib.Path(folder, "state").mkdir()
    ...     eqloop.run.save_sweep(folder, record)
    ...     eqloop.run.save_cell_result(folder, "lr-1", eqloop.run.CellResult("failed", "nan"))
    ...     files = eqloop.report.write_results(eqloop.report.read_results([folder]), folder)
    >>> {"results.md", "results.csv"} <= {path.name for path in files}
    True

    ```
    """
    tables = all_tables(results)
    title = f"Results of {results.title}"
    lines = [f"# {markdown_text(title)}", "", counts(results)]
    for table in tables:
        lines += ["", f"## {markdown_text(table.title)}", "", *markdown(table)]
        lines += ["", markdown_text(table.note)] if table.note else []
    floats = "\n".join(map(latex, tables))
    files = {
        "results.md": "\n".join(lines) + "\n",
        "results.csv": cells_csv(results),
        "results.tex": f"% {one_line(title)}. Needs \\usepackage{{booktabs}}.\n\n{floats}",
        "results.json": json.dumps(results_tables(results), indent=1) + "\n",
    }
    made = {folder / name: text.encode() for name, text in files.items()}
    if importlib.util.find_spec("matplotlib") is not None:
        made = {folder / PAGE: results_page(results), **made}
        figures = {"accuracy.png": curves_figure(results)}
        if any(cell.rho_w_x is not None for cell in results.finished):
            figures["rho.png"] = rho_figure(results)
        if results.beside:
            figures["side-by-side.png"] = side_by_side_figure(results.beside)
        if list(located(results, exponent, "hard")):
            figures["lyapunov.png"] = lyapunov_figure(results)
        made |= {folder / name: saved(figure, "png") for name, figure in figures.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from None
    return write_files(made)


def results_tables(results: Results) -> dict[str, Any]:
    """The content of `results.json`: shares are between 0 and 1, unknown values are None.

    **Arguments:**

    - `results`: see `read_results`.

    **Returns** nested tables of plain values.

    ```python
    >>> import eqloop
    >>> empty = eqloop.report.Results("none", [], ["lr"], {"task": "sudoku"}, [], None)
    >>> tables = eqloop.report.results_tables(empty)
    >>> tables["cells"], tables["constants"]
    ({'planned': 0, 'finished': 0, 'failed': 0}, {'task': 'sudoku'})

    ```
    """
    return {
        "title": results.title,
        "cells": {
            "planned": len(results.cells),
            "finished": len(results.finished),
            "failed": len(results.failed),
        },
        "constants": dict(results.constants),
        "rows": [_row(group) for group in results.groups],
        "chosen": None if results.chosen is None else [_row(group) for group in results.chosen],
        "correlations": list(map(dataclasses.asdict, hard_correlations(results))),
        "as_predicted": {
            axis: {"hits": hits, "count": count} for axis, hits, count in agreement(results)
        },
        "failed": [{"cell": cell.name, "error": cell.error} for cell in results.failed],
    }


def _row(group: Group) -> dict[str, Any]:
    def mean(of: Callable[[Cell], float | None]) -> dict[str, Any]:
        return dataclasses.asdict(group.estimate(of))

    return {
        "axes": dict(group.axes),
        "runs": len(group.cells),
        "failed": len(group.failed),
        "validation": dataclasses.asdict(group.validation()),
        "splits": {
            split: {
                worth: dataclasses.asdict(group.share(split, worth))
                for worth in ("last", "best", "lost")
            }
            for split in SPLITS
        },
        "parameters": mean(lambda cell: cell.parameters),
        "rho_w_x": mean(lambda cell: cell.rho_w_x),
        **{
            what: {
                name: mean(lambda cell, w=what, n=name: getattr(cell, w).get(n))
                for name in ("train", "evaluate")
            }
            for what in ("flops", "seconds")
        },
    }
