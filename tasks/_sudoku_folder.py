"""Sudokus in folders as HRM and TRM have them."""

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
    except (OSError, ValueError):  # too long a name, or one with a zero byte
        return False


def parts(path: Path) -> list[str]:
    """The files in the folder that `read_folder` reads.

    **Raises** `InputError` where it is no such folder.
    """
    if (path / "dataset.json").is_file():
        return [name for name in (*NEEDED, GROUPS, PUZZLES) if (path / name).is_file()]
    for name in ("train", "test"):
        if (path / name / "dataset.json").is_file():
            _length(path / name)
            raise InputError(f"{path}: holds several sets; name one of them: {path / name}")
    raise InputError(f"{path}: a folder without dataset.json; name a CSV file or a folder of HRM's")


def read_folder(
    path: Path, box: int, *, on_bad: OnBad, progress: Progress | None, unique: bool
) -> Split:
    """Every good row of a folder as HRM's and TRM's `build_sudoku_dataset.py` write it:
    `dataset.json`, `all__inputs.npy` and `all__labels.npy`, `(rows, n^2)` with 0 for padding,
    1 for a blank and 2.. for the digits. Rows are counted from 0, as in NumPy.

    Where the group indices are there too, `columns["group"]` tells which rows are symmetric
    copies of one puzzle. There are no ratings in such a folder: the guesses of our own solver,
    for the first of each group, stand in.
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
    made = []
    for start in range(0, len(inputs), _CHUNK):
        stop = min(start + _CHUNK, len(inputs))
        questions, answers = (_shifted(array[start:stop]) for array in (inputs, labels))
        why = files.faults(questions, answers, box, unique)
        for row, text in enumerate(why, start):
            if text:
                on_bad(Bad(f"{path / NEEDED[1]}:row {row}", text))
        good = np.array([not text for text in why], bool)
        part = files.own(questions[good], answers[good], np.zeros(good.sum()), box)
        columns = dict(part.columns) | {"group": group[start:stop][good]}
        made.append(dataclasses.replace(part, columns=columns))
        if progress is not None:
            progress(stop, len(inputs))
    return _rated(files.join(made, box), box)


def _length(path: Path) -> object:
    """The cells of an example. **Raises** `InputError` where `dataset.json` does not say, or says
    that these are mazes."""
    with open_text(path / "dataset.json") as text:
        try:
            said = json.loads(text.read(1 << 20))
            length, tokens = said["seq_len"], said.get("vocab_size")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(
                f"{path / 'dataset.json'}: not JSON with a field seq_len; make the folder again"
            ) from None
    if tokens == _MAZE_TOKENS and length not in (16, 81):
        raise InputError(f"{path}: not a sudoku: maze; name a folder of sudokus")
    return length


def _array(path: Path, shape: tuple[int | None, ...]) -> np.ndarray:
    regular(path)
    try:
        with explained(path):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except InputError:
        raise
    except Exception:  # The header is read by Python's own parser, which can raise anything.
        raise InputError(f"{path}: not a whole .npy file of numbers; make it again") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: not an .npy file; make it again")
    wanted = tuple(size or given for size, given in zip(shape, array.shape, strict=False))
    if array.ndim != len(shape) or array.shape != wanted or array.dtype.kind not in "iu":
        raise InputError(
            f"{path}: {array.dtype} of shape {array.shape}, not integers of shape "
            f"{tuple(size or 'rows' for size in shape)}; make the folder again"
        )
    return array


def _shifted(array: np.ndarray) -> np.ndarray:
    """Their tokens to ours; padding and whatever else they should not have to 255."""
    array = np.asarray(array)
    return np.where((array >= 1) & (array <= 10), array - 1, 255).astype(np.uint8)


def _groups(path: Path, rows: int) -> np.ndarray:
    """The group of each row; each row its own where the folder does not say."""
    if not ((path / GROUPS).is_file() and (path / PUZZLES).is_file()):
        return np.arange(rows)
    groups, puzzles = (_array(path / name, (None,)).astype(np.int64) for name in (GROUPS, PUZZLES))
    sound = len(groups) > 1 and groups.min() >= 0 and groups.max() < len(puzzles)
    starts = puzzles[groups] if sound else np.zeros(0, np.int64)
    if not sound or starts[0] != 0 or starts[-1] != rows or np.any(np.diff(starts) < 0):
        raise InputError(f"{path / GROUPS}: does not divide the {rows} rows; make the folder again")
    return np.repeat(np.arange(len(starts) - 1), np.diff(starts))


def _rated(split: Split, box: int) -> Split:
    from ._sudoku_generator import solve

    _, first, back = np.unique(split.columns["group"], return_index=True, return_inverse=True)
    _, _, guesses = solve(split.inputs[first].reshape(len(first), -1), box, limit=1)
    rating = guesses.astype(np.float32)[back]
    columns = dict(split.columns) | {"guesses": rating}
    return dataclasses.replace(split, difficulty=rating, columns=columns)
