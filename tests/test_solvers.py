"""Solvers x problems: the fixed point against a dense Newton iteration, the implicit gradient
against the dense one, and what a solver owes beyond its answer."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optimistix as optx
import pytest
from jax.flatten_util import ravel_pytree
from problems import (
    PROBLEMS,
    SOLVERS,
    Linear,
    dense_fixed_point,
    dense_gradient,
    spectrum,
    weighted,
)

import eqloop
from eqloop import RESULTS, BackwardReport, Implicit

CELLS = [(name, problem) for problem in PROBLEMS for name in SOLVERS if problem.reached_by(name)]


def solve(f, z0, x, solver, gradient=None, max_steps=3000):
    """`(f, z0, x) -> Equilibrium`, and the gradient of `weighted` with respect to f and x."""

    def loss(f, x):
        out = eqloop.equilibrium(f, z0, x, solver=solver, gradient=gradient, max_steps=max_steps)
        return weighted(out.state), out

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(f, x)


@pytest.mark.parametrize(
    ("name", "problem"), CELLS, ids=[f"{name}-{problem.name}" for name, problem in CELLS]
)
def test_fixed_point_and_implicit_gradient_are_the_dense_ones(name, problem, x64):
    f, z0, x = problem.make(jnp.float64)
    solver = SOLVERS[name](problem.rtol)
    gradients, out = eqx.filter_jit(solve)(f, z0, x, solver, Implicit(1e-10))
    assert out.result == RESULTS.successful
    assert out.evaluations >= out.steps
    flat, _ = ravel_pytree(out.state)
    expected, _ = dense_fixed_point(f, out.state, x)
    np.testing.assert_allclose(flat, expected, atol=1e-8 * float(jnp.max(jnp.abs(expected))))
    wanted = ravel_pytree(dense_gradient(f, out.state, x))[0]
    found = ravel_pytree(gradients)[0]
    np.testing.assert_allclose(found, wanted, atol=1e-6 * float(jnp.max(jnp.abs(wanted))))


def batch_of(problem, dtype, size=3):
    f, z0, x = problem.make(dtype)
    keys = jr.split(jr.key(9), size)
    return f, z0, jax.vmap(lambda key: x + 0.3 * jr.normal(key, x.shape, dtype))(keys)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_batch_is_its_examples_one_by_one_in_float32(name):
    """Also: without `jit`, and with one example that is done long before the others."""
    problem = next(each for each in PROBLEMS if each.name == "tanh")
    f, z0, xs = batch_of(problem, jnp.float32)
    xs = xs.at[1].set(0.0)  # z = 0 is its fixed point: done in one step
    solver = SOLVERS[name](1e-5)

    def run(x):
        return eqloop.equilibrium(f, z0, x, solver=solver)

    together = eqx.filter_jit(jax.vmap(run))(xs)
    assert together.steps[1] == 2
    assert min(together.steps[0], together.steps[2]) > 3
    assert bool(jnp.all(together.result == RESULTS.successful))
    for i, x in enumerate(xs):
        alone = run(x)
        assert together.steps[i] == alone.steps
        assert together.evaluations[i] == alone.evaluations
        assert alone.result == RESULTS.successful
        np.testing.assert_allclose(together.state[i], alone.state, rtol=1e-5, atol=1e-6)
        assert alone.residual <= 1e-5


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_work_in_optimistix_itself(name, x64):
    f, z0, x = PROBLEMS[0].make(jnp.float64)
    solution = optx.fixed_point(f, SOLVERS[name](1e-10), z0, args=x, max_steps=1000)
    expected, _ = dense_fixed_point(f, z0, x)
    np.testing.assert_allclose(solution.value, expected, rtol=1e-8)
    assert solution.stats["residual"] <= 1e-10
    assert solution.stats["evaluations"] >= solution.stats["num_steps"]


def test_euler_with_unit_steps_is_plain_iteration_step_by_step(x64):
    f, z0, x = next(each for each in PROBLEMS if each.name == "tanh").make(jnp.float64)
    flow = eqloop.SteadyState(
        1e-9, solver=diffrax.Euler(), controller=diffrax.ConstantStepSize(), curve=64
    )
    plain = eqloop.FixedPoint(1e-9, curve=64)
    a, b = (
        eqx.filter_jit(eqloop.equilibrium)(f, z0, x, solver=each, max_steps=200)
        for each in (flow, plain)
    )
    assert a.steps == b.steps == a.evaluations
    assert a.curve is not None
    assert b.curve is not None
    np.testing.assert_allclose(a.curve, b.curve, rtol=1e-9)
    np.testing.assert_allclose(a.state, b.state, rtol=1e-13)


def test_the_curve_holds_the_residuals_of_plain_iteration(x64):
    f, z0, x = PROBLEMS[0].make(jnp.float64)
    out = eqloop.equilibrium(f, z0, x, solver=eqloop.FixedPoint(1e-4, curve=50))
    states = jnp.concatenate([z0[None], eqloop.trajectory(f, z0, x, 50)])
    expected = jnp.linalg.norm(states[1:] - states[:-1], axis=1) / jnp.linalg.norm(
        states[1:], axis=1
    )
    taken = int(out.steps) - 1  # the last one is the gradient's
    assert out.curve is not None
    np.testing.assert_allclose(out.curve[:taken], expected[:taken], rtol=1e-12)
    assert jnp.all(jnp.isnan(out.curve[taken:]))
    assert out.curve[taken - 1] <= 1e-4 < out.curve[taken - 2]


def test_anderson_is_gmres_on_a_linear_problem(x64):
    """In n + 1 evaluations at most, of an n-dimensional system, whatever its eigenvalues."""
    f, z0, x = spectrum(5.0, -4.0, 0.9, 0.5)(jnp.float64)
    solver = eqloop.Anderson(1e-10, memory=4, ridge=0.0)
    out = eqx.filter_jit(eqloop.equilibrium)(f, z0, x, solver=solver)
    assert out.result == RESULTS.successful
    assert out.steps <= 4 + 3


def test_patience_is_plain_iteration_until_it_stalls(x64):
    patient = eqloop.FixedPoint(1e-8, damping=0.5, patience=3)
    f, z0, x = PROBLEMS[0].make(jnp.float64)
    a, b = (
        eqloop.equilibrium(f, z0, x, solver=each) for each in (patient, eqloop.FixedPoint(1e-8))
    )
    np.testing.assert_array_equal(a.state, b.state)
    assert a.steps == b.steps
    # -1.5: plain iteration grows, damping by a half contracts by 0.25.
    growing = Linear(jnp.array([[-1.5]]))
    out = eqloop.equilibrium(growing, jnp.zeros(1), jnp.ones(1), solver=patient)
    np.testing.assert_allclose(out.state, 0.4, rtol=1e-6)


def test_the_largest_cell_decides_where_it_is_asked_to():
    """One of 100 cells converges slowly: the 2-norm of the whole is content before it is."""
    rate = jnp.full((100, 1), 0.1).at[7].set(0.9)

    def f(z, x):
        return rate * z + x

    whole, cell = (
        eqloop.equilibrium(
            f,
            jnp.zeros((100, 2)),
            jnp.ones((100, 2)),
            solver=eqloop.FixedPoint(1e-3, norm=norm),
        )
        for norm in (eqloop.two_norm, eqloop.largest_cell_norm)
    )
    assert cell.steps > whole.steps
    # At the end of the stricter one: the slow cell moves by at most 1e-3 of the largest cell.
    assert jnp.linalg.norm(f(cell.state, 1.0) - cell.state, axis=1)[7] <= 1e-3 * jnp.sqrt(2) * 10


def test_norms_of_trees_against_numpy(x64):
    tree = {"a": jr.normal(jr.key(0), (3, 4, 5)), "b": jr.normal(jr.key(1), (2, 5)), "c": -7.0}
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    np.testing.assert_allclose(eqloop.two_norm(tree), np.linalg.norm(flat), rtol=1e-12)
    cells = [np.linalg.norm(leaf, axis=-1).max() for leaf in (tree["a"], tree["b"])]
    np.testing.assert_allclose(eqloop.largest_cell_norm(tree), max(*cells, 7.0), rtol=1e-12)


def test_the_norm_of_a_float32_state_is_float32_where_64_bits_are_on(x64):
    """Also under strict promotion, and of leaves of two precisions; the widest one wins."""
    three, four = jnp.full((1,), 3, jnp.float32), jnp.full((1,), 4, jnp.float32)
    assert eqloop.two_norm((three, four)).dtype == jnp.float32
    assert eqloop.two_norm((three, four)) == 5
    assert eqloop.two_norm((three, four.astype(jnp.float64))).dtype == jnp.float64
    assert eqloop.two_norm(()) == 0


def test_another_tolerance_bound_or_batch_compiles_no_other_program():
    traces = []

    @eqx.filter_jit
    def run(f, xs, solver, gradient, max_steps):
        traces.append(type(solver).__name__)

        def loss(xs):
            def one(x):
                z0 = jnp.zeros_like(x)
                return eqloop.equilibrium(
                    f, z0, x, solver=solver, gradient=gradient, max_steps=max_steps
                )

            out = jax.vmap(one)(xs)
            return jnp.sum(out.state), out.steps

        return jax.grad(loss, has_aux=True)(xs)[1]

    f = spectrum(0.8, -0.6)(jnp.float32)[0]
    kinds = (eqloop.FixedPoint, eqloop.Anderson, eqloop.NewtonKrylov)
    for kind in kinds:
        steps = [
            run(f, scale * jnp.ones((3, 2)), kind(rtol), eqloop.Implicit(slack), jnp.asarray(bound))
            for scale, rtol, slack, bound in (
                (1.0, 1e-2, 1e-2, 50),
                (2.0, 1e-4, 1e-4, 50),
                (-1.0, 1e-4, 1e-3, 2),
            )
        ]
        assert steps[0][0] <= steps[1][0]
        assert steps[2][0] == 3  # 2 and the one of the gradient
    assert traces == [kind.__name__ for kind in kinds]


def test_a_failed_solve_returns_its_best_iterate(x64):
    """Newton's first steps on this map get close, then it is stopped; plain iteration moves away
    from its start for ever: each must return the best that it saw."""
    f, z0, x = spectrum(3.0, -2.0, 0.5)(jnp.float64)
    out = eqloop.equilibrium(f, z0, x, solver=eqloop.FixedPoint(1e-8, curve=10), max_steps=10)
    assert out.result == RESULTS.not_converged
    assert out.curve is not None
    np.testing.assert_allclose(out.residual, jnp.min(out.curve), rtol=1e-12)


@pytest.mark.parametrize(
    ("kind", "rate"),
    [
        (eqloop.FixedPoint, 0.5),
        (eqloop.FixedPoint, -0.9),
        (eqloop.Anderson, 0.5),
        (eqloop.SteadyState, 0.5),
    ],
)
def test_an_absolute_tolerance_is_met_by_what_is_returned(kind, rate, x64):
    """Towards zero a relative residual does not fall: the lowest one is no measure."""
    solver = kind(rtol=1e-9, atol=1e-3)

    def f(z, x):
        return rate * z + x

    out = eqloop.equilibrium(f, jnp.ones(3), jnp.zeros(3), solver=solver, max_steps=500)
    assert out.result == RESULTS.successful
    # Before the evaluation that is the gradient's.
    assert jnp.linalg.norm(f(out.state, 0) - out.state) <= abs(rate) * 1e-3


def test_a_start_without_a_value_is_no_success():
    for name in SOLVERS:
        out = eqloop.equilibrium(
            lambda z, x: 0.5 * jnp.sqrt(1 - z) + x,
            jnp.full(2, 3.0),
            jnp.zeros(2),
            solver=SOLVERS[name](1e-3),
        )
        assert out.result == RESULTS.nonfinite, name


@pytest.mark.parametrize("gradient", [eqloop.Truncated(8), eqloop.Phantom(8, damping=0.0)])
def test_iterations_after_the_solve_that_lead_away_are_told(gradient, x64):
    """Newton reaches a fixed point that plain iteration, with a slope of -2.8, moves away from."""

    def f(z, x):
        return x - 3 * jnp.sin(z)

    def solve(gradient):
        solver = eqloop.NewtonKrylov(rtol=1e-6, plain=0)
        z0, x = jnp.full(2, 0.2), jnp.array([0.5, 0.8])
        return eqloop.equilibrium(f, z0, x, solver=solver, gradient=gradient)

    assert solve(Implicit()).result == RESULTS.successful
    assert solve(gradient).result == RESULTS.not_converged
    assert solve(gradient).residual > 1e-6


FAILURES = {
    # name: (map, solvers, result)
    "diverges": (lambda z, x: 3 * z + x, ("fixed-point", "damped"), RESULTS.nonfinite),
    "nan": (
        lambda z, x: jnp.log(-jnp.abs(z) - 1) + x,
        tuple(SOLVERS),
        RESULTS.nonfinite,
    ),
    "cycles": (lambda z, x: -z + x, ("fixed-point",), RESULTS.not_converged),
    # no fixed point at all: I - J is singular everywhere
    "singular": (lambda z, x: z + x, ("newton", "chord"), RESULTS.stagnation),
    "shifts": (
        lambda z, x: z + x,
        ("fixed-point", "anderson", "broyden", "steady-state"),
        None,
    ),
}


@pytest.mark.parametrize(
    ("name", "failure"), [(name, failure) for failure, (_, s, _) in FAILURES.items() for name in s]
)
def test_a_failure_is_a_result_code_with_a_finite_gradient(name, failure):
    f, _, result = FAILURES[failure]

    @jax.jit
    def run(x):
        def loss(x, probe):
            out = eqloop.equilibrium(
                f,
                jnp.zeros(2),
                x,
                solver=SOLVERS[name](1e-6),
                gradient=Implicit(1e-4),
                max_steps=100,
                probe=probe,
            )
            # A training loss looks at finite states only.
            return jnp.sum(jnp.where(jnp.isfinite(out.state), out.state, 0)), out

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(x, BackwardReport.zeros())

    (slope, report), out = run(jnp.array([1.0, 2.0]))
    if result is not None:
        assert out.result == result, RESULTS[out.result]
    assert out.result != RESULTS.successful
    assert RESULTS[out.result]
    if failure != "nan":
        assert jnp.all(jnp.isfinite(slope))
    assert jnp.isfinite(report.fallback)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: eqloop.Anderson(memory=0), "memory = 0"),
        (lambda: eqloop.Anderson(damping=1.0), "damping = 1.0"),
        (lambda: eqloop.Broyden(memory=0), "memory = 0"),
        (lambda: eqloop.NewtonKrylov(restart=0), "restart = 0"),
        (lambda: eqloop.Chord(cycles=0), "cycles = 0"),
        (lambda: eqloop.FixedPoint(patience=-1), "patience = -1"),
        (lambda: eqloop.FixedPoint(rtol=-1), "FixedPoint: rtol = -1.0 must be at least 0"),
        (lambda: eqloop.Anderson(atol=float("nan")), "Anderson: atol = nan"),
        (lambda: eqloop.Unroll(2.5), "steps = 2.5 must be a whole number"),  # pyright: ignore
        (
            lambda: eqloop.equilibrium(
                lambda z, x: z, jnp.zeros(1, jnp.bfloat16), None, solver=eqloop.Anderson()
            ),
            "z0 is bfloat16",
        ),
    ],
)
def test_arguments_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
