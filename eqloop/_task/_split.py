"""Examples on the host: the rows of one split, the named splits of a task, and a bad row."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped

Progress = Callable[[int, int | None], None]
"""Called now and then while a loader works, with (units done, units in all or None)."""

SYMBOLS = "0123456789abcdefghijklmnopqrstuvwxyz"
"""The character that stands for each token and each class, where a task has no others."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Encoded examples of one split, on the host. `Split.of` makes one from two arrays.

    **Attributes:**

    - `inputs`: one token per cell, uint8, `(examples, *grid)`; `Task.encode` turns them
      into channels on the device.
    - `targets`: one class per cell, uint8, `(examples, *grid)`.
    - `difficulty`: float32, `(examples,)`; its scale is the task's own (a rating, a length).
    - `puzzles`: bytes, `(examples,)`: each puzzle as a user would type it, so that `parse` gives
      the same tokens back.
    - `columns`: further per-example arrays that the task's bands and scores read (themes, ...).
    """

    inputs: Shaped[np.ndarray, "examples *grid"]
    targets: Shaped[np.ndarray, "examples *grid"]
    difficulty: Shaped[np.ndarray, " examples"]
    puzzles: Shaped[np.ndarray, " examples"]
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        inputs: Any,
        targets: Any = None,
        *,
        difficulty: Any = None,
        puzzles: Any = None,
        symbols: str = SYMBOLS,
        columns: Mapping[str, np.ndarray] | None = None,
    ) -> "Split":
        """A split of two arrays.

        **Arguments:**

        - `inputs`: integers from 0 to 255, `(examples, *grid)`: the token of each cell.
        - `targets`: integers from 0 to 255, of the same shape: the class of each cell. None where
          the answers are not known: then the targets are 0 and `answered` is False.
        - `difficulty`: one number per example; 0 by default.
        - `puzzles`: one text per example; by default the symbols of its tokens, row by row.
        - `symbols`: the character of each token, for `puzzles`.
        - `columns`: as the attribute; `answered` is added.

        **Raises** `ValueError` for shapes that differ, values that are no integers from 0 to 255,
        and a token without a symbol.

        ```python
        split = Split.of([[0, 1, 1]], [[0, 1, 0]])
        assert split.puzzles[0] == b"011"
        ```
        """
        inputs = _bytes("inputs", inputs)
        known = targets is not None
        targets = _bytes("targets", targets) if known else np.zeros_like(inputs)
        if inputs.ndim < 2 or inputs.shape != targets.shape:
            raise ValueError(
                f"inputs have the shape {inputs.shape} and targets {targets.shape}: both must be "
                "(examples, *grid)"
            )
        rows = len(inputs)
        if puzzles is None:
            puzzles = [text_of(row, symbols) for row in inputs]
        if difficulty is None:
            difficulty = np.zeros(rows)
        puzzles = [p.encode() if isinstance(p, str) else p for p in puzzles]
        for name, values in (("puzzles", puzzles), ("difficulty", difficulty)):
            if len(values) != rows:
                raise ValueError(f"{name} has {len(values)} rows, and inputs {rows}")
        return cls(
            inputs=inputs,
            targets=targets,
            difficulty=np.asarray(difficulty, np.float32),
            puzzles=np.array(puzzles, np.bytes_),
            columns={"answered": np.full(rows, known), **(columns or {})},
        )

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def answered(self) -> Bool[np.ndarray, " examples"]:
        """Whether `targets` holds the right answer of each example."""
        return self.columns.get("answered", np.ones(len(self), bool))

    def evenly(self, count: int) -> "Split":
        """At most `count` examples, spread evenly: a split may be sorted, and the same rows are
        taken every time."""
        count = min(count, len(self))
        return self.take(np.arange(count) * len(self) // max(count, 1))

    def take(self, index: np.ndarray | slice) -> "Split":
        """The examples that `index` (integers, a mask or a slice) selects, in its order."""
        return Split(
            inputs=self.inputs[index],
            targets=self.targets[index],
            difficulty=self.difficulty[index],
            puzzles=self.puzzles[index],
            columns={name: column[index] for name, column in self.columns.items()},
        )

    def distinct(self, without: "Split | None" = None) -> "Split":
        """The first of equal inputs, in the order of the split, but for those that `without`
        holds. Examples of another grid are never equal."""
        rows = self.inputs.reshape(len(self), -1)
        before = 0
        if without is not None and without.inputs.shape[1:] == self.inputs.shape[1:]:
            before = len(without)
            rows = np.concatenate([without.inputs.reshape(before, -1), rows])
        _, first = np.unique(rows, axis=0, return_index=True)
        return self.take(np.sort(first[first >= before]) - before)


def _bytes(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype == bool:
        return array.astype(np.uint8)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} must be integers, and not {array.dtype}")
    if array.size and not (array.min() >= 0 and array.max() <= 255):
        raise ValueError(
            f"{name} must be from 0 to 255, and go from {array.min()} to {array.max()}"
        )
    return array.astype(np.uint8)


def text_of(cells: np.ndarray, symbols: str) -> str:
    """The symbols of cells, row by row. **Raises** `ValueError` for a value without a symbol."""
    values = np.asarray(cells).ravel().tolist()
    if values and max(values) >= len(symbols):
        raise ValueError(
            f"the value {max(values)} has no symbol: there are {len(symbols)}, {symbols!r}; give "
            "more of them as `symbols`, or the texts as `puzzles`"
        )
    return "".join([symbols[value] for value in values])


@dataclasses.dataclass(frozen=True)
class Bad:
    """A row that a loader could not use: `where` is `file:line`, `why` one line of text."""

    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The named splits of a task and where they come from.

    `manifest` is JSON-ready: task, version, fields, source (path, size, sha256, or
    "generator"), rows read and bad, and for each split its rows and a sha256 of them. For a task
    of a file also `code`: the file and class, and the SHA-256 of the file.
    """

    splits: Mapping[str, Split]
    manifest: Mapping[str, object]
