"""`eqloop stability --compare`: the numbers of several stability reports side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import InputError
from .._numbers import format_number, format_with_interval
from ._output import console, emit, table

if TYPE_CHECKING:
    from rich.table import Table

AXES = {"reachability": "Reachability", "input_dependence": "Input-dependence"}
AXES |= {"geometry": "Geometry"}


def numbers_table(reports: dict[str, dict[str, Any]]) -> "Table":
    """One line per number, one column per run: the mean and its 95 % interval."""
    from ..report import QUANTITIES, value_at

    rows = [
        (name, *(format_measurement(value_at(report, path)) for report in reports.values()))
        for name, path in QUANTITIES.items()
    ]
    return table(("mean [95 % interval]", *reports), rows)


def tests_table(reports: dict[str, dict[str, Any]]) -> "Table":
    """One line for each of the four tests, one column per run: verdict and value."""
    measured = [report.get("computes", {}) for report in reports.values()]
    tests = next(filter(None, measured), {})
    rows = [
        (test["claim"], *(_format_test(part.get(name)) for part in measured))
        for name, test in tests.items()
    ]
    return table(("does the equilibrium compute, or only settle?", *reports), rows)


def _format_test(test: dict[str, Any] | None) -> str:
    if test is None:
        return "-"
    value = format_with_interval(test["value"], test["low"], test["high"])
    return test["verdict"] if value == "-" else f"{test['verdict']}: {value}"


def format_measurement(value: Any) -> str:
    """A number of a report, or a `Summary`, a `Share` or the clusters of an `InputDependence`."""
    if not isinstance(value, dict):
        return format_number(value)
    if "clusters" in value:  # has no interval: the inputs that are counted are no sample
        clusters, inputs = value["clusters"], value["inputs"]
        known = clusters and clusters[-1] is not None
        return f"{clusters[-1]:.0f} of {inputs[-1]}" if known else format_number(None)
    percent = "share" in value
    mean = value["share"] if percent else value.get("mean")
    return format_with_interval(mean, value["low"], value["high"], percent=percent)


def compare_runs(runs: list[Path], as_json: bool) -> None:
    """Print the verdicts and the numbers of several runs, one column per run."""
    from ..run import read_stability

    if len(runs) < 2:
        raise InputError("--compare needs two runs or more, each with a report: eqloop stability")
    reports = {str(run): read_stability(run / "stability") for run in runs}
    if as_json:
        emit({"runs": reports})
        return
    out = console()
    verdicts = [
        (name, *(report["verdict"][axis]["verdict"] for report in reports.values()))
        for axis, name in AXES.items()
    ]
    out.print(table(("", *reports), verdicts))
    out.print()
    out.print(numbers_table(reports))
    if any("computes" in report for report in reports.values()):
        out.print()
        out.print(tests_table(reports))
