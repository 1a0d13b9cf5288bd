"""Generators that draw with repetition, until enough of their rows are different."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from .._errors import InputError
from .._task import Progress, Split

CHUNK = 256
"""Number of attempts at once."""
FRUITLESS = 50_000
"""Number of attempts in a row without a new row after which there are taken to be no more."""


def distinct_parts(
    rows: int,
    draw: Callable[[int, int], tuple[Split, Sequence[Hashable]]],
    *,
    what: str,
    advice: str,
    progress: Progress | None = None,
) -> list[Split]:
    """Draw until `rows` rows with different keys are drawn. A larger set begins with the rows of a
    smaller one.

    **Arguments:**

    - `rows`: number of rows.
    - `draw`: number of the first attempt, and of attempts -> the rows, and the key of each.
    - `what`, `advice`: what is drawn, and what to do where there are not enough, for the message.
    - `progress`: called with the number of rows so far, and of all.

    **Returns** splits that have these rows together.

    **Raises** `InputError` if no new row is drawn for a long time.
    """
    parts: list[Split] = []
    seen: set[Hashable] = set()
    tries = fruitless = 0
    while len(seen) < rows:
        part, keys = draw(tries, CHUNK)
        fresh = []
        for place, key in enumerate(keys):
            if key not in seen and len(seen) < rows:
                seen.add(key)
                fresh.append(place)
        parts.append(part.take(np.array(fresh, int)))
        tries += CHUNK
        fruitless = 0 if fresh else fruitless + CHUNK
        if fruitless >= FRUITLESS:
            raise InputError(
                f"only {len(seen)} different {what} were found in {tries} attempts; {advice}"
            )
        if progress is not None:
            progress(len(seen), rows)
    return parts
