"""The default text, files and pictures of puzzles: one symbol per cell."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from .._errors import InputError
from .._text import one_line
from ._files import OnBad, write_text
from ._records import Layout, Record, read_records
from ._split import Bad, Progress, Split, Symbols, symbols_of, text_of
from ._svg import PREDICTED, glyphs, picture, struck

_SHORT = 40
"""Maximum number of characters of a wrong text that a message quotes."""
_LISTED = 36
"""Maximum number of symbols that a message lists."""
_WIDE = 32
"""Cells per row in a picture of a one-dimensional grid."""


def shortened(text: str) -> str:
    """Quote and shorten a text for a message."""
    return repr(text if len(text) <= _SHORT else f"{text[: _SHORT - 3]}...")


def parse_cells(text: str, grid: Sequence[int], symbols: Symbols) -> np.ndarray:
    """Parse a text of symbols into tokens, `(*grid,)`; a one-dimensional grid may have any length.

    White space is ignored unless it is a symbol. **Raises** `InputError`, in one line.
    """
    is_named = not isinstance(symbols, str)
    numbers = {symbol: number for number, symbol in enumerate(symbols)}
    parts = text.split() if is_named else text
    letters = [letter for letter in parts if letter in numbers or not letter.isspace()]
    for letter in letters:
        if letter not in numbers:
            known = text_of(np.arange(min(len(symbols), _LISTED)), symbols)
            more = " ..." if len(symbols) > _LISTED else ""
            raise InputError(
                f"puzzle {shortened(text)}: {shortened(letter)} is not a symbol of this task "
                f"({known}{more})"
            )
    cells = math.prod(grid)
    if not letters or (len(grid) > 1 and len(letters) != cells):
        needed = f"{cells} ({' x '.join(map(str, grid))})" if len(grid) > 1 else "at least 1"
        raise InputError(
            f"puzzle {shortened(text)}: has {len(letters)} cells, but {needed} are needed"
        )
    shape = tuple(grid) if len(grid) > 1 else (len(letters),)
    return np.array([numbers[letter] for letter in letters], np.uint8).reshape(shape)


def read_cells(
    path: Path,
    parse: Callable[[str], Split],
    symbols: Symbols,
    *,
    on_bad: OnBad,
    progress: Progress | None,
) -> Split | None:
    """Read the good rows of a file with a column `question` and optionally `answer`, or with one
    puzzle per line. **Returns** None if there is no good row.

    A row is bad if `parse` refuses it, if its size differs from that of the rows before it, or if
    its answer has another size or contradicts the answer from `parse`.
    """
    rows: list[Split] = []
    for number, record in read_records(path, _layout(parse), on_bad=on_bad, progress=progress):
        try:
            row = _row(record, parse, symbols)
            if rows and row.inputs.shape != rows[0].inputs.shape:
                size, expected = row.inputs[0].size, rows[0].inputs[0].size
                raise InputError(f"{size} cells, but the rows before have {expected}")
            rows.append(row)
        except InputError as error:
            on_bad(Bad(f"{path}:{number}", one_line(str(error))))
    return joined(rows) if rows else None


def _row(record: Record, parse: Callable[[str], Split], symbols: Symbols) -> Split:
    row = parse(record["question"])
    answer = record.get("answer", "")
    if not answer.strip():
        return row
    shape = row.targets.shape
    targets = parse_cells(answer, (row.targets[0].size,), symbols)
    if targets.size != row.targets[0].size:
        raise InputError(
            f"the answer {shortened(answer)} has {targets.size} cells, but the question has "
            f"{row.targets[0].size}"
        )
    targets = targets.reshape(shape)
    if row.answered[0] and (targets != row.targets).any():
        raise InputError(f"the answer {shortened(answer)} is wrong")
    columns = {**row.columns, "answered": np.ones(1, bool)}
    return Split(row.inputs, targets, row.difficulty, row.puzzles, columns)


def joined(parts: Sequence[Split]) -> Split:
    """Concatenate splits that have the same columns."""
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


def write_cells(split: Split, path: Path, symbols: Symbols) -> None:
    """Write the columns `question` and `answer` (empty if unknown), as `read_cells` reads them."""
    with write_text(path) as file:
        file.write("question,answer\n")
        rows = zip(split.puzzles, split.targets, split.answered, strict=True)
        for question, target, answered in rows:
            answer = text_of(target, symbols) if answered else ""
            file.write(f"{_quoted(question.decode())},{_quoted(answer)}\n")


def _quoted(text: str) -> str:
    """A field of a CSV file."""
    is_plain = not any(letter in text for letter in ',"\n\r') and text == text.strip()
    return text if is_plain else '"' + text.replace('"', '""') + '"'


_QUESTION = ("input", "puzzle", "quizzes", "problem")
_ANSWER = ("output", "target", "solution", "solutions")


def _layout(parse: Callable[[str], Split]) -> Layout:
    def record_of_line(line: str) -> Record | None:
        """Parse a line of a file without a header: one puzzle, or None for a header."""
        fields = {field.strip().lower() for field in re.split("[,;\t]", line)}
        if fields & {"question", *_QUESTION}:
            return None
        if len(fields) > 1:
            try:
                parse(line.strip("\n"))
            except InputError:
                return None
        return {"question": line.strip("\n")}

    return Layout(
        required=("question",),
        expected=(
            "expected a column question (or input, puzzle) and, if known, a column answer (output, "
            "target, solution); or one puzzle per line"
        ),
        names={"question": _QUESTION, "answer": _ANSWER},
        plain=record_of_line,
        row="puzzle",
    )


def check_cells(split: Split, prediction: np.ndarray) -> tuple[bool | None, str]:
    """Whether `prediction` equals the target of the one example in `split`, and a remark."""
    if not split.answered[0]:
        return None, "the right answer is not known"
    wrong = np.argwhere(np.asarray(prediction) != split.targets[0])
    if len(wrong) == 0:
        return True, f"all {prediction.size} cells are right"
    position = ", ".join(map(str, wrong[0].tolist()))
    return False, f"{len(wrong)} of {prediction.size} cells are wrong, the first at {position}"


def render_cells(
    split: Split, prediction: np.ndarray | None, symbols: Symbols, labels: tuple[str, str]
) -> str:
    """The one example in `split` in Rich markup for a terminal. The prediction is below the input
    (one-dimensional grids) or beside it, with a `^` below each wrong cell."""
    wide = _longest(split, prediction, symbols)
    gap = "" if isinstance(symbols, str) else " "
    rows = _Rows(split, prediction, max(2 * _WIDE // (wide + len(gap)), 1))
    input_label, answer_label, marks_label = (
        f"{name:<{max(5, *map(len, labels))}}" for name in (*labels, "wrong")
    )

    def line(cells: Iterable[str]) -> str:
        return _escaped(gap.join(f"{cell:<{wide}}" for cell in cells))

    lines = []
    for inputs, answer, wrong in rows:
        tokens = line(symbols_of(inputs, symbols))
        marks = line(wide * "^" if mark else "" for mark in wrong).rstrip()
        answered = "" if answer is None else f"[bold]{line(symbols_of(answer, symbols))}[/]"
        if rows.beside:
            lines.append(f"{tokens}   {answered}".rstrip())
            indent = " " * ((wide + len(gap)) * len(inputs) - len(gap) + 3)
            lines += [f"{indent}[red]{marks}[/]"] if marks else []
        else:
            lines.append(f"[dim]{input_label}[/] {tokens}")
            lines += [f"{answer_label} {answered}"] if answered else []
            lines += [f"[red]{marks_label} {marks}[/]"] if marks else []
    return "\n".join(lines)


def _longest(split: Split, prediction: np.ndarray | None, symbols: Symbols) -> int:
    """The most characters of a symbol in a picture."""
    shown = [split.inputs[0], split.targets[0]] + ([] if prediction is None else [prediction])
    return max(len(symbol) for cells in shown for symbol in symbols_of(cells, symbols))


def _escaped(text: str) -> str:
    """Escape text for the markup of Rich."""
    return text.replace("\\", "\\\\").replace("[", "\\[")


def draw_cells(
    split: Split,
    prediction: np.ndarray | None,
    symbols: Symbols,
    labels: tuple[str, str],
    *,
    title: str,
) -> str:
    """The one example in `split` as an SVG: rows of symbols, with the answer below
    (one-dimensional grids) or beside them, a dot for each cell without an answer, and wrong cells
    struck out."""
    wide = _longest(split, prediction, symbols)
    cell, high = 6 + 8 * wide, 20
    per_row = _WIDE if split.inputs[0].size > 4 * _WIDE else _WIDE // 2
    rows = _Rows(split, prediction, max(2 * per_row // (wide + 1), 1))
    margin = (12 if rows.beside else 8 + 7 * max(map(len, labels))) + 4 * (wide - 1)
    line = high if rows.beside else 42
    body = [
        '<g font-family="ui-monospace,Menlo,Consolas,monospace" font-size="14" '
        'text-anchor="middle" fill="currentColor">'
    ]

    def row(texts: Sequence[str], left: float, y: float, **attributes: str) -> str:
        """Each text is centred in its cell; a character has a width of 8."""
        at = [
            (left + cell * i + 8 * place - 4 * (len(text) - 1), y)
            for i, text in enumerate(texts)
            for place in range(len(text))
        ]
        return glyphs("".join(texts), at, **attributes)

    marks, width, number = [], 0, 0
    for number, (inputs, answer, wrong) in enumerate(rows):
        top = line * number
        x, y = (margin + cell * (len(inputs) + 1), top + 15) if rows.beside else (margin, top + 32)
        texts = ["·"] * len(inputs) if answer is None else symbols_of(answer, symbols)
        if not rows.beside:
            body += [
                f'<text x="{1 + 3.5 * max(map(len, labels)):g}" y="{top + dy}" font-size="9">'
                f"{label}</text>"
                for label, dy in zip(labels, (15, 31), strict=True)
            ]
        body += [
            row(symbols_of(inputs, symbols), margin, top + 15, opacity=".75"),
            row(texts, x, y, fill=PREDICTED, font_weight="700"),
        ]
        marks += [(x + cell * i - cell // 2 + 1, y - 12) for i in np.flatnonzero(wrong)]
        width = max(width, x + cell * len(inputs))
    body += ["</g>", struck(marks, cell - 2, 15)]
    if prediction is not None and split.answered[0]:
        title += f": {split.inputs[0].size - len(marks)} right, {len(marks)} wrong"
    return picture(title, width, line * (number + 1), body)


class _Rows:
    """An example as rows of at most `width` cells: tokens, answer (or None), mask of wrong cells.

    `beside`: whether input and answer stand side by side, as for grids of two or more axes.
    """

    def __init__(self, split: Split, prediction: np.ndarray | None, width: int):
        inputs = split.inputs[0]
        self.beside = inputs.ndim > 1
        width = inputs.shape[-1] if self.beside else width
        wrong = np.zeros(inputs.shape, bool)
        if prediction is not None and split.answered[0]:
            wrong = np.asarray(prediction) != split.targets[0]
        parts = [slice(start, start + width) for start in range(0, inputs.size, width)]
        answer = None if prediction is None else np.asarray(prediction).ravel()
        self._rows = [
            (inputs.ravel()[part], None if answer is None else answer[part], wrong.ravel()[part])
            for part in parts
        ]

    def __iter__(self):
        return iter(self._rows)
