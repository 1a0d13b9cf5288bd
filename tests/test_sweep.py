"""Grids, the cells that they expand to, and sweeps that are killed, that fail, and that are
resumed."""

import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import jax
import jax.random as jr
import numpy as np
import pytest
import submitit  # noqa: F401 (here, as its logger holds on to the stderr that it finds first)
import sweep_child
from children import Child, start_server

from eqloop import InputError
from eqloop._tables import read_json
from eqloop.run import CellResult, ModelSpec, open_run, resolve
from eqloop.sweep import (
    Cell,
    Sweep,
    count,
    create_sweep,
    flops,
    grids,
    is_up_to_date,
    open_sweep,
    read_grid,
    run_local,
    submit,
    work,
)
from eqloop.sweep._cost import iterations
from eqloop.sweep._grid import parse_grid
from eqloop.tasks import make_task
from eqloop.train import train
from eqloop.train._loss import draw

CHILD = Path(__file__).with_name("sweep_child.py")

# Validation and evaluation have one shape: a process compiles or loads one program for both.
SMALL = """
task = "prefix-sums"
[set]
"task.length" = 8
"task.hard_length" = 8
"task.validation_length" = 8
"task.rows" = 200
"task.test_rows" = 32
"task.mark_first" = false
"model.width" = 8
"model.heads" = 2
"solver.steps" = 3
"train.burn_in" = 2
"train.batch" = 16
"train.steps" = 20
"train.validate_every" = 10
"train.validation_iterations" = 8
"train.validation_rows" = 16
"train.checkpoint_every" = 5
[evaluate]
iterations = 8
rows = 16
"""


def grid(axes: str, before: str = SMALL):
    return parse_grid(before + axes, "small", "small.toml", make_task=make_task)


# --- the file


def test_cells_are_the_product_of_the_axes():
    parsed = grid("""
[axes]
seed = [0, 1]
lr = [1e-3, 1e-2]
[axes.norm]
post = { "model.norm" = "post" }
gru = { "model.norm" = "peri", "model.residual" = "gru", "evaluate.rows" = 4 }
[[exclude]]
norm = "gru"
lr = [1e-2]
[[override]]
when = { norm = ["post"], seed = 1 }
set = { "train.clip" = 0.5, "train.lr" = 7e-3 }
""")
    assert parsed.axes == ("seed", "lr", "norm")
    assert [cell.name for cell in parsed.cells] == [
        "seed-0_lr-0.001_norm-post",
        "seed-0_lr-0.001_norm-gru",
        "seed-0_lr-0.01_norm-post",
        "seed-1_lr-0.001_norm-post",
        "seed-1_lr-0.001_norm-gru",
        "seed-1_lr-0.01_norm-post",
    ]
    cells = {cell.name: cell for cell in parsed.cells}
    gru = cells["seed-1_lr-0.001_norm-gru"]
    assert gru.axes == {"seed": 1, "lr": 1e-3, "norm": "gru"}
    assert (gru.spec.model.norm, gru.spec.model.residual) == ("peri", "gru")
    assert (gru.spec.train.seed, gru.spec.train.lr, gru.spec.train.clip) == (1, 1e-3, 1.0)
    assert (gru.evaluate.rows, gru.evaluate.iterations) == (4, 8)
    # Overrides come last, even after an axis.
    post = cells["seed-1_lr-0.01_norm-post"]
    assert (post.spec.train.lr, post.spec.train.clip, post.evaluate.rows) == (7e-3, 0.5, 16)
    assert cells["seed-0_lr-0.01_norm-post"].spec.train.clip == 1.0


def test_any_field_can_be_an_axis():
    parsed = grid("""
[axes]
solver = ["unroll", "fixed-point"]
gradient = ["backprop"]
"train.ema" = [0.0, 0.9]
""")
    assert [(c.spec.solver.name, c.spec.train.ema) for c in parsed.cells] == [
        ("unroll", 0.0),
        ("unroll", 0.9),
        ("fixed-point", 0.0),
        ("fixed-point", 0.9),
    ]
    tasks = parse_grid('[axes]\ntask = ["sudoku", "chess"]', "t", "t.toml", make_task=make_task)
    assert [cell.spec.task_name for cell in tasks.cells] == ["sudoku", "chess"]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ("", "must name at least one axis"),
        ("[axes]\nseed = []", "must name at least one axis"),
        ("[axes]\nseed = 3", "axes.seed must be a list"),
        ("[axes]\nseed = [1, 1]", "distinct numbers or words"),
        ("[axes]\nseed = [[1]]", "distinct numbers or words"),
        ("[axes]\nsede = [1]", "did you mean seed?"),
        ("[axes]\nnorm = ['pots']", "cell norm-pots: model.norm must be one of"),
        ("[axes]\n'model.widht' = [8]", "did you mean model.width?"),
        ("[axes.norm]\npost = 3", "axes.norm.post must be a table"),
        ("[axes]\nseed = [0]\n[[exclude]]\nlr = 1", "exclude: lr is not an axis"),
        ("[axes]\nseed = [0]\n[[exclude]]\nseed = 1", "seed is never 1"),
        ("[axes]\nseed = [0]\n[[exclude]]\nseed = 0", "every cell is excluded"),
        ("[axes]\nseed = [0]\n[[override]]\nseed = 1", "a table `when`"),
        ("[axes]\nseed = [0]\n[axis]\n", "did you mean axes?"),
        ("[axes]\npreset = ['paper', 'papre']", "unknown preset 'papre'; did you mean paper?"),
        ("[axes]\n'evaluate.rows' = [-1]", "evaluate.rows at least 0"),
        ("[axes]\n'evaluate.row' = [1]", "did you mean evaluate.rows?"),
        ("[axes.x]\n'a b' = {}\nab = {}", "two cells would have the name x-ab"),
        ("[axes]\nseed = [0", "not valid TOML"),
        ("[axes]\nseed = [0]\n[exclude]\nseed = 0", "must be a list of tables, [[exclude]]"),
        ("[axes]\nseed = [0]\n[[exclude]]\nseed = [[0]]", "exclude: seed is never [0]"),
        ("[axes]\nseed = [0]\n[[exclude]]\nseed = { a = 1 }", "exclude: seed is never {'a': 1}"),
        ("[axes]\nlr = [1]\n'train.lr' = [2]", "axes names lr twice, once by its other name"),
        ("[axes]\nseed = [0]\n[axes.x]\ny = { 'train.seed' = 1 }", "both set train.seed"),
        ("[axes.x]\ny = { lr = 1, 'train.lr' = 2 }", "axes.x.y names train.lr twice"),
        ("[axes]\n'../../z' = [0]", "a name must be of letters, digits"),
        ("[axes.status]\na = {}", "axes.status: tables of results have this column"),
        ("[axes.x]\n" + "a" * 200 + " = {}", "the name of a cell is longer than 200 letters"),
        ("[axes.x]\na = { preset = ['quick'] }", "preset must be text, got ['quick']"),
        ("[axes.x]\na = { task = 3 }", "task must be text, got 3"),
        ("[axes.x]\na = { lr = 2020-01-01 }", "train.lr must be a number"),
        ("[axes.x]\na = { lr = nan }", "train.lr must be finite, got nan"),
        ("[axes.x]\na = { 'evaluate.splits' = [] }", "at least one split, each once"),
        ("[axes.x]\na = { 'evaluate.splits' = ['test', 'test'] }", "at least one split"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_file(axes, message):
    with pytest.raises(InputError) as raised:
        grid(axes)
    assert str(raised.value).startswith("small.toml")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


HUNDRED = ", ".join(f"v{number} = {{}}" for number in range(100))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("a = " + "{a=" * 3000 + "1" + "}" * 3000, "nested too deeply"),
        (".".join("a" * 5000) + " = 1", "nested too deeply"),
        ("[axes]\nseed = [" + "9" * 5000 + "]", "5000 digits"),
        ("[axes]\nseed = [0x" + "f" * 9999 + "]", "an integer has more than 64 bits"),
        ("task = 0x" + "f" * 9999 + "\n[axes]\nseed = [0]", "an integer has more than 64 bits"),
        ("[axes]\nlr = [9223372036854775808]", "an integer has more than 64 bits"),
        ('[axes]\n"task.data" = ["a\\u0000b"]', "a text contains NUL"),
        ("slurm = 3\n[axes]\nseed = [0]", "slurm must be a table"),
        (
            "[axes]\n" + "".join(f"a{n} = {{ {HUNDRED} }}\n" for n in range(6)),
            "more than 100,000 combinations",
        ),
        ("[axes]\nseed = " + str([*range(20_000)]), "more than 10,000 cells"),
    ],
    ids=range(11),
)
def test_a_grid_out_of_bounds_is_one_line_at_once(text, message):
    began = time.process_time()
    with pytest.raises(InputError) as raised:
        parse_grid(text, "small", "small.toml", make_task=make_task)
    assert time.process_time() - began < 5
    assert str(raised.value).startswith("small.toml")
    assert message in str(raised.value)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("name", ["../s", "/tmp/s", "a//b", "a b", "..", 3])
def test_the_name_of_a_grid_leads_nowhere_else(name):
    text = f"name = {json.dumps(name)}\n[axes]\nseed = [0]"
    with pytest.raises(InputError, match="name must be"):
        parse_grid(text, "x", "x.toml", make_task=make_task)


def test_a_field_and_its_short_name_are_the_same():
    """The two names are equal wherever a grid uses one: the axis has the short name, and the later
    value wins."""
    before = SMALL.replace("[evaluate]", '"train.lr" = 0.5\n[evaluate]')
    parsed = grid(
        """
[axes]
"train.seed" = [0, 1]
[[override]]
when = { seed = 1 }
set = { lr = 0.25 }
[[exclude]]
"train.seed" = [0]
""",
        before,
    )
    assert parsed.axes == ("seed",)
    assert [(cell.name, cell.spec.train.lr) for cell in parsed.cells] == [("seed-1", 0.25)]


def test_a_grid_begins_as_another_one():
    """An axis replaces that of the same name or comes last, fields override, and lists are
    joined."""
    parsed = parse_grid(
        """
base = "paper/sudoku"
set = { "train.steps" = 100 }
[axes]
lr = [2e-3]
"train.ema" = [0.0, 0.9]
[[exclude]]
recall = "fixed"
[[exclude]]
norm = ["gru", "pre"]
[evaluate]
rows = 10
""",
        "mine",
        "mine.toml",
        make_task=make_task,
    )
    paper = read_grid("paper/sudoku", make_task=make_task)
    assert parsed.name == "mine"
    assert parsed.axes == (*paper.axes, "train.ema")
    assert len(parsed.cells) == 3 * 3 * 2 * 1 * 2
    assert {(cell.axes["lr"], cell.spec.train.lr) for cell in parsed.cells} == {(2e-3, 2e-3)}
    cell, whole = parsed.cells[0], paper.cells[0]
    changes = {"train": dataclasses.replace(whole.spec.train, steps=100, lr=2e-3)}
    assert cell.spec == dataclasses.replace(whole.spec, **changes)
    assert cell.evaluate == dataclasses.replace(whole.evaluate, rows=10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('base = "paper/sudoko"', "base: no grid 'paper/sudoko' comes with eqloop; did you mean"),
        ("base = [3]", "base: no grid [3] comes with eqloop"),
        ('base = "paper/chess"\n[axes]\nnrom = [1]', "axes.nrom: write GROUP.FIELD"),
        ('base = "paper/chess"\nset = 1', "set must be a table, got 1"),
        ('base = "paper/chess"\nexclude = 1', "exclude must be a list of tables"),
    ],
)
def test_a_mistake_on_a_base_is_one_line_too(text, message):
    with pytest.raises(InputError) as raised:
        parse_grid(text, "mine", "mine.toml", make_task=make_task)
    assert str(raised.value).startswith("mine.toml: ")
    assert message in str(raised.value)


def test_unknown_grids_name_the_nearest():
    with pytest.raises(InputError, match="did you mean paper/sudoku"):
        read_grid("paper/sudoko", make_task=make_task)


# --- the grids that come with the package


def test_the_papers_grid_is_432_runs():
    """The grid is that of section 3 of the paper's set-up: recalls x placements x rates x seeds x
    tasks."""
    assert {f"{size}/{task}" for size in ("paper", "paper-small")
            for task in ("chess", "prefix-sums", "sudoku")} == set(grids())  # fmt: skip
    total = 0
    for task in ("chess", "prefix-sums", "sudoku"):
        paper = read_grid(f"paper/{task}", make_task=make_task)
        small = read_grid(f"paper-small/{task}", make_task=make_task)
        total += len(paper.cells)
        for parsed in (paper, small):
            axes = {axis: {cell.axes[axis] for cell in parsed.cells} for axis in parsed.axes}
            assert axes["recall"] == {"internal", "external", "none", "fixed"}
            assert axes["norm"] == {"peri", "pre", "gru", "post"}
            assert axes["seed"] == {0, 1, 2}
            assert len(axes["lr"]) == 3
        rates = {3e-4, 1e-3, 3e-3} if task == "sudoku" else {1e-4, 3e-4, 1e-3}
        assert {cell.axes["lr"] for cell in paper.cells} == rates
        for cell in paper.cells:
            spec, fixed = cell.spec, cell.axes["recall"] == "fixed"
            assert spec.train.lr == cell.axes["lr"]
            assert (spec.model.width, spec.model.heads, spec.train.batch) == (256, 8, 500)
            assert (spec.model.precision, spec.train.schedule) == ("bfloat16", "paper")
            assert spec.train.steps == (1600 if task == "prefix-sums" else 8000)
            assert (spec.model.blocks, spec.solver.steps) == ((15, 1) if fixed else (1, 30))
            assert spec.train.loss == ("last" if fixed else "progressive")
            assert (spec.model.residual == "gru") == (cell.axes["norm"] == "gru")
            assert cell.evaluate.checkpoint == "last"
            # A model without a loop is never run for more iterations than it was trained for.
            assert cell.evaluate.iterations == (1 if fixed else 500)
            assert spec.train.validation_iterations == (1 if fixed else 30)
    assert total == 432


# --- what it costs


def test_operations_are_those_of_the_formula():
    """The products of a block with full attention are 2 n d^2 (4 + 2 mlp + recall) + 4 n^2 d."""
    n, d = 81, 256
    shape = ModelSpec(recall="internal", grid=(9, 9), channels=10, classes=10, attention="full")
    for recall, products in (("none", 0), ("external", 1), ("internal", 2)):
        cost = count(dataclasses.replace(shape, recall=recall))
        products = 2 * n * d**2 * (4 + 2 * 4 + products) + 4 * n**2 * d
        assert products <= cost.iteration <= 1.05 * products
    assert count(shape).parameters == 992_074  # the number of the paper's code, for sudoku


def test_every_cycle_of_a_nested_model_is_counted():
    """Its cycles are a scan, whose body XLA counts once."""
    sizes = {"width": 64, "heads": 4, "blocks": 2, "attention": "full"}
    shape = ModelSpec(**sizes, grid=(9, 9), channels=10, classes=9)
    one, two, six = (
        count(dataclasses.replace(shape, family="trm", cycles=cycles)).iteration
        for cycles in (1, 2, 6)
    )
    assert six - one == pytest.approx(5 * (two - one))
    assert two - one == pytest.approx(count(shape).iteration, rel=0.2)


def test_a_training_example_is_counted_as_the_loss_draws():
    spec = resolve("sudoku", "paper", make_task=make_task)
    n, k = jax.vmap(lambda key: draw(30, key))(jr.split(jr.key(0), 20_000))
    forward, differentiated, reads = iterations(spec)
    assert np.mean(n) == pytest.approx(forward, rel=0.02)
    assert np.mean(k) == pytest.approx(differentiated, rel=0.02)
    assert reads == 1
    cost = count(spec.model)
    passes = forward + 3 * differentiated
    total = 8000 * 500 * (passes * cost.iteration + 3 * cost.ends)
    assert cost.training(spec) == pytest.approx(total)
    # The loss over every iteration reads each of them; an implicit gradient costs more.
    mean = resolve("sudoku", "quick", make_task=make_task)
    assert iterations(mean) == (16 / 2, 8, 8)
    implicit = resolve("sudoku", "quick", make_task=make_task, solver="fixed-point")
    assert iterations(implicit) == (16, 1 + 10 * 1, 1)
    truncated = resolve("sudoku", "paper", make_task=make_task, gradient="truncated")
    assert iterations(truncated)[0] + iterations(truncated)[1] == forward + differentiated


# --- doing them


def end(sweep: Sweep, cell: Cell) -> CellResult:
    result = sweep.ended(cell)
    assert result is not None, cell.name
    return result


def evaluations(path: Path) -> dict[str, dict]:
    """Return the tables that the results of a sweep come from, without the times."""
    tables = {}
    for file in sorted(path.glob("runs/*/eval/*.json")):
        table = read_json(file, "")
        del table["seconds"]
        tables[f"{file.parent.parent.name}/{file.name}"] = table
    return tables


@pytest.mark.slow
def test_a_sweep_does_what_is_missing_or_failed_and_no_more(tmp_path):
    axes = "[axes]\nlr = [1e-3, 1e30]\nseed = [0, 1]\n[[exclude]]\nlr = 1e30\nseed = 1\n"
    sweep = create_sweep(tmp_path / "s", grid(axes))
    ended_names = []
    assert work(sweep, make_task=make_task, ending=lambda cell, _: ended_names.append(cell.name))
    good, second, bad = sweep.grid.cells
    assert (bad.name, len(ended_names)) == ("lr-1e+30_seed-0", 3)
    ended = {cell.name: end(sweep, cell) for cell in sweep.grid.cells}
    assert [ended[c.name].status for c in (good, second, bad)] == ["finished", "finished", "failed"]
    assert str(ended[bad.name].error).startswith("the loss became nan at step")
    for cell in (good, second):
        result = ended[cell.name]
        assert min(*result.seconds.values(), *result.flops.values()) > 0
        assert result.flops["train"] == flops(cell)[0]
        assert result.flops["evaluate"] <= flops(cell)[1]
        assert result.parameters == count(cell.spec.model).parameters
        assert result.rho_w_x is not None
        assert 0 < result.rho_w_x < 3
        assert {p.name for p in (sweep.run(cell) / "eval").iterdir()} == {"test.json", "hard.json"}

    # The same cell, trained alone, is the same bit for bit.
    alone = tmp_path / "alone"
    train(second.spec, make_task("prefix-sums", second.spec.task_fields), alone)
    ours = open_run(sweep.run(second))
    assert ours.checkpoint(20).read_bytes() == open_run(alone).checkpoint(20).read_bytes()

    # Nothing is left to do; a failed cell is done again only after it is forgotten.
    again = open_sweep(tmp_path / "s", make_task=make_task)
    ended_names.clear()
    assert work(again, make_task=make_task, ending=lambda cell, _: ended_names.append(cell.name))
    assert ended_names == []
    again.forget(bad)

    # In a grid that has grown, the new cell is missing and the old ones stay.
    axes = axes.replace("[0, 1]", "[0, 1, 2]").replace("seed = 1", "seed = [1, 2]")
    grown = create_sweep(tmp_path / "s", grid(axes))
    work(grown, make_task=make_task, ending=lambda cell, _: ended_names.append(cell.name))
    assert sorted(ended_names) == ["lr-0.001_seed-2", bad.name]
    with pytest.raises(InputError, match=r"train.steps: 20 -> 30"):
        create_sweep(tmp_path / "s", grid(axes, SMALL.replace('steps" = 20', 'steps" = 30')))


def test_a_cell_is_claimed_once(tmp_path):
    sweep = create_sweep(tmp_path / "s", grid("[axes]\nseed = [0, 1]"))
    one, two = sweep.grid.cells
    with sweep.claim(one) as first, sweep.claim(one) as second, sweep.claim(two) as third:
        assert (first, second, third) == (True, False, True)
        assert sweep.worker(one) == os.getpid()
    assert sweep.worker(one) is None
    with sweep.claim(one) as first:
        assert first


def test_a_lock_that_is_no_file_is_neither_waited_for_nor_a_traceback(tmp_path):
    sweep = create_sweep(tmp_path / "s", grid("[axes]\nseed = [0]"))
    (cell,) = sweep.grid.cells
    lock = tmp_path / "s" / "state" / "seed-0.lock"
    for make, remove in ((os.mkfifo, Path.unlink), (Path.mkdir, Path.rmdir)):
        make(lock)
        assert sweep.worker(cell) is None
        with pytest.raises(InputError, match=r"cannot lock .*seed-0\.lock: "), sweep.claim(cell):
            pass
        remove(lock)


def test_a_defect_is_kept_with_its_traceback(tmp_path, monkeypatch):
    from eqloop.sweep import _worker

    def defect(*arguments, **options):
        raise ZeroDivisionError("by zero\nsecond line")

    monkeypatch.setattr(_worker, "train", defect)
    sweep = create_sweep(tmp_path / "s", grid("[axes]\nseed = [0]"))
    work(sweep, make_task=make_task)
    assert sweep.ended(sweep.grid.cells[0]) == CellResult("failed", "ZeroDivisionError: by zero")
    assert "Traceback" in (tmp_path / "s" / "state" / "seed-0.txt").read_text()


def test_a_worker_holds_the_programs_of_few_settings(tmp_path, monkeypatch):
    """XLA aborts a process that has used up its memory maps. Cells that differ in seed and rate
    alone share their programs, so that they count once."""
    many = grid("[axes]\nseed = [0, 1]\n'train.warmup' = [0, 1, 2, 3, 4, 5, 6]")
    sweep, order, clears = create_sweep(tmp_path / "out", many), [], []
    monkeypatch.setattr("eqloop.sweep._worker.MOST_PROGRAMS", 3)
    monkeypatch.setattr(jax, "clear_caches", lambda: clears.append(len(order)))

    def attempt(sweep, cell, make_task):
        order.append(cell.spec.train.warmup)
        return CellResult("failed", error="not tried")

    monkeypatch.setattr("eqloop.sweep._worker._attempt", attempt)
    assert work(sweep, make_task=make_task)
    begins = [0]
    for number in range(len(order)):
        if len(set(order[begins[-1] : number + 1])) > 3:
            begins.append(number)
    assert clears == begins
    assert len(begins) > 2


def test_folders_that_are_no_sweep(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("a")
    with pytest.raises(InputError, match="not empty and not a sweep"):
        create_sweep(tmp_path / "full", grid("[axes]\nseed = [0]"))
    with pytest.raises(InputError, match=r"not a sweep: it has no sweep\.toml"):
        open_sweep(tmp_path / "full", make_task=make_task)
    create_sweep(tmp_path / "s", grid("[axes]\nseed = [0]"))
    for damaged in ("{", "[]", "{}"):
        (tmp_path / "s" / "cells.json").write_text(damaged)
        with pytest.raises(InputError, match=r"cells\.json is missing or damaged: write it again"):
            open_sweep(tmp_path / "s", make_task=make_task)


_CREATION = """
import json, os, random, signal, sys
from pathlib import Path
from eqloop.sweep import create_sweep
from eqloop.sweep._grid import parse_grid
from eqloop.tasks import make_task

folder, grid = Path(sys.argv[1]), parse_grid(sys.argv[2], "small", "small", make_task=make_task)

def child(path, kill_at=None, wait=None):
    # kill_at: the number of the event at which the file system is about to be touched
    pid = os.fork()
    if pid:
        return pid
    seen = 0
    def watch(event, arguments):
        nonlocal seen
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.listdir", "fcntl.flock"):
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
    if kill_at is not None:
        sys.addaudithook(watch)
    if wait is not None:
        os.read(wait, 1)
    try:
        create_sweep(path, grid)
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)

def code(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def contents(path):
    return {
        str(each.relative_to(path)): each.read_text() if each.is_file() else None
        for each in sorted(path.rglob("*"))
    }

whole = folder / "whole"
assert code(child(whole)) == 0
killed, end = [], None
for kill_at in range(1, 1000):
    path = folder / f"killed-{kill_at}"
    end = code(child(path, kill_at))
    if end == 0:
        break
    assert end == -signal.SIGKILL
    left = sorted(contents(path)) if path.exists() else None
    assert code(child(path)) == 0, (kill_at, left)
    assert contents(path) == contents(whole), (kill_at, left)
    killed.append(left)
together = 0
for round in range(20):
    path, (read, write) = folder / f"three-{round}", os.pipe()
    three = [child(path, wait=read) for _ in range(3)]
    os.write(write, b"...")
    together += [code(pid) for pid in three] == [0, 0, 0] and contents(path) == contents(whole)
print(json.dumps({"killed": killed, "together": together}))
"""


def test_a_sweep_killed_while_it_is_created_is_begun_by_the_same_command(tmp_path):
    """The process is killed at every event at which the file system is touched; and three processes
    at once create one sweep."""
    text = SMALL + "[axes]\nseed = [0, 1]\n"
    completed = subprocess.run(
        [sys.executable, "-c", _CREATION, str(tmp_path), text],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert completed.returncode == 0, completed.stderr
    outcome = json.loads(completed.stdout)
    assert outcome["together"] == 20
    # The killed processes left every stage of a creation.
    stages = [None if left is None else set(left) for left in outcome["killed"]]
    assert None in stages
    assert any(left and all(name.endswith(".tmp") for name in left) for left in stages)
    for last in ("sweep.toml", "state", "runs"):
        assert any(left and last in left and "cells.json" not in left for left in stages), last
    assert any(left and "cells.json" in left for left in stages)


def test_what_is_damaged_or_gone_concerns_its_cell_alone(tmp_path):
    sweep = create_sweep(tmp_path / "s", grid("[axes]\nseed = [0]"))
    (cell,) = sweep.grid.cells
    with_status = '{"format": 1, "status": "finisheD"}'
    for damaged in ("{", "[]", '{"format": 9}', '{"format": 1, "what": 2}', with_status):
        (tmp_path / "s" / "state" / "seed-0.json").write_text(damaged)
        ended = sweep.ended(cell)
        assert ended is not None
        assert ended.status == "failed"
        assert "seed-0.json is damaged: delete it" in str(ended.error)
    # A changed byte is detected, whatever it stands for.
    finished = CellResult(
        "finished", seconds={"train": 1.5}, evaluated={"splits": []}, parameters=123
    )
    sweep.end(cell, finished)
    sweep.run(cell).mkdir()
    (sweep.run(cell) / "spec.toml").touch()
    assert sweep.ended(cell) == finished
    whole = (state := tmp_path / "s" / "state" / "seed-0.json").read_bytes()
    for place in range(len(whole)):
        state.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert (ended := sweep.ended(cell)) is not None
        assert "seed-0.json is damaged: delete it" in str(ended.error), place
    # `retry` has the cell done again.
    sweep.retry()
    assert not state.exists()
    shutil.rmtree(sweep.run(cell))
    # A run that was deleted is missing, whatever its cell recorded.
    sweep.end(cell, CellResult("finished", evaluated={"splits": ["test"]}))
    assert sweep.ended(cell) is None
    # A damaged run fails its own cell alone: the sweep is resumed.
    sweep.run(cell).mkdir()
    (sweep.run(cell) / "spec.toml").write_text("damaged")
    work(create_sweep(tmp_path / "s", sweep.grid), make_task=make_task)
    ended = sweep.ended(cell)
    assert ended is not None
    assert (ended.status, "spec.toml" in str(ended.error)) == ("failed", True)


def test_a_grid_that_was_changed_in_its_folder_is_told(tmp_path, caplog):
    create_sweep(tmp_path / "s", grid("[axes]\nseed = [0]"))
    open_sweep(tmp_path / "s", make_task=make_task)
    assert caplog.messages == []
    file = tmp_path / "s" / "sweep.toml"
    file.write_text(file.read_text().replace("iterations = 8", "iterations = 9"))
    changed = open_sweep(tmp_path / "s", make_task=make_task)
    assert caplog.messages == [f"{file} has been changed since the sweep was last begun"]
    create_sweep(tmp_path / "s", changed.grid)
    open_sweep(tmp_path / "s", make_task=make_task)
    assert len(caplog.messages) == 1


def test_splits_that_the_task_lacks_are_missed_before_training(tmp_path):
    text = SMALL + 'splits = ["tset"]\n[axes]\nseed = [0]'
    sweep = create_sweep(tmp_path / "s", parse_grid(text, "s", "s.toml", make_task=make_task))
    work(sweep, make_task=make_task)
    ended = sweep.ended(sweep.grid.cells[0])
    assert ended is not None
    assert "evaluate.splits: the task has no tset" in str(ended.error)
    assert not any((tmp_path / "s" / "runs").iterdir())


# --- real processes


running: list[Child] = []


@pytest.fixture(scope="module", autouse=True)
def no_process_is_left():
    yield
    for process in running:
        process.kill()
        process.wait(60)


def start(path: Path, jobs: int) -> Child:
    """Start the process that starts workers and waits for them."""
    parent = Child(path.with_suffix(".output"), sweep_child.main, path, str(jobs))
    running.append(parent)
    return parent


def start_worker(path: Path, environment: dict[str, str]) -> subprocess.Popen:
    """Start a worker; it ends when its standard input is closed, as that of a forked process is."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(CHILD), str(path), "worker"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def environment(compiled) -> dict[str, str]:
    start_server(compiled)
    return {**os.environ, **compiled}


AXES = "[axes]\nseed = [0, 1, 2, 3, 4, 5]"  # all cells share one program


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory, environment):
    """A sweep by two workers that start at once and do not know of each other."""
    path = tmp_path_factory.mktemp("sweep") / "whole"
    sweep = create_sweep(path, grid(AXES))
    with start_worker(path, environment) as first, start_worker(path, environment) as second:
        assert [worker.wait(timeout=300) for worker in (first, second)] == [0, 0]
    assert all(end(sweep, cell).status == "finished" for cell in sweep.grid.cells)
    return path


@pytest.mark.slow
def test_two_workers_do_no_cell_twice(never_killed):
    """If a cell were done twice, its log would contain a step twice."""
    for log in never_killed.glob("runs/*/metrics.jsonl"):
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        steps = Counter(row["step"] for row in rows if row["kind"] == "train")
        assert steps == dict.fromkeys(range(1, 21), 1)
    assert len(list(never_killed.glob("runs/*"))) == 6


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
def test_a_sweep_killed_many_times_ends_with_the_same_table(never_killed, tmp_path):
    """SIGKILL hits all processes, the workers alone, or their parent; or Ctrl-C is sent. Each kind
    occurs once; benchmarks/sweep_kills.py makes more, with the command itself."""
    path, chance = tmp_path / "killed", random.Random(0)
    sweep = create_sweep(path, grid(AXES))
    kinds = ["all", "parent", "worker", "interrupt"]
    chance.shuffle(kinds)
    for kind in kinds:
        parent = start(path, chance.choice((1, 2)))
        time.sleep(chance.uniform(0.3, 4.5))
        workers = children(parent.pid)
        if kind in ("all", "worker"):
            for pid in workers if kind == "all" else workers[:1]:
                kill(pid, signal.SIGKILL)
        if kind in ("all", "parent"):
            kill(parent.pid, signal.SIGKILL)
        if kind == "interrupt":
            kill(parent.pid, signal.SIGINT)
            parent.wait(60)
        if kind == "worker":
            time.sleep(0.7)  # the parent notices it, and starts another worker
            kill(parent.pid, signal.SIGTERM)
            parent.wait(60)
        parent.wait(60)
        deadline = time.monotonic() + 60
        while any(
            alive(pid) for pid in workers
        ):  # the test also asserts that no process is left behind
            assert time.monotonic() < deadline, kind
            time.sleep(0.05)
        for cell in sweep.grid.cells:
            ended = sweep.ended(cell)
            if ended is not None and ended.status == "failed":
                assert str(ended.error).startswith("its process died of SIGKILL")
                sweep.forget(cell)
    code, output = start(path, 2).wait(300)
    assert code == 0, output
    assert all(end(sweep, cell).status == "finished" for cell in sweep.grid.cells)
    assert evaluations(path) == evaluations(never_killed)
    assert [*path.rglob("*.tmp"), *path.rglob("*.part"), *path.glob("compiled-*")] == []


def children(pid: int) -> list[int]:
    file = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in file.read_text().split()] if file.exists() else []


def kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
def test_a_worker_that_dies_fails_its_cell_and_not_the_others(tmp_path):
    path = tmp_path / "s"
    sweep = create_sweep(path, grid("[axes]\nseed = [0, 1]"))
    first, second = sweep.grid.cells
    parent = start(path, 1)
    deadline = time.monotonic() + 120
    while not (sweep.run(first) / "metrics.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    pid = sweep.worker(first)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    code, output = parent.wait(200)
    assert code == 0, output
    assert end(sweep, first) == CellResult("failed", "its process died of SIGKILL (out of memory?)")
    assert end(sweep, second).status == "finished"


def test_a_worker_that_dies_without_a_cell_is_replaced(tmp_path):
    """Workers are replaced as long as others make progress; the sweep stops after three deaths in a
    row without the end of a cell."""
    sweep = create_sweep(tmp_path / "s", grid("[axes]\nseed = [0]"))
    count, state = tmp_path / "count", sweep.path / "state" / "seed-0.json"
    code = """
import pathlib, sys
count, state, enough = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
count.write_text((count.read_text() if count.exists() else "") + ".")
if len(count.read_text()) < enough:
    sys.exit(3)
state.write_text('{"format": 1, "status": "failed"}')
"""
    command = [sys.executable, "-c", code, str(count), str(state)]
    with pytest.raises(InputError, match="ended with code 3 before it had a cell: see"):
        run_local(sweep, [*command, "9"], 1, watch=lambda: None)
    assert count.read_text() == "..."
    count.unlink()
    assert run_local(sweep, [*command, "3"], 1, watch=lambda: None)
    assert count.read_text() == "..."


def test_gpus_are_divided_among_the_processes(tmp_path, monkeypatch):
    """No GPU is idle, and none has more processes than necessary."""
    code = "import os, sys; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    for jobs, gpus, shares in ((2, "0,1,2,3", ["0,2", "1,3"]), (3, "4,5", ["4", "5", "4"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        sweep = create_sweep(tmp_path / str(jobs), grid("[axes]\nseed = [0]"))
        run_local(sweep, [sys.executable, "-c", code], jobs, watch=lambda: None)
        logs = [(sweep.path / "logs" / f"worker-{n}.txt").read_text() for n in range(jobs)]
        assert [log.strip() for log in logs] == shares


# --- the command


@pytest.fixture
def small(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(SMALL + "[axes]\nseed = [0, 1]\n")
    return path


def test_dry_run_writes_nothing(small, cli):
    code, out, err = cli("sweep", small, "--dry-run")
    assert (code, err) == (0, "")
    assert "seed-1" in out
    assert "2 of 2 cells to do" in out
    assert [file.name for file in small.parent.iterdir()] == ["small.toml"]
    code, out, _ = cli("sweep", small, "--dry-run", "--json")
    plan = json.loads(out)
    assert code == 0
    assert [cell["state"] for cell in plan["cells"]] == ["missing", "missing"]
    assert plan["flops"] == sum(c["train_flops"] + c["evaluate_flops"] for c in plan["cells"])
    assert plan["seconds"] == pytest.approx(plan["flops"] / plan["flops_per_s"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.toml"], "there is no file nothing.toml"),
        (["small.toml", "--executor", "cloud"], "--executor must be local or slurm"),
        (["small.toml", "--jobs", "0"], "--jobs"),
        (["small.toml", "--out", "small.toml"], "small.toml"),
        (["small.toml", "--out", "a" * 300], "File name too long"),
        (["a" * 300], "File name too long"),
        (["fifo"], "fifo is neither a file nor a sweep folder"),
        (["loop"], "loop is neither a file nor a sweep folder"),
        (["/dev/zero"], "/dev/zero is neither a file nor a sweep folder"),
        (["."], ". is neither a file nor a sweep folder"),
    ],
)
def test_bad_options(small, cli, arguments, message):
    if arguments == ["fifo"]:
        os.mkfifo("fifo")
    if arguments == ["loop"]:
        Path("loop").symlink_to("loop")
    code, out, err = cli("sweep", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert {file.name for file in small.parent.iterdir()} <= {"small.toml", *arguments}


@pytest.mark.slow
def test_the_command_from_begin_to_end(small, cli, compiled_apart, monkeypatch):
    for name, value in compiled_apart.items():
        monkeypatch.setenv(name, value)
    code, out, err = cli("sweep", small)
    assert (code, "2 of 2 cells finished, 0 failed" in out) == (0, True)
    assert "2/2 seed-" in err
    path = small.parent / "sweeps" / "small"
    before = {file: file.stat().st_mtime_ns for file in path.glob("runs/*/checkpoints/step-*")}
    code, out, _ = cli("sweep", path, "--json")
    assert code == 0
    assert json.loads(out) == {
        "sweep": str(path),
        "finished": 2,
        "failed": {},
        "missing": [],
        "busy": [],
        "interrupted": False,
    }
    # A changed evaluation is done again, on the runs as they are.
    text = (path / "sweep.toml").read_text().replace("iterations = 8", "iterations = 16")
    small.write_text(text)
    plan = json.loads(cli("sweep", small, "--dry-run", "--json")[1])
    assert [cell["state"] for cell in plan["cells"]] == ["evaluate again"] * 2
    small.write_text(text.replace('steps" = 20', 'steps" = 30'))
    code, out, err = cli("sweep", small, "--dry-run")
    assert (code, out) == (2, "")
    assert "train.steps: 20 -> 30" in err
    small.write_text(text)
    assert cli("sweep", small, "--jobs", "2")[0] == 0
    assert before == {
        file: file.stat().st_mtime_ns for file in path.glob("runs/*/checkpoints/step-*")
    }
    table = json.loads((path / "runs" / "seed-0" / "eval" / "hard.json").read_text())
    assert table["iterations"][-1] == 16


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_workers_as_submitted_jobs(small, cli, compiled_apart, monkeypatch):
    """submitit's local executor replaces SLURM: nobody waits for its processes."""
    for name, value in compiled_apart.items():
        monkeypatch.setenv(name, value)
    small.write_text(small.read_text() + '[slurm]\ncluster = "local"\ntimeout_min = 5\n')
    code, out, err = cli("sweep", small, "--executor", "slurm", "--jobs", "2", "--json")
    assert code == 0, err
    submitted = json.loads(out)
    assert len(submitted["jobs"]) == 2
    sweep = open_sweep(Path(submitted["sweep"]), make_task=make_task)
    deadline = time.monotonic() + 200
    while not all(sweep.ended(cell) for cell in sweep.grid.cells):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert {end(sweep, cell).status for cell in sweep.grid.cells} == {"finished"}


# submitit leaves its logs open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_command_of_a_worker_is_what_is_submitted(tmp_path):
    """submitit's debug executor runs the command in this process when the result is requested."""
    sweep = create_sweep(tmp_path / "s", grid('[axes]\nseed = [0]\n[slurm]\ncluster = "debug"'))
    jobs = submit(sweep, [sys.executable, "-c", "print('a worker')"], 2)
    assert [job.result().strip() for job in jobs] == ["a worker", "a worker"]
    for wrong in ({"what": 3}, {"cluster": "cloud"}, {"timeout_min": 1.5}):
        changed = dataclasses.replace(sweep, grid=dataclasses.replace(sweep.grid, slurm=wrong))
        with pytest.raises(InputError, match=r"^\[slurm\]: "):
            submit(changed, ["true"], 1)


def test_without_slurm_it_says_so(small, cli):
    code, out, err = cli("sweep", small, "--executor", "slurm")
    assert (code, out) == (2, "")
    assert err.startswith("error: [slurm]: ")


def test_the_fields_of_an_evaluation_are_compared(small):
    cell = grid("[axes]\nseed = [0]").cells[0]
    options = json.loads(json.dumps(dataclasses.asdict(cell.evaluate)))
    assert is_up_to_date(CellResult("finished", evaluated=options), cell)
    assert not is_up_to_date(CellResult("finished", evaluated=options | {"rows": 3}), cell)
