"""A grid of runs as one TOML file, and the cells that it amounts to."""

import dataclasses
import importlib.resources
import itertools
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from .._build import make_outside, reference_of, same_name
from .._errors import InputError
from .._fields import build, nearest
from .._tables import parse_toml, read_text
from ..run import SHORTCUTS, MakeTask, Spec, is_outside, presets, resolve
from ..train import Objects

Scalar = str | int | float | bool
Classes = Mapping[str, Mapping[str, type]]
"""`"solver"` and `"gradient"` -> the classes from outside the package that cells may name: the text
that names a class on the command line -> the class."""

NAMES = SHORTCUTS | {"lr": "train.lr", "residual": "model.residual"}
"""Axes that are another name for a field."""
SHORT = {field: name for name, field in NAMES.items()}

MERGED = ("set", "axes", "evaluate", "slurm")
LISTED = ("exclude", "override")
TABLES = ("base", "name", "task", "preset", *MERGED, *LISTED)
MOST = 10_000
COMBINATIONS = 100_000
LONGEST = 200
"""Letters of a cell's name, which with what is added to it names files: 255 is the usual limit."""
COLUMNS = ("source", "cell", "status", "error")
"""Of every table of results, so that no axis can be called so."""
_WORD = re.compile(r"[A-Za-z0-9._-]+")


@dataclasses.dataclass(frozen=True)
class EvaluateSpec:
    """The `[evaluate]` table: what is measured of every cell once it is trained.

    **Attributes:**

    - `iterations`: at most so many of the loop. Examples whose answer can no longer change stop
      before.
    - `rows`: examples of each split at most, evenly spread; 0 for all.
    - `splits`: which.
    - `checkpoint`: `"best"` on validation, or `"last"` (the paper's).
    """

    iterations: int = 500
    rows: int = 1000
    splits: tuple[str, ...] = ("test", "hard")
    checkpoint: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.rows < 0:
            raise InputError(
                "evaluate.iterations must be at least 1 and evaluate.rows at least 0, got "
                f"{self.iterations} and {self.rows}"
            )
        if not self.splits or len(set(self.splits)) < len(self.splits):
            raise InputError(
                f"evaluate.splits must name at least one split, each once, got {list(self.splits)}"
            )


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a grid: its values on the axes, the spec that they amount to, how it is evaluated,
    and the solver and the gradient from outside the package that it is trained by, if any."""

    name: str
    axes: Mapping[str, Scalar]
    spec: Spec
    evaluate: EvaluateSpec
    objects: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Grid:
    """**Attributes:**

    - `text`: the file it was read from.
    - `axes`: their names, the slowest first.
    - `slurm`: the `[slurm]` table, as submitit takes it.
    """

    name: str
    text: str
    axes: tuple[str, ...]
    cells: tuple[Cell, ...]
    slurm: Mapping[str, Any]


def grids() -> dict[str, str]:
    """Name -> text of the grids that come with the package."""
    root = importlib.resources.files(__package__ or "eqloop.sweep") / "grids"
    return {
        f"{folder.name}/{each.name.removesuffix('.toml')}": each.read_text("utf-8")
        for folder in sorted(root.iterdir(), key=lambda f: f.name)
        for each in sorted(folder.iterdir(), key=lambda f: f.name)
    }


def read_grid(source: str, *, make_task: MakeTask, classes: Classes | None = None) -> Grid:
    """The grid in the file `source`, or the one of that name that comes with the package.

    A grid is a TOML file:

    ```toml
    task = "prefix-sums"              # and preset = "quick": where every cell begins
    set = { "train.steps" = 900 }     # fields of every cell

    [axes]                            # every combination is a cell; the last axis varies fastest
    seed = [0, 1, 2]                  # a field, a shortcut of `eqloop train`, lr or residual
    lr = [1e-3, 3e-3]
    [axes.norm]                       # or named settings, of any fields
    post = { "model.norm" = "post" }
    gru = { "model.norm" = "peri", "model.residual" = "gru" }

    [[exclude]]                       # cells with all of these values are left out
    norm = "gru"
    lr = [3e-3]

    [[override]]                      # fields of the cells with these values
    when = { norm = "post" }
    set = { "train.clip" = 0.5 }

    [evaluate]                        # see EvaluateSpec; a field is also "evaluate.rows"
    [slurm]                           # see submitit's AutoExecutor.update_parameters
    ```

    Later wins: preset, `set`, the axes, `override`s in their order. In no cell do two axes set one
    field. A field and its short name are the same everywhere.

    With `base = "paper/sudoku"` it begins as that grid, which must come with the package. What it
    says itself then counts: an axis takes the place of the one of its name or comes last; fields
    are set on top; `exclude` and `override` are added.

    A grid brings no code: where `solver.name` or `solver.gradient` is a class from outside the
    package, as `"mine.py:Mine"`, `classes` must have that class.

    **Raises** `InputError` naming the file and what is wrong in it, for every cell.
    """
    path = Path(source)
    if os.path.isfile(path):  # noqa: PTH113 (False too for a name that no file can have)
        text = read_text(path)
        return parse_grid(text, path.stem, source, make_task=make_task, classes=classes)
    known = grids()
    if source not in known:
        if os.path.lexists(path):
            raise InputError(f"{source} is neither a file nor a sweep folder")
        raise InputError(
            f"there is no file {source}, and no grid of this name{nearest(source, known)}"
        )
    where = f"grid {source}"
    return parse_grid(known[source], source, where, make_task=make_task, classes=classes)


def parse_grid(
    text: str, name: str, where: str, *, make_task: MakeTask, classes: Classes | None = None
) -> Grid:
    """As `read_grid`, of a text; `where` names it in errors."""
    tables = parse_toml(text, where)
    try:
        tables = _canonical(tables)
        if "base" in tables:
            tables = _on_base(tables)
        axes = {axis: _choices(axis, each) for axis, each in _table(tables, "axes").items()}
        if not axes or not all(axes.values()):
            raise InputError("[axes] must name at least one axis, each with at least one value")
        cells = tuple(_cells(tables, axes, make_task, classes or {}))
        if not cells:
            raise InputError("every cell is excluded")
        if "name" in tables:
            name = _name(tables["name"])
        slurm = _table(tables, "slurm")
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return Grid(name, text, tuple(axes), cells, slurm)


def _name(given: Any) -> str:
    """It becomes a folder: nothing in it may lead out of where that is made."""
    words = _text("name", given).split("/")
    if not all(_WORD.fullmatch(part) and part.strip(".") for part in words):
        raise InputError(f"name must be words of letters, digits, . _ - between /, got {given!r}")
    return given


def _canonical(tables: Mapping[str, Any]) -> dict[str, Any]:
    """With the fields of `set` by their full names, and the axes by their short ones."""
    for key in tables:
        if key not in TABLES:
            raise InputError(f"unknown table or value {key}{nearest(key, TABLES)}")
    found = dict(tables)
    for key, names in (("set", NAMES), ("axes", SHORT)):
        if key in tables:
            found[key] = _renamed(key, _table(tables, key), names)
    return found


def _renamed(where: str, given: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in given.items():
        name = names.get(name, name)
        if name in found:
            raise InputError(f"{where} names {name} twice, once by its other name")
        found[name] = value
    return found


def _on_base(tables: Mapping[str, Any]) -> dict[str, Any]:
    base, known = tables["base"], grids()
    if not isinstance(base, str) or base not in known:
        raise InputError(f"base: no grid {base!r} comes with eqloop{nearest(str(base), known)}")
    found = _canonical(parse_toml(known[base], f"grid {base}"))
    for name, given in tables.items():
        if name in MERGED:
            found[name] = _table(found, name) | _table(tables, name)
        elif name in LISTED:
            found[name] = _list(found, name) + _list(tables, name)
        else:
            found[name] = given
    return found


def _table(tables: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = tables.get(name, {})
    if not isinstance(found, dict):
        raise InputError(f"{name} must be a table, got {found!r}")
    return found


def _list(tables: Mapping[str, Any], name: str) -> list[Any]:
    found = tables.get(name, [])
    if not isinstance(found, list):
        raise InputError(f"{name} must be a list of tables, [[{name}]], got {found!r}")
    return found


Choices = dict[Scalar, dict[str, Any]]


def _choices(axis: str, given: Any) -> Choices:
    """Value -> the settings that it stands for."""
    if not _WORD.fullmatch(axis):
        raise InputError(f"axes: a name must be of letters, digits, . _ -, got {axis!r}")
    if axis in COLUMNS:
        raise InputError(f"axes.{axis}: tables of results have this column: choose another name")
    if isinstance(given, dict):
        return {label: _settings(f"axes.{axis}.{label}", each) for label, each in given.items()}
    if not isinstance(given, list):
        raise InputError(f"axes.{axis} must be a list of values or a table of settings")
    wrong = [each for each in given if not isinstance(each, str | int | float)]
    if wrong or len(set(given)) < len(given):
        raise InputError(f"axes.{axis} must hold different numbers or words, got {given}")
    if axis in ("task", "preset"):
        return {value: {axis: value} for value in given}
    field = NAMES.get(axis, axis)
    if "." not in field:
        known = ["task", "preset", *NAMES]
        raise InputError(
            f"axes.{axis}: write GROUP.FIELD, or the settings of each value{nearest(axis, known)}"
        )
    return {value: {field: value} for value in given}


def _settings(where: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise InputError(f"{where} must be a table of fields, got {given!r}")
    return _renamed(where, given, NAMES)


def _cells(
    tables: Mapping[str, Any],
    axes: Mapping[str, Choices],
    make_task: MakeTask,
    classes: Classes,
) -> Iterator[Cell]:
    first = {"task": tables.get("task", "prefix-sums"), "preset": tables.get("preset", "quick")}
    evaluate = {f"evaluate.{name}": value for name, value in _table(tables, "evaluate").items()}
    common = first | evaluate | _table(tables, "set")
    if math.prod(map(len, axes.values())) > COMBINATIONS:
        raise InputError(f"more than {COMBINATIONS:,} combinations: cut the grid into several")
    exclusions = [_values("exclude", each, axes) for each in _list(tables, "exclude")]
    overrides = [_override(each, axes) for each in _list(tables, "override")]
    products = itertools.product(*axes.values())
    combinations = (dict(zip(axes, values, strict=True)) for values in products)
    wanted = [c for c in combinations if not any(_matches(c, each) for each in exclusions)]
    if len(wanted) > MOST:
        raise InputError(f"more than {MOST:,} cells: cut the grid into several")
    names: set[str] = set()
    for values in wanted:
        settings = dict(common)
        setters: dict[str, str] = {}
        for axis, value in values.items():
            for field in axes[axis][value]:
                if (other := setters.setdefault(field, axis)) != axis:
                    raise InputError(f"axes.{other} and axes.{axis} both set {field}")
            settings |= axes[axis][value]
        for when, then in overrides:
            settings |= then if _matches(values, when) else {}
        name = "_".join(f"{axis}-{_word(value)}" for axis, value in values.items())
        if name in names:
            raise InputError(f"two cells would be called {name}: name the values of an axis")
        if len(name) > LONGEST:
            raise InputError(f"the name of a cell is longer than {LONGEST} letters: {name}")
        names.add(name)
        try:
            yield Cell(name, values, *_specs(settings, make_task, classes))
        except InputError as error:
            raise InputError(f"cell {name}: {error}") from None


def _values(kind: str, given: Any, axes: Mapping[str, Choices]) -> dict[str, list[Scalar]]:
    """Axis -> the values that an `exclude` or a `when` names."""
    if not isinstance(given, dict) or not given:
        raise InputError(f"{kind} must be a table of axes and values, got {given!r}")
    found = {}
    for axis, value in _renamed(kind, given, SHORT).items():
        if axis not in axes:
            raise InputError(f"{kind}: {axis} is no axis{nearest(axis, axes)}")
        found[axis] = value if isinstance(value, list) else [value]
        for each in found[axis]:
            if not isinstance(each, Scalar) or each not in axes[axis]:
                known = map(str, axes[axis])
                raise InputError(f"{kind}: {axis} is never {each!r}{nearest(str(each), known)}")
    return found


def _override(given: Any, axes: Mapping[str, Choices]) -> tuple[dict[str, Any], dict[str, Any]]:
    if not isinstance(given, dict) or given.keys() != {"when", "set"}:
        raise InputError("[[override]] has a table `when` of axes and a table `set` of fields")
    return _values("override.when", given["when"], axes), _settings("override.set", given["set"])


def _matches(values: Mapping[str, Scalar], wanted: Mapping[str, list[Scalar]]) -> bool:
    return all(values[axis] in some for axis, some in wanted.items())


def _word(value: Scalar) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    text = text.rpartition(":")[2]  # of a class from outside the package, its name
    return re.sub(r"[^A-Za-z0-9.+-]", "", text)


def _specs(
    settings: Mapping[str, Any], make_task: MakeTask, classes: Classes
) -> tuple[Spec, EvaluateSpec, dict[str, Any]]:
    fields = dict(settings)
    task, preset = (_text(name, fields.pop(name)) for name in ("task", "preset"))
    known = presets()
    if preset not in known:
        raise InputError(f"unknown preset {preset!r}{nearest(preset, known)}")
    group = "evaluate."
    evaluate = {n.removeprefix(group): fields.pop(n) for n in [*fields] if n.startswith(group)}
    chosen = {}
    for option in ("solver", "gradient"):
        field = SHORTCUTS[option]
        if cls := _chosen(fields.get(field), classes.get(option, {})):
            chosen[option], fields[field] = cls, reference_of(cls)
    wishes = [f"{name}={_toml(name, value)}" for name, value in fields.items()]
    spec = resolve(task, preset, wishes, make_task=make_task)
    objects = {option: make_outside(cls, spec.solver) for option, cls in chosen.items()}
    if is_outside(spec.solver.name) or is_outside(spec.solver.gradient):
        own = Objects(**objects)
        own.method(spec)  # a class that nobody has named is refused here
        spec = own.recorded(spec)
    return spec, build(EvaluateSpec, "evaluate", evaluate), objects


def _chosen(value: Any, classes: Mapping[str, type]) -> type | None:
    """The class that a field of a grid names, wherever its file lies."""
    if not isinstance(value, str):
        return None
    if value in classes:
        return classes[value]
    found = [cls for cls in classes.values() if same_name(value, reference_of(cls))]
    if len(found) > 1:
        raise InputError(f"{value} may be any of {', '.join(map(reference_of, found))}")
    return found[0] if found else None


def _text(name: str, given: Any) -> str:
    if not isinstance(given, str):
        raise InputError(f"{name} must be text, got {given!r}")
    return given


def _toml(name: str, value: Any) -> str:
    """JSON's numbers, words, lists and truth values are TOML's too. A date, which no field is,
    becomes a word, so that the field says what it must be."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:
        raise InputError(f"{name} must be finite, got {value!r}") from None
