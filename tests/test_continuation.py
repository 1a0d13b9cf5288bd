"""`eqloop.stability.continuation`: branches and bifurcations whose places are known."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose

from eqloop import stability
from eqloop.stability import continuation


def monomials(z):
    a, b = z
    return jnp.stack(
        [jnp.ones_like(a), a, b, a * a, a * b, b * b, a**3, a * a * b, a * b * b, b**3]
    )


def planar(z, x):
    """A map of the plane by cubic polynomials; all share one program."""
    return x @ monomials(z)


NAMES = ("1", "a", "b", "aa", "ab", "bb", "aaa", "aab", "abb", "bbb")


def coefficients(a=None, b=None):
    """The coefficients of a map `(a, b) -> (..., ...)`, by the names of the monomials."""
    x = np.zeros((2, len(NAMES)))
    for row, terms in zip(x, (a or {}, b or {}), strict=True):
        for name, value in terms.items():
            row[NAMES.index(name)] = value
    return x


def follow(fixed, moving, z, start, stop, **options):
    """Continue the planar map with the coefficients `fixed + s moving`."""

    class Sum(eqx.Module):
        fixed: jax.Array
        moving: jax.Array

        def __call__(self, f, s):
            return lambda z, x: f(z, self.fixed + s * self.moving)

    parameter = Sum(jnp.asarray(fixed), jnp.asarray(moving))
    z = jnp.asarray(z, parameter.fixed.dtype)
    return continuation(planar, z, None, parameter=parameter, start=start, stop=stop, **options)


ANGLE = 2.0
C, S = math.cos(ANGLE), math.sin(ANGLE)
ROOT = math.sqrt(1 / 3)

# Name: fixed and moving coefficients, state, start, stop, and the bifurcations in order.
KNOWN = {
    # a <- s a (1 - a): the fixed point 1 - 1/s has the eigenvalue 2 - s.
    "period doubling of the logistic map": (
        coefficients(),
        coefficients({"a": 1, "aa": -1}),
        (0.3, 0.0),
        1.5,
        3.7,
        [("flip", 3.0, -1.0)],
    ),
    "transcritical point of the logistic map": (
        coefficients(),
        coefficients({"a": 1, "aa": -1}),
        (0.6, 0.0),
        2.5,
        0.5,
        [("branch", 1.0, 1.0)],
    ),
    # a <- s a - a^3: at a = 0.
    "pitchfork": (
        coefficients({"aaa": -1}),
        coefficients({"a": 1}),
        (0.01, 0.0),
        -2.0,
        2.0,
        [("flip", -1.0, -1.0), ("branch", 1.0, 1.0)],
    ),
    # a <- 2 a - a^3 + s: the fixed points are s = a^3 - a, which turns at a = -+ 1 / sqrt(3). The
    # slope 2 - 3 a^2 is -1 at a = -+ 1, where s = 0.
    "two folds and two flips": (
        coefficients({"a": 2, "aaa": -1}),
        coefficients({"1": 1}),
        (-1.3, 0.0),
        -0.5,
        0.5,
        [
            ("flip", 0.0, -1.0),
            ("fold", ROOT - ROOT**3, 1.0),
            ("fold", ROOT**3 - ROOT, 1.0),
            ("flip", 0.0, -1.0),
        ],
    ),
    # a <- a + a^2 + s: no fixed point for s > 0.
    "fold back through the start": (
        coefficients({"a": 1, "aa": 1}),
        coefficients({"1": 1}),
        (-0.7, 0.0),
        -0.5,
        0.5,
        [("fold", 0.0, 1.0)],
    ),
    # a <- s a (1 - b), b <- a: v^2 - v + s - 1 = 0.
    "delayed logistic map": (
        coefficients(b={"a": 1}),
        coefficients({"a": 1, "ab": -1}),
        (0.3, 0.3),
        1.5,
        2.3,
        [("neimark-sacker", 2.0, complex(0.5, math.sqrt(0.75)))],
    ),
    # A rotation by 2 rad, scaled by s.
    "rotation": (
        coefficients(),
        coefficients({"a": C, "b": -S}, {"a": S, "b": C}),
        (0.0, 0.0),
        0.5,
        1.6,
        [("neimark-sacker", 1.0, complex(C, S))],
    ),
    "branch and flip in one step": (
        coefficients({"a": -0.01}),
        coefficients({"a": 1}, {"b": -1}),
        (0.0, 0.0),
        0.5,
        1.5,
        [("flip", 1.0, -1.0), ("branch", 1.01, 1.0)],
    ),
    "one eigenvalue enters and another leaves in one step": (
        coefficients({"a": -2}, {"b": 0.02}),
        coefficients({"a": 1}, {"b": 1}),
        (0.0, 0.0),
        0.5,
        1.52,
        [("branch", 0.98, 1.0), ("flip", 1.0, -1.0)],
    ),
    "stable throughout": (
        coefficients({"a": 0.5}, {"b": -0.3}),
        coefficients({"1": 1}, {"a": 1}),
        (0.0, 0.0),
        0.0,
        2.0,
        [],
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_bifurcations_are_where_they_are_known(name, x64):
    fixed, moving, z, start, stop, expected = KNOWN[name]
    branch = follow(fixed, moving, z, start, stop)
    assert [event.kind for event in branch.bifurcations] == [kind for kind, _, _ in expected]
    for event, (_, parameter, eigenvalue) in zip(branch.bifurcations, expected, strict=True):
        assert event.parameter == pytest.approx(parameter, abs=1e-6)
        assert event.eigenvalue == pytest.approx(eigenvalue, abs=1e-6)
        x = jnp.asarray(fixed + event.parameter * moving)
        assert_allclose(planar(jnp.asarray(event.state), x), event.state, atol=1e-9)
        # It lies between the two points of the branch.
        before, after = branch.states[event.after], branch.states[event.after + 1]
        assert np.linalg.norm(event.state - before) <= np.linalg.norm(after - before) + 1e-12
    for z, s, residual, norm in zip(
        branch.states, branch.parameters, branch.residuals, branch.norms, strict=True
    ):
        assert_allclose(planar(jnp.asarray(z), jnp.asarray(fixed + s * moving)), z, atol=1e-11)
        assert residual <= 1e-11
        assert norm == pytest.approx(np.linalg.norm(z))
    back = name == "fold back through the start"
    assert branch.ended == ("left the range" if back else "reached stop")
    assert branch.parameters[-1] == pytest.approx(start if back else stop, abs=1e-12)


def test_the_stability_of_every_point_is_that_of_its_jacobian(x64):
    fixed, moving, z, start, stop, _ = KNOWN["two folds and two flips"]
    branch = follow(fixed, moving, z, start, stop)
    slopes = 2 - 3 * branch.states[:, 0] ** 2
    assert_allclose(np.real(branch.eigenvalues[:, 0]), slopes, atol=1e-8)
    assert_allclose(branch.unstable, np.abs(slopes) > 1)
    assert set(branch.unstable) == {0.0, 1.0}
    # There and back: the branch passes s = 0 three times.
    assert np.sum(np.diff(np.sign(branch.parameters)) != 0) == 3


def test_single_precision_is_right_to_single_precision():
    for name in ("two folds and two flips", "delayed logistic map"):
        fixed, moving, z, start, stop, expected = KNOWN[name]
        fixed, moving = (np.asarray(c, np.float32) for c in (fixed, moving))
        branch = follow(fixed, moving, z, start, stop)
        assert [event.kind for event in branch.bifurcations] == [kind for kind, _, _ in expected]
        places = [event.parameter for event in branch.bifurcations]
        assert_allclose(places, [place for _, place, _ in expected], atol=1e-4)
        assert branch.states.dtype == np.float32


def test_a_branch_ends_with_a_reason(x64):
    # a <- a + 1 + s has no fixed point for s > -1.
    none = follow(coefficients({"1": 1, "a": 1}), coefficients({"1": 1}), (0.0, 0.0), 0.0, 1.0)
    assert none.ended.startswith("no convergence: Newton's method ends at a residual of")
    assert none.states is None
    assert len(none.parameters) == len(none.unstable) == len(none.bifurcations) == 0
    assert none.eigenvalues.shape == (0, 6)
    fixed, moving, z, start, stop, _ = KNOWN["two folds and two flips"]
    short = follow(fixed, moving, z, start, stop, max_points=7)
    assert (short.ended, len(short.parameters)) == ("not at stop after 7 points", 7)


class Coupled(eqx.Module):
    """`tanh(own z + mean(z)) + x`, of any tree of arrays: uniform states stay uniform, and the
    eigenvalues are `own + 1` and `own` times the slope of tanh."""

    own: jax.Array

    def __call__(self, z, x):
        flat, unravel = ravel_pytree(z)
        return unravel(jnp.tanh(self.own * flat + flat.mean()) + x)


def test_ten_thousand_numbers_turn_at_a_fold_of_closed_form(x64):
    """A branch of 10^4 numbers, in two leaves, through both folds of `tanh(a z) + s` with a = 2."""
    z = {"a": jnp.full((9, 1000), -1.9), "b": jnp.full(1000, -1.9)}
    branch = continuation(
        Coupled(jnp.ones(())),
        z,
        jnp.ones(()),
        parameter=stability.InputScale(),
        start=-1.0,
        stop=1.0,
        step=0.1,
    )
    u = math.sqrt(1 - 1 / 2)
    place = u - math.atanh(u) / 2
    assert [event.kind for event in branch.bifurcations] == ["fold", "fold"]
    assert_allclose([e.parameter for e in branch.bifurcations], [place, -place], atol=1e-6)
    assert_allclose([e.eigenvalue for e in branch.bifurcations], [1, 1], atol=1e-4)
    assert branch.ended == "reached stop"
    assert branch.states["a"].shape[1:] == (9, 1000)
    assert_allclose(branch.states["a"][-1], branch.states["b"][-1, 0])
    assert branch.states["b"][-1, 0] > 1.9
    assert set(branch.unstable) == {0.0, 1.0}


def jumping(z, x):
    """The second eigenvalue jumps from 0.5 to -1.5 where a becomes positive."""
    a, b = z
    return jnp.stack([0.25 * a + x, jnp.where(a > 0, -1.5 * b, 0.5 * b)])


def test_an_eigenvalue_that_jumps_over_the_circle_is_no_flip(x64):
    parameter, z = stability.InputScale(), jnp.array([-4 / 3, 0])
    branch = continuation(jumping, z, jnp.ones(()), parameter=parameter, start=-1.0)
    (event,) = branch.bifurcations
    assert event.kind == "unresolved"
    assert event.parameter == pytest.approx(0, abs=0.1)
    assert math.isnan(event.eigenvalue.real)
    assert_allclose(branch.states[-1], [4 / 3, 0], atol=1e-9)


def test_what_is_not_measurable_is_not_reported_as_a_number(x64):
    # Every (a, 2 s) is a fixed point.
    line = coefficients({"a": 1}, {"b": 0.5}), coefficients(b={"1": 1})
    branch = follow(*line, (3.0, 0.0), 0.0, 1.0)
    assert np.all(np.isnan(branch.unstable))
    assert branch.bifurcations == []
    expected = np.stack([3 + 0 * branch.parameters, 2 * branch.parameters], axis=1)
    assert_allclose(branch.states, expected, atol=1e-9)
    # The only eigenvalue that is measured is outside the circle, so there may be more.
    two = coefficients({"a": 2}, {"b": 3}), coefficients({"1": 1})
    branch = follow(*two, (0.0, 0.0), 0.0, 1.0, count=1)
    assert np.all(np.isnan(branch.unstable))
    assert_allclose(branch.eigenvalues[:, 0], 3, atol=1e-6)


def test_maps_that_compute_different_things_cannot_be_interpolated():
    parameter = stability.BetweenMaps(lambda z, x: z * z)
    with pytest.raises(ValueError, match="other must compute what f does"):
        continuation(lambda z, x: 0.5 * z, jnp.ones(2), None, parameter=parameter)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 1.0}, "start = 1.0 and stop = 1.0 must be finite and differ"),
        ({"stop": math.inf}, "stop = inf"),
        ({"step": 0.0}, "step = 0.0 must be above 0"),
        ({"rtol": 1.0}, "rtol = 1.0 must be between"),
        ({"max_points": 0}, "max_points = 0 must be at least 1"),
        ({"count": 0}, "count = 0 must be at least 1"),
        ({"parameter": lambda f, s: lambda z, x: jnp.zeros(3)}, "must return a state like z"),
        ({"z": jnp.zeros(2, int)}, "of floating-point numbers"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    options = {"z": jnp.zeros(2), "parameter": stability.Damping(), **options}
    with pytest.raises(ValueError, match=message):
        continuation(lambda z, x: z, x=None, **options)
