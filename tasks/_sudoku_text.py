"""Parse pasted sudokus: one line of characters, a framed board, a list of lists, or a file."""

from .._errors import InputError

BLANKS = ".0*_xX?"
_FRAME = frozenset(" \t\r\n|+-=,;:/'\"`[](){}" + "".join(map(chr, range(0x2500, 0x2580))))


def cells_of_text(text: str, n: int) -> str:
    """The `n * n` cells of the one sudoku in a text, row by row, with `.` for a blank.

    A line with a whole puzzle between other words (an identifier before it, a rating after it)
    counts as that puzzle. Otherwise frames, separators and comments (from `#` to the end of the
    line) are removed, and the rest are the cells. A `-` belongs to the frame, unless the cells are
    complete only if it is a blank.

    **Raises** `InputError` if the text has several puzzles, or not `n * n` cells.
    """
    lines = [line.split("#")[0] for line in text.splitlines()]
    puzzles = [puzzle for line in lines if (puzzle := _puzzle_in(line, n))]
    if len(puzzles) > 1:
        raise InputError(
            f"the text has {len(puzzles)} sudokus, one per line: give one of them, or evaluate all "
            "of them with `eqloop eval RUN --data FILE`"
        )
    if puzzles:
        return puzzles[0]
    joined = "\n".join(lines)
    cells = "".join(character for character in joined if character not in _FRAME)
    with_dashes = "".join(c for c in joined if c == "-" or c not in _FRAME)
    if len(cells) != n * n and len(with_dashes) == n * n:
        cells = with_dashes
    if len(cells) != n * n:
        hint = {16: "; 4x4 is task.box=2", 81: "; 9x9 is task.box=3"}.get(len(cells), "")
        raise InputError(
            f"a {n}x{n} sudoku has {n * n} characters, row by row, with . or 0 for blanks; this "
            f"text has {len(cells)}{hint}"
        )
    for place, character in enumerate(cells):
        if not _is_cell(character, n) and character != "-":
            raise InputError(
                f"character {character!r} in row {place // n + 1}, column {place % n + 1}: must "
                f"be 1-{n}, or one of {BLANKS} for a blank"
            )
    return _with_dots(cells)


def _puzzle_in(line: str, n: int) -> str:
    """The first word of a line that is a whole puzzle, or ""."""
    for word in line.replace(",", " ").replace(";", " ").replace('"', " ").split():
        # A line of dashes alone is part of a frame.
        is_puzzle = len(word) == n * n and all(_is_cell(c, n) or c == "-" for c in word)
        if is_puzzle and set(word) != {"-"}:
            return _with_dots(word)
    return ""


def _is_cell(character: str, n: int) -> bool:
    return character in BLANKS or character in "123456789"[:n]


def _with_dots(cells: str) -> str:
    return "".join("." if c == "-" or c in BLANKS else c for c in cells)
