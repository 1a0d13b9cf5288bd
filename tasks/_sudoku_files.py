"""Read, check and write rows of sudokus.

Each rating is on one of five scales (`columns["scale"]`), which are never mixed:

- `tdoku`: guesses of the tdoku solver, the column `rating` of sets that were made with it (their
  `source` is `puzzles0_kaggle` and the like); 0 is solved by propagation.
- `sukaku`: the Sukaku Explainer difficulty of the Sudoku Exchange sets, which is part of their
  `source` (`sudoku_exchange_se4.0`); their column `rating` still has tdoku guesses.
- `eqloop`: guesses of the built-in solver (see `_sudoku_generator`) if the file has no rating.
- `file`: the column `rating` of any other file.
- `blanks`: the number of blanks, for training puzzles with `task.most_givens`.

`columns["guesses"]` is the column `rating` for every scale.
"""

import functools
import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np

from .._task import Bad, Layout, OnBad, Progress, Record, Split, joined, read_records, write_text

COLUMNS = ("source", "question", "answer", "rating")

_EXCHANGE = re.compile(r"sudoku_exchange_se(\d+(?:\.\d+)?)", re.ASCII)
_TDOKU = re.compile(r"puzzles\d+_.+", re.ASCII)
_BY_SOLVER = "eqloop"
_BY_BLANKS = "blanks"
_CHUNK = 4096
_LONGEST_SOURCE = 64
_BLANKS = b".0*_-"
_NAMES = {
    "question": ("quizzes", "quiz", "puzzle", "puzzles", "sudoku", "input", "problem", "unsolved"),
    "answer": ("solutions", "solution", "solved", "output"),
    "rating": ("difficulty",),
    "source": (),
}
_OTHERS = (
    (r":\d{4}:", "a HoDoKu library; take its puzzles out: cut -d: -f4 FILE > puzzles.txt"),
    (
        r"Grid \d+\s*$",
        'a list of grids over nine lines each; join them: awk \'/Grid/ {if (s) print s; s = ""; '
        "next} {s = s $0} END {print s}' FILE > puzzles.txt",
    ),
    (
        r"[1-9.0*_-]{9}\s*$",
        "a grid over nine lines, as in .sdk files; join them: grep -v '^[#[]' FILE | tr -d "
        "'\\r\\n' > puzzle.txt",
    ),
)


@functools.cache
def layout(box: int) -> Layout:
    """The layout of files of sudokus: a column `question` and others, or a puzzle per line."""
    cells, digit = box**4, f"1-{box * box}"
    puzzle = f"[{digit}{re.escape(_BLANKS.decode())}]{{{cells}}}"
    line = re.compile(
        # An optional hash, as in the Sudoku Exchange puzzle bank; the puzzle; its solution.
        rf"\s*(?:[0-9a-fA-F]{{6,64}}\s+)?({puzzle})(?:[\s,;]+([{digit}]{{{cells}}}))?(?![^\s,;])"
    )

    def record_of_line(text: str) -> Record | None:
        match = line.match(text)
        return match and {"question": match[1], "answer": match[2] or ""}

    return Layout(
        required=("question",),
        expected=(
            "expected a file of sudokus: with a column question (or puzzle, or quizzes) and "
            "optional columns answer (solution), rating and source; or one puzzle of "
            f"{cells} characters per line"
        ),
        names=_NAMES,
        plain=record_of_line,
        row=f"puzzle of {cells} characters",
        others=_OTHERS,
    )


def tokens_of(text: bytes, box: int) -> np.ndarray:
    """Convert digits to 1..n, blanks (`.`, `0`, `*`, `_`, `-`) to 0, and other bytes to 255."""
    table = np.full(256, 255, np.uint8)
    table[list(_BLANKS)] = 0
    table[ord("1") : ord("1") + box * box] = np.arange(1, box * box + 1)
    return table[np.frombuffer(text, np.uint8)]


def texts_of(tokens: np.ndarray) -> np.ndarray:
    """Convert tokens `(rows, ...)` to byte strings, `(rows,)`, with `.` for blanks."""
    flat = np.ascontiguousarray(tokens.reshape(len(tokens), math.prod(tokens.shape[1:])))
    characters = np.where(flat == 0, np.uint8(ord(".")), flat + np.uint8(ord("0")))
    return characters.view(f"S{flat.shape[1]}").reshape(-1)


def clashes(grid: np.ndarray, box: int) -> str:
    """A digit that occurs twice in a row, column or box of a grid `(n, n)`, as text; "" if none."""
    n = box * box
    boxes = grid.reshape(box, box, box, box).transpose(0, 2, 1, 3).reshape(n, n)
    for kind, lines in (("row", grid), ("column", grid.T), ("box", boxes)):
        for number, line in enumerate(lines, 1):
            for digit in range(1, n + 1):
                if np.sum(line == digit) > 1:
                    return f"{kind} {number} has {digit} twice"
    return ""


def solved(grids: np.ndarray, box: int) -> np.ndarray:
    """Mask of the grids, `(rows, n^2)`, with each digit once in each row, column and box."""
    n = box * box
    # n powers of two below 2^n sum to 2^n - 1 only if all of them occur.
    bits = (1 << np.clip(grids.astype(np.int32) - 1, 0, n)).reshape(-1, n, n)
    bits = np.where(grids.reshape(-1, n, n) == 0, 0, bits)
    boxes = bits.reshape(-1, box, box, box, box).sum((2, 4)).reshape(-1, n)
    full = (1 << n) - 1
    lines = [bits.sum(1), bits.sum(2), boxes]
    return np.all([(line == full).all(1) for line in lines], 0)


def faults(questions: np.ndarray, answers: np.ndarray, box: int, unique: bool) -> list[str]:
    """The fault of each row of tokens, `(rows, n^2)`; "" for a good row."""
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
    is_good = np.ones(len(questions), bool)
    for test, text in tests:
        why[is_good & ~test] = text
        is_good &= test
    if unique and is_good.any():
        from ._sudoku_generator import solve

        counts, _, _ = solve(questions[is_good], box)
        why[np.flatnonzero(is_good)[counts > 1]] = "the question has more than one solution"
        why[np.flatnonzero(is_good)[counts < 0]] = "no proof that the solution is the only one"
    return list(why)


def join(parts: list[Split], box: int) -> Split:
    """Concatenate `parts`, which may be empty."""
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
    return joined(parts or [empty])


def rows_on_scale(
    questions: np.ndarray,
    answers: np.ndarray,
    guesses: np.ndarray,
    box: int,
    scale: str = _BY_SOLVER,
) -> Split:
    """A split of rows of tokens `(rows, n^2)` with ratings `guesses` on `scale`."""
    n = box * box
    rating = guesses.astype(np.float32)
    return Split(
        inputs=questions.reshape(-1, n, n),
        targets=answers.reshape(-1, n, n),
        difficulty=rating,
        puzzles=texts_of(questions),
        columns={
            "scale": np.full(len(questions), scale.encode(), "S6"),
            "source": np.full(len(questions), scale.encode(), "S6"),
            "guesses": rating.copy(),
        },
    )


def with_more_givens(split: Split, most: int, seed: int, box: int) -> Split:
    """Fill in random cells of each puzzle from its answer, up to a number of givens that is uniform
    from its present number to `most`. Solutions stay unique. The difficulty becomes the number of
    blanks."""
    answers = split.targets.reshape(len(split), -1)
    questions = split.inputs.reshape(len(split), -1)
    # Draw all numbers of a row together, so that a larger set begins with the smaller one.
    rows, cells = questions.shape
    uniforms = np.random.RandomState((seed, most)).random_sample((rows, 1 + cells))
    counts = np.count_nonzero(questions, axis=1)
    new_counts = counts + (uniforms[:, 0] * (np.maximum(most - counts, 0) + 1)).astype(int)
    # Givens come before all other cells, whose order is random.
    order = np.where(questions > 0, -1.0, uniforms[:, 1:])
    rank = np.argsort(np.argsort(order, axis=1, kind="stable"), axis=1)
    questions = np.where(rank < new_counts[:, None], answers, 0).astype(np.uint8)
    return rows_on_scale(
        questions, answers, np.count_nonzero(questions == 0, axis=1), box, _BY_BLANKS
    )


# --- files


def read_rows(
    path: Path, box: int, *, on_bad: OnBad, progress: Progress | None, unique: bool
) -> Split:
    """Read the good rows of a file (see `Task.read`). The built-in solver computes missing answers
    and ratings."""
    # Rows are checked in chunks; bad rows wait here so that they are reported in file order.
    faulty: list[Bad] = []

    def note(bad: Bad) -> None:
        faulty.append(bad)
        if len(faulty) > _CHUNK:
            # Many bad rows in sequence: bounded memory matters more than their order.
            for waiting in faulty:
                on_bad(waiting)
            faulty.clear()

    records = read_records(path, layout(box), on_bad=note, progress=progress)
    rows = _interleaved(records, faulty, path)
    parts = []
    while chunk := list(itertools.islice(rows, _CHUNK)):
        parts.append(_checked(chunk, box, on_bad, unique))
    return join(parts, box)


_Row = tuple[str, Record] | Bad
"""The place `file:line` of a row and its fields, or a bad row."""


def _interleaved(
    rows: Iterator[tuple[int, Record]], faulty: list[Bad], path: Path
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
    candidates = [i for i, text in enumerate(why) if not text]
    rows = [cast(tuple[str, Record], chunk[i])[1] for i in candidates]
    questions, answers = (
        tokens_of("".join(row.get(name) or "." * cells for row in rows).encode(), box)
        .reshape(len(rows), cells)
        .copy()
        for name in ("question", "answer")
    )
    unrated = np.array(["rating" not in row for row in rows], bool)
    unsolved = np.array([not row.get("answer") for row in rows], bool)
    guesses, solver_faults = _solve_missing(questions, answers, unrated, unsolved, box)
    rule_faults = faults(questions, answers, box, unique)
    for i, by_solver, text in zip(candidates, solver_faults, rule_faults, strict=True):
        why[i] = by_solver or text
    for entry, text in zip(chunk, why, strict=True):
        if isinstance(entry, Bad):
            on_bad(entry)
        elif text:
            on_bad(Bad(entry[0], text))
    good = np.array([not why[i] for i in candidates], bool)
    rows = [row for row, is_good in zip(rows, good, strict=True) if is_good]
    for row, count in zip(rows, guesses[good].tolist(), strict=True):
        if "rating" not in row:
            row["rating"] = str(count)
            if not _EXCHANGE.fullmatch(row.get("source", "")):
                row["source"] = _BY_SOLVER
    ratings = [_number(row["rating"]) for row in rows]
    sources = [row.get("source", "") for row in rows]
    scales = [_scale(source) for source in sources]
    difficulty = [
        rating if of_source is None else of_source
        for rating, (_, of_source) in zip(ratings, scales, strict=True)
    ]
    n = box * box
    return Split(
        inputs=questions[good].reshape(-1, n, n),
        targets=answers[good].reshape(-1, n, n),
        difficulty=np.array(difficulty, np.float32),
        puzzles=texts_of(questions[good]),
        columns={
            "scale": np.array([scale for scale, _ in scales], "S6"),
            # An "S0" array cannot be concatenated with others.
            "source": np.array([source.encode() for source in sources] or [b" "])[: len(rows)],
            "guesses": np.array(ratings, np.float32),
        },
    )


def _solve_missing(
    questions: np.ndarray, answers: np.ndarray, unrated: np.ndarray, unsolved: np.ndarray, box: int
) -> tuple[np.ndarray, list[str]]:
    """Fill in the answers of the `unsolved` rows. **Returns** the guesses of the built-in solver
    for these and the `unrated` rows, and the fault of each row ("" for none)."""
    guesses = np.zeros(len(questions), np.int64)
    why = np.full(len(questions), "", object)
    needed = np.flatnonzero((unrated | unsolved) & (questions <= box * box).all(1))
    if len(needed):
        from ._sudoku_generator import solve

        counts, solutions, guesses[needed] = solve(questions[needed], box)
        is_unsolved = unsolved[needed]
        answers[needed[is_unsolved]] = solutions[is_unsolved]
        for count, text in (
            (0, "the puzzle has no solution"),
            (2, "the puzzle has more than one solution, and the file gives no answer"),
            (-1, "no proof that the puzzle has one solution, and the file gives no answer"),
        ):
            why[needed[is_unsolved & (counts == count)]] = text
    return guesses, list(why)


def _fault(entry: _Row, cells: int) -> str:
    """The fault of a row apart from its cells, or "". Strips white space around the fields."""
    if isinstance(entry, Bad):
        return entry.why
    row = entry[1]
    for name in ("question", "answer", "rating", "source"):
        if name in row:
            row[name] = row[name].strip()
    for name in ("question", "answer"):
        text = row.get(name, "")
        if name == "answer" and not text:
            continue
        if not text.isascii():
            return f"the {name} has characters that are not digits"
        if re.fullmatch(r"\d[\d.]*[eE]\+?\d+", text):
            return f"the {name} is the number {text[:20]}: a spreadsheet has lost its digits"
        if text.startswith("[["):
            return f"the {name} is a list of lists; write its {cells} cells as one text"
        if len(text) != cells:
            hint = ""
            if text.isdigit() and cells - 20 < len(text) < cells:
                hint = "; did a spreadsheet remove its leading zeros?"
            return f"the {name} has {len(text)} characters, not {cells}{hint}"
    if "rating" in row and not math.isfinite(_number(row["rating"])):
        return f"the rating {row['rating'][:20]!r} is not a number >= 0"
    source = row.get("source", "")
    if len(source.encode()) > _LONGEST_SOURCE:
        return f"the source has more than {_LONGEST_SOURCE} bytes"
    return "the source has a zero byte" if "\0" in source else ""


@functools.lru_cache(4096)
def _number(text: str) -> float:
    """Parse a rating; NaN if invalid. Python alone would accept "1_000" and non-ASCII digits."""
    try:
        value = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        return math.nan
    return value if 0 <= value < 1e9 else math.nan


@functools.lru_cache(4096)
def _scale(source: str) -> tuple[str, float | None]:
    """The scale of a row, and its rating if the source has one."""
    if match := _EXCHANGE.fullmatch(source):
        return "sukaku", float(match[1])
    if source in (_BY_SOLVER, _BY_BLANKS):
        return source, None
    return ("tdoku" if _TDOKU.fullmatch(source) else "file"), None


def write_rows(split: Split, path: Path) -> None:
    """Write a CSV file that `read_rows` reads."""
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
