"""The scalar model: its regions against simulated loops, projections against brute force, the
experiment against integrals."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from eqloop.report import scalar_figure
from eqloop.stability import (
    anisotropy,
    project_external,
    project_internal,
    scalar_experiment,
    stable_external,
    stable_internal,
)
from eqloop.stability._scalar import _median_interval

RECALLS = {
    "external": (stable_external, project_external),
    "internal": (stable_internal, project_internal),
}
BOTH = pytest.mark.parametrize("recall", RECALLS)


def draws(sigma: float, n: int = 400, seed: int = 0) -> np.ndarray:
    return sigma * np.random.default_rng(seed).standard_normal((n, 2))


def distances(points: np.ndarray, moved: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points - moved, axis=-1)


# --- where it is stable


def iterate(recall: str, z: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute one iteration with a residual branch of y times its input, and an embedding of
    0.7."""
    if recall == "external":
        u = x * z + 0.7
        return u + y * u
    return z + y * (x * z + 0.7)


@BOTH
def test_states_stay_together_where_it_is_stable(recall):
    """From two starts with one input, the distance stays bounded if and only if the point is
    stable."""
    axis = np.linspace(-3, 3, 61)
    x, y = (coordinates.ravel() for coordinates in np.meshgrid(axis, axis))
    first_state, second_state, farthest = np.zeros_like(x), np.ones_like(x), np.ones_like(x)
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(4000):
            first_state, second_state = (
                iterate(recall, first_state, x, y),
                iterate(recall, second_state, x, y),
            )
            # States that have become inf or nan count as apart.
            farthest = np.fmax(
                farthest, np.nan_to_num(np.abs(first_state - second_state), nan=np.inf)
            )
    stable = RECALLS[recall][0](x, y)
    factor = (1 + y) * x if recall == "external" else 1 + x * y
    edge = np.abs(np.abs(factor) - 1) < 1e-12  # 0.1 is not exact in binary
    assert 500 < stable.sum() < 3000
    np.testing.assert_array_equal((farthest < 2)[~edge], stable[~edge])


def test_the_edge_is_stable():
    x, y = np.array([1.0, -1.0, 0.5, 0.25, 5.0, 0.0]), np.array([0.0, -2.0, 1.0, -5.0, -1.0, 9.0])
    assert stable_external(x, y).all()
    x, y = np.array([1.0, -4.0, 0.0, 7.0, 0.0]), np.array([-2.0, 0.5, 3.0, 0.0, 0.0])
    assert stable_internal(x, y).all()
    # 1 + x y rounds to 1, but the loop grows.
    assert not stable_internal(np.array([1e-9]), np.array([1e-9]))[0]


# --- the nearest stable point


@BOTH
@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0, 30.0])
def test_nearest_by_the_roots_of_a_polynomial(recall, sigma):
    """All stationary points of the distance on every branch come from the eigenvalues of a
    companion matrix: `u^4 - a u^3 + k b u - k^2` on `u v = k`."""
    stable, project = RECALLS[recall]
    points = draws(sigma)
    points = points[~stable(*points.T)]
    shift, branches = (1, (1, -1)) if recall == "external" else (0, (-2,))
    nearest = []
    for a, b in points + np.array([0, shift]):
        distances_to_roots = [] if recall == "external" else [abs(a), abs(b)]  # on an axis
        for k in branches:
            roots = np.roots([1, -a, 0, k * b, -k * k])
            real = roots[np.abs(roots.imag) < 1e-8 * np.abs(roots)].real
            distances_to_roots += list(np.hypot(real - a, k / real - b))
        nearest.append(min(distances_to_roots))
    np.testing.assert_allclose(distances(points, project(points)), nearest, rtol=1e-9)


@BOTH
def test_no_stable_point_of_a_grid_is_nearer(recall):
    stable, project = RECALLS[recall]
    points = draws(2.0, 300)
    axis = np.linspace(-9, 9, 721)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    grid = grid[stable(*grid.T)]
    moved = distances(points, project(points))
    for point, distance in zip(points, moved, strict=True):
        nearest = distances(grid, point).min()
        # The grid is not nearer than the projection and, with cells of 0.025, not much farther.
        assert distance - 1e-12 <= nearest <= distance + 0.04


@BOTH
@given(
    points=st.lists(
        st.tuples(*[st.floats(-100, 100, allow_subnormal=False)] * 2), min_size=1, max_size=8
    )
)
def test_laws_of_a_projection(recall, points):
    stable, project = RECALLS[recall]
    points = np.array(points)
    moved = project(points)
    assert stable(*moved.T).all()
    np.testing.assert_array_equal(project(moved), moved)
    here = stable(*points.T)
    np.testing.assert_array_equal(moved[here], points[here])
    # The origin is stable for both kinds, and reflections are symmetries.
    distance = distances(points, moved)
    assert (distance <= np.linalg.norm(points, axis=-1)).all()
    middle = np.array([0, -1]) if recall == "external" else np.zeros(2)
    mirrored = project(2 * middle - points)
    np.testing.assert_allclose(
        distances(2 * middle - points, mirrored), distance, rtol=1e-9, atol=1e-12
    )


@BOTH
def test_nothing_stable_is_inside_the_circle(recall):
    """The circle around a draw through its projection holds no stable point."""
    stable, project = RECALLS[recall]
    points = draws(3.0)
    distance = distances(points, project(points))
    points, distance = points[distance > 0], distance[distance > 0]
    turn = np.linspace(0, 2 * np.pi, 721)
    rim = np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    inside = points[:, None] + (1 - 1e-9) * distance[:, None, None] * rim
    assert not stable(inside[..., 0], inside[..., 1]).any()


def test_equally_near_points():
    """A draw on the diagonal beyond the centre of curvature of the vertex has two nearest
    points."""
    [[x, y]] = project_external(np.array([[3.0, 2.0]]))
    np.testing.assert_allclose([x + (1 + y), x * (1 + y)], [3, 1])
    assert x > 1 + y
    [[x, y]] = project_internal(np.array([[-4.0, 4.0]]))
    np.testing.assert_allclose([-x + y, x * y], [4, -2])
    assert -x > y
    # Up to that centre, the vertex is the nearest point.
    np.testing.assert_allclose(project_external(np.array([[1.5, 0.5]])), [[1, 0]], atol=1e-12)
    # At the centre the distance is flat to third order, which limits the accuracy of the point.
    at = np.array([[2.0, 1.0]])
    np.testing.assert_allclose(project_external(at), [[1, 0]], atol=1e-5)
    np.testing.assert_allclose(distances(at, project_external(at)), math.sqrt(2), rtol=1e-15)
    np.testing.assert_array_equal(project_internal(np.array([[2.0, 2.0]])), [[2, 0]])


@pytest.mark.parametrize("function", [project_external, project_internal, anisotropy])
def test_bad_points(function):
    with pytest.raises(ValueError, match=r"an array of shape \(3,\)"):
        function(np.ones(3))
    with pytest.raises(ValueError, match="must be finite"):
        function(np.array([[1.0, np.nan]]))
    assert function(np.zeros((0, 2))).size == 0


def test_anisotropy():
    points = np.array([[1.0, 1.0], [math.e, -1.0], [1.0, math.e**2], [0.0, 3.0], [2.0, 0.0]])
    np.testing.assert_allclose(anisotropy(points), [0, 1, 2, math.inf, math.inf])
    assert np.isnan(anisotropy(np.zeros((1, 2)))).all()


# --- the experiment


@pytest.mark.parametrize("sigma", [0.1, 1.0, 4.0])
def test_shares_are_those_of_integrals(sigma):
    """P(stable) is an integral over y; P(infinite) is the probability that two signs are equal."""
    n = 200_000
    cases = scalar_experiment([sigma], n, seed=1).cases[f"{sigma:g}"]

    def within(width: float) -> float:  # P(|x| <= width)
        return math.erf(width / sigma / math.sqrt(2)) if width < math.inf else 1.0

    def stable(recall: str, y: float) -> float:
        if recall == "external":
            return within(1 / abs(1 + y)) if y != -1 else 1.0
        return within(2 / abs(y)) / 2 if y else 0.5

    for recall, case in cases.items():
        expected, _ = integrate.quad(
            lambda y, recall=recall: stable(recall, y) * stats.norm.pdf(y, scale=sigma),
            -12 * sigma,
            12 * sigma,
            points=[-1, 0],
            limit=200,
        )
        four = 4 * math.sqrt(expected * (1 - expected) / n) + 1e-9
        assert case.stable.share == pytest.approx(expected, abs=four)
    assert cases["external"].infinite.hits == 0
    assert cases["internal"].infinite.share == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(n))


def test_the_limit_of_small_sigma():
    report = scalar_experiment([1e-3], 100_000, seed=2)
    cases, t = report.cases["0.001"], np.array(report.thresholds)
    law = 4 / np.pi * np.arctan(np.exp(t)) - 1
    finite = 1 - cases["internal"].infinite.share
    np.testing.assert_allclose(cases["external"].at_most, law, atol=0.01)
    np.testing.assert_allclose(np.array(cases["internal"].at_most) / finite, law, atol=0.01)
    silver = math.log(1 + math.sqrt(2))
    assert cases["external"].median == pytest.approx(silver, abs=0.02)
    assert cases["internal"].finite["0.5"] == pytest.approx(silver, abs=0.02)


def test_the_internal_median_is_an_accident_of_the_seed():
    """The median is finite for some seeds and infinite for others, while the other figures hardly
    move."""
    experiments = [scalar_experiment([1.0], seed=seed).cases["1"] for seed in range(20)]
    medians = np.array([cases["internal"].median for cases in experiments])
    assert 3 < np.isinf(medians).sum() < 17
    for cases in experiments:
        internal, external = cases["internal"], cases["external"]
        assert np.isinf(internal.median) == (internal.infinite.share >= 0.5)
        assert internal.low > 2
        assert math.isinf(internal.high) or internal.infinite.share < 0.5
        assert internal.finite["0.5"] == pytest.approx(0.89, abs=0.07)
        assert external.median == pytest.approx(1.04, abs=0.05)
        assert internal.infinite.low < 0.53
        assert internal.infinite.high > 0.47


def test_figures_of_the_published_setting():
    """The figures are for this generator with seed 0, for internal and external recall."""
    report = scalar_experiment()
    assert report.settings == {"sigmas": [0.1, 1.0, 4.0], "n": 3000, "seed": 0}
    medians = {
        sigma: (round(cases["internal"].median, 2), round(cases["external"].median, 2))
        for sigma, cases in report.cases.items()
    }
    assert medians["0.1"] == (3.61, 0.90)
    assert medians["1"] == (3.61, 1.04)
    assert medians["4"] == (4.08, 1.92)


def test_intervals_of_the_median_cover_it():
    """The coverage is at least 95 %, by the binomial distribution and in samples with a known
    median."""
    for n in range(1, 400):
        low, _ = _median_interval(np.arange(1, n + 1, dtype=float))
        if low > 0:
            assert 1 - 2 * stats.binom.cdf(low - 1, n, 0.5) >= 0.95
    assert _median_interval(np.ones(3)) == (-math.inf, math.inf)
    assert _median_interval(np.array([1.0] * 30 + [math.inf] * 70)) == (math.inf, math.inf)
    samples = np.sort(np.random.default_rng(0).uniform(size=(1000, 151)))
    held = [low < 0.5 < high for low, high in map(_median_interval, samples)]
    assert 0.94 < np.mean(held) < 0.98


def test_tables_and_seeds():
    report = scalar_experiment([2.0], 50, seed=3)
    assert scalar_experiment([2.0], 50, seed=3) == report
    assert scalar_experiment([2.0], 50, seed=4) != report
    tables = report.tables()
    case = tables["cases"]["2"]["internal"]
    assert len(case["at_most"]) == len(tables["thresholds"])
    assert case["stable"]["count"] == 50
    arrows = tables["shown"]["2"]
    np.testing.assert_array_equal(project_internal(np.array(arrows["drawn"])), arrows["internal"])


@pytest.mark.parametrize("sigmas", [(), (1.0, 0.0), (-1.0,), (math.nan,), (math.inf,)])
def test_bad_settings(sigmas):
    with pytest.raises(ValueError, match="sigmas = "):
        scalar_experiment(sigmas)
    with pytest.raises(ValueError, match="n = 0 must be at least 1"):
        scalar_experiment(n=0)


# --- the picture


def test_figure():
    tables = scalar_experiment(n=200).tables()
    figure = scalar_figure(tables)
    figure.draw_without_rendering()
    external, internal, curves = figure.axes
    arrows = tables["shown"]["1"]
    for axes, recall in ((external, "external"), (internal, "internal")):
        moved = [a != b for a, b in zip(arrows["drawn"], arrows[recall], strict=True)]
        assert len(axes.patches) == sum(moved)
        [region] = axes.collections
        assert region.get_hatch() == "////"
    lines = [line for line in curves.lines if str(line.get_label()).startswith("internal")]
    assert len(lines) == 3
    assert len({str(line.get_linestyle()) for line in lines}) == 3
    assert all(0.3 < np.max(line.get_ydata()) < 0.7 for line in lines)
    scalar_figure(tables, sigma=4).draw_without_rendering()
    with pytest.raises(ValueError, match=r"sigma = 2: there are 0\.1, 1, 4"):
        scalar_figure(tables, sigma=2)
