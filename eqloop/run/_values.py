"""What values in the files of a run folder may be."""

import math
from typing import Any


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
