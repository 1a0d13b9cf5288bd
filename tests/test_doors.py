"""Solvers, gradients and losses from outside the package, and the tables that name the built-in
ones."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optimistix
import pytest
from tiny_task import make_task, tiny_spec

import eqloop
from eqloop import InputError, _build, _outside, run, tasks
from eqloop._plugins import load_class
from eqloop.audit import default_gradients
from eqloop.claims import predict
from eqloop.cli import main
from eqloop.nn import NormPlaces, RecallPlaces
from eqloop.run import Spec, open_run, read_metrics
from eqloop.sweep._cost import iterations
from eqloop.tasks import TASKS
from eqloop.train import JacobianNorm, Last, Mean, Objects, Progressive, TerminalResidual, train
from eqloop.train._method import make_method

EXAMPLES = Path(__file__).resolve().parents[1] / "docs/examples"
DAMPED = f"{EXAMPLES / 'damped_solver.py'}:Damped"
HALF = f"{EXAMPLES / 'half_step_gradient.py'}:HalfStep"
SHORT = ("train.steps=2", "train.batch=8", "train.loss=last", "train.validate_every=2")


# --- the tables


def test_a_loss_has_the_settings_of_its_spec():
    noise = "solver.path_noise=0.5"
    progressive = make_method(tiny_spec("train.loss=progressive", noise)).loss
    mean = make_method(tiny_spec("train.loss=mean", "train.burn_in=3", noise)).loss
    settings = ("residual_penalty=0.1", "jacobian_penalty=0.2", "penalty_share=0.3")
    settings += ("correction=0.4", "correction_states=2", "loss=last")
    solver = ("solver.name=fixed-point", "solver.gradient=implicit", noise)
    last = make_method(tiny_spec(*solver, *(f"train.{setting}" for setting in settings))).loss
    assert progressive == Progressive(path_noise=0.5)
    assert mean == Mean(burn_in=3, path_noise=0.5)
    assert last == Last(
        (TerminalResidual(0.1), JacobianNorm(0.2)), 0.3, path_noise=0.5, correction=0.4, states=2
    )


def test_a_row_is_all_that_a_new_loss_takes(monkeypatch):
    row = run.LOSSES["last"]
    scaled = run.Call(f"{__name__}:Scaled", factor=3.0)
    monkeypatch.setitem(run.LOSSES, "scaled", dataclasses.replace(row, make=lambda spec: scaled))
    backprop = dataclasses.replace(run.GRADIENTS["backprop"], losses=("last", "scaled"))
    monkeypatch.setitem(run.GRADIENTS, "backprop", backprop)
    assert make_method(tiny_spec("train.loss=scaled")).loss == Scaled(factor=3.0)
    with pytest.raises(InputError, match=r"scaled.*use.*last"):
        tiny_spec("train.loss=scaled", "solver.gradient=truncated")


@pytest.mark.parametrize("name", run.SOLVERS)
def test_the_facts_of_a_solver_are_those_of_its_object(name):
    facts = run.SOLVERS[name]
    solver = _build.make_solver(run.SolverSpec(name=name, gradient="implicit"))
    assert isinstance(solver, eqloop.AbstractSolver) == facts.converges
    if isinstance(solver, eqloop.AbstractSolver):
        assert solver.followed == facts.followed


@pytest.mark.parametrize("loss", run.LOSSES)
@pytest.mark.parametrize("gradient", run.GRADIENTS)
def test_every_gradient_says_which_losses_it_goes_with(gradient, loss):
    if loss in run.GRADIENTS[gradient].losses:
        spec = tiny_spec(
            f"solver.gradient={gradient}", f"train.loss={loss}", "solver.gradient_steps=2"
        )
        forward, differentiated, _ = iterations(spec)
        assert forward >= 0
        assert differentiated > 0
    else:
        with pytest.raises(InputError, match=rf"train\.loss = '{loss}'.*{gradient}.*\"last\""):
            tiny_spec(f"solver.gradient={gradient}", f"train.loss={loss}")


def test_a_file_and_a_row_are_all_that_a_new_name_takes(monkeypatch, tmp_path):
    """The spec, its checks, the model, the cost, the audit and the help follow from one row of one
    table: a solver, a gradient, a task (each a file in a temporary folder), a norm placement and a
    recall train two steps."""
    for example in ("damped_solver", "half_step_gradient", "addition"):
        (tmp_path / f"{example}.py").write_bytes((EXAMPLES / f"{example}.py").read_bytes())
    monkeypatch.syspath_prepend(tmp_path)
    damped = run.Call("damped_solver:Damped")
    solver = dataclasses.replace(
        run.SOLVERS["anderson"], meaning="damped iteration", make=lambda spec: damped
    )
    half = run.Call("half_step_gradient:HalfStep")
    gradient = dataclasses.replace(
        run.GRADIENTS["one-step"], make=lambda spec: half, losses=("last",), others={"half": half}
    )
    monkeypatch.setitem(run.SOLVERS, "damped", solver)
    monkeypatch.setitem(run.GRADIENTS, "half", gradient)
    monkeypatch.setitem(tasks._Tasks._built_in, "addition", ("addition", "Addition"))
    monkeypatch.setitem(run.NORMS, "last-only", NormPlaces("after the branch", branch=True))
    both = RecallPlaces("before the block and inside it", before=True, inside=True)
    monkeypatch.setitem(run.RECALLS, "both", both)
    names = ("solver.name=damped", "solver.gradient=half", "model.norm=last-only")
    names += ("model.recall=both", "train.steps=2", "solver.max_steps=4")
    spec = tiny_spec(*names)
    assert spec.train.loss == "last"
    assert Spec.from_text(spec.to_toml(), "the spec") == spec
    method = make_method(spec)
    kinds = (type(method.solver).__name__, type(method.gradient).__name__)
    assert kinds == ("Damped", "HalfStep")
    assert isinstance(method.solver, eqloop.AbstractSolver)
    assert method.solver.norm is eqloop.two_norm
    assert iterations(spec) == (4, 1, 1)
    assert "half" in default_gradients(4)
    model = _build.make_model(spec.model, jr.key(0))
    assert isinstance(model, eqloop.LoopedTransformer)
    (block,) = model.blocks
    assert (block.norms.kind, block.recall_kind) == ("last-only", "both")
    assert block.recall is not None
    z, e = jr.normal(jr.key(1), (2, 6, 16))
    r = block.recall.inject(e)
    z_recalled = block.recall(z, r)
    np.testing.assert_array_equal(block.recalled(z, r), z_recalled)
    np.testing.assert_array_equal(block.branch_input(z_recalled, r), block.recall(z_recalled, r))
    assert _build.model_spec(model) == spec.model
    assert {
        prediction.claim for prediction in predict("both", "last-only", "add", 0.5).values()
    } == {"no claim"}
    assert "both (before the block and inside it)" in run.meanings(run.RECALLS)
    assert "damped (damped iteration)" in run.meanings(run.SOLVERS)
    assert "addition" in TASKS
    small = ("task.digits=6", "task.rows=40", "model.width=16", "model.heads=2", "model.blocks=1")
    small += ("train.batch=8", "train.validation_iterations=4")
    resolved = run.resolve("addition", "quick", [*small, *names], make_task=tasks.make_task)
    task = tasks.make_task("addition", resolved.task_fields)
    outcome = train(resolved, task, tmp_path / "run")
    assert (outcome.step, outcome.run.spec.task_name) == (2, "addition")
    with pytest.raises(InputError, match=r"solver\.name must be one of unroll, .*, damped, got"):
        tiny_spec("solver.name=zzz")


@pytest.mark.parametrize(
    ("option", "table"),
    [
        ("--solver", run.SOLVERS),
        ("--gradient", run.GRADIENTS),
        ("--recall", run.RECALLS),
        ("--norm", run.NORMS),
    ],
)
def test_the_help_lists_every_name(option, table, cli):
    text = "".join(cli("train", "--help")[1].replace("│", " ").split())
    assert option in text
    for name in table:
        assert f"{name}(" in text


def test_a_spec_is_read_without_jax():
    code = "import sys, eqloop.run; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- objects


def test_a_run_trained_by_objects_goes_on_with_equal_ones(tmp_path):
    spec = tiny_spec(*SHORT)
    task = make_task("tiny", spec.task_fields)
    cls = load_class(DAMPED, "solver")
    path = tmp_path / "run"
    objects: dict[str, Any] = {
        "solver": cls(most=0.25),
        "gradient": eqloop.Phantom(3),
        "loss": Scaled(factor=2.0),
    }
    assert train(spec, task, path, **objects).status == "finished"
    stored = open_run(path).spec
    assert stored.solver.name == DAMPED
    assert "most=0.25" in stored.solver.object
    assert "sha256:" in stored.solver.object
    assert stored.solver.gradient == "eqloop._adjoint._phantom:Phantom"
    assert stored.train.loss == f"{__name__}:Scaled"
    again: dict[str, Any] = {**objects, "solver": cls(most=0.25)}
    assert train(None, task, path, resume=True, **again).step == 2
    for change, message in (
        ({"solver": None}, f"was trained by solver {DAMPED}: go on with --solver {DAMPED}"),
        ({"solver": cls(most=0.5)}, "not by Damped.*most=0.5"),
        ({"gradient": eqloop.Phantom(4)}, "was trained by gradient .*Phantom.*not by Phantom"),
        ({"loss": None}, "was trained by loss .*:Scaled: go on with"),
        ({"loss": Last()}, "not by Last"),
    ):
        others: dict[str, Any] = {**objects, **change}
        with pytest.raises(InputError, match=message):
            train(None, task, path, resume=True, **others)


class FromEmbeddings(Last):
    """A loss of a user that begins every loop from the embeddings, in a program of its own."""

    def __call__(self, *args, starts=None, **options):
        @jax.jit
        def examples(starts):
            del starts
            return super(FromEmbeddings, self).__call__(*args, **options)

        return examples(starts)


@pytest.mark.parametrize(
    ("setting", "remedy"),
    [
        ("train.carry_steps=2", "train.carry_steps = 1"),
        ("solver.start=zeros", 'solver.start = "embed"'),
    ],
)
def test_a_loss_that_ignores_the_states_it_is_given_is_refused(setting, remedy, tmp_path):
    spec, path = tiny_spec(*SHORT, setting), tmp_path / "run"
    task = make_task("tiny", spec.task_fields)
    where = f"loss {__name__}:FromEmbeddings ignores its argument starts"
    with pytest.raises(InputError, match=f"{where}.* {setting.split('=')[0]} = .*{remedy}$"):
        train(spec, task, path, loss=FromEmbeddings())
    assert not path.exists()
    for loss, settings in ((Scaled(factor=2.0), [setting]), (FromEmbeddings(), [])):
        own = Objects(loss=loss)
        own.check_starts(own.recorded(tiny_spec(*SHORT, *settings)))


class Scaled(Last):
    """A loss that a user might write."""

    factor: float = 1.0

    def __call__(self, *args, **options):
        result = super().__call__(*args, **options)
        return eqx.tree_at(lambda result: result.loss, result, self.factor * result.loss)


def test_objects_like_those_of_the_spec_train_alike(tmp_path):
    """The spec records an `Unroll` object in the fields that it has for it, and a phase changes
    them."""
    spec = tiny_spec(*SHORT, "solver.steps=3", "phases.1.until=1", "phases.1.solver.steps=2")
    task = make_task("tiny", spec.task_fields)
    train(spec, task, tmp_path / "names")
    longer = dataclasses.replace(spec, solver=dataclasses.replace(spec.solver, steps=9))
    unroll = eqloop.Unroll(3, rtol=spec.solver.rtol)
    train(longer, task, tmp_path / "objects", solver=unroll)
    assert (tmp_path / "objects/spec.toml").read_text() == (
        tmp_path / "names/spec.toml"
    ).read_text()
    runs = [open_run(tmp_path / name) for name in ("names", "objects")]
    by_names, by_objects = (
        (opened.path / "checkpoints/step-00000002.safetensors").read_bytes() for opened in runs
    )
    assert by_names == by_objects
    metrics = read_metrics(runs[1].metrics)
    assert [row["iterations"] for row in metrics if row["kind"] == "train"] == [2, 3]


@pytest.mark.parametrize(
    ("objects", "settings", "message"),
    [
        ({"solver": "anderson"}, (), "solver = 'anderson': must be an object"),
        ({"solver": eqloop.Anderson}, (), "must be an object, not a class"),
        ({"solver": eqloop.Anderson()}, ("train.loss=mean",), 'use train.loss = "last"'),
        ({"solver": optimistix.Newton(1e-3, 1e-3)}, (), "Backprop cannot follow .* Newton"),
        ({}, ("solver.name=a.py:B",), "solver a.py:B is a class from outside the package"),
        ({}, ("train.loss=a:B",), "loss a:B is a class from outside the package: give loss="),
    ],
)
def test_objects_that_cannot_train(objects, settings, message, tmp_path):
    spec = tiny_spec(*SHORT, *settings)
    task = make_task("tiny", spec.task_fields)
    with pytest.raises(InputError, match=message):
        train(spec, task, tmp_path / "run", **objects)
    assert not (tmp_path / "run").exists()


# --- files


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short(example):
    if example.stem.endswith(("solver", "gradient")):
        assert len(example.read_text("utf-8").splitlines()) <= 40


def test_a_run_by_the_files_of_the_examples(cli, tmp_path, monkeypatch):
    """The commands train, resume, evaluate and audit a run by the files of the examples; they
    refuse a file that has changed, and refuse to resume without the file."""
    solver, gradient = tmp_path / "damped.py", tmp_path / "half.py"
    solver.write_bytes((EXAMPLES / "damped_solver.py").read_bytes())
    gradient.write_bytes((EXAMPLES / "half_step_gradient.py").read_bytes())
    out = tmp_path / "run"
    small = {
        **{"task.length": 8, "task.validation_length": 0, "task.hard_length": 8},
        **{"task.rows": 60, "task.test_rows": 16, "model.width": 16, "model.heads": 2},
        **{"solver.max_steps": 4, "train.batch": 8, "train.validation_iterations": 4},
    }
    sets = [f"--set={name}={value}" for name, value in small.items()]
    objects = ("--solver", f"{solver}:Damped", "--gradient", f"{gradient}:HalfStep")
    code, _, err = cli("train", *objects, "--steps", 2, "--out", out, *sets)
    assert code == 0, err
    stored = open_run(out).spec.solver
    assert (stored.name, stored.gradient) == (f"{solver}:Damped", f"{gradient}:HalfStep")
    code, _, err = cli("train", "--resume", out)
    assert code == 2
    assert f"go on with --solver {solver}:Damped" in err
    assert cli("train", "--resume", out, *objects)[0] == 0
    # `eval` needs no file for a trained run, and does not run the solver's file unasked.
    monkeypatch.setattr(_outside, "load_class", None)
    rows = ("--split", "test", "--rows", 4)
    assert cli("eval", out, *rows, "--iterations", 4)[0] == 0
    code, _, err = cli("eval", out, *rows, "--budget", 4)
    assert code == 2
    assert f"give --solver {solver}:Damped" in err
    monkeypatch.undo()
    code, _, err = cli("eval", out, *rows, "--budget", 4, "--solver", f"{solver}:Damped")
    assert code == 0, err
    assert cli("solve", out, "01101001", "--budget", 4, "--solver", f"{solver}:Damped")[0] in (0, 1)
    solver.write_text(solver.read_text("utf-8") + "\n# changed\n", "utf-8")
    for command in (
        ("train", "--resume", out, *objects),
        ("eval", out, *rows, "--budget", 4, "--solver", f"{solver}:Damped"),
    ):
        code, _, err = cli(*command)
        assert code == 2
        assert "the file has changed since the run began" in err


def test_a_sweep_by_the_files_of_the_examples(cli, tmp_path, monkeypatch):
    """A worker loads the files that its command names and runs no others; a file that has changed
    is refused."""
    solver, gradient = tmp_path / "damped.py", tmp_path / "half.py"
    solver.write_bytes((EXAMPLES / "damped_solver.py").read_bytes())
    gradient.write_bytes((EXAMPLES / "half_step_gradient.py").read_bytes())
    grid, sweep = tmp_path / "grid.toml", tmp_path / "sweep"
    small = {
        **{"task.length": 8, "task.validation_length": 0, "task.hard_length": 8},
        **{"task.rows": 60, "task.test_rows": 16, "model.width": 16, "model.heads": 2},
        **{"solver.max_steps": 4, "train.batch": 8, "train.validation_iterations": 4},
        **{"train.steps": 2, "train.loss": '"last"', "solver.gradient": '"half.py:HalfStep"'},
    }
    lines = ["[set]", *(f'"{name}" = {value}' for name, value in small.items())]
    lines += ["[axes]", 'solver = ["damped.py:Damped"]', "[evaluate]", "iterations = 2", "rows = 2"]
    grid.write_text("\n".join(lines))
    objects = ("--solver", f"{solver}:Damped", "--gradient", f"{gradient}:HalfStep")

    def here(sweep, command, jobs, *, watch):
        """Run the one worker in this process, without a parent to watch."""
        assert command[-2:] == ["--worker", "tied"]
        return main([*command[3:-1], "free"]) == 0

    monkeypatch.setattr("eqloop.sweep.run_local", here)
    code, _, err = cli("sweep", grid, "--out", sweep)
    assert (code, sweep.exists()) == (2, False)
    assert "cell solver-Damped: solver damped.py:Damped is a class from outside the package" in err
    code, _, err = cli("sweep", grid, "--out", sweep, *objects, "--solver", HALF)
    assert (code, "the class must be an eqloop.AbstractSolver" in err) == (2, True)
    code, _, err = cli("sweep", grid, "--out", sweep, *objects, "--solver", DAMPED)
    assert (code, f"--solver {DAMPED}: no cell of {grid} names it" in err) == (2, True)
    code, _, err = cli("sweep", grid, "--out", sweep, *objects)
    assert code == 0, err
    spec_of_run = open_run(sweep / "runs" / "solver-Damped").spec.solver
    assert (spec_of_run.name, spec_of_run.gradient) == (objects[1], objects[3])
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (solver, gradient)]
    assert spec_of_run.object.endswith(f"sha256:{digests[0]}")
    code_of_sweep = json.loads((sweep / "cells.json").read_text())["code"]
    assert code_of_sweep == dict(zip(objects[1::2], digests, strict=True))
    code, _, err = cli("sweep", sweep)
    assert (code, "give --solver" in err) == (2, True)
    solver.write_text(solver.read_text("utf-8") + "# changed\n", "utf-8")
    for source in ((grid, "--out", sweep), (sweep,)):
        code, _, err = cli("sweep", *source, *objects)
        assert (code, "the file has changed since the run began" in err) == (2, True)


def test_gradients_that_the_command_cannot_compare(cli, tiny_run):
    for names, message in (
        (("nope",), "gradient must be one of backprop, "),
        ((HALF[:-1],), "has no class HalfSte; did you mean HalfStep?"),
        (("no_such:Thing",), "gradient no_such:Thing cannot be imported (ModuleNotFoundError"),
        (("fractions:Fraction",), "the class must be an eqloop.AbstractGradient"),
        (("one-step", "one-step"), "two gradients cannot have the same name one-step"),
        (
            ("truncated",),
            "solver.gradient_steps = 6 iterations cannot be differentiated, since --iterations",
        ),
    ):
        chosen = (word for name in names for word in ("--gradient", name))
        code, out, err = cli("gradients", tiny_run, "--iterations", 2, *chosen)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("none.py:A", "no such file"),
        ("mine.py:Other", "has no class Other"),
        ("mine.py:Plain", "the class must be an eqloop.AbstractSolver"),
        ("mine.py:Asks", "cannot be made with its default settings"),
    ],
)
def test_a_file_without_such_a_solver(text, message, tmp_path, cli):
    (tmp_path / "mine.py").write_text(
        "import eqloop\n\nclass Plain:\n    pass\n\n"
        "class Asks(eqloop.AbstractSolver):\n    rate: float\n"
    )
    code, _, err = cli("train", "--solver", tmp_path / text, "--out", tmp_path / "run")
    assert code == 2
    assert message in err
    assert not (tmp_path / "run").exists()


def test_an_entry_point_is_a_name_of_its_option(monkeypatch):
    damped = load_class(DAMPED, "solver")
    offered = {"eqloop.solvers": {"damped": lambda: damped}}
    monkeypatch.setattr(_outside, "entry_point_classes", lambda group: offered.get(group, {}))
    assert _outside.outside_class("solver", "damped") is damped
    assert _outside.outside_class("solver", "anderson") is None
    assert _outside.outside_class("gradient", "damped") is None
    name, solver = _build.named_solver(run.SolverSpec(rtol=1e-2), "damped")
    assert name == DAMPED
    assert solver.rtol == 1e-2


def test_the_gradients_of_the_examples_are_those_of_finite_differences(x64):
    """The gradient of the example, with its solver, equals that of finite differences: for
    `Implicit`, and for half a step, where J is -I."""
    damped, half = load_class(DAMPED, "solver")(rtol=1e-13), load_class(HALF, "gradient")()
    z0, x = jnp.zeros(3), jnp.asarray([0.3, -0.2, 0.5])

    def difference(at):
        sides = [at(x + side * 1e-6 * jnp.eye(3)[0]) for side in (1, -1)]
        return (sides[0] - sides[1]) / 2e-6

    def contracting(x, gradient=None):
        out = eqloop.equilibrium(
            lambda z, x: 0.5 * jnp.tanh(z) + x, z0, x, solver=damped, gradient=gradient
        )
        return jnp.sum(out.state**2)

    def mirrored(x):
        solver = eqloop.FixedPoint(damping=0.5, rtol=1e-13)
        out = eqloop.equilibrium(lambda z, x: jnp.sin(x) - z, z0, x, solver=solver, gradient=half)
        return jnp.sum(out.state**2)

    for at in (contracting, mirrored):
        np.testing.assert_allclose(jax.grad(at)(x)[0], difference(at), rtol=1e-7)
    exact = jax.grad(contracting)(x)
    assert np.all(np.abs(jax.grad(lambda x: contracting(x, half))(x) - exact) > 1e-3)
