"""Generate positions in which exactly one move mates, from a seed."""

import numpy as np

from .._task import Progress, Split
from ._chess_rows import Encoding, Row, encode, hashes, join

_BATCH = 1024
THEMES = "mate mateIn1 oneMove"


def difficulty_of(moves: int) -> int:
    """An estimate of the rating, `400 + 20 * (number of legal moves)`, on the axis of ratings so
    that the same bands and splits apply. It is **not** calibrated against Lichess ratings."""
    return 400 + 20 * moves


def generate(
    rows: int, seed: int, encoding: Encoding, *, progress: Progress | None = None
) -> Split:
    """Generate `rows` distinct positions (as the model sees them) with exactly one mating move.

    Half of the attempts are random legal games from the initial position. The other half place 3 to
    about 25 pieces at random, the king of the losing side mostly at the edge, and let that side
    make a random legal move. Each attempt is a pure function of `seed` and its number, so a larger
    set begins with the smaller one of the same seed.
    """
    from . import _chess_kernels as kernels

    if rows < 0:
        raise ValueError(f"rows must not be negative, got {rows}")
    chunks: list[Split] = []
    seen: set[int] = set()
    count, start = 0, 0
    while count < rows:
        success = np.zeros(_BATCH, np.bool_)
        fens = np.zeros((_BATCH, kernels.FEN_BYTES), np.uint8)
        moves = np.zeros((_BATCH, 12), np.uint8)
        legal = np.zeros(_BATCH, np.int64)
        kernels.attempts(start, seed % 2**32, success, fens, moves, legal)
        rows_made = [
            Row(
                start + int(index) + 1,
                f"{seed}-{start + int(index)}",
                fens[index].tobytes().rstrip(b"\0").decode(),
                moves[index].tobytes().rstrip(b"\0").decode(),
                str(difficulty_of(int(legal[index]))),
                THEMES,
            )
            for index in np.flatnonzero(success)
        ]
        start += _BATCH
        chunk = encode(rows_made, encoding, _broken, "generator")
        new = []
        for index, value in enumerate(hashes(chunk.inputs).tolist()):
            if value not in seen and count < rows:
                seen.add(value)
                new.append(index)
                count += 1
        chunks.append(chunk.take(np.array(new, np.int64)))
        if progress is not None:
            progress(count, rows)
    return join(chunks)


def _broken(bad: object) -> None:
    raise AssertionError(f"the generator made a bad row: {bad}")
