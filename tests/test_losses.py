"""Losses: the states that they start from and the states that they return."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tiny_task import Tiny, tiny_spec

import eqloop
from eqloop import BackwardReport
from eqloop._build import make_model
from eqloop.train._loss import Last, Mean, Progressive

BATCH = 4


def examples(loss, steps, starts=None, key=0):
    model, split = make_model(tiny_spec().model, jr.key(0)), Tiny().generate(BATCH, 0)
    inputs = jax.vmap(Tiny().encode)(jnp.asarray(split.inputs))
    probes = jax.tree.map(lambda leaf: jnp.zeros(BATCH), BackwardReport.zeros())
    return jax.jit(
        lambda starts: loss(
            model,
            probes,
            inputs,
            jnp.asarray(split.targets),
            jr.key(key),
            starts=starts,
            solver=eqloop.Unroll(steps),
            gradient=eqloop.Backprop(),
            max_steps=steps,
        )
    )(starts)


@pytest.mark.parametrize("loss", [Last(), Mean()])
def test_a_loss_goes_on_from_the_states_it_returned(loss):
    half, whole = examples(loss, 3), examples(loss, 6)
    rest = examples(loss, 3, half.state)
    np.testing.assert_allclose(rest.state, whole.state, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(rest.cells, whole.cells)
    if isinstance(loss, Last):
        np.testing.assert_allclose(rest.loss, whole.loss, rtol=1e-5)
    else:
        np.testing.assert_allclose((half.loss + rest.loss) / 2, whole.loss, rtol=1e-5)


def test_the_drawn_iterations_begin_at_the_starts_too():
    starts = examples(Last(), 2).state
    same, other = examples(Progressive(), 4), examples(Progressive(), 4, starts)
    assert np.all(same.iterations == other.iterations)  # the draw depends on the key alone
    assert float(jnp.max(jnp.abs(same.state - other.state))) > 1e-3
