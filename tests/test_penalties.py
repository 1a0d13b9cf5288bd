"""Penalties: closed forms of linear loops, gradients in float64, and their share of the steps."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.test_util import check_grads
from tiny_task import Tiny
from tiny_task import tiny_spec as spec

import eqloop
from eqloop import BackwardReport, InputError
from eqloop._build import make_model
from eqloop.run import read_metrics
from eqloop.train import JacobianNorm, Last, TerminalResidual, train

MATRIX = np.array([[0.5, 0.2, 0.0], [-0.3, 0.1, 0.4], [0.0, 0.7, -0.2]])


def test_the_terminal_residual_of_a_linear_loop(x64):
    a, z = jnp.asarray(MATRIX), jnp.array([1.0, -2.0, 0.5])
    value = TerminalResidual(1.0)(lambda z: a @ z, z, jr.key(0))
    np.testing.assert_allclose(value, jnp.sum(jnp.square(a @ z - z)) / jnp.sum(z**2), rtol=1e-12)
    assert TerminalResidual(1.0)(lambda z: z, 0 * z, jr.key(0)) == 0


def test_the_mean_of_the_jacobian_norm_is_that_of_frobenius(x64):
    """By rotation of v: `E |A^T v|^2 / |v|^2 = |A|_F^2 / n`."""
    a, z = jnp.asarray(MATRIX), jnp.zeros(3)
    values = jax.vmap(lambda key: JacobianNorm(1.0)(lambda z: a @ z, z, key))(
        jr.split(jr.key(0), 20_000)
    )
    np.testing.assert_allclose(values.mean(), np.sum(MATRIX**2) / 3, rtol=2e-2)
    orthogonal = jnp.asarray(np.linalg.qr(MATRIX)[0])
    one = JacobianNorm(1.0)(lambda z: orthogonal @ z, z, jr.key(1))
    np.testing.assert_allclose(one, 1.0, rtol=1e-12)


@pytest.mark.parametrize("penalty", [TerminalResidual(1.0), JacobianNorm(1.0)])
def test_their_gradients_against_finite_differences(penalty, x64):
    z = jnp.array([0.3, -0.2, 0.5])
    value = jax.jit(lambda a: penalty(lambda z: jnp.tanh(a @ z + 1), z, jr.key(2)))
    check_grads(value, (jnp.asarray(MATRIX),), order=1, modes=["rev"], rtol=1e-6)


def losses(loss: Last, key) -> jax.Array:
    model = make_model(spec().model, jr.key(0))
    split = Tiny().generate(4, 0)
    inputs = jax.vmap(Tiny().encode)(jnp.asarray(split.inputs))
    probes = jax.tree.map(lambda leaf: jnp.zeros(4), BackwardReport.zeros())
    examples = jax.jit(
        lambda: loss(
            model,
            probes,
            inputs,
            jnp.asarray(split.targets),
            key,
            solver=eqloop.Unroll(5),
            gradient=eqloop.Backprop(),
            max_steps=5,
        )
    )()
    return examples.loss


def test_a_loss_adds_each_penalty_times_its_weight_in_its_share_of_the_steps():
    penalty = TerminalResidual(0.5)
    without, with_it = losses(Last(), jr.key(0)), losses(Last((penalty,)), jr.key(0))
    model = make_model(spec().model, jr.key(0))
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


def test_a_spec_trains_with_penalties(tmp_path):
    settings = ("train.residual_penalty=0.1", "train.jacobian_penalty=0.1", "train.steps=2")
    made = spec(*settings, "solver.max_steps=4", solver="fixed-point")
    train(made, Tiny(), tmp_path / "run")
    rows = read_metrics(tmp_path / "run/metrics.jsonl")
    assert all(np.isfinite(row["loss"]) for row in rows if row["kind"] == "train")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.residual_penalty=-1", "train.residual_penalty must be at least 0"),
        ("train.penalty_share=0", r"train.penalty_share must be in \(0, 1\]"),
        ("train.jacobian_penalty=1", 'train.jacobian_penalty is a term of train.loss = "last"'),
    ],
)
def test_each_mistake_gets_one_line(setting, message):
    with pytest.raises(InputError, match=message):
        spec(setting)  # whose loss is the mean over iterations
