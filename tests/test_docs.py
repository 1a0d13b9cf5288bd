"""The site: every public name is on one page of the API; pages that repeat facts of the code."""

import ast
import dataclasses
import importlib
import re
import runpy
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from test_architecture import ARROWS
from test_docstrings import ROOMS

import eqloop
from eqloop.run import GRADIENTS, SOLVERS, open_run, presets, resolve
from eqloop.tasks import TASKS, make_task

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


def test_the_rooms_of_the_page_on_design_are_in_the_order_of_the_arrows():
    rows = (DOCS / "design.md").read_text("utf-8").partition("## Rooms")[2].partition("\n## ")[0]
    rooms = re.findall(r"^\| `(\w+)` \|", rows, re.MULTILINE)
    assert len(rooms) == len(set(rooms)) > 10
    for number, room in enumerate(rooms):
        assert not ARROWS[room] & set(rooms[:number]), room


def table(page: str, column: str) -> list[list[str]]:
    """The rows of the first table of a page that has this column, as cells of text."""
    lines = iter((DOCS / page).read_text("utf-8").splitlines())
    next(line for line in lines if f"| {column} |" in line)
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


@pytest.mark.parametrize(
    ("column", "names"), [("`--solver`", SOLVERS), ("`--gradient`", GRADIENTS)]
)
def test_the_tables_of_solvers_and_gradients_have_the_names_of_options(column, names):
    options = [row[1].strip("`") for row in table("solvers-and-gradients.md", column)]
    assert sorted(option for option in options if "--set" not in option) == sorted(names)


def test_the_table_of_presets_is_that_of_the_code():
    known = {}
    for names, tasks, _ in table("running.md", "preset"):
        where = sorted(TASKS) if tasks.startswith("all") else tasks.split(", ")
        known |= dict.fromkeys(re.findall(r"`(\S+)`", names), where)
    assert known == presets()


@pytest.mark.parametrize("name", ["prefix-sums", "sudoku", "chess"])
def test_the_command_of_a_trained_model_makes_its_spec(name):
    """But for the name of the preset, since what `quick` sets has changed, and for the default of
    a memory that `unroll` does not have."""
    card = (DOCS / "models.md").read_text("utf-8").partition(f"\n## {name}\n")[2]
    line = re.search(r"^\| made by \| `eqloop train(.*)` \|$", card, re.MULTILINE)
    assert line is not None
    words, options = iter(shlex.split(line[1])), {"--task": "prefix-sums", "--preset": "quick"}
    settings = []
    for word in words:
        if word == "--set":
            settings.append(next(words))
        else:
            options[word] = next(words)
    steps = {"steps": int(options["--steps"])} if "--steps" in options else {}
    spec = resolve(options["--task"], options["--preset"], settings, make_task=make_task, **steps)
    released = open_run(DOCS.parent / "benchmarks/release" / name).spec
    assert make_task(spec.task_name, spec.task_fields) == make_task(name, released.task_fields)
    assert released.solver.name == "unroll"
    solver = dataclasses.replace(spec.solver, memory=released.solver.memory)
    made = dataclasses.replace(spec, preset=released.preset, task=released.task, solver=solver)
    assert made == released


README = (DOCS.parent / "README.md").read_text("utf-8")
CITATION = (DOCS.parent / "CITATION.cff").read_text("utf-8")
repository = runpy.run_path(str(DOCS / "_site/repository.py"))
fill, fill_citation = repository["fill"], repository["fill_citation"]


def test_the_address_of_the_repository_has_one_place():
    """README.md and CITATION.cff have what follows from it, and no other file has an address."""
    address = repository["urls"]().get("Repository", "")
    assert fill(README, address) == README
    assert fill_citation(CITATION, address) == CITATION


def test_lines_with_the_address_come_and_go():
    page = "# eqloop\n\n<!-- badges -->\n<!-- /badges -->\n\n<!-- clone -->\n<!-- /clone -->\n"
    filled = fill(page, "https://forge.example/us/eqloop")
    assert "git clone https://forge.example/us/eqloop && cd eqloop\n" in filled
    assert filled.count("https://forge.example/us/eqloop") == 3
    assert fill(filled, "https://forge.example/us/eqloop") == filled
    assert fill(filled, "") == page
    cited = fill_citation(CITATION, "https://forge.example/us/eqloop")
    assert 'repository-code: "https://forge.example/us/eqloop"' in cited
    assert fill_citation(cited, "") == CITATION


def test_the_citation_has_the_version():
    assert f"\nversion: {eqloop.__version__}\n" in CITATION
    assert f"{{{eqloop.__version__}}}" in (DOCS / "citation.md").read_text("utf-8")
