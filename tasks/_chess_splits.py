"""Which rows of a Lichess file are train, validation, test and hard, by two named rules."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from .._errors import InputError
from .._task import Bad, Progress, Split, partition
from ._chess_rows import LAYOUT, Encoding, hashes, join, stream

FEWEST = 10
"""Distinct puzzles without which no three splits can be made."""


@dataclasses.dataclass(frozen=True)
class Index:
    """What choosing needs of each good row, in the file's order: 12 bytes each, so that the index
    of the whole database (4.9 million rows) takes 60 MB."""

    ratings: np.ndarray
    hashes: np.ndarray

    def distinct(self) -> np.ndarray:
        """The first row of each position (as the model sees it), in the file's order."""
        return np.sort(np.unique(self.hashes, return_index=True)[1])


Rule = Callable[[Index, int, int], dict[str, np.ndarray]]
"""(index, rows wanted or 0, seed) -> name -> rows. No position is in two splits, for rules choose
among `Index.distinct` only."""


def paper(index: Index, rows: int, seed: int) -> dict[str, np.ndarray]:
    """The split of the paper, and what it leaves open.

    Train + validation are the first 50,000 (`rows`) puzzles rated <= 1600, 80/20; hard is the
    first 10,000 rated 1601..2000. Ours: test is the next 10,000 rated <= 1600, and harder the
    first 10,000 above 2000. A file with fewer than 60,000 puzzles rated <= 1600 is divided in the
    same proportion, five sixths to train + validation.
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
    """Whether rows further down the file can no longer change what `paper` chooses."""
    for ratings in (index.ratings, None):  # all rows first, for that is quick to count
        if ratings is None:
            ratings = index.ratings[index.distinct()]
        easy, known = int(np.sum(ratings <= 1600)), int(np.sum(ratings <= 2000))
        wanted = max((rows or 50_000) + 10_000, -(-(rows or 50_000) * 6 // 5))
        if easy < wanted or known - easy < 10_000 or len(ratings) - known < 10_000:
            return False
    return True


def easy_to_hard(index: Index, rows: int, seed: int) -> dict[str, np.ndarray]:
    """The split of the easy-to-hard data sets: sorted by rating, easy = [0, 600k), hard = [600k,
    700k), and harder = [700k, 800k) where the file holds so many.

    A file of fewer than 700,000 puzzles is divided in the same proportion, 6 to 1. Of the easy
    block (of `rows` * 10/9 drawn from it, where that is fewer) 80 % are train, 10 % validation
    and 10 % test: the original has no held-back rows of the training ratings.
    """
    distinct = index.distinct()
    ranked = distinct[np.argsort(index.ratings[distinct], kind="stable")]
    easy = min(600_000, len(ranked) * 6 // 7)
    drawn = min(easy, -(-rows * 10 // 9)) if rows else easy
    block = ranked[np.sort(np.random.RandomState(seed).permutation(easy)[:drawn])]
    train, rest = partition(drawn, seed)
    chosen = {
        "train": block[train],
        # every other one: both see the whole range of ratings
        "validation": block[rest[::2]],
        "test": block[rest[1::2]],
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

    Two passes, so that only the chosen rows are ever held: the first notes each row's rating and
    hash, the second collects. Reading stops early where further rows cannot matter.
    """
    ratings, codes = [np.zeros(0, np.float32)], [np.zeros(0, np.uint64)]
    good, complete = 0, True
    for chunk in stream(path, encoding, on_bad=on_bad, progress=_share(progress, 0)):
        ratings.append(chunk.difficulty)
        codes.append(hashes(chunk.inputs))
        good += len(chunk)
        if encoding == "paper" and good > 80_000:
            ratings, codes = [np.concatenate(ratings)], [np.concatenate(codes)]
            if paper_has_enough(Index(ratings[0], codes[0]), rows):
                complete = False
                break
    index = Index(np.concatenate(ratings), np.concatenate(codes))
    chosen = RULES[encoding](index, rows, seed)
    if sum(len(chosen[name]) for name in ("train", "validation", "test")) < FEWEST:
        limit = "rated <= 1600 " if encoding == "paper" else ""
        raise InputError(
            f"{path}: fewer than {FEWEST} distinct puzzles {limit}among {good} good rows; "
            "train, validation and test cannot be made of them, so give a larger file; "
            f"{LAYOUT.expected}"
        )
    wanted = np.unique(np.concatenate(list(chosen.values())))
    kept: list[Split] = []
    start = 0
    # the first pass has reported the bad rows
    passed = stream(path, encoding, on_bad=lambda bad: None, progress=_share(progress, 1))
    for chunk in passed:
        low, high = np.searchsorted(wanted, (start, start + len(chunk)))
        kept.append(chunk.take(wanted[low:high] - start))
        start += len(chunk)
        if start > wanted[-1]:
            break
    everything = join(kept)
    splits = {
        name: everything.take(np.searchsorted(wanted, which)) for name, which in chosen.items()
    }
    return splits, {
        "rows": good,
        "duplicates": good - len(index.distinct()),
        "whole_file": complete,
        "ids": ids_hashes(splits),
    }


def from_generator(
    make: Callable[[int], Split], rows: int, seed: int
) -> tuple[dict[str, Split], dict[str, object]]:
    """The splits of the generator: `rows` (10,000) train + validation, a tenth as many test, and
    as many hard, which are the most difficult of them all."""
    used = max(rows or 10_000, FEWEST)
    extra = max(used // 10, 1)
    pool = make(used + 2 * extra)
    order = np.argsort(pool.difficulty, kind="stable")
    hard, rest = np.sort(order[-extra:]), np.sort(order[:-extra])
    train, validation = partition(used, seed)
    splits = {
        "train": pool.take(rest[train]),
        "validation": pool.take(rest[validation]),
        "test": pool.take(rest[used:]),
        "hard": pool.take(hard),
    }
    return splits, {"rows": len(pool), "duplicates": 0, "ids": ids_hashes(splits)}


def ids_hashes(splits: Mapping[str, Split]) -> dict[str, str]:
    """For each split the sha256 of its PuzzleIds, one a line, in its order: ratings drift between
    the monthly dumps, and so does which puzzles are "the first 50,000"."""
    return {
        name: hashlib.sha256(b"\n".join(split.columns["ids"].tolist())).hexdigest()
        for name, split in splits.items()
    }


def _share(progress: Progress | None, number: int) -> Progress | None:
    """The progress of pass `number` of two."""
    if progress is None:
        return None
    return lambda done, total: progress(
        done + number * (total or 0), None if total is None else 2 * total
    )
