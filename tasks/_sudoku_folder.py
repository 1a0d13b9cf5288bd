"""Read folders of sudokus in the format of HRM and TRM."""

import dataclasses
from pathlib import Path

import numpy as np

from .._errors import InputError
from .._task import Bad, OnBad, Progress, Split
from . import _hrm_folder as hrm
from . import _sudoku_files as files

_CHUNK = 4096
_MAZE_TOKENS = 6
"""`vocab_size` of the mazes of HRM and TRM: padding, wall, space, start, goal and path."""


def parts(path: Path) -> list[str]:
    """The names of the files that `read_folder` reads in this folder.

    **Raises** `InputError` if the folder has another format, or its first set is of mazes.
    """
    for name in ("", "train", "test"):
        if (path / name / hrm.METADATA).is_file():
            _length(path / name)
            break
    return hrm.parts(path)


def read_folder(
    path: Path, box: int, *, on_bad: OnBad, progress: Progress | None, unique: bool
) -> Split:
    """Read the good rows of a folder that `build_sudoku_dataset.py` of HRM or TRM wrote:
    `dataset.json`, `all__inputs.npy` and `all__labels.npy`, `(rows, n^2)` with 0 for padding,
    1 for a blank and 2.. for the digits. Messages count rows from 0.

    If the folder has group indices, rows with equal `columns["group"]` are symmetric copies of one
    puzzle. Such a folder has no ratings: the difficulty is the number of guesses of the built-in
    solver for the first row of each group.
    """
    parts(path)
    cells = box**4
    length = _length(path)
    if length != cells:
        raise InputError(
            f"{path / hrm.METADATA}: seq_len is {repr(length)[:40]}, but boxes of {box}x{box} "
            f"have {cells} cells; is task.box right?"
        )
    inputs, labels = hrm.examples(path, cells)
    group = hrm.groups(path, len(inputs))
    chunks = []
    for start in range(0, len(inputs), _CHUNK):
        stop = min(start + _CHUNK, len(inputs))
        questions, answers = (_shifted(array[start:stop]) for array in (inputs, labels))
        why = files.faults(questions, answers, box, unique)
        for row, text in enumerate(why, start):
            if text:
                on_bad(Bad(f"{path / hrm.INPUTS}:row {row}", text))
        valid = np.array([not text for text in why], bool)
        part = files.rows_on_scale(questions[valid], answers[valid], np.zeros(valid.sum()), box)
        columns = dict(part.columns) | {"group": group[start:stop][valid]}
        chunks.append(dataclasses.replace(part, columns=columns))
        if progress is not None:
            progress(stop, len(inputs))
    return _rated(files.join(chunks, box), box)


def _length(path: Path) -> object:
    """The number of cells per example. **Raises** `InputError` if `dataset.json` does not give it,
    or describes mazes."""
    length, tokens = hrm.metadata(path)
    if tokens == _MAZE_TOKENS and length not in (16, 81):
        raise InputError(f"{path}: a folder of mazes, not sudokus; name a folder of sudokus")
    return length


def _shifted(array: np.ndarray) -> np.ndarray:
    """Convert tokens of HRM to those of `Sudoku`; padding and invalid tokens become 255."""
    array = np.asarray(array)
    return np.where((array >= 1) & (array <= 10), array - 1, 255).astype(np.uint8)


def _rated(split: Split, box: int) -> Split:
    from ._sudoku_generator import solve

    _, first_rows, group_of_row = np.unique(
        split.columns["group"], return_index=True, return_inverse=True
    )
    _, _, guesses = solve(split.inputs[first_rows].reshape(len(first_rows), -1), box, limit=1)
    rating = guesses.astype(np.float32)[group_of_row]
    columns = dict(split.columns) | {"guesses": rating}
    return dataclasses.replace(split, difficulty=rating, columns=columns)
