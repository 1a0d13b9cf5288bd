"""One record in one JSON file: how each is written, read and found damaged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from .._errors import InputError
from .._schema import to_table
from .._tables import read_json, write_json
from ._values import check_format

T = TypeVar("T")


def write_record(path: Path, record: Any) -> Path:
    """Write a dataclass, in place of an older file; returns `path`.

    **Raises** `InputError` if it cannot be written.
    """
    try:
        path.parent.mkdir(exist_ok=True)
        write_json(path, to_table(record))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
    return path


def read_record(
    path: Path,
    understand: Callable[[dict[str, Any]], T],
    again: str,
    version: int | None = None,
) -> T:
    """Read one record.

    **Arguments:**

    - `understand`: makes the record of the table.
    - `again`: what to do about a damaged file: "measure it again: eqloop eval RUN".
    - `version`: the format that the table must have, for a file that says it.

    **Raises** `InputError` if the file is missing, damaged or of another format.
    """
    table = read_json(path, again)
    if version is not None:
        check_format(path, table.get("format"), version)
    return understood(path, again, understand, table)


def understood(path: Path, again: str, understand: Callable[[Any], T], table: Any) -> T:
    """Call `understand(table)`, and refuse a table that is not as it must be.

    **Arguments:**

    - `path`: the file that the table was read from, for the message.
    - `again`: what to do about a damaged file: "measure it again: eqloop eval RUN".
    - `understand`: makes the record of the table; what it raises for a damaged table is
        `LookupError`, `TypeError`, `ValueError` or `AttributeError`.
    - `table`: the content of the file.

    **Returns** the record.

    **Raises** `InputError` for a damaged table.

    ```python
    >>> import eqloop, pathlib
    >>> path, again = pathlib.Path("best.json"), "train it again"
    >>> eqloop.run.understood(path, again, lambda table: table["step"], {"step": 900})
    900

    ```
    """
    try:
        return understand(table)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({error!r}); {again}") from None
