"""What training reports about the loops and their gradients while it runs."""

import dataclasses
import io
import re

import jax
import jax.numpy as jnp
import jax.random as jr
from rich.console import Console

import eqloop
from eqloop._build import make_model
from eqloop.run import ModelSpec, SolverSpec, resolve
from eqloop.tasks import make_task
from eqloop.train import train
from eqloop.train._display import WINDOW, Recent

IMPLICIT = SolverSpec(name="fixed-point", gradient="implicit")


def step(fallback: float, converged: float = 1.0) -> dict[str, float]:
    return {
        "cells": 0.5,
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


def collapse(recent: Recent, cells: list[float], **changes: float) -> list[str]:
    return [recent.add(step(0.0) | {"cells": share} | changes) for share in cells]


def test_one_warning_where_loops_settle_too_soon_and_nothing_is_learnt():
    texts = collapse(Recent(IMPLICIT, crossing=16), [0.52] * 4 * WINDOW)
    assert [number for number, text in enumerate(texts, 1) if text] == [2 * WINDOW]
    warning = texts[2 * WINDOW - 1]
    assert warning.startswith("warning: the loops settle after 12.2 iterations, before information")
    assert "crossed the grid (16)" in warning
    assert "stands still at 52.0 %" in warning


def test_no_such_warning_where_it_is_not_so():
    still, rising = [0.52] * 3 * WINDOW, [0.3 + 0.001 * n for n in range(3 * WINDOW)]
    # Here information crosses the grid in time.
    assert not any(collapse(Recent(IMPLICIT, crossing=12), still))
    assert not any(collapse(Recent(IMPLICIT, crossing=16), rising))
    assert not any(collapse(Recent(IMPLICIT, crossing=16), [1.0] * 3 * WINDOW))
    assert not any(collapse(Recent(IMPLICIT, crossing=16), still, converged=0.1))
    assert not any(collapse(Recent(SolverSpec(), crossing=16), still))


def test_the_iterations_that_information_takes_across_the_grid():
    """The number is measured: the first iteration after which the last cell depends on the first
    input."""
    small = ModelSpec(width=8, heads=2, channels=1, classes=2)
    for spec in (
        dataclasses.replace(small, grid=(11,), attention=5),
        dataclasses.replace(small, grid=(12,), attention=5),
        dataclasses.replace(small, grid=(13,), attention=3, blocks=2),
        dataclasses.replace(small, grid=(7,), attention="full"),
    ):
        model, x = make_model(spec, jr.key(0)), jnp.zeros((*spec.grid, 1))

        def last(x, model=model):
            e, f = model.embed(x), model.loop()
            return eqloop.trajectory(f, e, f.inject(e), 11)[:, -1].sum(axis=-1)

        depends = (jnp.abs(jax.jit(jax.jacrev(last))(x)[:, 0, 0]) > 0).tolist()
        assert depends.index(True) + 1 == spec.crossing


def test_training_prints_it(tmp_path):
    """A backward solve that is limited to one product falls back, and the progress lines say so."""
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
    pattern = (
        r"step 21: training, last 20 steps: [\d.]+ iterations, \d+ % converged, 100 % fallback"
    )
    assert any(re.match(pattern, line) for line in lines)
