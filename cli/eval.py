"""`eqloop eval RUN`: accuracy over iterations, or the cost of solving, by split and band."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import InputError
from ._output import Json, console, emit, notes, progress
from ._plot import check_plot, save_plot
from ._run import (
    ITERATIONS,
    Budget,
    Checkpoint,
    Restarts,
    Select,
    SkipBad,
    SolverName,
    TaskOfRun,
    band_table,
    cost_table,
    curve_table,
    describe_plan,
    labels,
    load_splits,
    measure,
    open_model,
    refuse_idle_options,
    sample_line,
    solve_splits,
    source_of,
    stop_if_missing,
)

if TYPE_CHECKING:
    from .._task import Split, Task
    from ..evaluate import Evaluation
    from ..run import DataSource, Run


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Read this run folder.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Read this file instead of the data of RUN: all its rows, or the split of --split."
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Measure this split. Without it, all splits but the training split are measured."
        ),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(
            min=1, max=2**31 - 1, help="Iterate at most this number of times. The default is 512."
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Measure at most this number of examples of each split, evenly spread, or all for "
            "0. By default a random sample is measured, about a minute of work on two cores.",
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw accuracy against iterations: .png, .svg or .pdf.")
    ] = None,
    budget: Budget = None,
    restarts: Restarts = None,
    select: Select = None,
    solver: SolverName = None,
    checkpoint: Checkpoint = "best",
    task_class: TaskOfRun = None,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Measure accuracy over iterations, by split and band.

    The command prints accuracy, residual and share converged over a geometric grid of iterations,
    far beyond the number in training; when examples settle; and the accuracy that further
    iterations lose (overthinking).

    With --budget in place of --iterations it measures the cost of solving. Each example is iterated
    until its loop has converged, and then another takes its place in the batch. The command prints
    evaluations of the loop and seconds per solved puzzle, by band. The seconds include compilation
    and are divided among the puzzles by their evaluations; those of unsolved puzzles count too.

    It reads RUN and its data, or the file that --data names. It writes RUN/eval/SPLIT.json, and the
    picture that --plot names; with --budget it writes RUN/eval/SPLIT-cost.json. For a file whose
    examples are not those of RUN, a hash of the examples follows SPLIT or the name of the file, and
    `eqloop report` leaves the result out. An example stops early once its answer can no longer
    change. After Ctrl-C the command prints the finished splits, names the missing ones, and exits
    with 130.

    Example: eqloop eval runs/prefix-sums-001 --plot accuracy.png
    """
    fields: dict[str, Any] = {} if data is None else {"data": str(data)}
    if skip_bad:
        fields["skip_bad"] = True
    if plot is not None:
        check_plot(plot)
    refuse_idle_options(budget, iterations, restarts=restarts, select=select, solver=solver)
    if budget is not None and plot is not None:
        raise InputError("--plot draws accuracy against iterations: leave out --budget")
    model, task, opened, step = open_model(run, checkpoint, task_class, **fields)
    splits, source = _splits(opened, task, data, split)
    out = console()
    if budget is not None:
        options = {"budget": budget, "restarts": restarts or 1, "select": select or "residual"}
        rows = 1000 if rows is None else rows
        solved = solve_splits(
            opened, step, model, task, splits, rows=rows, solver=solver, source=source, **options
        )
        if as_json:
            tables = {name: result.tables() for name, result in solved.items()}
            emit({"run": run, "task": task.name, "step": step, **options, "splits": tables})
            stop_if_missing(splits, solved, _AGAIN)
            return
        out.print(f"{run}: {task.name}, step {step}, budget {budget}", markup=False)
        for name, result in solved.items():
            out.print()
            out.print(cost_table(name, result))
            out.print(f"{result.seconds:.1f} s")
        stop_if_missing(splits, solved, _AGAIN)
        return
    iterations = iterations or ITERATIONS
    if not as_json:
        out.print(describe_plan(splits, iterations, rows), markup=False, soft_wrap=True)
    measured = measure(
        opened, step, model, task, splits, iterations=iterations, rows=rows, source=source
    )
    if plot is not None:
        _draw(plot, opened, measured)
    if as_json:
        tables = {name: result.tables() for name, result in measured.items()}
        emit({"run": run, "task": task.name, "step": step, "splits": tables})
        stop_if_missing(splits, measured, _AGAIN)
        return
    out.print(f"\n{run}: {task.name}, step {step}", markup=False)
    for name, label in labels(measured).items():
        result = measured[name]
        out.print()
        out.print(curve_table(label, result.iterations, result.overall))
        out.print(band_table(result))
        out.print(sample_line(result, len(splits[name])), soft_wrap=True)
        for score, value in result.judged.items():
            out.print(f"{score} {100 * value:.1f} %")
        share = result.iterations_run / result.iterations_asked
        out.print(f"{result.seconds:.1f} s; {100 * share:.0f} % of the iterations were run")
    tolerance = next(iter(measured.values())).tolerance
    known = any(not math.isnan(result.overall.known_depth) for result in measured.values())
    depth = "depth: the median of the iterations that the task needs by its law. " if known else ""
    out.print(
        f"\n{depth}lost: best - last, the accuracy that further iterations lose (overthinking). "
        f"settled: share whose residual fell below {tolerance:g}; median at: the median iteration "
        "of that.",
        soft_wrap=True,
    )
    stop_if_missing(splits, measured, _AGAIN)


_AGAIN = "the same command with --split measures"


def _splits(
    run: "Run", task: "Task", data: Path | None, split: str | None
) -> "tuple[Mapping[str, Split], DataSource | None]":
    """The splits to measure, and their source if their examples are not those of the run."""
    if data is None:
        return load_splits(run, task, split), None
    if split is None:
        splits = {data.name.split(".")[0]: _read_all(task, data)}
    else:
        splits = load_splits(run, task, split, same=False)
    [(name, part)] = splits.items()
    return splits, source_of(run, data, name, part)


def _read_all(task: "Task", data: Path) -> "Split":
    """Read all good rows of a file. **Raises** `InputError` for a row that cannot be scored."""
    from .._task import Tally, refuse, refuse_unanswered

    tally = Tally()
    with progress("reading") as report:
        split = task.read(data, on_bad=tally if task.skip_bad else refuse, progress=report)
    if tally.count:
        notes().print(f"note: {tally.count:,} bad rows of {data} are skipped", markup=False)
    refuse_unanswered(split, f"{data}: ", "they cannot be scored")
    return split


def _draw(path: Path, run: "Run", measured: "Mapping[str, Evaluation]") -> None:
    from ..report import accuracy_figure
    from ..run import trained_iterations

    first = next(iter(measured.values()))
    if len(measured) == 1:
        bands = first.bands if len(first.bands) > 1 else {}
        curves = {**bands, "all": first.overall}
    else:
        names = labels(measured)
        curves = {names[name]: e.overall for name, e in measured.items()}
    model = run.spec.model
    looped = model.family == "looped"
    parts = f"{model.recall} recall, {model.norm} norm" if looped else model.family.upper()
    figure = accuracy_figure(
        {name: curve.exact for name, curve in curves.items()},
        first.iterations,
        depths={name: curve.known_depth for name, curve in curves.items()},
        trained=trained_iterations(run.spec),
        title=f"{run.spec.task_name}: {parts}",
    )
    save_plot(figure, path)
