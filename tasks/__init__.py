"""The tasks: each is one file, imported as `eqloop.tasks`."""

if __name__ != "eqloop.tasks":
    raise ImportError(f"import eqloop.tasks, not {__name__!r}")

import dataclasses
import difflib
import importlib
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from .._errors import InputError

if TYPE_CHECKING:
    from .._task import AbstractTask
    from ._files import Tally as Tally
    from ._files import refuse as refuse
    from ._files import replaceable as replaceable
    from ._files import write_atomic as write_atomic

_OF_FILES = ("Tally", "refuse", "replaceable", "write_atomic")


def __getattr__(name: str) -> object:
    """What `eqloop.tasks` exports of `_files`, imported on first use: it imports JAX."""
    if name not in _OF_FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("._files", __name__), name)


class _Tasks(Mapping[str, "type[AbstractTask]"]):
    """Name -> class; a task's module is imported when its class is asked for, so that listing
    the names imports neither JAX nor Numba."""

    _places: typing.ClassVar[dict[str, tuple[str, str]]] = {
        "prefix-sums": (".prefix_sums", "PrefixSums"),
        "sudoku": (".sudoku", "Sudoku"),
        "chess": (".chess", "Chess"),
    }

    def __getitem__(self, name: str) -> "type[AbstractTask]":
        return _imported(*self._places[name])

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


TASKS: Mapping[str, "type[AbstractTask]"] = _Tasks()
"""Every task by its name on the command line. To add one, write its file and name it above."""


_OLD: dict[tuple[str, int], tuple[str, str]] = {("chess", 1): (".chess", "ChessVersion1")}
"""Earlier versions of a task that runs may have been made with: (name, version) -> its class."""


def make_task(name: str, fields: Mapping[str, object], version: object = None) -> "AbstractTask":
    """The task called `name` with the given fields, and its defaults for the others.

    **Arguments:**

    - `version`: the version of the task that a run was made with, so that it goes on seeing its
      examples as it did; by default the newest.

    **Raises** `InputError` for an unknown name, version or field (with the nearest known one), and
    for a value of a wrong type. An integer will do for a float.
    """
    if name not in TASKS:
        raise InputError(f"task {name!r} is not known; {_nearest(name, TASKS)}")
    task = TASKS[name]
    if version is not None and version != task.version:
        if not isinstance(version, int) or (name, version) not in _OLD:
            raise InputError(
                f"version {version!r} of the task {name} is not known (this is version "
                f"{task.version}); use the eqloop that made the run"
            )
        task = _imported(*_OLD[name, version])
    known = {field.name: field.type for field in dataclasses.fields(task)}
    values = {}
    for field, value in fields.items():
        if field not in known:
            raise InputError(f"task.{field} is no field of {name}; {_nearest(field, known)}")
        values[field] = _typed(f"task.{field}", value, known[field])
    return task(**values)


def _imported(module: str, attribute: str) -> "type[AbstractTask]":
    return getattr(importlib.import_module(module, __name__), attribute)


def _nearest(word: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(word, known, 1, 0.5)
    return f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(known)}"


def _typed(where: str, value: object, kind: object) -> object:
    if typing.get_origin(kind) is typing.Literal:
        choices = typing.get_args(kind)
        if value in choices and type(value) in {type(choice) for choice in choices}:
            return value
        raise InputError(f"{where}={value!r}: must be one of {', '.join(map(repr, choices))}")
    if kind is float and type(value) is int:
        return float(value)
    if isinstance(kind, type) and type(value) is not kind:
        article = "an" if kind is int else "a"
        raise InputError(
            f"{where}={value!r}: must be {article} {kind.__name__}, not {type(value).__name__}"
        )
    return value
