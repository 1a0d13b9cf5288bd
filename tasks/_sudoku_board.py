"""A sudoku as a board, for the terminal and for a page."""

import numpy as np

from .._task import PREDICTED, Split, glyphs, picture, struck

_CELL = 22


def render(givens: np.ndarray, answer: np.ndarray, prediction: np.ndarray | None, box: int) -> str:
    """The board in rich markup.

    Givens are bold, predicted digits follow a raised dot, and wrong digits follow an exclamation
    mark, so that they differ without colour; a blank is a dot.

    **Arguments:**

    - `givens`: `(n, n)` tokens, 0 for blanks.
    - `answer`: `(n, n)`; all zero if unknown: then only changed givens are marked as wrong.
    - `prediction`: `(n, n)`, or None to show the puzzle.
    """
    n = box * box
    has_answer = bool(answer.any())
    bar = "─" * (3 * box)
    top, middle, bottom = (
        f"{left}{mid.join([bar] * box)}{right}" for left, mid, right in ("┌┬┐", "├┼┤", "└┴┘")
    )
    lines = [top]
    marks = set()
    for row in range(n):
        if row and row % box == 0:
            lines.append(middle)
        line = ""
        for column in range(n):
            given = int(givens[row, column])
            if prediction is None:
                cell, mark = (f" [bold]{given}[/bold] ", "given") if given else (" . ", "")
            else:
                digit = int(prediction[row, column])
                digit_text = str(digit) if 1 <= digit <= n else "?"
                wrong = (given and digit != given) or (has_answer and digit != answer[row, column])
                if wrong or digit_text == "?":
                    cell, mark = f"[red]!{digit_text}[/red] ", "wrong"
                elif given:
                    cell, mark = f" [bold]{given}[/bold] ", "given"
                else:
                    cell, mark = f"[cyan]·{digit_text}[/cyan] ", "filled"
            marks.add(mark)
            line += ("│" if column % box == 0 else "") + cell
        lines.append(line + "│")
    lines.append(bottom)
    if prediction is not None:
        legend = {
            "given": "[bold]5[/bold] given",
            "filled": "[cyan]·5[/cyan] filled in",
            "wrong": "[red]!5[/red] wrong",
        }
        lines.append("  ".join(text for mark, text in legend.items() if mark in marks))
    return "\n".join(lines)


def draw(split: Split, prediction: np.ndarray | None, box: int) -> str:
    """The board as SVG: bold givens on grey, plain predicted digits, wrong ones struck through."""
    n = box * box
    size = n * _CELL
    givens, answer = split.inputs[0], split.targets[0]
    given = givens != 0
    board = givens if prediction is None else np.asarray(prediction)
    filled = np.zeros_like(given) if prediction is None else ~given
    wrong = given & (board != givens)
    if prediction is not None:
        wrong |= (board < 1) | (board > n)
        if split.answered[0]:
            wrong |= board != answer

    def corners(mask: np.ndarray) -> list[tuple[int, int]]:
        return [(2 + _CELL * x, 2 + _CELL * y) for y, x in np.argwhere(mask).tolist()]

    def digits(mask: np.ndarray, **attributes: str) -> str:
        text = "".join(str(d) if 0 < d <= n else "?" for d in board[mask].tolist())
        centres = [(x + _CELL / 2, y + 16.5) for x, y in corners(mask)]
        return glyphs(text, centres, **attributes)

    shades = "".join(f"M{x} {y}h{_CELL}v{_CELL}h-{_CELL}z" for x, y in corners(given))
    thin, thick = (
        "".join(f"M2 {2 + _CELL * k}h{size}M{2 + _CELL * k} 2v{size}" for k in lines)
        for lines in ([k for k in range(n) if k % box], range(0, n + 1, box))
    )
    body = [
        f'<path d="{shades}" fill="currentColor" opacity=".09"/>',
        f'<path d="{thin}" stroke="currentColor" stroke-width=".5" opacity=".5"/>',
        f'<path d="{thick}" stroke="currentColor" stroke-width="1.6" stroke-linecap="square"/>',
        '<g font-family="system-ui,sans-serif" font-size="15" text-anchor="middle" '
        'fill="currentColor">',
        digits(given, font_weight="700"),
        digits(filled, font_weight="400", fill=PREDICTED),
        "</g>",
        struck([(x + 2.5, y + 2.5) for x, y in corners(wrong)], _CELL - 5, _CELL - 5),
    ]
    title = f"A sudoku with {given.sum()} of {n * n} digits given"
    if prediction is not None:
        title += f", filled in: {wrong.sum()} wrong" if split.answered[0] else ", filled in"
    return picture(title, size + 4, size + 4, body)
