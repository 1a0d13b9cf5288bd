"""`stability.orbit_plane` on maps whose orbits have closed forms."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose

from eqloop import stability
from eqloop.stability._plane import main_plane

MIX = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]


def linear(z, x):
    """Rotation in a plane and decay at three rates, in mixed coordinates; x is the offset."""
    return x["matrix"] @ z + x["offset"]


def problem(rates, turn):
    inner = np.diag([0.0, 0.0, *rates])
    inner[:2, :2] = 0.99 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = MIX @ inner @ MIX.T
    return {
        "matrix": jnp.asarray(matrix)[None],
        "offset": jnp.ones((1, 5)) @ (jnp.eye(5) - matrix.T),
    }


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (3, 1), (1, 3)])
def test_the_main_plane_is_that_of_the_singular_value_decomposition(shape):
    rows = np.random.default_rng(1).normal(size=shape) + 3
    plane = main_plane(rows)
    _, sizes, directions = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    rank = min(2, shape[0] - 1, shape[1])
    assert_allclose(np.abs(np.sum(plane.axes[:rank] * directions[:rank], axis=1)), 1)
    assert not plane.axes[rank:].any()
    assert_allclose(np.linalg.norm(plane.axes[:rank], axis=1), 1)
    if rank:
        assert_allclose(plane.variance, np.sum(sizes[:2] ** 2) / np.sum(sizes**2))
    else:
        assert np.isnan(plane.variance)


def test_the_orbit_is_where_the_closed_form_says(x64):
    """`z_t - z* = A^t (z_0 - z*)`. What decays fast adds nothing to the plane, which is that of the
    rotation, and every iteration is in it up to the 256th."""
    xs = problem((0.1, 0.05, 0.0), 0.3)
    z0s = jnp.asarray(np.random.default_rng(2).normal(size=(1, 5)))
    orbits = stability.follow_orbits(linear, z0s, xs, iterations=400)
    drawn = stability.orbit_plane(orbits, 0, key=jr.key(0), others=3)
    assert drawn is not None
    assert drawn.iterations[:257] == list(range(257))
    assert drawn.iterations[-1] == 400
    assert 258 < len(drawn.iterations) < 280
    plane = drawn.plane
    assert plane.variance > 0.99
    # A direction of the rotation is in the plane, and the others are not.
    assert_allclose(np.linalg.norm(plane.along(MIX.T), axis=1), [1, 1, 0, 0, 0], atol=0.15)
    matrix, rest = np.asarray(xs["matrix"][0]), np.asarray(z0s[0]) - 1
    states = [1 + np.linalg.matrix_power(matrix, t) @ rest for t in drawn.iterations]
    assert_allclose(drawn.own, plane.place(np.array(states)), atol=1e-10)
    assert_allclose(plane.place(np.ones((1, 5)))[0], drawn.own[-1], atol=0.1)  # 0.99^400
    assert drawn.others.shape == (3, len(drawn.iterations), 2)
    # An orbit from noise follows the map as well: `p_2 - p_1` turns by 0.3 per iteration.
    steps = np.diff(drawn.others[0][20:40], axis=0)
    angles = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
    assert_allclose(np.abs(np.diff(angles)), 0.3, atol=1e-2)


def test_an_orbit_that_diverges_ends_and_one_without_states_has_no_plane():
    def f(z, x):
        return x * z**2

    z0s, xs = jnp.array([[2.0], [jnp.nan]]), jnp.array([[1.0], [1.0]])
    orbits = stability.follow_orbits(f, z0s, xs, iterations=16)
    drawn = stability.orbit_plane(orbits, 0, key=jr.key(0))
    assert drawn is not None
    known = np.isfinite(drawn.own[:, 0])
    assert known[:7].all()  # 2^(2^6)
    assert not known[7:].any()
    assert not drawn.own[:7, 1].any()  # one number has no second direction
    assert stability.orbit_plane(orbits, 1, key=jr.key(0)) is None
