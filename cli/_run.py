"""What `train`, `eval` and `solve` share: a model out of a run folder, and tables of figures."""

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
    from ..run import Run


def choice(meaning: str, names: Mapping[str, Any], group: str | None = None) -> str:
    """The help of an option that takes a name of a table or, with the entry-point group of them, a
    class from outside the package."""
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
    bool, typer.Option("--skip-bad", help="Go on past bad rows of a file, and count them.")
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
        help="Begin each puzzle from this number of starts with --budget; all but one are noisy.",
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
        + " The default is the run's own solver if it stops by itself, else fixed-point."
    ),
]


INTERRUPTED = 130
"""The exit code of what Ctrl-C stopped, as shells have it."""
WORK = 2.5e12
"""Floating-point operations of an evaluation without `rows`, about a minute of two cores."""
ITERATIONS = 512
"""Where neither --iterations nor --budget is given."""


def refuse_idle_options(budget: int | None, iterations: int | None, **with_budget: Any) -> None:
    """What would have no effect is not passed over in silence."""
    if budget is not None and iterations is not None:
        raise InputError("--iterations has no effect with --budget: leave out one of them")
    for name, value in with_budget.items():
        if budget is None and value is not None:
            raise InputError(f"--{name} needs --budget, the evaluations that each start may take")


def open_model(
    run: Path, checkpoint: str, task_class: str | None = None, **fields: Any
) -> "tuple[Any, Task, Run, int]":
    """The model, the task (with `fields` in place of those of the run), the opened run, and the
    step that the checkpoint is of. `task_class` is what `--task` says."""
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
        told = ", ".join(sorted(tasks))
        raise InputError(f"--task {task_class}: is {name}, and the task of {place} is {told}")


def load_splits(
    run: "Run", task: "Task", split: str | None, *, same: bool = True
) -> "dict[str, Split]":
    """One split, or all but that for training; with `same` as the run was trained with."""
    with progress("reading the data") as report:
        loaded = task.load(progress=report)
    if split is not None and split not in loaded.splits:
        raise InputError(f"--split {split}: there are {', '.join(loaded.splits)}")
    wanted = [split] if split else [name for name in loaded.splits if name != "train"]
    if same:
        _same(run, loaded.manifest, wanted)
    return {name: loaded.splits[name] for name in wanted}


def open_checkpoint(
    path: Path, checkpoint: str, split: str, task_data: Path | None, task_class: str | None
) -> "tuple[Any, Task, Run, int, dict[str, Split]]":
    """The model, the task, the run, the step, and the splits to look at."""
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
        raise InputError(f"--split {split}: there are {', '.join(splits)}")
    splits = {name: each for name, each in splits.items() if name in {"test", "hard", split}}
    return model, task, opened, step, splits


def _same(run: "Run", manifest: Mapping[str, Any], wanted: list[str]) -> None:
    """Splits made from a file that has changed may hold examples that the run was trained on."""
    for name in wanted:
        now, then = (each.get("splits", {}).get(name) for each in (manifest, run.manifest))
        if now != then:
            raise InputError(
                f"the data of {run.path} has changed since it was trained ({name} is no longer the "
                "same): restore the file, or see `eqloop eval --data`"
            )


def describe_plan(splits: "Mapping[str, Split]", iterations: int, rows: int | None) -> str:
    """What an evaluation is going to do, in one line."""
    names = ", ".join(f"{name} ({len(split):,})" for name, split in splits.items())
    if rows is None:
        sample = "a random sample of each, about a minute of work on two cores (--rows 0: all)"
    else:
        sample = f"at most {rows:,} examples of each" if rows else "all examples"
    return f"evaluating {names}: {iterations} iterations at most, {sample}"


def measure(
    run: "Run",
    step: int,
    model: Any,
    task: "Task",
    splits: "Mapping[str, Split]",
    *,
    iterations: int,
    rows: int | None,
) -> "dict[str, Evaluation]":
    """Evaluate on each split, at most `rows` examples of it (0: all), and save the results. With
    None for `rows` the splits share `WORK` equally, and what one does not need goes to the next.

    Where Ctrl-C stops it, returns the splits that were done: see `stop_if_missing`."""
    import jax

    from ..evaluate import at_most
    from ..evaluate import measure as measure_split

    # The products with the weights of the blocks are nearly all of the work.
    weights = sum(leaf.size for leaf in jax.tree.leaves(model.blocks) if hasattr(leaf, "size"))
    per_iteration = {
        name: 2 * weights * math.prod(split.inputs.shape[1:]) for name, split in splits.items()
    }
    bound = {
        name: len(at_most(split, rows or 0)) * iterations * per_iteration[name]
        for name, split in splits.items()
    }
    if rows is None:
        bound = {name: min(most, WORK / len(splits)) for name, most in bound.items()}
    measured, done, left = {}, 0.0, WORK
    with _whole_splits(measured), progress_of_work("evaluating") as report:
        for number, (name, split) in enumerate(splits.items()):
            spent = 0

            def show(now: int, most: int, name=name, before=done) -> None:
                nonlocal spent
                spent = now
                part = before + now / most * bound[name]
                report(int(part), int(sum(bound.values())), f"evaluating {name}")

            show(0, 1)
            work = left / (len(splits) - number) / per_iteration[name] if rows is None else None
            measured[name] = measure_split(
                run, step, model, task, name, split,
                iterations=iterations, rows=rows or 0, work=work, progress=show,
            )  # fmt: skip
            done += bound[name]
            left -= spent * per_iteration[name]
    return measured


@contextmanager
def _whole_splits(done: Mapping[str, Any]) -> Iterator[None]:
    """Where one split is done, Ctrl-C ends the work on the others and not the command."""
    try:
        yield
    except KeyboardInterrupt:
        if not done:
            raise


def stop_if_missing(splits: Mapping[str, Any], done: Mapping[str, Any], again: str) -> None:
    """The last word of a command that Ctrl-C stopped before all of its splits were done."""
    missing = [name for name in splits if name not in done]
    if missing:
        said = f"stopped before {', '.join(missing)}, which {again}"
        notes().print(said, markup=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED)


def spend(
    run: "Run",
    step: int,
    model: Any,
    task: "Task",
    splits: "Mapping[str, Split]",
    *,
    rows: int,
    solver: str | None,
    **options: Any,
) -> "dict[str, Solved]":
    """Solve the examples of each split, `options` being those of `eqloop.evaluate.solve`, and save
    the results; stopped by Ctrl-C as `measure`."""
    from .._build import named_solver
    from ..evaluate import at_most, solve
    from ..run import CostRecord, Sample, save_cost

    name_of_solver, made = named_solver(run.spec.solver, solver)
    asked = {name: options[name] for name in ("budget", "restarts", "select")}
    solved = {}
    with _whole_splits(solved):
        for name, split in splits.items():
            some = at_most(split, rows)
            with progress(f"solving {name}") as report:
                found = solve(model, task, some, solver=made, progress=report, **options)
            sample = Sample(
                task=task.name, split=name, step=step, rows=len(some), rows_of_split=len(split)
            )
            record = CostRecord(
                sample=sample, solver=name_of_solver, rtol=float(made.rtol), **asked, solved=found
            )
            save_cost(run.path, name, record)
            solved[name] = found
    return solved


def accuracy_table(measured: "Mapping[str, Evaluation]") -> "Table":
    """Share of examples solved: iterations down, splits across."""
    grid = next(iter(measured.values())).iterations
    rows = [
        (
            str(grid[place]),
            *(format_percent(each.overall.scores["exact"][place]) for each in measured.values()),
        )
        for place in shown(grid)
    ]
    title = "solved after so many iterations, in %"
    return table(("iterations", *labels(measured).values()), rows, title=title)


def shown(grid: Sequence[int]) -> list[int]:
    """Places in the grid that a table has lines for: the powers of two, and the last."""
    return [p for p, n in enumerate(grid) if n & (n - 1) == 0 or p == len(grid) - 1]


def labels(measured: "Mapping[str, Evaluation]") -> dict[str, str]:
    """Split -> its name, with its band where all of its examples are in one."""
    found = {}
    for name, each in measured.items():
        only = [band for band, c in each.bands.items() if c.examples == each.overall.examples]
        found[name] = f"{name} ({only[0]})" if only and len(each.bands) == 1 else name
    return found


def sample_line(measured: "Evaluation", examples: int) -> str:
    """The share solved in the end, and how sure that is where a sample of `examples` was taken."""
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
    """Everything that is known of one set of examples, iteration by iteration."""
    rows = [
        (
            str(grid[place]),
            *(format_percent(scores[place]) for scores in curve.scores.values()),
            format_percent(curve.converged[place]),
            f"{curve.residual_median[place]:.1e}",
        )
        for place in shown(grid)
    ]
    columns = ("iterations", *curve.scores, "converged", "median residual")
    return table(columns, rows, title=f"{name}: {curve.examples:,} examples, in %")


def band_table(measured: "Evaluation") -> "Table":
    """One line for each difficulty band and one for all: where it ends, and where it was best."""
    scores = [score for score in measured.overall.scores if score != "cells"]
    rows = []
    bands = measured.bands if len(measured.bands) > 1 else {}
    for name, curve in {**bands, "all": measured.overall}.items():
        best = curve.overthinking["exact"]
        rows.append(
            (
                name,
                f"{curve.examples:,}",
                *(format_percent(curve.scores[score][-1]) for score in scores),
                format_percent(best["best"]),
                f"{best['iterations']:.0f}",
                format_percent(best["penalty"]),
                format_percent(curve.settled),
                format_number(curve.settled_median, ".0f"),
            )
        )
    columns = ("band", "examples", *scores, "best", "at", "lost", "settled", "median at")
    return table(columns, rows, title=f"after {measured.iterations[-1]} iterations, in %")


def cost_table(name: str, solved: "Solved") -> "Table":
    """What it cost: one line for each difficulty band and one for all."""
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
