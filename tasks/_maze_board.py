"""A maze as a board, for the terminal and for a page."""

import numpy as np

from .._task import PREDICTED, Split, glyphs, picture, struck
from ._maze_paths import GOAL, START, WALL, is_shortest

_CELL = 14


def wrong_cells(split: Split, prediction: np.ndarray) -> np.ndarray:
    """The cells in which a prediction differs from the answer; none if it is another shortest path,
    or if the answer is not known."""
    marks, moves = prediction == 1, int(split.difficulty[0])
    if not split.answered[0] or is_shortest(split.inputs[0], marks, np.int32(moves), np):
        return np.zeros(marks.shape, bool)
    return prediction != split.targets[0]


def render(split: Split, prediction: np.ndarray | None) -> str:
    """The board in Rich markup. The path is of `o`, `!` marks a cell that is wrongly on it, and `?`
    one that is missing."""
    maze = split.inputs[0]
    on_path = np.zeros(maze.shape, bool) if prediction is None else np.asarray(prediction) == 1
    wrong = np.zeros(maze.shape, bool) if prediction is None else wrong_cells(split, prediction)
    lines = []
    for row in range(len(maze)):
        line = ""
        for cell, marked, is_wrong in zip(maze[row], on_path[row], wrong[row], strict=True):
            if is_wrong:
                line += f"[red]{'!' if marked else '?'}[/] "
            elif cell == WALL:
                line += "██"
            elif cell in (START, GOAL):
                line += f"[bold]{'S' if cell == START else 'G'}[/] "
            else:
                line += "[cyan]o[/] " if marked else "  "
        lines.append(line.rstrip())
    if wrong.any():
        lines.append("[red]![/] not on the path  [red]?[/] missing")
    return "\n".join(lines)


def draw(split: Split, prediction: np.ndarray | None) -> str:
    """The board as SVG: walls filled, the path as squares, wrong cells struck out."""
    maze, n = split.inputs[0], split.inputs.shape[1]
    wrong = np.zeros(maze.shape, bool) if prediction is None else wrong_cells(split, prediction)
    on_path = np.zeros(maze.shape, bool) if prediction is None else np.asarray(prediction) == 1

    def centres(mask: np.ndarray) -> list[tuple[float, float]]:
        return [(_CELL * (x + 0.5), _CELL * (y + 0.8)) for y, x in np.argwhere(mask).tolist()]

    squares = "".join(
        f"M{_CELL * x + 4} {_CELL * y + 4}h6v6h-6z"
        for y, x in np.argwhere(on_path & (maze < START)).tolist()
    )
    body = [
        f'<path d="{_walls(maze == WALL)}" fill="currentColor" opacity=".8"/>',
        f'<path d="{squares}" fill="{PREDICTED}"/>',
        '<g font-family="system-ui,sans-serif" font-size="12" font-weight="700" '
        'text-anchor="middle" fill="currentColor">',
        glyphs("S" * int(np.sum(maze == START)), centres(maze == START)),
        glyphs("G" * int(np.sum(maze == GOAL)), centres(maze == GOAL)),
        "</g>",
        struck(
            [(_CELL * x + 1, _CELL * y + 1) for y, x in np.argwhere(wrong).tolist()],
            _CELL - 2,
            _CELL - 2,
        ),
    ]
    title = f"A maze of {n} x {n} cells with a shortest path of {split.difficulty[0]:g} moves"
    if prediction is not None:
        title += f", a path drawn in: {wrong.sum()} wrong" if split.answered[0] else ", drawn in"
    return picture(title, _CELL * n, _CELL * n, body)


def _walls(mask: np.ndarray) -> str:
    """Runs of walls in a row as one rectangle each."""
    path = ""
    for y, row in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
        for left, right in edges.reshape(-1, 2).tolist():
            width = _CELL * (right - left)
            path += f"M{_CELL * left} {_CELL * y}h{width}v{_CELL}h-{width}z"
    return path
