"""Gradients through the steps of a solver itself: its last steps, or all steps of a `Reversible`,
which are recomputed backwards; compared with loops written by hand, finite differences, and the
memory that XLA reserves."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from problems import Linear, Tanh, spectrum, turn, weighted

import eqloop
from eqloop import Backprop, BackwardReport, FixedPoint, Reversible, Truncated, Unroll


def tanh(scale, seed=0, dtype=jnp.float64):
    """A map whose Jacobian changes from step to step; undamped iteration cycles if the scale is
    below about -1.3."""
    w = scale * (jnp.eye(4) + 0.2 * jr.normal(jr.key(seed), (4, 4), jnp.float64))
    x = jr.normal(jr.key(seed + 1), (4,), jnp.float64)
    return Tanh(w.astype(dtype), jnp.eye(4, dtype=dtype)), x.astype(dtype)


@eqx.filter_jit
def slopes(f, x, solver, gradient, max_steps=40):
    """Return the gradient of `weighted(state)` with respect to f and x, and the solution."""

    def loss(both):
        f, x = both
        z0 = jnp.full_like(x, 0.1)
        out = eqloop.equilibrium(f, z0, x, solver=solver, gradient=gradient, max_steps=max_steps)
        return weighted(out.state), out

    return eqx.filter_grad(loss, has_aux=True)((f, x))


@eqx.filter_jit
def by_hand(f, x, damping, constant):
    """Compute the same by iterations with these damping factors, the first `constant` of which are
    not differentiated."""

    def loss(both):
        f, x = both

        def body(carry, d):
            n, z = carry
            z = jnp.where(n == constant, jax.lax.stop_gradient(z), z)
            return (n + 1, (1 - d) * f(z, x) + d * z), None

        return weighted(jax.lax.scan(body, (0, jnp.full_like(x, 0.1)), damping)[0][1])

    return eqx.filter_grad(loss)((f, x))


def dampings(f, x, damping, patience, count):
    """Return the damping of each step: it begins after `patience` steps without a new minimum of
    the residual."""
    z, lowest, stalled, used = np.full(4, 0.1), np.inf, 0, []
    for _ in range(count):
        value = np.asarray(f(jnp.asarray(z), x))
        residual = np.linalg.norm(value - z) / np.linalg.norm(value)
        stalled = 0 if residual < lowest and stalled < patience else stalled + 1
        lowest = min(lowest, residual)
        used.append(damping if stalled >= patience else 0.0)
        z = (1 - used[-1]) * value + used[-1] * z
    return used


def same(actual, expected, rtol=1e-10):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=rtol * float(jnp.max(jnp.abs(b))))


@pytest.mark.parametrize(
    ("scale", "damping", "patience", "steps"),
    [(0.6, 0.0, 0, 3), (-1.6, 0.4, 4, 3), (-1.6, 0.4, 4, 39)],
)
def test_the_last_steps_of_a_damped_iteration_are_those_of_the_loop_by_hand(
    scale, damping, patience, steps, x64
):
    """39 is more than the number of steps, so that the gradient is that of all of them."""
    f, x = tanh(scale)
    solver = FixedPoint(1e-3, damping=damping, patience=patience)
    actual, out = slopes(f, x, solver, Truncated(steps, follow=True))
    assert out.result == eqloop.RESULTS.successful
    # The solver's last evaluation judges its state; the gradient repeats it.
    count = int(out.steps) - 2
    assert 8 < count < 39
    used = dampings(f, x, damping, patience, count)
    if patience:
        assert {0.0, damping} == set(used)
    same(actual, by_hand(f, x, jnp.asarray(used), count - steps))


def test_all_last_steps_against_finite_differences(x64):
    """The gradient is that of the value after exactly eight damped steps."""
    f, x = tanh(-1.6)
    solver, gradient = FixedPoint(0.0, damping=0.4), Truncated(7, follow=True)
    (df, dx), out = slopes(f, x, solver, gradient, max_steps=8)
    assert out.result == eqloop.RESULTS.not_converged
    direction, step = jnp.array([1.0, -2.0, 0.5, 1.0]), 1e-5

    def value(sign):
        moved = eqx.tree_at(lambda f: f.w, f, f.w + sign * step * 0.7)
        return weighted(slopes(moved, x + sign * step * direction, solver, gradient, 8)[1].state)

    numeric = (value(1) - value(-1)) / (2 * step)
    np.testing.assert_allclose(0.7 * jnp.sum(df.w) + direction @ dx, numeric, rtol=1e-7)


def test_the_last_steps_of_any_solver_are_those_of_its_steps_one_by_one(x64):
    """The solver is `Anderson`; where it fails, its state is that of the step of lowest
    residual."""
    f, x = tanh(-1.6)
    max_steps, last = 9, 3

    def best_state(f, x, solver, constant):
        """Return the state of lowest residual and the number of steps that led to it; steps before
        `constant` are not differentiated."""

        def body(carry, n):
            cut = jax.tree.map(jax.lax.stop_gradient, carry)
            z, solve = jax.tree.map(lambda a, b: jnp.where(n == constant, a, b), cut, carry)
            return solver.advance(lambda z: f(z, x), z, solve), None

        z0 = jnp.full_like(x, 0.1)
        begin = solver.begin(lambda z: f(z, x), z0)
        (_, solve), _ = jax.lax.scan(body, (z0, begin), jnp.arange(max_steps, dtype=jnp.int32))
        return weighted(solve.best), solve.best_step

    @eqx.filter_jit
    def by_steps(f, x, solver):
        _, best = best_state(f, x, solver, -1)
        return jax.grad(lambda f, x: best_state(f, x, solver, best - last)[0], (0, 1))(f, x)

    for rtol in (1e-3, 1e-12):
        solver = eqloop.Anderson(rtol, memory=2)
        actual, out = slopes(f, x, solver, Truncated(last, follow=True), max_steps)
        assert (out.result == eqloop.RESULTS.successful) == (rtol == 1e-3)
        same(actual, by_steps(f, x, solver))


@pytest.mark.parametrize(
    ("solver", "gradient"),
    [(FixedPoint(1e-4), Truncated(3, follow=True)), (Reversible(1e-4), Backprop())],
    ids=["last-steps", "reversible"],
)
def test_each_example_of_a_batch_has_its_own_steps(solver, gradient, x64):
    f, _ = tanh(0.6)
    xs = jnp.array([1e-3, 0.3, 2.0])[:, None] * jnp.ones((3, 4))

    def solve(f, x):
        z0 = jnp.zeros(4)
        out = eqloop.equilibrium(f, z0, x, solver=solver, gradient=gradient, max_steps=40)
        return weighted(out.state), out.steps

    def total(f, xs):
        values, steps = jax.vmap(lambda x: solve(f, x))(xs)
        return jnp.sum(values), steps

    slope = eqx.filter_jit(jax.grad(solve, (0, 1), has_aux=True))
    (df, dx), steps = eqx.filter_jit(jax.grad(total, (0, 1), has_aux=True))(f, xs)
    alone = [slope(f, x) for x in xs]
    assert len(set(steps.tolist())) > 1
    assert [int(example[1]) for example in alone] == steps.tolist()
    same(dx, jnp.stack([example[0][1] for example in alone]), 1e-12)
    same(df.w, sum(example[0][0].w for example in alone), 1e-12)


def test_solvers_whose_steps_cannot_be_followed_are_refused(x64):
    f, x = tanh(0.6, dtype=jnp.float32)
    for solver in (eqloop.NewtonKrylov(), eqloop.Chord()):
        with pytest.raises(ValueError, match="Truncated cannot follow the steps of"):
            slopes(f, x, solver, Truncated(2, follow=True))
    # `Unroll` has no other steps.
    both = [slopes(f, x, Unroll(9), Truncated(2, follow=follow))[0] for follow in (False, True)]
    same(*both)


# --- computed backwards


def two_states(f, x, mix, count, z0=0.1):
    """Run the loop by hand: return y and z after `count` steps."""

    def body(states, _):
        y, z = states
        y = (1 - mix) * y + mix * f(z, x)
        return (y, (1 - mix) * z + mix * f(y, x)), None

    start = jnp.full_like(x, z0)
    return jax.lax.scan(body, (start, start), length=count)[0]


def through_two_states(f, x, mix, count):
    def loss(both):
        f, x = both
        return weighted(two_states(f, x, mix, count)[1])

    return eqx.filter_jit(eqx.filter_grad(loss))((f, x))


@pytest.mark.parametrize(("mix", "count"), [(0.5, 64), (0.1, 64)])
def test_the_gradient_of_a_reversible_loop_is_backpropagation_through_it(mix, count, x64):
    """With b = 0.1 all states but the first are recomputed; otherwise some of them are stored."""
    f, x = tanh(0.9)
    actual, out = slopes(f, x, Reversible(0.0, mix=mix), Backprop(), count + 1)
    count = int(out.steps) - 2
    same(out.state, two_states(f, x, mix, count)[1], 1e-12)
    same(actual, through_two_states(f, x, mix, count))


@pytest.mark.parametrize(("mix", "count"), [(0.1, 64), (0.02, 256)])
def test_in_float32_it_is_within_a_thousandth(mix, count, x64):
    f, x = tanh(0.9, dtype=jnp.float32)
    actual, out = slopes(f, x, Reversible(0.0, mix=mix), Backprop(), count + 1)
    f, x = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (f, x))
    same(actual, through_two_states(f, x, mix, int(out.steps) - 2), 1e-3)


def test_it_converges_within_its_ellipse(x64):
    """The ellipse holds the eigenvalues of the Jacobian and has half-axes 1 and (2 - b) / b."""
    mix, angle = 0.5, 1.2
    solve = eqx.filter_jit(eqloop.equilibrium)
    for size in (0.97, 1.03):
        real, imaginary = size * jnp.cos(angle), size * (2 - mix) / mix * jnp.sin(angle)
        f, z0, x = spectrum(jnp.array([[real, -imaginary], [imaginary, real]]))(jnp.float64)
        out = solve(f, z0, x, solver=Reversible(1e-9, mix=mix), max_steps=jnp.asarray(3000))
        assert (out.result == eqloop.RESULTS.successful) == (size < 1)
        if size < 1:
            np.testing.assert_allclose(out.state, jnp.linalg.solve(jnp.eye(2) - f.a, x), rtol=1e-7)


def test_it_reports_how_far_the_states_computed_backwards_were_off(x64):
    """The gradient of the start passes through both states as well."""
    f, x = Linear(turn(0.5, 1.0)), jnp.ones(2)
    probe = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), BackwardReport.zeros())

    def loss(z0, probe):
        solver, gradient = Reversible(0.0, mix=0.5), Backprop()
        out = eqloop.equilibrium(
            f, z0, x, solver=solver, gradient=gradient, max_steps=11, probe=probe
        )
        return weighted(out.state), out.steps

    (slope, report), steps = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(jnp.zeros(2), probe)
    assert steps == 12
    assert 1e-16 < report.residual < 2.0 ** (2 * 10 - 50)
    m = np.asarray(f.a)
    y = z = np.eye(2)
    for _ in range(10):
        y = 0.5 * y + 0.5 * m @ z
        z = 0.5 * z + 0.5 * m @ y
    np.testing.assert_allclose(slope, z.T @ [1, 2], rtol=1e-9)


def test_a_share_that_leaves_nothing_to_go_back_by_is_refused(x64):
    f, x = tanh(0.6, dtype=jnp.float32)
    with pytest.raises(ValueError, match=r"mix must be at most 0\.981 here"):
        slopes(f, x, Reversible(mix=0.99), Backprop())
    with pytest.raises(ValueError, match="Reversible: mix = 1"):
        Reversible(mix=1.0)


def test_second_derivatives_and_forward_mode_are_refused():
    def state(x):
        return eqloop.equilibrium(
            lambda z, x: jnp.cos(z) * x,
            jnp.zeros(()),
            x,
            solver=Reversible(),
            gradient=Backprop(),
            max_steps=20,
        ).state

    with pytest.raises(
        ValueError, match="Reversible has first derivatives only: use Backprop with"
    ):
        jax.grad(jax.grad(state))(0.5)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(state, (0.5,), (1.0,))


def reserved_bytes(steps, mix=0.01, batch=16, size=100):
    """Return the memory that the gradient reserves for a matrix that the examples of a batch
    share."""

    def loss(w, xs):
        def example_loss(x):
            solver, gradient = Reversible(0.0, mix=mix), Backprop()
            out = eqloop.equilibrium(
                Tanh(w, jnp.eye(size)), x, x, solver=solver, gradient=gradient, max_steps=steps
            )
            return jnp.sum(out.state)

        return jnp.sum(jax.vmap(example_loss)(xs))

    arguments = jnp.ones((size, size)), jnp.ones((batch, size))
    memory = jax.jit(jax.grad(loss)).lower(*arguments).compile().memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes


@pytest.mark.usefixtures("compiled_fully", "compiled_anew")
def test_its_memory_does_not_grow_with_the_steps_nor_the_gradient_with_the_batch():
    few, some, many = (reserved_bytes(steps) for steps in (16, 64, 256))
    assert max(few, some, many) < 1.05 * min(few, some, many)
    matrix, states = 4 * 100 * 100, 4 * 16 * 100
    assert many < 6 * matrix + 60 * states
