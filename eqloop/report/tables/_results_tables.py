"""The tables of a report on runs, in order."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..._numbers import (
    DASH,
    format_duration,
    format_number,
    format_percent,
    typeset_estimate,
    typeset_number,
    typeset_value,
)
from ...run import MEASURES, SPLITS
from .._cells import Cell
from .._correlation import Correlation, correlation_table, correlations
from .._escape import csv_value
from .._groups import MOST_BESIDE, SEED, Estimate, Group, Results
from ._side_by_side_tables import counted, fixed_points_table, iterations_table
from ._table import Table

Column = tuple[str, Callable[[Group], str]]

_WORTH = ("last", "best", "lost")
_AXES = {"reachability": "reachability", "input_dependence": "input-dependence"}
_AXES |= {"geometry": "geometry"}
_SHOWN_MEASURES = ("converged", "spectral radius", "Lyapunov exponent")
_FIXED_POINTS = (
    *("settle step", "restarts at the same point", "non-normality", "condition"),
    *("backward products", "cosine of one-step"),
)
_SHARES = ("converged", "restarts at the same point")
_MEANS = "mean ± half-width of the 95 % interval (Student’s t) over the seeds"


def all_tables(results: Results) -> list[Table]:
    """All tables that have rows."""
    tables = [*_score_tables(results), *_band_tables(results), _cost_table(results)]
    if len(results.shown) <= MOST_BESIDE:
        tables.insert(-1, iterations_table(results.shown))
    if any(cell.stability for cell in results.finished):
        tables += [_stability_table(results), _fixed_points_table(results)]
        correlated = hard_correlations(results)
        if any(result.value is not None for result in correlated):
            tables.append(correlation_table(correlated))
    if results.failed:
        tables.append(_failed_table(results))
    return [table for table in tables if table.rows]


def short_table(results: Results) -> Table:
    """The table for the terminal: the groups at the best learning rates if rates differ, else all
    groups.

    **Arguments:**

    - `results`: see `read_results`.

    **Returns** a table with one row per group.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> record = eqloop.run.SweepRecord("seeds", ("norm",), {"norm-pre": {"norm": "pre"}})
    >>> with tempfile.TemporaryDirectory() as name:
    ...     folder = pathlib.Path(name)
    ...     pathlib.Path(folder, "state").mkdir()
    ...     eqloop.run.save_sweep(folder, record)
    ...     eqloop.run.save_cell_result(folder, "norm-pre", eqloop.run.CellResult("failed", "nan"))
    ...     table = eqloop.report.short_table(eqloop.report.read_results([folder]))
    >>> table.rows[0][:2]
    ('pre', '0 (1 failed)')

    ```
    """
    return next(_score_tables(results))


def hard_correlations(results: Results) -> list[Correlation]:
    """Correlations of the stability measures with the share of hard examples that a run solves."""
    pairs = [
        (cell.stability.measures, hard.overall.last)
        for cell in results.finished
        if cell.stability is not None and (hard := cell.split("hard")) is not None
    ]
    measures = {name: [measured[name] for measured, _ in pairs] for name in MEASURES}
    return correlations(measures, [solved for _, solved in pairs])


def agreement(results: Results) -> Iterator[tuple[str, int, int]]:
    """For each axis: its name, the number of runs that agree with the framework, and the number of
    runs for which it makes a decidable prediction."""
    for axis, name in _AXES.items():
        agrees = [cell.stability.agrees.get(axis) for cell in results.finished if cell.stability]
        decided = [value for value in agrees if value is not None]
        if decided:
            yield name, sum(decided), len(decided)


def cells_csv(results: Results) -> str:
    """`results.csv`: one line per cell; shares are between 0 and 1, unknown values are empty."""
    lines = [_line(cell) for cell in results.cells]
    out = io.StringIO()
    heads = list(dict.fromkeys(name for line in lines for name in line))
    writer = csv.DictWriter(out, heads, lineterminator="\n")
    writer.writerow({name: csv_value(name) for name in heads})
    for line in lines:
        writer.writerow({name: csv_value(value) for name, value in line.items()})
    return out.getvalue()


def _line(cell: Cell) -> dict[str, Any]:
    line: dict[str, Any] = {"source": cell.source, "cell": cell.name, "status": cell.status}
    line |= {"error": cell.error, **cell.axes}
    validation = (cell.results.validation if cell.results else None) or (None, None)
    line["validation_exact"], line["validation_cells"] = validation
    for split in SPLITS:
        evaluated = cell.split(split)
        values = evaluated and {
            "examples": evaluated.overall.examples,
            "iterations": evaluated.iterations[-1],
            "last": evaluated.overall.last,
            "best": evaluated.overall.best,
            "best_at": evaluated.best_at,
            "lost": evaluated.overall.lost,
        }
        for name in ("examples", "iterations", "last", "best", "best_at", "lost"):
            line[f"{split}_{name}"] = values[name] if values else None
    line["parameters"] = cell.parameters
    for name in ("train", "evaluate"):
        line[f"{name}_flops"] = cell.flops.get(name)
        line[f"{name}_seconds"] = cell.seconds.get(name)
    line["rho_w_x"] = cell.rho_w_x
    stability = cell.stability
    for axis in _AXES:
        line[axis] = stability.verdict.get(axis) if stability else None
    for name in MEASURES:
        key = name.replace(" ", "_").replace("-", "_").lower()
        line[key] = stability.measures[name] if stability else None
    return line


# --- the tables


def _score_tables(results: Results) -> Iterator[Table]:
    """The groups at the best learning rates if rates differ; then all groups."""
    everything = [
        (f"{split}: {worth}", _share(split, worth)) for split in SPLITS for worth in _WORTH
    ]
    note = f"In %, {_MEANS}. last: {_last(results)}; best: over the iterations; lost: best − last."
    if results.chosen is not None:
        columns = [("validation", lambda group: _percent(group.validation()))]
        columns += [column for column in everything if not column[0].endswith("best")]
        yield _table(
            results,
            "chosen",
            "Results at the best learning rate",
            results.chosen,
            columns,
            "The learning rate has the best mean validation score (most examples solved, then most "
            f"cells right; a failed run counts as 0); test scores are not used. {note}",
        )
    title = "Results" if results.chosen is None else "Results at every learning rate"
    yield _table(results, "results", title, results.groups, everything, note)


def _last(results: Results) -> str:
    counts = {
        evaluated.iterations[-1]
        for cell in results.finished
        for split in SPLITS
        if (evaluated := cell.split(split)) is not None
    }
    if not counts:
        return "after the last iteration"
    count = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else str(*counts)
    return f"after {count} iterations"


def _band_tables(results: Results) -> Iterator[Table]:
    """One table per split that has several difficulty bands in some evaluation."""
    for split in SPLITS:
        evaluations = [
            evaluated for cell in results.finished if (evaluated := cell.split(split)) is not None
        ]
        names = dict.fromkeys(
            name
            for evaluated in evaluations
            if len(evaluated.bands) > 1
            for name in evaluated.bands
        )
        if not names:
            continue
        columns = [(name, _band(split, name)) for name in names]
        counts = ", ".join(
            f"{name}: {min(sizes)}" + (f" to {max(sizes)}" if min(sizes) < max(sizes) else "")
            for name in names
            if (
                sizes := [
                    evaluated.bands[name].examples
                    for evaluated in evaluations
                    if name in evaluated.bands
                ]
            )
        )
        yield _table(
            results,
            f"bands-{split}",
            f"By difficulty: {split}",
            results.shown,
            columns,
            f"Examples solved in each band, in %, {_MEANS}, {_last(results)}. Examples: {counts}.",
        )


def _cost_table(results: Results) -> Table:
    def mean(
        of: Callable[[Cell], float | None], form: Callable[[float | None], str] = typeset_number
    ):
        return lambda group: form(group.estimate(of).mean)

    columns: list[Column] = [("parameters", mean(lambda c: c.parameters, _count))]
    for what, costs in (("FLOPs", "flops"), ("s", "seconds")):
        for name in ("train", "evaluate"):
            columns.append((f"{name}, {what}", mean(_cost(costs, name))))
        columns.append((f"evaluate / train, {what}", mean(_ratio(costs))))
    sums = {
        what: sum(
            cost
            for cell in results.cells
            for cost in getattr(cell, what).values()
            if cost is not None
        )
        for what in ("flops", "seconds")
    }
    flops = f"{typeset_number(sums['flops'])} FLOPs and " if sums["flops"] else ""
    time = format_duration(sums["seconds"])
    note = (
        f"The cost of one run, mean over the seeds. All runs together: {flops}{time} of training "
        "and evaluation."
    )
    table = _table(results, "cost", "Cost", results.groups, columns, note).without_empty()
    bare = len(table.head) <= table.labels + 1 and "parameters" not in table.head
    return Table(table.name, table.title, table.head, ()) if bare else table


def _cost(what: str, name: str) -> Callable[[Cell], float | None]:
    return lambda cell: getattr(cell, what).get(name)


def _ratio(what: str) -> Callable[[Cell], float | None]:
    def of(cell: Cell) -> float | None:
        train, evaluate = (getattr(cell, what).get(name) for name in ("train", "evaluate"))
        return None if not train or evaluate is None else evaluate / train

    return of


def _stability_table(results: Results) -> Table:
    columns: list[Column] = [(name, _verdicts(axis)) for axis, name in _AXES.items()]
    columns += _measures(_SHOWN_MEASURES)
    columns += [(f"{split}, %", _share(split, "last")) for split in SPLITS]
    agreements = [f"{name} in {hits} of {count}" for name, hits, count in agreement(results)]
    theory = f" As the framework predicts: {', '.join(agreements)} runs." if agreements else ""
    return _table(
        results,
        "stability",
        "Stability",
        results.examined,
        columns,
        "The verdicts of eqloop stability (a number counts runs), the share of loops that "
        "converged, the medians over examples of the spectral radius of the Jacobian and of the "
        "leading Lyapunov exponent (below 0: the loop settles), each as its mean over the seeds; "
        f"beside them the share solved.{theory}",
    )


def _fixed_points_table(results: Results) -> Table:
    if results.beside:
        return fixed_points_table(results.beside)
    return _table(
        results,
        "fixed-points",
        "Fixed points",
        results.examined,
        _measures(_FIXED_POINTS),
        "Of eqloop stability, medians over examples, each as its mean over the seeds: the step "
        "after which a loop has settled; the share of Gaussian starts that end at the fixed point "
        "of the own start; the largest singular value of J over its spectral radius; the condition "
        "of I − J; vector-Jacobian products of a backward solve; and the cosine of the one-step "
        "gradient with the implicit one.",
    )


def _failed_table(results: Results) -> Table:
    rows = [(cell.name, cell.error) for cell in results.failed]
    return Table("failed", "Runs that failed", ("run", "error"), rows, labels=2)


# --- cells of a table


def _table(
    results: Results,
    name: str,
    title: str,
    groups: Sequence[Group],
    columns: Sequence[Column],
    note: str,
) -> Table:
    """One row per group: its values on the axes, its number of seeds, and `columns`."""
    columns = [("runs" if SEED not in results.cells[0].axes else "seeds", _seeds), *columns]
    rows = [
        (
            *(typeset_value(value) for value in group.axes.values()),
            *(of(group) for _, of in columns),
        )
        for group in groups
    ]
    head = (*results.axes, *(head for head, _ in columns))
    return Table(name, title, head, rows, note, labels=len(results.axes))


def _seeds(group: Group) -> str:
    failed = f" ({len(group.failed)} failed)" if group.failed else ""
    return f"{len(group.cells)}{failed}"


def _count(value: float | None) -> str:
    return format_number(value, ",.0f", missing=DASH)


def _percent(share: Estimate) -> str:
    return typeset_estimate(share.mean, share.half_width)


def _share(split: str, worth: str) -> Callable[[Group], str]:
    return lambda group: _percent(group.share(split, worth))


def _band(split: str, name: str) -> Callable[[Group], str]:
    def of(cell: Cell) -> float | None:
        evaluated = cell.split(split)
        band = None if evaluated is None else evaluated.bands.get(name)
        return None if band is None else band.last

    return lambda group: _percent(group.estimate(of))


def _verdicts(axis: str) -> Callable[[Group], str]:
    def of(group: Group) -> str:
        return counted(
            [cell.stability.verdict.get(axis, DASH) for cell in group.cells if cell.stability]
        )

    return of


def _measures(names: Sequence[str]) -> list[Column]:
    return [(f"{name}, %" if name in _SHARES else name, _measure(name)) for name in names]


def _measure(name: str) -> Callable[[Group], str]:
    def of(cell: Cell) -> float | None:
        return None if cell.stability is None else cell.stability.measures[name]

    if name in _SHARES:
        return lambda group: format_percent(group.estimate(of).mean, missing=DASH)
    return lambda group: typeset_number(group.estimate(of).mean)
