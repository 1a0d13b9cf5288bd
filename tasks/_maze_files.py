"""Mazes as texts and in files."""

import math
from pathlib import Path

import numpy as np

from .._errors import InputError
from .._task import Bad, Layout, OnBad, Progress, Split, joined, read_records, shortened, write_text
from ._maze_paths import FREE, GOAL, START, SYMBOLS, none, with_answers

ON_PATH = "o"
SMALLEST, LARGEST = 5, 255
"""Cells along a side."""

_LAYOUT = Layout(
    required=("question",),
    expected=(
        "expected a column question (or input, puzzle, maze) of #, ., S and G, row by row, and, if "
        "known, a column answer (output, solution) with o on the path; or a folder of HRM"
    ),
    names={
        "question": ("input", "puzzle", "maze", "problem"),
        "answer": ("output", "target", "solution", "path"),
    },
)


def tokens_of_text(text: str, symbols: str = SYMBOLS) -> np.ndarray:
    """The places in `symbols` of a square of cells, `(n, n)`: one line per row, or all rows in one
    line. A space is a free cell, as `.` is. **Raises** `InputError`, in one line."""
    lines = [line for line in text.splitlines() if line.strip()]
    cells = "".join(lines)
    # Copied boards have spaces around them, and so may have boards without walls.
    for line_cells in (cells, "".join(line.strip() for line in lines)):
        n = math.isqrt(len(line_cells))
        if n * n == len(line_cells) and len(lines) in (1, n):
            cells = line_cells
            break
    else:
        raise InputError(
            f"maze {shortened(text)}: {len(cells)} cells in {len(lines)} rows are no square"
        )
    if not SMALLEST <= n <= LARGEST:
        raise InputError(
            f"maze {shortened(text)}: {n} x {n} cells; a side has {SMALLEST} to {LARGEST}"
        )
    tokens = np.array([symbols.find(cell) for cell in cells.replace(" ", ".")], np.int8)
    if (tokens < 0).any():
        wrong = cells[int(np.argmax(tokens < 0))]
        raise InputError(f"maze {shortened(text)}: {wrong!r} is none of {symbols}")
    return tokens.astype(np.uint8).reshape(n, n)


def text_of_tokens(tokens: np.ndarray) -> str:
    return "".join(SYMBOLS[token] for token in tokens.ravel().tolist())


def read_rows(path: Path, *, on_bad: OnBad, progress: Progress | None, unique: bool) -> Split:
    """Read the good rows of a file with the columns `question` and, if known, `answer`."""
    rows: list[Split] = []
    for number, record in read_records(path, _LAYOUT, on_bad=on_bad, progress=progress):
        try:
            question, answer = record["question"], record.get("answer", "")
            tokens = tokens_of_text(question)
            n = len(tokens)
            if rows and n != rows[0].inputs.shape[1]:
                side = rows[0].inputs.shape[1]
                raise InputError(f"{n} x {n} cells, but the rows before have {side} x {side}")
            paths = np.zeros_like(tokens)
            if answer.strip():
                answers = tokens_of_text(answer, SYMBOLS + ON_PATH)
                if not np.array_equal(np.where(answers > GOAL, FREE, answers), tokens):
                    raise InputError("the answer is not the maze with o on the path")
                paths = (answers >= START).astype(np.uint8)
            split, why = with_answers(tokens[None], paths[None], unique)
            if why[0]:
                raise InputError(why[0])
            rows.append(split)
        except InputError as error:
            on_bad(Bad(f"{path}:{number}", str(error)))
    return joined(rows) if rows else none(SMALLEST)


def write_rows(split: Split, path: Path) -> None:
    """Write the columns `question` and `answer`, with `o` on the path."""
    with write_text(path) as file:
        file.write("question,answer\n")
        for maze, marks in zip(split.inputs, split.targets, strict=True):
            on_path = np.where((marks == 1) & (maze == FREE), len(SYMBOLS), maze).ravel().tolist()
            answer = "".join((SYMBOLS + ON_PATH)[cell] for cell in on_path)
            file.write(f"{text_of_tokens(maze)},{answer}\n")
