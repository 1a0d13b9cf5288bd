"""A report on runs, written: tables, figures and one page."""

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

from .._errors import InputError
from .._text import one_line
from ..run import SPLITS
from ._escape import markdown_text
from ._groups import Estimate, Group, Results
from .figures._results_figures import curves_figure, exponent, located, lyapunov_figure, rho_figure
from .pages._page import saved, write_files
from .pages._results_page import counts, results_page
from .tables._results_tables import agreement, all_tables, cells_csv, hard_correlations
from .tables._table import latex, markdown

PAGE = "report.html"


def write_results(results: Results, folder: Path) -> list[Path]:
    """Write `results.md`, `.csv`, `.tex` and `.json` into `folder`, which is made, and, where
    matplotlib is installed, `report.html` and its figures as PNG.

    All of it is made before any of it is written.

    **Returns** the files written. **Raises** `InputError` where nothing can be written.
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
        if list(located(results, exponent, "hard")):
            figures["lyapunov.png"] = lyapunov_figure(results)
        made |= {folder / name: saved(figure, "png") for name, figure in figures.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from None
    return write_files(made)


def results_tables(results: Results) -> dict[str, Any]:
    """As nested plain values, for JSON: shares between 0 and 1, None for what is not known."""
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
        "correlations": [dataclasses.asdict(each) for each in hard_correlations(results)],
        "as_predicted": {
            axis: {"hits": hits, "count": count} for axis, hits, count in agreement(results)
        },
        "failed": [{"cell": each.name, "error": each.error} for each in results.failed],
    }


def _row(group: Group) -> dict[str, Any]:
    def of(found: Estimate) -> dict[str, Any]:
        return dataclasses.asdict(found)

    return {
        "axes": dict(group.axes),
        "runs": len(group.cells),
        "failed": len(group.failed),
        "validation": of(group.validation()),
        "splits": {
            split: {worth: of(group.share(split, worth)) for worth in ("last", "best", "lost")}
            for split in SPLITS
        },
        "parameters": of(group.estimate(lambda cell: cell.parameters)),
        "rho_w_x": of(group.estimate(lambda cell: cell.rho_w_x)),
        **{
            what: {
                name: of(group.estimate(lambda cell, w=what, n=name: getattr(cell, w).get(n)))
                for name in ("train", "evaluate")
            }
            for what in ("flops", "seconds")
        },
    }
