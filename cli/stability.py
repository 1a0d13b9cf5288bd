"""`eqloop stability CKPT`: does the loop converge, depend on the input, and have good gradients?"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer

from .. import InputError
from .._stability_report import StabilityReport
from ._check import check_claim
from ._compare import AXES, compare_runs, numbers_table, outcomes_table, tests_table
from ._output import Json, console, emit, finishing, notes, progress_of_work
from ._plot import check_plot, warn_no_matplotlib
from ._run import Checkpoint, TaskOfRun, open_checkpoint, source_of

_PLAYED = 4
_Census = Literal["off", "quick", "full"]


def stability(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="CKPT", help="Read this run folder, or this checkpoint file of a run."
        ),
    ] = None,
    task_data: Annotated[
        Path | None,
        typer.Option(
            help="Read this file of puzzles instead of the data of the run, split by the same rule."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Examine loops on examples of this split.")] = "hard",
    examples: Annotated[
        int,
        typer.Option(
            "--examples",
            "--rows",
            min=0,
            help="Examine this number of examples, evenly spread over the split, or all for 0.",
        ),
    ] = 16,
    detail: Annotated[
        int,
        typer.Option(
            min=1,
            help="Differentiate this number of examples, and also start them from other states.",
        ),
    ] = 8,
    iterations: Annotated[
        int, typer.Option(min=16, max=10**7, help="Iterate every loop this number of times.")
    ] = 256,
    rtol: Annotated[
        float,
        typer.Option(help="Call a loop settled when its relative residual is below this number."),
    ] = 1e-4,
    census: Annotated[
        _Census,
        typer.Option(
            help="Take a census of how loops end and whether they are right: quick for the "
            "examined examples, full for all examples of the split and more restarts, or off. "
            "Both also search for fixed points that no loop reaches, and compare exponents with "
            "float64; full also measures basins and edge states, and takes much longer."
        ),
    ] = "quick",
    seed: Annotated[int, typer.Option(min=0, help="Use this random seed.")] = 0,
    compare: Annotated[
        bool, typer.Option("--compare", help="Print the reports of several runs side by side.")
    ] = False,
    check: Annotated[
        str | None,
        typer.Option(
            help="Check one claim instead: clusters, sensitivity, return, scan, gradients "
            "or scalar. The claim is checked on CKPT or, without CKPT, on untrained models of "
            "every recall."
        ),
    ] = None,
    scalar: Annotated[
        bool,
        typer.Option("--scalar", help="Examine the paper's scalar model, as --check scalar does."),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Write the picture of --check into this file (.png, .svg or .pdf)."),
    ] = None,
    checkpoint: Checkpoint = "best",
    task_class: TaskOfRun = None,
    as_json: Json = False,
) -> None:
    """Measure the limits of the loops of a model.

    The report makes three statements and no score: whether iteration reaches fixed points, whether
    these depend on the input, and what that means for gradients. Each statement has its numbers and
    the prediction of the paper's framework for this recall and norm placement. Four tests say
    whether the fixed points compute the answer, or whether the loop only settles. A census counts
    how the loops end against whether their answers are right.

    The command reads CKPT and its data. It writes RUN/stability/: report.json (all results, example
    by example), report.html (one page, with a player of the boards), and its figures; with
    --task-data it writes RUN/stability.HASH/, unless the examples are those of the run. With
    --compare it reads the reports and writes nothing; with --check it writes the picture that
    --plot names.

    The defaults take about three minutes for a small model on two cores, and one minute once its
    programs are kept. Larger numbers give narrower intervals.

    Example: eqloop stability runs/prefix-sums-001 --examples 64 --detail 16 --iterations 512
    """
    runs = paths or []
    if not 0 < rtol < 1:
        raise InputError(f"--rtol {rtol:g}: must be between 0 and 1")
    if scalar and check not in (None, "scalar"):
        raise InputError(f"--scalar is --check scalar: leave out --check {check}")
    check = "scalar" if scalar else check
    if plot is not None:
        if check is None:
            raise InputError("--plot requires --check: the figures of a report are in its folder")
        check_plot(plot)
    if task_class is not None and (compare or not runs):
        raise InputError(f"--task {task_class} has no effect without a CKPT to load: leave it out")
    if compare:
        compare_runs(runs, as_json)
        return
    if check is not None:
        check_claim(
            check,
            runs,
            checkpoint,
            split,
            task_data,
            task_class,
            examples,
            iterations,
            seed,
            plot,
            as_json,
        )
        return
    if len(runs) != 1:
        raise InputError("name one run folder or checkpoint (several require --compare)")
    _report(
        runs[0],
        checkpoint,
        split,
        task_data,
        task_class,
        examples,
        detail,
        iterations,
        rtol,
        census,
        seed,
        as_json,
    )


def _report(
    path: Path,
    checkpoint: str,
    split: str,
    task_data: Path | None,
    task_class: str | None,
    examples: int,
    detail: int,
    iterations: int,
    rtol: float,
    census: _Census,
    seed: int,
    as_json: bool,
) -> None:
    import importlib.util

    import jax.random as jr
    import numpy as np

    from .._evenly import evenly
    from ..claims import examine, planned
    from ..evaluate import at_most, player
    from ..report import write_stability
    from ..run import save_stability

    model, task, opened, step, splits = open_checkpoint(
        path, checkpoint, split, task_data, task_class
    )
    counts = {name: min(len(part), examples or len(part)) for name, part in splits.items()}
    available = len(splits[split])
    plan = planned(counts, split, detail, iterations, census=census, available=available)
    plan["player"] = _PLAYED * iterations
    total_work = sum(plan.values())
    notes().print(
        f"measuring {', '.join(plan)}: {counts[split]} of {available:,} examples of "
        f"{split}, {min(detail, counts[split])} of them in detail, {iterations} iterations; "
        f"about the work of {round(total_work, -4):,} evaluations of the loop, with compilation",
        markup=False,
        soft_wrap=True,
    )
    with progress_of_work("stability") as bar:

        def show(name: str, done: int, total: int | None) -> None:
            del total
            bar(done, total_work, name)

        report = examine(
            model,
            task,
            splits,
            opened.spec,
            split=split,
            examples=examples,
            iterations=iterations,
            rtol=rtol,
            detail=detail,
            census=census,
            key=jr.key(seed),
            progress=show,
            concurrent=True,
        )
        source = {"run": str(opened.path), "step": step, "task": task.name, "seed": seed}
        report = dataclasses.replace(report, settings=report.settings | source)
        bar(total_work - plan["player"], total_work, "player")
        # Of those measured in detail, whose orbits the report has.
        indices = evenly(counts[split], detail)
        indices = indices[evenly(len(indices), _PLAYED)].tolist()
        shown = at_most(splits[split], examples).take(np.array(indices))
        names = [
            f"{split} {index + 1}, difficulty {difficulty:g}"
            for index, difficulty in zip(indices, shown.difficulty, strict=True)
        ]
        played = player(
            model, task, shown, names=names, iterations=iterations, rtol=rtol, indices=indices
        )
    has_matplotlib = importlib.util.find_spec("matplotlib") is not None
    with finishing():
        data = None if task_data is None else source_of(opened, task_data, split, splits[split])
        folder = save_stability(opened.path, report, played, source=data)
        written = write_stability(folder) if has_matplotlib else []
    if as_json:
        emit({"run": opened.path, **report.tables()})
    else:
        _print_report(opened.path, report)
    wrote = [folder / "report.json", *written[:1]]
    notes().print("wrote " + ", ".join(map(str, wrote)), markup=False, soft_wrap=True)
    if not has_matplotlib:
        warn_no_matplotlib()


def _print_report(run: Path, report: StabilityReport) -> None:
    out = console()
    settings = report.settings
    out.print(
        f"{run}: {settings['task']}, step {settings['step']}; {settings['examples']} examples of "
        f"{settings['split']}, {settings['iterations']} iterations, {settings['seconds']:.0f} s\n",
        markup=False,
        soft_wrap=True,
    )
    for axis, name in AXES.items():
        statement = report.verdict[axis]
        out.print(f"{name}: {statement.verdict}", style="bold")
        out.print(f"  {statement.because}", markup=False, soft_wrap=True)
        claim = (report.predicted or {}).get(axis)
        if claim is not None:
            agrees = {True: "confirmed", False: "contradicted", None: "undecided"}
            out.print(
                f"  predicted: {claim.claim} ({agrees[claim.agrees]})",
                markup=False,
                soft_wrap=True,
            )
    if report.precision_warning is not None:
        out.print(f"\nprecision: {report.precision_warning}", markup=False, soft_wrap=True)
    out.print()
    out.print(numbers_table({str(run.name): report}))
    out.print()
    if report.census is not None:
        out.print(outcomes_table({str(run.name): report}))
        out.print()
    out.print(tests_table({str(run.name): report}))
