"""`eqloop fields`: every field that `--set` knows, with its meaning."""

import ast
import dataclasses
import inspect
import re
import textwrap
from typing import Annotated, Any

import typer

from ._output import Json, console, emit

_BULLET = re.compile(r"^- ((?:`\w+`(?:, )?)+): (.*?)(?=^- |^\S|\Z)", re.MULTILINE | re.DOTALL)


def fields(
    task: Annotated[
        str, typer.Option("--task", "-t", help="The task whose fields are listed with the others.")
    ] = "prefix-sums",
    as_json: Json = False,
) -> None:
    """List every field that --set knows: its type, default, allowed values and meaning.

    The groups are those of a spec.toml: task, model, solver and train. A default may be another
    one in a preset. Reads nothing and writes nothing.

    Example: eqloop fields --task sudoku
    """
    from ..run import ModelSpec, SolverSpec, TrainSpec
    from ..tasks import make_task

    groups = {
        "task": type(make_task(task, {})),
        "model": ModelSpec,
        "solver": SolverSpec,
        "train": TrainSpec,
    }
    rows = [row for group, cls in groups.items() for row in field_rows(group, cls)]
    if as_json:
        emit({"task": task, "fields": rows})
        return
    out = console()
    for row in rows:
        default = row["default"]
        shown = f'"{default}"' if isinstance(default, str) else str(plain_default(default))
        out.print(f"{row['field']} = {shown}   ({row['type']})", markup=False, soft_wrap=True)
        out.print(textwrap.indent(textwrap.fill(row["meaning"], 92), "    "), markup=False)


def field_rows(group: str, cls: type[Any]) -> list[dict[str, Any]]:
    """One row for each field of the dataclass `cls` that a user may set.

    **Returns** rows with the keys `field` (`GROUP.FIELD`), `type` (in words), `default`, `values`
    (the allowed ones, or None where they are not listed) and `meaning`.
    """
    from .._fields import choices, describe_type, field_types
    from ..run import FROM_TASK

    types, known = field_types(cls), meanings(cls)
    return [
        {
            "field": f"{group}.{field.name}",
            "type": describe_type(types[field.name]),
            "default": field.default,
            "values": choices(types[field.name]) or None,
            "meaning": known.get(field.name, ""),
        }
        for field in dataclasses.fields(cls)
        if not (group == "model" and field.name in FROM_TASK)
    ]


def plain_default(value: Any) -> Any:
    """A default as `--set` reads it."""
    if isinstance(value, bool):
        return str(value).lower()
    return list(value) if isinstance(value, tuple) else value


def meanings(cls: type[Any]) -> dict[str, str]:
    """Field -> meaning, of a dataclass and its bases: from the bullets of `**Attributes:**` in the
    docstring of the class, or from the text below the field."""
    known: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        text = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        _, _, attributes = text.partition("**Attributes:**\n\n")
        for names, meaning in _BULLET.findall(attributes):
            known |= dict.fromkeys(re.findall(r"\w+", names), _one_paragraph(meaning))
        if dataclasses.is_dataclass(base):
            known |= _texts_below(base)
    return known


def _texts_below(cls: type[Any]) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for statement, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            found[statement.target.id] = _one_paragraph(after.value.value)
    return found


def _one_paragraph(text: str) -> str:
    return " ".join(text.split())
