"""`eqloop train`: a run from a preset, or one that goes on."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from .. import InputError
from ._output import Json, console, emit, notes
from ._run import SkipBad, accuracy_table, measure, open_model, stop_if_missing

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
        typer.Option(help="unroll, fixed-point, anderson, broyden, newton, chord or steady-state."),
    ] = None,
    gradient: Annotated[
        str | None,
        typer.Option(help="backprop, truncated, one-step, phantom, neumann or implicit."),
    ] = None,
    recall: Annotated[str | None, typer.Option(help="none, external or internal.")] = None,
    norm: Annotated[str | None, typer.Option(help="pre, peri, post or sandwich.")] = None,
    data: Annotated[
        str | None, typer.Option(help="A file or folder; left out, examples are generated.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The run folder; default runs/TASK-001, ...")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="A run folder to go on with, bit for bit.")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Another run, whose spec and best weights a new run begins with."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Optimiser steps in all; with --resume, more than the run has now."),
    ] = None,
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
    metrics.jsonl, checkpoints/, eval/. Ctrl-C saves; --resume RUN goes on from there, and
    --resume RUN --steps N lengthens a run, whose learning rate then follows the schedule over N
    steps. --from RUN begins a new run with the best weights of RUN, and with its spec in place of a
    preset; data.json records the checkpoint. eqloop fields lists what --set knows. Ends
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
    fields = {
        "data": data,
        "recall": recall,
        "norm": norm,
        "solver": solver,
        "gradient": gradient,
        "steps": steps,
        "seed": seed,
    }
    if start is not None and preset is not None:
        raise InputError(f"--from {start}: begins with the spec of that run; leave out --preset")
    if resume is not None:
        others = {"task": task, "preset": preset, **fields, "out": out, "from": start}
        others |= {"set": settings or None, "skip-bad": skip_bad or None, "steps": None}
        given = [name for name, value in others.items() if value is not None]
        if given:
            raise InputError(
                f"--resume {resume}: goes on as its spec.toml says; leave out --{given[0]}"
            )

    from ..run import Spec, open_run, overlay, resolve, trained_iterations
    from ..tasks import make_task
    from ..train import (
        Diverged,
        LostProcess,
        broadcast_json,
        exit_now,
        is_main_process,
        join_processes,
        raise_on_all,
        same_spec,
        shutdown,
    )
    from ..train import train as run_training

    def wanted() -> Spec | None:
        if resume is not None:
            return open_run(resume).spec if is_main_process() else None
        wishes = [*(settings or ()), *(["task.skip_bad=true"] if skip_bad else ())]
        if start is not None:
            tables = open_run(start).spec.tables()
            same_task = tables["task"].pop("name") == name
            tables |= {} if same_task else {"task": {}}
            return overlay(tables, name, wishes, make_task=make_task, **fields)
        return resolve(name, preset or "quick", wishes, make_task=make_task, **fields)

    def made_with() -> object:
        return None if resume is None else open_run(resume).manifest.get("version")

    name = task or ("prefix-sums" if start is None else open_run(start).spec.task_name)
    waiting = partial(notes().print, markup=False, soft_wrap=True)
    join_processes(coordinator, num_processes, process_id, timeout=join_timeout, say=waiting)
    try:
        spec = same_spec(raise_on_all(wanted))
        built = make_task(spec.task_name, spec.task_fields, broadcast_json(made_with))
        outcome = run_training(
            spec,
            built,
            resume or out,
            resume=resume is not None,
            steps=steps if resume is not None else None,
            start=start,
            console=notes(),
        )
        path = outcome.run.path
        writes = is_main_process()
        shutdown()
    except Diverged as error:
        if is_main_process():
            notes().print(f"error: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except LostProcess as error:
        notes().print(f"error: {error}", markup=False, soft_wrap=True)
        exit_now(1)
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
