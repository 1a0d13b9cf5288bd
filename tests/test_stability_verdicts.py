"""Maps about which `eqloop.stability` was once wrong: trained since the last call, without recall,
slow, far from normal."""

import functools
from collections.abc import Callable
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import stability_maps as maps
from numpy.testing import assert_allclose

from eqloop import stability
from eqloop.claims import compare, predict
from eqloop.stability import Jacobian, _eigenvalues, _orbits, leading_eigenvalues
from eqloop.stability._closed import closed
from eqloop.stability._verdict import judge_input_dependence, judge_reachability

# --- The weights of this call


class Trained:
    """A module whose weights are changed in place, as some libraries train."""

    def __init__(self, w):
        self.w = w

    def __call__(self, z, x):
        return self.w * z + x


class Holder(eqx.Module):
    """A holder of weights in which Equinox sees no arrays."""

    f: Callable

    def __call__(self, z, x):
        return self.f(z, x)


def radii(f):
    limits = stability.follow_orbits(f, lambda x: 0 * x, jnp.ones((2, 3)), iterations=64)
    return np.abs(stability.jacobian_eigenvalues(limits, key=jr.key(0), count=1).values[:, 0])


def test_the_weights_of_this_call():
    """The weights are current, however f holds them; a new value compiles nothing."""
    w = jnp.full(3, 0.2)
    held, inner = Trained(w), {"w": w}

    def wrapped(z, x):
        return jax.jit(lambda z: inner["w"] * z)(z) + x  # these are constants inside the program

    same = {
        "closure": lambda z, x: w * z + x,
        "object": held,
        "method": held.__call__,
        "partial": functools.partial(lambda held, z, x: held(z, x), held),
        "inner": wrapped,
        "module": Holder(held),
    }
    for name, f in same.items():
        w = held.w = inner["w"] = jnp.full(3, 0.2)
        assert_allclose(radii(f), 0.2, rtol=1e-6)
        w = held.w = inner["w"] = jnp.full(3, 0.7)
        sizes = programs()
        assert_allclose(radii(f), 0.7, rtol=1e-6)
        # Constants inside a program are part of its code.
        assert programs() == sizes or name == "inner", name
    # A new function with the same code shares the program, too.
    sizes = programs()
    assert_allclose(radii(lambda z, x: w * z + x), 0.7, rtol=1e-6)
    assert programs() == sizes


def programs() -> list[int]:
    return [
        function._cached._cache_size()  # pyright: ignore[reportFunctionMemberAccess]
        for function in (
            _orbits._iterate_chunk,
            _orbits._iterate_to_tolerance,
            _orbits._returns,
            _eigenvalues._grow,
        )
    ]


def test_code_that_differs_in_its_derivative_alone():
    """A custom derivative rule does not change the value of a function."""

    def rounded(slope):
        @jax.custom_jvp
        def f(z):
            return jnp.round(z)

        f.defjvp(lambda z, t: (jnp.round(z[0]), slope * t[0]))
        return lambda z, x: f(z) + x

    z = jnp.ones(3)
    one, two, again = (closed(rounded(slope), z, z) for slope in (0.25, 0.5, 0.25))
    assert jax.jvp(lambda z: two(z, z), (z,), (z,))[1].tolist() == [1.5] * 3
    codes = [function.code for function in (one, two, again)]  # pyright: ignore[reportFunctionMemberAccess]
    assert codes[0] is codes[2] is not codes[1]


# --- Without recall


def test_without_recall(x64):
    """`z* = P (x + 2)` depends on x through the start alone: it is smooth where P is not zero, and
    the prediction that it is locally constant fails."""
    xs = jr.normal(jr.key(1), (16, 2))
    line = jnp.full((2, 2), 0.5)
    cases = {
        "identity": (jnp.eye(2), 0.0, "smooth in the input", False),
        "line": (line + 0.8 * (jnp.eye(2) - line), 0.0, "smooth in the input", False),
        # The input is orthogonal to the line, so that the loop stays on it: the start still matters
        # more.
        "line and input": (line + 0.8 * (jnp.eye(2) - line), 1e-3, "smooth in the input", False),
        "recall": (0.5 * jnp.eye(2), 1.0, "smooth in the input", False),
    }
    for name, (a, strength, verdict, agrees) in cases.items():
        f = maps.Affine(a, strength * (jnp.eye(2) - line))
        statement, depend = input_dependence(f, lambda x: x + 2, xs)
        assert statement.verdict == verdict, name
        compared = compare(
            predict("none", "post", "add"),
            dict.fromkeys(("reachability", "input_dependence", "geometry"), statement),
        )
        assert compared["input_dependence"].agrees is agrees, name
        assert depend.recall == (strength > 0)
        if verdict == "smooth in the input":
            assert_allclose(depend.through_start.values, 1, rtol=1e-6)
        assert ("does not see x" in statement.because) == (strength == 0)
        assert ("does not explain it" in statement.because) == (name == "line and input")
    statement, _ = input_dependence(maps.Affine(jnp.eye(2), jnp.zeros((2, 2))), xs + 2, xs)
    assert statement.verdict == "not measurable"
    assert "z0s as a function" in statement.because


def input_dependence(f, z0s, xs):
    limits = stability.follow_orbits(f, z0s, xs)
    depend = stability.input_dependence(limits, key=jr.key(0))
    reach = SimpleNamespace(shares={"converged": stability.share(limits.converged)})
    return judge_input_dependence(reach, depend), depend  # pyright: ignore[reportArgumentType]


def ring(z, x):
    """A map that moves z to the unit circle along its ray."""
    r = jnp.linalg.norm(z)
    return z * (1 + 0.3 * (1 - r) / r)


def wells(z, x):
    return z + 0.3 * (jnp.sign(z) - z)


@pytest.mark.parametrize(("f", "sensitive"), [(ring, True), (wells, False)])
def test_attractors_without_recall(f, sensitive, x64):
    """`z* = (x + 2) / |x + 2|` has the derivative `(1 - z* z*^T) / |x + 2|`; that of signs is 0."""
    xs = jr.normal(jr.key(1), (16, 2))
    statement, depend = input_dependence(f, lambda x: x + 2, xs)
    assert not depend.recall
    if sensitive:
        assert statement.verdict == "smooth in the input"
        assert_allclose(depend.through_start.values, 1, rtol=5e-2)
    else:
        assert statement.verdict in ("few fixed points", "one fixed point, whatever the input")
        assert depend.kept.median < 1e-9
    claims = predict("none", "post", "add")
    compared = compare(claims, dict.fromkeys(claims, statement))
    assert compared["input_dependence"].agrees is not sensitive


def test_agreement_takes_a_sensitivity_that_is_gone():
    """Jumps of a z* that still moves with x support neither claim."""
    claims = predict("none", "post", "add")
    for sensitivity, agrees in ((1e-9, True), (0.4, None), (float("nan"), None)):
        statement = stability.Statement(
            stability.Verdict.NOT_SMOOTH, "", {"input_dependence.kept": sensitivity}
        )
        comparison = compare(claims, dict.fromkeys(claims, statement))
        assert comparison["input_dependence"].agrees is agrees


# --- Slow loops


def slow(name, rate, near, x64):
    """Follow orbits that begin at a relative distance `near` from `z* = 1`."""
    matrices = {
        "line": rate * np.eye(2),
        "pair": maps.turn(rate, 5e-5),
    }
    zs, xs = maps.stack([matrices[name]] * 4, np.float64 if x64 else np.float32)
    return stability.follow_orbits(maps.by_matrix, zs + 1 - near, xs)


@pytest.mark.parametrize("precise", [True, False])
def test_slow_loops_are_not_at_fixed_points(precise, request):
    """The residual is below the tolerance from the beginning, and the reported remaining distance
    is the true one."""
    if precise:
        request.getfixturevalue("x64")
    for name, rate, near, outcome in (
        ("line", 0.99, 0.1, "converged"),
        ("line", 0.995, 0.05, "converged"),
        ("line", 0.999, 0.1, "unresolved"),
        ("line", 0.9999, 0.1, "unresolved"),
        ("pair", 1.0, 0.1, "unresolved"),
    ):
        limits = slow(name, rate, near, precise)
        assert set(limits.outcomes) == {outcome}, (name, rate)
        left = np.linalg.norm(np.asarray(limits.state) - 1, axis=1) / np.sqrt(2)
        if rate < 0.9999:
            assert_allclose(limits.remaining, left, rtol=0.1)
        assert np.all(limits.remaining > 0.9 * left)
    statement = judge_reachability(stability.reachability(limits, key=jr.key(0)))
    assert statement.verdict == "not measurable"
    assert "4 of 4 have such a residual too" in statement.because


def test_slower_than_any_rate(x64):
    """`z - c (z - 1)^3` approaches 1 like `t^(-1/2)`, by steps below the tolerance."""
    cube = np.array([1.0, -3, 3, -1])  # (1 - z)^3
    coefficients = np.array([[0, 1, 0, 0] + c * cube for c in (1.0, 2.0)])
    limits = stability.follow_orbits(
        maps.polynomial, jnp.array([[0.9], [0.9]]), jnp.asarray(coefficients)
    )
    assert limits.outcomes == ["unresolved"] * 2
    assert_allclose(limits.remaining, 1 - limits.state[:, 0], rtol=0.3)


def lorenz(z, x):
    def g(z):
        return jnp.stack(
            [10 * (z[1] - z[0]), z[0] * (28 - z[2]) - z[1], z[0] * z[1] - 8 / 3 * z[2]]
        )

    k = g(z)
    for part in (2, 2, 1):
        k = g(z + 1e-5 / part * k)
    return z + 1e-5 * k


def test_chaos_in_tiny_steps_is_not_at_rest():
    z0s = 10 * jr.normal(jr.key(3), (16, 3))
    limits = stability.follow_orbits(lorenz, z0s, jnp.zeros((16, 1)))
    assert (limits.residuals[:, -1] <= limits.rtol).sum() > 2
    assert not limits.converged.any()


# --- Far from normal


def test_radii_that_rounding_hides(x64):
    """The matrix is a Jordan block of 20: LAPACK in float64, too, gives 0.66 for the radius of
    0.5."""
    blocks = [
        maps.dense(64, maps.jordan(0.5, 20)),
        np.eye(64, k=1),
        maps.dense(64, maps.jordan(0.9, 3)),
    ]
    blocks += [maps.dense(64, 0.9, skew=1.0)]
    zs, xs = maps.stack(blocks)
    eigenpairs = leading_eigenvalues(Jacobian(maps.by_matrix), zs, xs, key=jr.key(0))
    assert eigenpairs.converged[:, 0].tolist() == [False, False, True, True]
    assert np.all(eigenpairs.errors[:2, 0] > 0.05)
    off = np.abs(np.abs(eigenpairs.values[2:, 0]) - 0.9)
    assert np.all(off <= np.maximum(eigenpairs.errors[2:, 0], 1e-9))
    small = [np.array([[0.5, 100], [0, 0.5]]), np.array([[0.9, 1000], [0, 0.85]])]
    eigenpairs = leading_eigenvalues(Jacobian(maps.by_matrix), *maps.stack(small), key=jr.key(0))
    assert eigenpairs.converged[:, 0].all()
    assert_allclose(np.abs(eigenpairs.values[:, 0]), [0.5, 0.9], rtol=1e-6)
