"""`eqloop train`: begin a run, or continue one."""

import dataclasses
import os
import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import InputError
from .._numbers import format_duration
from ..run import GRADIENTS, NORMS, RECALLS, SOLVERS, presets
from ._output import Json, console, emit, notes
from ._run import (
    SkipBad,
    accuracy_table,
    check_task,
    choice,
    measure,
    open_model,
    stop_if_missing,
)

if TYPE_CHECKING:
    from ..run import Spec
    from ..train import Outcome

_ROWS, _LONGER = 500, 8
"""For the table at the end: number of examples per split, and number of iterations relative to
training. `eqloop eval` uses more of both."""


def train(
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            "-t",
            help="Train on this task: prefix-sums (the default), sudoku, chess, maze, group-words, "
            "or FILE.py:CLASS. With --resume a class of a file is named again.",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help=f"Begin from this preset: {', '.join(presets())}. The default is quick, which "
            "takes minutes on a laptop; a preset that has nothing for the task is refused."
        ),
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(help=choice("Run the loop by", SOLVERS, "eqloop.solvers")),
    ] = None,
    gradient: Annotated[
        str | None,
        typer.Option(help=choice("Differentiate the loop by", GRADIENTS, "eqloop.gradients")),
    ] = None,
    recall: Annotated[
        str | None, typer.Option(help=choice("Give the input to the loop by", RECALLS))
    ] = None,
    norm: Annotated[
        str | None, typer.Option(help=choice("Place the norms in the block by", NORMS))
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Read examples from this file or folder. Without it, they are generated."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Write the run into this folder. The default is runs/TASK-001, then "
            "runs/TASK-002, ...",
        ),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with this run folder, bit for bit.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Make this number of optimiser steps.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Draw weights, order and augmentation from this seed.")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Begin a new run with the spec and the best weights of this run."
        ),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--from-raw", help="Begin with the raw weights, not their average.")
    ] = False,
    moments: Annotated[
        bool, typer.Option("--from-moments", help="Begin with the moments of the optimiser, too.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Set any field, as GROUP.FIELD=VALUE. The option can be repeated."
        ),
    ] = None,
    coordinator: Annotated[
        str | None,
        typer.Option(help="Train in several processes, which meet the first one at HOST:PORT."),
    ] = None,
    num_processes: Annotated[
        int | None, typer.Option(help="Expect this number of processes.")
    ] = None,
    process_id: Annotated[
        int | None, typer.Option(help="Take this place among the processes, from 0.")
    ] = None,
    join_timeout: Annotated[
        int,
        typer.Option(min=1, max=10**6, help="Wait this number of seconds for the other processes."),
    ] = 120,
    skip_bad: SkipBad = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only print the spec of the run, the memory that it needs, its FLOPs, and about "
            "how long it takes.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a looped transformer, then evaluate it.

    Reads the file of --data, or nothing. Writes the run folder: spec.toml, data.json,
    metrics.jsonl, checkpoints/, eval/. Ctrl-C saves a checkpoint; --resume RUN continues from it.
    --resume RUN --steps N lengthens a run, and its learning rate then follows the schedule over N
    steps. --from RUN begins a new run with the best weights of RUN, and with its spec in place of a
    preset, but for its phases; data.json records the checkpoint. eqloop fields lists the fields of
    --set. At the end the command prints a table of accuracy against iterations on the splits test
    and hard. It exits with 1 if it was stopped early by Ctrl-C, by a loss that is not finite, or by
    a lost process.

    The command refuses a run whose estimated memory exceeds that of the machine;
    EQLOOP_MEMORY_CHECK=off in the environment turns the check off.

    The command uses all visible devices, each for a part of the batch. If srun or mpirun starts
    several processes, or every process gets --coordinator, --num-processes and --process-id, it
    trains on the devices of all processes; the first process reads and writes the run folder.
    HOST:PORT has no password: use it on a trusted network only.

    Example: eqloop train --task sudoku --set model.width=128
    """
    from .._outside import outside_class, reference_of

    fields = {
        "data": data,
        "recall": recall,
        "norm": norm,
        "solver": solver,
        "gradient": gradient,
        "steps": steps,
        "seed": seed,
    }
    if start is None and (raw or moments):
        option = "--from-raw" if raw else "--from-moments"
        raise InputError(f"{option}: is of a run to begin from; name it with --from RUN")
    if start is not None and preset is not None:
        raise InputError(f"--from {start}: begins with the spec of that run; leave out --preset")
    classes = {
        "solver": outside_class("solver", solver),
        "gradient": outside_class("gradient", gradient),
    }
    for option, cls in classes.items():
        if cls is not None:
            # The spec of a resumed run already names the class.
            fields[option] = reference_of(cls) if resume is None else None
    if resume is not None:
        others = {"preset": preset, **fields, "out": out, "from": start}
        others |= {"set": settings or None, "skip-bad": skip_bad or None, "steps": None}
        others |= {"dry-run": dry_run or None}
        conflicts = [name for name, value in others.items() if value is not None]
        if conflicts:
            raise InputError(
                f"--resume {resume}: goes on as its spec.toml says; leave out --{conflicts[0]}"
            )

    from ..run import open_run
    from ..tasks import named, task_of_run

    name = named(task or ("prefix-sums" if start is None else open_run(start).spec.task_name))
    new_spec = None
    if resume is None:
        # A mistake in the options is told before JAX is imported, and before any process waits.
        all_settings = [*(settings or ()), *(["task.skip_bad=true"] if skip_bad else ())]
        new_spec = _new_spec(name, preset, start, all_settings, fields)
    if new_spec is not None and dry_run:
        _dry_run(new_spec, as_json)
        return

    from .._build import make_outside
    from ..train import (
        Diverged,
        LostProcess,
        Start,
        broadcast_json,
        exit_now,
        is_main_process,
        join_processes,
        raise_on_all,
        same_spec,
        shutdown,
    )
    from ..train import train as run_training

    def spec_of_run() -> "Spec | None":
        if resume is None or not is_main_process():
            return new_spec
        spec = open_run(resume).spec
        if task is not None:
            check_task(task, {spec.task_name}, resume)
        return spec

    def manifest() -> Mapping[str, Any]:
        return {} if resume is None else open_run(resume).manifest

    say = partial(notes().print, markup=False, soft_wrap=True)
    join_processes(coordinator, num_processes, process_id, timeout=join_timeout, say=say)
    try:
        spec = same_spec(raise_on_all(spec_of_run))
        built = task_of_run(spec.task_name, spec.task_fields, broadcast_json(manifest))
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
            steps=steps if resume is not None else None,
            start=None if start is None else Start(start, "raw" if raw else "average", moments),
            console=notes(),
            **objects,
        )
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
    _evaluate(outcome, as_json, f" --task {task}" if task and task != name else "")


def _new_spec(
    name: str, preset: str | None, start: Path | None, settings: list[str], fields: dict[str, Any]
) -> "Spec":
    """The spec of a new run on the task `name`, from a preset or from another run."""
    from ..run import open_run, overlay, resolve
    from ..tasks import make_task

    if start is None:
        return resolve(name, preset or "quick", settings, make_task=make_task, **fields)
    tables = open_run(start).spec.tables()
    tables.pop("phases", None)  # what prepares random weights
    if tables["task"].pop("name") != name:
        tables["task"] = {}
    return overlay(tables, name, settings, make_task=make_task, **fields)


def _dry_run(spec: "Spec", as_json: bool) -> None:
    """Print what a new run would be."""
    from ..sweep import count, measure_rate
    from ..train import memory_needed

    rate = measure_rate(spec)
    cost, memory = count(spec.model), memory_needed(spec)
    flops = cost.training(spec)
    if as_json:
        emit(
            {"spec": spec.tables(), "parameters": cost.parameters, "memory_bytes": memory}
            | {"flops": flops, "seconds": flops / rate, "flops_per_s": rate}
        )
        return
    total = sum(memory.values()) / 2**20
    console().print(
        f"{spec.to_toml()}\n{cost.parameters:,} parameters, at least {total:,.0f} MiB of memory\n"
        f"training: {flops:.1e} FLOPs, about {format_duration(flops / rate)} at the "
        f"{rate / 1e9:.1f} GFLOP/s that it is estimated to reach here; compilation, validation and "
        "the table at the end come on top\nnothing was written",
        markup=False,
        soft_wrap=True,
    )


_LONGEST = 200
"""Letters of a puzzle that is suggested to be solved."""


def suggestions(path: Path, puzzle: str, task_option: str) -> list[str]:
    """What to do with a new run: lines for a shell, with a puzzle of its test split. Each command
    takes at most about a minute."""
    commands = [("plot", "", "a second: loss, right answers and convergence over the steps")]
    if 0 < len(puzzle) <= _LONGEST and puzzle.isprintable():
        solve = f" {shlex.quote(puzzle)}{task_option}"
        commands += [("solve", solve, "seconds: one test puzzle, as the loop solves it")]
    meaning = "about a minute: residual, convergence and difficulty, up to 512 iterations"
    commands += [("eval", task_option, meaning)]
    # Where uv has started this command, a shell has no `eqloop` of its own.
    eqloop = "uv run eqloop" if "UV_RUN_RECURSION_DEPTH" in os.environ else "eqloop"
    run = shlex.quote(str(path))
    return ["next, with the time on two cores:"] + [
        f"  {eqloop} {name} {run}{rest}  # {meaning}" for name, rest, meaning in commands
    ]


def _evaluate(outcome: "Outcome", as_json: bool, task_option: str) -> None:
    """Evaluate a finished run and print the result. The next command needs `task_option`."""
    from ..run import trained_iterations

    path = outcome.run.path
    model, task, opened, step = open_model(path, "best")
    loaded = task.load()
    splits = {name: loaded.splits[name] for name in ("test", "hard")}
    iterations = min(512, _LONGER * trained_iterations(opened.spec)[1])
    measured = measure(opened, step, model, task, splits, iterations=iterations, rows=_ROWS)
    again = f"eqloop eval {path}{task_option}"
    if as_json:
        emit(
            {
                "run": path,
                "task": task.name,
                "steps": outcome.step,
                "best": dataclasses.asdict(outcome.best) if outcome.best else None,
                "splits": {name: evaluation.tables() for name, evaluation in measured.items()},
            }
        )
    else:
        out = console()
        out.print(accuracy_table(measured))
        puzzle = splits["test"].puzzles[0].decode(errors="replace")
        lines = suggestions(path, puzzle, task_option)
        out.print("\n".join(["", f"run: {path}", *lines]), markup=False, soft_wrap=True)
    stop_if_missing(splits, measured, f"{again} measures")
