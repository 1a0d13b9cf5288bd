"""What training tells of the loops and their gradients while it goes on."""

import io
import re

import pytest
from rich.console import Console

from eqloop.run import SolverSpec, resolve
from eqloop.tasks import make_task
from eqloop.train import train
from eqloop.train._display import WINDOW, Recent

IMPLICIT = SolverSpec(name="fixed-point", gradient="implicit")


def step(fallback: float, converged: float = 1.0) -> dict[str, float]:
    return {
        "iterations": 12.25,
        "converged": converged,
        "fallback": fallback,
        "untrusted": 0.0,
        "missed": fallback,
        "oversized": 0.0,
        "backward_residual": 0.25,
        "backward_products": 26.0,
    }


def test_means_over_the_last_steps():
    recent = Recent(IMPLICIT)
    assert recent.text() == ""
    recent.add(step(1.0, converged=0.0))
    recent.add(step(0.5))
    assert recent.text() == "12.2 iterations, 50 % converged, 75 % fallback gradients"
    for _ in range(WINDOW):
        recent.add(step(0.0))
    assert recent.text() == "12.2 iterations, 100 % converged, 0 % fallback gradients"


def test_only_what_solver_and_gradient_have():
    for solver, text in (
        (SolverSpec(), ""),
        (SolverSpec(gradient="implicit"), "0 % fallback gradients"),
        (SolverSpec(name="anderson", gradient="one-step"), "12.2 iterations, 100 % converged"),
    ):
        recent = Recent(solver)
        recent.add(step(0.0))
        assert recent.text() == text


def test_the_share_of_examples_that_are_replaced_where_states_are_carried():
    recent = Recent(SolverSpec())
    recent.add(step(0.0) | {"replaced": 0.125})
    recent.add(step(0.0) | {"replaced": 0.375})
    assert recent.text() == "25 % of the examples replaced"


def test_one_warning_after_a_whole_window_of_fallbacks():
    recent = Recent(IMPLICIT)
    warnings = [recent.add(step(0.75)) for _ in range(3 * WINDOW)]
    assert [number for number, text in enumerate(warnings, 1) if text] == [WINDOW]
    warning = warnings[WINDOW - 1]
    assert warning.startswith("warning: 75 % of the gradients of the last 20 steps are not those")
    assert "the backward solve missed solver.gradient_rtol = 0.001 (75 %;" in warning
    assert "--set solver.gradient_restart=40 (now 10;" in warning
    assert "max_steps" not in warning
    recent = Recent(IMPLICIT)
    assert "0 % of the loops converged: raise solver.max_steps (now 64)" in "".join(
        recent.add(step(0.75, converged=0.0)) for _ in range(WINDOW)
    )


def test_no_warning_where_half_of_them_stand():
    recent = Recent(IMPLICIT)
    assert not any(recent.add(step(0.5)) for _ in range(3 * WINDOW))


@pytest.mark.usefixtures("compiled_quickly")
def test_training_prints_it(tmp_path):
    """A backward solve that may take one product falls back; the lines say so."""
    settings = (
        "task.length=8",
        "task.hard_length=8",
        "task.rows=60",
        "task.test_rows=16",
        "model.width=16",
        "model.heads=2",
        "solver.rtol=0.1",
        "solver.gradient_restart=1",
        "solver.gradient_cycles=1",
        "solver.gradient_rtol=1e-6",
        "train.batch=4",
        "train.validation_iterations=4",
    )
    spec = resolve(
        "prefix-sums",
        "quick",
        settings,
        make_task=make_task,
        solver="fixed-point",
        gradient="implicit",
        steps=WINDOW + 1,
    )
    out = io.StringIO()
    task = make_task(spec.task_name, spec.task_fields)
    train(spec, task, tmp_path / "run", console=Console(file=out, width=120))
    lines = out.getvalue().splitlines()
    assert sum(line.startswith("warning: 100 % of the gradients") for line in lines) == 1
    told = r"step 21: training, last 20 steps: [\d.]+ iterations, \d+ % converged, 100 % fallback"
    assert any(re.match(told, line) for line in lines)
