"""The built-in tasks, and the helpers for authors of tasks. A task is one class, here or in a file
of the user."""

if __name__ != "eqloop.tasks":
    raise ImportError(f"import eqloop.tasks, not {__name__!r}")

import importlib
import re
import typing
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from .._errors import InputError
from .._fields import build, nearest
from .._plugins import entry_point_classes, is_reference, load_class, origin

if TYPE_CHECKING:
    from .. import _task
    from .._task import PREDICTED as PREDICTED
    from .._task import WRONG as WRONG
    from .._task import Bad as Bad
    from .._task import Dataset as Dataset
    from .._task import Layout as Layout
    from .._task import Progress as Progress
    from .._task import Split as Split
    from .._task import Tally as Tally
    from .._task import Task as Task
    from .._task import dataset as dataset
    from .._task import describe as describe
    from .._task import glyphs as glyphs
    from .._task import partition as partition
    from .._task import picture as picture
    from .._task import read_records as read_records
    from .._task import refuse as refuse
    from .._task import struck as struck
    from .._task import write_text as write_text

GROUP = "eqloop.tasks"
"""The entry-point group for tasks of other distributions: task name -> class."""

_HELPERS = {
    *("Task", "Split", "Bad", "Dataset", "Progress"),
    *("dataset", "describe", "partition"),
    *("Layout", "read_records", "write_text", "refuse", "Tally"),
    *("picture", "glyphs", "struck", "PREDICTED", "WRONG"),
}
"""Names from `eqloop._task`, imported on first use because that imports JAX."""


def __getattr__(name: str) -> Any:
    if name in _HELPERS:
        return getattr(importlib.import_module(".._task", __name__), name)
    raise AttributeError(f"module 'eqloop.tasks' has no attribute {name!r}")


class _Tasks(Mapping[str, "type[_task.Task]"]):
    """Name -> class. The module of a task is imported on access, so that listing the names imports
    neither JAX nor Numba."""

    _built_in: typing.ClassVar[dict[str, tuple[str, str]]] = {
        "prefix-sums": (".prefix_sums", "PrefixSums"),
        "sudoku": (".sudoku", "Sudoku"),
        "chess": (".chess", "Chess"),
        "maze": (".maze", "Maze"),
        "group-words": (".group_words", "GroupWords"),
    }

    def __init__(self):
        self.registered: dict[str, type[_task.Task]] = {}

    def __getitem__(self, name: str) -> "type[_task.Task]":
        if name in self._built_in:
            return _imported(*self._built_in[name])
        if name in self.registered:
            return self.registered[name]
        task = _checked(entry_point_classes(GROUP)[name]())
        if task.name != name:
            raise InputError(
                f"the entry point {name} of {GROUP} gives the task {task.name}: both must have the "
                "same name"
            )
        return task

    def __contains__(self, name: object) -> bool:
        return (
            name in self._built_in or name in self.registered or name in entry_point_classes(GROUP)
        )

    def __iter__(self) -> Iterator[str]:
        yield from dict.fromkeys((*self._built_in, *self.registered, *entry_point_classes(GROUP)))

    def __len__(self) -> int:
        return sum(1 for _ in self)


_TABLE = _Tasks()
TASKS: Mapping[str, "type[_task.Task]"] = _TABLE
"""All tasks by their names on the command line: first the built-in ones, then those passed to
`register`, then those of installed distributions."""

_OLD_VERSIONS: dict[tuple[str, int], tuple[str, str]] = {("chess", 1): (".chess", "ChessVersion1")}
"""Earlier versions of tasks, which old runs may use: (name, version) -> module and class."""

_AnyTask = TypeVar("_AnyTask", bound="type[_task.Task]")


def register(task: _AnyTask) -> _AnyTask:
    """Register a task under its name, `task.name`, in this process. Also works as a decorator.

    A class replaces an earlier one of the same name, so that a cell of a notebook can run again.

    **Arguments:**

    - `task`: a subclass of `eqloop.Task` that defines all abstract members.

    **Returns** `task`.

    **Raises** `InputError` if `task` is no such class or has the name of a built-in task.

    ```python
    >>> import eqloop, jax, numpy as np
    >>> @eqloop.tasks.register
    ... class Copy(eqloop.Task):
    ...     grid, channels, classes = (8,), 2, 2
    ...
    ...     def generate(self, rows, seed, *, progress=None):
    ...         bits = np.random.default_rng(seed).integers(0, 2, (rows, 8))
    ...         return eqloop.Split.of(bits, bits)
    ...
    ...     def encode(self, tokens):
    ...         return jax.nn.one_hot(tokens, 2)
    >>> eqloop.tasks.make_task("copy", {"rows": 100})
    Copy(data='', rows=100, seed=42, augment=False, skip_bad=False)

    ```
    """
    task = _checked(task)
    if task.name in _Tasks._built_in:
        raise InputError(
            f"the name {task.name!r} of {task.__qualname__} belongs to a task of eqloop: give the "
            "class another name, as in name = 'mine'"
        )
    _TABLE.registered[task.name] = task
    return task


def _checked(task: Any) -> Any:
    """**Raises** `InputError` if `task` is no subclass of `Task` that can be instantiated."""
    from .._task import Task

    if not (isinstance(task, type) and issubclass(task, Task)):
        raise InputError(f"{task!r} is not a subclass of eqloop.Task")
    where = f"the task {task.__qualname__}"
    if missing := sorted(task.__abstractmethods__):
        raise InputError(f"{where} does not define {', '.join(missing)}")
    if not re.fullmatch(r"\w[\w.-]*", task.name):
        raise InputError(
            f"{where} has the name {task.name!r}: must consist of letters, digits, - and _"
        )
    for base in task.__mro__:
        hints = {
            field: hint
            for field, hint in vars(base).get("__annotations__", {}).items()
            if not field.startswith("_") and "ClassVar" not in str(hint)
        }
        if hints and issubclass(base, Task) and "__dataclass_fields__" not in vars(base):
            raise InputError(
                f"the class {base.__qualname__} has fields ({', '.join(hints)}) but is not "
                "a dataclass: decorate it with @dataclasses.dataclass(frozen=True)"
            )
    return task


def named(reference: str) -> str:
    """The name of a task. For `FILE.py:CLASS` the file is executed and the class registered; any
    other text is returned as it is.

    **Arguments:**

    - `reference`: the name of a task, or `FILE.py:CLASS`.

    **Returns** the name, one of `TASKS` if the task is known.

    **Raises** `InputError` as `eqloop._plugins.load_class` and `register` do.

    ```python
    >>> import eqloop
    >>> eqloop.tasks.named("sudoku")
    'sudoku'

    ```
    """
    if not is_reference(reference):
        return reference
    return register(typing.cast("type[_task.Task]", load_class(reference, "task"))).name


def make_task(name: str, fields: Mapping[str, object], version: object = None) -> "_task.Task":
    """Make the task `name` with the given fields.

    **Arguments:**

    - `name`: one of `TASKS`.
    - `fields`: field -> value; the other fields have their defaults. An integer is accepted for a
      float.
    - `version`: the version of the task that a run was made with, so that the run still sees the
      same examples; by default the newest.

    **Returns** the task.

    **Raises** `InputError` for an unknown name, version or field (with the nearest known one), and
    for a value of a wrong type.

    ```python
    >>> import eqloop
    >>> task = eqloop.tasks.make_task("sudoku", {"box": 2})
    >>> task.grid, task.classes
    ((4, 4), 5)

    ```
    """
    if name not in TASKS:
        raise InputError(
            f"unknown task {name!r}{nearest(name, TASKS)}; for a task of a file use "
            "--task FILE.py:CLASS"
        )
    task = TASKS[name]
    if version is not None and version != task.version:
        if not isinstance(version, int) or (name, version) not in _OLD_VERSIONS:
            raise InputError(
                f"version {version!r} of the task {name} is not known (this is version "
                f"{task.version}); use the code that made the run"
            )
        task = _imported(*_OLD_VERSIONS[name, version])
    return build(task, "task", fields)


def task_of_run(
    name: str, fields: Mapping[str, object], manifest: Mapping[str, Any]
) -> "_task.Task":
    """The task that a run was made with.

    A run contains no code. If its task is a class of a file, the user first passes that file to
    `named` or `register`, and it must be unchanged.

    **Arguments:**

    - `name`: `task.name` in the spec of the run.
    - `fields`: the fields of the task in the spec of the run.
    - `manifest`: the manifest of the run; its `version` and `code` identify the class.

    **Returns** the task.

    **Raises** `InputError` if the class is not registered, if its file has changed since the run,
    and as `make_task` does.

    ```python
    >>> import eqloop
    >>> eqloop.tasks.task_of_run("prefix-sums", {"length": 8}, {"version": 1}).grid
    (8,)

    ```
    """
    code = manifest.get("code")
    code = code if isinstance(code, Mapping) else {}
    if code and name not in _TABLE.registered:
        raise InputError(f"its task {name} is a class of a file; pass it: --task {code['file']}")
    task = make_task(name, fields, manifest.get("version"))
    current = origin(type(task))
    if code and (current is None or current[1] != code.get("sha256")):
        recorded_hash = str(code.get("sha256"))[:12]
        current_hash = current[1][:12] if current else "unknown"
        raise InputError(
            f"its task {name} was {code['file']} with the SHA-256 {recorded_hash}..., but now "
            f"it has {current_hash}...: restore the file; or, if the change does not matter, write "
            "the new SHA-256 (from sha256sum) into data.json"
        )
    return task


def _imported(module: str, attribute: str) -> "type[_task.Task]":
    return getattr(importlib.import_module(module, __name__), attribute)
