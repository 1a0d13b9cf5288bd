"""A table of text, and how it is written in Markdown, LaTeX and HTML."""

import dataclasses
from collections.abc import Sequence

from .._escape import html_text, latex_text, markdown_text


@dataclasses.dataclass(frozen=True)
class Table:
    """**Attributes:**

    - `name`: of its place on a page, and of its label in LaTeX.
    - `head`, `rows`: plain text; a row is as long as the head.
    - `note`: what the figures are.
    - `labels`: how many of the first columns say what a row is about; the others are figures.
    """

    name: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    labels: int = 1

    def without_empty(self) -> "Table":
        """The columns in which any row has something; those that label a row stay."""
        kept = [
            place
            for place in range(len(self.head))
            if place < self.labels or any(row[place].strip("–- ") for row in self.rows)
        ]
        return dataclasses.replace(
            self,
            head=[self.head[place] for place in kept],
            rows=[[row[place] for place in kept] for row in self.rows],
        )


def markdown(table: Table) -> list[str]:
    """The lines of the table alone, without title and note."""
    lines = [_pipes(table.head), "|" + "---|" * len(table.head)]
    return [*lines, *map(_pipes, table.rows)]


def latex(table: Table) -> str:
    """A floating `table` for the package booktabs, with title and note as its caption."""
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
    """In a box of its own, which scrolls where the table is wider than the page, and can be
    reached by the keyboard for that."""
    heads = "".join(
        f'<th scope="col"{_label(place, table)}>{html_text(each)}</th>'
        for place, each in enumerate(table.head)
    )
    rows = "".join(
        "<tr>" + "".join(_cell(place, each, table) for place, each in enumerate(row)) + "</tr>"
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
    """After the \\\\ of the row before, a bracket would begin a length, and a star a command."""
    escaped = latex_text(text)
    return "{}" + escaped if escaped.startswith(("[", "*")) else escaped


_PLUS_MINUS = "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"


def _label(place: int, table: Table) -> str:
    return ' class="label"' if place < table.labels else ""


def _cell(place: int, text: str, table: Table) -> str:
    if place < table.labels:
        return f'<th scope="row" class="label">{html_text(text)}</th>'
    # A mean and its interval stay on one line.
    return f"<td>{html_text(text.replace(' ± ', _PLUS_MINUS))}</td>"
