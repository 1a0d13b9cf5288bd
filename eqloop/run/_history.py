"""What a run adds to `data.json`, beside what its task says of the data."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from .._schema import from_table, to_table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """The checkpoint with the first weights of a run.

    **Attributes:**

    - `path`: folder of its run.
    - `step`: its step.
    - `sha256`: SHA-256 of its file.
    - `weights`: whether its averaged or its raw weights were taken.
    - `moments`: whether Adam's moments were taken, too. Runs of the first version that had an
        origin do not say it; they took none.

    ```python
    >>> import eqloop
    >>> origin = eqloop.run.Origin(path="runs/a", step=900, weights="average", sha256="1f")
    >>> eqloop.run.History(started_from=origin).added_to({})["started_from"]["step"]
    900

    ```
    """

    path: str
    step: int
    weights: Literal["average", "raw"]
    moments: bool = False
    sha256: str


@dataclasses.dataclass(frozen=True)
class History:
    """Where a run comes from.

    **Attributes:**

    - `started_from`: the checkpoint with its first weights, if it began from another run.
    - `lengthened`: the numbers of steps that it had before it was lengthened.

    ```python
    >>> import eqloop
    >>> history = eqloop.run.History.of({"task": "sudoku", "lengthened": [300, 900]})
    >>> history.longest_before, history.started_from is None
    (900, True)

    ```
    """

    started_from: Origin | None = None
    lengthened: tuple[int, ...] = ()

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> "History":
        """The history in a `data.json`. **Raises** `ValueError` where it is damaged."""
        return from_table(cls, manifest)

    @property
    def longest_before(self) -> int | None:
        """The number of steps before the run was last lengthened; None if it never was."""
        return max(self.lengthened, default=None)

    def added_to(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """`manifest` with the history in it; what is empty is left out."""
        return {**manifest, **{name: part for name, part in to_table(self).items() if part}}


OWN_KEYS = tuple(field.name for field in dataclasses.fields(History))
"""The keys of `data.json` that say nothing of the data."""
