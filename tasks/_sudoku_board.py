"""A sudoku as a board for the terminal."""

import numpy as np


def render(givens: np.ndarray, answer: np.ndarray, prediction: np.ndarray | None, box: int) -> str:
    """The board in rich markup.

    A given is bare and bold, a predicted digit has a raised dot before it and a wrong one an
    exclamation mark, so that the three are told apart without colour; a blank is a dot.

    **Arguments:**

    - `givens`: `(n, n)` tokens, 0 for blanks.
    - `answer`: `(n, n)`; all zero where it is not known, and then only a changed given is wrong.
    - `prediction`: `(n, n)`, or None to show the puzzle.
    """
    n = box * box
    known = bool(answer.any())
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
                shown = str(digit) if 1 <= digit <= n else "?"
                wrong = (given and digit != given) or (known and digit != answer[row, column])
                if wrong or shown == "?":
                    cell, mark = f"[red]!{shown}[/red] ", "wrong"
                elif given:
                    cell, mark = f" [bold]{given}[/bold] ", "given"
                else:
                    cell, mark = f"[cyan]·{shown}[/cyan] ", "predicted"
            marks.add(mark)
            line += ("│" if column % box == 0 else "") + cell
        lines.append(line + "│")
    lines.append(bottom)
    if prediction is not None:
        legend = {
            "given": "[bold]5[/bold] given",
            "predicted": "[cyan]·5[/cyan] predicted",
            "wrong": "[red]!5[/red] wrong",
        }
        lines.append("  ".join(text for mark, text in legend.items() if mark in marks))
    return "\n".join(lines)
