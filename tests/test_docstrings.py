"""The docstrings of the library are complete, and their examples run and print what they say."""

import ast
import doctest
import enum
import importlib
import inspect
import itertools
import re
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

import pytest

import eqloop

ROOMS = ["eqloop"] + [
    f"eqloop.{room}"
    for room in (
        *("audit", "claims", "evaluate", "interop", "nn", "recursive", "report", "run"),
        *("stability", "starts", "sweep", "tasks", "train"),
    )
]

WITHOUT_EXAMPLE = (
    *(
        eqloop.train.Diverged,
        eqloop.train.LostProcess,
    ),  # the library raises it; users do not make one
    *(eqloop.train.exit_now, eqloop.sweep.stop_with_parent),  # these end the process
    eqloop.sweep.submit,  # needs submitit
    *(
        eqloop.claims.examine,
        eqloop.report.write_stability,
        eqloop.run.save_stability,
    ),  # these take tens of seconds; tests of the commands run them
)

SLOW = (
    eqloop.GradientAuditor,
    *(eqloop.stability.analyse, eqloop.stability.judge),
    *(eqloop.stability.geometry, eqloop.stability.input_dependence),
    *(eqloop.stability.reachability, eqloop.stability.spectrum),
    *(eqloop.stability.find_points, eqloop.stability.points, eqloop.stability.edge_state),
    *(eqloop.stability.basins, eqloop.stability.basin_shares),
)

MORE = [eqloop.Split.of, *eqloop.tasks.TASKS.values()]
"""Items with an example that no room exports by a name of their own."""


def exported(room: str) -> list[Any]:
    """The classes and functions that a room exports, without those that it has from other rooms.

    What `eqloop` exports is defined in its private modules; those of the tasks are `eqloop.tasks`.
    """
    module = importlib.import_module(room)
    items = [getattr(module, name) for name in dir(module) if not name.startswith("_")]
    home = r"eqloop\._(?!task)" if room == "eqloop" else re.escape(room)
    home += {
        "eqloop.interop": r"|eqloop\._weight_files",
        "eqloop.nn": r"|eqloop\._places",
        **dict.fromkeys(("eqloop.claims", "eqloop.stability"), r"|eqloop\._stability_report"),
    }.get(room, "")
    return [item for item in items if callable(item) and re.match(home, item.__module__)]


def lacking(item: Any) -> Iterator[str]:
    """What the docstring of a class or function does not say.

    - Every argument has a bullet; every field has one, or a docstring below it.
    - A function that returns something says what, under Returns.
    - Code that raises says when, under Raises.
    - Every function has an example, and every class but a record, which has Attributes instead of
      Arguments, or is a dictionary: a user does not make one.
    - Every public method has a docstring, its own or that of the interface.
    """
    is_class, is_dict = inspect.isclass(item), typing.is_typeddict(item)
    text = inspect.cleandoc((vars(item).get("__doc__") if is_class else item.__doc__) or "")
    source = inspect.getsource(item)
    if not (is_class and issubclass(item, enum.Enum | BaseException)):
        bullets = re.findall(r"^- ((?:`\w+`(?:, )?)+):", text, re.MULTILINE)
        described = {name for bullet in bullets for name in re.findall(r"\w+", bullet)}
        described |= set(described_fields(source)) if is_class else set()
        names = vars(item)["__annotations__"] if is_dict else inspect.signature(item).parameters
        yield from (f"bullet {name}" for name in names if name not in described)
    returned = None if is_class else inspect.signature(item).return_annotation
    if returned not in (None, typing.NoReturn) and "**Returns" not in text:
        yield "Returns"
    raises = any(
        isinstance(node, ast.Raise) for node in ast.walk(ast.parse(textwrap.dedent(source)))
    )
    if raises and "**Raises" not in source:
        yield "Raises"
    is_record = is_dict or (is_class and "**Attributes:**" in text)
    if ">>>" not in text and not is_record and item not in WITHOUT_EXAMPLE:
        yield "example"
    for name, member in vars(item).items() if is_class else ():
        is_method = isinstance(member, property | classmethod) or inspect.isfunction(member)
        if is_method and not name.startswith("_") and not inspect.getdoc(getattr(item, name)):
            yield f"docstring of {name}"


def described_fields(source: str) -> Iterator[str]:
    """The fields of a class that have a docstring below them."""
    (cls,) = ast.parse(textwrap.dedent(source)).body
    for field, below in itertools.pairwise(typing.cast(ast.ClassDef, cls).body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            yield ast.unparse(field.target)


def has_example(item: Any) -> bool:
    return ">>>" in (inspect.getdoc(item) or "")


def cases() -> list[Any]:
    items = [item for room in ROOMS for item in exported(room) if has_example(item)]
    marked = [pytest.param(item, marks=pytest.mark.slow) for item in SLOW]
    return [*marked, *(item for item in [*items, *MORE] if item not in SLOW)]


@pytest.mark.parametrize("room", ROOMS)
def test_every_exported_name_says_what_a_user_needs(room):
    items = exported(room)
    assert items
    assert {i.__name__: lacks for i in items if (lacks := list(lacking(i)))} == {}


def test_a_docstring_that_lacks_something_is_recognised():
    class Bare:
        """Says nothing.

        - `made`, `ready`: in one bullet.
        """

        field: int
        """Below it."""

        def __init__(self, made: int, ready: int, other: int, field: int):
            raise ValueError

        def method(self): ...

    def silent(argument: int) -> int:
        return argument

    assert list(lacking(Bare)) == ["bullet other", "Raises", "example", "docstring of method"]
    assert list(lacking(silent)) == ["bullet argument", "Returns", "example"]


@pytest.mark.parametrize("item", cases(), ids=lambda item: item.__name__)
def test_the_example_of_a_public_name_runs(item, monkeypatch):
    # An example may register a task, which other tests must not see.
    monkeypatch.setattr(eqloop.tasks.TASKS, "registered", {})
    docstring = inspect.getdoc(item)
    assert docstring is not None
    example = doctest.DocTestParser().get_doctest(docstring, {}, item.__name__, None, None)
    assert example.examples, f"the docstring of {item.__name__} has no example"
    report: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    failures = runner.run(example, out=report.append).failed
    assert not failures, "".join(report)
