"""Tests of the arithmetic in the benchmarks; nothing here is timed."""

import argparse
import gzip
import importlib
import json
import math
import sys
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import pytest

from eqloop.evaluate import geometric
from eqloop.run import resolve
from eqloop.sweep import count, read_grid
from eqloop.tasks import make_task

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def benchmark_module(monkeypatch):
    """Import a script of `benchmarks/` by its name."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if not name.startswith(("eqloop", "jax")) and (ROOT / "benchmarks" / f"{name}.py").exists():
            del sys.modules[name]


@pytest.fixture
def gpu(benchmark_module):
    return benchmark_module("gpu")


@pytest.fixture
def gpu_paper(benchmark_module):
    return benchmark_module("gpu_paper")


@pytest.fixture
def gpu_cells(benchmark_module):
    return benchmark_module("gpu_cells")


def test_the_operations_of_an_iteration_are_those_of_its_products(gpu):
    """Recall takes two products of width^2, attention four, the MLP eight; scores and mixing come
    on top."""
    for width in (256, 512):
        settings = gpu.Size().settings(width)
        cost = count(resolve("sudoku", "paper", settings, make_task=make_task).model)
        products = 81 * (2 * 14 * width**2 + 2 * 2 * 81 * width)
        assert products < cost.iteration < 1.04 * products


def test_the_bytes_of_an_iteration(gpu):
    """Bytes per cell and channel: recall 2 x 8, projections 8, attention 8, output 10, MLP 26."""
    expected = 81 * 256 * (2 * 8 + 8 + 8 + 10 + 26) + 2 * 14 * 256**2 / 500
    assert gpu.iteration_bytes(81, 256, 4, 500) == expected


def test_an_iteration_with_gradient_counts_three_times(gpu):
    assert gpu.training_passes(np.array([[0, 1], [10, 4]])) == (3 + 10 + 12) / 2


def test_peaks_are_found_by_name(gpu):
    assert gpu.peak("NVIDIA H100 80GB HBM3") == [989e12, 3.35e12]
    assert gpu.peak("NVIDIA H100 PCIe") == [756e12, 2.0e12]
    assert gpu.peak("NVIDIA H200") == [989e12, 4.8e12]
    assert gpu.peak("NVIDIA GH200 480GB") == [989e12, 4.0e12]
    assert gpu.peak("NVIDIA L40S") == [362e12, 0.864e12]
    assert gpu.peak("cpu") is None


@pytest.mark.parametrize("task", ["sudoku", "chess", "prefix-sums"])
def test_the_part_of_the_grid_to_run_first(task):
    grid = read_grid(str(ROOT / "benchmarks" / "full" / f"{task}.toml"), make_task=make_task)
    paper = read_grid(f"paper/{task}", make_task=make_task)
    axes = {axis: {cell.axes[axis] for cell in grid.cells} for axis in grid.axes}
    assert len(grid.cells) == 9
    assert axes["recall"] == {"internal", "external", "none"}
    assert axes["norm"] == {"post", "peri", "pre"}
    # The recipe is the paper's; the data is the task's own or that of the file.
    for cell in grid.cells:
        same = next(candidate for candidate in paper.cells if candidate.axes == cell.axes)
        assert cell.spec.train == same.spec.train
        assert cell.spec.model == same.spec.model


def test_the_protocol_of_sudoku_extreme():
    """1,000 puzzles to train on, moved by symmetries; seeds; one ladder of depths up to 512."""
    grid = read_grid(str(ROOT / "benchmarks/full/sudoku-extreme.toml"), make_task=make_task)
    assert {cell.axes["seed"] for cell in grid.cells} == {0, 1, 2}
    for cell in grid.cells:
        task = make_task("sudoku", cell.spec.task_fields)
        assert (0.8 * task.rows, task.random_rows, task.augment) == (1000, True, True)  # pyright: ignore
        ladder = geometric(cell.evaluate.iterations)
        assert {16, 32, 64, 128, 256, 512} <= set(ladder)


@pytest.mark.parametrize("task", ["maze", "group-words"])
def test_the_grids_of_known_depth(task):
    grid = read_grid(str(ROOT / "benchmarks" / "full" / f"{task}.toml"), make_task=make_task)
    axes = {axis: {cell.axes[axis] for cell in grid.cells} for axis in grid.axes}
    assert axes["recall"] == {"internal", "external", "none"}
    assert axes["norm"] == {"peri", "pre", "gru", "post"}
    assert axes["seed"] == {0, 1, 2}


def test_the_plan_of_a_call(gpu_paper):
    parts = ["right", "speed", "cells"]
    assert gpu_paper.plan(8.5, parts) == {"right": 100, "speed": 250, "cells": 490}
    # A shorter call shortens every part; a longer call extends only the last part.
    assert gpu_paper.plan(265 / 60, parts) == {"right": 50, "speed": 125, "cells": 245}
    assert gpu_paper.plan(20, parts) == {"right": 100, "speed": 250, "cells": 1180}
    assert gpu_paper.plan(8.5, ["speed"]) == {"speed": 490}


def test_the_cells_of_a_call_are_the_recipe_of_the_paper(gpu_paper, gpu_cells, tmp_path):
    from eqloop.sweep._grid import parse_grid

    real = tmp_path / "real.csv"
    real.touch()
    for task, order in gpu_cells.ORDER.items():
        options = gpu_paper.parse(["--out", "-", "--sudoku", str(real), "--rows", "7"])
        grid = parse_grid(gpu_cells.grid_text(task, options), task, "-", make_task=make_task)
        by_axes = {(cell.axes["recall"], cell.axes["norm"]): cell for cell in grid.cells}
        paper = {cell.name: cell for cell in read_grid(f"paper/{task}", make_task=make_task).cells}
        for axes in order:
            cell = by_axes[axes]
            same = next(candidate for candidate in paper.values() if candidate.axes == cell.axes)
            assert cell.spec.train == same.spec.train
            assert cell.spec.model == same.spec.model
            assert (cell.evaluate.iterations, cell.evaluate.rows) == (500, 7)
            assert cell.evaluate.checkpoint == "last"
        options.steps = {task: 30}
        shorter = parse_grid(gpu_cells.grid_text(task, options), task, "-", make_task=make_task)
        assert {cell.spec.train.steps for cell in shorter.cells} == {30}


@pytest.mark.parametrize(
    "option",
    ["--parts=right,wrong", "--cells=go", "--steps=sudoku", "--steps=go=3", "--minutes=0.5"],
)
def test_a_wrong_option_of_a_call_is_refused(gpu_paper, option, capsys):
    with pytest.raises(SystemExit, match="2"):
        gpu_paper.parse(["--out", "-", option])
    assert option.partition("=")[0] in capsys.readouterr().err


class Ready:
    """A fake process for the scheduler of cells; it ends when the test says so."""

    def __init__(self):
        self.returncode, self.pid = None, -1

    def poll(self):
        return self.returncode


def test_a_cell_that_would_not_end_in_time_is_not_begun(
    gpu_paper, gpu_cells, tmp_path, monkeypatch
):
    """The scheduler predicts the time from the seconds per FLOP of the cells that have ended, and
    from the cells that run beside it."""
    options = gpu_paper.parse(["--out", str(tmp_path), "--cells", "prefix-sums", "--jobs", "2"])
    machine = argparse.Namespace(work=tmp_path, small=False, now=0.0, say=lambda text: None)
    saved = []
    report = argparse.Namespace(found={}, save=lambda: saved.append(1))
    cells = gpu_cells.Cells(machine, 300.0, options, report)
    assert [cell.axes["recall"] for _, cell in cells.queue[:3]] == ["internal"] * 2 + ["external"]
    (_, first), *_ = cells.queue
    from eqloop.sweep import count

    assert cells.expected(first, 0) == gpu_cells.LEAST
    cells.pace["prefix-sums"] = 200 / count(first.spec.model).training(first.spec)
    cells.overhead = 40.0
    assert cells.expected(first, 0) == pytest.approx(240)
    assert cells.expected(first, 1) == pytest.approx(440)
    started = []
    monkeypatch.setattr(cells, "_start", lambda sweep, cell, takes: started.append(cell))
    monkeypatch.setattr(gpu_cells.time, "sleep", lambda seconds: None)
    cells.running, waiting = [object()], len(cells.queue)
    assert not cells._next()  # it would end in time if it ran alone, so it waits
    assert len(cells.queue) == waiting
    cells.running, machine.now = [], 100.0
    cells.queue = cells.queue[:2]
    cells.go()
    assert not started
    assert [record["status"] for record in cells.ended] == [
        "left out: takes about 4:00 of the 3:20 that are left"
    ] * 2
    assert len(saved) == 2


def test_the_last_cell_is_stopped_where_the_first_would_not_end_in_time(
    gpu_paper, gpu_cells, tmp_path
):
    options = gpu_paper.parse(["--out", str(tmp_path), "--cells", "prefix-sums", "--jobs", "2"])
    machine = argparse.Namespace(work=tmp_path, small=False, now=100.0, say=lambda text: None)
    cells = gpu_cells.Cells(
        machine, 300.0, options, argparse.Namespace(found={}, save=lambda: None)
    )
    for sweep, cell in cells.queue[:2]:
        cells.running.append(gpu_cells.Running(sweep, cell, Ready(), 0.0))
        folder = sweep.run(cell)
        folder.mkdir(parents=True)
        # The first step took 60 s to compile, which the other steps do not repeat.
        rows = [
            {"kind": "train", "step": step, "seconds": 60 + 0.1 * step} for step in (1, 2, 800, 801)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "metrics.jsonl").write_text(text)
    stopped = []
    cells._stop = lambda runs, why: stopped.extend(runs)
    cells._shed()  # 800 steps are left, at 0.1 s each, and 25 s after them
    assert not stopped
    machine.now = 196.0
    cells._shed()
    assert stopped == cells.running[1:]
    assert cells.jobs == 1


def test_a_cut_file_of_lines_counts_as_far_as_it_is_whole(gpu_paper, tmp_path):
    file = tmp_path / "lines"
    assert gpu_paper.lines(file) == []
    file.write_text('{"a": 1}\n{"a": 2}\n{"a"')
    assert gpu_paper.lines(file) == [{"a": 1}, {"a": 2}]


def test_the_report_of_a_call_that_was_cut(gpu_paper):
    device = {"device": "X", "driver": None, "jax": "1", "jaxlib": "1", "python": "3", "cores": 2}
    cell = {
        "task": "sudoku", "axes": {"recall": "none", "norm": "post", "lr": 1e-3}, "steps": 5,
        "steps_of_the_recipe": 8000, "status": "cut off: out of time, at step 3", "curves": {},
    }  # fmt: skip
    right = {
        "jobs": {"step:a:b": {"errors": {"loss": 1e-3}, "wrong": ["loss"]}},
        "wrong": ["step:a:b: loss"],
        "left_out": ["step:a:c"],
        "reference": "read",
        "cut": "out of time",
    }
    results = {"device": device | {"platform_version": "v"}, "when": "today", "command": "c"}
    text = gpu_paper.markdown(results | {"right": right, "cells": [cell]})
    for line in (
        "0 of 1 checks passed; reference vectors: read.",
        "- wrong: step:a:b: loss",
        "- not done (out of time): step:a:c",
        "| step, loss | 1.0e-03 |",
        "| sudoku | none | post | 0.001 | 5 of 8000 | cut off: out of time, at step 3 |",
    ):
        assert line in text


def test_a_part_that_fails_does_not_stop_the_others(gpu_paper, tmp_path, monkeypatch, capsys):
    for name in ("JAX_PLATFORMS", "EQLOOP_CACHE"):  # the environment that a call sets for itself
        monkeypatch.setenv(name, "cpu")
    monkeypatch.setattr(gpu_paper.signal, "signal", lambda number, handler: None)
    names = ("device", "driver", "jax", "jaxlib", "python", "cores", "platform_version")
    monkeypatch.setattr(gpu_paper, "describe", lambda machine: dict.fromkeys(names, "7"))

    def fails(*arguments):
        raise RuntimeError("no luck")

    monkeypatch.setattr(gpu_paper, "right", fails)
    speed = {"figures": None, "tables": "a table", "cut": None}
    monkeypatch.setattr(gpu_paper, "speed", lambda machine, until: speed)
    monkeypatch.setattr(sys, "argv", ["gpu_paper", "--out", str(tmp_path), "--parts=right,speed"])
    assert gpu_paper.main() == 1
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert results["failed"] == {"right": "RuntimeError: no luck"}
    assert results["speed"] == speed
    assert set(results["seconds"]) == {"right", "speed"}
    text = (tmp_path / "gpu.md").read_text()
    assert "right failed: RuntimeError: no luck" in text
    assert "a table" in text
    assert text in capsys.readouterr().out


def test_the_sudokus_that_are_carried(benchmark_module, tmp_path, monkeypatch):
    pack = benchmark_module("gpu_pack")
    monkeypatch.setattr(pack, "EASY", 2)
    monkeypatch.setattr(pack, "HARD", 1)
    files = []
    for name, ratings in (("a", (2.5, 6.9, 3.0)), ("b", (7.0, 9.3))):
        files.append(tmp_path / f"{name}.csv.gz")
        with gzip.open(files[-1], "wt") as file:
            file.write("source,question,answer,rating\n")
            file.writelines(f"sudoku_exchange_se{rating},q,a,1\n" for rating in ratings)
    header, *rows = pack.rows(files)
    assert header.startswith("source")
    assert [row.partition(",")[0][-3:] for row in rows] == ["2.5", "6.9", "7.0"]


def test_operations_are_counted_on_the_cpu(monkeypatch):
    """JAX counts operations on the CPU only; without this, a sweep on a GPU failed after each
    training."""
    from eqloop.sweep import _cost

    lowered, jit, config = [], jax.jit, cast(Any, jax.config)

    def spied(function):
        def traced(*arguments):
            lowered.append(config.jax_default_device)
            return function(*arguments)

        return jit(traced)

    monkeypatch.setattr(jax, "jit", spied)
    flops = _cost._flops(lambda x: x @ x, jax.ShapeDtypeStruct((8, 8), "float32"))
    assert flops == 2 * 8**3
    assert lowered == [jax.devices("cpu")[0]]


MIXTURES = [
    {
        "solver.name": "fixed-point",
        "solver.gradient": "implicit",
        "solver.gradient_solver": "anderson",
        "solver.gradient_trust": 3e-3,
        "solver.gradient_largest": 10.0,
        "solver.start": "normal",
        "solver.path_noise": 0.01,
        "solver.budget": "uniform",
        "phases.1.until": 2,
        "phases.1.solver.name": "unroll",
        "train.carry_steps": 3,
        "train.carry_residual": 0.1,
        "train.carry_random": 0.5,
        "train.curriculum_steps": 3,
        "train.residual_penalty": 0.1,
        "task.shortest": 2,
    },
    {
        "solver.name": "fixed-point",
        "solver.gradient": "phantom",
        "solver.min_steps": 3,
        "solver.start": "solution",
        "train.carry_steps": 2,
        "train.correction": 0.8,
        "train.ema": 0.9,
    },
]
"""Two of those of `benchmarks/mixtures.py`, which between them have every lever of training."""


@pytest.mark.parametrize("mixture", MIXTURES, ids=["implicit", "phantom"])
def test_mixed_levers_train_and_resume_bit_for_bit(mixture, benchmark_module, tmp_path):
    """Training is stopped after 2 of 4 steps; in the first mixture this is a border of phases."""
    mixtures = benchmark_module("mixtures")
    assert mixtures.trained(mixtures.small(mixture, 4), tmp_path / "run", True).endswith("for bit")


def test_the_groups_of_a_sudoku(benchmark_module):
    """Row 0 has 1, column 3 has 2, and the box of (0, 3) has 3, which is in neither row 0 nor
    column 3."""
    givens = np.zeros((1, 4, 4), int)
    givens[0, 0, 0], givens[0, 3, 3], givens[0, 1, 2] = 1, 2, 3
    has = benchmark_module("sudoku_groups").groups(givens)
    assert {name: [*np.flatnonzero(own[0, 0, 3])] for name, own in has.items()} == {
        "row": [1],
        "column": [2],
        "box": [3],
    }


def test_the_figures_of_a_lever(benchmark_module):
    """The second of three steps has 95 % of its cells right; the last third is the third step."""
    levers = benchmark_module("levers")
    lines = [
        {"step": step, "cells": cells, "converged": 1.0, "fallback": 0.5, "iterations": 9.0}
        for step, cells in ((1, 0.5), (2, 0.95), (3, 0.9))
    ]
    assert levers.figures(lines, 6.0) == {
        **{"rise": 2, "converged %": 100.0, "fallback %": 50.0, "iterations": 9.0, "seconds": 6.0}
    }
    assert math.isnan(levers.figures(lines[:1], 2.0)["rise"])
    assert levers.spread([1.0, math.nan, 3.0]) == "2.0 (1.0-3.0)"
