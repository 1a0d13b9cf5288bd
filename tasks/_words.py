"""What prefix sums and prefix products of words share: lengths, splits, and how deep they are."""

import abc
import dataclasses
import math
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float

from .._errors import InputError
from .._task import Progress, Split, Task, partition

WINDOW = 5
"""Default width of the attention window: a cell and two cells on each side, as in the paper."""


@dataclasses.dataclass(frozen=True)
class Words(Task):
    """A task on words, whose answer at a letter depends on all letters before it.

    A row is one word, or with `shortest` several of L letters each. In the rows of a subclass, a
    token below `alphabet` is a letter, and `alphabet` more is the same letter where it begins a
    further word of the row.
    """

    length: int = 32
    """The training rows have this many cells."""
    validation_length: int = 0
    """The validation rows have this many cells; 0 takes `length`. With a length between `length`
    and `hard_length`, the best checkpoint is the one that extrapolates best."""
    hard_length: int = 0
    """The hard rows have this many cells; 0 takes 4 times `length`."""
    test_rows: int = 1000
    """The test split and each hard split have this many rows."""
    shortest: int = 0
    """Each training row is cut into words of L cells, where L is uniform from this number to
    `length` for each row and is its difficulty; 0 makes one word per row."""

    unit: ClassVar[str]
    """What a cell holds, in the plural, for messages and bands."""
    words: ClassVar[str]
    """What a row holds, in the plural, for messages."""

    def __post_init__(self):
        super().__post_init__()
        for field in ("length", "validation_length", "hard_length"):
            value = getattr(self, field)
            if value < WINDOW and not (value == 0 and field != "length"):
                raise InputError(
                    f"task.{field}={value}: must be at least {WINDOW}, the width of the "
                    "attention window"
                )
        if not 0 <= self.shortest < self.length:
            raise InputError(
                f"task.shortest={self.shortest}: must be 0, or from 1 to {self.length - 1}, below "
                "task.length"
            )
        if self.test_rows < 0:
            raise InputError(f"task.test_rows={self.test_rows}: must be 0 or more")

    @property
    def grid(self) -> tuple[int]:
        return (self.length,)

    @property
    def attention(self) -> Literal["full"] | int:
        return WINDOW

    @property
    @abc.abstractmethod
    def alphabet(self) -> int:
        """The token of the first letter that begins a further word."""

    @property
    def choices(self) -> int:
        """How many letters the generator draws from; all by default."""
        return self.alphabet

    def letters(self, drawn: np.ndarray) -> np.ndarray:
        """The tokens of letters whose numbers are `drawn`, below `choices`; the same by default."""
        return drawn

    @abc.abstractmethod
    def answered(self, tokens: np.ndarray) -> Split:
        """The split of rows of tokens, with their answers."""

    # --- data

    def generate(self, rows: int, seed: int, *, progress: Progress | None = None) -> Split:
        """Generate `rows` distinct rows of `length` cells, cut into shorter words with `shortest`.
        **Raises** `InputError` if fewer distinct rows exist."""
        del progress
        return self.answered(
            self._cut(self._distinct(rows, self.length, np.random.RandomState(seed)), seed)
        )

    def _cut(self, rows: np.ndarray, seed: int) -> np.ndarray:
        """Cut rows of one word as `shortest` says; rows of several words are unchanged."""
        if not self.shortest or (rows >= self.alphabet).any():
            return rows
        random, cells = np.random.RandomState((seed, self.shortest)), rows.shape[1]
        lengths = random.randint(self.shortest, cells + 1, (len(rows), 1))
        begins = (np.arange(cells) % lengths == 0) & (np.arange(cells) > 0)
        return rows + self.alphabet * begins.astype(np.uint8)

    def _divide(self, given: np.ndarray | None) -> dict[str, Split]:
        """The named splits; the rows of train and validation are `given`, or else generated."""
        random = np.random.RandomState(self.seed)
        rows = 10_000 if given is None else len(np.unique(given, axis=0))
        rows = min(self.rows or rows, rows) if given is not None else self.rows or rows
        # There are few short words, so train, validation and test come from one pool.
        pool = self._distinct(rows + self.test_rows, self.length, random, first=given)
        train, validation_rows = partition(rows, self.seed)
        middle = self.validation_length or self.length
        hard = self.hard_length or 4 * self.length
        validation = pool[validation_rows] % np.uint8(self.alphabet)
        if middle != self.length:
            validation = self._distinct(len(validation_rows), middle, random)
        splits = {
            "train": self._cut(pool[train], self.seed),
            "validation": validation,
            "test": pool[rows:],
        }
        for suffix, times in (("", 1), ("-x2", 2), ("-x4", 4)):
            if hard * times == middle:  # exclude the validation words
                words = self._distinct(
                    len(validation) + self.test_rows, middle, random, first=validation
                )[len(validation) :]
            else:
                words = self._distinct(self.test_rows, hard * times, random)
            splits[f"hard{suffix}"] = words
        return {name: self.answered(tokens) for name, tokens in splits.items()}

    def _distinct(
        self,
        rows: int,
        length: int,
        random: np.random.RandomState,
        first: np.ndarray | None = None,
    ) -> np.ndarray:
        """`rows` distinct words, beginning with the distinct ones among `first`."""
        if length * math.log2(self.choices) < 62 and rows > self.choices**length:
            raise InputError(
                f"there are only {self.choices**length} {self.words} of {length} {self.unit}, not "
                f"{rows}; lower task.rows and task.test_rows, or use a greater length"
            )
        words = np.zeros((0, length), np.uint8) if first is None else first
        while True:
            _, index = np.unique(words, axis=0, return_index=True)
            words = words[np.sort(index)]
            if len(words) >= rows:
                return words[:rows]
            size = (max(rows - len(words), 16), length)
            drawn = self.letters(random.randint(0, self.choices, size, np.uint8))
            words = np.concatenate([words, drawn])

    def bands(self, split: Split) -> dict[str, Bool[np.ndarray, " examples"]]:
        return {
            f"{length:g} {self.unit}": split.difficulty == length
            for length in np.unique(split.difficulty)
        }

    def known_depth(
        self, split: Split, attention: Literal["full"] | int
    ) -> Float[np.ndarray, " examples"]:
        """For a word of L letters the last answer depends on the first letter, L - 1 cells away.

        A window of w cells moves information by (w - 1) / 2 cells per iteration, and by less than
        w - 1 at the ends of the row, where it is shifted: the depth (L - 1) / ((w - 1) / 2) is a
        bound up to these ends. With full attention log2 L iterations suffice, since products of
        neighbouring stretches can be joined two by two; this is no bound, and where products
        commute a single iteration may do.
        """
        if attention == "full":
            return np.log2(split.difficulty)
        return (split.difficulty - 1) / max(attention // 2, 1)


def word_lengths(begins: np.ndarray) -> np.ndarray:
    """The length of the longest word of each row, float32. `begins` marks the cells that begin a
    further word, `(rows, cells)`."""
    cells = np.arange(begins.shape[-1])
    starts = np.maximum.accumulate(np.where(begins, cells, 0), axis=-1)
    return np.max(cells - starts, axis=-1, initial=0).astype(np.float32) + 1
