"""`eqloop solve RUN PUZZLE`: one puzzle, and how its answer comes about."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ._output import Json, console, emit
from ._run import Checkpoint, open_model

_FRAMES = 6


def solve(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    puzzle: Annotated[
        str,
        typer.Argument(
            metavar="PUZZLE", help="A bit string, an 81-character sudoku, a FEN in quotes."
        ),
    ],
    iterations: Annotated[int, typer.Option(min=1, help="At most so many.")] = 512,
    rtol: Annotated[
        float, typer.Option(min=0.0, help="The residual at which the loop has settled.")
    ] = 1e-4,
    checkpoint: Checkpoint = "best",
    as_json: Json = False,
) -> None:
    """Solve one puzzle and show how.

    Prints the board as it changes over the loop, then the answer and whether it is right.

    Reads RUN (its spec and a checkpoint). Writes nothing. Exits with 0 where the answer is right by
    the rules, 1 where it is not or where the rules alone cannot tell.

    Example: eqloop solve runs/prefix-sums-001 0110100110010110
    """
    from ..train import trace

    model, task, _, step = open_model(run, checkpoint)
    split = task.parse(puzzle)
    traced = trace(model, task, split.inputs[0], iterations=iterations, rtol=rtol)
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
        out.print(task.render(split))
        for iteration in few(traced.changes()):
            residual = traced.residuals[iteration - 1]
            out.print(f"\niteration {iteration}, residual {residual:.1e}")
            out.print(task.render(split, traced.predictions[iteration - 1]))
        ended = "settled" if traced.converged else "not settled"
        out.print(
            f"\n{ended} after {len(traced.residuals)} iterations, "
            f"residual {traced.residuals[-1]:.1e}"
        )
        verdict = {True: "right", False: "wrong", None: "cannot be checked"}[solved]
        out.print(f"{verdict}: {why}", markup=False, soft_wrap=True)
    if not solved:
        raise typer.Exit(1)


def few(changes: Sequence[int]) -> list[int]:
    """At most `_FRAMES` of the iterations at which the answer changed: the first, the last, and
    of those between the ones nearest to a geometric progression, since most happens early."""
    if len(changes) <= _FRAMES:
        return list(changes)
    ratio = (len(changes) - 1) ** (1 / (_FRAMES - 1))
    picked = {0, len(changes) - 1} | {round(ratio**k) for k in range(1, _FRAMES - 1)}
    return [changes[index] for index in sorted(picked)]
