"""Gradients: their finite sums, solvers with gradients, several devices, and a thousand
random maps."""

import dataclasses
import functools
import itertools
import json
from typing import Any

import distributed_child
import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optimistix as optx
import pytest
from children import Child, start_server
from jax.flatten_util import ravel_pytree
from problems import (
    GRADIENTS,
    PROBLEMS,
    SOLVERS,
    Linear,
    dense_fixed_point,
    dense_gradient,
    spectrum,
    turn,
    weighted,
)

import eqloop
from eqloop import RESULTS, Backprop, BackwardReport, Implicit, Neumann, Phantom, Truncated, Unroll
from eqloop._iteration import unroll

CONVERGING = eqloop.FixedPoint(rtol=1e-12)


def series(terms: int, damping: float = 0.0):
    """`J -> (1 - damping) sum_{k < terms} (damping I + (1 - damping) J)^k`."""

    def matrix(j):
        unit = np.eye(len(j))
        damped = damping * unit + (1 - damping) * j
        total, power = np.zeros_like(j), unit
        for _ in range(terms):
            total, power = total + power, power @ damped
        return (1 - damping) * total

    return matrix


def gradient_of(f, z0, x, solver, gradient, max_steps=2000):
    """The gradient of `weighted(z*)` with respect to `(f, x)`, the outcome, the backward report."""
    dtype = ravel_pytree(z0)[0].dtype
    probe = jax.tree.map(lambda leaf: leaf.astype(dtype), BackwardReport.zeros())

    @eqx.filter_jit
    def run(f, x, probe):
        def loss(f, x, probe):
            out = eqloop.equilibrium(
                f, z0, x, solver=solver, gradient=gradient, max_steps=max_steps, probe=probe
            )
            return weighted(out.state), out

        return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(f, x, probe)

    (df, dx, report), out = run(f, x, probe)
    return (df, dx), out, report


def close(actual, expected, tolerance):
    actual, expected = ravel_pytree(actual)[0], ravel_pytree(expected)[0]
    np.testing.assert_allclose(actual, expected, atol=tolerance * float(jnp.max(jnp.abs(expected))))


@pytest.mark.parametrize(
    ("gradient", "matrix"),
    [
        (Phantom(1, damping=0.5), series(1, 0.5)),
        (Phantom(6, damping=0.3), series(6, 0.3)),
        (Phantom(3, damping=0.0), series(3)),
        (Neumann(1), series(1)),
        (Neumann(6), series(6)),
        (Neumann(6, damping=0.3), series(6, 0.3)),
        (Truncated(6), series(6)),
    ],
    ids=lambda gradient: type(gradient).__name__,
)
def test_phantom_neumann_and_truncated_are_their_finite_sums(gradient, matrix, x64):
    """At the fixed point the Jacobian does not change, so that the sums are exact. The map is not
    linear, and its state is a dictionary."""
    f, z0, x = next(problem for problem in PROBLEMS if problem.name == "pytree").make(jnp.float64)
    slopes, out, report = gradient_of(f, z0, x, eqloop.FixedPoint(1e-14), gradient)
    close(slopes, dense_gradient(f, out.state, x, matrix), 1e-11)
    if isinstance(gradient, Neumann):
        _, jacobian = _jacobian(f, out.state, x)
        d = gradient.damping
        jacobian = d * np.eye(len(jacobian)) + (1 - d) * jacobian
        g = ravel_pytree(jax.grad(weighted)(out.state))[0]
        left = np.linalg.matrix_power(jacobian.T, gradient.steps) @ g
        expected = np.linalg.norm(left) / np.linalg.norm(g)
        np.testing.assert_allclose(report.residual, expected, rtol=1e-6)


def _jacobian(f, z, x):
    flat, unravel = ravel_pytree(z)
    raveled = lambda v: ravel_pytree(f(unravel(v), x))[0]  # noqa: E731
    return flat, np.asarray(jax.jacfwd(raveled)(flat))


FULLY = [
    # Programs as users get them run each solver once and each gradient once.
    ("anderson", "backprop"),
    ("reversible", "backprop"),
    ("unroll", "implicit"),
    ("fixed-point", "last-steps"),
    ("anderson", "one-step"),
    ("broyden", "phantom"),
    ("newton", "neumann"),
    ("chord", "implicit-anderson"),
    ("steady-state", "truncated"),
]
PAIRED = [
    # Backprop differentiates the solver itself. (Damping is a setting of a solver in this table.)
    *((solver, "backprop") for solver in SOLVERS if solver != "damped"),
    *(("unroll", gradient) for gradient in GRADIENTS),
    # The other gradients use only the state that a solver returns, so that each solver and each
    # gradient once is enough; test_solvers has every solver with `Implicit`.
    *FULLY,
]


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "gradient"), dict.fromkeys(PAIRED))
def test_solvers_with_gradients(solver, gradient, x64, request):
    """Exact gradients agree with the dense gradient, the others with their finite sums; none
    depends on how the solver found the fixed point. Each reports how many products it took."""
    if (solver, gradient) in FULLY:
        request.getfixturevalue("compiled_fully")
    f, z0, x = spectrum(0.6, -0.4, 0.2)(jnp.float64)
    loop_solver = Unroll(80) if solver == "unroll" else SOLVERS[solver](1e-12)
    if gradient == "backprop" and solver in ("newton", "chord"):
        with pytest.raises(ValueError, match="use Implicit"):
            gradient_of(f, z0, x, loop_solver, Backprop())
        return
    slopes, out, report = gradient_of(f, z0, x, loop_solver, GRADIENTS[gradient](1e-10))
    sums = {
        "truncated": series(4),
        "last-steps": series(4),
        "one-step": series(1),
        "phantom": series(4, 0.3),
        "neumann": series(4),
    }
    if gradient in sums:
        close(slopes, dense_gradient(f, out.state, x, sums[gradient]), 1e-8)
    else:
        close(slopes, dense_gradient(f, out.state, x), 1e-6)
    assert out.result == RESULTS.successful
    assert report.fallback == 0
    products = {"neumann": (4, 4), "implicit": (3, 6), "implicit-anderson": (3, 6)}
    least, most = products.get(gradient, (0, 0))
    assert least <= report.products <= most


@pytest.mark.parametrize(
    ("solver", "gradient"),
    [
        ("anderson", "backprop"),
        ("broyden", "backprop"),
        ("steady-state", "backprop"),
        ("anderson", "implicit-anderson"),
    ],
)
def test_gradients_of_the_parameters_against_finite_differences(solver, gradient, x64):
    f, z0, x = next(problem for problem in PROBLEMS if problem.name == "pytree").make(jnp.float64)
    loop_solver, backward = SOLVERS[solver](1e-12), GRADIENTS[gradient](1e-10)
    (df, dx), _, _ = gradient_of(f, z0, x, loop_solver, backward)

    def value(f, x):
        return weighted(dense_fixed_point(f, z0, x)[0])

    step, direction = 1e-5, jnp.array([1.0, -2.0, 0.5])
    move = lambda sign: (  # noqa: E731
        type(f)(f.rate + sign * step * 0.7),
        x + sign * step * direction,
    )
    numeric = (value(*move(1)) - value(*move(-1))) / (2 * step)
    np.testing.assert_allclose(0.7 * df.rate + direction @ dx, numeric, rtol=1e-6)


def _backpropagated(f, unknowns, solver):
    """`(x, rest) -> ((sum of z*, (whether it converged, steps)), its derivative by x)`."""

    def total(x, rest):
        options = {"solver": solver, "gradient": Backprop(), "max_steps": 40}
        out = eqloop.equilibrium(f, jnp.zeros(unknowns), (x, rest), **options)
        return jnp.sum(out.state), (out.result == RESULTS.successful, out.steps)

    return jax.jit(jax.vmap(jax.value_and_grad(total, has_aux=True), (None, 0)))


def test_the_gradient_of_a_step_whose_gram_matrix_is_singular(x64):
    """Five differences of two unknowns are dependent: with a ridge of zero, their Gram matrix has
    no Cholesky factor, and the step is not accepted."""
    solve = _backpropagated(
        lambda z, given: jnp.cos(given[1] * z + given[0]), 2, SOLVERS["anderson"](1e-12)
    )
    x, step, w = 0.6, 1e-5, jnp.array([[0.5, 1.0], [0.7, 0.9], [0.2, -0.8], [1.0, 1.1]])
    (_, (has_converged, _)), gradient = solve(x, w)
    above, below = (solve(x + sign * step, w)[0][0] for sign in (1, -1))
    assert jnp.all(has_converged)
    np.testing.assert_allclose(gradient, (above - below) / (2 * step), rtol=1e-6)


@pytest.mark.parametrize(
    ("solver", "radii"),
    [
        (eqloop.Anderson(1e-10), [0.6, 0.85]),
        (eqloop.Broyden(1e-10), [0.75, 2.15]),
    ],
)
def test_values_that_are_not_finite_have_no_part_in_the_gradient(solver, radii, x64):
    """A linear map without a value at one of the proposals, whose norm is about one of `radii`."""
    c, s = 1.3 * np.cos(1.2), 1.3 * np.sin(1.2)
    a, v = np.array([[c, -s, 0], [s, c, 0.2], [0.1, 0, 0.8]]), np.array([1, -0.5, 0.3])

    def f(z, given):
        x, radius = given
        is_missing = jnp.abs(jnp.sqrt(jnp.sum(z * z)) - radius) < 0.025
        return jnp.where(is_missing, jnp.nan, a @ z + x * v)

    solve = _backpropagated(f, 3, solver)
    (_, (has_converged, steps)), gradient = solve(0.6, jnp.array([*radii, 99]))
    assert jnp.all(has_converged)
    assert jnp.all(steps[:-1] > steps[-1])  # a proposal was rejected
    np.testing.assert_allclose(gradient, np.sum(np.linalg.solve(np.eye(3) - a, v)), rtol=1e-9)


def test_checkpoints_change_memory_and_not_the_gradient(x64):
    f, z0, x = next(problem for problem in PROBLEMS if problem.name == "tanh").make(jnp.float64)
    plain, _, _ = gradient_of(f, z0, x, Unroll(21), Backprop())
    for checkpoints in (1, 4, 5, 21, 100):
        checkpointed, out, _ = gradient_of(f, z0, x, Unroll(21), Backprop(checkpoints=checkpoints))
        close(checkpointed, plain, 1e-12)
        assert out.steps == 21
    traced, _, _ = gradient_of(
        f, z0, x, Unroll(jnp.asarray(21), max_steps=30), Backprop(checkpoints=4)
    )
    close(traced, plain, 1e-12)


def temporary_bytes(gradient, steps, state=1000, solver=None):
    def f(z, w):
        for _ in range(5):
            z = jnp.sin(w * z)
        return z

    def loss(w):
        options = {"solver": solver or Unroll(steps), "max_steps": steps}
        return jnp.sum(
            eqloop.equilibrium(f, jnp.ones(state), w, gradient=gradient, **options).state
        )

    memory = jax.jit(jax.grad(loss)).lower(jnp.ones(())).compile().memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes


@pytest.mark.usefixtures("compiled_fully", "compiled_anew")
def test_memory_of_checkpoints_grows_like_a_root_and_that_of_implicit_not_at_all():
    state = 4 * 1000
    assert temporary_bytes(Backprop(), 256) > 256 * state
    assert temporary_bytes(Backprop(checkpoints=16), 256) < (16 + 16 + 40) * state
    for solver in (None, eqloop.FixedPoint(rtol=0.0)):
        few, many = (temporary_bytes(Implicit(), steps, solver=solver) for steps in (16, 256))
        assert few == many


@pytest.mark.usefixtures("compiled_fully", "compiled_anew")
def test_rematerialised_unrolling_keeps_one_state_per_iteration():
    """The forward pass must not store the intermediates of f, which are 50 arrays as large as the
    state."""

    def f(z, w):
        for _ in range(50):
            z = jnp.sin(w * z)
        return z

    def loss(w):
        return jnp.sum(unroll(f, jnp.ones(1000), w, 8)[1])

    memory = jax.jit(jax.grad(loss)).lower(jnp.ones(())).compile().memory_analysis()
    state = 4 * 1000
    assert memory is not None
    # Without rematerialisation this is 8 * 100 or more.
    assert memory.temp_size_in_bytes < (8 + 100) * state


def test_a_solver_of_optimistix_has_the_dense_implicit_gradient(x64):
    f, z0, x = next(problem for problem in PROBLEMS if problem.name == "tanh").make(jnp.float64)
    solver = optx.Newton(rtol=1e-12, atol=1e-12)
    slopes, out, _ = gradient_of(f, z0, x, solver, Implicit(1e-10))
    close(slopes, dense_gradient(f, out.state, x), 1e-6)


# --- traced counts


@pytest.mark.parametrize(
    ("solver", "gradient", "expected"),
    [
        (lambda n: Unroll(n, max_steps=10), lambda n: Backprop(), 10),
        (lambda n: Unroll(n, max_steps=10), lambda n: Implicit(), 10),
        (lambda n: Unroll(30), lambda n: Truncated(n, max_steps=4), 30),
        (lambda n: Unroll(5), lambda n: Truncated(n, max_steps=8), 5),
        (lambda n: Unroll(n - 18), lambda n: Truncated(4), 2),
        (lambda n: Unroll(n - 18), lambda n: Phantom(4, damping=0.0), 2),
    ],
)
def test_a_traced_count_above_its_bound_is_the_bound(solver, gradient, expected):
    """On `z + 1` the state is the number of iterations."""

    @jax.jit
    def run(n):
        out = eqloop.equilibrium(
            lambda z, x: z + 1,
            jnp.zeros(()),
            None,
            solver=solver(n),
            gradient=gradient(n),
        )
        return out.state, out.steps

    assert run(jnp.asarray(20)) == (expected, expected)


def test_a_traced_count_computes_what_a_static_one_does_and_skips_the_rest():
    evaluations = []

    class Counting(eqx.Module):
        w: jax.Array

        def __call__(self, z, x):
            jax.debug.callback(lambda: evaluations.append(1))
            return jnp.tanh(self.w * z + x)

    f = Counting(jnp.array([0.5, 0.8]))
    x = jnp.array([0.1, 0.2])
    traces = []

    @eqx.filter_jit
    def gradient(f, n, k):
        traces.append(1)

        def loss(f):
            solver, truncated = Unroll(n + k, max_steps=30), Truncated(k, max_steps=30)
            z0 = jnp.zeros(2)
            return jnp.sum(eqloop.equilibrium(f, z0, x, solver=solver, gradient=truncated).state)

        return jax.grad(loss)(f).w

    def static(n, k):
        def loss(f):
            z0 = jnp.zeros(2)
            out = eqloop.equilibrium(f, z0, x, solver=Unroll(n + k), gradient=Truncated(k))
            return jnp.sum(out.state)

        return jax.jit(jax.grad(loss))(f).w

    for n, k in ((0, 1), (2, 3), (29, 1), (7, 20)):
        evaluations.clear()
        traced = gradient(f, jnp.asarray(n), jnp.asarray(k))
        jax.effects_barrier()
        # The forward pass takes n + k evaluations, the backward pass k rematerialised ones.
        assert len(evaluations) == n + 2 * k
        np.testing.assert_allclose(traced, static(n, k), rtol=1e-6)
    assert len(traces) == 1


# --- what a map closes over, and where a loop starts


def test_gradient_of_z0_passes_through_backprop_and_no_fixed_point(x64):
    f, z0, x = PROBLEMS[0].make(jnp.float64)

    def loss(z0, solver, gradient):
        out = eqloop.equilibrium(f, z0, x, solver=solver, gradient=gradient)
        return jnp.sum(out.state)

    z0 = jnp.ones_like(z0)
    through = jax.grad(loss)(z0, Unroll(3), Backprop())
    power = jnp.linalg.matrix_power(f.a, 3)
    np.testing.assert_allclose(through, power.T @ z0, rtol=1e-12)
    np.testing.assert_array_equal(jax.grad(loss)(z0, CONVERGING, Implicit()), 0)


class Holds(eqx.Module):
    f: Any = eqx.field(static=True)

    def __call__(self, z, x):
        return self.f(z, x)


class Method:
    def __init__(self, f):
        self.f = f

    def call(self, z, x):
        return self.f(z, x)


WRAPPERS = {
    "plain": lambda f: f,
    "jit": jax.jit,
    "filter_jit": eqx.filter_jit,
    "filter_checkpoint": eqx.filter_checkpoint,
    "module": Holds,
    "partial": lambda f: functools.partial(lambda f, z, x: f(z, x), f),
    "method": lambda f: Method(f).call,
}


@pytest.mark.parametrize(
    "gradient",
    [Implicit(1e-10, solver=eqloop.Anderson()), Truncated(40)],
    ids=["implicit", "trunc"],
)
def test_arrays_that_a_wrapped_function_closes_over_get_gradients(gradient, x64):
    """The derivative of `z = w tanh z + 1` is `tanh z / (1 - w (1 - tanh^2 z))`."""

    def loss(w, wrap):
        f = wrap(lambda z, x: w * jnp.tanh(z) + x)
        out = eqloop.equilibrium(f, jnp.zeros(1), jnp.ones(1), solver=CONVERGING, gradient=gradient)
        return out.state[0], out.state[0]

    for name, wrap in WRAPPERS.items():
        slope, z = jax.grad(lambda w, wrap=wrap: loss(w, wrap), has_aux=True)(jnp.asarray(0.4))
        t = np.tanh(z)
        np.testing.assert_allclose(slope, t / (1 - 0.4 * (1 - t**2)), rtol=1e-8, err_msg=name)


@pytest.mark.parametrize("gradient", [Implicit(1e-6, solver=eqloop.Anderson()), eqloop.OneStep()])
def test_gradients_at_plain_floats_outside_of_jit_are_those_within(gradient):
    def loss(numbers):
        def f(z, x):
            return x["rate"] * jnp.cos(z) + numbers["closed over"]

        out = eqloop.equilibrium(
            f, jnp.zeros(2), numbers, solver=eqloop.FixedPoint(1e-6), gradient=gradient
        )
        return jnp.sum(out.state)

    numbers = {"rate": 0.7, "closed over": 0.2}
    eager, compiled = jax.grad(loss)(numbers), jax.jit(jax.grad(loss))(numbers)
    for name in numbers:
        np.testing.assert_allclose(eager[name], compiled[name], rtol=1e-6)
        assert eager[name] != 0


# --- the report of the backward solve


def backward_report(f, x, solver, gradient):
    def loss(x, probe):
        return jnp.sum(
            eqloop.equilibrium(
                f, jnp.zeros(2), x, solver=solver, gradient=gradient, probe=probe
            ).state
        )

    return jax.jit(jax.grad(loss, argnums=(0, 1)))(x, BackwardReport.zeros())


def test_the_probe_reports_a_backward_solve_that_converged():
    slope, report = backward_report(
        lambda z, x: 0.5 * z + x, jnp.ones(2), eqloop.FixedPoint(rtol=1e-5), Implicit(rtol=1e-4)
    )
    np.testing.assert_allclose(slope, 2, rtol=1e-3)
    assert report.fallback == 0
    assert 0 <= report.residual <= 1e-4


@pytest.mark.parametrize(
    ("fallback", "total"),
    # (1 - d) sum_k (d + (1 - d) J)^k for J = 1
    [(Neumann(8, damping=0.5), 0.5 * 8), (Neumann(1), 1)],
)
def test_a_singular_backward_solve_falls_back_to_the_series_and_says_so(fallback, total):
    # z <- z + x has no isolated fixed point: I - J is zero.
    slope, report = backward_report(
        lambda z, x: z + x, jnp.zeros(2), Unroll(3), Implicit(fallback=fallback)
    )
    reasons = (report.fallback, report.untrusted, report.missed, report.oversized, report.series)
    assert reasons == (1, 0, 1, 0, 1)
    np.testing.assert_allclose(slope, total, rtol=1e-6)
    assert report.residual == 1  # |(I - J) u - g| / |g|


@pytest.mark.parametrize("solver", [None, eqloop.FixedPoint()], ids=["gmres", "fixed-point"])
def test_a_backward_solve_that_misses_its_tolerance_keeps_its_best_iterate_and_says_so(solver):
    """The iterate is kept if its residual is lower than that of one step: half of a singular system
    can be solved, `u_1 = 2`."""
    slope, report = backward_report(
        lambda z, x: z * jnp.array([1.0, 0.5]) + x,
        jnp.zeros(2),
        Unroll(3),
        Implicit(solver=solver),
    )
    assert (report.fallback, report.series) == (1, 0)
    np.testing.assert_allclose(slope[1], 2, rtol=1e-4)
    np.testing.assert_allclose(report.residual, np.sqrt(1 / 2), rtol=1e-4)


def test_a_backward_solve_that_gets_nowhere_falls_back_to_the_series_and_says_so():
    """Plain iteration on `z <- 4 z + x` more than doubles the residual; a second loss has a
    cotangent of NaN."""
    for gradient, expected in (
        (Implicit(solver=eqloop.FixedPoint(), fallback=Neumann(1)), 1),
        (Implicit(solver=eqloop.FixedPoint(), largest=3.0), 3),  # the series gives 508
    ):
        slope, report = backward_report(lambda z, x: 4 * z + x, jnp.ones(2), Unroll(3), gradient)
        np.testing.assert_allclose(slope, expected, rtol=1e-6)
        assert (report.fallback, report.series) == (1, 1)
        np.testing.assert_allclose(report.residual, abs(expected - 4 * expected - 1), rtol=1e-6)
    _, report = backward_report(
        lambda z, x: jnp.sqrt(z - 1) + 1 + 0 * x, jnp.ones(2), Unroll(3), Implicit()
    )
    assert report.fallback == 1


@jax.jit
def slopes_of(rates, gradient):
    """Return slopes and reports of `z <- rate z + x` after ten iterations, for a batch of rates."""

    def slope(rate):
        def loss(x, probe):
            solver = Unroll(10)
            f = lambda z, x: rate * z + x  # noqa: E731
            return eqloop.equilibrium(
                f, jnp.zeros(()), x, solver=solver, gradient=gradient, probe=probe
            ).state

        return jax.grad(loss, argnums=(0, 1))(jnp.ones(()), BackwardReport.zeros())

    return jax.vmap(slope)(rates)


def test_each_example_is_solved_only_where_loop_and_solution_can_be_trusted(x64):
    """After ten iterations the residual is `rate^9 (1 - rate) / (1 - rate^10)`, and u is
    `1 / (1 - rate)`."""
    rates = jnp.array([0.3, 0.5, 0.9, 0.99])
    solved = 1 / (1 - rates)
    damped = (1 + rates) / 2
    series = (1 - damped**8) / (1 - rates)
    for gradient, expected, untrusted, oversized in (
        (Implicit(), solved, [0, 0, 0, 0], [0, 0, 0, 0]),
        (Implicit(trust=1e-2), [*solved[:2], *series[2:]], [0, 0, 1, 1], [0, 0, 0, 0]),
        (Implicit(largest=5.0), [*solved[:2], *series[2:]], [0, 0, 0, 0], [0, 0, 1, 1]),
        (Implicit(largest=1.5), [solved[0], 1.5, 1.5, 1.5], [0, 0, 0, 0], [0, 1, 1, 1]),
        (Implicit(trust=0.0), series, [1, 1, 1, 1], [0, 0, 0, 0]),
    ):
        slopes, report = slopes_of(rates, gradient)
        np.testing.assert_allclose(slopes, jnp.asarray(expected), rtol=1e-6)
        np.testing.assert_array_equal(report.untrusted, untrusted)
        np.testing.assert_array_equal(report.oversized, oversized)
        replaced = jnp.asarray(untrusted) + jnp.asarray(oversized)
        np.testing.assert_array_equal(report.fallback, replaced)
        np.testing.assert_array_equal(report.series, replaced)
        np.testing.assert_allclose(report.gain, slopes, rtol=1e-6)
        np.testing.assert_allclose(report.residual, abs((1 - rates) * slopes - 1), atol=1e-6)
    # No example is solved.
    assert not jnp.any(slopes_of(rates, Implicit(trust=0.0))[1].products > 8 + 2)


def test_the_report_has_the_angle_between_solution_and_cotangent(x64):
    """For `z <- diag(0.5, -1) z + x` and g = (1, 1), u is (2, 0.5)."""
    f = lambda z, x: z * jnp.array([0.5, -1.0]) + x  # noqa: E731
    probe = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), BackwardReport.zeros())

    def loss(x, probe):
        solver, gradient = Unroll(1), Implicit(1e-10)
        out = eqloop.equilibrium(f, x, x, solver=solver, gradient=gradient, probe=probe)
        return jnp.sum(out.state)

    report = jax.grad(loss, argnums=1)(jnp.ones(2), probe)
    np.testing.assert_allclose(report.gain, np.hypot(2, 0.5) / np.sqrt(2), rtol=1e-9)
    np.testing.assert_allclose(report.cosine, 2.5 / np.hypot(2, 0.5) / np.sqrt(2), rtol=1e-9)


# --- never an exception, whatever the map

ACTIVATIONS = (
    jnp.tanh,
    lambda v: v,
    jax.nn.relu,
    jnp.sin,
    lambda v: v * v,
    jnp.log,
    lambda v: 1 / v,
    jnp.exp,
)
PAIRS = [
    ("fixed-point", "implicit"),
    ("damped", "one-step"),
    ("anderson", "implicit-anderson"),
    ("anderson", "backprop"),
    ("broyden", "phantom"),
    ("newton", "implicit"),
    ("chord", "neumann"),
    ("steady-state", "truncated"),
]


@eqx.filter_jit
def _random_step(solver, gradient, kind, w, u, b, x):
    """One training step on `z <- act(W z + U x + b)`; the traced `kind` selects act."""

    def f(z, x):
        return jax.lax.switch(kind, ACTIVATIONS, w @ z + u @ x + b)

    def loss(x, probe):
        out = eqloop.equilibrium(
            f, jnp.zeros(3), x, solver=solver, gradient=gradient, max_steps=12, probe=probe
        )
        return jnp.sum(out.state), out

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(x, BackwardReport.zeros())


@hypothesis.settings(max_examples=1000)
@hypothesis.given(
    pair=st.sampled_from(PAIRS),
    kind=st.integers(0, len(ACTIVATIONS) - 1),
    seed=st.integers(0, 2**31 - 1),
    scale=st.sampled_from([0.0, 1e-20, 0.3, 1.0, 3.0, 1e3, 1e30]),
)
def test_no_map_raises_and_every_one_has_a_result(pair, kind, seed, scale):
    rng = np.random.default_rng(seed)
    w, u = (jnp.asarray(scale * rng.normal(size=(3, 3)), jnp.float32) for _ in range(2))
    b, x = (jnp.asarray(rng.normal(size=3), jnp.float32) for _ in range(2))
    solver, gradient = SOLVERS[pair[0]](1e-4), GRADIENTS[pair[1]](1e-3)
    (_, out), (_, report) = _random_step(solver, gradient, jnp.asarray(kind, jnp.int32), w, u, b, x)
    if out.result == RESULTS.successful:
        assert out.residual < jnp.inf
        assert jnp.all(jnp.isfinite(out.state))
    else:
        assert RESULTS[out.result]
    assert report.fallback in (0, 1)


# --- several devices


@pytest.mark.slow
def test_four_devices_compute_what_one_does(compiled, tmp_path):
    """Each solver and each gradient occurs once, since each pair is compiled for, and a solver
    treats a distributed batch the same whatever the gradient."""
    pairs = [
        (solver or "fixed-point", gradient or "implicit")
        for solver, gradient in itertools.zip_longest(SOLVERS, GRADIENTS)
    ]
    start_server(compiled)
    four_devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    child = Child(
        tmp_path / "output", distributed_child.compare_solves, pairs, variables=four_devices
    )
    code, output = child.wait(600)
    assert code == 0, output
    steps = json.loads(output)
    assert len(steps) == len(pairs)
    for pair, (single, four) in steps.items():
        for a, b in zip(single, four, strict=True):
            np.testing.assert_allclose(b, a, rtol=2e-4, atol=1e-5, err_msg=pair)


def test_linear_solves_work_in_pmap_and_shard_map():
    w, xs = 0.2 * jnp.eye(4), jnp.ones((1, 4))
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.PartitionSpec("batch")

    def slope(gradient, x):
        def loss(x):
            out = eqloop.equilibrium(Linear(w), x, x, solver=eqloop.FixedPoint(), gradient=gradient)
            return jnp.sum(out.state)

        return jax.grad(loss)(x)

    for solver in (None, eqloop.Anderson()):
        example_slope = functools.partial(slope, Implicit(solver=solver))
        sharded = jax.shard_map(
            jax.vmap(example_slope), mesh=mesh, in_specs=spread, out_specs=spread, check_vma=False
        )
        for run in (jax.pmap(example_slope), jax.jit(sharded)):
            np.testing.assert_allclose(run(xs), 1.25, rtol=1e-3)


def test_a_cotangent_of_zero_is_solved_at_once_and_gives_zero():
    f, z0, x = Linear(0.5 * jnp.eye(3)), jnp.zeros(3), jnp.ones(3)

    def loss(x, probe):
        out = eqloop.equilibrium(f, z0, x, solver=eqloop.FixedPoint(), probe=probe)
        return 0.0 * jnp.sum(out.state)

    slope, report = jax.jit(jax.grad(loss, argnums=(0, 1)))(x, BackwardReport.zeros())
    np.testing.assert_array_equal(slope, 0)
    assert jnp.isfinite(report.residual)


@pytest.mark.parametrize(
    ("radius", "gradient"),
    [
        (0.9, Implicit(solver=eqloop.FixedPoint())),
        (1.5, Implicit()),
        (1.5, Implicit(solver=eqloop.Anderson(memory=10), cycles=3)),
    ],
    ids=["fixed-point", "gmres", "anderson"],
)
def test_a_stricter_tolerance_makes_no_gradient_worse_and_the_report_is_of_what_was_used(
    radius, gradient, x64
):
    """Tolerances go down to values that cannot be met, and the systems to some that can hardly be
    solved."""
    a = jr.normal(jr.key(1), (30, 30), jnp.float64)
    a = a * radius / jnp.max(jnp.abs(jnp.linalg.eigvals(a)))
    g = jr.normal(jr.key(2), (30,), jnp.float64)

    @eqx.filter_jit
    def backward(gradient):
        def loss(x, probe):
            out = eqloop.equilibrium(
                Linear(a), jnp.zeros(30), x, solver=Unroll(1), gradient=gradient, probe=probe
            )
            return g @ out.state

        return jax.grad(loss, (0, 1))(jnp.zeros(30), BackwardReport.zeros())

    before = jnp.linalg.norm(a.T @ g) / jnp.linalg.norm(g)  # the residual of u = g
    for rtol in (0.5, 1e-1, 1e-3, 1e-6, 1e-9, 1e-12, 0.0):
        u, report = backward(dataclasses.replace(gradient, rtol=rtol))
        residual = jnp.linalg.norm(u - a.T @ u - g) / jnp.linalg.norm(g)
        # The residual of a fixed-point solver is relative to u, and agrees up to the residual
        # itself.
        np.testing.assert_allclose(
            report.residual, residual, rtol=max(float(residual), 1e-6), atol=1e-14
        )
        assert float(report.fallback) == float(residual > rtol)
        assert residual <= before * (1 + 1e-6)
        before = residual


def test_a_longer_restart_solves_what_stagnates_at_a_shorter_one(x64):
    """The README advises a longer restart; more cycles do not help."""
    angles = jnp.array([2.0, 2.2, 2.4, 2.6, 2.8])
    f, z0, x = spectrum(*(turn(1.0, angle) for angle in angles - 2.0 + 0.1))(jnp.float64)
    reports = {
        (restart, cycles): gradient_of(
            f, z0, x, Unroll(1), Implicit(restart=restart, cycles=cycles)
        )[2]
        for restart, cycles in ((2, 3), (2, 300), (10, 3))
    }
    assert [float(report.fallback) for report in reports.values()] == [1, 1, 0]
    assert reports[2, 3].products == reports[2, 300].products
