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

from .._errors import InputError
from .._fields import build, nearest
from .._outside import reference_of, same_name
from .._tables import parse_toml, read_text
from ..run import SHORTCUTS, MakeTask, Spec, is_outside, presets, resolve

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

    - `iterations`: maximum number of iterations of the loop. An example whose answer can no longer
        change stops earlier.
    - `rows`: maximum number of examples of each split, evenly spread; 0 for all.
    - `splits`: names of the splits.
    - `checkpoint`: `"best"` on validation, or `"last"` (the paper's).

    **Raises** `InputError` for a value out of range.

    ```python
    >>> import eqloop
    >>> eqloop.sweep.EvaluateSpec(iterations=64, rows=0)
    EvaluateSpec(iterations=64, rows=0, splits=('test', 'hard'), checkpoint='best')

    ```
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
    """One run of a grid.

    **Attributes:**

    - `name`: its name, which is that of its run folder: `AXIS-VALUE_AXIS-VALUE`.
    - `axes`: axis -> value.
    - `spec`: the spec that these values amount to.
    - `evaluate`: how the run is evaluated.
    - `objects`: `"solver"` and `"gradient"` -> object from outside the package that the cell is
        trained by, if any.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     source = pathlib.Path(folder, "rates.toml")
    ...     _ = source.write_text('task = "prefix-sums"\\naxes.lr = [1e-3, 3e-3]')
    ...     grid = eqloop.sweep.read_grid(str(source), make_task=eqloop.tasks.make_task)
    >>> grid.cells[1].name, grid.cells[1].spec.train.lr
    ('lr-0.003', 0.003)

    ```
    """

    name: str
    axes: Mapping[str, Scalar]
    spec: Spec
    evaluate: EvaluateSpec
    objects: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Grid:
    """A grid of runs; see `read_grid`.

    **Attributes:**

    - `name`: its name.
    - `text`: the file that it was read from.
    - `axes`: names of the axes, the slowest first.
    - `cells`: its cells, in order.
    - `slurm`: the `[slurm]` table, as submitit takes it.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     source = pathlib.Path(folder, "mine.toml")
    ...     _ = source.write_text("axes = { seed = [0, 1], lr = [1e-3, 3e-3] }")
    ...     grid = eqloop.sweep.read_grid(str(source), make_task=eqloop.tasks.make_task)
    >>> grid.name, grid.axes, len(grid.cells)
    ('mine', ('seed', 'lr'), 4)

    ```
    """

    name: str
    text: str
    axes: tuple[str, ...]
    cells: tuple[Cell, ...]
    slurm: Mapping[str, Any]


def grids() -> dict[str, str]:
    """The grids that come with the package.

    **Returns** name -> text of the grid.

    ```python
    >>> import eqloop
    >>> list(eqloop.sweep.grids())[:3]
    ['paper/chess', 'paper/prefix-sums', 'paper/sudoku']

    ```
    """
    root = importlib.resources.files(__package__ or "eqloop.sweep") / "grids"
    return {
        f"{folder.name}/{file.name.removesuffix('.toml')}": file.read_text("utf-8")
        for folder in sorted(root.iterdir(), key=lambda f: f.name)
        for file in sorted(folder.iterdir(), key=lambda f: f.name)
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

    **Arguments:**

    - `source`: the path of a file, or one of `grids`.
    - `make_task`: see `eqloop.run.resolve`.
    - `classes`: the classes from outside the package that the grid may name, since a grid brings no
        code: `"solver"` and `"gradient"` -> the text that names a class, as `"mine.py:Mine"` -> the
        class.

    **Returns** the grid.

    **Raises** `InputError` naming the file and what is wrong in it, for every cell.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> text = 'axes = { seed = [0, 1], lr = [1e-3, 3e-3] }\\nexclude = [{ seed = 1, lr = 3e-3 }]'
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     source = pathlib.Path(folder, "mine.toml")
    ...     _ = source.write_text(text)
    ...     grid = eqloop.sweep.read_grid(str(source), make_task=eqloop.tasks.make_task)
    >>> [cell.name for cell in grid.cells]
    ['seed-0_lr-0.001', 'seed-0_lr-0.003', 'seed-1_lr-0.001']

    ```
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
        axes = {axis: _choices(axis, values) for axis, values in _table(tables, "axes").items()}
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


def _name(value: Any) -> str:
    """Check the name of a grid. It becomes a folder, which must be below its parent folder."""
    words = _text("name", value).split("/")
    if not all(_WORD.fullmatch(part) and part.strip(".") for part in words):
        raise InputError(f"name must be words of letters, digits, . _ - between /, got {value!r}")
    return value


def _canonical(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The tables with the fields of `set` by full names and the axes by short names."""
    for key in tables:
        if key not in TABLES:
            raise InputError(f"unknown table or value {key}{nearest(key, TABLES)}")
    renamed = dict(tables)
    for key, names in (("set", NAMES), ("axes", SHORT)):
        if key in tables:
            renamed[key] = _renamed(key, _table(tables, key), names)
    return renamed


def _renamed(where: str, table: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    renamed: dict[str, Any] = {}
    for name, value in table.items():
        name = names.get(name, name)
        if name in renamed:
            raise InputError(f"{where} names {name} twice, once by its other name")
        renamed[name] = value
    return renamed


def _on_base(tables: Mapping[str, Any]) -> dict[str, Any]:
    base, known = tables["base"], grids()
    if not isinstance(base, str) or base not in known:
        raise InputError(f"base: no grid {base!r} comes with eqloop{nearest(str(base), known)}")
    merged = _canonical(parse_toml(known[base], f"grid {base}"))
    for name, value in tables.items():
        if name in MERGED:
            merged[name] = _table(merged, name) | _table(tables, name)
        elif name in LISTED:
            merged[name] = _list(merged, name) + _list(tables, name)
        else:
            merged[name] = value
    return merged


def _table(tables: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = tables.get(name, {})
    if not isinstance(table, dict):
        raise InputError(f"{name} must be a table, got {table!r}")
    return table


def _list(tables: Mapping[str, Any], name: str) -> list[Any]:
    entries = tables.get(name, [])
    if not isinstance(entries, list):
        raise InputError(f"{name} must be a list of tables, [[{name}]], got {entries!r}")
    return entries


Choices = dict[Scalar, dict[str, Any]]


def _choices(axis: str, choices: Any) -> Choices:
    """Value of an axis -> the settings that it denotes."""
    if not _WORD.fullmatch(axis):
        raise InputError(f"axes: a name must be of letters, digits, . _ -, got {axis!r}")
    if axis in COLUMNS:
        raise InputError(f"axes.{axis}: tables of results have this column: choose another name")
    if isinstance(choices, dict):
        return {label: _settings(f"axes.{axis}.{label}", table) for label, table in choices.items()}
    if not isinstance(choices, list):
        raise InputError(f"axes.{axis} must be a list of values or a table of settings")
    wrong = [value for value in choices if not isinstance(value, str | int | float)]
    if wrong or len(set(choices)) < len(choices):
        raise InputError(f"axes.{axis} must have distinct numbers or words, got {choices}")
    if axis in ("task", "preset"):
        return {value: {axis: value} for value in choices}
    field = NAMES.get(axis, axis)
    if "." not in field:
        known = ["task", "preset", *NAMES]
        raise InputError(
            f"axes.{axis}: write GROUP.FIELD, or the settings of each value{nearest(axis, known)}"
        )
    return {value: {field: value} for value in choices}


def _settings(where: str, table: Any) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise InputError(f"{where} must be a table of fields, got {table!r}")
    return _renamed(where, table, NAMES)


def _cells(
    tables: Mapping[str, Any],
    axes: Mapping[str, Choices],
    make_task: MakeTask,
    classes: Classes,
) -> Iterator[Cell]:
    source = {"task": tables.get("task", "prefix-sums"), "preset": tables.get("preset", "quick")}
    evaluate = {f"evaluate.{name}": value for name, value in _table(tables, "evaluate").items()}
    common = source | evaluate | _table(tables, "set")
    if math.prod(map(len, axes.values())) > COMBINATIONS:
        raise InputError(f"more than {COMBINATIONS:,} combinations: cut the grid into several")
    exclusions = [_values("exclude", table, axes) for table in _list(tables, "exclude")]
    overrides = [_override(table, axes) for table in _list(tables, "override")]
    products = itertools.product(*axes.values())
    combinations = (dict(zip(axes, values, strict=True)) for values in products)
    included = [
        c for c in combinations if not any(_matches(c, exclusion) for exclusion in exclusions)
    ]
    if len(included) > MOST:
        raise InputError(f"more than {MOST:,} cells: cut the grid into several")
    names: set[str] = set()
    for values in included:
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
            raise InputError(f"two cells would have the name {name}: name the values of an axis")
        if len(name) > LONGEST:
            raise InputError(f"the name of a cell is longer than {LONGEST} letters: {name}")
        names.add(name)
        try:
            yield Cell(name, values, *_specs(settings, make_task, classes))
        except InputError as error:
            raise InputError(f"cell {name}: {error}") from None


def _values(kind: str, table: Any, axes: Mapping[str, Choices]) -> dict[str, list[Scalar]]:
    """Axis -> the values in an `exclude` or a `when`."""
    if not isinstance(table, dict) or not table:
        raise InputError(f"{kind} must be a table of axes and values, got {table!r}")
    values_of = {}
    for axis, value in _renamed(kind, table, SHORT).items():
        if axis not in axes:
            raise InputError(f"{kind}: {axis} is not an axis{nearest(axis, axes)}")
        values_of[axis] = value if isinstance(value, list) else [value]
        for item in values_of[axis]:
            if not isinstance(item, Scalar) or item not in axes[axis]:
                known = map(str, axes[axis])
                raise InputError(f"{kind}: {axis} is never {item!r}{nearest(str(item), known)}")
    return values_of


def _override(table: Any, axes: Mapping[str, Choices]) -> tuple[dict[str, Any], dict[str, Any]]:
    if not isinstance(table, dict) or table.keys() != {"when", "set"}:
        raise InputError("[[override]] has a table `when` of axes and a table `set` of fields")
    return _values("override.when", table["when"], axes), _settings("override.set", table["set"])


def _matches(values: Mapping[str, Scalar], condition: Mapping[str, list[Scalar]]) -> bool:
    return all(values[axis] in allowed for axis, allowed in condition.items())


def _word(value: Scalar) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    text = text.rpartition(":")[2]  # the name of a class from outside the package
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
    assignments = [f"{name}={_toml(name, value)}" for name, value in fields.items()]
    spec = resolve(task, preset, assignments, make_task=make_task)
    objects: dict[str, Any] = {}
    if is_outside(spec.solver.name) or is_outside(spec.solver.gradient):
        from ._objects import make_objects  # imports JAX, which other grids do without

        spec, objects = make_objects(spec, chosen)
    return spec, build(EvaluateSpec, "evaluate", evaluate), objects


def _chosen(value: Any, classes: Mapping[str, type]) -> type | None:
    """The class that a field of a grid names, in any folder."""
    if not isinstance(value, str):
        return None
    if value in classes:
        return classes[value]
    matches = [cls for cls in classes.values() if same_name(value, reference_of(cls))]
    if len(matches) > 1:
        raise InputError(f"{value} may be any of {', '.join(map(reference_of, matches))}")
    return matches[0] if matches else None


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name} must be text, got {value!r}")
    return value


def _toml(name: str, value: Any) -> str:
    """A value as TOML: numbers, strings, lists and truth values are written as in JSON. A date,
    which no field accepts, becomes a string, so that the message of the field names its type."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:
        raise InputError(f"{name} must be finite, got {value!r}") from None
