"""A table of text in Markdown, LaTeX and HTML."""

import dataclasses
from collections.abc import Sequence

from .._escape import html_text, latex_text, markdown_text


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of plain text.

    **Attributes:**

    - `name`: its anchor on a page and its label in LaTeX.
    - `title`: its heading.
    - `head`: the heads of the columns.
    - `rows`: the rows; a row is as long as the head.
    - `note`: the meaning of the numbers.
    - `labels`: number of the first columns that label a row; the other columns are numbers.

    ```python
    >>> import eqloop
    >>> table = eqloop.report.Table("solved", "Solved", ("norm", "test, %"), [("post", "98.2")])
    >>> print("\\n".join(eqloop.report.markdown(table)))
    | norm | test, % |
    |---|---|
    | post | 98.2 |

    ```
    """

    name: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    labels: int = 1

    def without_empty(self) -> "Table":
        """The table without columns of numbers in which every row is empty or a dash."""
        columns = [
            place
            for place in range(len(self.head))
            if place < self.labels or any(row[place].strip("–- ") for row in self.rows)
        ]
        return dataclasses.replace(
            self,
            head=[self.head[place] for place in columns],
            rows=[[row[place] for place in columns] for row in self.rows],
        )


def markdown(table: Table) -> list[str]:
    """The lines of a table in Markdown, without its title and note.

    **Arguments:**

    - `table`: the table.

    **Returns** its lines, the heads first.

    ```python
    >>> import eqloop
    >>> table = eqloop.report.Table("solved", "Solved", ("norm", "test, %"), [("post", "98.2")])
    >>> eqloop.report.markdown(table)
    ['| norm | test, % |', '|---|---|', '| post | 98.2 |']

    ```
    """
    lines = [_pipes(table.head), "|" + "---|" * len(table.head)]
    return [*lines, *map(_pipes, table.rows)]


def latex(table: Table) -> str:
    """A floating `table` for the package booktabs, whose caption is the title and the note."""
    columns = "l" * table.labels + "r" * (len(table.head) - table.labels)
    caption = f"{table.title}. {table.note}".strip()
    rows = "\n".join(_ampersands(row) for row in table.rows)
    return (
        "\\begin{table}\n\\centering\n"
        f"\\caption{{{latex_text(caption)}}}\n\\label{{tab:{table.name}}}\n"
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n"
        f"{_ampersands(table.head)}\n\\midrule\n{rows}\n"
        "\\bottomrule\n\\end{tabular}\n\\end{table}\n"
    )


def html(table: Table) -> str:
    """A table in HTML, in a box that scrolls if the table is wider than the page; the keyboard can
    focus the box."""
    heads = "".join(
        f'<th scope="col"{_label(place, table)}>{html_text(text)}</th>'
        for place, text in enumerate(table.head)
    )
    rows = "".join(
        "<tr>" + "".join(_cell(place, text, table) for place, text in enumerate(row)) + "</tr>"
        for row in table.rows
    )
    note = f'<p class="note">{html_text(table.note)}</p>' if table.note else ""
    return (
        f'{note}<div class="scroll" role="region" aria-label="{html_text(table.title)}" '
        f'tabindex="0">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(markdown_text, cells)) + " |"


def _ampersands(cells: Sequence[str]) -> str:
    return " & ".join(map(_own_cell, cells)) + r" \\"


def _own_cell(text: str) -> str:
    """LaTeX would read a bracket or a star after the \\\\ of the row before as its argument."""
    escaped = latex_text(text)
    return "{}" + escaped if escaped.startswith(("[", "*")) else escaped


_PLUS_MINUS = "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"


def _label(place: int, table: Table) -> str:
    return ' class="label"' if place < table.labels else ""


def _cell(place: int, text: str, table: Table) -> str:
    if place < table.labels:
        return f'<th scope="row" class="label">{html_text(text)}</th>'
    # No line break between a mean and its interval.
    return f"<td>{html_text(text.replace(' ± ', _PLUS_MINUS))}</td>"
