"""Binary addition: a task of one's own in one file.

eqloop train --task docs/examples/addition.py:Addition
eqloop solve runs/addition-001 1011+0110 --task docs/examples/addition.py:Addition
"""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np

import eqloop


@dataclasses.dataclass(frozen=True)
class Addition(eqloop.Task):
    """The sum of two numbers in binary, modulo 2^digits, the highest digit first.

    Cell i holds digit i of both numbers, as the token 2 a + b; its class is digit i of the sum. A
    carry may pass through all cells, so the loop needs the more iterations the longer the numbers.
    """

    digits: int = 12
    """Digits of the numbers of the training examples; twice as many in the split `hard`."""

    @property
    def grid(self):
        return (self.digits,)

    channels = 2
    classes = 2
    attention = 5

    def generate(self, rows, seed, *, progress=None):
        numbers = np.random.default_rng(seed).integers(0, 2, (2, rows, self.digits), np.uint8)
        return examples(*numbers)

    def harder(self):
        return dataclasses.replace(self, digits=2 * self.digits)

    def encode(self, tokens):
        return jnp.stack([tokens >> 1, tokens & 1], -1).astype(jnp.float32) - 0.5

    def parse(self, text):
        match = re.fullmatch(r"\s*([01]+)\s*\+\s*([01]+)\s*", text)
        if match is None or len(match[1]) != len(match[2]):
            raise eqloop.InputError(f"puzzle {text[:40]!r}: write two numbers, as in 1011+0110")
        return examples(*(np.array([list(number)], np.uint8) for number in match.groups()))


def examples(a, b):
    """The split of `a + b`, digit by digit from the last one."""
    total, carry = np.zeros_like(a), np.zeros(len(a), np.uint8)
    for place in reversed(range(a.shape[1])):
        column = a[:, place] + b[:, place] + carry
        total[:, place], carry = column & 1, column >> 1
    texts = ["".join(map(str, row)) for row in np.concatenate([a, b]).tolist()]
    puzzles = [f"{first}+{second}" for first, second in zip(texts, texts[len(a) :], strict=False)]
    return eqloop.Split.of(2 * a + b, total, puzzles=puzzles, difficulty=longest_carry(a, b))


def longest_carry(a, b):
    """How many cells in a row pass a carry on: where exactly one of the two digits is 1."""
    run = longest = np.zeros(len(a), int)
    for place in range(a.shape[1]):
        run = np.where(a[:, place] != b[:, place], run + 1, 0)
        longest = np.maximum(longest, run)
    return longest
