"""The audit of gradients: a law for each column, and the command and the log that show it."""

import hashlib
import json
import shutil
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tiny_task import make_task, tiny_spec

import eqloop
from eqloop import Backprop, Implicit, Neumann, OneStep, Phantom, Truncated
from eqloop._cross_entropy import cross_entropy
from eqloop._schema import from_table, to_table
from eqloop._tables import parse_json
from eqloop.audit import GradientAuditor
from eqloop.audit._audit import BACKPROP, CONVERGED, _differentiate
from eqloop.cli import main
from eqloop.run import GradientsLine, open_run, read_gradients, read_metrics
from eqloop.train import train
from eqloop.train._state import skeleton

WIDTH, CELLS, CLASSES = 6, 4, 3
HALF = Path(__file__).resolve().parents[1] / "docs/examples/half_step_gradient.py"


class Loop(eqx.Module):
    """`f(z, x) = tanh(A z + x)` cell by cell, where A is `radius` times a rotation."""

    inner: jax.Array

    def __call__(self, z, x):
        return jnp.tanh(z @ self.inner + x)


class Tiny(eqx.Module):
    """A small model that is called as a `LoopedTransformer` is."""

    inject: eqloop.nn.Linear
    loop: Loop
    coda: eqloop.nn.Linear

    def __init__(self, radius: float):
        first, second, third = jr.split(jr.key(0), 3)
        self.inject = eqloop.nn.Linear(2, WIDTH, key=first)
        rotation = jnp.linalg.qr(jr.normal(second, (WIDTH, WIDTH)))[0]
        self.loop = Loop(radius * rotation)
        self.coda = eqloop.nn.Linear(WIDTH, CLASSES, key=third)

    def __call__(self, x, *, solver, gradient=None, max_steps=256, probe=None):
        r = self.inject(x)
        out = eqloop.equilibrium(
            self.loop,
            jnp.zeros_like(r),
            r,
            solver=solver,
            gradient=gradient,
            max_steps=max_steps,
            probe=probe,
        )
        return eqloop.Output(
            self.coda(out.state), out.state, out.steps, out.evaluations, out.residual, out.result
        )


def batch(examples: int = 3):
    inputs = jr.normal(jr.key(1), (examples, CELLS, 2))
    return inputs, jr.randint(jr.key(2), (examples, CELLS), 0, CLASSES)


def audit(radius: float, gradients, **settings) -> eqloop.GradientAudit:
    settings = {"iterations": 100, "rtol": 1e-11, "max_steps": 400, "repeats": 1} | settings
    return eqloop.gradient_audit(Tiny(radius), batch(), gradients=gradients, **settings)


# --- laws


@pytest.mark.usefixtures("x64")
def test_where_the_loop_converges_backprop_and_implicit_agree():
    gradients = {
        "implicit": Implicit(rtol=1e-10),
        "anderson": Implicit(rtol=1e-10, solver=eqloop.Anderson(memory=8)),
        "again": Backprop(),
    }
    report = audit(0.8, gradients)
    assert report.share == 1
    for gradient in report.gradients.values():
        for part in (gradient.total, *gradient.layers.values()):
            for like in (part.backprop, part.implicit):
                np.testing.assert_allclose([like.cosine, like.ratio], 1, atol=1e-6)
    for name, like in (("again", "backprop"), (BACKPROP, "backprop"), (CONVERGED, "implicit")):
        itself = getattr(report.gradients[name].total, like)
        np.testing.assert_allclose([itself.cosine, itself.ratio], 1, rtol=1e-14)
    for name in ("implicit", "anderson", CONVERGED):
        residual = report.gradients[name].backward_residual
        assert residual is not None
        assert residual < 1e-9
        assert report.gradients[name].fallback == 0


@pytest.mark.usefixtures("x64")
def test_any_map_is_audited_as_the_model_that_holds_it():
    """An audit of the loop of `Tiny` as a map of its own, with a loss that reads the state as the
    coda does, reports the same gradient of the same weights."""
    model, (inputs, targets) = Tiny(0.8), batch()
    coda, xs = model.coda, jax.vmap(model.inject)(inputs)
    settings = {"iterations": 60, "rtol": 1e-10, "max_steps": 400, "repeats": 1}
    settings |= {"gradients": {"one-step": OneStep()}}
    whole = eqloop.gradient_audit(model, (inputs, targets), **settings)
    alone = eqloop.gradient_audit(
        model.loop,
        (xs, targets),
        z0=jnp.zeros_like,
        loss=lambda state, target: cross_entropy(coda(state), target),
        **settings,
    )
    assert (alone.share, alone.examples) == (1, 3)
    for name, gradient in whole.gradients.items():
        from_map, from_model = alone.gradients[name], gradient.layers["loop"]
        assert list(from_map.layers) == ["inner"]
        assert (from_map.evaluations, from_map.products) == (
            gradient.evaluations,
            gradient.products,
        )
        np.testing.assert_allclose(from_map.total.norm, from_model.norm, rtol=1e-9)
        np.testing.assert_allclose(
            from_map.total.backprop.cosine, from_model.backprop.cosine, rtol=1e-9
        )


@pytest.mark.usefixtures("x64")
def test_the_gradient_of_a_map_of_trees_is_its_finite_difference():
    def f(weights, z, x):
        return {"a": jnp.tanh(weights["w"] * z["b"] + x[0]), "b": jnp.sin(z["a"]) * 0.5 + x[1]}

    def loss(state, target):
        return state["a"] ** 2 + (state["b"] - target) ** 2

    xs, targets = (jnp.array([0.3, -1.0]), jnp.array([0.1, 0.7])), jnp.array([1.0, 2.0])
    z0 = {"a": 0.0, "b": 0.0}

    def mean_loss(w):
        def example_loss(x, target):
            map_ = jax.tree_util.Partial(f, {"w": w})
            start = jax.tree.map(jnp.asarray, z0)
            out = eqloop.equilibrium(map_, start, x, solver=eqloop.FixedPoint(rtol=1e-14))
            return loss(out.state, target)

        return jnp.mean(jax.vmap(example_loss)(xs, targets))

    report = eqloop.gradient_audit(
        jax.tree_util.Partial(f, {"w": jnp.asarray(0.4)}),
        (xs, targets),
        z0=z0,
        loss=loss,
        gradients={},
        iterations=80,
        rtol=1e-12,
        repeats=1,
    )
    expected = abs(mean_loss(0.4 + 1e-5) - mean_loss(0.4 - 1e-5)) / 2e-5
    for gradient in report.gradients.values():
        np.testing.assert_allclose(gradient.total.norm, expected, rtol=1e-8)


@pytest.mark.parametrize(
    ("f", "settings", "message"),
    [
        (lambda z, x: x, {"loss": lambda z, y: z}, "model has no weights to differentiate"),
        (Loop(jnp.eye(1)), {}, r"loss is missing: with z0 it is a function loss\(state, target\)"),
    ],
)
def test_a_map_that_cannot_be_audited(f, settings, message):
    with pytest.raises(ValueError, match=message):
        eqloop.gradient_audit(f, (jnp.ones((2, 1)), jnp.ones(2)), z0=jnp.zeros(1), **settings)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("family", [Truncated, Neumann, Phantom])
def test_more_terms_are_nearer_to_the_truth(family):
    report = audit(0.8, {str(k): family(k) for k in (1, 3, 9, 27)})
    for like in ("backprop", "implicit"):
        cosines = [getattr(report.gradients[k].total, like).cosine for k in ("1", "3", "9", "27")]
        assert cosines == sorted(cosines), cosines
        assert cosines[0] < 0.999
        assert cosines[-1] > 0.9999


@pytest.mark.usefixtures("x64")
def test_layers_compose_to_the_total():
    report = audit(0.8, {"one-step": OneStep()})
    for gradient in report.gradients.values():
        assert list(gradient.layers) == ["inject", "loop", "coda"]
        parts = [part.norm**2 for part in gradient.layers.values()]
        np.testing.assert_allclose(sum(parts), gradient.total.norm**2)
        # The inner product <g, r> is a sum over layers as well.
        reference = report.gradients[BACKPROP]
        inner = [
            part.backprop.cosine * part.norm * reference.layers[name].norm
            for name, part in gradient.layers.items()
        ]
        total = gradient.total.backprop.cosine * gradient.total.norm * reference.total.norm
        np.testing.assert_allclose(sum(inner), total)


@pytest.mark.usefixtures("x64")
def test_gradients_are_those_of_plain_autodiff():
    """The audit's norm agrees with a second route: a Python loop and `jax.grad`."""
    model, (inputs, targets) = Tiny(0.8), batch()

    def loss(model):
        r = jax.vmap(model.inject)(inputs)
        z = jnp.zeros_like(r)
        for _ in range(5):
            z = model.loop(z, r)
        return jnp.mean(jax.vmap(cross_entropy)(model.coda(z), targets))

    expected = eqloop.two_norm(eqx.filter_grad(loss)(model))
    report = audit(0.8, {}, iterations=5)
    np.testing.assert_allclose(report.gradients[BACKPROP].total.norm, expected, rtol=1e-12)


def test_what_did_not_converge_is_no_reference():
    """An expanding rotation never settles, and the audit reports no implicit reference."""
    report = audit(3.0, {"one-step": OneStep()}, iterations=8, rtol=1e-5, max_steps=20)
    assert report.share == 0
    assert report.gradients[CONVERGED].converged == 0
    for gradient in report.gradients.values():
        assert np.isnan(gradient.total.implicit.cosine)
        assert np.isnan(gradient.total.implicit.ratio)
        assert np.isfinite(gradient.total.backprop.cosine)


def test_costs_are_counted():
    gradients = {
        "truncated": Truncated(4),
        "phantom": Phantom(4),
        "one-step": OneStep(),
        "neumann": Neumann(4),
        "half": Backprop(checkpoints=3),
    }
    audited = audit(0.5, gradients, iterations=9, rtol=1e-5).gradients
    counts = {
        name: (gradient.evaluations, gradient.repeated, gradient.products)
        for name, gradient in audited.items()
    }
    del counts[CONVERGED]
    assert counts == {
        "backprop": (9, 9, 9),
        "truncated": (9, 4, 4),
        "phantom": (9, 4, 4),
        "one-step": (9, 1, 1),
        "neumann": (9, 2, 5),
        "half": (9, 18, 9),
    }
    for gradient in audited.values():
        assert gradient.seconds > 0
        assert gradient.compile_seconds > 0
        assert gradient.memory is None or gradient.memory > 0
    solved = {name for name, gradient in audited.items() if gradient.backward_residual is not None}
    assert solved == {CONVERGED, "neumann"}


def test_memory_of_backprop_grows_with_iterations_and_that_of_neumann_does_not():
    def memory(iterations: int) -> dict[str, int]:
        report = audit(0.5, {"neumann": Neumann(4)}, iterations=iterations, rtol=1e-4)
        # On a CPU the memory is always known.
        return {name: gradient.memory or 0 for name, gradient in report.gradients.items()}

    few, many = memory(4), memory(400)
    assert few["neumann"] > 0
    assert many[BACKPROP] > 2 * few[BACKPROP]
    assert many["neumann"] == few["neumann"]


def test_other_weights_compile_nothing(monkeypatch):
    auditor = GradientAuditor(iterations=6, gradients={"one-step": OneStep()}, rtol=1e-4)
    first = auditor(Tiny(0.5), batch())
    monkeypatch.setattr(type(_differentiate), "lower", None)
    second = auditor(Tiny(0.7), batch())
    assert first.gradients[BACKPROP].total.norm != second.gradients[BACKPROP].total.norm


def test_gradients_that_differ_in_a_number_are_one_program():
    auditor = GradientAuditor(
        iterations=9,
        gradients={k: eqloop.default_gradients(9)[k] for k in ("neumann-2", "neumann-4")},
    )
    gradients = auditor(Tiny(0.5), batch()).gradients
    assert len({id(program.compiled) for program in auditor.programs.values()}) == 3
    assert (gradients["neumann-2"].products, gradients["neumann-4"].products) == (3, 5)
    assert gradients["neumann-2"].total.norm != gradients["neumann-4"].total.norm


def test_another_solver_runs_the_loop():
    report = audit(0.5, {"implicit": Implicit()}, solver=eqloop.FixedPoint(rtol=1e-2), rtol=1e-5)
    assert report.gradients["implicit"].evaluations < report.gradients[CONVERGED].evaluations < 100


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iterations": 0}, "iterations = 0 must be at least 1"),
        ({"max_steps": 0}, "max_steps = 0 must be at least 1"),
        ({"repeats": 0}, "repeats = 0 must be at least 1"),
        ({"rtol": 1.0}, "rtol = 1.0 must be between 0 and 1"),
        ({"gradients": {"backprop": OneStep()}}, "'backprop' is the name of a reference"),
        ({"gradients": {"t": Truncated(9)}, "iterations": 5}, r"exceeds Unroll\(5\)"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        audit(0.5, **({"gradients": {}} | settings))


def test_the_default_gradients_fit_every_number_of_iterations():
    for iterations in (1, 2, 3, 30):
        gradients = eqloop.default_gradients(iterations)
        assert {"one-step", "implicit", "implicit-anderson"} <= gradients.keys()
        assert all(
            gradient.steps < iterations  # pyright: ignore[reportAttributeAccessIssue]
            for gradient in gradients.values()
            if hasattr(gradient, "steps")
        )


# --- the command


@pytest.fixture
def run(tiny_run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(tiny_run, copy)
    return copy


@pytest.mark.slow
def test_command(run, tmp_path, capsys):
    """One call prints the table, writes the file and reports every layer; a second call prints the
    chosen gradients as JSON."""
    picture = tmp_path / "gradients.png"
    args = ["gradients", str(run), "--examples", "4", "--max-steps", "40", "--rtol", "1e-3"]
    # The iterations differ from those of training, and are few, since then the default
    # gradients are few. Both calls use the same number, since each number is compiled for.
    args += ["--iterations", "2"]
    assert main([*args, "--layers", "one-step", "--plot", str(picture)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "4 examples of validation, 2 iterations" in out
    assert "implicit-anderson" in out
    assert "blocks.0.attention.query" in out
    assert "converged" in out.splitlines()[-2]
    assert picture.read_bytes().startswith(b"\x89PNG")
    stored = json.loads((run / "gradients.json").read_text())
    assert stored["gradients"]["backprop"]["total"]["backprop"]["cosine"] == pytest.approx(1)
    assert (stored["split"], stored["step"], stored["examples"]) == ("validation", 4, 4)
    record = read_gradients(run)
    assert record is not None
    assert record.tables() == parse_json((run / "gradients.json").read_bytes())
    # This call uses another split and checkpoint, a gradient of the table and one of a file.
    args += ["--gradient", "one-step", "--gradient", f"{HALF}:HalfStep"]
    assert main([*args, "--split", "test", "--checkpoint", "2", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert (table["split"], table["step"], table["iterations"]) == ("test", 2, 2)
    assert list(table["gradients"]) == [BACKPROP, CONVERGED, "one-step", "HalfStep"]
    sha256 = hashlib.sha256(HALF.read_bytes()).hexdigest()
    assert table["objects"] == {"one-step": "OneStep()", "HalfStep": f"HalfStep() sha256:{sha256}"}
    # Before the weights of prelude and block, the norm is half of that of one iteration.
    mine, whole = (table["gradients"][name]["layers"] for name in ("HalfStep", "one-step"))
    for layer, part in whole.items():
        factor = 0.5 if layer.startswith(("prelude", "blocks")) else 1
        assert mine[layer]["norm"] == pytest.approx(factor * part["norm"], rel=1e-5), layer


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--split", "tset"], "--split tset: must be one of train, validation"),
        (["--layers", "none"], "--layers none: must be one of backprop"),
        (["--rtol", "2"], "--rtol 2: must be between 0 and 1"),
        (["--examples", "0"], "see `eqloop gradients --help`"),
        (["--checkpoint", "3"], "no checkpoint of step 3"),
        (["--plot", "picture.gif"], "--plot picture.gif: the name must end in"),
    ],
)
def test_bad_input_is_one_line(args, message, tiny_run, capsys):
    assert main(["gradients", str(tiny_run), *args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
    assert not (tiny_run / "gradients.json").exists()


# --- while training


@pytest.mark.slow
def test_training_logs_it_and_is_not_disturbed(tmp_path):
    def go(name: str, *settings: str, resume: bool = False):
        short = ["train.steps=6", "train.checkpoint_every=2", "train.keep=4", "solver.rtol=1e-2"]
        spec = tiny_spec(*short, *settings)
        task = make_task("tiny", spec.task_fields)
        train(None if resume else spec, task, tmp_path / name, resume=resume)
        return open_run(tmp_path / name)

    without = go("without")
    audited = go("with", "train.audit_every=2")
    lines = [row for row in read_metrics(audited.metrics) if row["kind"] == "gradients"]
    assert [row["step"] for row in lines] == [2, 4, 6]
    for row in lines:
        assert row["examples"] == 16
        assert row["cosine_to_backprop"].keys() == {
            "backprop",
            "implicit-converged",
            "one-step",
            "neumann-4",
            "implicit",
        }
        assert row["cosine_to_backprop"]["backprop"] == pytest.approx(1)
        assert 0 <= row["share"] <= 1
        assert to_table(from_table(GradientsLine, row)) == row
    for left, right in zip(
        jax.tree.leaves(without.load("last", skeleton(without.spec))[0]),
        jax.tree.leaves(audited.load("last", skeleton(audited.spec))[0]),
        strict=True,
    ):
        np.testing.assert_array_equal(left, right)

    # Resumed from step 2, the run ends with the same log and the same last checkpoint.
    resumed = tmp_path / "resumed"
    shutil.copytree(tmp_path / "with", resumed)
    run = open_run(resumed)
    for step in (4, 6):
        run.checkpoint(step).unlink()
    (resumed / "checkpoints" / "best.json").unlink(missing_ok=True)
    run = go("resumed", resume=True)
    assert run.checkpoint(6).read_bytes() == audited.checkpoint(6).read_bytes()
    resumed_lines = [row for row in read_metrics(run.metrics) if row["kind"] == "gradients"]
    assert resumed_lines == lines


def test_the_interval_is_checked():
    with pytest.raises(eqloop.InputError, match=r"train\.audit_every must be at least 0, got -1"):
        tiny_spec("train.audit_every=-1")
