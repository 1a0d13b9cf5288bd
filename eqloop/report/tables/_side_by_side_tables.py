"""Tables of a few groups of runs side by side."""

from collections.abc import Mapping, Sequence

from ..._numbers import DASH, format_percent, is_known, typeset_estimate, typeset_number
from ..._stability_report import EquilibriumTest
from ...run import SPLITS
from .._cells import Cell
from .._groups import Estimate, Group, estimate, label
from .._quantities import QUANTITIES, is_share, number_at
from ._table import Table


def iterations_table(groups: Sequence[Group]) -> Table:
    """One row per group and split: share solved after 1, 2, 4, ... iterations."""
    splits = [
        (group, split, [data for cell in group.cells if (data := cell.split(split)) is not None])
        for group in groups
        for split in SPLITS
    ]
    counts = {n for _, _, evaluated in splits for data in evaluated for n in data.iterations}
    counts = sorted(n for n in counts if n.bit_count() == 1)

    def solved(group: Group, split: str, count: int) -> str:
        def of(cell: Cell) -> float | None:
            data = cell.split(split)
            if data is None or count not in data.iterations:
                return None
            return data.overall.exact[data.iterations.index(count)]

        return format_percent(group.estimate(of).mean, missing=DASH)

    rows = [
        (label(group.axes), split, *(solved(group, split, count) for count in counts))
        for group, split, evaluated in splits
        if evaluated
    ]
    return Table(
        "iterations",
        "Solved over iterations",
        ("run", "split", *map(str, counts)),
        rows,
        "Examples solved after this number of iterations, in %, mean over the seeds.",
        labels=2,
    )


def fixed_points_table(groups: Sequence[Group]) -> Table:
    """One row per number of `eqloop stability` and per test, one column per group."""
    cells = [cell for group in groups for cell in group.cells]
    rows = []
    for name, path in QUANTITIES.items():
        percent = any(is_share(cell.stability_report, path) for cell in cells)
        estimates = [
            group.estimate(lambda cell, path=path: number_at(cell.stability_report, path))
            for group in groups
        ]
        typeset = (lambda e: typeset_estimate(e.mean, e.half_width)) if percent else _number
        rows.append((f"{name}, %" if percent else name, *map(typeset, estimates)))
    claims = {name: test.claim for cell in cells for name, test in _tests(cell).items()}
    rows += [
        (f"{name.upper()}: {claim}", *(_verdict(group, name) for group in groups))
        for name, claim in claims.items()
    ]
    return Table(
        "fixed-points",
        "Fixed points",
        ("", *(label(group.axes) for group in groups)),
        rows,
        "Of eqloop stability: medians and shares over the examples, mean ± half-width of the 95 % "
        "interval (Student’s t) over the seeds. The cosines are those of the cotangent at a fixed "
        "point with the implicit one. T1 to T4 ask whether an equilibrium computes, or only "
        "settles; a number in brackets counts runs, the value is a mean.",
    )


def counted(verdicts: Sequence[str]) -> str:
    """Each verdict once, with the number of runs that have it if others do not."""
    counts = {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}
    return ", ".join(v if n == len(verdicts) else f"{v} ({n})" for v, n in counts.items())


def _number(value: Estimate) -> str:
    half = "" if value.half_width is None else f" ± {typeset_number(value.half_width)}"
    return typeset_number(value.mean) + half


def _tests(cell: Cell) -> Mapping[str, EquilibriumTest]:
    report = cell.stability_report
    return {} if report is None else report.computes or {}


def _verdict(group: Group, name: str) -> str:
    tests = [test for cell in group.cells if (test := _tests(cell).get(name)) is not None]
    counts = counted([test.verdict for test in tests])
    value = estimate([test.value if is_known(test.value) else None for test in tests]).mean
    return f"{counts}: {typeset_number(value)}" if counts else DASH
