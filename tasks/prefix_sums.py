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
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from .._errors import InputError
from .._task import (
    Bad,
    Layout,
    Progress,
    Record,
    Split,
    read_records,
    shortened,
)
from ._words import WINDOW, Words, word_lengths

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PrefixSums(Words):
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

    mark_first: bool = False
    """If true, the input has a second channel that is 1 in the first cell, where the sum begins,
    and 0 elsewhere. Without it a model cannot locate the start of a string that begins with a run
    of ones: the first cells share one neighbourhood, and attention does not distinguish equal
    bits."""

    labels: ClassVar[tuple[str, str]] = ("bits", "sums")
    unit: ClassVar[str] = "bits"
    words: ClassVar[str] = "strings"
    alphabet: ClassVar[int] = 2  # pyright: ignore[reportIncompatibleMethodOverride]

    def __post_init__(self):
        super().__post_init__()
        if self.shortest and not self.mark_first:
            raise InputError(
                f"task.shortest={self.shortest} puts several strings in a row, and only marks show "
                "where they begin: set task.mark_first=true"
            )

    # --- what a model for this task looks like

    @property
    def channels(self) -> int:
        return 2 if self.mark_first else 1

    @property
    def classes(self) -> int:
        return 2

    # --- data

    def answered(self, tokens: np.ndarray) -> Split:
        text = np.ascontiguousarray(tokens + ord("0"), np.uint8)
        return Split(
            inputs=tokens,
            targets=_sums(tokens),
            difficulty=word_lengths(tokens > 1),
            puzzles=text.view(f"S{tokens.shape[-1]}")[:, 0],
            columns={"answered": np.ones(len(tokens), bool)},
        )

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
        return self.answered(np.stack(rows) if rows else np.zeros((0, self.length), np.uint8))

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
        return self.answered(_bits(bits)[None])


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


def _sums(tokens: np.ndarray) -> np.ndarray:
    """The running parity of the bits of each string of a row."""
    bits = (tokens & 1).astype(np.int64)
    sums = np.cumsum(bits, axis=-1)
    before = np.maximum.accumulate(np.where(tokens > 1, sums - bits, 0), axis=-1)
    return ((sums - before) & 1).astype(np.uint8)


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
