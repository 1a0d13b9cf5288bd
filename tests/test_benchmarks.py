"""The parts of the benchmarks that are arithmetic; nothing here is timed."""

import sys
from pathlib import Path

import numpy as np
import pytest

from eqloop.sweep import count, read_grid
from eqloop.tasks import make_task
from eqloop.train import resolve

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import gpu  # pyright: ignore[reportMissingImports]

    yield gpu
    for name in ("gpu", "_timing"):
        sys.modules.pop(name, None)


def test_the_operations_of_an_iteration_are_those_of_its_products(gpu):
    """Two of width^2 for recall, four for attention, eight for the MLP; scores and mixing."""
    for width in (256, 512):
        settings = gpu.Size().settings(width)
        cost = count(resolve("sudoku", "paper", settings, make_task=make_task).model)
        products = 81 * (2 * 14 * width**2 + 2 * 2 * 81 * width)
        assert products < cost.iteration < 1.04 * products


def test_the_bytes_of_an_iteration(gpu):
    """Per cell and channel: recall 2 x 8, projections 8, attention 8, output 10, MLP 26."""
    wanted = 81 * 256 * (2 * 8 + 8 + 8 + 10 + 26) + 2 * 14 * 256**2 / 500
    assert gpu.iteration_bytes(81, 256, 4, 500) == wanted


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
    found = read_grid(str(ROOT / "benchmarks" / "full" / f"{task}.toml"), make_task=make_task)
    paper = read_grid(f"paper/{task}", make_task=make_task)
    axes = {axis: {cell.axes[axis] for cell in found.cells} for axis in found.axes}
    assert len(found.cells) == 9
    assert axes["recall"] == {"internal", "external", "none"}
    assert axes["norm"] == {"post", "peri", "pre"}
    # The paper's recipe, on its own data or on that of the file.
    for cell in found.cells:
        same = next(each for each in paper.cells if each.axes == cell.axes)
        assert cell.spec.train == same.spec.train
        assert cell.spec.model == same.spec.model
