"""JSON and TOML as tables: read with every mistake as one line, written with a checksum.

A table carries a CRC-32 of its content under `"crc32"`, so that a byte that changes on the disk is
not taken for another number. Tables without one, of earlier versions, are read as they are.
"""

import json
import math
import re
import tomllib
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._errors import InputError
from ._files import read_bytes, write_atomic

CHECKSUM = "crc32"
_CHECKSUM_VALUE = re.compile("[0-9a-f]{8}")
_DEEPEST = 32


def plain(value: Any) -> Any:
    """Without NaN and infinities, which JSON does not have: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def parse_json(text: str | bytes) -> dict[str, Any]:
    """A JSON object, NaN and infinities as None, without its checksum.

    **Raises** `ValueError`, of one line, for anything else and where the checksum is not that of
    the content.
    """
    try:
        table = json.loads(text, parse_constant=lambda _: None)
    except RecursionError:
        raise ValueError("not JSON that can be read (nested too deeply)") from None
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(table, dict):
        kinds = {list: "a list", str: "text", bool: "true or false", type(None): "null"}
        raise ValueError(f"not a JSON object but {kinds.get(type(table), 'a number')}")
    # The checksum is the last entry. One under another name had its name damaged, or the table
    # would pass for one of an earlier version, which had none.
    name, last = next(reversed(table.items()), ("", None))
    if name != CHECKSUM and isinstance(last, str) and _CHECKSUM_VALUE.fullmatch(last):
        raise ValueError(f"its checksum is called {name!r}, not {CHECKSUM!r}")
    written = table.pop(CHECKSUM, None)
    if written is not None and written != _checksum(table):
        raise ValueError("its checksum is not that of its content")
    return table


def format_json(table: Mapping[str, Any], indent: int | None = None) -> bytes:
    """What `parse_json` reads, with the checksum, as one line or several."""
    clean = plain(table)
    # As it will be read: JSON turns the keys of a mapping into text.
    checksum = _checksum(json.loads(json.dumps(clean, allow_nan=False)))
    return json.dumps({**clean, CHECKSUM: checksum}, indent=indent).encode() + b"\n"


def read_json(path: Path, again: str) -> dict[str, Any]:
    """The JSON object in a file, as `parse_json`.

    **Raises** `InputError` where it cannot be read or is damaged, ending with `again`, which says
    what to do.
    """
    try:
        return parse_json(read_bytes(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; {again}") from None
    except ValueError as error:
        raise InputError(f"{path}: damaged, {error}; {again}") from None


def write_json(path: Path, table: Mapping[str, Any]) -> None:
    """**Raises** `OSError` where it cannot be written."""
    write_atomic(path, [format_json(table, indent=1)])


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """**Raises** `InputError` where it is not TOML; `where` names it."""
    try:
        return within_limits(tomllib.loads(text))
    except RecursionError:
        raise InputError(f"{where} is not valid TOML: nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{where} is not valid TOML: {error}") from None


def within_limits(tables: dict[str, Any]) -> dict[str, Any]:
    """Return `tables`. **Raises** `ValueError` for an integer of more than 64 bits, which TOML does
    not have and Python may not print, for text with NUL, and for deeply nested tables:
    `a.a.a.a = 1`."""
    level: list[Any] = [tables]
    for _ in range(_DEEPEST):
        if any(type(value) is int and not -(2**63) <= value < 2**63 for value in level):
            raise ValueError("an integer has more than 64 bits")
        if any(isinstance(value, str) and "\0" in value for value in level):
            raise ValueError("a text contains NUL")
        inner = [
            value.values() if isinstance(value, dict) else value
            for value in level
            if isinstance(value, dict | list)
        ]
        level = [value for values in inner for value in values]
        if not level:
            return tables
    raise ValueError("nested too deeply")


def read_text(path: Path) -> str:
    """The text of a small file. **Raises** `InputError` where it cannot be read."""
    try:
        return read_bytes(path).decode()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text in UTF-8") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def _checksum(table: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(table, sort_keys=True).encode()):08x}"
