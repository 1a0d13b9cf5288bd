"""Group words: the prefix products of a word over a finite group."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from .._task import Split
from ._groups import Group, group
from ._words import Words, word_lengths


@dataclasses.dataclass(frozen=True)
class GroupWords(Words):
    """Cell i of the answer is the product of the first i + 1 elements of a word.

    The model reads the element of each cell, one-hot, and a channel that marks where a word begins;
    it predicts one class per element. Over Z2 these are prefix sums. Products over A5 and S5, which
    are not solvable, are complete for NC^1, those over solvable groups are in a smaller class
    (Barrington, 1989): no fixed number of iterations of this model should suffice for all lengths
    ("The Illusion of State in State-Space Models", arXiv 2404.08819). The model is trained on one
    length and tested on longer words with more iterations.

    **Files:** a column `question` and optionally `answer`, or one word per line: names of elements
    with spaces between them (see `_groups`). All words of a file have one length.

    **Splits:** `train` and `validation` (80/20 of `rows`, by `seed`) and `test` of distinct words;
    `hard`, `hard-x2` and `hard-x4` of 1, 2 and 4 times `hard_length` letters. A file of words of
    `length` letters provides `train` and `validation`; the other splits are generated. With
    `shortest` a training row has several words; in texts and files `|` precedes the first element
    of a further word.

    ```python
    >>> import eqloop
    >>> task = eqloop.tasks.make_task("group-words", {"group": "S3"})
    >>> word = task.parse("213 132 213")
    >>> [task.symbols[element] for element in word.targets[0]]
    ['213', '312', '321']

    ```
    """

    group: str = "S3"
    """The letters are elements of this group: Z2 to Z120 (cyclic), D3 to D60 (dihedral), S3 to S5
    (symmetric) or A3 to A5 (alternating)."""
    generators: bool = False
    """If true, words have only the identity and two generators (one of Z_n and A3) as letters. If
    false, all elements are letters."""

    labels: ClassVar[tuple[str, str]] = ("word", "products")
    unit: ClassVar[str] = "letters"
    words: ClassVar[str] = "words"

    def __post_init__(self):
        super().__post_init__()
        self._group  # noqa: B018 - refuse an unknown name now

    @property
    def _group(self) -> Group:
        return group(self.group)

    @property
    def alphabet(self) -> int:
        return self._group.order

    @property
    def _letters(self) -> np.ndarray:
        """The elements that words have as letters."""
        letters = (0, *self._group.generators) if self.generators else range(self.alphabet)
        return np.array(letters, np.uint8)

    @property
    def choices(self) -> int:
        return len(self._letters)

    def letters(self, drawn: np.ndarray) -> np.ndarray:
        return self._letters[drawn]

    @property
    def symbols(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        names = self._group.names
        return (*names, *(f"|{name}" for name in names))

    # --- what a model for this task looks like

    @property
    def channels(self) -> int:
        return self.alphabet + 1

    @property
    def classes(self) -> int:
        return self.alphabet

    # --- data

    def answered(self, tokens: np.ndarray) -> Split:
        return Split.of(
            tokens,
            self._products(tokens),
            difficulty=word_lengths(tokens >= self.alphabet),
            symbols=self.symbols,
        )

    def _products(self, tokens: np.ndarray) -> np.ndarray:
        products, order, table = np.zeros_like(tokens), self.alphabet, self._group.table
        before = np.zeros(len(tokens), np.uint8)
        for cell in range(tokens.shape[1]):
            letter = tokens[:, cell]
            before = np.where(letter >= order, letter - order, table[before, letter % order])
            products[:, cell] = before
        return products

    def _splits(self, file_rows, progress) -> dict[str, Split]:
        del progress
        if file_rows is None:
            return self._divide(None)
        return self._divide(self._usable(file_rows).inputs[: self.rows or None])

    # --- one example, on the device

    def encode(self, tokens: UInt8[Array, " cells"]) -> Float[Array, "cells channels"]:
        order = self.alphabet
        begins = (tokens >= np.uint8(order)) | (jnp.arange(tokens.size) == 0)
        letters = jax.nn.one_hot(tokens % np.uint8(order), order, dtype=jnp.float32)
        return jnp.concatenate([letters, begins.astype(jnp.float32)[:, None]], axis=-1)

    def transform(
        self, key: PRNGKeyArray, tokens: UInt8[Array, " cells"], targets: UInt8[Array, " cells"]
    ) -> tuple[UInt8[Array, " cells"], UInt8[Array, " cells"]]:
        """Replace every letter by a random one. This maps any word to any other with equal
        probability, as multiplying each letter by a random element does if all elements are
        letters. The cuts of a row of several words stay in place."""
        del targets
        order, table = np.uint8(self.alphabet), jnp.asarray(self._group.table)
        drawn = jr.randint(key, tokens.shape, 0, self.choices, jnp.int32)
        letters, begins = jnp.asarray(self._letters)[drawn], tokens >= order

        def joined(left, right):
            (begun, a), (begins, b) = left, right
            return begun | begins, jnp.where(begins, b, table[a, b])

        _, products = jax.lax.associative_scan(joined, (begins, letters))
        return letters + order * begins.astype(jnp.uint8), products

    # --- one example, on the host

    def parse(self, text: str) -> Split:
        """Parse a word: names of elements, with spaces or commas between them.

        **Raises** `InputError` if the text has a name of no element, or no name.
        """
        return self.answered(super().parse(text.replace(",", " ")).inputs)
