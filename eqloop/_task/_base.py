"""The interface of a task, which the rest of the package uses; no task is defined here."""

import abc
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped, UInt8

from .._errors import InputError
from .._scores import CELLS, EXACT
from . import _cells
from ._dataset import dataset, describe, partition
from ._files import Tally, refuse
from ._split import SYMBOLS, Bad, Dataset, Progress, Split, Symbols, refuse_unanswered

ROWS = 10_000
"""Number of training + validation rows to generate if neither the task nor the user sets it."""


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
    """A task: examples with named splits, an encoding, symmetries, a score and a picture.

    A subclass must define five members: `grid`, `channels`, `classes`, `generate` and `encode`.
    Every other member has a default: the name (derived from the class name), full attention, the
    identity as symmetry, `argmax` as prediction, the scores `exact` and `cells`, no difficulty
    bands, four splits from the generator or a file, and texts, files and pictures with one symbol
    per cell.

    A task is its own configuration: `--set task.FIELD=...` and the `[task]` table of a spec set
    the fields of the dataclass. Decorate a subclass that adds fields with
    `@dataclasses.dataclass(frozen=True)`. Host methods work on NumPy arrays and whole splits;
    device methods (`encode`, `transform`, `predict`, `score`) are pure JAX functions of **one**
    example, traced under `vmap` and `jit`.

    ```python
    >>> import eqloop, jax, numpy as np
    >>> class Reverse(eqloop.Task):
    ...     grid, channels, classes = (8,), 10, 10
    ...
    ...     def generate(self, rows, seed, *, progress=None):
    ...         digits = np.random.default_rng(seed).integers(0, 10, (rows, 8))
    ...         return eqloop.Split.of(digits, digits[:, ::-1])
    ...
    ...     def encode(self, tokens):
    ...         return jax.nn.one_hot(tokens, 10)
    >>> task = Reverse()
    >>> task.name, task.encode(np.arange(8)).shape
    ('reverse', (8, 10))
    >>> task.check(task.generate(1, 0), task.generate(1, 0).targets[0])
    (True, 'all 8 cells are right')

    ```
    """

    data: str = ""
    """The examples are read from this file or folder; the built-in generator makes them if it is
    empty."""
    rows: int = 0
    """The training and validation splits have this many rows together; 0 takes the default of the
    task."""
    seed: int = 42
    """The generator and the train / validation partition use this seed. Training does not use
    it."""
    augment: bool = False
    """If true, training batches pass through `transform`."""
    skip_bad: bool = False
    """If true, bad rows are skipped (and counted in the manifest); otherwise the file is
    refused."""

    name: ClassVar[str]
    """Name on the command line; by default derived from the class name: `binary-addition` for
    `BinaryAddition`."""
    version: ClassVar[int] = 1
    """Part of the cache key and the manifest. Raise it when the encoding or a generator changes."""
    symbols: ClassVar[Symbols] = SYMBOLS
    """The character of each token and of each class, in texts, files and pictures; or a tuple of
    names, which texts have with spaces between them."""
    labels: ClassVar[tuple[str, str]] = ("input", "answer")
    """Captions of the row of tokens and the row of classes in pictures of one-dimensional grids."""

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        if "name" not in vars(cls):
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower()

    def __post_init__(self):
        if not 0 <= self.seed < 2**32:
            raise InputError(f"task.seed={self.seed}: must be from 0 to 2^32 - 1")
        if self.rows < 0:
            raise InputError(f"task.rows={self.rows}: must be 0 (the default) or more")

    # --- what a model for this task looks like

    @property
    @abc.abstractmethod
    def grid(self) -> tuple[int, ...]:
        """Number of cells along each axis of a training example."""

    @property
    @abc.abstractmethod
    def channels(self) -> int:
        """Number of input channels per cell, after `encode`."""

    @property
    @abc.abstractmethod
    def classes(self) -> int:
        """Number of output classes per cell."""

    @property
    def attention(self) -> Literal["full"] | int:
        """Default attention of a model for this task: "full", or the width of a window in cells."""
        return "full"

    # --- data, on the host

    @abc.abstractmethod
    def generate(self, rows: int, seed: int, *, progress: Progress | None = None) -> Split:
        """Generate `rows` examples: a pure function of the fields and `seed`.

        **Arguments:**

        - `rows`: number of examples.
        - `seed`: integer from 0 to 2^32 - 1.
        - `progress`: optional callback `(rows generated, total rows)`; it may be ignored.

        **Returns** a split of `rows` examples; `Split.of` makes one from two arrays. The default
        `load` removes duplicates.
        """

    def harder(self) -> "Task | None":
        """The task that generates the split `hard`, for example this one with a larger grid:
        `dataclasses.replace(self, digits=2 * self.digits)`.

        **Returns** the task; None by default: then `hard` holds further examples of this task, as
        `test` does.
        """
        return None

    def read(
        self, path: Path, *, on_bad: Callable[[Bad], None], progress: Progress | None = None
    ) -> Split:
        """Read all good rows of a file, in the order of the file.

        By default the file has a column `question`, which `parse` reads, and optionally a column
        `answer` with the symbols of the targets; or it has one puzzle per line.

        **Arguments:**

        - `path`: the file.
        - `on_bad`: called with each bad row; it may raise.
        - `progress`: optional callback `(bytes read, bytes of the file)`.

        **Returns** one split of the good rows.

        **Raises** `InputError` if the file as a whole cannot be read: it is missing or empty, has
        another format, or lacks a column.
        """
        rows = _cells.read_cells(
            Path(path), self.parse, self.symbols, on_bad=on_bad, progress=progress
        )
        if rows is None:
            empty = np.zeros((0, *self.grid), np.uint8)
            return Split.of(empty, empty, symbols=self.symbols)
        return rows

    def write(self, split: Split, path: Path) -> None:
        """Write examples atomically to a file, in the format that `read` reads.

        **Arguments:**

        - `split`: the examples.
        - `path`: the file; it is compressed if its name ends in `.gz` or `.zst`.

        **Raises** `InputError` if the file cannot be written.
        """
        _cells.write_cells(split, Path(path), self.symbols)

    def load(self, *, progress: Progress | None = None) -> Dataset:
        """Load the named splits from `self.data` or the generator; they are cached on disk.

        **Arguments:**

        - `progress`: optional callback: see `generate` and `read`.

        **Returns** a `Dataset` with at least the splits `train`, `validation`, `test` and `hard`.
        No example of `validation` is in `test` or `hard`.

        **Raises** `InputError` if the data cannot be read or are too few for these splits.
        """
        if not self.data:
            return dataset(self, self._source, lambda: (self._splits(None, progress), {"bad": 0}))
        path = Path(self.data)

        def build() -> tuple[Mapping[str, Split], Mapping[str, object]]:
            tally = Tally()
            split = self.read(path, on_bad=tally if self.skip_bad else refuse, progress=progress)
            if not len(split):
                raise InputError(f"{path}: no good row; `eqloop data check` lists the faults")
            counts = {"rows": len(split), "bad": tally.count}
            return self._splits(split, progress), counts

        return dataset(self, describe(path, self._parts(path)), build)

    def _parts(self, path: Path) -> Sequence[str]:
        """The names of the files that `read` reads in a folder; none for a file."""
        del path
        return ()

    @property
    def _source(self) -> dict[str, object]:
        """The entry `source` of the manifest for generated examples."""
        return {"generator": self.name}

    def _splits(self, file_rows: Split | None, progress: Progress | None) -> dict[str, Split]:
        """The named splits, from the rows of a file or, if `file_rows` is None, the generator."""
        harder = self.harder()
        if file_rows is None:
            rows = self.rows or ROWS
            test_rows = max(rows // 10, 1)
            pool = _distinct(
                self, rows + (test_rows if harder else 2 * test_rows), self.seed, progress
            )
        else:
            pool = self._usable(file_rows)
            rows = min(self.rows or len(pool), int(0.8 * len(pool)))
            test_rows = (len(pool) - rows) // (1 if harder else 2)
        if rows < 2 or test_rows < 1:
            raise InputError(
                f"{self.data or f'task.rows={self.rows}'}: {len(pool)} different examples are "
                "too few for the splits train, validation, test and hard; use more"
            )
        train, validation = partition(rows, self.seed)
        if harder is None:
            hard = pool.take(slice(rows + test_rows, rows + 2 * test_rows))
        else:
            hard = _distinct(harder, test_rows, self.seed + 1, progress, without=pool)
        return {
            "train": pool.take(train),
            "validation": pool.take(validation),
            "test": pool.take(slice(rows, rows + test_rows)),
            "hard": hard,
        }

    def _usable(self, split: Split) -> Split:
        """The distinct rows of a file. **Raises** `InputError` if a model cannot train on them."""
        _refuse_other_shapes(
            self, split, self.data, "set the field of the task that determines the shape"
        )
        refuse_unanswered(split, f"{self.data}: ", "a model cannot be trained on them")
        return split.distinct()

    def bands(self, split: Split) -> dict[str, Bool[np.ndarray, " examples"]]:
        """Difficulty bands and themes.

        **Arguments:**

        - `split`: the examples.

        **Returns** name -> mask of shape `(examples,)`, easiest first; empty by default.
        """
        del split
        return {}

    def known_depth(
        self, split: Split, attention: Literal["full"] | int
    ) -> Float[np.ndarray, " examples"] | None:
        """The known depth of each example: the number of iterations that a law of the task gives,
        if an iteration attends once.

        **Arguments:**

        - `split`: the examples.
        - `attention`: "full", or the width of the window of attention in cells.

        **Returns** one number per example; None by default, if there is no law.
        """
        del split, attention
        return None

    def remarks(self, split: Split) -> dict[str, int]:
        """Counts that `eqloop data check` prints besides bad rows.

        **Arguments:**

        - `split`: the examples.

        **Returns** phrase -> number of rows of `split` that it describes; empty by default.
        """
        del split
        return {}

    # --- one example, on the device

    @abc.abstractmethod
    def encode(self, tokens: UInt8[Array, "*grid"]) -> Float[Array, "*grid channels"]:
        """Convert the tokens of one example to the channels that the model reads.

        **Arguments:**

        - `tokens`: the token of each cell, uint8, `(*grid,)`.

        **Returns** float32, `(*grid, channels)`.
        """

    def transform(
        self, key: PRNGKeyArray, tokens: UInt8[Array, "*grid"], targets: UInt8[Array, "*grid"]
    ) -> tuple[UInt8[Array, "*grid"], UInt8[Array, "*grid"]]:
        """Apply a random symmetry of the task to one example.

        **Arguments:**

        - `key`: random key of the symmetry.
        - `tokens`, `targets`: token and class of each cell, uint8, `(*grid,)`.

        **Returns** the tokens and targets after the symmetry; unchanged by default.
        """
        del key
        return tokens, targets

    def predict(
        self, logits: Float[Array, "*grid classes"], tokens: UInt8[Array, "*grid"]
    ) -> UInt8[Array, "*grid"]:
        """The prediction for one example.

        **Arguments:**

        - `logits`: the logits of the model, `(*grid, classes)`.
        - `tokens`: the token of each cell, uint8, `(*grid,)`.

        **Returns** a class per cell in the format of `targets`; by default that with the highest
        logit.
        """
        del tokens
        return jnp.argmax(logits, -1).astype(jnp.uint8)

    def score(
        self,
        prediction: UInt8[Array, "*grid"],
        tokens: UInt8[Array, "*grid"],
        targets: UInt8[Array, "*grid"],
    ) -> dict[str, Float[Array, ""] | Bool[Array, ""] | Int[Array, ""]]:
        """Scores of one example.

        **Arguments:**

        - `prediction`: the result of `predict`, uint8, `(*grid,)`.
        - `tokens`, `targets`: token and class of each cell, uint8, `(*grid,)`.

        **Returns** name -> one number. Every task has `exact` (1 if all cells are right, else 0)
        and `cells` (share of cells right); sudoku adds `blanks` (share of blank cells right).
        """
        del tokens
        correct = prediction == targets
        return {EXACT: jnp.all(correct), CELLS: jnp.mean(correct, dtype=jnp.float32)}

    # --- one example, on the host

    def judge(
        self, split: Split, predictions: Shaped[np.ndarray, "examples *grid"]
    ) -> dict[str, Float[np.ndarray, " examples"]]:
        """Scores that only code on the host can compute (legal moves, mates).

        **Arguments:**

        - `split`: the examples.
        - `predictions`: one class per cell, `(examples, *grid)`.

        **Returns** name -> one value per example, NaN if the score does not apply to it; empty by
        default.
        """
        del split, predictions
        return {}

    def parse(self, text: str) -> Split:
        """Parse one puzzle as a user types it; by default one symbol per cell.

        **Arguments:**

        - `text`: the puzzle.

        **Returns** a split of one example. If the puzzle alone does not determine the answer,
        `targets` is all zero and `columns["answered"]` is False, as it always is by default.

        **Raises** `InputError` with one clear line if the text is no puzzle of this task.
        """
        tokens = _cells.parse_cells(text, self.grid, self.symbols)
        return Split.of(tokens[None], symbols=self.symbols)

    def check(
        self, split: Split, prediction: Shaped[np.ndarray, "*grid"]
    ) -> tuple[bool | None, str]:
        """Check a prediction by the rules of the task; by default against the target.

        **Arguments:**

        - `split`: one example.
        - `prediction`: one class per cell, `(*grid,)`.

        **Returns** whether the prediction is right (None if the rules alone do not decide), and
        one line with the reason.
        """
        return _cells.check_cells(split, prediction)

    def render(self, split: Split, prediction: Shaped[np.ndarray, "*grid"] | None = None) -> str:
        """Draw one example as a board for the terminal. Predicted cells and givens differ even
        without colour.

        **Arguments:**

        - `split`: one example.
        - `prediction`: one class per cell, `(*grid,)`, to fill in; None for the puzzle alone.

        **Returns** Rich markup.
        """
        return _cells.render_cells(split, prediction, self.symbols, self.labels)

    def draw(self, split: Split, prediction: Shaped[np.ndarray, "*grid"] | None = None) -> str:
        """Draw one example as a picture. Predicted cells and givens differ even without colour;
        wrong cells are marked if the answer is known; the ink is `currentColor`.

        **Arguments:**

        - `split`: one example.
        - `prediction`: one class per cell, `(*grid,)`, to fill in; None for the puzzle alone.

        **Returns** a self-contained SVG of no fixed size, with a title.
        """
        return _cells.draw_cells(
            split, prediction, self.symbols, self.labels, title=f"An example of {self.name}"
        )


def _distinct(
    task: Task, rows: int, seed: int, progress: Progress | None, *, without: Split | None = None
) -> Split:
    """Generate `rows` distinct examples, none of which is in `without`."""
    count = rows
    while True:
        examples = task.generate(count, seed % 2**32, progress=progress)
        _refuse_other_shapes(task, examples, f"{type(task).__name__}.generate", "correct either")
        examples = examples.distinct(without)
        if len(examples) >= rows:
            return examples.take(slice(rows))
        if count >= 8 * rows:
            raise InputError(
                f"task.rows={task.rows or ROWS}: the splits need {rows} distinct examples of "
                f"{task.name}, but its generator gives {len(examples)}; set fewer rows"
            )
        count *= 2


def _refuse_other_shapes(task: Task, split: Split, where: str, remedy: str) -> None:
    """**Raises** `InputError` if the examples do not have the grid and classes of the task."""
    if split.inputs.shape[1:] != tuple(task.grid):
        raise InputError(
            f"{where}: the examples have the shape {split.inputs.shape[1:]}, but the grid of the "
            f"task is {tuple(task.grid)}; {remedy}"
        )
    if len(split) and split.targets.max() >= task.classes:
        raise InputError(
            f"{where}: a target is of class {split.targets.max()}, but the task has the classes "
            f"0 to {task.classes - 1}; {remedy}"
        )
