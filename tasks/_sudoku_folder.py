"""Read folders of sudokus in the format of HRM and TRM."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from .._errors import InputError
from .._task import Bad, OnBad, Progress, Split, explained, open_text, regular
from . import _sudoku_files as files

NEEDED = ("dataset.json", "all__inputs.npy", "all__labels.npy")
GROUPS, PUZZLES = "all__group_indices.npy", "all__puzzle_indices.npy"

_CHUNK = 4096
_MAZE_TOKENS = 6
"""`vocab_size` of the mazes of HRM and TRM: padding, wall, space, start, goal and path."""


def is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # the name is too long or has a zero byte
        return False


def parts(path: Path) -> list[str]:
    """The names of the files that `read_folder` reads in this folder.

    **Raises** `InputError` if the folder has another format.
    """
    if (path / "dataset.json").is_file():
        return [name for name in (*NEEDED, GROUPS, PUZZLES) if (path / name).is_file()]
    for name in ("train", "test"):
        if (path / name / "dataset.json").is_file():
            _length(path / name)
            raise InputError(f"{path}: has several sets; name one of them: {path / name}")
    raise InputError(
        f"{path}: a folder without dataset.json; name a CSV file or a folder in the format of HRM"
    )


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
            f"{path / 'dataset.json'}: seq_len is {repr(length)[:40]}, but boxes of {box}x{box} "
            f"have {cells} cells; is task.box right?"
        )
    inputs, labels = (_array(path / name, (None, cells)) for name in NEEDED[1:])
    if len(inputs) != len(labels):
        raise InputError(f"{path}: {len(inputs)} inputs but {len(labels)} labels; make it again")
    if len(inputs) == 0:
        raise InputError(f"{path}: no rows; make the folder again")
    group = _groups(path, len(inputs))
    chunks = []
    for start in range(0, len(inputs), _CHUNK):
        stop = min(start + _CHUNK, len(inputs))
        questions, answers = (_shifted(array[start:stop]) for array in (inputs, labels))
        why = files.faults(questions, answers, box, unique)
        for row, text in enumerate(why, start):
            if text:
                on_bad(Bad(f"{path / NEEDED[1]}:row {row}", text))
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
    with open_text(path / "dataset.json") as text:
        try:
            metadata = json.loads(text.read(1 << 20))
            length, tokens = metadata["seq_len"], metadata.get("vocab_size")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(
                f"{path / 'dataset.json'}: not JSON with a field seq_len; make the folder again"
            ) from None
    if tokens == _MAZE_TOKENS and length not in (16, 81):
        raise InputError(f"{path}: a folder of mazes, not sudokus; name a folder of sudokus")
    return length


def _array(path: Path, shape: tuple[int | None, ...]) -> np.ndarray:
    regular(path)
    try:
        with explained(path):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except InputError:
        raise
    except Exception:  # NumPy parses the header as Python source, which can raise anything.
        raise InputError(f"{path}: not a whole .npy file of numbers; make it again") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: not an .npy file; make it again")
    expected = tuple(size or actual for size, actual in zip(shape, array.shape, strict=False))
    if array.ndim != len(shape) or array.shape != expected or array.dtype.kind not in "iu":
        raise InputError(
            f"{path}: {array.dtype} of shape {array.shape}, not integers of shape "
            f"{tuple(size or 'rows' for size in shape)}; make the folder again"
        )
    return array


def _shifted(array: np.ndarray) -> np.ndarray:
    """Convert tokens of HRM to those of `Sudoku`; padding and invalid tokens become 255."""
    array = np.asarray(array)
    return np.where((array >= 1) & (array <= 10), array - 1, 255).astype(np.uint8)


def _groups(path: Path, rows: int) -> np.ndarray:
    """The group of each row; without group indices each row is a group."""
    if not ((path / GROUPS).is_file() and (path / PUZZLES).is_file()):
        return np.arange(rows)
    groups, puzzles = (_array(path / name, (None,)).astype(np.int64) for name in (GROUPS, PUZZLES))
    in_range = len(groups) > 1 and groups.min() >= 0 and groups.max() < len(puzzles)
    starts = puzzles[groups] if in_range else np.zeros(0, np.int64)
    if not in_range or starts[0] != 0 or starts[-1] != rows or np.any(np.diff(starts) < 0):
        raise InputError(f"{path / GROUPS}: does not divide the {rows} rows; make the folder again")
    return np.repeat(np.arange(len(starts) - 1), np.diff(starts))


def _rated(split: Split, box: int) -> Split:
    from ._sudoku_generator import solve

    _, first_rows, group_of_row = np.unique(
        split.columns["group"], return_index=True, return_inverse=True
    )
    _, _, guesses = solve(split.inputs[first_rows].reshape(len(first_rows), -1), box, limit=1)
    rating = guesses.astype(np.float32)[group_of_row]
    columns = dict(split.columns) | {"guesses": rating}
    return dataclasses.replace(split, difficulty=rating, columns=columns)
