"""`eqloop.stability` on maps with known answers: spectra, outcomes, exponents, basins."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import stability_maps as maps
from numpy.testing import assert_allclose

from eqloop import stability
from eqloop.stability import Gram, InverseGram, Jacobian, leading_eigenvalues

pytestmark = pytest.mark.usefixtures("compiled_fully")

PAIRS = [maps.turn(0.95, 1.0), maps.turn(0.8, 2.5)]


@functools.cache
def linear_maps(size: int) -> list[np.ndarray]:
    return [
        maps.dense(size, 0.9, -0.6),
        maps.dense(size, *PAIRS) if size > 2 else maps.turn(0.7, 1.0),
        maps.dense(size, maps.jordan(0.9)),
        maps.dense(size, 0.9, *PAIRS[1:], skew=1.0) if size > 2 else np.array([[0.5, 9], [0, 0.2]]),
        maps.dense(size, 1.5, *PAIRS[:1], rest=0.85) if size > 2 else np.diag([1.5, -1.5]),
    ]


@pytest.mark.parametrize("size", [2, 9, 40, 300])
def test_linear_spectra(size, x64):
    """The matrices are normal, with pairs, defective, non-normal, expanding; with few unknowns and
    many."""
    matrices = linear_maps(size)
    zs, xs = maps.stack(matrices)
    eigenpairs = leading_eigenvalues(
        Jacobian(maps.by_matrix), zs, xs, key=jr.key(0), rtol=1e-11, cycles=60
    )
    for values, converged, vector, a in zip(
        eigenpairs.values, eigenpairs.converged, eigenpairs.vectors, matrices, strict=True
    ):
        true = np.linalg.eigvals(a)
        assert converged[: min(size, 3)].all()
        assert_allclose(abs(values[0]), np.abs(true).max(), rtol=1e-6)
        # Each value is an eigenvalue, as accurately as a defective one can be known (a root of
        # epsilon).
        known = values[converged]
        assert np.abs(known[:, None] - true).min(1).max() < 1e-5
        # Conjugate values are neighbours, unless the end of the list cuts off the second one.
        pairs = known[np.abs(known.imag) > 1e-6]
        pairs = pairs[: len(pairs) // 2 * 2]
        assert_allclose(pairs[::2], np.conj(pairs[1::2]), rtol=1e-12)
        assert_allclose(a @ vector, values[0] * vector, atol=1e-7 * abs(values[0]))
        assert_allclose(np.linalg.norm(vector), 1, rtol=1e-9)
        assert np.isnan(values[size:]).all()
        assert not converged[size:].any()
    if (
        size > 24
    ):  # more products than the basis holds: it was restarted, not equally often for all examples
        assert eigenpairs.products.min() > 24
        assert len(set(eigenpairs.products.tolist())) > 1


@pytest.mark.parametrize("size", [2, 40, 200])
def test_singular_values(size, x64):
    matrices = linear_maps(size)
    zs, xs = maps.stack(matrices)
    unit = np.eye(size)
    for operator, true in (
        (Gram(maps.by_matrix), [np.linalg.norm(a, 2) for a in matrices]),
        (Gram(maps.by_matrix, minus=True), [np.linalg.norm(unit - a, 2) for a in matrices]),
        (
            InverseGram(maps.by_matrix, 1e-10),
            [np.linalg.norm(np.linalg.inv(unit - a), 2) for a in matrices],
        ),
    ):
        eigenpairs = leading_eigenvalues(operator, zs, xs, key=jr.key(1), count=1, memory=12)
        assert eigenpairs.converged.all()
        assert_allclose(np.sqrt(np.real(eigenpairs.values[:, 0])), true, rtol=1e-6)


def test_linear_spectra_in_float32():
    matrices = linear_maps(40)
    zs, xs = maps.stack(matrices, np.float32)
    eigenpairs = leading_eigenvalues(Jacobian(maps.by_matrix), zs, xs, key=jr.key(0))
    true = [np.abs(np.linalg.eigvals(a)).max() for a in matrices]
    assert eigenpairs.converged[:, 0].all()
    # The accuracy of the defective one.
    assert_allclose(np.abs(eigenpairs.values[:, 0]), true, rtol=2e-3)
    normal = [0, 1, 3, 4]
    assert_allclose(np.abs(eigenpairs.values[normal, 0]), np.array(true)[normal], rtol=1e-5)


def test_of_few_distinct_eigenvalues_no_others_are_made_up(x64):
    """The Krylov space ends early, beside an example that takes many cycles."""
    hard = maps.dense(60, 0.9, *PAIRS[1:], skew=3.0)
    for easy in (0.4 * np.eye(60), np.zeros((60, 60)), maps.dense(60, *[0.9] * 20, rest=0)):
        zs, xs = maps.stack([easy, hard])
        both = leading_eigenvalues(Jacobian(maps.by_matrix), zs, xs, key=jr.key(0))
        assert both.products[0] < both.products[1]
        distinct = np.unique(np.linalg.eigvalsh(easy).round(9))
        known = both.values[0][np.isfinite(both.values[0])]
        assert len(known) == len(distinct)
        assert_allclose(sorted(known.real), distinct, atol=1e-9)
        assert both.converged[0].sum() == len(known)


def test_products_that_are_not_finite(x64):
    zs, xs = maps.stack([np.eye(3) * np.nan, np.eye(3) * 0.5])
    eigenpairs = leading_eigenvalues(Jacobian(maps.by_matrix), zs, xs, key=jr.key(0))
    assert np.isnan(eigenpairs.values[0]).all()
    assert not eigenpairs.converged[0].any()
    assert_allclose(eigenpairs.values[1, 0], 0.5)


def test_no_example_depends_on_the_others(x64):
    matrices = [maps.dense(40, 0.9, *PAIRS[1:], skew=float(s), seed=s) for s in range(4)]
    matrices += [1.1 * np.eye(40), maps.dense(40, -1.0)]
    zs, xs = maps.stack(matrices)
    whole = stability.follow_orbits(maps.by_matrix, zs, xs, rtol=1e-8)
    assert whole.outcomes[3:] == ["converged", "diverged", "cycle"]
    index = np.array([3, 0])
    alone = stability.follow_orbits(
        maps.by_matrix, zs[index], jax.tree.map(lambda a: a[index], xs), rtol=1e-8
    )
    assert alone.outcomes == [whole.outcomes[i] for i in index]
    assert_allclose(alone.residuals, whole.residuals[index], rtol=1e-6)
    assert_allclose(alone.state, whole.state[index], rtol=1e-12)
    for operator in (Jacobian(maps.by_matrix), Gram(maps.by_matrix)):
        values = [
            leading_eigenvalues(operator, limits.state, limits.xs, key=jr.key(0), rtol=1e-6)
            for limits in (whole, alone)
        ]
        both = [np.abs(eigenpairs.values[:, 0]) for eigenpairs in values]
        assert_allclose(both[1], both[0][index], rtol=1e-6)
    radii = [
        np.array(stability.basin_radius(limits, key=jr.key(0)))
        for limits in (whole.take(index), alone)
    ]
    assert_allclose(radii[0], radii[1])


# --- How orbits end


def outcomes(coefficients, starts, **kwargs):
    """Follow the orbits of scalar polynomials."""
    zs = jnp.asarray(starts)[:, None]
    return stability.follow_orbits(
        maps.polynomial, zs, jnp.asarray(coefficients, zs.dtype), **kwargs
    )


def test_outcomes_of_scalar_maps(x64):
    table = [
        # coefficients of 1, z, z^2, z^3; start; outcome; period
        ([0.5, 0.5, 0, 0], 0.0, "converged", 0),
        ([0.5, -0.5, 0, 0], 3.0, "converged", 0),
        ([0.01, 0.99, 0, 0], 0.0, "slow", 0),
        ([1.99, -0.99, 0, 0], 0.0, "slow", 0),
        ([0.0005, 0.9995, 0, 0], 0.0, "slow", 0),
        ([0.0005, 0.9995, 0, 0], 2.0, "slow", 0),
        ([1.9995, -0.9995, 0, 0], 0.0, "slow", 0),
        ([5, -1, 0, 0], 0.0, "cycle", 2),
        ([5, -1, 0, 0], 1.0, "cycle", 2),
        (maps.logistic(3.3), 0.3, "cycle", 2),
        (maps.logistic(3.5), 0.3, "cycle", 4),
        (maps.logistic(3.55), 0.3, "cycle", 8),
        (maps.logistic(3.83), 0.3, "cycle", 3),
        (maps.logistic(4.0), 0.3, "wandering", 0),
        ([0.1, 1, 0, 0], 0.0, "diverged", 0),
        ([0, 1.01, 0, 0], 1.0, "diverged", 0),
        ([0, -1.01, 0, 0], 1.0, "diverged", 0),
        ([0, 3, 0, 0], 1.0, "diverged", 0),
        ([0, 0, 1, 0], 2.0, "diverged", 0),
        ([np.nan, 0, 0, 0], 1.0, "diverged", 0),
    ]
    coefficients, starts, names, periods = zip(*table, strict=True)
    for dtype in (np.float64, np.float32):
        with jax.enable_x64(dtype is np.float64):
            limits = outcomes(coefficients, np.array(starts, dtype))
        assert list(zip(limits.outcomes, limits.periods, strict=True)) == list(
            zip(names, periods, strict=True)
        )


def test_rotations(x64):
    """A rotation by a rational angle returns; one by an irrational angle never does."""
    turns = [(1 / p, p) for p in range(2, 17)] + [(2 / 5, 5), (3 / 7, 7)]
    turns += [((5**0.5 - 1) / 2, 0), (1 / 17, 0), (1 / np.e, 0)]
    zs, xs = maps.stack([maps.turn(1, 2 * np.pi * part) for part, _ in turns])
    limits = stability.follow_orbits(maps.by_matrix, zs, xs)
    assert limits.periods.tolist() == [period for _, period in turns]
    assert limits.outcomes == ["cycle" if period else "wandering" for _, period in turns]
    # Damped by a thousandth, the orbits approach the fixed point along the same cycles.
    zs, xs = maps.stack([maps.turn(0.999, 2 * np.pi * part) for part, _ in turns])
    assert set(stability.follow_orbits(maps.by_matrix, zs, xs).outcomes) == {"slow"}


def test_chaos_is_not_slow_convergence(x64):
    """Now and then the steps of a chaotic orbit become smaller by chance."""
    starts = np.linspace(0.011, 0.987, 400)
    limits = outcomes([maps.logistic(3.99)] * len(starts), starts)
    assert set(limits.outcomes) == {"wandering"}


def test_a_power_law_is_a_drift(x64):
    """Steps like t^-1/2 become smaller for ever, while the state grows without bound."""
    assert outcomes([[0, 1, 0, 0]], np.ones(1)).outcomes == ["converged"]
    limits = stability.follow_orbits(_root, jnp.ones((1, 1)), None)
    assert limits.outcomes == ["diverged"]


def _root(z, x):
    return z + 1 / z


def test_rate_and_settle_step(x64):
    factors = np.array([0.5, -0.5, 0.8, -0.8, 0.9, 0.95])
    limits = outcomes(
        np.stack([1 - factors, factors, 0 * factors, 0 * factors], axis=1),
        np.zeros(len(factors)),
        rtol=1e-5,
        iterations=400,
    )
    assert set(limits.outcomes) == {"converged"}
    assert_allclose(stability.rates(limits), np.abs(factors), rtol=1e-3)
    t = np.arange(1, 401)[:, None]
    residual = np.abs(factors ** (t - 1) * (1 - factors) / (1 - factors**t))
    reach = stability.reachability(limits, key=jr.key(0))
    assert reach.settle_step.values == (1 + (residual <= 1e-5).argmax(0)).tolist()
    assert_allclose(limits.state[:, 0], 1, rtol=1e-13)
    assert reach.starts["gaussian"].same.share == reach.starts["other"].same.share == 1
    assert set(reach.basin.values) == {reach.basin_limit}  # the basin is everything
    assert_allclose(reach.growth.values, np.abs(1 - factors**400) / (1 - factors), rtol=1e-12)


def test_rate_is_the_spectral_radius(x64):
    matrices = [maps.dense(9, 0.9), maps.dense(9, maps.turn(0.9, 1.0)), maps.dense(9, -0.8)]
    zs, xs = maps.stack(matrices)
    limits = stability.follow_orbits(maps.by_matrix, zs, xs)
    assert_allclose(stability.rates(limits), [0.9, 0.9, 0.8], rtol=1e-3)


# --- Basins


def test_basins(x64):
    """For a single number, the least radius over directions is the nearer of two edges; a bisection
    halves [0, 4] six times."""
    table = [
        ([0, 0, 0, 1], 0.5, 1.0),  # z^3 to 0 from |z| < 1
        ([0, 2, -1, 0], 0.5, 1.0),  # z (2 - z) to 1 from 0 < z < 2
        ([0, 1.5, 0, -0.5], 0.5, 1.0),  # to 1 from 0 < z < sqrt 3 (and further out: not linked)
        ([0.5, 0.5, 0, 0], 0.0, 4.0),  # the basin is everything
        ([0, 0, 0.25, 0], 0.5, 4.0),  # z^2 / 4 to 0 from |z| < 4
        ([0, 0, 0, 0.25], 0.5, 2.0),  # z^3 / 4 to 0 from |z| < 2
    ]
    coefficients, starts, radii = zip(*table, strict=True)
    limits = outcomes(coefficients, np.array(starts))
    assert set(limits.outcomes) == {"converged"}
    radius = stability.basin_radius(limits, key=jr.key(0))
    true = np.array(radii)
    true[2] = np.sqrt(3) - 1
    assert np.all(radius <= true)
    assert np.all(radius >= true - 4 / 2**6)


def test_fixed_points_at_zero(x64):
    """At zero there is no magnitude to which a residual could be relative."""
    limits = outcomes([[0, 0, 0, 1]] * 3, np.array([0.5, -0.25, 0.0]))
    reach = stability.reachability(limits, key=jr.key(3))
    assert reach.starts["other"].same.share == 1
    assert_allclose(reach.basin.values, 1, atol=4 / 2**6)


def test_other_fixed_points_are_of_examples_that_have_one(x64):
    stays, goes = [0.5, 0.5, 0, 0], [1.0, 2.0, 0, 0]
    limits = outcomes([stays, goes, goes, stays, stays, goes], np.zeros(6))
    start = stability.reachability(limits, key=jr.key(0)).starts["other"]
    # Each example starts from the state of the one before it. Three have such a start; of these,
    # the last but one of all examples converges.
    assert (start.converged.hits, start.converged.count) == (1, 3)
    assert (start.same.hits, start.same.count) == (1, 1)
    assert np.isfinite(start.cosine.values).tolist() == [i == 4 for i in range(6)]


# --- Lyapunov exponents


def test_lyapunov_exponents_of_chaos(x64):
    zs = jnp.linspace(0.1, 0.4, 4)[:, None]
    xs = jnp.tile(jnp.array(maps.logistic(4.0)), (4, 1))
    exponents, error = stability.lyapunov_exponents(
        maps.polynomial, zs, xs, key=jr.key(0), iterations=20_000
    )
    assert exponents.shape == error.shape == (4, 1)  # one exponent per number of the state
    assert_allclose(exponents, np.log(2), rtol=0.02)
    assert np.all(error < 0.05)
    assert np.all(np.abs(exponents - np.log(2)) < 2 * error)
    zs, xs = jnp.tile(jnp.array([0.1, 0.1]), (2, 1)), jnp.tile(jnp.array([1.4, 0.3]), (2, 1))
    exponents, error = stability.lyapunov_exponents(
        maps.henon, zs, xs, key=jr.key(1), iterations=20_000
    )
    assert_allclose(exponents[:, 0], 0.419, rtol=0.02)
    assert_allclose(exponents.sum(1), np.log(0.3), rtol=1e-6)  # det J = -0.3 everywhere


def test_lyapunov_exponents_of_linear_maps(x64):
    blocks = [(0.9, 0.5), (1.2, -0.9), (maps.turn(0.8, 1.0),), (-1.0, 0.1)]
    zs, xs = maps.stack([maps.dense(5, *block, rest=0.05) for block in blocks])
    exponents, error = stability.lyapunov_exponents(
        maps.by_matrix, zs, xs, key=jr.key(0), iterations=256
    )
    true = np.log([[0.9, 0.5], [1.2, 0.9], [0.8, 0.8], [1.0, 0.1]])
    assert_allclose(exponents, true, atol=1e-3)
    assert np.all(np.abs(exponents - true) <= error + 1e-9)


def test_ten_thousand_cells(x64):
    """The spectrum takes a hundred or so products, and no matrix."""
    rates = jnp.linspace(-0.5, 0.9, 10_000).at[-1].set(0.95)
    limits = stability.follow_orbits(_cells, jnp.zeros((1, 10_000)), rates[None], iterations=512)
    leading = stability.jacobian_eigenvalues(limits, key=jr.key(0))
    assert leading.converged[0, 0]
    assert leading.products[0] <= 250
    assert_allclose(abs(leading.values[0, 0]), 0.95, rtol=1e-6)
    assert_allclose(limits.state[0], 1 / (1 - rates), rtol=1e-3)


def _cells(z, x):
    return x * z + 1


@pytest.mark.parametrize("factor", [0.98, 0.99, 0.995, -0.995])
def test_slow_arrival_is_at_the_same_fixed_point(factor, x64):
    """The residual is below the tolerance while the remaining distance is still a hundred times as
    large."""
    limits = outcomes([[1 - factor, factor, 0, 0]] * 6, np.zeros(6), iterations=2600)
    assert set(limits.outcomes) == {"converged"}
    reach = stability.reachability(limits, key=jr.key(0))
    assert reach.starts["gaussian"].same.share == 1
    assert set(reach.basin.values) == {reach.basin_limit}
