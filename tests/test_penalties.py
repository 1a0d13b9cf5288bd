"""Penalties: closed forms for linear loops, gradients in float64, and their part in a training
step."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.test_util import check_grads
from tiny_task import Tiny, tiny_spec

import eqloop
from eqloop import BackwardReport, InputError
from eqloop._build import construct, make_model
from eqloop._cross_entropy import cross_entropy
from eqloop.run import PENALTIES, Call, ModelSpec, read_metrics
from eqloop.sweep import count
from eqloop.sweep._cost import iterations
from eqloop.train import JacobianNorm, Last, TerminalResidual, train

MATRIX = np.array([[0.5, 0.2, 0.0], [-0.3, 0.1, 0.4], [0.0, 0.7, -0.2]])


def test_the_terminal_residual_of_a_linear_loop(x64):
    a, z = jnp.asarray(MATRIX), jnp.array([1.0, -2.0, 0.5])
    value = TerminalResidual(1.0)(lambda z: a @ z, z, jr.key(0))
    np.testing.assert_allclose(value, jnp.sum(jnp.square(a @ z - z)) / jnp.sum(z**2), rtol=1e-12)
    assert TerminalResidual(1.0)(lambda z: z, 0 * z, jr.key(0)) == 0


def test_the_mean_of_the_jacobian_norm_is_that_of_frobenius(x64):
    """By rotation invariance of v, `E |A^T v|^2 / |v|^2 = |A|_F^2 / n`."""
    a, z = jnp.asarray(MATRIX), jnp.zeros(3)
    values = jax.vmap(lambda key: JacobianNorm(1.0)(lambda z: a @ z, z, key))(
        jr.split(jr.key(0), 20_000)
    )
    np.testing.assert_allclose(values.mean(), np.sum(MATRIX**2) / 3, rtol=2e-2)
    orthogonal = jnp.asarray(np.linalg.qr(MATRIX)[0])
    of_rotation = JacobianNorm(1.0)(lambda z: orthogonal @ z, z, jr.key(1))
    np.testing.assert_allclose(of_rotation, 1.0, rtol=1e-12)


@pytest.mark.parametrize("penalty", [TerminalResidual(1.0), JacobianNorm(1.0)])
def test_their_gradients_against_finite_differences(penalty, x64):
    z = jnp.array([0.3, -0.2, 0.5])
    value = jax.jit(lambda a: penalty(lambda z: jnp.tanh(a @ z + 1), z, jr.key(2)))
    check_grads(value, (jnp.asarray(MATRIX),), order=1, modes=["rev"], rtol=1e-6)


@eqx.filter_jit
def losses(loss: Last, key) -> jax.Array:
    model = make_model(tiny_spec().model, jr.key(0))
    split = Tiny().generate(4, 0)
    inputs = jax.vmap(Tiny().encode)(jnp.asarray(split.inputs))
    probes = jax.tree.map(lambda leaf: jnp.zeros(4), BackwardReport.zeros())
    options = {"solver": eqloop.Unroll(5), "gradient": eqloop.Backprop(), "max_steps": 5}
    return loss(model, probes, inputs, jnp.asarray(split.targets), key, **options).loss


def test_a_loss_adds_each_penalty_times_its_weight_in_its_share_of_the_steps():
    penalty = TerminalResidual(0.5)
    without, with_it = losses(Last(), jr.key(0)), losses(Last((penalty,)), jr.key(0))
    model = make_model(tiny_spec().model, jr.key(0))
    loop = model.loop()
    for number, tokens in enumerate(Tiny().generate(4, 0).inputs):
        e = model.embed(Tiny().encode(jnp.asarray(tokens)))
        z, r = e, loop.inject(e)
        for _ in range(5):
            z = loop(z, r)
        expected = 0.5 * jnp.sum(jnp.square(loop(z, r) - z)) / jnp.sum(jnp.square(z))
        np.testing.assert_allclose(with_it[number] - without[number], expected, rtol=1e-3)
    due = [bool(jnp.any(losses(Last((penalty,), 0.5), jr.key(n)) != without)) for n in range(8)]
    assert 0 < sum(due) < 8


def test_corrections_are_one_step_gradients_at_states_on_the_way(x64):
    """The corrections are added to the loss that continues from the last of these states: the value
    is computed by hand, the gradient by finite differences with the states held fixed."""
    factor, solver, gradient = 0.5, eqloop.FixedPoint(rtol=0.0), eqloop.OneStep()
    float64_model = jax.tree.map(
        lambda a: a.astype(jnp.float64), make_model(tiny_spec().model, jr.key(0))
    )
    split = Tiny().generate(2, 0)
    inputs = jax.vmap(Tiny().encode)(jnp.asarray(split.inputs)).astype(jnp.float64)
    targets = jnp.asarray(split.targets)
    probes = jax.tree.map(lambda leaf: jnp.zeros(2), BackwardReport.zeros())

    def on_the_way(x):
        first = float64_model(x, solver=solver, gradient=gradient, max_steps=2).state
        return first, float64_model(
            x, start=first, solver=solver, gradient=gradient, max_steps=2
        ).state

    first, second = jax.jit(jax.vmap(on_the_way))(inputs)

    def added(model):
        arguments = (model, probes, inputs, targets, jr.key(0))
        options = {"solver": solver, "gradient": gradient}
        whole = Last(correction=factor, states=2)(*arguments, max_steps=8, **options)
        rest = Last()(*arguments, starts=second, max_steps=4, **options)
        return jnp.sum(whole.loss) - jnp.sum(rest.loss), whole.iterations - rest.iterations

    def by_hand(model):
        def example_loss(x, target, first, second):
            loop = model.loop()
            r = loop.inject(model.embed(x))
            losses = [cross_entropy(model.coda(loop(z, r)), target) for z in (second, first)]
            return factor * losses[0] + factor**2 * losses[1]

        return jnp.sum(jax.vmap(example_loss)(inputs, targets, first, second))

    (value, iterations), slopes = jax.jit(jax.value_and_grad(added, has_aux=True))(float64_model)
    way = jax.tree.map(lambda a: jr.normal(jr.key(a.size), a.shape, a.dtype), float64_model)
    at = jax.jit(lambda h: by_hand(jax.tree.map(lambda a, d: a + h * d, float64_model, way)))
    np.testing.assert_allclose(value, at(0.0), rtol=1e-10)
    assert iterations.tolist() == [6, 6]  # each solve ends with one step of the gradient
    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: jnp.sum(g * d), slopes, way)))
    np.testing.assert_allclose(slope, (at(1e-6) - at(-1e-6)) / 2e-6, rtol=1e-5)


def test_a_spec_trains_with_penalties(tmp_path):
    penalties = ("train.residual_penalty=0.1", "train.jacobian_penalty=0.1")
    settings = (*penalties, "train.correction=0.8", "train.steps=2", "solver.max_steps=4")
    spec = tiny_spec(*settings, solver="fixed-point", gradient="one-step")
    train(spec, Tiny(), tmp_path / "run")
    rows = read_metrics(tmp_path / "run/metrics.jsonl")
    assert all(np.isfinite(row["loss"]) for row in rows if row["kind"] == "train")


@pytest.mark.parametrize("name", PENALTIES)
def test_the_cost_of_a_penalty_is_that_of_its_gradient(name):
    """As XLA counts the operations of the gradient with respect to the weights, of which
    `Cost.training` takes three passes for a differentiated iteration."""
    shape = ModelSpec(64, 4, grid=(6, 6), channels=10, classes=10, attention="full")
    weights, static = eqx.partition(make_model(shape, jr.key(0)), eqx.is_inexact_array)
    penalty = construct(Call(PENALTIES[name].place, weight=1.0))

    def value(weights, z):
        model = eqx.combine(weights, static)
        loop = model.loop()
        r = loop.inject(model.embed(jnp.ones((6, 6, 10))))
        return penalty(lambda z: loop(z, r), z, jr.key(0))

    gradient = jax.jit(jax.grad(value)).lower(weights, jnp.ones(shape.state_shape))
    analysis = gradient.cost_analysis()
    assert analysis is not None
    passes = analysis["flops"] / count(shape).iteration
    assert passes == pytest.approx(3 * PENALTIES[name].differentiated, rel=0.1)


def test_penalties_and_corrections_cost_in_their_share_of_the_steps():
    def of(*settings: str) -> tuple[float, float, float]:
        return iterations(tiny_spec("train.penalty_share=0.25", *settings, solver="fixed-point"))

    forward, differentiated, reads = of()
    residual, jacobian = "train.residual_penalty=0.1", "train.jacobian_penalty=0.1"
    assert of(residual) == (forward, differentiated + 0.25, reads)
    assert of(residual, jacobian) == (forward, differentiated + 0.75, reads)
    correction = of(residual, "train.correction=0.8", "train.correction_states=2")
    # The solve ends on the way to both states at every step.
    assert correction == (forward + 2, differentiated + 0.75, reads + 0.5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.residual_penalty=-1", "train.residual_penalty must be at least 0"),
        ("train.penalty_share=0", r"train.penalty_share must be in \(0, 1\]"),
        ("train.jacobian_penalty=1", 'train.jacobian_penalty is a term of train.loss = "last"'),
        ("train.correction=0.5", 'train.correction is a term of train.loss = "last"'),
        ("train.correction=2", "train.correction must be at most 1"),
        ("train.correction_states=2", "has no effect without train.correction"),
    ],
)
def test_each_mistake_gets_one_line(setting, message):
    with pytest.raises(InputError, match=message):
        tiny_spec(setting)  # its loss is the mean over iterations


@pytest.mark.parametrize(
    ("solver", "settings", "message"),
    [
        ("unroll", ("train.loss=last",), "is for solvers that converge"),
        ("fixed-point", ("solver.max_steps=7", "train.correction_states=3"), "must be at most 2"),
        ("fixed-point", ("train.correction_states=1000000000",), "must be at most"),
        ("fixed-point", ("solver.budget=uniform",), "must be at most 0 with solver.budget_least"),
    ],
)
def test_corrections_need_states_on_the_way(solver, settings, message):
    with pytest.raises(InputError, match=message):
        tiny_spec("train.correction=0.8", *settings, solver=solver)
