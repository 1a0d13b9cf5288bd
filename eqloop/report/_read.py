"""Reading the files of a run folder: whatever is wrong with one is one line that names it."""

import json
import math
from pathlib import Path
from typing import Any

from .._errors import InputError


def read_json(path: Path, again: str) -> Any:
    """What a file holds, NaN and infinities as None.

    **Raises** `InputError` where it cannot be read or is not JSON, ending with `again`, which says
    what to do.
    """
    try:
        return json.loads(path.read_bytes(), parse_constant=lambda _: None)
    except ValueError as error:
        raise InputError(f"{path}: damaged, not JSON ({error}); {again}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; {again}") from None


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


def share(value: Any) -> float:
    """A number between 0 and 1; else as `finite`, and null is an error too."""
    found = finite(value)
    if found is None or not 0 <= found <= 1:
        raise ValueError(f"{value!r} is not a share")
    return found
