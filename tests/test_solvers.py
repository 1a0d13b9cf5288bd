"""Solvers times problems: the fixed point against a dense Newton iteration, the implicit gradient
against the dense one, and the other promises of a solver."""

import collections
import dataclasses
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import optimistix as optx
import pytest
from jax.flatten_util import ravel_pytree
from problems import (
    GRADIENTS,
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
from eqloop._adjoint import AbstractGradient

CELLS = [(name, problem) for problem in PROBLEMS for name in SOLVERS if problem.reached_by(name)]


@eqx.filter_jit
def solve(f, z0, x, solver, gradient=None, max_steps=3000):
    """Return the `Equilibrium` of `(f, z0, x)`, and the gradient of `weighted` with respect to f
    and x."""

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
    gradients, out = solve(f, z0, x, solver, Implicit(1e-10))
    assert out.result == RESULTS.successful
    assert out.evaluations >= out.steps
    flat, _ = ravel_pytree(out.state)
    expected, _ = dense_fixed_point(f, out.state, x)
    np.testing.assert_allclose(flat, expected, atol=1e-8 * float(jnp.max(jnp.abs(expected))))
    dense = ravel_pytree(dense_gradient(f, out.state, x))[0]
    actual = ravel_pytree(gradients)[0]
    np.testing.assert_allclose(actual, dense, atol=1e-6 * float(jnp.max(jnp.abs(dense))))


def batch_of(problem, dtype, size=3):
    f, z0, x = problem.make(dtype)
    keys = jr.split(jr.key(9), size)
    return f, z0, jax.vmap(lambda key: x + 0.3 * jr.normal(key, x.shape, dtype))(keys)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_batch_is_its_examples_one_by_one_in_float32(name):
    """This also holds without `jit`, and where one example converges long before the others."""
    problem = next(problem for problem in PROBLEMS if problem.name == "tanh")
    f, z0, xs = batch_of(problem, jnp.float32)
    xs = xs.at[1].set(0.0)  # its fixed point is z = 0, so that it converges in one step
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
def test_solvers_work_in_optimistix_itself_and_on_trees(name, x64):
    f, z0, x = next(problem for problem in PROBLEMS if problem.name == "pytree").make(jnp.float64)
    solution = optx.fixed_point(f, SOLVERS[name](1e-10), z0, args=x, max_steps=1000)
    expected, _ = dense_fixed_point(f, z0, x)
    np.testing.assert_allclose(ravel_pytree(solution.value)[0], expected, rtol=1e-8)
    assert solution.stats["residual"] <= 1e-10
    assert solution.stats["evaluations"] >= solution.stats["num_steps"]


def test_euler_with_unit_steps_is_plain_iteration_step_by_step(x64):
    f, z0, x = next(problem for problem in PROBLEMS if problem.name == "tanh").make(jnp.float64)
    flow = eqloop.SteadyState(
        1e-9, solver=diffrax.Euler(), controller=diffrax.ConstantStepSize(), curve=64
    )
    plain = eqloop.FixedPoint(1e-9, curve=64)
    a, b = (
        eqx.filter_jit(eqloop.equilibrium)(f, z0, x, solver=solver, max_steps=200)
        for solver in (flow, plain)
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
    solver_steps = int(out.steps) - 1  # the gradient makes the last step
    assert out.curve is not None
    np.testing.assert_allclose(out.curve[:solver_steps], expected[:solver_steps], rtol=1e-12)
    assert jnp.all(jnp.isnan(out.curve[solver_steps:]))
    assert out.curve[solver_steps - 1] <= 1e-4 < out.curve[solver_steps - 2]


def test_anderson_is_gmres_on_a_linear_problem(x64):
    """Anderson solves an n-dimensional linear system in at most n + 1 evaluations, whatever its
    eigenvalues."""
    f, z0, x = spectrum(5.0, -4.0, 0.9, 0.5)(jnp.float64)
    solver = eqloop.Anderson(1e-10, memory=4, ridge=0.0)
    out = eqx.filter_jit(eqloop.equilibrium)(f, z0, x, solver=solver)
    assert out.result == RESULTS.successful
    assert out.steps <= 4 + 3


def test_patience_is_plain_iteration_until_it_stalls(x64):
    patient = eqloop.FixedPoint(1e-8, damping=0.5, patience=3)
    f, z0, x = PROBLEMS[0].make(jnp.float64)
    a, b = (
        eqloop.equilibrium(f, z0, x, solver=solver) for solver in (patient, eqloop.FixedPoint(1e-8))
    )
    np.testing.assert_array_equal(a.state, b.state)
    assert a.steps == b.steps
    # At -1.5 plain iteration diverges; damping by a half contracts by 0.25.
    growing = Linear(jnp.array([[-1.5]]))
    out = eqloop.equilibrium(growing, jnp.zeros(1), jnp.ones(1), solver=patient)
    np.testing.assert_allclose(out.state, 0.4, rtol=1e-6)


def test_the_largest_cell_decides_where_it_is_asked_to():
    """One of 100 cells converges slowly, and the 2-norm of the whole state reaches the tolerance
    before it does."""
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
    # At the end of the stricter solve, the slow cell moves by at most 1e-3 of the largest cell.
    assert jnp.linalg.norm(f(cell.state, 1.0) - cell.state, axis=1)[7] <= 1e-3 * jnp.sqrt(2) * 10


def test_norms_of_trees_against_numpy(x64):
    tree = {"a": jr.normal(jr.key(0), (3, 4, 5)), "b": jr.normal(jr.key(1), (2, 5)), "c": -7.0}
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    np.testing.assert_allclose(eqloop.two_norm(tree), np.linalg.norm(flat), rtol=1e-12)
    cells = [np.linalg.norm(leaf, axis=-1).max() for leaf in (tree["a"], tree["b"])]
    np.testing.assert_allclose(eqloop.largest_cell_norm(tree), max(*cells, 7.0), rtol=1e-12)


def test_the_norm_of_a_float32_state_is_float32_where_64_bits_are_on(x64):
    """This also holds under strict promotion; with leaves of two precisions, the wider one is
    used."""
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
            def solve_example(x):
                z0 = jnp.zeros_like(x)
                return eqloop.equilibrium(
                    f, z0, x, solver=solver, gradient=gradient, max_steps=max_steps
                )

            out = jax.vmap(solve_example)(xs)
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
        assert steps[2][0] == 3  # two steps of the solver and one of the gradient
    assert traces == [kind.__name__ for kind in kinds]


def test_a_failed_solve_returns_its_best_iterate(x64):
    """Newton's first steps on this map come close before it is stopped; plain iteration moves away
    from its start for ever. Each must return the best iterate that it evaluated."""
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
    """As the state goes to zero, a relative residual does not fall, so that the lowest one does not
    identify the best state."""
    solver = kind(rtol=1e-9, atol=1e-3)

    def f(z, x):
        return rate * z + x

    out = eqloop.equilibrium(f, jnp.ones(3), jnp.zeros(3), solver=solver, max_steps=500)
    assert out.result == RESULTS.successful
    assert jnp.linalg.norm(f(out.state, 0) - out.state) <= 1e-3 + 1e-8


@pytest.mark.parametrize("gradient", [eqloop.Truncated(8), eqloop.Phantom(8, damping=0.0)])
def test_iterations_after_the_solve_that_lead_away_are_told(gradient, x64):
    """Newton reaches a fixed point from which plain iteration, with a slope of -2.8, moves away."""

    def f(z, x):
        return x - 3 * jnp.sin(z)

    def solve(gradient):
        solver = eqloop.NewtonKrylov(rtol=1e-6, plain=0)
        z0, x = jnp.full(2, 0.2), jnp.array([0.5, 0.8])
        return eqloop.equilibrium(f, z0, x, solver=solver, gradient=gradient)

    assert solve(Implicit()).result == RESULTS.successful
    assert solve(gradient).result == RESULTS.not_converged
    assert solve(gradient).residual > 1e-6


STIFF = {"contracts": 0.8, "rho 3": 3.0, "rho 300": 300.0}
PAIRS = [
    ("contracts", "fixed-point", "implicit"),
    ("rho 3", "fixed-point", "neumann"),  # this solve fails
    ("rho 3", "anderson", "backprop"),
    ("rho 3", "anderson", "phantom"),
    ("rho 3", "broyden", "truncated"),
    ("rho 300", "anderson", "one-step"),  # this solve fails
    ("rho 300", "newton", "implicit"),
]


@pytest.mark.parametrize(("name", "solver", "gradient"), PAIRS)
def test_residual_and_result_are_of_the_state_that_is_returned(name, solver, gradient, x64):
    rng = np.random.default_rng(0)
    a, centre = rng.normal(size=(8, 8)), rng.normal(size=8)
    rho = STIFF[name]
    a *= rho / np.abs(np.linalg.eigvals(a)).max()
    start = centre + 1e-2 * rng.normal(size=8) / rho

    def f(z, x):
        return x + jnp.sin(a @ (z - x))

    out = eqloop.equilibrium(
        f,
        jnp.asarray(start),
        jnp.asarray(centre),
        solver=SOLVERS[solver](1e-3),
        gradient=GRADIENTS[gradient](1e-3),
        max_steps=60,
    )
    value = f(out.state, jnp.asarray(centre))
    residual = jnp.linalg.norm(value - out.state) / jnp.linalg.norm(value)
    np.testing.assert_allclose(out.residual, residual, rtol=1e-6)
    assert (out.result == RESULTS.successful) == bool(residual <= 1e-3)


class Loops(eqx.Module):
    """A model that holds solvers and gradients as fields, and is trained."""

    w: jax.Array
    solvers: dict
    gradients: dict

    def __call__(self, x):
        def solve(solver, gradient):
            f = lambda z, x: jnp.tanh(self.w @ z + x)  # noqa: E731
            out = eqloop.equilibrium(
                f, jnp.zeros(2), x, solver=solver, gradient=gradient, max_steps=8
            )
            return jnp.sum(out.state)

        plain = self.solvers["damped"]
        return sum(
            [solve(plain, gradient) for gradient in self.gradients.values()]
            + [solve(solver, self.gradients["one-step"]) for solver in self.solvers.values()]
        )


def test_solvers_and_gradients_as_fields_are_neither_trained_nor_decayed():
    solvers = {name: make(1e-3) for name, make in SOLVERS.items()}
    solvers |= {"unroll": eqloop.Unroll(3), "flow": eqloop.SteadyState()}
    gradients = {name: make(1e-3) for name, make in GRADIENTS.items()}
    model = Loops(0.2 * jnp.eye(2), solvers, gradients)
    assert len(jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))) == 1
    optimiser = optax.adamw(1e-2, weight_decay=0.1)
    state = optimiser.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state, x):
        gradient = eqx.filter_grad(lambda model: model(x))(model)
        weights = eqx.filter(model, eqx.is_inexact_array)
        with jax.numpy_dtype_promotion("standard"):  # Optax needs standard promotion
            updates, state = optimiser.update(gradient, state, weights)
        return eqx.apply_updates(model, updates), state

    trained = model
    for _ in range(3):
        trained, state = step(trained, state, jnp.ones(2))
    assert not jnp.array_equal(trained.w, model.w)
    assert eqx.tree_equal(trained.solvers, solvers)
    assert eqx.tree_equal(trained.gradients, gradients)
    assert trained.solvers["anderson"].rtol == 1e-3
    assert repr(trained.solvers["broyden"]) == "Broyden(rtol=0.001, atol=0.0)"


def test_a_setting_is_its_number_to_the_bit_and_has_no_gradient():
    solver = eqloop.FixedPoint(1 / 3, atol=1e-300, damping=float(np.float32(0.1)))
    for rebuilt in (solver, dataclasses.replace(solver), eqx.filter_jit(lambda s: s)(solver)):
        assert (rebuilt.rtol, rebuilt.atol, rebuilt.damping) == (
            1 / 3,
            1e-300,
            float(np.float32(0.1)),
        )
        assert rebuilt == solver
        assert hash(rebuilt.rtol) == hash(1 / 3)
    assert solver != eqloop.FixedPoint(1 / 3)
    with jax.enable_x64(True):
        assert jax.jit(lambda s: s.rtol)(solver) == 1 / 3
    assert jax.jit(lambda s: s.rtol)(solver) == np.float32(1 / 3)
    traced = jax.vmap(lambda rtol: eqloop.FixedPoint(rtol).rtol)(jnp.array([0.1, 0.2]))
    np.testing.assert_array_equal(traced, np.array([0.1, 0.2], np.float32))
    many = eqloop.FixedPoint(*jnp.array([[0.1, 0.2], [0, 0], [0, 0]]))  # pyright: ignore
    np.testing.assert_array_equal(
        jax.vmap(lambda s: s.rtol)(many), np.array([0.1, 0.2], np.float32)
    )
    assert jax.grad(lambda d: 2 * eqloop.FixedPoint(damping=d).damping)(0.5) == 0
    with pytest.raises(TypeError, match="the bits of a traced_float have become float"):
        _ = jax.tree.map(lambda leaf: 0.5 * leaf, solver).rtol


@pytest.mark.parametrize("kind", [eqloop.FixedPoint, eqloop.Anderson, eqloop.Broyden])
def test_units_do_not_matter(kind):
    """The squares of such states underflow or overflow in float32."""
    a = jnp.array([[0.5, 0.3], [-0.2, 0.4]])
    scales = jnp.array([1.0, 1e-30, 1e-20, 1e20, 1e30])
    out = jax.vmap(
        lambda scale: eqloop.equilibrium(
            lambda z, x: a @ z + x, jnp.zeros(2), scale * jnp.ones(2), solver=kind()
        )
    )(scales)
    assert jnp.all(out.result == RESULTS.successful)
    np.testing.assert_array_equal(out.steps, out.steps[0])
    expected = np.linalg.solve(np.eye(2) - a, np.ones(2))
    np.testing.assert_allclose(out.state / scales[:, None], [expected] * 5, rtol=5e-3)
    np.testing.assert_allclose(out.residual, [out.residual[0]] * 5, atol=1e-6)


def test_norms_at_the_ends_of_float32():
    for pair in ((3e-20, 4e-20), (3e20, 4e20), (3e38, 1e38), (1.2e-38, 2e-38), (0.0, 0.0)):
        exact = np.linalg.norm(np.array(pair, np.float32).astype(np.float64))
        for norm in (eqloop.two_norm, eqloop.largest_cell_norm):
            np.testing.assert_allclose(norm(jnp.array(pair)), exact, rtol=1e-6)
    assert eqloop.two_norm((jnp.full(2, 1e-30), jnp.full(2, 1e30))) > 1e30
    assert jnp.isinf(eqloop.two_norm(jnp.array([jnp.inf, 1.0])))
    assert jnp.isnan(eqloop.two_norm(jnp.array([jnp.nan, 1.0])))


def test_the_flow_reaches_with_its_defaults_what_it_should(x64):
    """The maps are a contraction of 64 unknowns, stiff maps, and a spiral that hardly turns
    inwards."""
    rng = np.random.default_rng(0)
    contraction = rng.normal(size=(64, 64))
    contraction *= 0.85 / np.abs(np.linalg.eigvals(contraction)).max()
    spiral = np.kron(np.eye(32), [[0.95, -1.0], [1.0, 0.95]])
    matrices = np.stack([contraction, -5 * np.eye(64), -50 * np.eye(64), spiral])

    @jax.vmap
    def solve(a):
        return eqloop.equilibrium(
            lambda z, x: a @ z + x, jnp.zeros(64), jnp.ones(64), solver=eqloop.SteadyState()
        )

    out = solve(jnp.asarray(matrices))
    assert jnp.all(out.result == RESULTS.successful), out.steps
    assert jnp.all(out.steps[:3] < 40)
    exact = np.linalg.solve(np.eye(64) - matrices, np.ones((4, 64, 1)))[..., 0]
    assert np.all(np.linalg.norm(out.state - exact, axis=1) < 0.05 * np.linalg.norm(exact, axis=1))


def test_an_implicit_solver_of_diffrax_takes_the_tolerances_of_the_controller():
    flow = eqloop.SteadyState(
        solver=diffrax.Kvaerno3(), controller=diffrax.PIDController(1e-4, 1e-6)
    )
    f: Any = lambda z, x: -5.0 * z + x  # noqa: E731
    out = eqloop.equilibrium(f, jnp.zeros(2), jnp.ones(2), solver=flow, max_steps=100)
    assert out.result == RESULTS.successful
    np.testing.assert_allclose(out.state, 1 / 6, rtol=1e-3)


@pytest.mark.parametrize("gradient", [eqloop.Backprop(), eqloop.Truncated(2), Implicit()])
def test_a_traced_count_below_one_makes_no_iteration(gradient):
    @jax.jit
    def run(steps):
        unroll = eqloop.Unroll(steps, max_steps=4)
        return eqloop.equilibrium(f, jnp.ones(2), 1.0, solver=unroll, gradient=gradient)

    f = lambda z, x: 0.5 * z + x  # noqa: E731
    for steps, state in ((0, 1.0), (-5, 1.0), (1, 1.5), (2, 1.75)):
        out = run(steps)
        np.testing.assert_array_equal(out.state, state)
        assert out.steps == max(steps, 0)
        assert (out.residual < jnp.inf) == (steps > 0)
        assert out.result == RESULTS.not_converged


def test_whole_numbers_of_numpy_are_static():
    assert type(eqloop.Unroll(np.int64(5)).count) is int
    for kind in (eqloop.Truncated, eqloop.Neumann, eqloop.Phantom):
        assert type(kind(np.arange(4)[3]).steps) is int
        with pytest.raises(ValueError, match="steps = 0"):
            kind(np.int32(0))
    assert of_scalar(jnp.add, eqloop.Unroll(np.int64(2))).steps == 2
    traced = eqloop.Neumann(jnp.asarray(0))
    assert traced.solve(lambda u: 0.5 * u, jnp.ones(2), jnp.zeros(()))[1].products == 1


def test_nothing_makes_a_nan_where_jax_looks_for_them():
    with jax.debug_nans(True):
        for solver in (eqloop.Anderson(), eqloop.SteadyState()):
            assert of_scalar(lambda z, x: 0.5 * z + x, solver).result == RESULTS.successful


def of_scalar(f, solver=None):
    solver = eqloop.Anderson() if solver is None else solver
    return eqloop.equilibrium(f, jnp.zeros(()), jnp.ones(()), solver=solver)


def test_newton_is_quadratic_where_gmres_restarts_too(x64):
    rng = np.random.default_rng(0)
    a, centre = rng.normal(size=(60, 60)), rng.normal(size=60)
    a *= 0.9 / np.abs(np.linalg.eigvals(a)).max()

    def f(z, x):
        return x + jnp.sin(a @ (z - x)) + 0.1 * (z - x) ** 2

    solver = eqloop.NewtonKrylov(1e-12, plain=0, curve=8)
    start = jnp.asarray(centre + 1e-2 * rng.normal(size=60))
    out = eqloop.equilibrium(f, start, jnp.asarray(centre), solver=solver)
    curve = np.asarray(out.curve)[: int(out.steps) - 1]
    assert len(curve) == 4
    # The iteration goes on until the residual reaches the tolerance.
    assert np.all(curve[1:-1] <= 10 * curve[:-2] ** 2), curve


def test_the_evaluations_of_newton_are_those_that_are_made():
    calls = []

    def f(z, x):
        jax.debug.callback(lambda: calls.append(1))
        return x - 3 * jnp.sin(z)

    solver = eqloop.NewtonKrylov(1e-5, plain=1, cycles=1, forcing=1e-6)
    out = eqloop.equilibrium(
        f, jnp.full(2, 0.2), jnp.array([0.5, 0.8]), solver=solver, gradient=eqloop.OneStep()
    )
    jax.effects_barrier()
    # Newton steps are all steps but the plain one, the last one and that of the gradient. Each
    # takes
    # a cycle of 2 products and one product for the residual.
    newton = int(out.steps) - 3
    assert newton > 1
    assert out.evaluations == len(calls) + 3 * newton


FAILURES = {
    # name: (map, start, solvers, result)
    "diverges": (lambda z, x: 30 * z + x, 0.0, ("fixed-point", "damped"), RESULTS.nonfinite),
    "nan": (lambda z, x: jnp.log(-jnp.abs(z) - 1) + x, 0.0, tuple(SOLVERS), RESULTS.nonfinite),
    "starts without a value": (
        lambda z, x: 0.5 * jnp.sqrt(1 - z) + x,
        3.0,
        tuple(SOLVERS),
        RESULTS.nonfinite,
    ),
    "cycles": (lambda z, x: -z + x, 0.0, ("fixed-point",), RESULTS.not_converged),
    # there is no fixed point: I - J is singular everywhere
    "singular": (lambda z, x: z + x, 0.0, ("newton", "chord"), RESULTS.stagnation),
    "shifts": (
        lambda z, x: z + x,
        0.0,
        ("fixed-point", "anderson", "broyden", "steady-state"),
        None,
    ),
}


@eqx.filter_jit
def _fail(kind, z0, x, solver):
    """The number of the map is traced, so that each solver needs one program."""

    def f(z, x):
        return jax.lax.switch(kind, [branch for branch, *_ in FAILURES.values()], z, x)

    def loss(x, probe):
        out = eqloop.equilibrium(
            f, z0, x, solver=solver, gradient=Implicit(1e-4), max_steps=100, probe=probe
        )
        # A training loss only includes finite states.
        return jnp.sum(jnp.where(jnp.isfinite(out.state), out.state, 0)), out

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(x, BackwardReport.zeros())


@pytest.mark.parametrize(
    ("name", "failure"),
    [(name, failure) for failure, (_, _, s, _) in FAILURES.items() for name in s],
)
def test_a_failure_is_a_result_code_with_a_finite_gradient(name, failure):
    _, start, _, result = FAILURES[failure]
    kind = jnp.asarray(list(FAILURES).index(failure), jnp.int32)
    x = jnp.array([1.0, 2.0])
    (slope, report), out = _fail(kind, jnp.full(2, start), x, SOLVERS[name](1e-6))
    if result is not None:
        assert out.result == result, RESULTS[out.result]
    assert out.result != RESULTS.successful
    assert RESULTS[out.result]
    if failure not in ("nan", "starts without a value"):
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
        (lambda: Implicit(rtol=-1), "Implicit: rtol = -1.0 must be at least 0"),
        (
            lambda: Implicit(solver=optx.FixedPointIteration(1e-3, 1e-3)),  # pyright: ignore
            "FixedPointIteration is not a solver of eqloop that converges",
        ),
        (lambda: of_scalar(lambda z, x: (z, 1.0)), r"f returns \('float32\[\]', 'float 1.0'\)"),
        (
            lambda: eqloop.equilibrium(
                lambda z, x: collections.OrderedDict(z),  # pyright: ignore
                {"a": jnp.ones(1)},  # pyright: ignore
                None,
                solver=eqloop.Anderson(),
            ),
            "f returns OrderedDict",
        ),
        (lambda: of_scalar(jnp.add, optx.Bisection(1e-5, 1e-5)), "Bisection needs an interval"),
        (
            lambda: eqloop.equilibrium(
                lambda z, x: z, jnp.zeros(0), None, solver=eqloop.Anderson()
            ),
            r"z0 = f32\[0\] has no elements",
        ),
        (lambda: eqloop.SteadyState(solver=diffrax.Kvaerno3()), "root finder of solver = Kvaerno3"),
        (lambda: eqloop.SteadyState(solver=diffrax.KenCarp4()), "solver = KenCarp4 is not for"),
        (
            lambda: of_scalar(jnp.add, eqloop.SteadyState(solver=diffrax.Euler())),
            "estimates no error",
        ),
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


def test_eager_calls_compile_once_and_never_use_old_weights():
    """f may be the same function or a new one of the same code; its weight may be in a dictionary,
    closed over, or bound. Another map is another program."""
    compiled = []

    class Counted(AbstractGradient):
        def run(self, f, z0, x, solver, *, max_steps, probe):
            compiled.append(1)
            return eqloop.OneStep().run(f, z0, x, solver, max_steps=max_steps, probe=probe)

    holder = {"w": jnp.zeros(3)}

    def same(z, x):
        return 0.5 * z + holder["w"]

    def new(w):
        return lambda z, x: 0.5 * z + w

    def state(f):
        z0, solver = jnp.zeros(3), eqloop.FixedPoint(1e-6)
        return eqloop.equilibrium(f, z0, None, solver=solver, gradient=Counted()).state

    for k in range(5):
        holder["w"] = w = k * jnp.ones(3)
        for f in (same, new(w), jax.tree_util.Partial(lambda w, z, x: 0.5 * z + w, w)):
            np.testing.assert_allclose(state(f), 2 * k, rtol=1e-5)
    assert len(compiled) == 1
    w = 4 * jnp.ones(3)
    np.testing.assert_allclose(state(lambda z, x: 0.25 * z + w), 16 / 3, rtol=1e-5)
    np.testing.assert_allclose(state(lambda z, x: 0.25 * z - w), -16 / 3, rtol=1e-5)
    assert len(compiled) == 3
    numbers = np.ones(3, np.float32)  # a NumPy array that is changed in place
    for k in range(3):
        numbers[:] = k
        np.testing.assert_allclose(
            state(lambda z, x: 0.5 * z + jax.jit(jnp.sin)(numbers)), 2 * np.sin(k), rtol=1e-5
        )
    assert len(compiled) == 4


def test_damping_reaches_a_fixed_point_that_picard_does_not(x64):
    def f(z, x):
        return -1.5 * z + x

    plain = eqloop.equilibrium(f, jnp.zeros(()), jnp.asarray(5.0), solver=eqloop.FixedPoint())
    assert plain.result != eqloop.RESULTS.successful
    damped = eqloop.equilibrium(
        f, jnp.zeros(()), jnp.asarray(5.0), solver=eqloop.FixedPoint(rtol=1e-10, damping=0.5)
    )
    assert damped.result == eqloop.RESULTS.successful
    np.testing.assert_allclose(damped.state, 2.0, rtol=1e-9)


def test_unroll_says_whether_it_has_converged():
    def f(z, x):
        return 0.5 * z + x

    short, long = (
        eqloop.equilibrium(f, jnp.zeros(1), jnp.ones(1), solver=eqloop.Unroll(n, rtol=1e-3))
        for n in (3, 30)
    )
    assert short.result == eqloop.RESULTS.not_converged
    assert long.result == eqloop.RESULTS.successful
    # z_3 = 7/4 after z_2 = 3/2
    np.testing.assert_allclose(short.residual, 0.25 / 1.75, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: eqloop.Unroll(0), "steps = 0"),
        (lambda: eqloop.Truncated(0), "steps = 0"),
        (lambda: eqloop.Truncated(4, checkpoints=0), "Truncated: checkpoints = 0"),
        (lambda: eqloop.FixedPoint(damping=1.0), "damping = 1.0"),
        (
            lambda: eqloop.equilibrium(
                lambda z, x: z,
                jnp.zeros(1),
                None,
                solver=eqloop.Unroll(3),
                gradient=eqloop.Truncated(4),
            ),
            "steps = 4",
        ),
        (
            lambda: eqloop.equilibrium(
                lambda z, x: z, jnp.zeros(1), None, solver=eqloop.Unroll(jnp.asarray(3))
            ),
            "max_steps",
        ),
        (
            lambda: eqloop.equilibrium(
                lambda z, x: z,
                jnp.zeros(1),
                None,
                solver=optx.Newton(1e-3, 1e-3),
                gradient=eqloop.Backprop(),
            ),
            "Newton",
        ),
    ],
)
def test_combinations_that_cannot_work_are_refused_when_tracing(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"solver": "anderson"}, "solver = 'anderson' is not a solver"),
        ({"solver": eqloop.FixedPoint}, "FixedPoint'> is not a solver"),
        ({"gradient": Implicit}, "Implicit'> is not a gradient"),
        ({"max_steps": 0}, "max_steps = 0 must be at least 1"),
        ({"f": lambda z, x: x}, r"f returns float32\[4\] for a state z0 of float32\[3\]"),
        ({"f": lambda z, x: (z, z)}, "they must be alike"),
        ({"f": lambda z, x: z.astype(jnp.bfloat16)}, r"f returns bfloat16\[3\]"),
    ],
)
def test_what_is_no_argument_is_named(changed, message):
    arguments: dict[str, Any] = {"f": lambda z, x: z / 2, "solver": eqloop.FixedPoint()} | changed
    with pytest.raises(ValueError, match=message):
        eqloop.equilibrium(arguments.pop("f"), jnp.zeros(3), jnp.ones(4), **arguments)


def test_a_state_of_plain_numbers():
    out = eqloop.equilibrium(
        lambda z, x: [0.5 * z[0] + 1.0, 0.5 * z[1]], [0.0, 1.0], None, solver=eqloop.FixedPoint()
    )
    np.testing.assert_allclose(out.state, [2, 0], atol=1e-2)
