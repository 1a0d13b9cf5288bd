"""The symmetries of a sudoku, on the device."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, UInt8, UInt32


def symmetry(
    key: PRNGKeyArray, tokens: UInt8[Array, "n n"], targets: UInt8[Array, "n n"], box: int
) -> tuple[UInt8[Array, "n n"], UInt8[Array, "n n"]]:
    """Apply a random one of the `n! (box!)^(2 box + 2) 2` symmetries to both grids (see
    `Sudoku.transform`)."""
    n = box**2
    # Draw two words for all choices: separate draws would cost more than the rest.
    word, places = jax.random.bits(key, (2,), jnp.uint32)
    low, high = _renaming(word, n)
    orders = line_orders(box)
    count = np.uint32(len(orders))
    rows = jnp.asarray(orders)[(places % count).astype(jnp.int32)]
    columns = jnp.asarray(orders)[(places // count % count).astype(jnp.int32)]
    flipped = places // (count * count) % np.uint32(2) == np.uint32(1)
    # new[i, j] = old[rows[i], columns[j]], or old[columns[j], rows[i]]
    down, across = jnp.where(flipped, 1, n), jnp.where(flipped, n, 1)
    index = (rows * down)[:, None] + (columns * across)[None, :]
    # Move both grids with one gather: a token and a target have four bits each.
    both = jnp.ravel(tokens * np.uint8(16) + targets)
    moved = both.at[index].get(mode="promise_in_bounds").astype(jnp.uint32)

    def renamed(digits: UInt32[Array, "n n"]) -> UInt8[Array, "n n"]:
        word = jnp.where(digits < np.uint32(8), low, high)
        shift = (digits & np.uint32(7)) * np.uint32(4)
        return ((word >> shift) & np.uint32(15)).astype(jnp.uint8)

    return renamed(moved >> np.uint32(4)), renamed(moved & np.uint32(15))


@functools.cache
def line_orders(box: int) -> np.ndarray:
    """All orders of the rows that keep bands together, `((box!)^(box + 1), n)`."""
    inner = list(itertools.permutations(range(box)))
    return np.array(
        [
            [band * box + row for band, rows in zip(bands, within, strict=True) for row in rows]
            for bands in inner
            for within in itertools.product(inner, repeat=box)
        ],
        np.int32,
    )


def _renaming(word: UInt32[Array, ""], n: int) -> tuple[UInt32[Array, ""], UInt32[Array, ""]]:
    """The permutation of 1..n with the Lehmer code `word`, packed in two words: the image of digit
    d is in the four bits from bit 4d on; 0 stays 0. A table in a register needs no gather."""
    ranks: list[Array] = []
    for i in range(n):
        ranks.append(word % np.uint32(n - i))
        word = word // np.uint32(n - i)
    for i in range(n - 2, -1, -1):
        for j in range(i + 1, n):
            ranks[j] = ranks[j] + (ranks[j] >= ranks[i]).astype(jnp.uint32)
    words = [jnp.uint32(0), jnp.uint32(0)]
    for digit, rank in enumerate(ranks, 1):
        words[digit // 8] |= (rank + np.uint32(1)) << np.uint32(digit % 8 * 4)
    return words[0], words[1]
