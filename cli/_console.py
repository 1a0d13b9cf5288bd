"""What every text passes on its way to the terminal; apart, because `--help` does without Rich."""

from typing import Any

from rich.console import Console
from rich.text import Text

from .._text import printable
from ._encoding import ERRORS


class SafeConsole(Console):
    """A console that prints text as it is.

    Square brackets are no markup (but with `print(..., markup=True)`, for a board of a task),
    characters that would command the terminal are shown as escapes, and what its encoding lacks
    has a substitute, before the width of a column is measured.
    """

    def __init__(self, *, stderr: bool = False):
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)
        if not self.is_terminal:
            self.width = 120  # not 80: nothing is gained by cutting a table short in a file

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(self.shown(text), **options)

    def shown(self, text: str) -> str:
        encoding = self.encoding
        return printable(text).encode(encoding, ERRORS).decode(encoding)
