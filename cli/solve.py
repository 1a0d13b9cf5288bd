"""`eqloop solve RUN PUZZLE`: solve one puzzle and show how its answer develops."""

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
"""Maximum size of a puzzle in bytes."""
_VERDICT = {True: "right", False: "wrong", None: "cannot be checked"}


def solve(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Read this run folder.")],
    puzzle: Annotated[
        str,
        typer.Argument(
            metavar="PUZZLE",
            help="Solve this bit string, sudoku, FEN, maze or word (in quotes), the puzzle in this "
            "file, or the puzzle on standard input (-).",
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

    The command prints the board as it changes over the loop, then the answer and whether it is
    right. With --budget in place of --iterations it runs a solver from one or several starts, and
    prints the result of each start, the number of starts with the same answer, and the chosen
    answer.

    A puzzle may be pasted as it is: a sudoku with a frame, over several lines, with any usual sign
    for a blank; or a line of EPD, whose `bm` is then the answer.

    If the model is wrong and the right answer is known, the command prints it too.

    It reads RUN (its spec and a checkpoint) and PUZZLE. It writes nothing. It exits with 0 if the
    answer is right by the rules, with 1 if it is wrong or if the rules alone do not decide.

    Example: eqloop solve runs/prefix-sums-001 0110100110010110
    """
    from .._build import named_solver
    from ..evaluate import solve as solve_split
    from ..evaluate import trace

    refuse_idle_options(budget, iterations, restarts=restarts, select=select, solver=solver)
    model, task, opened, step = open_model(run, checkpoint, task_class)
    split = task.parse(read_puzzle(puzzle))
    if budget is not None:
        name, base_solver = named_solver(opened.spec.solver, solver)
        options: dict[str, Any] = {"restarts": restarts or 1, "select": select or "residual"}
        solution = solve_split(
            model,
            task,
            split,
            budget=budget,
            solver=dataclasses.replace(base_solver, rtol=rtol),
            **options,
        )
        record = {"run": run, "step": step, "solver": name, "budget": budget, **options}
        right = _print_solution(task, split, solution, record if as_json else None)
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
        for iteration in sample_changes(traced.changes()):
            residual = traced.residuals[iteration - 1]
            out.print(f"\niteration {iteration}, residual {residual:.1e}")
            out.print(task.render(split, traced.predictions[iteration - 1]), markup=True)
        outcome = "settled" if traced.converged else "not settled"
        out.print(
            f"\n{outcome} after {len(traced.residuals)} iterations, "
            f"residual {traced.residuals[-1]:.1e}"
        )
        _print_check(task, split, answer, solved, why)
    if not solved:
        raise typer.Exit(1)


def read_puzzle(argument: str) -> str:
    """The text of a puzzle: the argument, the content of the file that it names, or standard input
    for `-`. **Raises** `InputError` if that is too long for a puzzle, or not text."""
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


def _print_check(task: "Task", split: "Split", answer: Any, solved: bool | None, why: str):
    """Print whether the answer is right; if it is wrong, also the right answer if it is known."""
    out = console()
    out.print(f"{_VERDICT[solved]}: {why}", markup=False, soft_wrap=True)
    if solved is False and split.answered[0]:
        wrong = int((answer != split.targets[0]).sum())
        out.print(f"\nthe right answer (the model has {wrong} of {answer.size} cells wrong):")
        out.print(task.render(split, split.targets[0]), markup=True)


def _print_solution(
    task: "Task", split: "Split", solution: "Solved", record: dict[str, Any] | None
) -> bool | None:
    """Print the result of `eqloop.evaluate.solve`; as JSON with `record`, if that is given."""
    answer, chosen = solution.predictions[0], int(solution.chosen[0])
    solved, why = task.check(split, answer)
    steps, residual, votes = solution.evaluations[0], solution.residual[0], solution.votes[0]
    if record is not None:
        record |= {"puzzle": split.puzzles[0], "answer": answer, "solved": solved, "why": why}
        record |= {"right_answer": split.targets[0] if split.answered[0] else None}
        record |= {"chosen": chosen, "evaluations": steps, "residuals": residual, "votes": votes}
        emit(record | {"converged": solution.converged[0]})
        return solved
    out = console()
    out.print(task.render(split), markup=True)
    rows = [
        (
            f"{start} *" if start == chosen else str(start),
            str(steps[start]),
            f"{residual[start]:.1e}",
            "yes" if solution.converged[0, start] else "no",
            str(votes[start]),
        )
        for start in range(len(steps))
    ]
    out.print()
    out.print(table(("start", "evaluations", "residual", "converged", "agree"), rows))
    out.print(f"\nanswer of start {chosen}:")
    out.print(task.render(split, answer), markup=True)
    _print_check(task, split, answer, solved, why)
    return solved


def sample_changes(changes: Sequence[int]) -> list[int]:
    """At most `_FRAMES` of the iterations at which the answer changed: the first, the last, and
    those nearest to a geometric progression between them, since most changes are early."""
    if len(changes) <= _FRAMES:
        return list(changes)
    ratio = (len(changes) - 1) ** (1 / (_FRAMES - 1))
    picked = {0, len(changes) - 1} | {round(ratio**k) for k in range(1, _FRAMES - 1)}
    return [changes[index] for index in sorted(picked)]
