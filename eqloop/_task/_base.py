"""The interface between tasks and everything else: what a task is, without any task in it."""

import abc
import dataclasses
import re
from collections.abc import Callable, Mapping
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
from ._split import SYMBOLS, Bad, Dataset, Progress, Split

ROWS = 10_000
"""Training + validation rows that are generated, where neither the task nor the user says."""


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
    """A task: examples with named splits, an encoding, symmetries, a score and a picture.

    A task of one's own is a class with five members: `grid`, `channels`, `classes`, `generate` and
    `encode`. Everything else has a default: the name (from that of the class), attention of all
    cells to all, no symmetry, `argmax` as prediction, the scores `exact` and `cells`, no difficulty
    bands, four splits from the generator or a file, and text, files and pictures in which one
    symbol stands for each cell.

    A task is its own configuration: the fields of the dataclass are what `--set task.FIELD=...`
    and the `[task]` table of a spec can set. A class that adds fields is itself decorated with
    `@dataclasses.dataclass(frozen=True)`. Host methods work on NumPy arrays and whole splits;
    device methods (`encode`, `transform`, `predict`, `score`) are pure JAX functions of **one**
    example, traced under `vmap` and `jit`.

    ```python
    class Reverse(eqloop.Task):
        grid, channels, classes = (8,), 10, 10

        def generate(self, rows, seed, *, progress=None):
            digits = np.random.default_rng(seed).integers(0, 10, (rows, 8))
            return eqloop.Split.of(digits, digits[:, ::-1])

        def encode(self, tokens):
            return jax.nn.one_hot(tokens, 10)
    ```
    """

    data: str = ""
    """A file or folder to read; empty for the built-in generator."""
    rows: int = 0
    """Training + validation rows to use; 0 for the task's own default."""
    seed: int = 42
    """Seeds the generator and the train / validation partition; not the training itself."""
    augment: bool = False
    """Whether training batches pass through `transform`."""
    skip_bad: bool = False
    """Go on past bad rows (counted in the manifest) instead of refusing the file."""

    name: ClassVar[str]
    """As on the command line; by default the name of the class, as in `binary-addition` for
    `BinaryAddition`."""
    version: ClassVar[int] = 1
    """Part of the cache key and the manifest: raised when the encoding or a generator changes."""
    symbols: ClassVar[str] = SYMBOLS
    """The character of each token and of each class, in texts, files and pictures."""
    labels: ClassVar[tuple[str, str]] = ("input", "answer")
    """What a row of tokens and a row of classes are called, in pictures of a grid of one axis."""

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
        """Cells along each axis of a training example."""

    @property
    @abc.abstractmethod
    def channels(self) -> int:
        """Input channels per cell, after `encode`."""

    @property
    @abc.abstractmethod
    def classes(self) -> int:
        """Output classes per cell."""

    @property
    def attention(self) -> Literal["full"] | int:
        """The attention a model for this task has by default: "full" or a window in cells."""
        return "full"

    # --- data, on the host

    @abc.abstractmethod
    def generate(self, rows: int, seed: int, *, progress: Progress | None = None) -> Split:
        """`rows` examples from the built-in generator: a pure function of the fields and `seed`.

        `Split.of` makes them from two arrays. The default `load` drops examples that occur twice;
        `progress`, which may be ignored, is called with (rows made, rows in all).
        """

    def harder(self) -> "Task | None":
        """The task whose examples make the split `hard`, such as this one with a larger grid:
        `dataclasses.replace(self, digits=2 * self.digits)`. None by default: then `hard` holds
        further examples of this task, as `test` does."""
        return None

    def read(
        self, path: Path, *, on_bad: Callable[[Bad], None], progress: Progress | None = None
    ) -> Split:
        """Every good row of a file, in the file's order.

        By default the columns `question`, which `parse` reads, and perhaps `answer`, the symbols of
        the targets; or one puzzle a line.

        Each bad row is handed to `on_bad`, which may raise. **Raises** `InputError` where the
        file as a whole cannot be read (missing, empty, not the format, a column missing).
        """
        rows = _cells.read_cells(
            Path(path), self.parse, self.symbols, on_bad=on_bad, progress=progress
        )
        if rows is None:
            empty = np.zeros((0, *self.grid), np.uint8)
            return Split.of(empty, empty, symbols=self.symbols)
        return rows

    def write(self, split: Split, path: Path) -> None:
        """Write `split` in the file format that `read` reads (atomically); compressed where `path`
        ends in `.gz` or `.zst`."""
        _cells.write_cells(split, Path(path), self.symbols)

    def load(self, *, progress: Progress | None = None) -> Dataset:
        """The named splits, at least `train`, `validation`, `test` and `hard`, from `self.data`
        or the generator; encoded once and cached on disk. No example of `validation` is in
        `test` or `hard`."""
        if not self.data:
            return dataset(self, self._source, lambda: (self._splits(None, progress), {"bad": 0}))
        path = Path(self.data)

        def build() -> tuple[Mapping[str, Split], Mapping[str, object]]:
            tally = Tally()
            split = self.read(path, on_bad=tally if self.skip_bad else refuse, progress=progress)
            if not len(split):
                raise InputError(f"{path}: no good row; `eqloop data check` lists what is wrong")
            read = {"rows": len(split), "bad": tally.count}
            return self._splits(split, progress), read

        return dataset(self, describe(path), build)

    @property
    def _source(self) -> dict[str, object]:
        """What the manifest says of examples that were generated."""
        return {"generator": self.name}

    def _splits(self, given: Split | None, progress: Progress | None) -> dict[str, Split]:
        """The named splits, of the rows of a file or from the generator."""
        harder = self.harder()
        if given is None:
            rows = self.rows or ROWS
            held = max(rows // 10, 1)
            pool = _distinct(self, rows + (held if harder else 2 * held), self.seed, progress)
        else:
            pool = self._usable(given)
            rows = min(self.rows or len(pool), int(0.8 * len(pool)))
            held = (len(pool) - rows) // (1 if harder else 2)
        if rows < 2 or held < 1:
            raise InputError(
                f"{self.data or f'task.rows={self.rows}'}: {len(pool)} different examples do not "
                "make the splits train, validation, test and hard; take more"
            )
        kept, validation = partition(rows, self.seed)
        if harder is None:
            hard = pool.take(slice(rows + held, rows + 2 * held))
        else:
            hard = _distinct(harder, held, self.seed + 1, progress, without=pool)
        return {
            "train": pool.take(kept),
            "validation": pool.take(validation),
            "test": pool.take(slice(rows, rows + held)),
            "hard": hard,
        }

    def _usable(self, given: Split) -> Split:
        """The different rows of a file, if a model of this task can be trained on them."""
        _refuse_other_shapes(self, given, self.data, "set the field of the task that decides it")
        if missing := int(np.sum(~given.answered)):
            raise InputError(
                f"{self.data}: {missing} rows have no answer, and a model cannot be trained on "
                "them; add a column answer"
            )
        return given.distinct()

    def bands(self, split: Split) -> dict[str, Bool[np.ndarray, " examples"]]:
        """Difficulty bands (and themes, where there are any), easiest first: name -> mask. None by
        default."""
        del split
        return {}

    def remarks(self, split: Split) -> dict[str, int]:
        """What a check of a file counts besides bad rows: how many rows of `split` are what a
        phrase says. Empty by default."""
        del split
        return {}

    # --- one example, on the device

    @abc.abstractmethod
    def encode(self, tokens: UInt8[Array, "*grid"]) -> Float[Array, "*grid channels"]:
        """Tokens to the channels that the model reads, as float32."""

    def transform(
        self, key: PRNGKeyArray, tokens: UInt8[Array, "*grid"], targets: UInt8[Array, "*grid"]
    ) -> tuple[UInt8[Array, "*grid"], UInt8[Array, "*grid"]]:
        """A random symmetry of the task, applied to an example. By default the identity."""
        del key
        return tokens, targets

    def predict(
        self, logits: Float[Array, "*grid classes"], tokens: UInt8[Array, "*grid"]
    ) -> UInt8[Array, "*grid"]:
        """The answer that the logits stand for, in the format of `targets`. By default the class
        with the highest logit in each cell."""
        del tokens
        return jnp.argmax(logits, -1).astype(jnp.uint8)

    def score(
        self,
        prediction: UInt8[Array, "*grid"],
        tokens: UInt8[Array, "*grid"],
        targets: UInt8[Array, "*grid"],
    ) -> dict[str, Float[Array, ""] | Bool[Array, ""] | Int[Array, ""]]:
        """Scores of one example. Always `exact` (the whole answer is right, 0 or 1) and `cells`
        (share of cells right); sudoku adds `blanks` (share of the blank cells right)."""
        del tokens
        right = prediction == targets
        return {EXACT: jnp.all(right), CELLS: jnp.mean(right, dtype=jnp.float32)}

    # --- one example, on the host

    def judge(
        self, split: Split, predictions: Shaped[np.ndarray, "examples *grid"]
    ) -> dict[str, Float[np.ndarray, " examples"]]:
        """Scores that need rules code on the host (legal moves, mates); NaN where one does not
        apply to an example. None by default."""
        del split, predictions
        return {}

    def parse(self, text: str) -> Split:
        """One puzzle as a user types it, as a split of one example. Where the right answer is
        not known from the puzzle alone, `targets` is all zero and `columns["answered"]` False.
        By default one symbol for each cell, and the answer is not known. **Raises** `InputError`
        with one clear line."""
        tokens = _cells.parse_cells(text, self.grid, self.symbols)
        return Split.of(tokens[None], symbols=self.symbols)

    def check(
        self, split: Split, prediction: Shaped[np.ndarray, "*grid"]
    ) -> tuple[bool | None, str]:
        """Whether `prediction` answers the one example in `split`, by the rules of the task, and
        one line that says why. None where the rules alone cannot tell. By default compared with
        the target."""
        return _cells.check_cells(split, prediction)

    def render(self, split: Split, prediction: Shaped[np.ndarray, "*grid"] | None = None) -> str:
        """The one example in `split` as a board for the terminal (rich markup), with the
        predicted cells filled in and told apart from the givens also without colour."""
        return _cells.render_cells(split, prediction, self.symbols, self.labels)

    def draw(self, split: Split, prediction: Shaped[np.ndarray, "*grid"] | None = None) -> str:
        """The one example in `split` as an SVG for a page: self-contained, of no fixed size, with
        a title. Predicted cells are told apart from givens, and wrong ones marked where the
        answer is known, also without colour; the ink is `currentColor`."""
        return _cells.draw_cells(
            split, prediction, self.symbols, self.labels, title=f"An example of {self.name}"
        )


def _distinct(
    task: Task, rows: int, seed: int, progress: Progress | None, *, without: Split | None = None
) -> Split:
    """`rows` different examples of a generator, none of them in `without`."""
    asked = rows
    while True:
        made = task.generate(asked, seed % 2**32, progress=progress)
        _refuse_other_shapes(task, made, f"{type(task).__name__}.generate", "correct either")
        made = made.distinct(without)
        if len(made) >= rows:
            return made.take(slice(rows))
        if asked >= 8 * rows:
            raise InputError(
                f"task.rows={task.rows or ROWS}: the splits need {rows} different examples of "
                f"{task.name}, and its generator gives {len(made)}; set fewer rows"
            )
        asked *= 2


def _refuse_other_shapes(task: Task, split: Split, where: str, remedy: str) -> None:
    """**Raises** `InputError` for examples that are not those of `grid` and `classes`."""
    if split.inputs.shape[1:] != tuple(task.grid):
        raise InputError(
            f"{where}: the examples have the shape {split.inputs.shape[1:]}, where the grid of the "
            f"task is {tuple(task.grid)}; {remedy}"
        )
    if len(split) and split.targets.max() >= task.classes:
        raise InputError(
            f"{where}: a target is of class {split.targets.max()}, where the task has the classes "
            f"0 to {task.classes - 1}; {remedy}"
        )
