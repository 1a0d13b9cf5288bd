"""`eqloop solve RUN PUZZLE`: one puzzle, and how its answer comes about."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._output import Json, console, emit, table
from ._run import (
    ITERATIONS,
    Budget,
    Checkpoint,
    Restarts,
    Select,
    SolverName,
    open_model,
    refuse_idle_options,
)

if TYPE_CHECKING:
    from .._task import AbstractTask, Split
    from ..train import Solved

_FRAMES = 6
_VERDICT = {True: "right", False: "wrong", None: "cannot be checked"}


def solve(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    puzzle: Annotated[
        str,
        typer.Argument(
            metavar="PUZZLE", help="A bit string, an 81-character sudoku, a FEN in quotes."
        ),
    ],
    iterations: Annotated[
        int | None, typer.Option(min=1, help="At most so many; left out, 512.")
    ] = None,
    rtol: Annotated[
        float, typer.Option(min=0.0, help="The residual at which the loop has settled.")
    ] = 1e-4,
    budget: Budget = None,
    restarts: Restarts = None,
    select: Select = None,
    solver: SolverName = None,
    checkpoint: Checkpoint = "best",
    as_json: Json = False,
) -> None:
    """Solve one puzzle and show how.

    Prints the board as it changes over the loop, then the answer and whether it is right. With
    --budget in place of --iterations: a solver, from one start or several; prints where each start
    got to, how many agree with it, and the answer of the one that was chosen.

    Reads RUN (its spec and a checkpoint). Writes nothing. Exits with 0 where the answer is right by
    the rules, 1 where it is not or where the rules alone cannot tell.

    Example: eqloop solve runs/prefix-sums-001 0110100110010110
    """
    from ..train import named_solver, trace
    from ..train import solve as solve_split

    refuse_idle_options(budget, iterations, restarts=restarts, select=select, solver=solver)
    model, task, opened, step = open_model(run, checkpoint)
    split = task.parse(puzzle)
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
        out.print(f"{_VERDICT[solved]}: {why}", markup=False, soft_wrap=True)
    if not solved:
        raise typer.Exit(1)


def _tell(
    task: "AbstractTask", split: "Split", found: "Solved", told: dict[str, Any] | None
) -> bool | None:
    """Print what `eqloop.train.solve` found, as JSON together with `told` where that is given."""
    answer, chosen = found.predictions[0], int(found.chosen[0])
    solved, why = task.check(split, answer)
    steps, residual, votes = found.evaluations[0], found.residual[0], found.votes[0]
    if told is not None:
        told |= {"puzzle": split.puzzles[0], "answer": answer, "solved": solved, "why": why}
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
    out.print(f"{_VERDICT[solved]}: {why}", markup=False, soft_wrap=True)
    return solved


def few(changes: Sequence[int]) -> list[int]:
    """At most `_FRAMES` of the iterations at which the answer changed: the first, the last, and
    of those between the ones nearest to a geometric progression, since most happens early."""
    if len(changes) <= _FRAMES:
        return list(changes)
    ratio = (len(changes) - 1) ** (1 / (_FRAMES - 1))
    picked = {0, len(changes) - 1} | {round(ratio**k) for k in range(1, _FRAMES - 1)}
    return [changes[index] for index in sorted(picked)]
