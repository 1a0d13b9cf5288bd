"""Parts that commands share: options, loading the model of a run, and tables of results."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import InputError
from .._numbers import format_number, format_percent
from ..run import SOLVERS, meanings
from ._output import notes, progress, progress_of_work, table

if TYPE_CHECKING:
    from rich.table import Table

    from .._task import Split, Task
    from ..evaluate import Curve, Evaluation, Solved
    from ..run import DataSource, Run


def choice(meaning: str, names: Mapping[str, Any], group: str | None = None) -> str:
    """The help of an option that takes a name of a table or, if `group` names the entry-point group
    of such classes, a class from outside the package."""
    outside = f"; or path/to/file.py:CLASS, or a name of the entry points {group}" if group else ""
    return f"{meaning} one of: {meanings(names)}{outside}."


Checkpoint = Annotated[
    str,
    typer.Option(help="Load this checkpoint: best (on validation), last, or the number of a step."),
]
TaskOfRun = Annotated[
    str | None,
    typer.Option(
        "--task",
        "-t",
        metavar="FILE.py:CLASS",
        help="Load the task of RUN, which is a class of a file, from this file.",
    ),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Skip bad rows of a file, and count them.")
]

Budget = Annotated[
    int | None,
    typer.Option(
        min=1, max=2**31 - 1, help="Evaluate the loop at most this number of times from each start."
    ),
]
Restarts = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=10**6,
        help="Solve each puzzle from this number of starts with --budget; all but one have noise.",
    ),
]
Select = Annotated[
    str | None,
    typer.Option(help="Choose the answer among --restarts by residual (the default) or by vote."),
]
SolverName = Annotated[
    str | None,
    typer.Option(
        help=choice(
            "Solve with --budget by",
            {name: facts for name, facts in SOLVERS.items() if facts.converges},
            "eqloop.solvers",
        )
        + " The default is the solver of the run if it has a stopping test, else fixed-point."
    ),
]


INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells."""
WORK = 2.5e12
"""Floating-point operations of an evaluation without `rows`: about a minute on two cores."""
ITERATIONS = 512
"""Number of iterations without --iterations and --budget."""


def refuse_idle_options(budget: int | None, iterations: int | None, **with_budget: Any) -> None:
    """**Raises** `InputError` for options that would have no effect."""
    if budget is not None and iterations is not None:
        raise InputError("--iterations has no effect with --budget: leave out one of them")
    for name, value in with_budget.items():
        if budget is None and value is not None:
            raise InputError(
                f"--{name} requires --budget, the number of evaluations from each start"
            )


def open_model(
    run: Path, checkpoint: str, task_class: str | None = None, **fields: Any
) -> "tuple[Any, Task, Run, int]":
    """Open a run. **Returns** the model, the task (with `fields` replaced), the run, and the step
    of the checkpoint. `task_class` is the value of `--task`."""
    from .._load import load_trained
    from ..run import open_run

    opened = open_run(run)
    if task_class is not None:
        check_task(task_class, {opened.spec.task_name}, run)
    which = int(checkpoint) if checkpoint.isdecimal() else checkpoint
    if not (isinstance(which, int) or which == "best" or which == "last"):
        steps = ", ".join(map(str, opened.steps()))
        raise InputError(f"--checkpoint {checkpoint}: must be best, last or a step ({steps})")
    model, task, step = load_trained(opened, which, fields)
    return model, task, opened, step


def check_task(task_class: str, tasks: Collection[str], place: object) -> None:
    """Load the class that `--task` names. **Raises** `InputError` if it is not one of `tasks`, the
    names of those in `place`."""
    from ..tasks import named

    if (name := named(task_class)) not in tasks:
        expected = ", ".join(sorted(tasks))
        raise InputError(f"--task {task_class}: is {name}, but the task of {place} is {expected}")


def load_splits(
    run: "Run", task: "Task", split: str | None, *, same: bool = True
) -> "dict[str, Split]":
    """One split, or all except train; `same` checks that they are those of the run."""
    with progress("reading the data") as report:
        loaded = task.load(progress=report)
    if split is not None and split not in loaded.splits:
        raise InputError(f"--split {split}: must be one of {', '.join(loaded.splits)}")
    names = [split] if split else [name for name in loaded.splits if name != "train"]
    if same:
        _check_unchanged(run, loaded.manifest, names)
    return {name: loaded.splits[name] for name in names}


def source_of(run: "Run", data: Path, name: str, split: "Split") -> "DataSource | None":
    """Where a split of a file comes from; None if its examples are those of the run, whose data may
    have been moved."""
    from .._task import rows_hash
    from ..run import DataSource

    source = DataSource(path=str(data.absolute()), sha256=rows_hash(split))
    recorded = run.manifest.get("splits", {}).get(name)
    return None if recorded == {"rows": len(split), "sha256": source.sha256} else source


def open_checkpoint(
    path: Path, checkpoint: str, split: str, task_data: Path | None, task_class: str | None
) -> "tuple[Any, Task, Run, int, dict[str, Split]]":
    """Open a run or one of its checkpoints. **Returns** the model, the task, the run, the step, and
    the splits to examine."""
    run = path
    if path.suffix == ".safetensors":
        run, number = path.parent.parent, path.stem.removeprefix("step-")
        if not path.is_file():
            raise InputError(f"{path}: there is no such file")
        if path.parent.name != "checkpoints" or not number.isdecimal():
            raise InputError(f"{path} is not a checkpoint in a run: RUN/checkpoints/step-N...")
        checkpoint = str(int(number))
    fields: dict[str, Any] = {} if task_data is None else {"data": str(task_data)}
    model, task, opened, step = open_model(run, checkpoint, task_class, **fields)
    splits = load_splits(opened, task, None, same=task_data is None)
    if split not in splits:
        raise InputError(f"--split {split}: must be one of {', '.join(splits)}")
    splits = {name: part for name, part in splits.items() if name in {"test", "hard", split}}
    return model, task, opened, step, splits


def _check_unchanged(run: "Run", manifest: Mapping[str, Any], names: list[str]) -> None:
    """Splits of a file that has changed may contain examples that the run was trained on."""
    for name in names:
        current, trained = (m.get("splits", {}).get(name) for m in (manifest, run.manifest))
        if current != trained:
            raise InputError(
                f"the data of {run.path} has changed since training ({name} is no longer the "
                "same): restore the file, or see `eqloop eval --data`"
            )


def describe_plan(splits: "Mapping[str, Split]", iterations: int, rows: int | None) -> str:
    """One line on what an evaluation will do."""
    names = ", ".join(f"{name} ({len(split):,})" for name, split in splits.items())
    if rows is None:
        sample = "a random sample of each, about a minute of work on two cores (--rows 0: all)"
    else:
        sample = f"at most {rows:,} examples of each" if rows else "all examples"
    return f"evaluating {names}: at most {iterations} iterations, {sample}"


def measure(
    run: "Run",
    step: int,
    model: Any,
    task: "Task",
    splits: "Mapping[str, Split]",
    *,
    iterations: int,
    rows: int | None,
    source: "DataSource | None" = None,
) -> "dict[str, Evaluation]":
    """Evaluate on each split, on at most `rows` examples of it (0: all), and save the results, with
    `source` if the examples are not of the data of the run. If `rows` is None, the splits share
    `WORK` equally; what a split does not need goes to the next.

    After Ctrl-C, returns the finished splits: see `stop_if_missing`."""
    from .. import parameter_count
    from ..evaluate import at_most
    from ..evaluate import measure as measure_split

    # Products with the weights of the loop are almost all of the work.
    weights = parameter_count(model.loop())
    per_iteration = {
        name: 2 * weights * math.prod(split.inputs.shape[1:]) for name, split in splits.items()
    }
    bound = {
        name: len(at_most(split, rows or 0)) * iterations * per_iteration[name]
        for name, split in splits.items()
    }
    if rows is None:
        bound = {name: min(work, WORK / len(splits)) for name, work in bound.items()}
    measured, finished_work, remaining_work = {}, 0.0, WORK
    with _finished_splits(measured), progress_of_work("evaluating") as report:
        for number, (name, split) in enumerate(splits.items()):
            iterations_run = 0

            def show(done: int, total: int, name=name, before=finished_work) -> None:
                nonlocal iterations_run
                iterations_run = done
                part = before + done / total * bound[name]
                report(int(part), int(sum(bound.values())), f"evaluating {name}")

            show(0, 1)
            work = None
            if rows is None:
                work = remaining_work / (len(splits) - number) / per_iteration[name]
            measured[name] = measure_split(
                run, step, model, task, name, split,
                iterations=iterations, rows=rows or 0, work=work, source=source, progress=show,
            )  # fmt: skip
            finished_work += bound[name]
            remaining_work -= iterations_run * per_iteration[name]
    return measured


@contextmanager
def _finished_splits(finished: Mapping[str, Any]) -> Iterator[None]:
    """After a first finished split, Ctrl-C ends only the work on the others, not the command."""
    try:
        yield
    except KeyboardInterrupt:
        if not finished:
            raise


def stop_if_missing(splits: Mapping[str, Any], finished: Mapping[str, Any], again: str) -> None:
    """Name the splits that Ctrl-C left unfinished, and exit."""
    missing = [name for name in splits if name not in finished]
    if missing:
        message = f"stopped before {', '.join(missing)}, which {again}"
        notes().print(message, markup=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED)


def solve_splits(
    run: "Run",
    step: int,
    model: Any,
    task: "Task",
    splits: "Mapping[str, Split]",
    *,
    rows: int,
    solver: str | None,
    source: "DataSource | None",
    **options: Any,
) -> "dict[str, Solved]":
    """Solve the examples of each split and save the results; `options` are passed to
    `eqloop.evaluate.solve`. `source` and Ctrl-C are as in `measure`."""
    from .._build import named_solver
    from ..evaluate import at_most, solve
    from ..run import CostRecord, Sample, save_cost

    name_of_solver, chosen_solver = named_solver(run.spec.solver, solver)
    recorded = {name: options[name] for name in ("budget", "restarts", "select")}
    solved = {}
    with _finished_splits(solved):
        for name, split in splits.items():
            sample = at_most(split, rows)
            with progress(f"solving {name}") as report:
                solution = solve(
                    model, task, sample, solver=chosen_solver, progress=report, **options
                )
            measured = Sample(
                task=task.name,
                split=name,
                source=source,
                step=step,
                rows=len(sample),
                rows_of_split=len(split),
            )
            rtol = float(chosen_solver.rtol)
            record = CostRecord(
                sample=measured, solver=name_of_solver, rtol=rtol, **recorded, solved=solution
            )
            save_cost(run.path, measured.name, record)
            solved[name] = solution
    return solved


def accuracy_table(measured: "Mapping[str, Evaluation]") -> "Table":
    """Share of examples solved: one row per iteration count, one column per split."""
    grid = next(iter(measured.values())).iterations
    rows = [
        (
            str(grid[place]),
            *(format_percent(e.overall.scores["exact"][place]) for e in measured.values()),
        )
        for place in table_places(grid)
    ]
    title = "% solved, by number of iterations"
    return table(("iterations", *labels(measured).values()), rows, title=title)


def table_places(grid: Sequence[int]) -> list[int]:
    """Indices of the grid that a table has rows for: powers of two, and the last."""
    return [p for p, n in enumerate(grid) if n & (n - 1) == 0 or p == len(grid) - 1]


def labels(measured: "Mapping[str, Evaluation]") -> dict[str, str]:
    """Split -> its label: its name, with its band if all its examples are in one band."""
    texts = {}
    for name, evaluation in measured.items():
        bands = [
            band
            for band, c in evaluation.bands.items()
            if c.examples == evaluation.overall.examples
        ]
        texts[name] = f"{name} ({bands[0]})" if bands and len(evaluation.bands) == 1 else name
    return texts


def sample_line(measured: "Evaluation", examples: int) -> str:
    """The share solved at the end, with a confidence interval if it is from a sample."""
    import numpy as np

    from ..stability import share

    curve = measured.overall
    count, solved = curve.examples, round(curve.scores["exact"][-1] * curve.examples)
    line = f"solved {solved:,} of {count:,}"
    if count == examples:
        return line
    interval = share(np.arange(count) < solved)
    low, high = format_percent(interval.low), format_percent(interval.high)
    return f"{line}, a sample of {examples:,}: between {low} and {high} % (95 % confidence)"


def curve_table(name: str, grid: Sequence[int], curve: "Curve") -> "Table":
    """Scores, convergence and residual of one set of examples, by number of iterations."""
    rows = [
        (
            str(grid[place]),
            *(format_percent(scores[place]) for scores in curve.scores.values()),
            format_percent(curve.converged[place]),
            f"{curve.residual_median[place]:.1e}",
        )
        for place in table_places(grid)
    ]
    columns = ("iterations", *curve.scores, "converged", "median residual")
    return table(columns, rows, title=f"{name}: {curve.examples:,} examples, in %")


def band_table(measured: "Evaluation") -> "Table":
    """One row per difficulty band and one for all: known depth if there is a law for it, scores at
    the end, and at the best iteration."""
    scores = [score for score in measured.overall.scores if score != "cells"]
    rows = []
    bands = measured.bands if len(measured.bands) > 1 else {}
    has_depth = not math.isnan(measured.overall.known_depth)
    for name, curve in {**bands, "all": measured.overall}.items():
        best = curve.overthinking["exact"]
        rows.append(
            (
                name,
                f"{curve.examples:,}",
                *([f"{curve.known_depth:.1f}"] if has_depth else []),
                *(format_percent(curve.scores[score][-1]) for score in scores),
                format_percent(best["best"]),
                f"{best['iterations']:.0f}",
                format_percent(best["penalty"]),
                format_percent(curve.settled),
                format_number(curve.settled_median, ".0f"),
            )
        )
    depth = ["depth"] if has_depth else []
    columns = ("band", "examples", *depth, *scores, "best", "at", "lost", "settled", "median at")
    return table(columns, rows, title=f"after {measured.iterations[-1]} iterations, in %")


def cost_table(name: str, solved: "Solved") -> "Table":
    """The cost of solving: one row per difficulty band and one for all."""
    bands = solved.bands if len(solved.bands) > 1 else {}
    rows = [
        (
            band,
            f"{cost.examples:,}",
            format_percent(cost.solved),
            format_percent(cost.converged),
            f"{cost.evaluations:.1f}",
            format_number(cost.evaluations_per_solved, ".1f"),
            format_number(cost.seconds_per_solved, ".2g"),
        )
        for band, cost in {**bands, "all": solved.overall}.items()
    ]
    columns = ("band", "examples", "solved %", "converged %", "evaluations")
    return table((*columns, "per solved", "s per solved"), rows, title=name)
