"""Which part of the program may import which: the table, and a parser that holds the code to it.

A part is a module or package directly under `eqloop/`; `tasks` and `cli` are the folders that are
linked there. The arrows are read from the source, so imports inside functions and under
`TYPE_CHECKING` count as well.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What every part may use: the exception for users, how text from outside is shown, the words for
# shapes, what to keep.
WORDS = {"_errors", "_text", "_custom_types", "_remat"}
# The loop: its pieces, each of which may use those before it.
PIECES = (
    *("_norms", "_solution", "_iteration", "_linear"),
    *("_solver", "_adjoint", "_closed_map", "_equilibrium"),
)
LOOP = set(PIECES)
# Files that are there whole or not at all, and tables in them.
FILING = {"_files", "_tables"}
MODEL = LOOP | {"nn", "_model", "_cross_entropy"}

# What `eqloop.NAME` opens.
ROOMS = {
    *("audit", "claims", "evaluate", "interop", "nn", "report"),
    *("run", "stability", "sweep", "tasks", "train"),
}
# Above the rooms, like the commands: they may name the tasks, and no room imports them.
DOORS = {"cli", "_load", "_contents", "__init__"}

ARROWS: dict[str, set[str]] = {
    "_errors": set(),
    "_text": set(),
    "_custom_types": set(),
    "_remat": set(),
    # Typed fields of tables, and how a wrong one is told.
    "_fields": {"_errors", "_text"},
    "_files": set(),
    "_tables": WORDS | {"_files"},
    "_task": WORDS,
    "nn": WORDS,
    # Solvers, gradients and stability see a function f(z, x) and never a model.
    **{name: WORDS | set(PIECES[:number]) for number, name in enumerate(PIECES)},
    # What was measured saves itself, and is drawn by `report`, which it hands a folder.
    "stability": WORDS | LOOP | {"_tables", "report"},
    "_model": WORDS | LOOP | {"nn"},
    "_cross_entropy": WORDS | {"nn"},
    "interop": WORDS | {"nn", "_model"},
    # What a run is on disk: knows no model. `_task` only for the types of what is handed in.
    "run": WORDS | FILING | {"_fields", "_task"},
    # From a spec to the objects that it names.
    "_build": WORDS | LOOP | {"_fields", "_model", "run"},
    "evaluate": WORDS | MODEL | {"_tables", "_task", "_build", "run"},
    "audit": WORDS | MODEL | {"_task", "_build", "run"},
    "train": WORDS | MODEL | FILING | {"_fields", "_task", "_build", "run", "evaluate", "audit"},
    # A model on its task as what stability measures.
    "claims": WORDS | MODEL | {"_task", "run", "evaluate", "audit", "stability"},
    # Many runs of a grid, each in its folder.
    "sweep": WORDS | FILING | {"_fields", "_task", "_build", "run", "evaluate", "train", "claims"},
    # Reads folders through `run` and nothing else.
    "report": WORDS | FILING | {"run"},
    "tasks": WORDS | {"_fields", "_files", "_task"},
    "cli": WORDS
    | {"__init__", "_build", "_fields", "_task", "audit", "claims", "evaluate", "report", "run"}
    | {"stability", "sweep", "tasks", "train"},
    # The doors: what a user opens by name, imported on first use. `load` names the task of a run.
    "_load": WORDS | {"_build", "_fields", "_model", "_tables", "_task", "nn", "run", "tasks"},
    "_contents": WORDS | LOOP | {"_task", "_model", "_load", "audit"},
    "__init__": {"_errors", "_contents", *ROOMS},
}

SOLVERS = {"optimistix", "lineax", "diffrax"}
MAY_SOLVE = LOOP | {"stability"}

FILES = {"csv", "gzip", "io", "mmap", "os", "safetensors", "shutil", "tempfile", "zipfile"}
MAY_TOUCH_FILES = {*FILING, "run", "train", "sweep", "report", "tasks", "cli"}


def sources() -> list[Path]:
    found = []
    for folder in ("eqloop", "tasks", "cli"):
        found += [p for p in (ROOT / folder).rglob("*.py") if not linked(p)]
    return sorted(found)


def linked(path: Path) -> bool:
    """Whether `path` is reached through `eqloop/tasks` or `eqloop/cli`, and so seen twice."""
    return any(parent.is_symlink() for parent in path.parents if parent != ROOT)


def module(path: Path) -> tuple[str, ...]:
    """The name a file is imported by: `tasks/sudoku.py` is `("eqloop", "tasks", "sudoku")`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts if parts[0] == "eqloop" else ("eqloop", *parts)


def part(name: tuple[str, ...]) -> str:
    """The row of the table that a module belongs to."""
    return name[1] if len(name) > 1 else "__init__"


def imports(path: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line and full dotted name of everything that a file imports, relative names resolved."""
    here = module(path)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            if base != ("eqloop",):
                yield node.lineno, base
                continue
            for alias in node.names:  # a part, or a name that eqloop/__init__.py defines
                yield node.lineno, (*base, alias.name) if alias.name in ARROWS else base


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_arrows(path):
    own = part(module(path))
    assert own in ARROWS, f"eqloop.{own} is new: give it a row in ARROWS"
    for line, name in imports(path):
        where = f"{path.relative_to(ROOT)}:{line}"
        if name[0] == "eqloop":
            target = part(name)
            assert target == own or target in ARROWS[own], f"{where}: {own} must not use {target}"
        assert name[0] not in {"tasks", "cli", "tests", "benchmarks"}, f"{where}: imports {name[0]}"
        if name[0] in SOLVERS:
            assert own in MAY_SOLVE, f"{where}: {own} must not use {name[0]}"
        if name[0] in FILES:
            assert own in MAY_TOUCH_FILES, f"{where}: {own} must not touch files ({name[0]})"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_hidden_reads_or_pickles(path):
    """`open` only where files may be touched; no pickle, eval or exec: files are not trusted."""
    own = part(module(path))
    for line, name in imports(path):
        banned = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
        assert name[0] not in banned, f"{path}:{line}: {name[0]} can run code from a file"
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec", "__import__"}, f"{path}:{node.lineno}"
            if node.func.id == "open":
                assert own in MAY_TOUCH_FILES, f"{path}:{node.lineno}: {own} must not touch files"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant), f"{path}: allow_pickle is not a literal"
            assert node.value.value is False, f"{path}: allow_pickle"


def test_the_library_never_imports_tasks_or_commands():
    """The arrows that matter most, said once more without the table: the rooms know neither the
    tasks nor the doors. Only the doors may name a task, since they are what a user calls."""
    for name, targets in ARROWS.items():
        assert "cli" not in targets
        if name not in DOORS:
            assert not targets & {"tasks", *DOORS}
    assert not ARROWS["nn"] & LOOP
