"""`stability.find_points` on maps whose points are known: places, kinds, unstable directions."""

import functools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import stability_maps as maps
from numpy.testing import assert_allclose
from scipy.optimize import brentq, minimize_scalar

from eqloop import stability

GHOST = 1e-3


def family(z, x):
    """`A z + E tanh(z) + b + (c z^2 - d z^3) / (1 + z^2) + h floor(3 z) / 3`: many maps of the
    plane in one program."""
    bent = (x["c"] * z**2 - x["d"] * z**3) / (1 + z**2)
    return x["a"] @ z + x["e"] @ jnp.tanh(z) + x["b"] + bent + x["h"] * jnp.floor(3 * z) / 3


ZERO = {"a": np.zeros((2, 2)), "e": np.zeros((2, 2)), **dict.fromkeys("bcdh", np.zeros(2))}
PLANE = {
    "pitchfork": {"e": np.diag([2.0, 0.5])},
    "line of fixed points": {"a": np.diag([1, 0.5])},
    "slow manifold": {"a": np.diag([0.999, 0.3]), "b": np.array([0.001, 0.7])},
    "past a fold": {
        "a": np.diag([1, 0.5]),
        "b": np.array([GHOST, 0]),
        "c": np.array([1.0, 0]),
        "d": np.array([1.0, 0]),
    },
    "at a fold": {"a": np.diag([1, 0.5]), "c": np.array([1.0, 0]), "d": np.array([1.0, 0])},
    "spiral": {"e": maps.turn(1.5, 1.0)},
    "Jordan block": {"a": np.array([[0.5, 100], [0, 0.5]]), "b": np.ones(2)},
    "non-normal": {"a": np.array([[0.9, 1000], [0, 0.85]]), "b": np.ones(2)},
    "doubling": {"a": 2 * np.eye(2), "b": np.ones(2)},
    "steps": {"h": np.ones(2)},
    "diverging": {"a": np.diag([1.5, 0.5])},
}


@pytest.fixture
def plane(x64):
    del x64
    return plane_points()


def plane_problem():
    """Starts and inputs of every map of `PLANE`."""
    cases = [ZERO | change for change in PLANE.values()]
    xs = {name: jnp.asarray(np.stack([case[name] for case in cases])) for name in ZERO}
    return jnp.tile(jnp.array([-0.6, 0.8]), (len(cases), 1)), xs


@functools.cache
def plane_points() -> dict[str, list[stability.Point]]:
    found = stability.find_points(family, *plane_problem(), key=jr.key(0))
    for point in found:
        case = ZERO | list(PLANE.values())[point.example]
        assert all(np.array_equal(point.x[name], case[name]) for name in ZERO)
        step = np.asarray(family(jnp.asarray(point.z), point.x)) - point.z
        assert_allclose(point.q, step @ step / 2, rtol=1e-6, atol=1e-30)
        assert point.directions.shape == (point.unstable, 2)
    return {
        name: [point for point in found if point.example == example]
        for example, name in enumerate(PLANE)
    }


def root_of(f, low: float, high: float) -> float:
    return brentq(f, low, high)  # pyright: ignore[reportReturnType]


def kinds(points: list[stability.Point]) -> list[str]:
    return [point.kind for point in points]


def test_pitchfork_and_its_saddle(plane):
    points = plane["pitchfork"]
    assert kinds(points) == ["stable", "stable", "saddle"]
    root = root_of(lambda z: 2 * np.tanh(z) - z, 1, 3)
    assert_allclose(sorted(p.z[0] for p in points), [-root, 0, root], atol=1e-12)
    saddle = points[-1]
    assert_allclose(saddle.eigenvalues, [2, 0.5], atol=1e-12)
    assert saddle.unstable == 1
    for vector in (saddle.right, saddle.left, saddle.directions[0]):
        assert_allclose(np.abs(vector), [1, 0], atol=1e-9)
    for point in points[:2]:
        assert_allclose(point.eigenvalues, [0.5, 2 / np.cosh(root) ** 2], atol=1e-10)


def test_line_of_fixed_points_is_one_marginal_point(plane):
    (point,) = plane["line of fixed points"]
    assert (point.kind, point.unstable) == ("undecided", 0)
    assert "marginal" in point.because
    assert_allclose(point.eigenvalues, [1, 0.5], atol=1e-12)


def test_slow_manifold_is_stable(plane):
    (point,) = plane["slow manifold"]
    assert point.kind == "stable"
    assert_allclose(point.z, [1, 1], atol=1e-9)
    assert_allclose(point.eigenvalues, [0.999, 0.3], atol=1e-12)


def test_past_a_fold_is_a_slow_point(plane):
    def step(z):
        return GHOST + (z**2 - z**3) / (1 + z**2)

    stable, slow = plane["past a fold"]
    assert kinds([stable, slow]) == ["stable", "slow"]
    assert_allclose(stable.z, [root_of(step, 0.5, 2), 0], atol=1e-10)
    least = minimize_scalar(
        lambda z: step(z) ** 2, bounds=(-0.3, 0.3), method="bounded", options={"xatol": 1e-9}
    )
    assert_allclose(slow.z, [least.x, 0], atol=1e-6)
    assert_allclose(slow.q, least.fun / 2, rtol=1e-6)


def test_at_a_fold_the_kind_is_undecided(plane):
    (double,) = plane["at a fold"]
    assert double.kind == "undecided"
    assert_allclose(double.z, [0, 0], atol=1e-6)
    assert "marginal" in double.because


def test_centre_of_a_rotation_is_an_unstable_spiral(plane):
    """No orbit reaches it; there is no other fixed point, since tanh turns no vector by 1 rad."""
    (point,) = plane["spiral"]
    assert (point.kind, point.unstable) == ("saddle", 2)
    assert_allclose(point.z, 0, atol=1e-12)
    assert_allclose(point.eigenvalues, 1.5 * np.exp([1j, -1j]), atol=1e-10)


@pytest.mark.parametrize(
    ("name", "values", "error"), [("Jordan block", [0.5], 1e-2), ("non-normal", [0.9, 0.85], 1e-6)]
)
def test_non_normal_contractions_are_stable(plane, name, values, error):
    (point,) = plane[name]
    assert point.kind == "stable"
    assert_allclose(point.eigenvalues[: len(values)], values, atol=error)
    assert (np.abs(point.eigenvalues[: len(values)] - values) <= point.errors[: len(values)]).all()


def test_equal_unstable_eigenvalues_are_counted(plane):
    (point,) = plane["doubling"]
    assert (point.kind, point.unstable) == ("saddle", 2)
    assert_allclose(point.eigenvalues, [2, 2])
    assert_allclose(point.directions @ point.directions.T, np.eye(2), atol=1e-12)


def test_steps_have_superstable_points(plane):
    """`floor(3 z) / 3` is discontinuous at its fixed points; its derivative is zero elsewhere."""
    points = plane["steps"]
    assert set(kinds(points)) == {"stable"}
    for point in points:
        assert_allclose(3 * point.z, np.round(3 * point.z), atol=1e-12)
        assert_allclose(point.eigenvalues, 0, atol=1e-12)


def test_a_diverging_orbit_leaves_its_saddle(plane):
    (point,) = plane["diverging"]
    assert (point.kind, point.unstable) == ("saddle", 1)
    assert_allclose(point.z, 0, atol=1e-12)


def network(z, x):
    return x["a"] @ jnp.tanh(z)


def test_saddle_of_a_network_in_many_dimensions(x64):
    """At 0 the linear part is the matrix: one real and one complex pair outside the circle, one
    eigenvalue twice."""
    a = maps.dense(40, 1.5, maps.turn(1.3, 1.0), 1.2 * np.eye(2), skew=1.0)
    xs = {"a": jnp.asarray(a)[None]}
    found = stability.find_points(
        network, jnp.full((1, 40), 0.1), xs, key=jr.key(1), candidates=8, iterations=64
    )
    (centre,) = [point for point in found if np.linalg.norm(point.z) < 1e-9]
    true = np.linalg.eigvals(a)
    assert (centre.kind, centre.unstable) == ("saddle", 5)
    largest = true[np.argsort(-np.abs(true))][:5]
    gaps = np.abs(centre.eigenvalues[:5, None] - largest)
    assert gaps.min(0).max() < 1e-4
    assert_allclose(a @ centre.right, centre.eigenvalues[0] * centre.right, atol=1e-3)
    assert_allclose(a.T @ centre.left, centre.eigenvalues[0] * centre.left, atol=1e-3)
    # The basis spans an invariant subspace.
    image = centre.directions @ a.T
    rest = image - image @ centre.directions.T @ centre.directions
    assert np.linalg.norm(rest) < 1e-2
    for point in found:
        assert point.residual < 1e-13
        derivative = a @ np.diag(1 / np.cosh(point.z) ** 2)
        assert point.unstable == (np.abs(np.linalg.eigvals(derivative)) > 1).sum()


def ring(z, x):
    """10,000 numbers: neighbours and the mean; the derivative at 0 has the eigenvalue 1.6, and
    others of at most 0.6."""
    return jnp.tanh(0.3 * z["s"] + 0.3 * jnp.roll(z["s"], 1) + jnp.mean(z["s"])) * x


def test_ten_thousand_numbers():
    found = stability.find_points(
        lambda z, x: {"s": ring(z, x)},
        lambda x: {"s": jnp.full(10_000, 0.1)},
        jnp.ones(1),
        key=jr.key(0),
        candidates=4,
        iterations=32,
    )
    root = root_of(lambda z: np.tanh(1.6 * z) - z, 0.1, 1)
    assert kinds(found)[0] == "stable"
    assert_allclose(found[0].z["s"], root, rtol=1e-4)
    (saddle,) = [point for point in found if point.kind == "saddle"]
    assert saddle.unstable == 1
    assert_allclose(saddle.eigenvalues[0], 1.6, rtol=1e-4)
    assert_allclose(np.abs(saddle.directions), 0.01, rtol=1e-3)


def test_points_of_orbits_that_were_followed(plane):
    """The same points as those of a search of its own."""
    orbits = stability.follow_orbits(family, *plane_problem(), iterations=32)
    first = orbits.take(np.array([0]))
    assert kinds(stability.points(first, key=jr.key(5))) == kinds(plane["pitchfork"])


def test_newton_alone_in_few_steps_finds_the_saddle_and_no_slow_point(plane):
    found = stability.find_points(family, *plane_problem(), key=jr.key(0), steps=20, slow=False)
    assert kinds(plane["past a fold"]) == ["stable", "slow"]
    assert "slow" not in kinds(found)
    (saddle,) = [p for p in found if p.example == list(PLANE).index("pitchfork") and p.unstable]
    assert_allclose(saddle.z, 0, atol=1e-12)


@pytest.mark.parametrize(
    "wrong", [{"candidates": 0}, {"noise": -1.0}, {"count": 0}, {"iterations": 0}, {"steps": 0}]
)
def test_arguments_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        stability.find_points(
            lambda z, x: z, jnp.ones((1, 1)), jnp.ones((1, 1)), key=jr.key(0), **wrong
        )
