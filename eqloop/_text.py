"""Text from outside, such as a name out of a file, made safe to show."""

import re
import unicodedata


def printable(text: str) -> str:
    """`text` with every character that is not seen written as an escape, as in `repr`.

    A control character such as ESC, which would command a terminal, becomes `\\x1b`; characters
    that reverse or hide text, and halves of characters (a file name that is not UTF-8 has them),
    become `\\u202e` and the like. Spaces, newlines and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(letter if _is_seen(letter) else _escape(letter) for letter in text)


def one_line(text: str) -> str:
    """As `printable`, with every run of white space, newlines included, as one space."""
    return printable(_WHITE.sub(" ", text).strip(" "))


_WHITE = re.compile("[^\\S\N{NO-BREAK SPACE}]+")


def _is_seen(letter: str) -> bool:
    return letter.isprintable() or letter in "\n\t" or unicodedata.category(letter) == "Zs"


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
