"""The interface between tasks and everything else: what a task is, without any task in it."""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped, UInt8

Progress = Callable[[int, int | None], None]
"""Called now and then while a loader works, with (units done, units in all or None)."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Encoded examples of one split, on the host.

    **Attributes:**

    - `inputs`: one token per cell, uint8, `(examples, *grid)`; `AbstractTask.encode` turns them
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

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def answered(self) -> Bool[np.ndarray, " examples"]:
        """Whether `targets` holds the right answer of each example."""
        return self.columns.get("answered", np.ones(len(self), bool))

    def evenly(self, count: int) -> "Split":
        """So many examples, spread evenly: a split may be sorted, and the same rows are taken every
        time. All of a split that has no more."""
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


@dataclasses.dataclass(frozen=True)
class Bad:
    """A row that a loader could not use: `where` is `file:line`, `why` one line of text."""

    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


@dataclasses.dataclass(frozen=True)
class AbstractTask(abc.ABC):
    """A task: examples with named splits, an encoding, symmetries, a score and a picture.

    A task is its own configuration: the fields of the dataclass are what `--set task.FIELD=...`
    and the `[task]` table of a spec can set. Host methods work on NumPy arrays and whole splits;
    device methods (`encode`, `augment`, `predict`, `score`) are pure JAX functions of **one**
    example, traced under `vmap` and `jit`.
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
    """As on the command line."""
    version: ClassVar[int]
    """Part of the cache key and the manifest: raised when the encoding or a generator changes."""

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
        """`rows` distinct examples from the built-in generator: a pure function of the fields
        and `seed`."""

    @abc.abstractmethod
    def read(
        self, path: Path, *, on_bad: Callable[[Bad], None], progress: Progress | None = None
    ) -> Split:
        """Every good row of a file, in the file's order, streamed in bounded memory.

        Each bad row is handed to `on_bad`, which may raise. **Raises** `InputError` where the
        file as a whole cannot be read (missing, empty, not the format, a column missing).
        """

    @abc.abstractmethod
    def write(self, split: Split, path: Path) -> None:
        """Write `split` in the file format that `read` reads (atomically)."""

    @abc.abstractmethod
    def load(self, *, progress: Progress | None = None) -> "Dataset":
        """The named splits, at least `train`, `validation`, `test` and `hard`, from `self.data`
        or the generator; encoded once and cached on disk. No example of `validation` is in
        `test` or `hard`."""

    @abc.abstractmethod
    def bands(self, split: Split) -> dict[str, Bool[np.ndarray, " examples"]]:
        """Difficulty bands (and themes, where there are any), easiest first: name -> mask."""

    def remarks(self, split: Split) -> dict[str, int]:
        """What a check of a file counts besides bad rows: how many rows of `split` are what a
        phrase says. Empty by default."""
        del split
        return {}

    # --- one example, on the device

    @abc.abstractmethod
    def encode(self, tokens: UInt8[Array, "*grid"]) -> Float[Array, "*grid channels"]:
        """Tokens to the channels that the model reads."""

    @abc.abstractmethod
    def transform(
        self, key: PRNGKeyArray, tokens: UInt8[Array, "*grid"], targets: UInt8[Array, "*grid"]
    ) -> tuple[UInt8[Array, "*grid"], UInt8[Array, "*grid"]]:
        """A random symmetry of the task, applied to an example."""

    @abc.abstractmethod
    def predict(
        self, logits: Float[Array, "*grid classes"], tokens: UInt8[Array, "*grid"]
    ) -> UInt8[Array, "*grid"]:
        """The answer that the logits stand for, in the format of `targets`."""

    @abc.abstractmethod
    def score(
        self,
        prediction: UInt8[Array, "*grid"],
        tokens: UInt8[Array, "*grid"],
        targets: UInt8[Array, "*grid"],
    ) -> dict[str, Float[Array, ""] | Bool[Array, ""] | Int[Array, ""]]:
        """Scores of one example. Always `exact` (the whole answer is right, 0 or 1) and `cells`
        (share of cells right); sudoku adds `blanks` (share of the blank cells right)."""

    # --- one example, on the host

    def judge(
        self, split: Split, predictions: Shaped[np.ndarray, "examples *grid"]
    ) -> dict[str, Float[np.ndarray, " examples"]]:
        """Scores that need rules code on the host (legal moves, mates); NaN where one does not
        apply to an example. None by default."""
        del split, predictions
        return {}

    @abc.abstractmethod
    def parse(self, text: str) -> Split:
        """One puzzle as a user types it, as a split of one example. Where the right answer is
        not known from the puzzle alone, `targets` is all zero and `columns["answered"]` False.
        **Raises** `InputError` with one clear line."""

    @abc.abstractmethod
    def check(
        self, split: Split, prediction: Shaped[np.ndarray, "*grid"]
    ) -> tuple[bool | None, str]:
        """Whether `prediction` answers the one example in `split`, by the rules of the task, and
        one line that says why. None where the rules alone cannot tell."""

    @abc.abstractmethod
    def render(self, split: Split, prediction: Shaped[np.ndarray, "*grid"] | None = None) -> str:
        """The one example in `split` as a board for the terminal (rich markup), with the
        predicted cells filled in and told apart from the givens also without colour."""

    @abc.abstractmethod
    def draw(self, split: Split, prediction: Shaped[np.ndarray, "*grid"] | None = None) -> str:
        """The one example in `split` as an SVG for a page: self-contained, of no fixed size, with
        a title. Predicted cells are told apart from givens, and wrong ones marked where the
        answer is known, also without colour; the ink is `currentColor`."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The named splits of a task and where they come from.

    `manifest` is JSON-ready: task, version, fields, source (path, size, sha256, or
    "generator"), rows read and bad, and for each split its rows and a sha256 of them.
    """

    splits: Mapping[str, Split]
    manifest: Mapping[str, object]
