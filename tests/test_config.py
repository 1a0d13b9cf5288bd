"""Specs: presets, settings, and the one line about each mistake."""

import dataclasses
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_task import Tiny, tiny_spec

import eqloop
from eqloop import InputError
from eqloop._build import make_solver
from eqloop.run import (
    SHORTCUTS,
    ModelSpec,
    SolverSpec,
    Spec,
    TrainSpec,
    parse_setting,
    presets,
    resolve,
    solver_facts,
)
from eqloop.sweep import count
from eqloop.tasks import make_task


@pytest.mark.parametrize("preset", ["quick", "equilibrium", "paper"])
@pytest.mark.parametrize("task", ["prefix-sums", "sudoku", "chess"])
def test_every_preset_resolves_and_survives_toml(preset, task, tmp_path):
    assert task in presets()[preset]
    spec = resolve(task, preset, make_task=make_task)
    path = tmp_path / "spec.toml"
    path.write_text(spec.to_toml())
    assert Spec.from_toml(path) == spec
    built = make_task(task, spec.task_fields)
    assert spec.model.attention == built.attention, "the task's own default, resolved"
    assert spec.model.grid == built.grid
    assert (spec.model.channels, spec.model.classes) == (built.channels, built.classes)


@pytest.mark.parametrize("family", ["trm", "hrm", "eqr", "fprm"])
def test_presets_of_other_families(family):
    spec = resolve("sudoku", f"{family}-small", make_task=make_task)
    assert (spec.model.family, spec.model.attention) == (family, "full")
    assert spec.model.state_shape[-1] == (64 if family == "fprm" else 128)
    assert Spec.from_text(spec.to_toml(), "a copy") == spec


@pytest.mark.parametrize(("family", "published"), [("trm", 5_028_866), ("fprm", 6_833_666)])
def test_presets_as_published_have_the_published_number_of_weights(family, published):
    """Less the padding of embedding and head and, of TRM, the vectors that are no weights there;
    with the vectors of the extra positions, which are a table of their own there."""
    spec = resolve("sudoku", family, make_task=make_task)
    padding, vectors, extra = 2 * 512, 2 * 512, 16 * 512
    expected = published - padding + extra + (vectors if family == "trm" else 0)
    assert count(spec.model).parameters == expected


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "model.recall=external",
            "model.recall = 'external' has no effect on model.family = 'trm'",
        ),
        ("model.attention=3", 'model.attention = 3 is for model.family = "looped"'),
        ("model.family=looped", "model.cycles = 4 has no effect on model.family = 'looped'"),
        ("model.mix=0", "model.mix must be above 0 and at most 1, got 0"),
    ],
)
def test_fields_of_another_family_are_refused(setting, message):
    settings = ["model.cycles=4", setting]
    with pytest.raises(InputError, match=re.escape(message)):
        resolve("sudoku", "trm-small", settings, make_task=make_task)


@pytest.mark.parametrize(
    ("task", "steps", "rates"),
    [
        ("prefix-sums", 1600, {1e-4, 3e-4, 1e-3}),
        ("chess", 8000, {1e-4, 3e-4, 1e-3}),
        ("sudoku", 8000, {3e-4, 1e-3, 3e-3}),
    ],
)
def test_the_paper_preset_is_the_paper(task, steps, rates):
    spec = resolve(task, "paper", make_task=make_task)
    assert spec.train.lr in rates
    assert spec.solver == SolverSpec(name="unroll", gradient="backprop", steps=30)
    fields = {
        field: getattr(spec.model, field) for field in ("width", "heads", "mlp_ratio", "blocks")
    }
    assert fields == {"width": 256, "heads": 8, "mlp_ratio": 4, "blocks": 1}
    assert spec.model.precision == "bfloat16"
    train = spec.train
    assert (train.steps, train.epochs, train.batch) == (steps, 100, 500)
    assert (train.loss, train.schedule, train.clip) == ("progressive", "paper", 1.0)
    assert (train.betas, train.eps, train.weight_decay) == ((0.9, 0.999), 1e-8, 0.01)


def test_later_settings_win():
    spec = tiny_spec("train.steps=7", "train.steps=8", steps=6, seed=3, norm="pre", recall="none")
    assert (spec.train.steps, spec.train.seed) == (8, 3)
    assert (spec.model.norm, spec.model.recall) == ("pre", "none")
    assert tiny_spec(data="some file.csv").task["data"] == "some file.csv"


def test_shortcuts_name_real_fields():
    groups = {"model": ModelSpec, "solver": SolverSpec, "train": TrainSpec, "task": Tiny}
    for field in SHORTCUTS.values():
        group, _, name = field.partition(".")
        assert name in {spec_field.name for spec_field in dataclasses.fields(groups[group])}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=1", 1),
        ("a.b = 1e-3", 1e-3),
        ("a.b=true", True),
        ("a.b=[0.9, 0.99]", [0.9, 0.99]),
        ('a.b="x=y"', "x=y"),
        ("a.b=post", "post"),
        ("a.b=/some where/x.csv.gz", "/some where/x.csv.gz"),
        ("a.b=", ""),
        ("a.b=1\nc = 2", "1\nc = 2"),
    ],
)
def test_values_are_toml_or_bare_words(text, value):
    assert parse_setting(text) == ("a", "b", value)


def test_the_gradient_and_the_loss_follow_the_solver():
    implicit = tiny_spec(solver="fixed-point")
    assert (implicit.solver.gradient, implicit.train.loss) == ("implicit", "last")
    progressive = "train.loss=progressive"
    paper = resolve(
        "chess", "paper", make_task=make_task, solver="fixed-point", gradient="one-step"
    )
    assert (paper.solver.gradient, paper.train.loss) == ("one-step", "last")
    assert tiny_spec(gradient="one-step").train.loss == "last"
    assert tiny_spec(progressive, gradient="one-step").train.loss == "progressive"
    assert tiny_spec().train.loss == "mean"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.widht=64"], "unknown field model.widht; did you mean model.width?"),
        (["modle.width=64"], "unknown field modle.width; did you mean model.width?"),
        (["train.LR=1"], "unknown field train.LR; did you mean train.lr?"),
        (["task.lenght=8"], "unknown field task.lenght; did you mean task.length?"),
        (["model.width"], "write GROUP.FIELD=VALUE"),
        (["width=64"], "write GROUP.FIELD=VALUE"),
        (["model.width=big"], "model.width must be a whole number, got 'big'"),
        (["model.width=64.5"], "model.width must be a whole number, got 64.5"),
        (["model.width=true"], "model.width must be a whole number, got True"),
        (["model.width=63"], "model.width must be a multiple of 2 x model.heads = 4, got 63"),
        (["solver.gradient_checkpoints=4"], "solver.gradient_checkpoints = 4 has no effect here"),
        (
            ["solver.gradient_keep=products", "solver.gradient=one-step", "train.loss=last"],
            'solver.gradient_keep = "products" has no effect here: it is for solver.gradient = one '
            'of "backprop", "truncated", "last-steps"',
        ),
        (["model.heads=0"], "model.heads must be at least 1, got 0"),
        (["model.attention=4"], 'model.attention must be "full" or an odd window, got 4'),
        (["model.attention=none"], "must be a whole number or one of task, full, got 'none'"),
        (["model.rotary_base=1"], "model.rotary_base must be above 1, got 1.0"),
        (["model.channels=3"], "model.channels is given by the task"),
        (["task.name=chess"], "name the task with --task"),
        (["model.norm=pots"], "must be one of pre, peri, post, sandwich, got 'pots'; did you mean"),
        (
            ["solver.name=picard"],
            "solver.name must be one of unroll, fixed-point, adaptive-damping",
        ),
        (["solver.gradient=1"], "solver.gradient must be one of"),
        (["solver.rtol=2"], "solver.rtol must be between 0 and 1, got 2.0"),
        (["solver.rtol=nan"], "solver.rtol must be between 0 and 1, got nan"),
        (["solver.damping=1"], "solver.damping must be in [0, 1), got 1.0"),
        (["solver.mix=1"], "solver.mix must be above 0 and at most 0.98, got 1.0"),
        (
            ["solver.name=chord", "solver.gradient=last-steps"],
            "\"last-steps\" cannot follow the steps of solver.name = 'chord'",
        ),
        (["solver.gradient=last-steps", "solver.gradient_steps=99"], "cannot be differentiated"),
        (["solver.gradient=truncated", "solver.gradient_steps=99"], "cannot be differentiated"),
        (["train.steps=0"], "train.steps must be at least 1, got 0"),
        (["train.lr=-1"], "train.lr must be above 0, got -1.0"),
        (["train.lr=inf"], "train.lr must be above 0, got inf"),
        (["train.betas=0.9"], "train.betas must be a list of 2 numbers, got 0.9"),
        (["train.betas=[0.9, 1]"], "train.betas must be in [0, 1)"),
        (["train.ema=1"], "train.ema must be in [0, 1)"),
        (["train.keep=1"], "train.keep must be at least 2"),
        (["train.seed=-1"], "train.seed must be at least 0"),
        (["train.validation_split=test"], "never chosen on test data"),
        (["train.tracker=tensorbord"], "did you mean tensorboard?"),
        (["train.loss=mean", "solver.name=fixed-point"], 'use train.loss = "last"'),
        (["train.loss=mean", "solver.gradient=implicit"], 'use train.loss = "last"'),
    ],
)
def test_mistakes_get_one_clear_line(settings, message):
    with pytest.raises(InputError) as caught:
        tiny_spec(*settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_tasks_and_presets():
    with pytest.raises(InputError, match="unknown preset 'quik'; did you mean quick"):
        resolve("sudoku", "quik", make_task=make_task)
    with pytest.raises(InputError, match="unknown task 'sodoku'; did you mean sudoku"):
        resolve("sodoku", "quick", make_task=make_task)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("format = 1", "format = 2", "format 2 is not the one this eqloop reads"),
        ("[solver]", "[sovler]", "unknown table [sovler]; did you mean solver?"),
        ("width = 16", "width = 'x'", "model.width must be a whole number"),
        ("width = 16", "width = ", "is not valid TOML"),
        ('name = "tiny"', "", "task.name is missing"),
        ("width = 16", "depth = 16", "unknown field model.depth"),
    ],
)
def test_a_damaged_spec_is_refused_with_its_name(old, new, message, tmp_path):
    text = tiny_spec().to_toml()
    assert old in text
    path = tmp_path / "spec.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        Spec.from_toml(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_spec_that_is_not_there_or_not_text(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        Spec.from_toml(tmp_path / "spec.toml")
    (tmp_path / "spec.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not text in UTF-8"):
        Spec.from_toml(tmp_path / "spec.toml")


def test_differences_name_both_values():
    assert tiny_spec().differences(tiny_spec()) == []
    assert tiny_spec().differences(tiny_spec("model.width=32")) == ["model.width: 16 -> 32"]


def test_the_fields_with_an_effect():
    looped, trm = ModelSpec().effective, ModelSpec(family="trm", attention="full").effective
    assert "norm" in looped
    assert "cycles" not in looped
    assert "norm" not in trm
    assert "cycles" in trm
    assert not {"conv", "mix", "high_blocks"} & trm.keys()


def test_a_spec_makes_adaptive_damping():
    spec = SolverSpec(name="adaptive-damping", gradient="implicit", damping=0.25, damping_decay=0.5)
    solver = make_solver(spec)
    assert isinstance(solver, eqloop.AdaptiveDamping)
    assert (solver.step_size, solver.decay, solver.patience) == (0.75, 0.5, 5)
    f, x = lambda z, x: -1.5 * z + x, jnp.ones(1)  # diverges without
    out = eqloop.equilibrium(f, jnp.zeros(1), x, solver=solver)
    np.testing.assert_allclose(out.state, 0.4, rtol=2e-3)


@pytest.mark.parametrize(
    ("name", "solver"), [("anderson", eqloop.Anderson), ("broyden", eqloop.Broyden)]
)
def test_the_memory_of_a_spec_is_that_of_the_class(name, solver):
    for memory, wanted in ((0, solver().memory), (7, 7)):
        spec = SolverSpec(name=name, gradient="implicit", memory=memory)
        made: Any = make_solver(spec)
        assert isinstance(made, solver)
        assert made.memory == wanted
        assert solver_facts(name).history(spec) == 2 * wanted
