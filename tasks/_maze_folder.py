"""Folders of mazes in the format of HRM and TRM."""

import json
import math
import tempfile
from pathlib import Path

import numpy as np

from .._errors import InputError
from .._task import Bad, OnBad, Progress, Split, joined
from . import _hrm_folder as hrm
from ._maze_files import LARGEST, SMALLEST
from ._maze_paths import FREE, GOAL, START, WALL, with_answers

TOKENS = 6
"""`vocab_size`: padding, wall, free cell, start, goal, path."""
ON_PATH = 5
_CHUNK = 4096


def read_folder(path: Path, *, on_bad: OnBad, progress: Progress | None, unique: bool) -> Split:
    """Read the good rows of a folder that `build_maze_dataset.py` of HRM or TRM wrote: tokens 1
    wall, 2 free, 3 start and 4 goal, and in the labels 5 on the path. Messages count rows from 0.

    These mazes have several shortest paths, of which the labels have one.
    """
    hrm.parts(path)
    cells, count = hrm.metadata(path)
    n = math.isqrt(cells) if isinstance(cells, int) and cells > 0 else 0
    if count not in (None, TOKENS) or n * n != cells or not SMALLEST <= n <= LARGEST:
        raise InputError(
            f"{path / hrm.METADATA}: seq_len {repr(cells)[:40]} and vocab_size {repr(count)[:40]} "
            f"are not those of square mazes, which have {TOKENS} tokens"
        )
    inputs, labels = hrm.examples(path, n * n)
    chunks = []
    for start in range(0, len(inputs), _CHUNK):
        stop = min(start + _CHUNK, len(inputs))
        tokens, answers = (np.asarray(array[start:stop]) for array in (inputs, labels))
        # The label of a cell is its token, or "path" where it is free.
        legal = (tokens >= 1) & (tokens <= 4)
        legal &= (answers == tokens) | ((tokens == FREE + 1) & (answers == ON_PATH))
        good = legal.all(1)
        mazes = np.where(good[:, None], tokens - 1, WALL).astype(np.uint8).reshape(-1, n, n)
        paths = np.isin(answers, (START + 1, GOAL + 1, ON_PATH)).astype(np.uint8).reshape(-1, n, n)
        split, why = with_answers(mazes, paths, unique)
        for row, text in enumerate(why):
            if not good[row]:
                cell = int(np.argmin(legal[row]))
                text = (
                    f"cell {cell} has the token {tokens[row, cell]} and the label "
                    f"{answers[row, cell]}; tokens are 1 to 4, and labels the same, or 5 for a "
                    "free cell on the path"
                )
            if text:
                on_bad(Bad(f"{path / hrm.INPUTS}:row {start + row}", text))
        chunks.append(split)
        if progress is not None:
            progress(stop, len(inputs))
    return joined(chunks)


def write_folder(split: Split, path: Path) -> None:
    """Write a folder that `read_folder`, HRM and TRM read, at once: an interrupted call leaves no
    partial folder. **Raises** `InputError` if it cannot be written, or exists."""
    rows, cells = len(split), split.inputs.shape[1] ** 2
    marked = (split.inputs == FREE) & (split.targets == 1)
    labels = np.where(marked, ON_PATH, split.inputs + 1)
    arrays = {
        hrm.INPUTS: (split.inputs + 1).reshape(rows, cells),
        hrm.LABELS: labels.reshape(rows, cells),
        hrm.GROUPS: np.arange(rows + 1),
        hrm.PUZZLES: np.arange(rows + 1),
        "all__puzzle_identifiers.npy": np.zeros(rows, int),
    }
    table = {"seq_len": cells, "vocab_size": TOKENS, "pad_id": 0, "ignore_label_id": 0}
    table |= {"blank_identifier_id": 0, "num_puzzle_identifiers": 1, "total_groups": rows}
    table |= {"mean_puzzle_examples": 1, "sets": ["all"]}
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as name:
            partial = Path(name, path.name)
            partial.mkdir()
            for file, array in arrays.items():
                kind = np.uint8 if file in (hrm.INPUTS, hrm.LABELS) else np.int32
                np.save(partial / file, array.astype(kind), allow_pickle=False)
            (partial / hrm.METADATA).write_text(json.dumps(table))
            partial.rename(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
