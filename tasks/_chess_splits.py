"""Divide the rows of a Lichess file into splits, by one of two named rules."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from .._errors import InputError
from .._task import Bad, Progress, Split, partition
from ._chess_rows import LAYOUT, Encoding, hashes, join, stream

FEWEST = 10
"""Minimum number of distinct puzzles for train, validation and test."""


@dataclasses.dataclass(frozen=True)
class Index:
    """The rating and hash of each good row, in the order of the file: 12 bytes per row, so the
    index of the whole database (4.9 million rows) takes 60 MB."""

    ratings: np.ndarray
    hashes: np.ndarray

    def distinct(self) -> np.ndarray:
        """The first row of each position (as the model sees it), in the order of the file."""
        return np.sort(np.unique(self.hashes, return_index=True)[1])


Rule = Callable[[Index, int, int], dict[str, np.ndarray]]
"""(index, number of rows or 0, seed) -> split name -> row numbers. Rules choose only from
`Index.distinct`, so that no position is in two splits."""


def paper(index: Index, rows: int, seed: int) -> dict[str, np.ndarray]:
    """The splits of the paper, and two more.

    Train + validation are the first 50,000 (`rows`) puzzles rated <= 1600, divided 80/20; hard are
    the first 10,000 rated 1601..2000. The paper does not define the other splits: here test are
    the next 10,000 rated <= 1600, and harder the first 10,000 rated above 2000. A file with fewer
    than 60,000 puzzles rated <= 1600 is divided in the same proportion: five sixths are train +
    validation.
    """
    distinct = index.distinct()
    rating = index.ratings[distinct]
    easy = distinct[rating <= 1600]
    used = min(rows or 50_000, len(easy) * 5 // 6)
    train, validation = partition(used, seed)
    chosen = {
        "train": easy[train],
        "validation": easy[validation],
        "test": easy[used:][:10_000],
        "hard": distinct[(rating > 1600) & (rating <= 2000)][:10_000],
    }
    harder = distinct[rating > 2000][:10_000]
    return chosen | ({"harder": harder} if len(harder) else {})


def paper_has_enough(index: Index, rows: int) -> bool:
    """Whether later rows of the file can no longer change the choice of `paper`."""
    for ratings in (index.ratings, None):  # count all rows first, since that is fast
        if ratings is None:
            ratings = index.ratings[index.distinct()]
        easy, up_to_2000 = int(np.sum(ratings <= 1600)), int(np.sum(ratings <= 2000))
        needed = max((rows or 50_000) + 10_000, -(-(rows or 50_000) * 6 // 5))
        if easy < needed or up_to_2000 - easy < 10_000 or len(ratings) - up_to_2000 < 10_000:
            return False
    return True


def easy_to_hard(index: Index, rows: int, seed: int) -> dict[str, np.ndarray]:
    """The splits of the easy-to-hard data sets: sorted by rating, easy = [0, 600k), hard = [600k,
    700k), and harder = [700k, 800k) if the file is large enough.

    A file of fewer than 700,000 puzzles is divided in the same proportion, 6 to 1. The easy block
    (or a random sample of `rows` * 10/9 of it, if that is smaller) is divided into 80 % train, 10 %
    validation and 10 % test; the original has no held-out rows of the training ratings.
    """
    distinct = index.distinct()
    ranked = distinct[np.argsort(index.ratings[distinct], kind="stable")]
    easy = min(600_000, len(ranked) * 6 // 7)
    count = min(easy, -(-rows * 10 // 9)) if rows else easy
    block = ranked[np.sort(np.random.RandomState(seed).permutation(easy)[:count])]
    train, held_out = partition(count, seed)
    chosen = {
        "train": block[train],
        # alternate rows, so that both cover the whole range of ratings
        "validation": block[held_out[::2]],
        "test": block[held_out[1::2]],
        "hard": ranked[easy:][:100_000],
    }
    harder = ranked[700_000:800_000]
    return chosen | ({"harder": harder} if len(harder) else {})


RULES: dict[Encoding, Rule] = {
    "paper": paper,
    "easy-to-hard": easy_to_hard,
    "easy-to-hard-1": easy_to_hard,
}


def from_file(
    path: Path,
    encoding: Encoding,
    rows: int,
    seed: int,
    *,
    on_bad: Callable[[Bad], None],
    progress: Progress | None,
) -> tuple[dict[str, Split], dict[str, object]]:
    """The splits of a file, and counts for the manifest.

    Two passes keep only the chosen rows in memory: the first records the rating and hash of each
    row, the second collects the rows. Reading stops as soon as later rows cannot matter.
    """
    ratings, codes = [np.zeros(0, np.float32)], [np.zeros(0, np.uint64)]
    good_rows, complete = 0, True
    for chunk in stream(path, encoding, on_bad=on_bad, progress=_share(progress, 0)):
        ratings.append(chunk.difficulty)
        codes.append(hashes(chunk.inputs))
        good_rows += len(chunk)
        if encoding == "paper" and good_rows > 80_000:
            ratings, codes = [np.concatenate(ratings)], [np.concatenate(codes)]
            if paper_has_enough(Index(ratings[0], codes[0]), rows):
                complete = False
                break
    index = Index(np.concatenate(ratings), np.concatenate(codes))
    chosen = RULES[encoding](index, rows, seed)
    if sum(len(chosen[name]) for name in ("train", "validation", "test")) < FEWEST:
        limit = "rated <= 1600 " if encoding == "paper" else ""
        raise InputError(
            f"{path}: fewer than {FEWEST} distinct puzzles {limit}among {good_rows} good rows, "
            "too few for train, validation and test; give a larger file; "
            f"{LAYOUT.expected}"
        )
    chosen_rows = np.unique(np.concatenate(list(chosen.values())))
    chunks: list[Split] = []
    start = 0
    # The first pass has already reported the bad rows.
    second_pass = stream(path, encoding, on_bad=lambda bad: None, progress=_share(progress, 1))
    for chunk in second_pass:
        low, high = np.searchsorted(chosen_rows, (start, start + len(chunk)))
        chunks.append(chunk.take(chosen_rows[low:high] - start))
        start += len(chunk)
        if start > chosen_rows[-1]:
            break
    everything = join(chunks)
    splits = {
        name: everything.take(np.searchsorted(chosen_rows, part)) for name, part in chosen.items()
    }
    return splits, {
        "rows": good_rows,
        "duplicates": good_rows - len(index.distinct()),
        "whole_file": complete,
        "ids": ids_hashes(splits),
    }


def from_generator(
    make: Callable[[int], Split], rows: int, seed: int
) -> tuple[dict[str, Split], dict[str, object]]:
    """The splits from the generator: `rows` (10,000) train + validation, and a tenth of that number
    for test and for hard, which has the most difficult ones of all."""
    used = max(rows or 10_000, FEWEST)
    extra = max(used // 10, 1)
    pool = make(used + 2 * extra)
    order = np.argsort(pool.difficulty, kind="stable")
    hard, easy = np.sort(order[-extra:]), np.sort(order[:-extra])
    train, validation = partition(used, seed)
    splits = {
        "train": pool.take(easy[train]),
        "validation": pool.take(easy[validation]),
        "test": pool.take(easy[used:]),
        "hard": pool.take(hard),
    }
    return splits, {"rows": len(pool), "duplicates": 0, "ids": ids_hashes(splits)}


def ids_hashes(splits: Mapping[str, Split]) -> dict[str, str]:
    """For each split the SHA-256 of its PuzzleIds, one per line, in its order. Ratings change
    between the monthly dumps, and with them the set of "the first 50,000" puzzles."""
    return {
        name: hashlib.sha256(b"\n".join(split.columns["ids"].tolist())).hexdigest()
        for name, split in splits.items()
    }


def _share(progress: Progress | None, number: int) -> Progress | None:
    """The progress callback for pass `number` of two."""
    if progress is None:
        return None
    return lambda done, total: progress(
        done + number * (total or 0), None if total is None else 2 * total
    )
