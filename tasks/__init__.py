"""The tasks, and what the author of a task needs: a task is one class, here or in a file of one's
own."""

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
"""The entry-point group under which a distribution offers tasks: the name of each and its class."""

_HELPERS = {
    *("Task", "Split", "Bad", "Dataset", "Progress"),
    *("dataset", "describe", "partition"),
    *("Layout", "read_records", "write_text", "refuse", "Tally"),
    *("picture", "glyphs", "struck", "PREDICTED", "WRONG"),
}
"""What is public here and defined in `eqloop._task`, imported on first use, as it takes JAX."""


def __getattr__(name: str) -> Any:
    if name in _HELPERS:
        return getattr(importlib.import_module(".._task", __name__), name)
    raise AttributeError(f"module 'eqloop.tasks' has no attribute {name!r}")


class _Tasks(Mapping[str, "type[_task.Task]"]):
    """Name -> class; a task's module is imported when its class is asked for, so that listing
    the names imports neither JAX nor Numba."""

    _own: typing.ClassVar[dict[str, tuple[str, str]]] = {
        "prefix-sums": (".prefix_sums", "PrefixSums"),
        "sudoku": (".sudoku", "Sudoku"),
        "chess": (".chess", "Chess"),
    }

    def __init__(self):
        self.registered: dict[str, type[_task.Task]] = {}

    def __getitem__(self, name: str) -> "type[_task.Task]":
        if name in self._own:
            return _imported(*self._own[name])
        if name in self.registered:
            return self.registered[name]
        task = _checked(entry_point_classes(GROUP)[name]())
        if task.name != name:
            raise InputError(
                f"the entry point {name} of {GROUP} gives the task {task.name}: both must have one "
                "name"
            )
        return task

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self.registered or name in entry_point_classes(GROUP)

    def __iter__(self) -> Iterator[str]:
        yield from dict.fromkeys((*self._own, *self.registered, *entry_point_classes(GROUP)))

    def __len__(self) -> int:
        return sum(1 for _ in self)


_TABLE = _Tasks()
TASKS: Mapping[str, "type[_task.Task]"] = _TABLE
"""Every task by its name on the command line: those of this package, those that `register` was
called with, and those of installed distributions, in this order."""

_OLD: dict[tuple[str, int], tuple[str, str]] = {("chess", 1): (".chess", "ChessVersion1")}
"""Earlier versions of a task that runs may have been made with: (name, version) -> its class."""

_AnyTask = TypeVar("_AnyTask", bound="type[_task.Task]")


def register(task: _AnyTask) -> _AnyTask:
    """Make a task known by its name, `task.name`, in this process. May be used as a decorator.

    A class that is registered later takes the place of one of the same name, as when a cell of a
    notebook runs again.

    **Arguments:**

    - `task`: a class that is derived from `eqloop.Task` and has all that is abstract there.

    **Returns** `task`.

    **Raises** `InputError` for what is no such class, and for the name of a task of this package.

    ```python
    @eqloop.tasks.register
    class Reverse(eqloop.Task):
        ...

    spec = eqloop.run.resolve("reverse", "quick", make_task=eqloop.tasks.make_task)
    ```
    """
    task = _checked(task)
    if task.name in _Tasks._own:
        raise InputError(
            f"the name {task.name!r} of {task.__qualname__} is that of a task of eqloop: give the "
            "class another one, as in name = 'mine'"
        )
    _TABLE.registered[task.name] = task
    return task


def _checked(task: Any) -> Any:
    """**Raises** `InputError` for what is no class of a task that can be made."""
    from .._task import Task

    if not (isinstance(task, type) and issubclass(task, Task)):
        raise InputError(f"{task!r} is no class that is derived from eqloop.Task")
    where = f"the task {task.__qualname__}"
    if missing := sorted(task.__abstractmethods__):
        raise InputError(f"{where} does not define {', '.join(missing)}")
    if not re.fullmatch(r"\w[\w.-]*", task.name):
        raise InputError(f"{where} has the name {task.name!r}: must be letters, digits, - and _")
    for base in task.__mro__:
        hints = {
            field: hint
            for field, hint in vars(base).get("__annotations__", {}).items()
            if not field.startswith("_") and "ClassVar" not in str(hint)
        }
        if hints and issubclass(base, Task) and "__dataclass_fields__" not in vars(base):
            raise InputError(
                f"the class {base.__qualname__} has fields ({', '.join(hints)}) and is no "
                "dataclass: decorate it with @dataclasses.dataclass(frozen=True)"
            )
    return task


def named(reference: str) -> str:
    """The name of a task, for `FILE.py:CLASS` after the file was run and the class registered; any
    other text is a name already.

    **Raises** `InputError` as `eqloop._plugins.load_class` and `register`.
    """
    if not is_reference(reference):
        return reference
    return register(typing.cast("type[_task.Task]", load_class(reference, "task"))).name


def make_task(name: str, fields: Mapping[str, object], version: object = None) -> "_task.Task":
    """The task called `name` with the fields `fields`, and its defaults for the others.

    **Arguments:**

    - `name`: one of `TASKS`.
    - `fields`: field -> value.
    - `version`: the version of the task that a run was made with, so that it goes on seeing its
      examples as it did; by default the newest.

    **Raises** `InputError` for an unknown name, version or field (with the nearest known one), and
    for a value of a wrong type. An integer will do for a float.
    """
    if name not in TASKS:
        raise InputError(
            f"unknown task {name!r}{nearest(name, TASKS)}; one of a file is --task FILE.py:CLASS"
        )
    task = TASKS[name]
    if version is not None and version != task.version:
        if not isinstance(version, int) or (name, version) not in _OLD:
            raise InputError(
                f"version {version!r} of the task {name} is not known (this is version "
                f"{task.version}); use the code that made the run"
            )
        task = _imported(*_OLD[name, version])
    return build(task, "task", fields)


def task_of_run(
    name: str, fields: Mapping[str, object], manifest: Mapping[str, Any]
) -> "_task.Task":
    """The task that a run was made with.

    A run does not bring code: where its task is a class of a file, the user names that file first,
    to `named` or `register`, and it must be what it was.

    **Arguments:**

    - `name`, `fields`: of the run's spec.
    - `manifest`: of the run; `version` and `code` in it say which class it was.

    **Raises** `InputError` where nobody has named the class, where its file has changed since the
    run, and as `make_task`.
    """
    code = manifest.get("code")
    code = code if isinstance(code, Mapping) else {}
    if code and name not in _TABLE.registered:
        raise InputError(f"its task {name} is a class of a file; name it: --task {code['file']}")
    made = make_task(name, fields, manifest.get("version"))
    now = origin(type(made))
    if code and (now is None or now[1] != code.get("sha256")):
        then, is_now = str(code.get("sha256"))[:12], now[1][:12] if now else "unknown"
        raise InputError(
            f"its task {name} was {code['file']} with the SHA-256 {then}..., which is {is_now}... "
            "now: restore the file; or, if the change does not matter, write the new SHA-256 (of "
            "sha256sum) into data.json"
        )
    return made


def _imported(module: str, attribute: str) -> "type[_task.Task]":
    return getattr(importlib.import_module(module, __name__), attribute)
