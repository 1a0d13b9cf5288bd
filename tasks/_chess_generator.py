"""Seeded positions in which exactly one move mates."""

import numpy as np

from .._task import Progress, Split
from ._chess_rows import Encoding, Row, encode, hashes, join

_BATCH = 1024
THEMES = "mate mateIn1 oneMove"


def difficulty_of(moves: int) -> int:
    """A stand-in for a rating, on the same axis so that the same bands and splits serve:
    `400 + 20 * (legal moves)`. The more moves there are, the more there are to tell apart; it is
    **not** calibrated against Lichess ratings."""
    return 400 + 20 * moves


def generate(
    rows: int, seed: int, encoding: Encoding, *, progress: Progress | None = None
) -> Split:
    """`rows` distinct positions (as the model sees them) with exactly one mating move.

    Half of the tries are random legal games from the first position, half scatter pieces (3 to
    some 25, kings that stand to be mated mostly at the edge) and let the losing side make a random
    legal move. Each try is a pure function of (`seed`, its number), so a longer set begins with
    the shorter one of the same seed.
    """
    from . import _chess_kernels as kernels

    if rows < 0:
        raise ValueError(f"rows must not be negative, got {rows}")
    chunks: list[Split] = []
    seen: set[int] = set()
    done, first = 0, 0
    while done < rows:
        found = np.zeros(_BATCH, np.bool_)
        fens = np.zeros((_BATCH, kernels.FEN_BYTES), np.uint8)
        moves = np.zeros((_BATCH, 12), np.uint8)
        legal = np.zeros(_BATCH, np.int64)
        kernels.attempts(first, seed % 2**32, found, fens, moves, legal)
        made = [
            Row(
                first + int(index) + 1,
                f"{seed}-{first + int(index)}",
                fens[index].tobytes().rstrip(b"\0").decode(),
                moves[index].tobytes().rstrip(b"\0").decode(),
                str(difficulty_of(int(legal[index]))),
                THEMES,
            )
            for index in np.flatnonzero(found)
        ]
        first += _BATCH
        chunk = encode(made, encoding, _broken, "generator")
        new = []
        for index, value in enumerate(hashes(chunk.inputs).tolist()):
            if value not in seen and done < rows:
                seen.add(value)
                new.append(index)
                done += 1
        chunks.append(chunk.take(np.array(new, np.int64)))
        if progress is not None:
            progress(done, rows)
    return join(chunks)


def _broken(bad: object) -> None:
    raise AssertionError(f"the generator made a bad row: {bad}")
