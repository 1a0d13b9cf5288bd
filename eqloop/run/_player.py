"""`player.json`: the boards that the page of a stability report steps through."""

import dataclasses
from pathlib import Path
from typing import Any

from .._errors import InputError
from .._schema import OPTIONAL, from_table, to_table
from .._tables import read_json
from ._record import understood


@dataclasses.dataclass(frozen=True)
class Frame:
    """The board after a number of iterations.

    **Attributes:**

    - `iterations`: number of iterations.
    - `residual`: the relative residual of the last one; NaN where it is not known.
    - `svg`: the picture of the answer; None if it is that of the frame before.
    - `right`: number of cells of the answer that are correct; None where the target is not known.
    - `cells`: number of cells.
    """

    iterations: int
    residual: float
    svg: str | None
    right: int | None
    cells: int


@dataclasses.dataclass(frozen=True)
class PlayedExample:
    """One example of the player.

    **Attributes:**

    - `title`: its title.
    - `puzzle_svg`: a picture of the puzzle.
    - `target_svg`: a picture of the target; None where it is not known.
    - `frames`: its frames, in order.
    - `example`: its index among the examples of the report; None if it is not known.
    """

    title: str
    puzzle_svg: str
    target_svg: str | None
    frames: tuple[Frame, ...]
    example: int | None = dataclasses.field(default=None, metadata=OPTIONAL)


@dataclasses.dataclass(frozen=True)
class Player:
    """The content of `player.json`.

    **Attributes:**

    - `examples`: the examples that the page can step through.
    """

    examples: tuple[PlayedExample, ...] = ()

    def tables(self) -> dict[str, Any]:
        """As nested tables of plain values."""
        return to_table(self)


def read_player_file(path: Path, again: str) -> Player:
    """Read `player.json`; without the file there is no example to show.

    **Raises** `InputError` for a damaged file; the message ends with `again`.
    """
    if not path.exists():
        return Player()
    table = read_json(path, again)
    if not isinstance(table.get("examples"), list):
        raise InputError(f"{path}: damaged, has no list of examples; {again}")
    return understood(path, again, lambda table: from_table(Player, table), table)
