"""Sudoku rows as tokens and text, their checks, and the CSV `source,question,answer,rating`.

Ratings are on one of three scales, which are never mixed (`columns["scale"]`):

- `tdoku`: guesses of the tdoku solver, in the column `rating`; 0 is solved by propagation.
- `sukaku`: the Sukaku Explainer difficulty of the Sudoku Exchange sets, which is in their
  `source` (`sudoku_exchange_se4.0`); their `rating` is tdoku's all the same.
- `eqloop`: guesses of our own solver (see `_sudoku_generator`), where nothing else is known.

`columns["guesses"]` is the column `rating` whatever the scale of the difficulty.
"""

import functools
import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np

from .._task import Bad, Progress, Split
from ._files import OnBad, read_csv, write_text

COLUMNS = ("source", "question", "answer", "rating")

_EXCHANGE = re.compile(r"sudoku_exchange_se(\d+(?:\.\d+)?)")
_OWN = "eqloop"
_CHUNK = 4096
_LONGEST_SOURCE = 64


def tokens_of(text: bytes, box: int) -> np.ndarray:
    """Digits to 1..n, `.` and `0` to 0, every other byte to 255."""
    table = np.full(256, 255, np.uint8)
    table[list(b".0")] = 0
    table[ord("1") : ord("1") + box * box] = np.arange(1, box * box + 1)
    return table[np.frombuffer(text, np.uint8)]


def texts_of(tokens: np.ndarray) -> np.ndarray:
    """Tokens `(rows, ...)` as bytes strings, `(rows,)`, with `.` for blanks."""
    flat = np.ascontiguousarray(tokens.reshape(len(tokens), math.prod(tokens.shape[1:])))
    characters = np.where(flat == 0, np.uint8(ord(".")), flat + np.uint8(ord("0")))
    return characters.view(f"S{flat.shape[1]}").reshape(-1)


def clashes(grid: np.ndarray, box: int) -> str:
    """Says which digit is twice in a row, column or box of one grid, `(n, n)`; "" if none is."""
    n = box * box
    boxes = grid.reshape(box, box, box, box).transpose(0, 2, 1, 3).reshape(n, n)
    for kind, lines in (("row", grid), ("column", grid.T), ("box", boxes)):
        for number, line in enumerate(lines, 1):
            for digit in range(1, n + 1):
                if np.sum(line == digit) > 1:
                    return f"{kind} {number} has {digit} twice"
    return ""


def solved(grids: np.ndarray, box: int) -> np.ndarray:
    """Which of the grids, `(rows, n^2)`, have each digit once in each row, column and box."""
    n = box * box
    # Of n powers of two below 2^n only 1, 2, 4, ... sum to 2^n - 1.
    bits = (1 << np.clip(grids.astype(np.int32) - 1, 0, n)).reshape(-1, n, n)
    bits = np.where(grids.reshape(-1, n, n) == 0, 0, bits)
    boxes = bits.reshape(-1, box, box, box, box).sum((2, 4)).reshape(-1, n)
    full = (1 << n) - 1
    lines = [bits.sum(1), bits.sum(2), boxes]
    return np.all([(line == full).all(1) for line in lines], 0)


def faults(questions: np.ndarray, answers: np.ndarray, box: int, unique: bool) -> list[str]:
    """What is wrong with each row of tokens, `(rows, n^2)`; "" where nothing is."""
    n = box * box
    why = np.full(len(questions), "", object)
    blank_or_digit = (questions <= n).all(1)
    digits = ((answers >= 1) & (answers <= n)).all(1)
    agree = ((questions == 0) | (questions == answers)).all(1)
    tests = [
        (blank_or_digit, f"the question has a cell that is not ., 0 or 1-{n}"),
        (digits, f"the answer has a cell that is not 1-{n}"),
        (agree, "the answer contradicts the question"),
        (solved(np.where(answers > n, 0, answers), box), "the answer is not a valid grid"),
    ]
    good = np.ones(len(questions), bool)
    for test, text in tests:
        why[good & ~test] = text
        good &= test
    if unique and good.any():
        from ._sudoku_generator import solve

        counts, _, _ = solve(questions[good], box)
        why[np.flatnonzero(good)[counts > 1]] = "the question has more than one solution"
        why[np.flatnonzero(good)[counts < 0]] = "no proof that the solution is the only one"
    return list(why)


def join(parts: list[Split], box: int) -> Split:
    """The rows of `parts`, one after the other."""
    n = box * box
    empty = Split(
        inputs=np.zeros((0, n, n), np.uint8),
        targets=np.zeros((0, n, n), np.uint8),
        difficulty=np.zeros(0, np.float32),
        puzzles=np.zeros(0, f"S{n * n}"),
        columns={
            "scale": np.zeros(0, "S6"),
            "source": np.zeros(0, "S6"),
            "guesses": np.zeros(0, np.float32),
        },
    )
    parts = parts or [empty]
    return Split(
        inputs=np.concatenate([part.inputs for part in parts]),
        targets=np.concatenate([part.targets for part in parts]),
        difficulty=np.concatenate([part.difficulty for part in parts]),
        puzzles=np.concatenate([part.puzzles for part in parts]),
        columns={
            name: np.concatenate([part.columns[name] for part in parts])
            for name in parts[0].columns
        },
    )


def own(questions: np.ndarray, answers: np.ndarray, guesses: np.ndarray, box: int) -> Split:
    """Rows on our own scale, from tokens `(rows, n^2)`."""
    n = box * box
    rating = guesses.astype(np.float32)
    return Split(
        inputs=questions.reshape(-1, n, n),
        targets=answers.reshape(-1, n, n),
        difficulty=rating,
        puzzles=texts_of(questions),
        columns={
            "scale": np.full(len(questions), _OWN.encode(), "S6"),
            "source": np.full(len(questions), _OWN.encode(), "S6"),
            "guesses": rating.copy(),
        },
    )


# --- CSV


def read_rows(
    path: Path, box: int, *, on_bad: OnBad, progress: Progress | None, unique: bool
) -> Split:
    """Every good row of a CSV file (see `AbstractTask.read`)."""
    # Rows and bad rows in the order of the file, for they are checked in chunks.
    faulty: list[Bad] = []

    def note(bad: Bad) -> None:
        faulty.append(bad)
        if len(faulty) > _CHUNK:
            # Nothing but bad rows: in bounded memory, if not quite in order.
            for one in faulty:
                on_bad(one)
            faulty.clear()

    rows = _interleaved(read_csv(path, COLUMNS, on_bad=note, progress=progress), faulty, path)
    parts = []
    while chunk := list(itertools.islice(rows, _CHUNK)):
        parts.append(_checked(chunk, box, on_bad, unique))
    return join(parts, box)


_Row = tuple[str, dict[str, str]] | Bad
"""Where a row is and its fields, or what is wrong with it already."""


def _interleaved(
    rows: Iterator[tuple[int, dict[str, str]]], faulty: list[Bad], path: Path
) -> Iterator[_Row]:
    for number, row in rows:
        yield from faulty
        faulty.clear()
        yield f"{path}:{number}", row
    yield from faulty
    faulty.clear()


def _checked(chunk: list[_Row], box: int, on_bad: OnBad, unique: bool) -> Split:
    cells = box**4
    why = [_fault(entry, cells) for entry in chunk]
    sound = [i for i, text in enumerate(why) if not text]
    rows = [cast(tuple[str, dict[str, str]], chunk[i])[1] for i in sound]
    questions, answers = (
        tokens_of("".join(row[name] for row in rows).encode(), box).reshape(-1, cells)
        for name in ("question", "answer")
    )
    found = faults(questions, answers, box, unique)
    for i, text in zip(sound, found, strict=True):
        why[i] = text
    for entry, text in zip(chunk, why, strict=True):
        if isinstance(entry, Bad):
            on_bad(entry)
        elif text:
            on_bad(Bad(entry[0], text))
    good = np.array([not text for text in found], bool)
    rows = [row for row, keep in zip(rows, good, strict=True) if keep]
    guesses = [_number(row["rating"]) for row in rows]
    scales = [_scale(row["source"]) for row in rows]
    difficulty = [
        own if rating is None else rating for own, (_, rating) in zip(guesses, scales, strict=True)
    ]
    n = box * box
    return Split(
        inputs=questions[good].reshape(-1, n, n),
        targets=answers[good].reshape(-1, n, n),
        difficulty=np.array(difficulty, np.float32),
        puzzles=texts_of(questions[good]),
        columns={
            "scale": np.array([scale for scale, _ in scales], "S6"),
            # An "S0" array cannot be joined to others.
            "source": np.array([row["source"].encode() for row in rows] or [b" "])[: len(rows)],
            "guesses": np.array(guesses, np.float32),
        },
    )


def _fault(entry: _Row, cells: int) -> str:
    """What is wrong with a row apart from its cells."""
    if isinstance(entry, Bad):
        return entry.why
    row = entry[1]
    for name in ("question", "answer"):
        if not row[name].isascii():
            return f"the {name} has characters that are no digits"
        if len(row[name]) != cells:
            return f"the {name} has {len(row[name])} characters, not {cells}"
    if not math.isfinite(_number(row["rating"])):
        return f"the rating {row['rating'][:20]!r} is not a number from 0"
    if len(row["source"].encode()) > _LONGEST_SOURCE:
        return f"the source has more than {_LONGEST_SOURCE} bytes"
    return ""


@functools.lru_cache(4096)
def _number(text: str) -> float:
    """A rating, or NaN."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if 0 <= value < 1e9 else math.nan


@functools.lru_cache(4096)
def _scale(source: str) -> tuple[str, float | None]:
    """The scale of a row, and its rating where that is in the source."""
    if match := _EXCHANGE.fullmatch(source):
        return "sukaku", float(match[1])
    return (_OWN if source == _OWN else "tdoku"), None


def write_rows(split: Split, path: Path) -> None:
    """Writes a CSV file that `read_rows` reads back."""
    answers = texts_of(split.targets)
    columns = (split.columns["source"], split.puzzles, answers, split.columns["guesses"])
    with write_text(path) as out:
        out.write(",".join(COLUMNS) + "\n")
        for source, question, answer, guesses in zip(*columns, strict=True):
            name = source.decode()
            if any(character in name for character in ',"\r\n'):
                quoted = name.replace('"', '""')
                name = f'"{quoted}"'
            out.write(f"{name},{question.decode()},{answer.decode()},{guesses:.9g}\n")
