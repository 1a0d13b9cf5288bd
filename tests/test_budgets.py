"""Budgets: drawn numbers of steps, and the first steps, within which no solver stops."""

import dataclasses
import signal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from problems import SOLVERS, spectrum
from scipy import stats
from tiny_task import Tiny, tiny_spec

import eqloop
from eqloop import InputError
from eqloop._build import make_model, make_solver
from eqloop.run import SolverSpec, read_metrics, trained_iterations
from eqloop.sweep._cost import iterations
from eqloop.train import Budget, train
from eqloop.train._budget import LAWS
from eqloop.train._method import STARTS, batch_loss, make_method
from eqloop.train._state import training_key
from eqloop.train._step import BUDGET, Order

DRAWS = 4000


@eqx.filter_jit
def _drawn(budget):
    return jax.vmap(budget)(jr.split(jr.key(0), DRAWS))


def drawn(budget):
    return np.asarray(_drawn(budget))


def test_the_laws_are_those_of_their_names():
    least, most = 3, 25
    numbers = np.arange(least, most + 1)
    scale = 14 * np.exp(-0.125)
    continuous = stats.lognorm(0.5, scale=scale)
    clipped = {  # the tails of the law count towards the ends of the range
        "uniform": stats.randint(least, most + 1).cdf(numbers),
        "poisson": stats.poisson(14).cdf(numbers),
        "log-normal": continuous.cdf(numbers + 0.5),
    }
    assert clipped.keys() == LAWS.keys()
    for law, cdf in clipped.items():
        draws = drawn(Budget(law, least, most))
        assert draws.dtype == np.int32
        assert draws.min() >= least
        assert draws.max() <= most
        cdf[-1] = 1
        expected = DRAWS * np.diff(cdf, prepend=0)
        observed = np.bincount(draws, minlength=most + 1)[least:]
        rare = expected < 5
        if rare.any():
            observed = np.append(observed[~rare], observed[rare].sum())
            expected = np.append(expected[~rare], expected[rare].sum())
        assert stats.chisquare(observed, expected).pvalue > 1e-3, law
    assert drawn(Budget("uniform", 1, 2**31 - 1)).min() >= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("normal", 1, 2), "law = 'normal' must be one of uniform, poisson, log-normal"),
        (("uniform", 0, 2), "least = 0 must be at least 1"),
        (("uniform", 3, 2), "least = 3 must be at least 1 and at most most = 2"),
    ],
)
def test_a_law_or_range_that_is_none_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Budget(*arguments)


def test_the_names_of_a_spec_are_those_of_the_tables():
    known = {field.name: field.type for field in dataclasses.fields(SolverSpec)}
    assert str(list(STARTS))[1:-1] in str(known["start"]).replace('"', "'")
    assert str(["fixed", *LAWS])[1:-1] in str(known["budget"]).replace('"', "'")


@pytest.mark.parametrize("name", ["unroll", "fixed-point"])
def test_one_program_makes_the_steps_that_each_key_draws(name):
    settings = ("solver.steps=9", "solver.max_steps=9", "solver.rtol=1e-12", "train.loss=last")
    law = ("solver.budget=uniform", "solver.budget_least=2", f"solver.name={name}")
    method, split = make_method(tiny_spec(*settings, *law)), Tiny().generate(4, 0)
    model, inputs = (
        make_model(tiny_spec().model, jr.key(0)),
        jax.vmap(Tiny().encode)(jnp.asarray(split.inputs)),
    )
    probes = jax.tree.map(lambda leaf: jnp.zeros(4), eqloop.BackwardReport.zeros())
    traces = []

    @jax.jit
    def steps(key):
        traces.append(1)
        drawn_method = method.with_drawn_steps(key)
        targets = jnp.asarray(split.targets)
        return batch_loss(model, probes, inputs, targets, jr.key(1), drawn_method)[1].iterations

    keys = jr.split(jr.key(2), 6)
    expected = jax.vmap(Budget("uniform", 2, 9))(keys) + int(name != "unroll")
    assert len(set(expected.tolist())) > 2
    for key, count in zip(keys, expected, strict=True):
        np.testing.assert_array_equal(steps(key), count)
    assert len(traces) == 1


def test_the_mean_of_a_budget_is_in_the_estimates():
    spec = tiny_spec("solver.steps=9", "train.loss=last", "solver.budget=poisson")
    assert iterations(spec)[1] == 5
    assert trained_iterations(spec) == (1, 9)
    anchored = tiny_spec("solver.start=solution", "solver.max_steps=10", solver="fixed-point")
    plain = tiny_spec("solver.max_steps=10", solver="fixed-point")
    assert iterations(anchored)[0] == iterations(plain)[0] + 10 + 1  # the one that ends the solve
    assert trained_iterations(anchored) == (1, 20)


@pytest.mark.parametrize("name", ["anderson", "broyden", "newton", "steady-state"])
def test_no_solver_stops_before_its_first_steps(name):
    """A solver makes its first steps from a distant start and from the fixed point, where every
    residual is zero."""
    f, z0, x = spectrum(0.8, -0.6, 0.3, 0.1, -0.2)(jnp.float32)
    solver = dataclasses.replace(SOLVERS[name](0.5), min_steps=12, curve=20)
    starts = jnp.stack([z0, jnp.linalg.solve(jnp.eye(5) - f.a, x)])

    @jax.jit
    def run(starts):
        return jax.vmap(lambda z0: eqloop.equilibrium(f, z0, x, solver=solver))(starts)

    out = run(starts)
    assert np.all(out.result == eqloop.RESULTS.successful)
    assert np.all(out.steps == 12 + 1)  # the gradient makes the last step
    assert np.all(np.isfinite(out.state))
    assert out.curve is not None
    assert np.all(np.isfinite(out.curve[:, :12]))
    assert np.all(np.isnan(out.curve[:, 12:]))


def test_a_spec_sets_the_first_steps_and_the_norm_of_every_solver():
    for name in SOLVERS.keys() - {"damped"}:
        settings = ("solver.min_steps=5", "solver.norm=largest-cell")
        solver = make_solver(tiny_spec(*settings, solver=name).solver)
        assert isinstance(solver, eqloop.AbstractSolver)
        assert (solver.min_steps, solver.norm) == (5, eqloop.largest_cell_norm)


def test_a_least_number_of_steps_above_the_most_is_refused():
    with pytest.raises(ValueError, match="FixedPoint: min_steps = 0 must be at least 1"):
        eqloop.FixedPoint(min_steps=0)
    solver, zeros = eqloop.Anderson(min_steps=9), jnp.zeros(2)
    with pytest.raises(ValueError, match="max_steps = 8 must be at least min_steps = 9"):
        eqloop.equilibrium(lambda z, x: z, zeros, zeros, solver=solver, max_steps=8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["solver.start=nomral"], "did you mean normal?"),
        (["solver.start_std=0"], "solver.start_std must be above 0"),
        (["solver.start_share=1"], "must be above 0 and below 1: evaluation starts at the embed"),
        (["solver.start=zeros", "model.recall=none"], "hides the input from a loop with"),
        (["solver.path_noise=-1"], "solver.path_noise must be at least 0"),
        (["solver.min_steps=2"], "solver.min_steps = 2 has no effect on solver.name = 'unroll'"),
        (["solver.name=anderson", "solver.min_steps=65"], "exceeds solver.max_steps = 64"),
        (
            ["solver.name=anderson", "solver.min_steps=5", "solver.budget=uniform"],
            "solver.min_steps = 5 exceeds solver.budget_least = 1",
        ),
        (["solver.budget=uniform"], 'use "fixed", or train.loss = "last"'),
        (
            ["solver.budget=uniform", "train.loss=last", "solver.budget_least=5"],
            "solver.budget_least = 5 exceeds solver.steps = 4",
        ),
        (
            ["solver.name=anderson", "solver.gradient=backprop", "solver.budget=poisson"],
            "solver.gradient = 'backprop' needs a fixed number",
        ),
    ],
)
def test_each_mistake_gets_one_line(settings, message):
    with pytest.raises(InputError) as caught:
        tiny_spec(*settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_objects_that_need_a_fixed_number_of_steps_are_refused():
    import optimistix as optx

    from eqloop.train import Objects

    spec = tiny_spec("solver.budget=uniform", solver="fixed-point")
    newton = Objects(solver=optx.Newton(1e-3, 1e-3), gradient=eqloop.Implicit())
    with pytest.raises(InputError, match="does not go with solver Newton"):
        make_method(spec, newton)
    with pytest.raises(InputError, match="does not go with gradient Backprop"):
        make_method(spec, Objects(gradient=eqloop.Backprop()))
    make_method(spec, Objects(solver=eqloop.Unroll(3)))


def test_training_with_all_of_it_resumes_bit_for_bit(tmp_path, monkeypatch):
    settings = {
        "start": "solution",
        "path_noise": 0.1,
        "rtol": 1e-6,
        "budget": "log-normal",
        "budget_least": 2,
        "min_steps": 2,
        "max_steps": 12,
    }
    lines = [f"solver.{name}={value}" for name, value in settings.items()]
    spec = tiny_spec("train.steps=6", *lines, solver="fixed-point", gradient="one-step")
    whole = train(spec, Tiny(), tmp_path / "whole")
    order = Order.__call__

    def signalled(self, step):
        if step == 3:
            signal.raise_signal(signal.SIGINT)
        return order(self, step)

    monkeypatch.setattr(Order, "__call__", signalled)
    assert train(spec, Tiny(), tmp_path / "stopped").status == "interrupted"
    monkeypatch.setattr(Order, "__call__", order)
    train(None, Tiny(), tmp_path / "stopped", resume=True)
    path = whole.run.checkpoint(6).relative_to(whole.run.path)
    assert (tmp_path / "stopped" / path).read_bytes() == (tmp_path / "whole" / path).read_bytes()
    rows = [row for row in read_metrics(tmp_path / "whole/metrics.jsonl") if row["kind"] == "train"]
    for step, row in enumerate(rows):
        key = jr.fold_in(jr.fold_in(training_key(0), step), BUDGET)
        assert row["iterations"] == int(Budget("log-normal", 2, 12)(key)) + 1
        assert np.isfinite(row["loss"])
