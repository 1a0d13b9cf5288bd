"""`eqloop solve RUN PUZZLE`: one puzzle, and how its answer comes about."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import InputError
from ._output import Json, console, emit, table
from ._run import (
    ITERATIONS,
    Budget,
    Checkpoint,
    Restarts,
    Select,
    SolverName,
    TaskOfRun,
    open_model,
    refuse_idle_options,
)

if TYPE_CHECKING:
    from .._task import Split, Task
    from ..evaluate import Solved

_FRAMES = 6
_LONGEST = 2**20
"""Bytes of a puzzle at most."""
_VERDICT = {True: "right", False: "wrong", None: "cannot be checked"}


def solve(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Read this run folder.")],
    puzzle: Annotated[
        str,
        typer.Argument(
            metavar="PUZZLE",
            help="Solve this bit string, sudoku or FEN (in quotes), the one in this file, "
            "or that on standard input (-).",
        ),
    ],
    iterations: Annotated[
        int | None,
        typer.Option(
            min=1, max=2**31 - 1, help="Iterate at most this number of times. The default is 512."
        ),
    ] = None,
    rtol: Annotated[
        float,
        typer.Option(min=0.0, help="Stop when the relative residual falls below this number."),
    ] = 1e-4,
    budget: Budget = None,
    restarts: Restarts = None,
    select: Select = None,
    solver: SolverName = None,
    checkpoint: Checkpoint = "best",
    task_class: TaskOfRun = None,
    as_json: Json = False,
) -> None:
    """Solve one puzzle and show how.

    Prints the board as it changes over the loop, then the answer and whether it is right. With
    --budget in place of --iterations: a solver, from one start or several; prints where each start
    got to, how many agree with it, and the answer of the one that was chosen.

    A puzzle may be pasted as it is: a sudoku with a frame, over several lines, with any usual sign
    for a blank; a line of a chess position list, whose `bm` is then the answer.

    Where the model is wrong and the right answer is known, prints that too.

    Reads RUN (its spec and a checkpoint) and PUZZLE. Writes nothing. Exits with 0 where the answer
    is right by the rules, 1 where it is not or where the rules alone cannot tell.

    Example: eqloop solve runs/prefix-sums-001 0110100110010110
    """
    from .._build import named_solver
    from ..evaluate import solve as solve_split
    from ..evaluate import trace

    refuse_idle_options(budget, iterations, restarts=restarts, select=select, solver=solver)
    model, task, opened, step = open_model(run, checkpoint, task_class)
    split = task.parse(read_puzzle(puzzle))
    if budget is not None:
        name, made = named_solver(opened.spec.solver, solver)
        options: dict[str, Any] = {"restarts": restarts or 1, "select": select or "residual"}
        found = solve_split(
            model,
            task,
            split,
            budget=budget,
            solver=dataclasses.replace(made, rtol=rtol),
            **options,
        )
        told = {"run": run, "step": step, "solver": name, "budget": budget, **options}
        right = _tell(task, split, found, told if as_json else None)
        raise typer.Exit(0 if right else 1)
    traced = trace(model, task, split.inputs[0], iterations=iterations or ITERATIONS, rtol=rtol)
    answer = traced.predictions[-1]
    solved, why = task.check(split, answer)
    if as_json:
        emit(
            {
                "run": run,
                "step": step,
                "puzzle": split.puzzles[0],
                "answer": answer,
                "solved": solved,
                "why": why,
                "right_answer": split.targets[0] if split.answered[0] else None,
                "iterations": len(traced.residuals),
                "converged": traced.converged,
                "residuals": traced.residuals,
                "changes": traced.changes(),
            }
        )
    else:
        out = console()
        out.print(task.render(split), markup=True)
        for iteration in few(traced.changes()):
            residual = traced.residuals[iteration - 1]
            out.print(f"\niteration {iteration}, residual {residual:.1e}")
            out.print(task.render(split, traced.predictions[iteration - 1]), markup=True)
        ended = "settled" if traced.converged else "not settled"
        out.print(
            f"\n{ended} after {len(traced.residuals)} iterations, "
            f"residual {traced.residuals[-1]:.1e}"
        )
        _judge(task, split, answer, solved, why)
    if not solved:
        raise typer.Exit(1)


def read_puzzle(argument: str) -> str:
    """The text of a puzzle: the argument itself, or what the file that it names holds, or standard
    input for `-`. **Raises** `InputError` where that is longer than a puzzle can be, or no text."""
    if argument != "-" and not os.path.isfile(argument):  # noqa: PTH113 (any text is allowed)
        return argument
    name = "standard input" if argument == "-" else argument
    try:
        if argument == "-":
            content = sys.stdin.buffer.read(_LONGEST + 1)
        else:
            with Path(argument).open("rb") as file:
                content = file.read(_LONGEST + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{name} is not UTF-8 text: give the puzzle as text") from None
    if len(content) > _LONGEST:
        raise InputError(f"{name} is longer than {_LONGEST:,} bytes: give one puzzle")
    return text


def _judge(task: "Task", split: "Split", answer: Any, solved: bool | None, why: str):
    """Print whether the answer is right, and the right one where it is known and another."""
    out = console()
    out.print(f"{_VERDICT[solved]}: {why}", markup=False, soft_wrap=True)
    if solved is False and split.answered[0]:
        wrong = int((answer != split.targets[0]).sum())
        out.print(f"\nthe right answer ({wrong} of {answer.size} cells of the model's differ):")
        out.print(task.render(split, split.targets[0]), markup=True)


def _tell(
    task: "Task", split: "Split", found: "Solved", told: dict[str, Any] | None
) -> bool | None:
    """Print what `eqloop.evaluate.solve` found, as JSON together with `told` if it is given."""
    answer, chosen = found.predictions[0], int(found.chosen[0])
    solved, why = task.check(split, answer)
    steps, residual, votes = found.evaluations[0], found.residual[0], found.votes[0]
    if told is not None:
        told |= {"puzzle": split.puzzles[0], "answer": answer, "solved": solved, "why": why}
        told |= {"right_answer": split.targets[0] if split.answered[0] else None}
        told |= {"chosen": chosen, "evaluations": steps, "residuals": residual, "votes": votes}
        emit(told | {"converged": found.converged[0]})
        return solved
    out = console()
    out.print(task.render(split), markup=True)
    rows = [
        (
            f"{start} *" if start == chosen else str(start),
            str(steps[start]),
            f"{residual[start]:.1e}",
            "yes" if found.converged[0, start] else "no",
            str(votes[start]),
        )
        for start in range(len(steps))
    ]
    out.print()
    out.print(table(("start", "evaluations", "residual", "converged", "agree"), rows))
    out.print(f"\nanswer of start {chosen}:")
    out.print(task.render(split, answer), markup=True)
    _judge(task, split, answer, solved, why)
    return solved


def few(changes: Sequence[int]) -> list[int]:
    """At most `_FRAMES` of the iterations at which the answer changed: the first, the last, and
    of those between the ones nearest to a geometric progression, since most happens early."""
    if len(changes) <= _FRAMES:
        return list(changes)
    ratio = (len(changes) - 1) ** (1 / (_FRAMES - 1))
    picked = {0, len(changes) - 1} | {round(ratio**k) for k in range(1, _FRAMES - 1)}
    return [changes[index] for index in sorted(picked)]
