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

# Every part may use these: the exception for users, how text from outside is shown, how numbers
# are written, the names of scores, which checkpoints to keep, how far a run can be lengthened, and
# imports on first use.
WORDS = {"_errors", "_text", "_numbers", "_scores", "_remat", "_precision", "_evenly", "_lazy"}
# The loop: its pieces, each of which may use those before it.
PIECES = (
    *("_norms", "_solution", "_iteration", "_linear"),
    *("_noise", "_solver", "_adjoint", "_closed_map", "_equilibrium", "starts"),
)
LOOP = set(PIECES)
# Atomic writes of files, and tables in them.
FILING = {"_files", "_tables"}
MODEL = LOOP | {"nn", "_model", "_cross_entropy", "_q_head"}

ARROWS: dict[str, set[str]] = {
    "_errors": set(),
    "_text": set(),
    "_numbers": set(),
    "_scores": set(),
    "_remat": set(),
    "_precision": set(),
    # Which of many examples to take.
    "_evenly": set(),
    # The names of the spec that say where a block has its norms and its recall.
    "_places": set(),
    # Typed fields of tables, and the message about a wrong one.
    "_fields": {"_errors", "_text"},
    "_files": set(),
    "_arrays": set(),
    "_tables": WORDS | {"_files"},
    # The format of the files of weights, ours and those of other codes.
    "_safetensors": {"_errors", "_text"},
    # Weights of other codes, from files that are not trusted: no JAX, no objects but arrays.
    "_weight_files": WORDS | FILING | {"_safetensors"},
    # Dataclasses as the schemas of such tables.
    "_schema": WORDS | {"_fields", "_tables"},
    # The schema of a stability report: `stability` and `claims` make one, `run` writes and reads
    # it. A report saves itself; `report` draws it and gets its folder.
    "_stability_report": WORDS | {"_schema", "_tables", "report"},
    # Names of a package that are imported on first use.
    "_lazy": set(),
    # Classes from files and installed distributions.
    "_plugins": WORDS | {"_fields", "_files"},
    # The names of such classes on the command line and in specs.
    "_outside": WORDS | {"_adjoint", "_plugins", "_solver", "run"},
    # What a task is, and what tasks share: splits, their cache, files of puzzles, pictures.
    "_task": WORDS | {"_files", "_plugins"},
    "nn": WORDS | {"_places"},
    # Solvers, gradients and stability see a function f(z, x) and never a model.
    **{name: WORDS | set(PIECES[:number]) for number, name in enumerate(PIECES)},
    "stability": WORDS | LOOP | {"_stability_report"},
    "_model": WORDS | LOOP | {"nn"},
    "_cross_entropy": WORDS | {"nn"},
    "_q_head": set(),
    # Models with nested loops, carried state and halting.
    "recursive": WORDS | LOOP | {"nn", "_cross_entropy", "_model", "_q_head"},
    # `interop` has rules for names and shapes; `_weight_files` reads files for it.
    "interop": WORDS | {"nn", "_model", "_weight_files", "recursive", "_solver", "starts"},
    # The files of a run; this part knows no model. It uses `_task` only for types of arguments.
    "run": WORDS
    | FILING
    | {"_arrays", "_fields", "_places", "_safetensors", "_schema", "_stability_report", "_task"},
    # This part makes the objects that a spec names.
    "_build": WORDS
    | LOOP
    | {"_arrays", "_fields", "_model", "_outside", "_plugins", "nn", "recursive", "run"},
    "evaluate": WORDS | MODEL | {"_task", "_build", "run"},
    "audit": WORDS | MODEL | {"_task", "_build", "run"},
    # Of `recursive` it takes the optimiser AdamATan2.
    "train": WORDS
    | MODEL
    | FILING
    | {
        "_arrays",
        "_fields",
        "_outside",
        "_task",
        "_build",
        "run",
        "evaluate",
        "audit",
        "recursive",
    },
    # This part presents a model on its task as the map that stability measures.
    "claims": WORDS
    | MODEL
    | {"_stability_report", "_task", "run", "evaluate", "audit", "stability"},
    # A sweep is the runs of a grid, each in its own folder.
    "sweep": WORDS
    | FILING
    | {"_fields", "_outside", "_plugins", "_task", "_build", "run", "evaluate", "train", "claims"},
    # `report` reads folders through `run` only; `_files` writes its pages.
    "report": WORDS | {"_files", "_stability_report", "run"},
    "tasks": WORDS | {"_fields", "_files", "_plugins", "_task"},
    "cli": WORDS
    | {"__init__", "_build", "_fields", "_files", "_load", "_task", "_weight_files", "audit"}
    | {"_outside", "claims"}
    | {"evaluate", "interop", "report"}
    | {"_stability_report", "run", "stability", "sweep", "tasks", "train"},
    # `eqloop.load` gives a run with its task: the one place where the library reaches for the tasks
    # that come with it, and only when it is called.
    "_load": WORDS | FILING | {"_build", "_fields", "_hub", "_model", "_task", "run", "tasks"},
    "_hub": WORDS | {"run"},
    "_contents": WORDS
    | LOOP
    | {"_load", "_model", "_task", "audit", "interop", "nn", "recursive"}
    | {"stability"},
    "__init__": {"_errors", "_contents"},
}

SOLVERS = {"optimistix", "lineax", "diffrax"}
MAY_SOLVE = LOOP | {"stability"}

FILES = {"csv", "gzip", "io", "mmap", "os", "pathlib", "safetensors", "shutil", "tempfile"}
FILES |= {"zipfile"}
MAY_TOUCH_FILES = {*FILING, "_load", "_plugins", "_task", "run", "train", "sweep", "report"}
MAY_TOUCH_FILES |= {"_hub", "_safetensors", "_weight_files", "tasks", "cli"}
# The caller gives a stability report the folder to save itself in.
MAY_NAME_FILES = MAY_TOUCH_FILES | {"_stability_report"}


def sources() -> list[Path]:
    paths = []
    for folder in ("eqloop", "tasks", "cli"):
        paths += [p for p in (ROOT / folder).rglob("*.py") if not linked(p)]
    return sorted(paths)


def linked(path: Path) -> bool:
    """Whether `path` is reached through `eqloop/tasks` or `eqloop/cli`, and is therefore a
    duplicate."""
    return any(parent.is_symlink() for parent in path.parents if parent != ROOT)


def module(path: Path) -> tuple[str, ...]:
    """The name a file is imported by: `tasks/sudoku.py` is `("eqloop", "tasks", "sudoku")`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts if parts[0] == "eqloop" else ("eqloop", *parts)


def part(name: tuple[str, ...]) -> str:
    """The row of the table that a module belongs to."""
    return name[1] if len(name) > 1 else "__init__"


def imports(path: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Return the line and the full dotted name of every import of a file, relative names
    resolved."""
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
    room = part(module(path))
    assert room in ARROWS, f"eqloop.{room} is new: give it a row in ARROWS"
    for line, name in imports(path):
        where = f"{path.relative_to(ROOT)}:{line}"
        if name[0] == "eqloop":
            target = part(name)
            assert target == room or target in ARROWS[room], (
                f"{where}: {room} must not use {target}"
            )
        assert name[0] not in {"tasks", "cli", "tests", "benchmarks"}, f"{where}: imports {name[0]}"
        if name[0] in SOLVERS:
            assert room in MAY_SOLVE, f"{where}: {room} must not use {name[0]}"
        if name[0] in FILES:
            allowed = MAY_NAME_FILES if name[0] == "pathlib" else MAY_TOUCH_FILES
            assert room in allowed, f"{where}: {room} must not touch files ({name[0]})"


def private_imports(path: Path) -> Iterator[str]:
    """List imports of names that are private to another part: a module or a name with an underscore
    inside that part. Parts that are called `_x` are rooms of the package, and may be imported."""
    here = module(path)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names: list[tuple[str, ...]] = []
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            names = [(*base, alias.name) for alias in node.names]
        for name in names:
            private = any(piece.startswith("_") for piece in name[2:])
            if name[0] == "eqloop" and part(name) != part(here) and private:
                yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}: {'.'.join(name)}"


def test_no_part_imports_private_names_of_another():
    assert [line for path in sources() for line in private_imports(path)] == []


def test_a_private_import_is_seen(tmp_path, monkeypatch):
    """`private_imports` reports each form of such an import, and no other import."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "eqloop" / "sweep" / "_x.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "from ..train._step import put\n"
        "from ..train import _step\n"
        "import eqloop.run._log\n"
        "from .._files import write_atomic\n"
        "from ._grid import Cell\n"
        "from ..run import open_run\n"
    )
    assert [line.split(":")[1] for line in private_imports(path)] == ["1", "2", "3"]


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_hidden_reads_or_pickles(path):
    """`open` is called only where files may be touched; nothing uses pickle, eval or exec, since
    files are not trusted."""
    room = part(module(path))
    for line, name in imports(path):
        banned = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
        assert name[0] not in banned, f"{path}:{line}: {name[0]} can run code from a file"
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec", "__import__"}, f"{path}:{node.lineno}"
            if node.func.id == "open":
                assert room in MAY_TOUCH_FILES, f"{path}:{node.lineno}: {room} must not touch files"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant), f"{path}: allow_pickle is not a literal"
            assert node.value.value is False, f"{path}: allow_pickle"


def test_the_library_never_imports_tasks_or_commands():
    """The library imports neither tasks nor commands: the two most important arrows, checked
    without the table."""
    for name, targets in ARROWS.items():
        assert "tasks" not in targets or name in ("cli", "_load")
        assert "cli" not in targets
    assert not ARROWS["nn"] & LOOP
