"""Read folders of puzzles in the format of HRM and TRM: `dataset.json`, `all__inputs.npy` and
`all__labels.npy`, `(rows, cells)`, with 0 for padding."""

import json
from pathlib import Path

import numpy as np

from .._errors import InputError
from .._task import explained, open_text, regular

METADATA, INPUTS, LABELS = "dataset.json", "all__inputs.npy", "all__labels.npy"
GROUPS, PUZZLES = "all__group_indices.npy", "all__puzzle_indices.npy"


def is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # the name is too long or has a zero byte
        return False


def parts(path: Path) -> list[str]:
    """The names of the files of the format in this folder.

    **Raises** `InputError` if the folder has another format.
    """
    if (path / METADATA).is_file():
        names = (GROUPS, PUZZLES)
        return [METADATA, INPUTS, LABELS, *(name for name in names if (path / name).is_file())]
    for name in ("train", "test"):
        if (path / name / METADATA).is_file():
            raise InputError(f"{path}: has several sets; name one of them: {path / name}")
    raise InputError(
        f"{path}: a folder without {METADATA}; name a CSV file or a folder in the format of HRM"
    )


def metadata(path: Path) -> tuple[object, object]:
    """The number of cells per example, and the number of tokens or None. **Raises** `InputError` if
    `dataset.json` does not give the first."""
    with open_text(path / METADATA) as text:
        try:
            table = json.loads(text.read(1 << 20))
            return table["seq_len"], table.get("vocab_size")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(
                f"{path / METADATA}: not JSON with a field seq_len; make the folder again"
            ) from None


def examples(path: Path, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """The inputs and the labels, `(rows, cells)` integers, mapped from disk.

    **Raises** `InputError` if a file has another shape or type, or if there are no rows.
    """
    inputs, labels = (_array(path / name, (None, cells)) for name in (INPUTS, LABELS))
    if len(inputs) != len(labels):
        raise InputError(f"{path}: {len(inputs)} inputs but {len(labels)} labels; make it again")
    if len(inputs) == 0:
        raise InputError(f"{path}: no rows; make the folder again")
    return inputs, labels


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


def groups(path: Path, rows: int) -> np.ndarray:
    """The group of each row, whose rows are copies of one puzzle; without group indices each row is
    a group."""
    if not ((path / GROUPS).is_file() and (path / PUZZLES).is_file()):
        return np.arange(rows)
    groups, puzzles = (_array(path / name, (None,)).astype(np.int64) for name in (GROUPS, PUZZLES))
    in_range = len(groups) > 1 and groups.min() >= 0 and groups.max() < len(puzzles)
    starts = puzzles[groups] if in_range else np.zeros(0, np.int64)
    if not in_range or starts[0] != 0 or starts[-1] != rows or np.any(np.diff(starts) < 0):
        raise InputError(f"{path / GROUPS}: does not divide the {rows} rows; make the folder again")
    return np.repeat(np.arange(len(starts) - 1), np.diff(starts))
