"""Dataclasses as tables and back: one class is the schema of a file, for its writer and reader."""

import dataclasses
import enum
import math
import types
from collections.abc import Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    Protocol,
    TypeVar,
    Union,
    get_args,
    get_origin,
    runtime_checkable,
)

from ._fields import field_types
from ._tables import plain

if TYPE_CHECKING:
    from numpy import ndarray as Array
else:

    @runtime_checkable
    class Array(Protocol):
        """The type of fields that hold a NumPy array. A command that shows its help loads the
        schemas of all files, and loading NumPy would take longer than the rest of it."""

        dtype: Any
        shape: Any

        def tolist(self) -> Any: ...


T = TypeVar("T")

NOT_STORED = {"stored": False}
"""Metadata of a field that no file holds; it has a default."""
FLAT = {"flat": True}
"""Metadata of a field that holds a dataclass whose own fields lie in the same table, or a mapping
of all keys that no other field has."""
OPTIONAL = {"optional": True}
"""Metadata of a field whose key is left out of the table where its value is the default."""


def to_table(record: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON has them, in order: arrays as lists, NaN as None."""
    return plain(_encode(record))


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        table = {}
        for field in dataclasses.fields(value):
            part = getattr(value, field.name)
            left_out = field.metadata == OPTIONAL and part is field.default
            if field.metadata != NOT_STORED and not left_out:
                encoded = _encode(part)
                table |= encoded if field.metadata == FLAT else {field.name: encoded}
        return table
    if isinstance(value, Mapping):
        return {name: _encode(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(part) for part in value]
    # NumPy's arrays and numbers, which are not imported to find out.
    return value.tolist() if hasattr(value, "tolist") else value


def from_table(cls: type[T], table: Any, where: str = "") -> T:
    """The dataclass `cls` that `to_table` made `table` of.

    A field with a default may be missing, for files of earlier versions; keys that `cls` does not
    know are ignored, for those of later ones. Where a number is wanted None is NaN.

    **Raises** `ValueError`, which names the field, for a missing field and for a value of another
    type.
    """
    if not isinstance(table, Mapping):
        raise ValueError(f"{where or 'it'} is no table")
    values = {}
    for field in dataclasses.fields(cls):  # pyright: ignore[reportArgumentType]
        path = f"{where}.{field.name}" if where else field.name
        if field.metadata == FLAT:
            inner = field_types(cls)[field.name]
            part = table if dataclasses.is_dataclass(inner) else _others(cls, table)
            values[field.name] = _decode(inner, part, where)
        elif field.name in table and field.metadata != NOT_STORED:
            values[field.name] = _decode(field_types(cls)[field.name], table[field.name], path)
        elif field.default is field.default_factory:  # both are missing
            raise ValueError(f"it has no {path}")
    return cls(**values)


def _others(cls: type, table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if name not in field_types(cls)}


def _decode(wanted: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(wanted), get_args(wanted)
    if wanted is Any:
        return value
    if origin in (types.UnionType, Union):
        if value is None and types.NoneType in args:
            return None
        kinds = [part for part in args if part is not types.NoneType]
        one = len(kinds) == 1  # whose message names the place inside `value`
        return _decode(kinds[0], value, where) if one else _first(kinds, value, where)
    if dataclasses.is_dataclass(wanted) and isinstance(wanted, type):
        return from_table(wanted, value, where)
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return {name: _decode(args[1], part, f"{where}.{name}") for name, part in value.items()}
    if origin in (list, tuple, Sequence) and isinstance(value, list | tuple):
        fixed = origin is tuple and Ellipsis not in args
        kinds = args if fixed else [args[0]] * len(value)
        if len(kinds) == len(value):
            parts = [
                _decode(kind, part, f"{where}[{place}]")
                for place, (kind, part) in enumerate(zip(kinds, value, strict=True))
            ]
            return parts if origin is list else tuple(parts)
    if wanted is Array and isinstance(value, list):
        return _array(value, where)
    if origin is Literal and value in args:
        return value
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        return wanted(value)
    if wanted is float and value is None:
        return math.nan
    if (
        wanted is float
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
    ):
        return float(value)
    if wanted in (int, bool, str) and type(value) is wanted:
        return value
    raise ValueError(f"{where} is {value!r}")


def _first(kinds: Any, value: Any, where: str) -> Any:
    for kind in kinds:
        try:
            return _decode(kind, value, where)
        except ValueError:
            continue
    raise ValueError(f"{where} is {value!r}")


def empty_array() -> Array:
    """The default of a field that is not stored."""
    import numpy as np

    return np.zeros(0)


def _array(value: list, where: str) -> Array:
    """An array of numbers; None is NaN."""
    import numpy as np

    try:
        array = np.array(value)
        array = array.astype(np.float64) if array.dtype == object else array
    except (TypeError, ValueError):
        raise ValueError(f"{where} is no array of numbers") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{where} is no array of numbers")
    return array
