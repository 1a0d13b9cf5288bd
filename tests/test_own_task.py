"""A user's own task: its defaults, `register`, entry points, and a class in a file for every
command."""

import dataclasses
import importlib.metadata
import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqloop
from eqloop import InputError
from eqloop._task import refuse
from eqloop.cli import main
from eqloop.run import resolve
from eqloop.tasks import TASKS, make_task, named, register, task_of_run

EXAMPLE = Path(__file__).resolve().parents[1] / "docs" / "examples" / "addition.py"
CLASS = f"{EXAMPLE}:Addition"
SMALL = {
    "task.digits": 6,
    "task.rows": 40,
    "model.width": 16,
    "model.heads": 2,
    "model.blocks": 1,
    "solver.steps": 2,
    "train.burn_in": 0,
    "train.batch": 8,
    "train.validate_every": 4,
    "train.validation_iterations": 4,
}


class Mirror(eqloop.Task):
    """A task with only the required members: a board of two axes, to be mirrored."""

    grid, channels, classes = (3, 4), 10, 10  # pyright: ignore

    def generate(self, rows, seed, *, progress=None):
        boards = np.random.default_rng(seed).integers(0, 10, (rows, 3, 4))
        return eqloop.Split.of(boards, boards[:, :, ::-1])

    def encode(self, tokens):
        return jax.nn.one_hot(tokens, 10)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """Registered tasks are removed after each test."""
    monkeypatch.setattr(TASKS, "registered", {})


# --- the defaults


def test_the_example_is_short():
    assert len(EXAMPLE.read_text("utf-8").splitlines()) <= 80


@pytest.mark.slow
def test_any_map_is_analysed_and_audited(capsys):
    path = EXAMPLE.with_name("any_map.py")
    assert len(path.read_text("utf-8").splitlines()) <= 40
    runpy.run_path(str(path))
    out = capsys.readouterr().out
    assert "reachability: reached from every start" in out
    assert "implicit             cosine to backpropagation 1.0000" in out


def test_five_members_make_a_task():
    task = Mirror(rows=50)
    assert (task.name, task.version, task.attention) == ("mirror", 1, "full")
    data = task.load()
    assert [len(split) for split in data.splits.values()] == [40, 10, 5, 5]
    pools = [set(split.puzzles.tolist()) for split in data.splits.values()]
    assert len(set.union(*pools)) == 60
    puzzle = data.splits["test"].take(slice(1))
    tokens, targets = puzzle.inputs[0], puzzle.targets[0]
    wrong = targets.copy()
    wrong[1, 2] ^= 1
    logits = jax.nn.one_hot(targets, 10)
    np.testing.assert_array_equal(task.predict(logits, tokens), targets)
    scores = task.score(jnp.array(wrong), tokens, jnp.array(targets))
    assert (bool(scores["exact"]), float(scores["cells"])) == (False, pytest.approx(11 / 12))
    same = task.transform(jax.random.key(0), tokens, targets)
    np.testing.assert_array_equal(same, (tokens, targets))
    assert task.check(puzzle, targets) == (True, "all 12 cells are right")
    assert task.check(puzzle, wrong) == (False, "1 of 12 cells are wrong, the first at 1, 2")
    assert (task.bands(puzzle), task.remarks(puzzle), task.judge(puzzle, puzzle.targets)) == (
        {},
        {},
        {},
    )
    parsed = task.parse(puzzle.puzzles[0].decode())
    np.testing.assert_array_equal(parsed.inputs, puzzle.inputs)
    assert task.check(parsed, targets)[0] is None
    assert task.render(puzzle, wrong).splitlines()[2].strip("[/red] ") == "^"
    assert (task.draw(puzzle, targets).count("zl12"), task.draw(puzzle, wrong).count("zl12")) == (
        0,
        1,
    )


def test_a_file_of_puzzles_makes_the_splits(tmp_path):
    task = Mirror()
    generated = task.generate(40, 3)
    path = tmp_path / "set.csv"
    task.write(generated.take(np.array([*range(40), 0])), path)
    data = dataclasses.replace(task, data=str(path)).load()
    assert [len(split) for split in data.splits.values()] == [26, 6, 4, 4]
    assert data.manifest["read"] == {"rows": 41, "bad": 0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("question,answer\n012,\n", "has 3 cells, but 12 (3 x 4) are needed"),
        ("question,answer\n012345678901,01\n", "has 2 cells, but the question has 12"),
        ("question\n01234567890é\n", "'é' is not a symbol of this task"),
        ("012345678901\n0123\n", "has 4 cells"),
    ],
)
def test_a_bad_row_is_named(tmp_path, text, words):
    path = tmp_path / "set.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        Mirror().read(path, on_bad=refuse)
    assert f"{path}:" in str(caught.value)
    assert words in str(caught.value)


def test_a_file_without_answers_does_not_train(tmp_path):
    path = tmp_path / "set.csv"
    path.write_text("question\n" + "".join(f"{n:012}\n" for n in range(20)))
    with pytest.raises(InputError, match="20 rows have no answer"):
        Mirror(data=str(path)).load()


def test_a_generator_with_few_examples_says_so():
    class Few(Mirror):
        def generate(self, rows, seed, *, progress=None):
            split = super().generate(rows, seed)
            return split.take(np.arange(rows) % 7)

    with pytest.raises(InputError, match=r"task\.rows=50: .* its generator gives 7; set fewer"):
        Few(rows=50).load()


@pytest.mark.parametrize(
    ("inputs", "targets", "words"),
    [
        ([[0.5]], [[1]], "must be integers"),
        ([[256]], [[1]], "from 0 to 255"),
        ([[1, 2]], [[1]], r"shape \(1, 2\) and targets \(1, 1\)"),
        ([1], [1], r"\(examples, \*grid\)"),
        ([[36]], [[1]], "the value 36 has no symbol"),
    ],
)
def test_a_split_of_what_is_none(inputs, targets, words):
    with pytest.raises(ValueError, match=words):
        eqloop.Split.of(inputs, targets)


# --- where a class comes from


def test_a_registered_class_is_known_by_its_name():
    assert register(Mirror) is Mirror
    assert TASKS["mirror"] is Mirror
    assert "mirror" in list(TASKS)
    spec = resolve("mirror", "quick", ["task.rows=50"], make_task=make_task)
    assert (spec.task_name, spec.model.grid, spec.model.attention) == ("mirror", (3, 4), "full")
    with pytest.raises(InputError, match=r"unknown field task\.row; did you mean task\.rows"):
        make_task("mirror", {"row": 1})


def test_what_cannot_be_registered():
    taken = type("Sudoku", (Mirror,), {})
    partial = type("Partial", (eqloop.Task,), {"grid": (1,), "channels": 1, "classes": 2})
    bare = type("Bare", (Mirror,), {"__annotations__": {"size": int}, "size": 3})
    cases: list[tuple[Any, str]] = [
        (int, "not a subclass of eqloop"),
        (taken, "belongs to a task of eqloop"),
        (partial, "does not define encode, generate"),
        (bare, r"fields \(size\) but is not a dataclass"),
    ]
    for task, words in cases:
        with pytest.raises(InputError, match=words):
            register(task)


def test_an_entry_point_is_known_by_its_name(monkeypatch):
    names = {"mirror": "Mirror", "other": "Mirror"}

    def points(*, group):
        assert group == "eqloop.tasks"
        place = f"{__name__}:"
        return [importlib.metadata.EntryPoint(n, place + c, group) for n, c in names.items()]

    monkeypatch.setattr(importlib.metadata, "entry_points", points)
    assert make_task("mirror", {"rows": 9}) == Mirror(rows=9)
    assert list(TASKS) == [
        "prefix-sums",
        "sudoku",
        "chess",
        "maze",
        "group-words",
        "mirror",
        "other",
    ]
    with pytest.raises(InputError, match="must have the same name"):
        make_task("other", {})


def test_the_cache_knows_the_code_of_a_file(tmp_path):
    """A file with the same fields and another generator gives other examples, not the cached
    ones."""
    path = tmp_path / "mine.py"
    hashes = []
    for source in (
        "",
        "Addition.generate = lambda s, rows, seed, progress=None: examples("
        "*np.random.default_rng(seed + 1).integers(0, 2, (2, rows, s.digits), np.uint8))\n",
    ):
        path.write_text(EXAMPLE.read_text("utf-8") + source)
        name = named(f"{path}:Addition")
        task = make_task(name, {"digits": 6, "rows": 30})
        hashes.append(task.load().manifest["splits"]["train"]["sha256"])  # pyright: ignore
    assert hashes[0] != hashes[1]


# --- a class of a file, by the commands


@pytest.fixture(scope="module")
def added(tmp_path_factory) -> tuple[Path, str]:
    """A run of the example task, from a copy of its file, and the class as `--task` names it."""
    folder = tmp_path_factory.mktemp("outside")
    shutil.copy(EXAMPLE, folder)
    run, task = folder / "run", f"{folder / EXAMPLE.name}:Addition"
    options = [f"--set={name}={value}" for name, value in SMALL.items()]
    command = ["train", "--task", task, "--out", str(run), "--steps", "4", *options]
    assert main(command) == 0
    return run, task


def test_the_run_records_the_file(added):
    run, task = added
    manifest = json.loads((run / "data.json").read_text())
    assert manifest["code"]["file"] == task
    assert len(manifest["code"]["sha256"]) == 64
    assert 'name = "addition"\n' in (run / "spec.toml").read_text()


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("eval {run} --iterations 4 --json", 0),
        ("eval {run} --budget 4 --rows 2 --split test --json", 0),
        ("solve {run} 101100+011011 --iterations 4", 1),
        # These commands have opened the run and loaded the task before they refuse the other
        # option.
        ("gradients {run} --layers none", 2),
        ("stability {run} --split none", 2),
        ("train --resume {run}", 0),
    ],
)
def test_every_command_takes_the_file_and_says_where_it_is_missing(added, cli, command, code):
    run, task = added
    args = command.format(run=run).split()
    refused, out, err = cli(*args)
    assert (refused, out) == (2, "")
    assert err.endswith(f"its task addition is a class of a file; pass it: --task {task}\n")
    exit_code, out, err = cli(*args, "--task", task)
    assert exit_code == code or (exit_code == 0 and args[0] == "solve"), err
    assert "name it" not in err
    assert ("the right answer" in out) == (args[0] == "solve" and exit_code == 1)
    if exit_code == 2:
        assert "none: must be one of " in err


def test_another_file_is_refused(added, cli, tmp_path):
    run, _ = added
    other_file = tmp_path / "addition.py"
    other_file.write_text(EXAMPLE.read_text("utf-8") + "# changed\n")
    for args in (("eval", run), ("train", "--resume", run)):
        code, _, err = cli(*args, "--task", f"{other_file}:Addition")
        assert code == 2
        assert "was " in err
        assert "with the SHA-256" in err
        assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["sudoku", "other"])
def test_every_command_refuses_a_task_that_is_not_the_one_of_the_run(added, cli, tmp_path, name):
    """The other task is given by its name, and as a class of a file."""
    run, _ = added
    file, source = tmp_path / "other.py", EXAMPLE.read_text("utf-8")
    file.write_text(source.replace("class Addition", "class Other"))
    other_task = name if name == "sudoku" else f"{file}:Other"
    for command in (
        ("eval", run),
        ("solve", run, "1+1"),
        ("gradients", run),
        ("stability", run),
        ("stability", run, "--check", "clusters"),
        ("train", "--resume", run),
    ):
        message = f"error: --task {other_task}: is {name}, but the task of {run} is addition\n"
        assert cli(*command, "--task", other_task) == (2, "", message)
    for command in (("stability", run, run, "--compare"), ("stability", "--check", "clusters")):
        code, out, err = cli(*command, "--task", other_task)
        assert (code, out) == (2, "")
        assert (
            err
            == f"error: --task {other_task} has no effect without a CKPT to load: leave it out\n"
        )


def test_a_run_brings_no_code(added, monkeypatch):
    """The file exists where the run says, but is not run unless the user names it."""
    run, _ = added
    monkeypatch.setattr("eqloop.tasks.load_class", lambda *_: pytest.fail("code was loaded"))
    manifest = json.loads((run / "data.json").read_text())
    with pytest.raises(InputError, match="pass it: --task"):
        task_of_run("addition", {}, manifest)


def test_the_data_commands(cli, tmp_path):
    file = tmp_path / "sums.csv"
    assert cli("data", "make", "--task", CLASS, "--rows", "8", "--out", file)[0] == 0
    code, out, _ = cli("data", "check", file, "--task", CLASS)
    assert (code, "8 rows are good, 0 are bad" in out) == (0, True)
    code, out, _ = cli("data", "show", file, "--task", CLASS, "--index", "3")
    assert (code, "answer" in out) == (0, True)
    file.write_text(file.read_text().replace("question", "input") + "01+10,00\n")
    assert cli("data", "check", file, "--task", CLASS)[0] == 1


def test_a_sweep_of_a_task_of_a_file(cli, tmp_path, monkeypatch):
    fields = [f'"{name}" = {value}' for name, value in (SMALL | {"train.steps": 2}).items()]
    lines = ['task = "addition"', 'preset = "quick"', "[set]", *fields, "[axes]", "seed = [0]"]
    grid, sweep = tmp_path / "grid.toml", tmp_path / "sweep"
    grid.write_text("\n".join([*lines, "[evaluate]", "iterations = 2", "rows = 2"]))
    code, _, err = cli("sweep", grid, "--out", sweep)
    assert (code, "for a task of a file use --task FILE.py:CLASS" in err) == (2, True)
    other_grid = tmp_path / "other.toml"
    other_grid.write_text(
        grid.read_text().replace('"addition"', '"prefix-sums"').replace("digits", "length")
    )
    code, _, err = cli("sweep", other_grid, "--out", sweep, "--task", CLASS)
    message = f"--task {CLASS}: is addition, but the task of {other_grid} is prefix-sums"
    assert (code, message in err, sweep.exists()) == (2, True, False)

    worked = []

    def here(sweep, command, jobs, *, watch):
        """Run the one worker in this process as its command says, without a parent to watch."""
        TASKS.registered.clear()  # pyright: ignore[reportAttributeAccessIssue]
        return main([*command[3:-1], "free"]) == 0

    def work(sweep, *, make_task):
        spec = sweep.grid.cells[0].spec
        worked.append(make_task(spec.task_name, spec.task_fields))

    monkeypatch.setattr("eqloop.sweep.run_local", here)
    monkeypatch.setattr("eqloop.sweep.work", work)
    code, out, _ = cli("sweep", grid, "--out", sweep, "--task", CLASS)
    assert (code, "1 missing" in out) == (1, True)
    assert [(task.name, task.digits) for task in worked] == [("addition", 6)]
