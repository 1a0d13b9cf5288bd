"""Prefix sums: the running parity of a string of bits of any length."""

import collections
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8

from .._errors import InputError
from .._task import (
    Bad,
    Layout,
    Progress,
    Record,
    Split,
    Task,
    partition,
    read_records,
    shortened,
)

_LOG = logging.getLogger(__name__)

WINDOW = 5
"""Width of the attention window in the paper: a cell and two cells on each side."""


@dataclasses.dataclass(frozen=True)
class PrefixSums(Task):
    """Cell i of the answer is `bit_0 + ... + bit_i mod 2`.

    The model reads one channel, `bit - 0.5` (two with `mark_first`), and predicts two classes. It
    is trained on one length and tested on longer strings with more iterations: since a cell attends
    to two cells on each side, information from the first bit reaches cell n after n / 2 iterations
    and not before (arXiv 2604.15259).

    **Files:** rows with a column `question` and optionally `answer` (all prefix sums, or only the
    last one), or one string per line; see `_records` for the formats. White space within a string
    is ignored. If the strings have several lengths, only those of `length` bits are read.

    **Splits:** `train` and `validation` (80/20 of `rows`, by `seed`) and `test` of distinct
    strings; `hard`, `hard-x2` and `hard-x4` of 1, 2 and 4 times `hard_length` bits. A file of
    strings of `length` bits provides `train` and `validation`; the other splits are generated.

    **Several strings per row:** with `shortest`, a row of `train` (and of `generate`) is cut into
    strings of L bits, where L is uniform from `shortest` to `length` for each row; the last string
    ends with the row. The sum restarts with each string, whose first cell `mark_first` marks. The
    difficulty is L. All rows have `length` cells and every cell counts, so one compiled program
    suffices without padding or masks. The other splits have one string per row. In tokens, texts
    and files 2 and 3 denote a 0 and a 1 that begin a further string.

    ```python
    >>> import eqloop
    >>> task = eqloop.tasks.make_task("prefix-sums", {"length": 8})
    >>> split = task.generate(2, seed=0)
    >>> (split.inputs[0].cumsum() % 2 == split.targets[0]).all().item(), task.attention
    (True, 5)

    ```
    """

    length: int = 32
    """The training strings have this many bits."""
    validation_length: int = 0
    """The validation strings have this many bits; 0 takes `length`. With a length between `length`
    and `hard_length`, the best checkpoint is the one that extrapolates best."""
    hard_length: int = 0
    """The hard strings have this many bits; 0 takes 4 times `length`."""
    test_rows: int = 1000
    """The test split and each hard split have this many strings."""
    mark_first: bool = False
    """If true, the input has a second channel that is 1 in the first cell, where the sum begins,
    and 0 elsewhere. Without it a model cannot locate the start of a string that begins with a run
    of ones: the first cells share one neighbourhood, and attention does not distinguish equal
    bits."""

    shortest: int = 0
    """Each training row is cut into strings of L bits, where L is uniform from this number to
    `length` for each row and is its difficulty; 0 makes one string per row. It requires
    `mark_first`."""

    labels: ClassVar[tuple[str, str]] = ("bits", "sums")

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
        if self.shortest and not self.mark_first:
            raise InputError(
                f"task.shortest={self.shortest} puts several strings in a row, and only marks show "
                "where they begin: set task.mark_first=true"
            )
        if self.test_rows < 0:
            raise InputError(f"task.test_rows={self.test_rows}: must be 0 or more")

    # --- what a model for this task looks like

    @property
    def grid(self) -> tuple[int]:
        return (self.length,)

    @property
    def channels(self) -> int:
        return 2 if self.mark_first else 1

    @property
    def classes(self) -> int:
        return 2

    @property
    def attention(self) -> int:
        return WINDOW

    # --- data

    def generate(self, rows: int, seed: int, *, progress: Progress | None = None) -> Split:
        """Generate `rows` distinct strings of `length` bits, cut into shorter ones with `shortest`.
        **Raises** `InputError` if fewer distinct strings exist."""
        del progress
        return _split(self._cut(_distinct(rows, self.length, np.random.RandomState(seed)), seed))

    def _cut(self, rows: np.ndarray, seed: int) -> np.ndarray:
        """Cut rows of one string as `shortest` says; rows of several strings are unchanged."""
        if not self.shortest or (rows > 1).any():
            return rows
        random, cells = np.random.RandomState((seed, self.shortest)), rows.shape[1]
        lengths = random.randint(self.shortest, cells + 1, (len(rows), 1))
        begins = (np.arange(cells) % lengths == 0) & (np.arange(cells) > 0)
        return rows + 2 * begins.astype(np.uint8)

    @property
    def _digits(self) -> str:
        return "0123" if self.shortest else "01"

    def read(
        self, path: Path, *, on_bad: Callable[[Bad], None], progress: Progress | None = None
    ) -> Split:
        counts = self._lengths(path)
        has_length = self.length in counts
        length = self.length if has_length else next(iter(counts), None)
        if len(counts) > 1:
            for bits, count in counts.items():
                hint = (
                    "these are read" if bits == length else f"--set task.length={bits} reads these"
                )
                _LOG.warning("%s: %s rows of %s bits; %s", path, count, bits, hint)
        rows: list[np.ndarray] = []
        for number, row in read_records(path, _LAYOUT, on_bad=on_bad, progress=progress):
            question, answer = _strings(row)
            if has_length and len(question) in counts and len(question) != length:
                continue
            if why := _fault(question, answer, length or len(question), self._digits):
                on_bad(Bad(f"{path}:{number}", why))
            else:
                rows.append(_bits(question))
        return _split(np.stack(rows) if rows else np.zeros((0, self.length), np.uint8))

    def _lengths(self, path: Path) -> dict[int, int]:
        """Length -> number of strings of that length in a file, in order of first occurrence."""
        counts: collections.Counter[int] = collections.Counter()
        for _, row in read_records(path, _LAYOUT, on_bad=lambda bad: None):
            question, answer = _strings(row)
            if not _fault(question, answer, len(question), self._digits):
                counts[len(question)] += 1
        return counts

    @property
    def _source(self) -> dict[str, object]:
        return {"generator": "uniform bits"}

    def _splits(self, file_rows: Split | None, progress: Progress | None) -> dict[str, Split]:
        del progress
        if file_rows is not None and file_rows.inputs.shape[1] != self.length:
            bits = file_rows.inputs.shape[1]
            raise InputError(
                f"{self.data}: strings of {bits} bits; set task.length={bits} to train on them"
            )
        return self._divide(None if file_rows is None else file_rows.inputs[: self.rows or None])

    def _divide(self, bits: np.ndarray | None) -> dict[str, Split]:
        random = np.random.RandomState(self.seed)
        rows = 10_000 if bits is None else len(np.unique(bits, axis=0))
        rows = min(self.rows or rows, rows) if bits is not None else self.rows or rows
        # There are few short strings, so train, validation and test come from one pool.
        if bits is None:
            pool = _distinct(rows + self.test_rows, self.length, random)
        else:
            pool = _distinct(rows + self.test_rows, self.length, random, first=bits)
        train, validation_rows = partition(rows, self.seed)
        middle = self.validation_length or self.length
        hard = self.hard_length or 4 * self.length
        validation = pool[validation_rows] & 1
        if middle != self.length:
            validation = _distinct(len(validation_rows), middle, random)
        return {
            "train": _split(self._cut(pool[train], self.seed)),
            "validation": _split(validation),
            "test": _split(pool[rows:]),
            **{
                f"hard{suffix}": _split(
                    # If the lengths are equal, exclude the validation strings.
                    _distinct(len(validation) + self.test_rows, middle, random, first=validation)[
                        len(validation) :
                    ]
                    if hard * times == middle
                    else _distinct(self.test_rows, hard * times, random)
                )
                for suffix, times in (("", 1), ("-x2", 2), ("-x4", 4))
            },
        }

    def bands(self, split: Split) -> dict[str, Bool[np.ndarray, " examples"]]:
        return {
            f"{length:g} bits": split.difficulty == length for length in np.unique(split.difficulty)
        }

    # --- one example, on the device

    def encode(self, tokens: UInt8[Array, " cells"]) -> Float[Array, "cells channels"]:
        bits = (tokens & 1 if self.shortest else tokens)[:, None].astype(jnp.float32) - 0.5
        if self.shortest:
            marks = (tokens > 1).at[0].set(True)
            return jnp.stack([bits[:, 0], marks.astype(jnp.float32)], axis=-1)
        return jnp.pad(bits, ((0, 0), (0, 1))).at[0, 1].set(1.0) if self.mark_first else bits

    def transform(
        self, key: PRNGKeyArray, tokens: UInt8[Array, " cells"], targets: UInt8[Array, " cells"]
    ) -> tuple[UInt8[Array, " cells"], UInt8[Array, " cells"]]:
        """Add a random string to the tokens and its prefix sums to the targets. This is a symmetry,
        since the task is linear over the field of two elements, and it maps any string to any other
        with equal probability. The cuts of a row of several strings stay in place."""
        added = jr.bernoulli(key, shape=tokens.shape).astype(tokens.dtype)
        if self.shortest:
            before = jnp.cumsum(added, dtype=jnp.int32) - added.astype(jnp.int32)
            # `before` never decreases: its value at the start of a string is a running maximum.
            base = jax.lax.cummax(jnp.where(tokens > 1, before, 0))
            return tokens ^ added, targets ^ added ^ ((before - base) & 1).astype(tokens.dtype)
        return tokens ^ added, targets ^ (jnp.cumsum(added, dtype=tokens.dtype) & 1)

    # --- one example, on the host

    def parse(self, text: str) -> Split:
        """Parse a string of bits, or several with `shortest`. White space, commas and brackets
        between the bits are ignored.

        **Raises** `InputError` if the text has other characters or too few bits.
        """
        lines = (line.split("#")[0] for line in text.splitlines())
        bits = "".join(character for character in "".join(lines) if character not in " \t,;[]()\"'")
        if why := _fault(bits, "", len(bits), self._digits):
            raise InputError(f"puzzle {shortened(text)}: {why}")
        return _split(_bits(bits)[None])


def _plain(line: str) -> Record | None:
    """Parse a line with one string of bits, with or without spaces between them."""
    text = "".join(line.split())
    return {"question": text} if len(text) >= WINDOW and not set(text) - set("0123") else None


_LAYOUT = Layout(
    required=("question",),
    expected=(
        "expected strings of 0 and 1: a column question (or input) and, if known, a column answer "
        "(output); or one string per line"
    ),
    names={
        "question": ("input", "bits", "string", "sequence"),
        "answer": ("output", "target", "prefix_sums"),
    },
    plain=_plain,
    row="string of 0 and 1",
    others=((r"(c\b|p cnf)", "a file of clauses (DIMACS CNF), which are not bit strings"),),
)


def _strings(row: Record) -> tuple[str, str]:
    """The question and the answer, without white space."""
    return "".join(row["question"].split()), "".join(row.get("answer", "").split())


def _split(tokens: np.ndarray) -> Split:
    text = np.ascontiguousarray(tokens + ord("0"), np.uint8)
    cells = np.arange(tokens.shape[-1])
    begins = np.maximum.accumulate(np.where(tokens > 1, cells, 0), axis=-1)
    return Split(
        inputs=tokens,
        targets=_sums(tokens),
        difficulty=np.max(cells - begins, axis=-1, initial=0).astype(np.float32) + 1,
        puzzles=text.view(f"S{tokens.shape[-1]}")[:, 0],
        columns={"answered": np.ones(len(tokens), bool)},
    )


def _sums(tokens: np.ndarray) -> np.ndarray:
    """The running parity of the bits of each string of a row."""
    bits = (tokens & 1).astype(np.int64)
    sums = np.cumsum(bits, axis=-1)
    before = np.maximum.accumulate(np.where(tokens > 1, sums - bits, 0), axis=-1)
    return ((sums - before) & 1).astype(np.uint8)


def _distinct(
    rows: int, length: int, random: np.random.RandomState, first: np.ndarray | None = None
) -> np.ndarray:
    """`rows` distinct strings, beginning with the distinct ones among `first`."""
    if length < 62 and rows > 2**length:
        raise InputError(
            f"there are only {2**length} strings of {length} bits, not {rows}; lower task.rows and "
            "task.test_rows, or use a greater length"
        )
    strings = np.zeros((0, length), np.uint8) if first is None else first
    while True:
        _, index = np.unique(strings, axis=0, return_index=True)
        strings = strings[np.sort(index)]
        if len(strings) >= rows:
            return strings[:rows]
        drawn = random.randint(0, 2, (max(rows - len(strings), 16), length), np.uint8)
        strings = np.concatenate([strings, drawn])


def _fault(question: str, answer: str, length: int, digits: str) -> str:
    """The fault of a row, or ""."""
    if set(question) - set(digits):
        symbols = "0, 1, 2 and 3" if "2" in digits else "0 and 1"
        hint = "" if set(question) - set("0123") else " (2 and 3 require task.shortest)"
        return f"expected a string of {symbols}, got {shortened(question)}{hint}"
    if len(question) < WINDOW:
        return f"{len(question)} bits; at least {WINDOW} are needed"
    if len(question) != length:
        return (
            f"{len(question)} bits, but the rows before have {length}; --set "
            f"task.length={len(question)} reads such rows"
        )
    sums = _text(_sums(_bits(question)))
    if answer and answer not in (sums, sums[-1]):
        return f"the answer {shortened(answer)} is not the prefix sums of the question"
    return ""


def _bits(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8) - np.uint8(ord("0"))


def _text(bits: np.ndarray) -> str:
    return (np.asarray(bits, np.uint8) + ord("0")).astype(np.uint8).tobytes().decode()
