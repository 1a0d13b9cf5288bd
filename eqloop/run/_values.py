"""What values in the files of a run folder may be."""

import math
from pathlib import Path
from typing import Any

from .._errors import InputError


def finite(value: Any) -> float | None:
    """A number; null stays None. **Raises** `TypeError` for anything else, `ValueError` for what
    overflows."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    if not math.isfinite(value):
        raise ValueError(f"{value!r} is not finite")
    return float(value)


def check_format(path: Path, version: Any, known: int, again: str | None = None) -> None:
    """**Raises** `InputError` unless the format `version` of the file is `known`; `again` says what
    to do next."""
    if version != known:
        again = again or "use the version of eqloop that wrote it"
        raise InputError(f"{path}: format {version!r}, where {known} is understood; {again}")


def share(value: Any) -> float:
    """A number between 0 and 1; else as `finite`, and null is an error too."""
    found = finite(value)
    if found is None or not 0 <= found <= 1:
        raise ValueError(f"{value!r} is not a share")
    return found
