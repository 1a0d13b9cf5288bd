"""Noise on the path: closed forms for linear maps, one fixed draw where a solver converges, a new
draw at each iteration of an unrolled loop; gradients against finite differences in float64."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.test_util import check_grads
from problems import SOLVERS, Linear, spectrum, tanh_network
from tiny_task import Tiny, tiny_spec

import eqloop
from eqloop import Backprop, BackwardReport, Implicit, Phantom, Truncated, Unroll
from eqloop._build import make_model
from eqloop.train import Last, Mean, Progressive

KEY = jr.key(3)


def noise(noisy, z, x, key=KEY):
    """Return the first draw: the difference between f with and without noise."""
    return noisy(z, noisy.inject(x, key)) - noisy.f(z, x)


@pytest.mark.parametrize("solver", ["anderson", "newton", "steady-state"])
def test_a_solver_finds_the_fixed_point_of_one_draw(solver, x64):
    f, z0, x = spectrum(0.8, -0.6, 0.3, 0.1, -0.2)(jnp.float64)
    noisy = eqloop.PathNoise(f, 0.1)
    out = eqloop.equilibrium(noisy, z0, noisy.inject(x, KEY), solver=SOLVERS[solver](1e-11))
    eps = noise(noisy, z0, x)
    assert np.all(np.abs(eps) > 0.01)
    np.testing.assert_allclose(
        out.state, jnp.linalg.solve(jnp.eye(5) - f.a, x + eps), rtol=1e-8, atol=1e-8
    )


@pytest.mark.parametrize("tail", [Truncated(8), Phantom(8)])
def test_the_draw_stays_frozen_in_what_follows_the_solve(tail, x64):
    f, z0, x = spectrum(0.8, -0.6, 0.3, 0.1, -0.2)(jnp.float64)
    noisy, solver = eqloop.PathNoise(f, 0.1), eqloop.FixedPoint(1e-9)
    x = noisy.inject(x, KEY)
    out = eqloop.equilibrium(noisy, z0, x, solver=solver, gradient=tail)
    assert out.result == eqloop.RESULTS.successful
    assert out.residual <= 1e-9


@pytest.mark.parametrize(
    ("solver", "gradient"),
    [
        (eqloop.FixedPoint(1e-12), Implicit(1e-12)),
        (Unroll(jnp.asarray(4), max_steps=6), Backprop(checkpoints=2)),
    ],
)
def test_the_gradient_is_that_of_the_noise_that_was_drawn(solver, gradient, x64):
    f, z0, x = tanh_network(jnp.float64)

    @jax.jit
    def state(f, x, std):
        noisy = eqloop.PathNoise(f, std)
        x = noisy.inject(x, KEY)
        options = {"solver": solver, "gradient": gradient, "max_steps": 64}
        return eqloop.equilibrium(noisy, z0, x, **options).state

    std = jnp.asarray(0.3)
    assert np.all(jnp.abs(state(f, x, std) - state(f, x, 0 * std)) > 1e-4)
    check_grads(state, (f, x, std), order=1, modes=["rev"], rtol=1e-6)


MATRIX = np.array([[0.5, 0.4], [0.0, -0.7]])


@pytest.mark.parametrize("steps", [1, 7])
def test_an_unrolled_loop_draws_at_every_iteration(steps):
    """The state is `z_n = sum_k A^k (x + eps_k)`, with mean `sum A^k x` and covariance `std^2 sum
    A^k A^kT`."""
    noisy, x = eqloop.PathNoise(Linear(jnp.asarray(MATRIX, jnp.float32)), 0.5), jnp.ones(2)
    count = 20_000

    def state(key):
        return eqloop.equilibrium(
            noisy, jnp.zeros(2), noisy.inject(x, key), solver=Unroll(steps)
        ).state

    states = jax.jit(jax.vmap(state))(jr.split(jr.key(0), count))
    powers = [np.linalg.matrix_power(MATRIX, k) for k in range(steps)]
    covariance = 0.25 * sum(power @ power.T for power in powers)
    np.testing.assert_allclose(np.cov(states.T), covariance, atol=0.02)
    np.testing.assert_allclose(states.mean(0), sum(powers) @ np.ones(2), atol=0.02)


def test_the_draws_of_a_path_do_not_depend_on_the_gradient(x64):
    """A gradient may perform the last iterations itself, or one; the state stays that of
    `trajectory`."""
    f, z0, x = spectrum(0.8, -0.6, 0.3, 0.1, -0.2)(jnp.float64)
    noisy = eqloop.PathNoise(f, 0.1)
    x = noisy.inject(x, KEY)
    path = eqloop.trajectory(noisy, z0, x, 9)
    static, traced = Unroll(9), Unroll(jnp.asarray(9), max_steps=12)
    for solver, gradient in (
        (static, Truncated(3)),
        (static, Implicit()),
        (traced, Truncated(3)),
    ):
        out = eqloop.equilibrium(noisy, z0, x, solver=solver, gradient=gradient)
        np.testing.assert_allclose(out.state, path[8], rtol=1e-12)
    draws = path - jax.vmap(f, (0, None))(jnp.concatenate([z0[None], path[:-1]]), x.x)
    assert np.min(np.abs(draws[1:] - draws[:-1])) > 1e-6
    np.testing.assert_allclose(draws[0], noise(noisy, z0, x.x), rtol=1e-9)


def test_a_negative_size_and_a_missing_key_are_refused():
    with pytest.raises(ValueError, match=r"PathNoise: std = -1\.0 must be at least 0"):
        eqloop.PathNoise(lambda z, x: z, -1.0)
    model = make_model(tiny_spec().model, jr.key(0))
    with pytest.raises(ValueError, match=r"path_noise = 0\.1 needs a key"):
        model(jnp.zeros((6, 1)), path_noise=0.1)


# --- in training


def test_every_loss_runs_the_same_path_and_every_row_another():
    model, split = make_model(tiny_spec().model, jr.key(0)), Tiny().generate(1, 0)
    inputs = jnp.repeat(jax.vmap(Tiny().encode)(jnp.asarray(split.inputs)), 4, 0)
    targets = jnp.repeat(jnp.asarray(split.targets), 4, 0)
    probes = jax.tree.map(lambda leaf: jnp.zeros(4), BackwardReport.zeros())

    @eqx.filter_jit
    def examples(loss, solver, key):
        options = {"solver": solver, "gradient": Backprop(), "max_steps": 1}
        return loss(model, probes, inputs, targets, key, **options)

    def after(steps, key=KEY):
        solver = Unroll(jnp.asarray(steps), max_steps=9)
        return examples(Last(path_noise=0.5), solver, key).state

    state = after(6)
    distances = np.linalg.norm(state[:, None] - state[None], axis=(2, 3))
    assert np.all((distances > 0.1) == ~np.eye(4, dtype=bool))
    assert np.all(np.abs(after(6, jr.key(4)) - state).max((1, 2)) > 0.1)
    for loss, steps in ((Mean(6, path_noise=0.5), 2), (Progressive(0.5), 9)):
        out = examples(loss, Unroll(steps), KEY)
        assert out.iterations[0] > 2
        expected = after(out.iterations[0])
        np.testing.assert_allclose(out.state, expected, rtol=1e-4, atol=1e-4)
