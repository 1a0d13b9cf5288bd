"""Lyapunov exponents with known values, of driven maps, and in two precisions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import stability_maps as maps
from numpy.testing import assert_allclose

from eqloop import stability
from eqloop.stability import lyapunov_exponents, precision_check

GOLDEN = (1 + 5**0.5) / 2


def on_torus(z, x):
    """`A z + b` modulo 1, with the Jacobian A."""
    return jnp.mod(x["a"] @ z + x["b"], 1)


def test_exponents_of_products_of_known_matrices(x64):
    """Sequences of matrices drive the same map: the exponents are those of their product."""
    steps, rng = 320, np.random.default_rng(0)
    cat, one = np.array([[2.0, 1.0], [1.0, 1.0]]), np.eye(2)
    sizes = rng.uniform(0.1, 2, (steps, 2)) * [2, 0.2]
    sequences = {
        "cat map": np.broadcast_to(cat, (steps, 2, 2)),
        "cat map at every other step": np.stack([cat, one] * (steps // 2)),
        "quasi-periodic rotation": np.broadcast_to(maps.turn(1.0, 1.0), (steps, 2, 2)),
        "diagonal matrices": sizes[:, :, None] * np.eye(2),
        "rotations and shrinking": np.stack(
            [maps.turn(size, angle) for size, angle in rng.uniform(0.2, 0.9, (steps, 2))]
        ),
    }
    a = jnp.asarray(np.stack(list(sequences.values())))
    xs = {"a": a, "b": jr.uniform(jr.key(0), (*a.shape[:2], 2))}
    zs = jr.uniform(jr.key(1), (len(a), 2))
    values, errors = lyapunov_exponents(
        on_torus, zs, xs, key=jr.key(2), iterations=steps, driven=True
    )
    golden = 2 * np.log(GOLDEN)
    late = np.log(sizes[steps // 2 :]).mean(0)
    scales = np.log(np.abs(np.linalg.det(sequences["rotations and shrinking"]))) / 2
    shrinking = scales[steps // 2 :].mean()
    expected = [
        [golden, -golden],
        [golden / 2, -golden / 2],
        [0, 0],
        late,
        [shrinking, shrinking],
    ]
    assert_allclose(values, expected, atol=1e-9)
    # The exponents of the whole random sequences are within the errors of those of their half.
    assert np.all(errors[:3] < 1e-9)
    assert np.all(np.abs(values[3] - np.log(sizes).mean(0)) < errors[3])
    assert np.all(abs(values[4] - scales.mean()) < errors[4])


def test_the_exponent_of_a_cycle_of_period_3(x64):
    """`z^2 + c` has a cycle of period 3 with the multiplier m where `c^3 + 2 c^2 + (1 - m / 8) c +
    (1 - m / 8)^2 = 0` (Giarrusso and Fisher 1995, doi:10.1090/S0002-9939-1995-1301497-3)."""
    zs, xs, multipliers = jnp.full((3, 1), 0.1), [], (0.9, 0.5, -0.5)
    for m in multipliers:
        roots = np.roots([1, 2, 1 - m / 8, (1 - m / 8) ** 2])
        c = float(min(roots, key=lambda root: abs(root.imag)).real)
        xs.append([c, 0.0, 1.0])
    values, _ = lyapunov_exponents(
        maps.polynomial, zs, jnp.array(xs), key=jr.key(0), iterations=4800
    )
    assert_allclose(values[:, 0], np.log(np.abs(multipliers)) / 3, atol=1e-3)


class Scaled(eqx.Module):
    """A logistic map whose argument float32 rounds to a multiple of 8, which is 0."""

    rate: jax.Array

    def __call__(self, z, x):
        return self.rate * ((z + x) - x) * (1 - z)


def in_single_precision(z, x):
    return jnp.tanh(z.astype(jnp.float32)).astype(z.dtype) + 0 * x


def test_precisions_that_part_are_reported():
    z = jnp.full((2, 1), 0.3)
    options = {"key": jr.key(0), "count": 1}
    offset = jnp.full((2, 1), 1e8)
    check = precision_check(Scaled(jnp.array(4.0)), z, offset, iterations=2048, **options)
    assert_allclose(check.values, np.log(4), atol=1e-5)
    assert_allclose(check.double, np.log(2), atol=0.05)
    assert np.all(check.parted)
    assert check.warning is not None
    assert "float32 and float64 part for 2 of 2 examples, by up to 0.6" in check.warning
    check = precision_check(lambda z, x: 0.5 * z, z, z, **options)
    assert_allclose([check.values, check.double], np.log(0.5), atol=1e-6)
    assert not np.any(check.parted)
    assert check.warning is None


def test_precisions_that_cannot_be_compared_are_not():
    z = jnp.full((2, 1), 0.3)
    check = precision_check(in_single_precision, z, z, key=jr.key(0), count=1)
    assert np.all(np.isnan(check.double))
    assert not np.any(check.parted)
    assert (
        check.warning
        == "not compared with float64, because f computes in float32 whatever the state"
    )
    weight = jnp.full(1, 0.5)  # closed over, so it stays in float32
    check = precision_check(lambda z, x: jax.lax.mul(weight, z), z, z, key=jr.key(0), count=1)
    assert check.warning is not None
    assert check.warning.startswith("not compared with float64, because f does not take a state of")
    with jax.enable_x64(True):
        wide = jnp.full((2, 1), 0.3)
        check = precision_check(lambda z, x: 0.5 * z, wide, wide, key=jr.key(0), count=1)
        assert check.warning == "not compared with float64, because the state is float64"


@pytest.mark.parametrize(
    ("iterations", "message"), [(15, "iterations = 15 must be at least 16"), (64, "inputs")]
)
def test_too_few_iterations_or_inputs_are_refused(iterations, message):
    xs = jnp.zeros((2, 63, 1))
    with pytest.raises(ValueError, match=message):
        stability.lyapunov_exponents(
            lambda z, x: z + x,
            xs[:, 0],
            xs,
            key=jr.key(0),
            iterations=iterations,
            driven=True,
        )
