"""Checks of values from the files of a run folder."""

import math
from pathlib import Path
from typing import Any

from .._errors import InputError


def finite(value: Any) -> float | None:
    """Check that a value is a finite number.

    **Arguments:**

    - `value`: any value.

    **Returns** the number as a float; None for None.

    **Raises** `TypeError` for a value that is no number, `ValueError` for one that is not finite.

    ```python
    >>> import eqloop
    >>> eqloop.run.finite(3), eqloop.run.finite(None)
    (3.0, None)

    ```
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    if not math.isfinite(value):
        raise ValueError(f"{value!r} is not finite")
    return float(value)


def check_format(path: Path, version: Any, known: int, again: str | None = None) -> None:
    """**Raises** `InputError` unless the format `version` of the file is `known`. The message ends
    with `again`, which says what to do next."""
    if version != known:
        again = again or "use the version of eqloop that wrote it"
        raise InputError(f"{path}: format {version!r}, where {known} is understood; {again}")


def share(value: Any) -> float:
    """Check that a value is a number between 0 and 1.

    **Arguments:**

    - `value`: any value.

    **Returns** the number as a float.

    **Raises** `TypeError` for a value that is no number, `ValueError` for None and for a number out
    of range.

    ```python
    >>> import eqloop
    >>> eqloop.run.share(1)
    1.0

    ```
    """
    number = finite(value)
    if number is None or not 0 <= number <= 1:
        raise ValueError(f"{value!r} is not a share")
    return number
