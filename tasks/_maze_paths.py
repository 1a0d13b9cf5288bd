"""Shortest paths of mazes: when marks are one, and the splits of mazes with their paths."""

from typing import Any

import numpy as np

from .._task import Split

WALL, FREE, START, GOAL = range(4)
SYMBOLS = "#.SG"


def is_shortest(tokens: Any, marks: Any, moves: Any, xp: Any) -> Any:
    """Whether `marks` are the cells of a shortest path from start to goal, which has `moves` moves.

    Start and goal are marked and have one marked neighbour, every other marked cell is free and has
    two. So the marked cells are a path from start to goal and perhaps cycles; and since a path has
    at least `moves + 1` cells, marks of that number are a shortest path. A shortest path has no
    other marked neighbours, which would be a short cut.

    **Arguments:**

    - `tokens`, `marks`: tokens and bool, `(..., n, n)`.
    - `moves`: integers, `(...)`.
    - `xp`: `numpy` or `jax.numpy`.
    """
    padded = xp.pad(marks.astype(np.uint8), [(0, 0)] * (marks.ndim - 2) + [(1, 1), (1, 1)])
    degree = padded[..., 2:, 1:-1] + padded[..., :-2, 1:-1]
    degree = degree + padded[..., 1:-1, 2:] + padded[..., 1:-1, :-2]
    is_end = tokens >= np.uint8(START)
    needed = xp.where(is_end, np.uint8(1), np.uint8(2))
    right = xp.where(marks, (degree == needed) & (tokens != np.uint8(WALL)), ~is_end)
    count = marks.sum((-2, -1), dtype=np.int32)
    return right.all((-2, -1)) & (count == moves + np.int32(1))


def solved(tokens: np.ndarray) -> tuple[Split, list[str]]:
    """Solve mazes, `(rows, n, n)`.

    **Returns** the split of those that have one start, one goal and a path; its column `paths` has
    the number of shortest paths. Then for every maze its fault, or "".
    """
    from ._maze_kernels import solve

    why = [""] * len(tokens)
    for code, name in ((START, "start (S)"), (GOAL, "goal (G)")):
        for row, count in enumerate((tokens == code).sum((1, 2)).tolist()):
            if count != 1 and not why[row]:
                why[row] = f"the maze has {count} cells that are the {name}; it must be one"
    marked = np.array([not text for text in why], bool)
    paths, moves, counts = solve(tokens[marked])
    for row in np.flatnonzero(marked)[moves < 0].tolist():
        why[row] = "no path leads from the start to the goal"
    good = moves >= 0
    return split_of(tokens[marked][good], paths[good], moves[good], counts[good]), why


def split_of(tokens: np.ndarray, paths: np.ndarray, moves: np.ndarray, counts: np.ndarray) -> Split:
    return Split.of(
        tokens, paths, difficulty=moves, symbols=SYMBOLS, columns={"paths": counts.astype(np.int32)}
    )


def with_answers(tokens: np.ndarray, answers: np.ndarray, unique: bool) -> tuple[Split, list[str]]:
    """Like `solved`, with the paths of a file, `(rows, n, n)`; a path that is all 0 is not known.
    A path that is not a shortest one is a fault, and with `unique` so is a second shortest path."""
    split, why = solved(tokens)
    good = np.array([not text for text in why], bool)
    known = np.any(answers[good], axis=(1, 2), keepdims=True)
    paths = np.where(known, answers[good], split.targets)
    right = is_shortest(split.inputs, paths == 1, split.difficulty.astype(np.int32), np)
    kept = right & ((split.columns["paths"] == 1) | (not unique))
    for row, place in enumerate(np.flatnonzero(good).tolist()):
        moves, count = int(split.difficulty[row]), int(split.columns["paths"][row])
        if not right[row]:
            why[place] = f"the answer is not a shortest path from S to G, which has {moves} moves"
        elif not kept[row]:
            why[place] = f"{count:,} shortest paths lead from S to G, and task.unique wants one"
    split = split_of(split.inputs, paths, split.difficulty, split.columns["paths"])
    return split.take(kept), why


def none(n: int) -> Split:
    """The split of no mazes of `n x n` cells."""
    return split_of(*np.zeros((2, 0, n, n), np.uint8), *np.zeros((2, 0)))


def check(split: Split, marks: np.ndarray) -> tuple[bool, str]:
    """Whether `marks`, `(n, n)` bool, are a shortest path of the one maze in `split`, and why."""
    maze, moves, count = split.inputs[0], int(split.difficulty[0]), int(split.columns["paths"][0])
    if is_shortest(maze, marks, np.int32(moves), np):
        others = f", one of {count:,}" if count > 1 else ""
        return True, f"a shortest path of {moves} moves{others}"
    for fault, cells in (
        ("marks the wall", marks & (maze == WALL)),
        ("leaves out the start", ~marks & (maze == START)),
        ("leaves out the goal", ~marks & (maze == GOAL)),
    ):
        for row, column in np.argwhere(cells).tolist():
            return False, f"{fault} in row {row + 1}, column {column + 1}"
    return False, (f"the {marks.sum()} marked cells are not a shortest path, which has {moves + 1}")
