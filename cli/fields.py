"""`eqloop fields`: the fields that `--set` can set."""

import dataclasses
import textwrap
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import tomli_w
import typer

from ._output import Json, console, emit


def fields(
    task: Annotated[
        str | None,
        typer.Option("--task", "-t", help="Show the fields of this task, too."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print every field that --set knows: meaning, default and allowed values.

    The fields are those of a spec.toml. A preset may set another value than the default shown here;
    the spec.toml of a run has the values that were used.

    Reads and writes nothing.

    Example: eqloop fields --task sudoku
    """
    from ..run import GROUPS
    from ..tasks import TASKS, make_task, named

    groups: dict[str, type] = dict(GROUPS)
    if task is not None:
        name = named(task)
        make_task(name, {})  # refuses an unknown name
        groups = {"task": TASKS[name], **groups}
    described = described_fields(groups)
    if as_json:
        emit({"fields": described})
        return
    show = partial(console().print, markup=False, highlight=False, soft_wrap=True)
    for name, field in described.items():
        meaning = textwrap.fill(
            field["meaning"], 96, initial_indent="    ", subsequent_indent="    "
        )
        show(f"{name} = {as_toml(field['default'])}  ({field['allowed']})\n{meaning}")
    show("\nMost fields of solver and train can differ in the first steps of a run:")
    show("phases.1.until is the last of these steps, phases.1.solver.FIELD and")
    show("phases.1.train.FIELD are the values until then, and phases.2 comes after it.")
    if task is None:
        show("\nThe fields of a task: eqloop fields --task TASK")


def described_fields(groups: Mapping[str, type]) -> dict[str, dict[str, Any]]:
    """`GROUP.FIELD` -> meaning, default and allowed values of every field that can be set."""
    from .._fields import describe_type, field_meanings, field_types
    from ..run import DERIVED

    described = {}
    for group, cls in groups.items():
        kinds, meanings = field_types(cls), field_meanings(cls)
        for field in dataclasses.fields(cls):
            if (group, field.name) not in DERIVED:
                described[f"{group}.{field.name}"] = {
                    "meaning": meanings.get(field.name, ""),
                    "default": field.default,
                    "allowed": describe_type(kinds[field.name]),
                }
    return described


def as_toml(value: Any) -> str:
    return tomli_w.dumps({"v": value})[4:].strip()
