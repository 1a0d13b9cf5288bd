"""Resolves a preset, shortcuts and `--set a.b=c` to one spec."""

import dataclasses
import importlib.resources
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .._errors import InputError
from .._fields import check_storable, field_types, nearest, nearest_field, typed, typed_table
from .._tables import parse_toml, within_limits
from ._names import LOSSES, gradient_facts, solver_facts
from ._phases import phases_from_tables
from ._spec import DERIVED, GROUPS, Spec, from_tables

if TYPE_CHECKING:
    from .._task import Task

PACKAGE = __name__.rpartition(".")[0]

SHORTCUTS = {
    "data": "task.data",
    "recall": "model.recall",
    "norm": "model.norm",
    "solver": "solver.name",
    "gradient": "solver.gradient",
    "steps": "train.steps",
    "seed": "train.seed",
}
"""Option of `eqloop train` -> the field that it sets."""

MakeTask = Callable[[str, Mapping[str, Any]], "Task"]
"""Makes a task from its name and its fields, as `eqloop.tasks.make_task` does."""


def presets() -> dict[str, list[str]]:
    """The presets, and the tasks that have settings of their own in them.

    **Returns** preset -> names of tasks.

    ```python
    >>> import eqloop
    >>> eqloop.run.presets()["quick"]
    ['chess', 'group-words', 'maze', 'prefix-sums', 'sudoku']

    ```
    """
    root = importlib.resources.files(PACKAGE) / "presets"
    folders = sorted((item for item in root.iterdir() if item.is_dir()), key=lambda f: f.name)
    return {
        folder.name: sorted(file.name.removesuffix(".toml") for file in folder.iterdir())
        for folder in folders
    }


def load_preset(task: str, preset: str) -> dict[str, Any]:
    """Read a preset: `presets/PRESET/TASK.toml`, or `presets/PRESET.toml` for a task that has no
    file of its own.

    **Arguments:**

    - `task`: name of the task.
    - `preset`: name of the preset.

    **Returns** its tables.

    **Raises** `InputError` for an unknown preset, and for one that has nothing for the task; the
    message names the nearest one.

    ```python
    >>> import eqloop
    >>> sorted(eqloop.run.load_preset("chess", "quick"))
    ['model', 'solver', 'train']

    ```
    """
    known = presets()
    if preset not in known:
        raise InputError(f"unknown preset {preset!r}{nearest(preset, known)}")
    root = importlib.resources.files(PACKAGE) / "presets"
    file = root / preset / f"{task}.toml" if task in known[preset] else root / f"{preset}.toml"
    if not file.is_file():
        raise InputError(
            f"no preset {preset!r} for the task {task!r}{nearest(task, known[preset])}"
        )
    return parse_toml(file.read_text("utf-8"), f"preset {preset}/{task}")


def parse_setting(setting: str) -> tuple[str, str, Any]:
    """Parse `"group.field=value"`; the value is TOML, or else text.

    **Arguments:**

    - `setting`: the text.

    **Returns** group, field and value.

    **Raises** `InputError` for a setting of another form.

    ```python
    >>> import eqloop
    >>> eqloop.run.parse_setting("model.width=64"), eqloop.run.parse_setting("model.norm=post")
    (('model', 'width', 64), ('model', 'norm', 'post'))

    ```
    """
    key, equals, text = setting.partition("=")
    group, dot, field = key.strip().partition(".")
    if not (equals and dot and group and field):
        known = {name: list(field_types(cls)) for name, cls in GROUPS.items()}
        hint = nearest_field("", key.strip(), known) if equals and not dot else ""
        hint = hint if "did you mean" in hint else ", for example model.width=64"
        raise InputError(f"--set {setting}: write GROUP.FIELD=VALUE{hint}")
    text = text.strip()
    try:
        tables = within_limits(tomllib.loads(f"value = {text}"))
        value = tables["value"] if len(tables) == 1 else text
    except tomllib.TOMLDecodeError:
        value = text
    except RecursionError:
        raise InputError(f"--set {key.strip()}: the value is nested too deeply") from None
    except ValueError as error:
        raise InputError(f"--set {key.strip()}: the value cannot be read ({error})") from None
    return group, field, value


def resolve(
    task: str,
    preset: str,
    settings: Sequence[str] = (),
    *,
    make_task: MakeTask,
    **shortcuts: str | int | None,
) -> Spec:
    """Make the spec of a run from a preset and the settings of a user.

    `shortcuts` that are not None override the preset, and `settings` override both, in order. Some
    fields follow from others unless they are set: with a solver that converges the gradient is
    `implicit` and the loss is that of the last iteration; without full back-propagation the loss is
    not the mean over iterations.

    **Arguments:**

    - `task`: name of the task.
    - `preset`: name of the preset; see `presets`.
    - `settings`: texts `"group.field=value"`; see `parse_setting`.
    - `make_task`: makes and checks a task from its name and fields; `eqloop.tasks.make_task`.
    - `shortcuts`: `data`, `recall`, `norm`, `solver`, `gradient`, `steps`, `seed`; see `SHORTCUTS`.

    **Returns** the `Spec`.

    **Raises** `InputError` for a name that is unknown, and a value of the wrong type or out of
    range.

    ```python
    >>> import eqloop
    >>> make_task = eqloop.tasks.make_task
    >>> spec = eqloop.run.resolve(
    ...     "prefix-sums", "quick", ["model.width=64"], make_task=make_task, solver="anderson"
    ... )
    >>> spec.model.width, spec.solver.gradient, spec.train.loss
    (64, 'implicit', 'last')

    ```
    """
    tables = load_preset(task, preset) | {"preset": preset}
    return overlay(tables, task, settings, make_task=make_task, **shortcuts)


def overlay(
    tables: Mapping[str, Any],
    task: str,
    settings: Sequence[str] = (),
    *,
    make_task: MakeTask,
    **shortcuts: str | int | None,
) -> Spec:
    """Like `resolve`, but with any tables in place of a preset.

    **Arguments:**

    - `tables`: the tables of a spec, by name; a missing field has its default. `preset` is the name
        that the spec records.
    - `task`, `settings`, `make_task`, `shortcuts`: see `resolve`.

    **Returns** the `Spec`.

    **Raises** `InputError` as `resolve`; `TypeError` for an unknown shortcut.

    ```python
    >>> import eqloop
    >>> spec = eqloop.run.overlay(
    ...     {"model": {"width": 8, "heads": 2}}, "sudoku", ["task.box=2"],
    ...     make_task=eqloop.tasks.make_task, seed=1,
    ... )
    >>> spec.model.width, spec.model.grid, spec.train.seed
    (8, (4, 4), 1)

    ```
    """
    preset = tables.get("preset", "")
    phases: list[dict[str, Any]] = [
        {name: dict(part) if isinstance(part, Mapping) else part for name, part in phase.items()}
        for phase in tables.get("phases", ())
    ]
    tables = {name: dict(tables.get(name, {})) for name in ("task", *GROUPS)}
    assigned: set[str] = set()

    def put(group: str, field: str, value: Any) -> None:
        if source := DERIVED.get((group, field)):
            raise InputError(f"{group}.{field} is given by {source} and cannot be set")
        if group == "task" and field == "name":
            raise InputError("task.name cannot be set: name the task with --task")
        check_storable(f"{group}.{field}", value)
        tables[group][field] = value
        assigned.add(f"{group}.{field}")

    for name, value in shortcuts.items():
        if name not in SHORTCUTS:
            raise TypeError(f"unknown shortcut {name!r}")
        if value is not None:
            group, _, field = SHORTCUTS[name].partition(".")
            put(group, field, value)
    for setting in settings:
        group, field, value = parse_setting(setting)
        if group == "phases":
            _put_in_phase(phases, field, value)
            continue
        if group not in tables:
            known = {name: list(field_types(cls)) for name, cls in GROUPS.items()}
            raise InputError(f"unknown field {group}.{field}{nearest_field(group, field, known)}")
        put(group, field, value)

    _fill_in(tables, assigned)
    for phase in phases:
        _fill_in_phase(tables, phase)
    # A mistyped field is told of before the task is imported, and JAX with it.
    for name, cls in GROUPS.items():
        typed_table(cls, name, tables[name])
    phases_from_tables(phases)
    built = make_task(task, tables["task"])
    tables["task"] = {"name": task, **dataclasses.asdict(built)}
    tables["model"] |= {
        "grid": built.grid,
        "channels": built.channels,
        "classes": built.classes,
    }
    if tables["model"].get("attention", "task") == "task":
        tables["model"]["attention"] = built.attention
    return from_tables(tables | {"preset": preset, "phases": phases})


def _put_in_phase(phases: list[dict[str, Any]], field: str, value: Any) -> None:
    """Set `N.until`, `N.solver.FIELD` or `N.train.FIELD` of the N-th phase."""
    number, _, name = field.partition(".")
    group, _, inner = name.rpartition(".")
    if not (number.isdecimal() and name) or group not in ("", "solver", "train"):
        raise InputError(
            f"phases.{field}: write phases.N.until, phases.N.solver.FIELD or phases.N.train.FIELD, "
            "with N = 1 for the first phase"
        )
    if not 1 <= int(number) <= len(phases) + 1:
        raise InputError(f"phases.{field}: the next phase to set is phases.{len(phases) + 1}")
    check_storable(f"phases.{field}", value)
    if int(number) > len(phases):
        phases.append({})
    phase = phases[int(number) - 1]
    (phase.setdefault(group, {}) if group else phase)[inner] = value


def _fill_in_phase(tables: dict[str, dict[str, Any]], phase: dict[str, Any]) -> None:
    """Apply `_fill_in` to the fields that a phase changes."""
    changes = {group: dict(phase.get(group, {})) for group in ("solver", "train")}
    merged = {group: tables[group] | changes[group] for group in changes}
    filled = {group: dict(table) for group, table in merged.items()}
    _fill_in(filled, {f"{group}.{name}" for group in changes for name in changes[group]})
    for group, table in filled.items():
        before = merged[group]
        changes[group] |= {name: table[name] for name in table if table[name] != before.get(name)}
        if changes[group]:
            phase[group] = changes[group]


def _fill_in(tables: dict[str, dict[str, Any]], assigned: set[str]) -> None:
    """Fill in the fields that follow from others and were not set."""
    solver, train = tables["solver"], tables["train"]
    for name in ("name", "gradient"):
        if name in solver:  # report a wrong name itself, not its consequences
            typed(f"solver.{name}", solver[name], field_types(GROUPS["solver"])[name])
    converges = solver_facts(solver.get("name", "unroll")).converges
    if "solver.name" in assigned and "solver.gradient" not in assigned:
        solver["gradient"] = "implicit" if converges else "backprop"
    loss = train.get("loss", "progressive")
    if "train.loss" not in assigned and loss in LOSSES:
        known = gradient_facts(solver.get("gradient", "backprop")).losses
        if (converges and LOSSES[loss].counts) or loss not in known:
            train["loss"] = "last"
