"""The model family: its sizes, its equivalent forms, its precision, its refusals."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqloop
from eqloop import nn


def make(**overrides):
    settings = {
        "grid": (4, 5),
        "channels": 3,
        "classes": 6,
        "width": 16,
        "heads": 4,
        "recall": "internal",
        "norm": "post",
        "key": jr.key(0),
    }
    return eqloop.LoopedTransformer(**(settings | overrides))


def double(tree):
    """Cast the weights to float64."""
    return jax.tree.map(lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a, tree)


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"recall": "internal"}, 992_074),
        ({"recall": "external"}, 992_074),
        ({"recall": "none"}, 992_074 - 2 * (256 * 256 + 256)),
        # The fixed-depth baseline makes one pass through 15 blocks.
        ({"recall": "none", "blocks": 15}, 11_907_274),
    ],
)
def test_parameter_counts_are_the_papers(settings, count):
    model = eqx.filter_eval_shape(
        lambda: eqloop.LoopedTransformer((9, 9), 10, 10, 256, 8, key=jr.key(0), **settings)
    )
    assert eqloop.parameter_count(model) == count


@pytest.mark.parametrize("norm", ["pre", "peri", "post", "sandwich"])
@pytest.mark.parametrize("residual", ["add", "gru"])
def test_folded_recall_is_the_same_function(norm, residual, x64):
    model = double(make(norm=norm, residual=residual, blocks=2))
    x = jr.normal(jr.key(1), (4, 5, 3))

    @eqx.filter_jit
    def run(model, fold):
        return model(x, solver=eqloop.Unroll(5), fold=fold).state

    np.testing.assert_allclose(run(model, True), run(model, False), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("solver", "gradient", "folded"),
    [
        (eqloop.FixedPoint(rtol=1e-12), None, True),
        (eqloop.Unroll(5), eqloop.Neumann(4), True),
        (eqloop.Unroll(5), None, False),
        (eqloop.FixedPoint(rtol=1e-3), eqloop.Truncated(2), False),
    ],
)
def test_recall_is_folded_where_one_iteration_is_differentiated(solver, gradient, folded, x64):
    model = double(make(norm="post", blocks=2))
    x = jr.normal(jr.key(1), (4, 5, 3))

    @eqx.filter_jit
    @eqx.filter_grad
    def weights(model, fold):
        return jnp.sum(model(x, solver=solver, gradient=gradient, fold=fold).logits ** 2)

    default, same, other = (weights(model, fold) for fold in (None, folded, not folded))
    assert eqx.tree_equal(default, same)
    assert not eqx.tree_equal(default, other)
    for a, b in zip(jax.tree.leaves(default), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("recall", ["none", "external"])
def test_only_internal_recall_can_be_folded(recall):
    block = eqloop.nn.Block(8, 2, recall=recall, norm="post", key=jr.key(0))
    with pytest.raises(ValueError, match=f"recall = '{recall}' must be internal"):
        eqloop.nn.FoldedBlock(block)


def dense_neighbourhood(attention: nn.Attention, x):
    """Compute the same attention over all cells, with all but the neighbours masked out."""
    grid, heads = x.shape[:-1], attention.heads
    assert attention.window != "full"
    q, k, v = (
        layer(x).reshape(*grid, heads, -1)
        for layer in (attention.query, attention.key, attention.value)
    )
    base = attention.rotary_base
    assert attention.query_norm is not None
    assert attention.key_norm is not None
    q, k = attention.query_norm(nn.rotate(q, base)), attention.key_norm(nn.rotate(k, base))
    q, k, v = (a.reshape(-1, heads, a.shape[-1]) for a in (q, k, v))
    places = np.stack(np.indices(grid), -1).reshape(-1, len(grid))
    start = np.clip(places - attention.window // 2, 0, np.array(grid) - attention.window)
    offset = places[None] - start[:, None]
    near = np.all((offset >= 0) & (offset < attention.window), axis=-1)
    scores = jnp.einsum("qhc,khc->hqk", q, k) / math.sqrt(q.shape[-1])
    weights = jax.nn.softmax(jnp.where(near[None], scores, -jnp.inf))
    assert np.all(near.sum(1) == attention.window ** len(grid))
    return attention.output(jnp.einsum("hqk,khc->qhc", weights, v).reshape(x.shape))


@pytest.mark.parametrize(("grid", "window"), [((11,), 5), ((5,), 5), ((6, 7), 3), ((3, 5), 3)])
def test_neighbourhood_attention_is_masked_full_attention(grid, window, x64):
    attention = double(nn.Attention(16, 2, window, rotary_base=10.0, key=jr.key(0)))
    x = jr.normal(jr.key(1), (*grid, 16))
    near = eqx.filter_jit(lambda a, x: a(x))(attention, x)
    dense = eqx.filter_jit(dense_neighbourhood)(attention, x)
    np.testing.assert_allclose(near, dense, rtol=1e-10, atol=1e-12)


def test_information_moves_two_cells_an_iteration():
    model = make(grid=(20,), channels=1, classes=2, attention=5)
    x = jr.normal(jr.key(1), (20, 1))

    @eqx.filter_jit
    def logits(x, steps):
        return model(x, solver=eqloop.Unroll(steps)).logits

    for steps in (1, 3):
        changed = np.any(logits(x, steps) != logits(x.at[0].add(1.0), steps), axis=-1)
        # The window of the first cells is shifted inwards, so that they reach as far as cell 4.
        assert changed[0]
        assert not np.any(changed[4 + 2 * steps :])


def test_attention_depends_on_relative_positions_alone():
    """Rotary positions are relative: a shifted input gives a shifted output, away from the ends."""
    attention = nn.Attention(16, 2, 3, key=jr.key(0))
    x = jr.normal(jr.key(1), (12, 16))
    out, shifted = attention(x), attention(jnp.roll(x, 1, axis=0))
    np.testing.assert_allclose(out[2:-3], shifted[3:-2], atol=1e-5)


@pytest.mark.parametrize("base", [10.0, nn.ROTARY_BASE])
def test_rotary_tables_are_cosine_and_sine(base):
    cos, sin = nn.rotary_tables((300,), 8, base)
    np.testing.assert_allclose(cos**2 + sin**2, 1, atol=3e-7)
    angles = np.arange(300)[:, None] * base ** (-np.arange(4) / 4)
    # The angles themselves are float32, as in the paper's code.
    np.testing.assert_allclose(cos, np.cos(angles), atol=3e-5)
    np.testing.assert_allclose(sin, np.sin(angles), atol=3e-5)


def test_a_model_runs_on_grids_of_other_sizes():
    model = make(grid=(8,), channels=1, classes=2, attention=5)
    out = jax.vmap(lambda x: model(x, solver=eqloop.Unroll(2)))(jnp.ones((3, 33, 1)))
    assert out.logits.shape == (3, 33, 2)
    assert out.state.shape == (3, 33, 16)
    assert out.steps.shape == out.residual.shape == (3,)


def test_bfloat16_computes_nearly_the_same_on_a_float32_state():
    x = jr.normal(jr.key(1), (4, 5, 3))
    model, low = make(), make(dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(low)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(low.loop())} == {
        jnp.dtype("bfloat16"),
        jnp.dtype("float32"),  # biases and the gains of the norms
    }

    def loss(model):
        # With a lower tolerance the backward solve in bfloat16 falls back to one step.
        out = model(x, solver=eqloop.FixedPoint(rtol=1e-3), gradient=eqloop.Implicit(rtol=1e-2))
        return jnp.mean(jnp.square(out.logits)), out

    grad = eqx.filter_jit(eqx.filter_grad(loss, has_aux=True))
    (exact_grad, exact), (low_grad, rough) = grad(model), grad(low)
    assert rough.state.dtype == rough.logits.dtype == jnp.float32
    np.testing.assert_allclose(rough.logits, exact.logits, atol=0.1)
    flat = [
        jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])
        for tree in (exact_grad, low_grad)
    ]
    assert flat[1].dtype == jnp.float32
    cosine = jnp.vdot(*flat) / (jnp.linalg.norm(flat[0]) * jnp.linalg.norm(flat[1]))
    assert cosine > 0.999


def test_in_bfloat16_the_gradient_of_a_bias_is_a_float32_sum():
    """The sum is over all 32,768 cells of the batch, each of which contributes the same."""
    layer = nn.Linear(2, 3, key=jr.key(0)).astype(jnp.bfloat16)
    x = jnp.ones((512, 8, 8, 2))

    @eqx.filter_grad
    def grad(layer):
        return jnp.sum(jax.vmap(layer)(x).astype(jnp.float32))

    np.testing.assert_array_equal(grad(layer).bias, np.full(3, 512 * 64, np.float32))


def test_outer_normalisation_keeps_the_state_on_a_sphere():
    out = make(norm="post")(jr.normal(jr.key(1), (4, 5, 3)), solver=eqloop.Unroll(40))
    np.testing.assert_allclose(jnp.mean(jnp.square(out.state), axis=-1), 1, rtol=1e-4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"recall": "sometimes"}, "recall = 'sometimes'"),
        ({"norm": "last"}, "norm = 'last'"),
        ({"residual": "mul"}, "residual = 'mul'"),
        ({"grid": ()}, r"grid = \(\) must have at least one axis"),
        ({"heads": 3}, "width = 16 must be a multiple of 2 x 2 grid axes x heads = 3"),
        ({"heads": 8}, "width = 16 must be a multiple of 2 x 2 grid axes x heads = 8"),
        ({"blocks": 0}, "blocks = 0"),
        ({"attention": 4}, "attention = 4"),
        ({"rotary_base": 1.0}, "rotary_base = 1.0 must be above 1"),
    ],
)
def test_wrong_arguments_are_named(overrides, message):
    with pytest.raises(ValueError, match=message):
        make(**overrides)


@pytest.mark.parametrize(
    ("overrides", "shape", "message"),
    [
        ({}, (2, 4, 5, 3), "vmap"),
        ({"attention": 5}, (4, 5, 3), "smaller than the neighbourhood"),
        ({}, (4, 5, 2), "x has 2 channels, and the model takes 3"),
    ],
)
def test_inputs_that_do_not_fit_are_named(overrides, shape, message):
    with pytest.raises(ValueError, match=message):
        make(**overrides)(jnp.ones(shape), solver=eqloop.Unroll(1))


def test_without_a_solver_the_loop_is_iterated_30_times():
    model = eqloop.LoopedTransformer((4,), 2, 2, width=16, heads=2, key=jr.key(0))
    x = jr.normal(jr.key(1), (4, 2))
    plain, unrolled = model(x), model(x, solver=eqloop.Unroll(30))
    assert int(plain.steps) == 30
    assert jnp.array_equal(plain.logits, unrolled.logits)


def test_a_run_goes_on_from_a_state_of_its_own():
    model, x = make(), jr.normal(jr.key(1), (4, 5, 3))
    whole = model(x, solver=eqloop.Unroll(5))
    first = model(x, solver=eqloop.Unroll(2))
    rest = model(x, start=first.state, solver=eqloop.Unroll(3))
    np.testing.assert_allclose(rest.logits, whole.logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(rest.state, whole.state, rtol=1e-5, atol=1e-5)
