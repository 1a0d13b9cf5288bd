"""`eqloop train`: a run from a preset, or one that goes on."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from .. import InputError
from ..run import GRADIENTS, NORMS, RECALLS, SOLVERS
from ._output import Json, console, emit, notes
from ._run import SkipBad, accuracy_table, choice, measure, open_model, stop_if_missing

_ROWS, _LONGER = 500, 8
"""Examples of each split for the table at the end, and how many times as many iterations as in
training: `eqloop eval` takes more of both."""


def train(
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="prefix-sums (default), sudoku or chess.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="quick (default: minutes on a laptop) or paper.")
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(help=choice("How the loop is solved", SOLVERS, "eqloop.solvers")),
    ] = None,
    gradient: Annotated[
        str | None,
        typer.Option(help=choice("How the loop is differentiated", GRADIENTS, "eqloop.gradients")),
    ] = None,
    recall: Annotated[
        str | None, typer.Option(help=choice("Where the input is added", RECALLS))
    ] = None,
    norm: Annotated[
        str | None, typer.Option(help=choice("Where the block normalises", NORMS))
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="A file or folder; left out, examples are generated.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The run folder; default runs/TASK-001, ...")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="A run folder to go on with, bit for bit.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order and augmentation.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any field, as GROUP.FIELD=VALUE; repeatable."),
    ] = None,
    coordinator: Annotated[
        str | None,
        typer.Option(help="Of several processes: HOST:PORT where all of them reach the first."),
    ] = None,
    num_processes: Annotated[int | None, typer.Option(help="How many there are.")] = None,
    process_id: Annotated[int | None, typer.Option(help="Which one this is, from 0.")] = None,
    join_timeout: Annotated[
        int, typer.Option(min=1, max=10**6, help="Seconds that each waits for the others.")
    ] = 120,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Train a looped transformer, then evaluate it.

    Reads the file that --data names, or nothing. Writes the run folder: spec.toml, data.json,
    metrics.jsonl, checkpoints/, eval/. Ctrl-C saves; --resume RUN goes on from there. The fields
    that --set knows are those of a spec.toml, in the groups task, model, solver and train. Ends
    with a table of accuracy against iterations on the splits test and hard. Exits with 1 where it
    was stopped before its end: by Ctrl-C, a loss that is no longer finite, or a lost process.

    Refuses a run that the machine has not the memory for, by an estimate from its spec;
    EQLOOP_MEMORY_CHECK=off in the environment lets it try.

    Uses all devices that it sees, each for a part of the batch. Started by srun or mpirun as
    several processes, or with --coordinator, --num-processes and --process-id in each, it trains on
    the devices of them all; the first process reads and writes the run folder. HOST:PORT has no
    password: it belongs on a trusted network.

    Example: eqloop train --task sudoku --set model.width=128
    """
    from .._build import make_outside, outside_class, reference_of

    fields = {
        "data": data,
        "recall": recall,
        "norm": norm,
        "solver": solver,
        "gradient": gradient,
        "steps": steps,
        "seed": seed,
    }
    classes = {
        "solver": outside_class("solver", solver),
        "gradient": outside_class("gradient", gradient),
    }
    for option, cls in classes.items():
        if cls is not None:
            # The spec of a run that goes on names the class already.
            fields[option] = reference_of(cls) if resume is None else None
    if resume is not None:
        others = {"task": task, "preset": preset, **fields, "out": out}
        others |= {"set": settings or None, "skip-bad": skip_bad or None}
        given = [name for name, value in others.items() if value is not None]
        if given:
            raise InputError(
                f"--resume {resume}: goes on as its spec.toml says; leave out --{given[0]}"
            )

    from ..run import Spec, open_run, resolve, trained_iterations
    from ..tasks import make_task
    from ..train import Diverged, Lost, abandon, agreed, first, from_first, join, leave, same_spec
    from ..train import train as run_training

    def wanted() -> Spec | None:
        if resume is not None:
            return open_run(resume).spec if first() else None
        wishes = [*(settings or ()), *(["task.skip_bad=true"] if skip_bad else ())]
        return resolve(name, preset or "quick", wishes, make_task=make_task, **fields)

    def made_with() -> object:
        return None if resume is None else open_run(resume).manifest.get("version")

    name = task or "prefix-sums"
    waiting = partial(notes().print, markup=False, soft_wrap=True)
    join(coordinator, num_processes, process_id, timeout=join_timeout, say=waiting)
    try:
        spec = same_spec(agreed(wanted))
        built = make_task(spec.task_name, spec.task_fields, from_first(made_with))
        objects = {
            option: make_outside(cls, spec.solver)
            for option, cls in classes.items()
            if cls is not None
        }
        outcome = run_training(
            spec if resume is None else None,
            built,
            resume or out,
            resume=resume is not None,
            console=notes(),
            **objects,
        )
        path = outcome.run.path
        writes = first()
        leave()
    except Diverged as error:
        if first():
            notes().print(f"error: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except Lost as error:
        notes().print(f"error: {error}", markup=False, soft_wrap=True)
        abandon(1)
    if outcome.status == "interrupted":
        raise typer.Exit(1)
    if not writes:
        return
    model, built, opened, step = open_model(path, "best")
    loaded = built.load()
    splits = {name: loaded.splits[name] for name in ("test", "hard")}
    iterations = min(512, _LONGER * trained_iterations(spec)[1])
    measured = measure(opened, step, model, built, splits, iterations=iterations, rows=_ROWS)
    if as_json:
        emit(
            {
                "run": path,
                "task": built.name,
                "steps": outcome.step,
                "best": outcome.best,
                "splits": {name: each.tables() for name, each in measured.items()},
            }
        )
        stop_if_missing(splits, measured, f"eqloop eval {path} measures")
        return
    shown = console()
    shown.print(accuracy_table(measured))
    shown.print(f"\nrun: {path}   next: eqloop eval {path}", markup=False, soft_wrap=True)
    stop_if_missing(splits, measured, f"eqloop eval {path} measures")
