"""What is written in place of characters that the encoding of the terminal lacks."""

import codecs
import io
import sys

ERRORS = "eqloop-substitute"
"""The error handler that does it, for `str.encode` and streams."""

_SUBSTITUTES = {
    **dict.fromkeys("–−─", "-"),
    **dict.fromkeys("┌┬┐├┼┤└┴┘", "+"),
    "│": "|",
    "±": "+/-",
    "×": "x",
    "²": "^2",
    "ρ": "rho",
    "λ": "lambda",
    "’": "'",
    "·": "'",  # before a predicted digit; a blank cell is a dot already
    "…": "...",
    "\N{NO-BREAK SPACE}": " ",
}


def _substitute(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    text = "".join(_SUBSTITUTES.get(letter, letter) for letter in lacking)
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end


codecs.register_error(ERRORS, _substitute)


def tolerate_any_text() -> None:
    """No text that is printed from here on raises `UnicodeEncodeError`, whatever the encoding."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ERRORS)
