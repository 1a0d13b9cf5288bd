"""Laws of the initial state: what they draw from which key, and how training uses the draws."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import pytest
from scipy import stats
from tiny_task import Tiny, tiny_spec

import eqloop
from eqloop import BackwardReport, starts
from eqloop._build import make_model
from eqloop.train._loss import Last
from eqloop.train._method import make_method

ROWS = 2000


def rows(law, z0, seed=0, count=ROWS):
    return jax.vmap(lambda key: law(z0, key))(jr.split(jr.key(seed), count))


def test_normal_starts_are_gaussian_and_independent():
    z0 = {"a": jnp.full((2, 3), 7.0), "b": jnp.zeros(2)}
    drawn = rows(starts.Normal(3.0), z0)
    flat = np.concatenate([leaf.reshape(ROWS, -1) for leaf in jtu.tree_leaves(drawn)], 1)
    assert stats.kstest(flat.ravel() / 3, "norm").pvalue > 1e-3
    np.testing.assert_allclose(np.corrcoef(flat.T), np.eye(8), atol=5 / np.sqrt(ROWS))
    assert not np.array_equal(rows(starts.Normal(), jnp.zeros(3), seed=1, count=3), flat[:3, :3])


def test_a_fixed_start_is_one_vector_for_all_rows_cells_grids_and_keys():
    law = starts.FixedNormal(2.0)
    small, large = law(jnp.zeros((3, 512)), jr.key(1)), law(jnp.zeros((4, 5, 512)), jr.key(2))
    np.testing.assert_array_equal(small, jnp.broadcast_to(small[0], (3, 512)))
    np.testing.assert_array_equal(large, jnp.broadcast_to(small[0], (4, 5, 512)))
    assert stats.kstest(np.asarray(small[0]) / 2, "norm").pvalue > 1e-3
    other_seed = starts.FixedNormal(2.0, seed=1)(jnp.zeros((3, 512)), jr.key(1))
    assert abs(np.corrcoef(small[0], other_seed[0])[0, 1]) < 0.2
    assert law(jnp.zeros(()), jr.key(0)).shape == ()


def test_a_mixture_draws_one_of_its_laws_for_each_row():
    law = starts.Mixture((starts.Embed(), starts.Zeros(), starts.Normal()), (2, 1, 1))
    drawn = np.asarray(rows(law, jnp.ones((4,))))
    ones, zeros = (drawn == 1).all(1), (drawn == 0).all(1)
    rest = drawn[~(ones | zeros)]
    observed = [ones.sum(), zeros.sum(), len(rest)]
    assert stats.chisquare(observed, [ROWS / 2, ROWS / 4, ROWS / 4]).pvalue > 1e-3
    assert stats.kstest(rest.ravel(), "norm").pvalue > 1e-3
    np.testing.assert_array_equal(rows(law, jnp.ones((4,))), drawn)


def test_starts_have_the_dtype_of_the_state(x64):
    for law in (starts.Zeros(), starts.Normal(), starts.FixedNormal()):
        assert law(jnp.ones((2, 3), jnp.float64), jr.key(0)).dtype == jnp.float64
        assert law(jnp.ones((2, 3), jnp.float32), jr.key(0)).dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: starts.Normal(0.0), "Normal: std = 0.0 must be above 0"),
        (lambda: starts.FixedNormal(float("inf")), "FixedNormal: std = inf must be above 0"),
        (lambda: starts.Mixture((), ()), "one number for each of 0 laws"),
        (lambda: starts.Mixture((starts.Zeros(),), (1, 2)), "one number for each of 1 laws"),
        (lambda: starts.Mixture((starts.Zeros(),), (0,)), "must be above 0 and finite"),
        (lambda: starts.Solved()(jnp.zeros(2), jr.key(0)), "Solved: give solve="),
    ],
)
def test_mistakes_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_solution_as_a_start_has_no_derivatives():
    def start(z0):
        return starts.Solved()(z0, jr.key(0), lambda z0: 2 * z0)

    value, tangent = jax.jvp(start, (jnp.ones(3),), (jnp.ones(3),))
    np.testing.assert_array_equal(value, 2)
    np.testing.assert_array_equal(tangent, 0)


# --- in training


def method_of(*settings, **shortcuts):
    return make_method(tiny_spec(*settings, **shortcuts))


def batch(count):
    split = Tiny().generate(count, 0)
    return jax.vmap(Tiny().encode)(jnp.asarray(split.inputs)), jnp.asarray(split.targets)


@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("zeros", starts.Zeros()),
        ("normal", starts.Normal(6.0)),
        ("fixed", starts.FixedNormal(6.0)),
        ("solution", starts.Solved()),
    ],
)
def test_a_spec_names_a_law_and_its_share(name, law):
    method = method_of(f"solver.start={name}", "solver.start_std=6.0", "solver.start_share=0.25")
    assert method.start == starts.Mixture((law, starts.Embed()), (0.25, 0.75))


def test_embeddings_are_the_default_and_need_no_states():
    assert method_of().start == starts.Embed()
    assert method_of().initial_states(None, None, None) is None  # pyright: ignore


def test_rows_that_start_at_their_embeddings_are_as_if_all_did():
    model, (inputs, targets) = make_model(tiny_spec().model, jr.key(0)), batch(64)
    method = method_of("solver.start=zeros", "solver.start_share=0.25")
    probes = jax.tree.map(lambda leaf: jnp.zeros(64), BackwardReport.zeros())
    options = {"solver": eqloop.Unroll(4), "gradient": eqloop.Backprop(), "max_steps": 4}

    @jax.jit
    def run():
        states = method.initial_states(model, inputs, jr.key(5))
        results = (
            Last()(model, probes, inputs, targets, jr.key(1), starts=starts, **options).loss
            for starts in (states, None)
        )
        return states, *results

    states, mixed, embedded = run()
    at_zero = np.asarray(states == 0).all((1, 2))
    assert stats.binomtest(int(at_zero.sum()), 64, 0.25).pvalue > 1e-2
    np.testing.assert_allclose(mixed[~at_zero], embedded[~at_zero], rtol=1e-5)
    assert np.all(mixed[at_zero] != embedded[at_zero])


def test_the_gradient_passes_through_the_embeddings_alone():
    """The embedding is `W x + b`: the gradient of `sum c z_0` with respect to W is `sum c x^T` over
    the rows that start there."""
    model, (inputs, _) = make_model(tiny_spec().model, jr.key(0)), batch(8)
    method, weights = method_of("solver.start=normal"), jr.normal(jr.key(1), (8, 6, 16))

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradient(model):
        states = method.initial_states(model, inputs, jr.key(5))
        assert states is not None
        return jnp.sum(weights * states), (states, jax.vmap(model.embed)(inputs))

    gradients, (states, embeddings) = gradient(model)
    embedded = np.isclose(states, embeddings, atol=1e-6).all((1, 2))
    assert 0 < embedded.sum() < 8
    expected = np.einsum("bcw,bci->wi", weights[embedded], inputs[embedded])
    np.testing.assert_allclose(gradients.prelude.weight, expected, rtol=1e-4, atol=1e-5)


def test_anchor_rows_begin_where_the_solver_stops():
    settings = ("solver.start=solution", "solver.max_steps=400", "solver.rtol=1e-2")
    method = method_of(*settings, "solver.memory=5", solver="anderson")
    model, (inputs, targets) = make_model(tiny_spec().model, jr.key(0)), batch(16)
    probes = jax.tree.map(lambda leaf: jnp.zeros(16), BackwardReport.zeros())

    @jax.jit
    def run(key):
        states = method.initial_states(model, inputs, key)
        solver, gradient = method.solver, method.gradient
        options = {"solver": solver, "gradient": gradient, "max_steps": method.max_steps}
        out = method.loss(model, probes, inputs, targets, jr.key(1), starts=states, **options)
        return states, jax.vmap(model.embed)(inputs), out

    states, embeddings, out = run(jr.key(5))
    embedded = np.isclose(states, embeddings, atol=1e-6).all((1, 2))
    assert 0 < embedded.sum() < 16
    assert np.all(out.converged)
    assert np.all(out.iterations[~embedded] <= 2)
    assert np.all(out.iterations[embedded] > 2)
    np.testing.assert_array_equal(out.state[~embedded], states[~embedded])
