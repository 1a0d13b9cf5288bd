"""Substitutes for characters that the encoding of the terminal lacks."""

import codecs
import io
import sys

ERRORS = "eqloop-substitute"
"""Name of the error handler, for `str.encode` and streams."""

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
    "·": "'",  # precedes a predicted digit; a dot is a blank cell
    "…": "...",
    **dict(zip("▁▂▃▄▅▆▇█", "_.,-~=+#", strict=True)),  # the levels of a curve
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
    """Make stdout and stderr print any text in any encoding without `UnicodeEncodeError`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ERRORS)
