"""`eqloop stability --compare`: the numbers of several stability reports side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .. import InputError
from .._numbers import format_number, format_with_interval
from .._stability_report import (
    Auroc,
    EquilibriumTest,
    InputDependence,
    PointRecord,
    Share,
    StabilityReport,
    Summary,
    count_kinds,
)
from ._output import console, emit, table

if TYPE_CHECKING:
    from rich.table import Table

AXES = {"reachability": "Reachability", "input_dependence": "Input-dependence"}
AXES |= {"geometry": "Geometry"}


def numbers_table(reports: Mapping[str, StabilityReport]) -> "Table":
    """One line per number, one column per run: the mean and its 95 % interval."""
    from ..report import QUANTITIES, value_at

    rows = [
        (name, *(format_measurement(value_at(report, path)) for report in reports.values()))
        for name, path in QUANTITIES.items()
    ]
    return table(("mean [95 % interval]", *reports), rows)


def tests_table(reports: Mapping[str, StabilityReport]) -> "Table":
    """One line for each of the four tests, one column per run: verdict and value."""
    measured = [report.computes or {} for report in reports.values()]
    tests = next(filter(None, measured), {})
    rows = [
        (test.claim, *(_format_test(part.get(name)) for part in measured))
        for name, test in tests.items()
    ]
    return table(("does the equilibrium compute, or only settle?", *reports), rows)


def outcomes_table(reports: Mapping[str, StabilityReport]) -> "Table":
    """One line per outcome, one column per run: the loops that end so, and how many are right."""
    censuses = [report.census for report in reports.values()]
    shares = [census.outcome_correct.shares if census else {} for census in censuses]
    outcomes = dict.fromkeys(name for part in shares for name in part if part[name].count)
    rows = [(name, *(_format_outcome(part.get(name)) for part in shares)) for name in outcomes]
    return table(("right, by how the loop ends", *reports), rows)


def _format_outcome(part: Share | None) -> str:
    if part is None or not part.count:
        return "-"
    return f"{part.hits} of {part.count}: {format_measurement(part)}"


def _format_test(test: EquilibriumTest | None) -> str:
    if test is None:
        return "-"
    value = format_with_interval(test.value, test.low, test.high)
    return test.verdict if value == "-" else f"{test.verdict}: {value}"


def format_measurement(
    value: Summary | Share | Auroc | InputDependence | list[PointRecord] | float | None,
) -> str:
    """A value of a report at one of the paths of `QUANTITIES`."""
    if isinstance(value, Summary):
        return format_with_interval(value.mean, value.low, value.high)
    if isinstance(value, Share):
        return format_with_interval(value.share, value.low, value.high, percent=True)
    if isinstance(value, Auroc):
        return format_with_interval(value.value, value.low, value.high)
    if isinstance(value, InputDependence):
        part = value.distinct_share
        return format_number(None) if part is None else f"{part.hits} of {part.count}"
    if isinstance(value, list):
        return count_kinds(value)
    return format_number(value)


def compare_runs(runs: list[Path], as_json: bool) -> None:
    """Print the verdicts and the numbers of several runs, one column per run."""
    from ..run import read_stability

    if len(runs) < 2:
        raise InputError("--compare needs two runs or more, each with a report: eqloop stability")
    reports = {str(run): read_stability(run / "stability") for run in runs}
    if as_json:
        emit({"runs": {run: report.tables() for run, report in reports.items()}})
        return
    out = console()
    verdicts = [
        (name, *(report.verdict[axis].verdict for report in reports.values()))
        for axis, name in AXES.items()
    ]
    out.print(table(("", *reports), verdicts))
    out.print()
    out.print(numbers_table(reports))
    if any(report.census for report in reports.values()):
        out.print()
        out.print(outcomes_table(reports))
    if any(report.computes for report in reports.values()):
        out.print()
        out.print(tests_table(reports))
