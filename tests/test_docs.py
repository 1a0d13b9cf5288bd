"""The site: every public name is on one page of the API, and its pages are in its navigation."""

import ast
import importlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from test_docstrings import ROOMS

import eqloop
from eqloop.tasks import TASKS

DOCS = Path(__file__).resolve().parents[1] / "docs"

# An object is its name and its identity: rooms share objects, and constants may be equal.
Public = tuple[str, int]


def key(name: str, value: Any) -> Public:
    return name, id(value)


def public_names(room: str) -> Iterator[str]:
    """The names that a room exports on purpose: what it imports as `X as X` from the package, and
    what it defines."""
    module = importlib.import_module(room)
    assert module.__file__ is not None
    source = Path(module.__file__)
    source = source.with_name("_contents.py") if room == "eqloop" else source
    tree = ast.parse(source.read_text("utf-8"))
    names = {"InputError"} if room == "eqloop" else set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            names |= {alias.asname for alias in node.names if alias.asname}
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        names |= {ast.unparse(target) for target in targets}
    for name in sorted(names):
        if not name.startswith("_") and not isinstance(getattr(module, name), ModuleType):
            yield name


def documented() -> Iterator[tuple[str, Public]]:
    """Page and object of every `::: eqloop.X` of the API pages."""
    for page in sorted(DOCS.glob("api/*.md")):
        for path in re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.MULTILINE):
            module, name = path.rsplit(".", 1)
            yield page.name, key(name, getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_on_one_page(room):
    entries = Counter(item for _, item in documented())
    module = importlib.import_module(room)
    counts = {name: entries[key(name, getattr(module, name))] for name in public_names(room)}
    assert counts
    assert {name: count for name, count in counts.items() if count != 1} == {}


def test_the_pages_have_nothing_else():
    public = {
        key(name, getattr(importlib.import_module(room), name))
        for room in ROOMS
        for name in public_names(room)
    }
    public |= {key(task.__name__, task) for task in TASKS.values()}
    assert [(page, item) for page, item in documented() if item not in public] == []
    assert {key(task.__name__, task) for task in TASKS.values()} <= {i for _, i in documented()}


def test_the_rooms_are_all_rooms():
    assert set(ROOMS) == {"eqloop", *(f"eqloop.{room}" for room in eqloop._ROOMS)}
