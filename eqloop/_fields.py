"""Dataclasses from tables: every field known by name and type, every mistake one clear line."""

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from ._errors import InputError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, eq=False)
class OneOf:
    """In `Annotated[str, OneOf(table)]`: a text that is a name of the table, or that `other`
    accepts. The table is looked up when a value is checked, so a new row needs no other change."""

    names: Mapping[str, Any]
    other: Callable[[str], bool] = lambda text: False


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the known name nearest to `name`, or the whole list of them."""
    known = sorted(known)
    # Case is the commonest slip of all, so it must not cost anything.
    lower = {text.lower(): text for text in known}
    matches = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    if matches:
        return f"; did you mean {lower[matches[0]]}?"
    return f"; known: {', '.join(known)}"


def nearest_field(group: str, name: str, known: Mapping[str, Iterable[str]]) -> str:
    """`; did you mean GROUP.FIELD?` for the known field that `group.name` is a slip of; otherwise
    where all fields are listed.

    **Arguments:**

    - `group`, `name`: as they were written; `group` is empty where none was.
    - `known`: the names of the fields of every group.
    """
    groups = difflib.get_close_matches(group.lower(), known, n=1, cutoff=0.6) or list(known)
    for cutoff in (1.0, 0.6):  # the same name in any group before a similar one
        for near in [*groups, *known]:
            lower = {field.lower(): field for field in known[near]}
            if match := difflib.get_close_matches(name.lower(), lower, n=1, cutoff=cutoff):
                return f"; did you mean {near}.{lower[match[0]]}?"
    return "; eqloop fields lists them all"


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """Name -> type of every field of a dataclass."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


@functools.cache
def field_meanings(cls: type) -> dict[str, str]:
    """Name -> meaning of every field of a dataclass that has one: the text below the field in the
    source of `cls` or of a class that it inherits from, as one line."""
    meanings = {}
    for owner in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(definition, ast.ClassDef)
        for field, below in itertools.pairwise(definition.body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                meanings[field.target.id] = " ".join(below.value.value.split())
    return {name: meanings[name] for name in field_types(cls) if name in meanings}


def build(cls: type[T], group: str, table: Mapping[str, Any]) -> T:
    """A `cls` from a table of a spec.

    **Raises** `InputError` for an unknown field (naming the nearest one) and for a value of the
    wrong type (naming the field, the value and the type); `cls.__post_init__` checks the ranges.
    """
    return cls(**typed_table(cls, group, table))


def typed_table(cls: type, group: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a table as the types of the fields of `cls`. **Raises** `InputError` as `build`
    does, but for what `cls` itself checks."""
    known = field_types(cls)
    values = {}
    for name, value in table.items():
        if name not in known:
            hint = nearest_field(group, name, {group: known})
            raise InputError(f"unknown field {group}.{name}{hint}")
        values[name] = typed(f"{group}.{name}", value, known[name])
    return values


def typed(field: str, value: Any, expected: Any) -> Any:
    """`value` as the type `wanted`; the only conversions are int -> float and list -> tuple."""
    check_storable(field, value)
    ok, value = _fit(value, expected)
    if ok and isinstance(value, str) and "\0" in value:
        raise InputError(f"{field} must not contain NUL, which no name of a file can")
    if ok:
        return value
    hint = ""
    if (known := choices(expected)) and isinstance(value, str):
        hint = nearest(value, known)
        hint = hint if hint.startswith("; did you") else ""
    raise InputError(f"{field} must be {describe_type(expected)}, got {quoted(value)}{hint}")


def choices(expected: Any) -> list[str]:
    """The values that a field of the type `wanted` may have, where they are listed."""
    if get_origin(expected) is Literal:
        return [str(value) for value in get_args(expected)]
    if get_origin(expected) is Annotated:
        return [
            name for part in get_args(expected) if isinstance(part, OneOf) for name in part.names
        ]
    return []


def check_storable(field: str, value: Any) -> None:
    """**Raises** `InputError` for an integer or a text, also in a list, that neither TOML nor the
    name of a file can hold."""
    if isinstance(value, list | tuple):
        for part in value:
            check_storable(field, part)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InputError(f"{field} must be a number of at most 64 bits, got {quoted(value)}")
    if isinstance(value, str) and "\0" in value:
        raise InputError(f"{field} must not contain NUL, which no name of a file can")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError(f"{field} must be text in UTF-8, got {quoted(value)}") from None


def quoted(value: Any) -> str:
    """A value for a message, not longer than is of use."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # thousands of digits, or nested as deep
        return "what is too long to show"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


_LONGEST = 200


def _fit(value: Any, expected: Any) -> tuple[bool, Any]:
    origin, args = get_origin(expected), get_args(expected)
    if origin is Literal:
        # `True == 1`: compare the types too.
        return any(type(value) is type(option) and value == option for option in args), value
    if origin is Annotated:
        table = next(part for part in args if isinstance(part, OneOf))
        return isinstance(value, str) and (value in table.names or table.other(value)), value
    if origin in (types.UnionType, typing.Union):
        for option in args:
            ok, converted = _fit(value, option)
            if ok:
                return True, converted
        return False, value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return False, value
        variadic = len(args) == 2 and args[1] is Ellipsis
        kinds = [args[0]] * len(value) if variadic else args
        if len(kinds) != len(value):
            return False, value
        fitted = [_fit(item, kind) for item, kind in zip(value, kinds, strict=True)]
        return all(ok for ok, _ in fitted), tuple(item for _, item in fitted)
    if expected is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return True, float(value)
        return False, value
    if expected is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    return isinstance(value, expected), value


def describe_type(expected: Any) -> str:
    """A type in words: "a whole number", "one of a, b"."""
    origin, args = get_origin(expected), get_args(expected)
    if known := choices(expected):
        return "one of " + ", ".join(known)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(describe_type(option) for option in args)
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return f"a list of {describe_type(args[0])}s"
        return f"a list of {len(args)} numbers"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return names.get(expected, getattr(expected, "__name__", str(expected)))
