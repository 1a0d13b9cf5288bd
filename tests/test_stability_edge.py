"""`stability.edge_state` on maps whose edge state has a closed form, and on maps without one."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import stability_maps as maps
from numpy.testing import assert_allclose

from eqloop import stability

BEND = 0.7


def wells(z, x):
    """`g(u, v) = (1.5 u - u^3 / 2, c v + d - e tanh v)` seen from `z = (u + 0.7 v^2, v)`: the edge
    of the basins of u = -1 and u = 1 is the parabola u = 0."""
    u, v = z[0] - BEND * z[1] ** 2, z[1]
    u, v = 1.5 * u - u**3 / 2, x[0] * v + x[1] - x[2] * jnp.tanh(v)
    return jnp.stack([u + BEND * v**2, v])


def edge(x, za=(-1.0, 0.0), zb=(1.4, 0.9), **more):
    return stability.edge_state(
        wells, jnp.array(za), jnp.array(zb), jnp.array(x), key=jr.key(0), **more
    )


def test_double_well_with_a_curved_boundary(x64):
    """The edge state is at u = 0, v = d / (1 - c)."""
    found = edge([0.5, 0.2, 0.0])
    assert found.found, found.because
    assert "that of zb" in found.because
    assert found.point is not None
    assert_allclose(found.point.z, [BEND * 0.4**2, 0.4], atol=1e-10)
    assert found.point.unstable == 1
    assert_allclose(found.point.eigenvalues, [1.5, 0.5], atol=1e-9)
    u, v = found.z[0] - BEND * found.z[1] ** 2, found.z[1]
    assert abs(u) < 1e-5
    assert found.gap <= 1e-6
    assert np.isfinite(v)


def test_an_edge_state_that_is_a_cycle_is_not_found(x64):
    """On the edge v has the unstable fixed point 0 and a cycle of period 2: the fixed point has two
    unstable directions."""
    found = edge([0.0, 0.0, 2.0], za=(-1.0, 0.5), rounds=3)
    assert not found.found
    assert found.point is None
    assert "led to no fixed point with one unstable direction" in found.because
    assert abs(found.z[0] - BEND * found.z[1] ** 2) < 1e-4
    assert min(found.residuals) > 1e-2


def test_one_attractor_has_no_boundary(x64):
    found = edge([0.5, 0.2, 0.0], zb=(-1.5, 0.3))
    assert (found.found, found.because) == (False, "both starts go to the same attractor")


def test_an_orbit_that_has_not_settled_is_named(x64):
    found = edge([0.99, 0.002, 0.0], iterations=100)
    assert not found.found
    assert "za is not at a fixed point" in found.because


def test_a_third_attractor_between_the_two(x64):
    """From u = 2 the orbit goes to u = -1, beyond sqrt(5) it diverges."""
    found = edge([0.5, 0.2, 0.0], za=(1.1, 0.4), zb=(4.0, 0.4))
    assert found.found
    assert found.because.endswith("to the attractor of za and to another attractor")


def test_the_boundary_to_infinity(x64):
    """The logistic map with r = 2.5: [0, 1] goes to 0.6, all else diverges."""
    z, x = jnp.full(1, 0.5), jnp.array(maps.logistic(2.5))
    found = stability.edge_state(maps.polynomial, z, -z, x, key=jr.key(0))
    assert found.found, found.because
    assert found.point is not None
    assert_allclose(found.point.z, 0, atol=1e-12)
    assert_allclose(found.point.eigenvalues, 2.5)
    assert found.because.endswith("to the attractor of za and to that of zb")


@pytest.mark.parametrize("wrong", ["iterations", "rounds"])
def test_arguments_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=wrong):
        edge([0.5, 0.2, 0.0], **{wrong: 0})
