"""A dataclass is the schema of a table: a table that was written is read again, and any other is
refused."""

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pytest

from eqloop._schema import FLAT, NOT_STORED, OPTIONAL, Array, from_table, to_table
from eqloop._tables import format_json, parse_json


class Colour(enum.StrEnum):
    RED = "red"


@dataclasses.dataclass(frozen=True)
class Point:
    x: float
    y: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    point: Point = dataclasses.field(metadata=FLAT)
    name: str
    kind: Literal["a", "b"] = "a"
    colour: Colour = Colour.RED
    pair: tuple[int, int] | None = None
    points: Mapping[str, list[Point]] = dataclasses.field(default_factory=dict)
    open: Any = None
    array: Array = dataclasses.field(default_factory=lambda: np.zeros(0))
    scratch: int = dataclasses.field(default=0, metadata=NOT_STORED)
    measured: Point | None = dataclasses.field(default=None, metadata=OPTIONAL)


def stored(record: Any) -> dict[str, Any]:
    return parse_json(format_json(to_table(record)))


def test_a_record_is_read_as_it_was_written():
    record = Record(
        point=Point(1.5),
        name="n",
        kind="b",
        pair=(1, 2),
        points={"p": [Point(0.0, 2.0)]},
        open={"any": [1, "thing"]},
        array=np.array([[1, 2], [3, 4]]),
        scratch=7,
    )
    table = stored(record)
    assert list(table)[:4] == ["x", "y", "name", "kind"]
    assert "scratch" not in table
    assert "measured" not in table
    back = from_table(Record, table | {"of_a_later_version": 1})
    np.testing.assert_array_equal(back.array, record.array)
    plain = dataclasses.replace(record, array=None, scratch=0)
    assert dataclasses.replace(back, array=None) == plain
    assert type(back.colour) is Colour
    measured = dataclasses.replace(back, measured=Point(math.nan))
    assert stored(measured)["measured"] == {"x": None, "y": None}


def test_what_is_not_known_is_nan_or_the_default():
    back = from_table(Record, {"x": None, "name": "n", "array": [1.0, None]})
    assert math.isnan(back.point.x)
    assert np.isnan(back.array).tolist() == [False, True]
    assert (back.point.y, back.pair, back.points) == (None, None, {})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": 1}, "name is 1"),
        ({"name": None}, "name is None"),
        ({"x": True}, "x is True"),
        ({"x": math.inf}, "x is inf"),
        ({"kind": "c"}, "kind is 'c'"),
        ({"colour": "blue"}, "'blue' is not a valid Colour"),
        ({"pair": [1]}, r"pair is \[1\]"),
        ({"pair": [1, 2.5]}, r"pair\[1\] is 2\.5"),
        ({"points": {"p": [{}]}}, r"it has no points\.p\[0\]\.x"),
        ({"points": [1]}, r"points is \[1\]"),
        ({"points": {"p": [3]}}, r"points\.p\[0\] is no table"),
        ({"array": [1, [2]]}, "array is no array"),
        ({"array": ["a"]}, "array is no array"),
        ({"array": "text"}, "array is 'text'"),
        ({"measured": {"y": 1.0}}, r"it has no measured\.x"),
    ],
)
def test_another_value_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        from_table(Record, {"x": 1, "name": "n"} | changed)
    with pytest.raises(ValueError, match="it has no name"):
        from_table(Record, {"x": 1})
    with pytest.raises(ValueError, match="it is no table"):
        from_table(Record, [1])
