"""Examples on the host: one split, the named splits of a task, and a bad row."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped

from .._errors import InputError
from .._evenly import evenly

Progress = Callable[[int, int | None], None]
"""Progress callback of a loader: (units done, total units or None)."""

SYMBOLS = "0123456789abcdefghijklmnopqrstuvwxyz"
"""Default characters of tokens and classes."""

Symbols = str | tuple[str, ...]
"""The symbol of each token and of each class: one character, or a name. Texts have spaces between
names."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples of one split, on the host. `Split.of` makes one from two arrays.

    **Attributes:**

    - `inputs`: one token per cell, uint8, `(examples, *grid)`; `Task.encode` converts them to
      channels on the device.
    - `targets`: one class per cell, uint8, `(examples, *grid)`.
    - `difficulty`: float32, `(examples,)`; each task chooses its scale (a rating, a length).
    - `puzzles`: bytes, `(examples,)`: each puzzle as a user would type it; `Task.parse` of it
      gives the same tokens.
    - `columns`: further arrays with one entry per example, which bands and scores read (themes,
      ...).

    ```python
    >>> import eqloop
    >>> split = eqloop.Split.of([[0, 1], [1, 1], [0, 1]], [[0, 1], [1, 0], [0, 1]])
    >>> split.inputs.shape, len(split.distinct()), split.answered.tolist()
    ((3, 2), 2, [True, True, True])

    ```
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
        symbols: Symbols = SYMBOLS,
        columns: Mapping[str, np.ndarray] | None = None,
    ) -> "Split":
        """Make a split of two arrays.

        **Arguments:**

        - `inputs`: integers from 0 to 255, `(examples, *grid)`: the token of each cell.
        - `targets`: integers from 0 to 255, of the same shape: the class of each cell. None if the
          answers are unknown: then the targets are 0 and `answered` is False.
        - `difficulty`: one number per example; 0 by default.
        - `puzzles`: one text per example; by default the symbols of its tokens, row by row.
        - `symbols`: the character or name of each token, for `puzzles`.
        - `columns`: further arrays with one entry per example; the column `answered` is added.

        **Returns** the split.

        **Raises** `ValueError` if the shapes differ, if a value is not an integer from 0 to 255,
        or if a token has no symbol.

        ```python
        >>> import eqloop
        >>> split = eqloop.Split.of([[0, 1, 1], [1, 0, 0]], [[0, 1, 0], [1, 1, 1]])
        >>> len(split), split.puzzles.tolist(), split.take([1]).targets.tolist()
        (2, [b'011', b'100'], [[1, 1, 1]])

        ```
        """
        inputs = _bytes("inputs", inputs)
        is_answered = targets is not None
        targets = _bytes("targets", targets) if is_answered else np.zeros_like(inputs)
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
            columns={"answered": np.full(rows, is_answered), **(columns or {})},
        )

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def answered(self) -> Bool[np.ndarray, " examples"]:
        """Whether the answer of each example is known and stored in `targets`."""
        return self.columns.get("answered", np.ones(len(self), bool))

    def evenly(self, count: int) -> "Split":
        """Take at most `count` examples, evenly spaced, since a split may be sorted.

        **Arguments:**

        - `count`: maximum number of examples.

        **Returns** the examples in their order. The choice is deterministic.
        """
        return self.take(evenly(len(self), count))

    def take(self, index: np.ndarray | slice) -> "Split":
        """Take the examples that an index selects.

        **Arguments:**

        - `index`: integers, a mask of shape `(examples,)`, or a slice.

        **Returns** a split of these examples, in the order of `index`.

        **Raises** `IndexError` for an integer out of range or a mask of another length.
        """
        return Split(
            inputs=self.inputs[index],
            targets=self.targets[index],
            difficulty=self.difficulty[index],
            puzzles=self.puzzles[index],
            columns={name: column[index] for name, column in self.columns.items()},
        )

    def distinct(self, without: "Split | None" = None) -> "Split":
        """Remove duplicates, keeping the first of equal inputs.

        Examples of different grids are never equal.

        **Arguments:**

        - `without`: a split whose inputs are removed, too; None for no such split.

        **Returns** the other examples, in their order.
        """
        rows = self.inputs.reshape(len(self), -1)
        before = 0
        if without is not None and without.inputs.shape[1:] == self.inputs.shape[1:]:
            before = len(without)
            rows = np.concatenate([without.inputs.reshape(before, -1), rows])
        _, indices = np.unique(rows, axis=0, return_index=True)
        return self.take(np.sort(indices[indices >= before]) - before)


def refuse_unanswered(split: Split, where: str, consequence: str) -> None:
    """**Raises** `InputError`, which begins with `where`, if the answer of an example is unknown:
    its targets are 0, which are no answer."""
    if missing := int(np.sum(~split.answered)):
        raise InputError(
            f"{where}{missing} rows have no answer, so {consequence}; add a column answer"
        )


def _bytes(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype == bool:
        return array.astype(np.uint8)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} must be integers, not {array.dtype}")
    if array.size and not (array.min() >= 0 and array.max() <= 255):
        raise ValueError(f"{name} must be from 0 to 255, got {array.min()} to {array.max()}")
    return array.astype(np.uint8)


def text_of(cells: np.ndarray, symbols: Symbols) -> str:
    """The symbols of cells, row by row, as a text. **Raises** `ValueError` as `symbols_of`."""
    return ("" if isinstance(symbols, str) else " ").join(symbols_of(cells, symbols))


def symbols_of(cells: np.ndarray, symbols: Symbols) -> list[str]:
    """The symbols of cells, row by row. **Raises** `ValueError` if a value has no symbol."""
    values = np.asarray(cells).ravel().tolist()
    if values and max(values) >= len(symbols):
        raise ValueError(
            f"the value {max(values)} has no symbol, since there are {len(symbols)}: {symbols!r}; "
            "pass more symbols as `symbols`, or the texts as `puzzles`"
        )
    return [symbols[value] for value in values]


@dataclasses.dataclass(frozen=True)
class Bad:
    """A bad row of a file: a row that a task cannot use.

    **Attributes:**

    - `where`: the place of the row, `file:line`.
    - `why`: the reason, in one line.

    ```python
    >>> import eqloop
    >>> print(eqloop.Bad("puzzles.csv:2", "80 cells"))
    puzzles.csv:2: 80 cells

    ```
    """

    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The named splits of a task, with a record of their source.

    **Attributes:**

    - `splits`: name -> split.
    - `manifest`: JSON-ready: task, version, fields, source (path, size and SHA-256, or
      "generator"), numbers of rows and bad rows, and the number of rows and their SHA-256 for each
      split. For a task of a file also `code`: the file and class, and the SHA-256 of the file.

    ```python
    >>> import eqloop
    >>> fields = {"length": 8, "rows": 20, "test_rows": 4}
    >>> data = eqloop.tasks.make_task("prefix-sums", fields).load()
    >>> {name: len(split) for name, split in data.splits.items() if "x" not in name}
    {'train': 16, 'validation': 4, 'test': 4, 'hard': 4}
    >>> data.manifest["source"]
    {'generator': 'uniform bits'}

    ```
    """

    splits: Mapping[str, Split]
    manifest: Mapping[str, object]
