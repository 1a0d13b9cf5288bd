"""Escapes text from files for each output format, so that none of it acts as markup."""

import re
from html import escape
from typing import Any

from .._text import one_line, printable

_MARKS = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")
"""The special characters of Markdown; an underscore is special only at the edge of a word."""


def markdown_text(text: str) -> str:
    """Text for Markdown on one line: nothing in it ends a cell, begins a tag or a link, or changes
    the font."""
    marked = _MARKS.sub(r"\\\g<0>", one_line(text))
    return marked.replace("&", "&amp;").replace("<", "&lt;")


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "±": r"$\pm$",
        "×": r"$\times$",
        "−": "$-$",
        "–": "--",
        "’": "'",
        "ρ": r"$\rho$",
        "λ": r"$\lambda$",
        "\N{NO-BREAK SPACE}": "~",
    }
)
_RAISED = "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"
_LOWERED = str.maketrans(_RAISED, "-0123456789")


def latex_text(text: str) -> str:
    """Text for LaTeX on one line, in which every special character is printed."""
    escaped = one_line(text).translate(_LATEX)
    return re.sub(f"[{_RAISED}]+", lambda m: f"$^{{{m[0].translate(_LOWERED)}}}$", escaped)


def html_text(text: str) -> str:
    """Text for an HTML element or for an attribute in quotes."""
    return escape(printable(text))


def csv_value(value: Any) -> Any:
    """A value for CSV: text that a spreadsheet would run as a formula gets an apostrophe in front.

    Source: https://owasp.org/www-community/attacks/CSV_Injection.
    """
    if not isinstance(value, str):
        return value
    formula = value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return printable(f"'{value}" if formula else value)


def figure_text(text: str) -> str:
    """Text for matplotlib, which would typeset `$` as mathematics and leave a label that begins
    with `_` out of the legend."""
    shown = one_line(text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown
