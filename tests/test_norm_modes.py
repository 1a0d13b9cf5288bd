"""Exact modes of the norm placements, and the growth of perturbations by part of the block."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose

import eqloop
from eqloop import claims, stability

CELLS, WIDTH = 3, 4


def make_model(norm, recall="internal", layers=1):
    """A small model in float64 with gains that are not 1."""
    model = eqloop.LoopedTransformer(
        (CELLS,), 1, 2, WIDTH, 1, recall=recall, norm=norm, blocks=layers, key=jr.key(0)
    )
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(arrays)
    keys = jr.split(jr.key(1), len(leaves))
    leaves = [
        jnp.asarray(leaf, jnp.float64) + 0.3 * jr.normal(k, leaf.shape, jnp.float64)
        for leaf, k in zip(leaves, keys, strict=True)
    ]
    return eqx.combine(jax.tree.unflatten(structure, leaves), rest)


@pytest.mark.parametrize(
    ("norm", "recall"),
    [*((norm, "internal") for norm in eqloop.nn.NORMS), ("post", "external"), ("pre", "none")],
)
def test_an_outer_norm_leaves_one_zero_per_cell_and_no_norm_leaves_a_one(norm, recall, x64):
    """By the dense Jacobian of the package's own block, at a state of its loop."""
    block = make_model(norm, recall).blocks[0]

    @jax.jit
    def jacobian_at(z, e):
        f = lambda z: block(z, block.inject(e))  # noqa: E731
        return jax.jacobian(f)(f(z))

    jacobian = np.asarray(jacobian_at(*jr.normal(jr.key(2), (2, CELLS, WIDTH))))
    jacobian = jacobian.reshape(CELLS * WIDTH, CELLS * WIDTH)
    zeros = CELLS if eqloop.nn.NORMS[norm].out else 0
    eigenvalues, singular = np.linalg.eigvals(jacobian), np.linalg.svd(jacobian, compute_uv=False)
    assert np.sum(np.abs(eigenvalues) < 1e-9) == zeros
    assert np.sum(singular < 1e-12 * singular[0]) == zeros
    assert np.min(np.abs(eigenvalues - 1)) > 1e-3


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_the_exact_modes_are_named_and_measured(norm, x64):
    model = make_model(norm)
    states, inputs = jr.normal(jr.key(2), (2, 1, CELLS, WIDTH))
    modes = claims.norm_modes(model, states, inputs, key=jr.key(3))
    assert modes.neutral_residual[0] > 1e-2
    if norm == "post":
        assert (modes.zero, modes.statement.split(",")[0]) == (3, "3 eigenvalues are exactly 0")
        assert modes.zero_residual[0] < 1e-13
    else:
        assert (modes.zero, modes.statement.split(":")[0]) == (0, "no exact mode")
        assert np.isnan(modes.zero_residual[0])


@pytest.mark.parametrize("norm", ["pre", "peri"])
def test_a_norm_before_the_branch_makes_the_scale_of_a_cell_neutral_in_one_sub_block(norm, x64):
    """`z + F(N(z))` leaves the direction z of a cell as it is, up to the epsilon of the norm; the
    sub-block after it does not."""
    block = make_model(norm).blocks[0]
    z, e = jr.normal(jr.key(2), (2, CELLS, WIDTH))
    (_, attention), (_, feedforward) = block.stages(block.inject(e))
    scale = jnp.array([[1.0], [-2.0], [0.5]]) * z
    _, (change, after) = jax.jit(lambda z, v: pushed([attention, feedforward], z, v))(z, scale)
    assert_allclose(change, scale, atol=1e-13)
    assert np.abs(after - scale).max() > 1e-2


def test_the_growth_of_the_parts_adds_up_to_the_leading_exponent(x64):
    model = make_model("post", "none", layers=2)
    inputs, key, iterations = jr.normal(jr.key(4), (1, CELLS, WIDTH)), jr.key(5), 64
    growth = claims.growth_by_part(model, inputs, key=key, iterations=iterations)
    names = ("attention", "feedforward")
    assert growth.parts == [f"block {number}: {name}" for number in (1, 2) for name in names]

    # The same by a plain loop over the parts, without normalising between them.
    z, e = inputs[0], inputs[0]
    stages = [stage for block in model.blocks for _, stage in block.stages(block.inject(e))]
    push = jax.jit(lambda z, v: pushed(stages, z, v))
    v, logs = jr.normal(jr.split(key, 1)[0], z.shape), []
    for _ in range(iterations):
        z, vectors = push(z, v)
        sizes = np.linalg.norm(np.reshape([v, *vectors], (len(stages) + 1, -1)), axis=1)
        logs.append(np.diff(np.log(sizes)))
        v = vectors[-1] / sizes[-1]
    assert_allclose(growth.growth[0], np.mean(logs[iterations // 2 :], axis=0), atol=1e-9)

    loop = model.loop()
    exponents, errors = stability.lyapunov_exponents(
        lambda z, e: loop(z, loop.inject(e)), inputs, inputs, key=key, iterations=iterations
    )
    assert abs(growth.growth.sum() - exponents[0, 0]) < 0.01 + errors[0, 0]
    assert np.all(growth.errors >= 0)
    with pytest.raises(ValueError, match="iterations = 15 must be at least 16"):
        claims.growth_by_part(model, inputs, key=key, iterations=15)


def pushed(stages, z, v):
    vectors = []
    for stage in stages:
        z, v = jax.jvp(stage, (z,), (v,))
        vectors.append(v)
    return z, vectors
