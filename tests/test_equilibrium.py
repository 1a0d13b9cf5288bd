"""Solvers and gradients against closed forms, finite differences and each other."""

import functools
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optimistix as optx
import pytest

import eqloop
from eqloop import (
    Backprop,
    BackwardReport,
    FixedPoint,
    Implicit,
    OneStep,
    Phantom,
    Truncated,
    Unroll,
)
from eqloop._adjoint import AbstractGradient
from eqloop._iteration import unroll

CONVERGING = FixedPoint(rtol=1e-12)

equilibrium = eqx.filter_jit(eqloop.equilibrium)


class Affine(eqx.Module):
    """`f(z, x) = A z + B x`, whose fixed point is `(I - A)^-1 B x`."""

    a: jax.Array
    b: jax.Array

    def __call__(self, z, x):
        return self.a @ z + self.b @ x


def affine(radius: float, size: int = 6, seed: int = 0) -> Affine:
    a_key, b_key = jr.split(jr.key(seed))
    a = jr.normal(a_key, (size, size), jnp.float64)
    a = a * radius / jnp.max(jnp.abs(jnp.linalg.eigvals(a)))
    return Affine(a, jr.normal(b_key, (size, 3), jnp.float64))


class Tanh(eqx.Module):
    w: jax.Array
    u: jax.Array

    def __call__(self, z, x):
        return jnp.tanh(self.w @ z + self.u @ x)


def tanh_network(size: int = 5) -> Tanh:
    w_key, u_key = jr.split(jr.key(1))
    w = jr.normal(w_key, (size, size), jnp.float64)
    return Tanh(0.7 * w / jnp.linalg.norm(w, 2), jr.normal(u_key, (size, 2), jnp.float64))


X = np.array([0.5, -1.0, 2.0])


def test_fixed_point_is_the_dense_solution(x64):
    f = affine(0.9)
    out = equilibrium(f, jnp.zeros(6), jnp.asarray(X), solver=CONVERGING, max_steps=2000)
    expected = jnp.linalg.solve(jnp.eye(6) - f.a, f.b @ X)
    np.testing.assert_allclose(out.state, expected, rtol=1e-9)
    assert out.result == eqloop.RESULTS.successful
    assert out.residual < 1e-11
    assert 100 < out.steps < 2000


def test_implicit_gradient_is_the_dense_one(x64):
    f = affine(0.8)
    weights = jnp.arange(1.0, 7.0)

    def loss(f, x):
        out = eqloop.equilibrium(
            f, jnp.zeros(6), x, solver=CONVERGING, gradient=Implicit(rtol=1e-10), max_steps=2000
        )
        return weights @ out.state

    f_grad, x_grad = jax.jit(jax.grad(loss, argnums=(0, 1)))(f, jnp.asarray(X))
    u = jnp.linalg.solve((jnp.eye(6) - f.a).T, weights)
    z = jnp.linalg.solve(jnp.eye(6) - f.a, f.b @ X)
    np.testing.assert_allclose(x_grad, f.b.T @ u, rtol=1e-6)
    np.testing.assert_allclose(f_grad.a, jnp.outer(u, z), rtol=1e-6)
    np.testing.assert_allclose(f_grad.b, jnp.outer(u, jnp.asarray(X)), rtol=1e-6)


@pytest.mark.parametrize(
    ("solver", "gradient"),
    [
        (Unroll(200), Backprop()),
        (Unroll(200), Implicit(rtol=1e-10)),
        (Unroll(200), Truncated(100)),
        (CONVERGING, Implicit(rtol=1e-10)),
        (CONVERGING, Truncated(100)),
        (CONVERGING, Backprop()),
        (FixedPoint(rtol=1e-12, damping=0.3), Backprop()),
        (optx.Newton(rtol=1e-10, atol=1e-10), Implicit(rtol=1e-10)),
    ],
    ids=lambda each: type(each).__name__,
)
def test_gradients_agree_with_finite_differences(solver, gradient, x64):
    f, weights = tanh_network(), jnp.arange(1.0, 6.0)

    @jax.jit
    def loss(f, x):
        z0 = jnp.zeros(5)
        out = eqloop.equilibrium(f, z0, x, solver=solver, gradient=gradient, max_steps=300)
        return weights @ out.state

    x = jnp.array([0.3, -0.7])
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(f, x)
    direction = jax.tree.map(
        lambda leaf: jr.normal(jr.key(leaf.ndim), leaf.shape, leaf.dtype), (f, x)
    )
    step = 1e-5
    plus, minus = (
        jax.tree.map(lambda a, d, s=s: a + s * step * d, (f, x), direction) for s in (1, -1)
    )
    numeric = (loss(*plus) - loss(*minus)) / (2 * step)
    analytic = sum(
        jnp.vdot(g, d)
        for g, d in zip(jax.tree.leaves(gradients), jax.tree.leaves(direction), strict=True)
    )
    np.testing.assert_allclose(analytic, numeric, rtol=1e-6)


def test_truncated_and_one_step_are_their_finite_sums(x64):
    f = affine(0.8)
    weights = jnp.arange(1.0, 7.0)

    def x_gradient(gradient):
        def loss(x):
            z0 = jnp.zeros(6)
            return (
                weights @ eqloop.equilibrium(f, z0, x, solver=Unroll(20), gradient=gradient).state
            )

        return jax.jit(jax.grad(loss))(jnp.asarray(X))

    terms = [weights]
    for _ in range(19):
        terms.append(f.a.T @ terms[-1])
    for last in (1, 4, 20):
        expected = f.b.T @ sum(terms[:last])
        np.testing.assert_allclose(x_gradient(Truncated(last)), expected, rtol=1e-12)
    np.testing.assert_allclose(x_gradient(OneStep()), f.b.T @ weights, rtol=1e-12)
    np.testing.assert_allclose(x_gradient(Backprop()), f.b.T @ sum(terms), rtol=1e-12)


def test_gradient_of_z0_passes_through_backprop_and_no_fixed_point(x64):
    f = affine(0.8)

    def loss(z0, solver, gradient):
        out = eqloop.equilibrium(f, z0, jnp.asarray(X), solver=solver, gradient=gradient)
        return jnp.sum(out.state)

    z0 = jnp.ones(6)
    through = jax.grad(loss)(z0, Unroll(3), Backprop())
    power = jnp.linalg.matrix_power(f.a, 3)
    np.testing.assert_allclose(through, power.T @ jnp.ones(6), rtol=1e-12)
    np.testing.assert_array_equal(jax.grad(loss)(z0, CONVERGING, Implicit()), jnp.zeros(6))


@pytest.mark.parametrize(
    ("solver", "gradient", "made"),
    [
        (lambda n: Unroll(n, max_steps=10), lambda n: Backprop(), 10),
        (lambda n: Unroll(n, max_steps=10), lambda n: Implicit(), 10),
        (lambda n: Unroll(30), lambda n: Truncated(n, max_steps=4), 30),
        (lambda n: Unroll(5), lambda n: Truncated(n, max_steps=8), 5),
        (lambda n: Unroll(n - 18), lambda n: Truncated(4), 2),
        (lambda n: Unroll(n - 18), lambda n: Phantom(4, damping=0.0), 2),
    ],
)
def test_a_traced_count_above_its_bound_is_the_bound(solver, gradient, made):
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

    assert run(jnp.asarray(20)) == (made, made)


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
        # Forwards n + k evaluations, backwards the k rematerialised ones: no masked slot.
        assert len(evaluations) == n + 2 * k
        np.testing.assert_allclose(traced, static(n, k), rtol=1e-6)
    assert len(traces) == 1


def test_each_example_has_its_own_steps_and_ignores_its_batch_mates(x64):
    def f(z, x):
        return x["rate"] * z + x["shift"]

    xs = {"rate": jnp.array([0.1, 0.9, 0.5]), "shift": jnp.array([1.0, 1.0, -2.0])}

    def solve(x):
        return eqloop.equilibrium(f, jnp.zeros(()), x, solver=FixedPoint(rtol=1e-6))

    together = eqx.filter_jit(jax.vmap(solve))(xs)
    for i in range(3):
        alone = eqx.filter_jit(solve)(jax.tree.map(lambda leaf, i=i: leaf[i], xs))
        assert together.steps[i] == alone.steps
        assert together.state[i] == alone.state
        assert together.residual[i] == alone.residual
    assert together.steps[0] < together.steps[2] < together.steps[1]
    assert bool(jnp.all(together.result == eqloop.RESULTS.successful))


def test_pytree_states_and_arrays_that_a_function_closes_over(x64):
    def loss(rate):
        def f(z, x):
            return {"a": rate * z["b"] + x, "b": 0.5 * z["a"]}

        z0 = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
        out = eqloop.equilibrium(
            f, z0, jnp.ones(2), solver=CONVERGING, gradient=Implicit(rtol=1e-12)
        )
        return jnp.sum(out.state["a"])

    # a = rate b + 1, b = a / 2: a = 1 / (1 - rate / 2)
    value, slope = jax.jit(jax.value_and_grad(loss))(jnp.asarray(0.6))
    np.testing.assert_allclose(value, 2 / 0.7, rtol=1e-10)
    np.testing.assert_allclose(slope, 2 * 0.5 / 0.7**2, rtol=1e-10)


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
    """`z = w tanh z + 1`, of which the derivative is `tanh z / (1 - w (1 - tanh^2 z))`."""

    def loss(w, wrap):
        f = wrap(lambda z, x: w * jnp.tanh(z) + x)
        out = eqloop.equilibrium(f, jnp.zeros(1), jnp.ones(1), solver=CONVERGING, gradient=gradient)
        return out.state[0], out.state[0]

    for name, wrap in WRAPPERS.items():
        slope, z = jax.grad(lambda w, wrap=wrap: loss(w, wrap), has_aux=True)(jnp.asarray(0.4))
        t = np.tanh(z)
        np.testing.assert_allclose(slope, t / (1 - 0.4 * (1 - t**2)), rtol=1e-8, err_msg=name)


@pytest.mark.parametrize("gradient", [Implicit(1e-6, solver=eqloop.Anderson()), OneStep()])
def test_gradients_at_plain_floats_outside_of_jit_are_those_within(gradient):
    def loss(numbers):
        def f(z, x):
            return x["rate"] * jnp.cos(z) + numbers["closed over"]

        out = eqloop.equilibrium(
            f, jnp.zeros(2), numbers, solver=FixedPoint(1e-6), gradient=gradient
        )
        return jnp.sum(out.state)

    numbers = {"rate": 0.7, "closed over": 0.2}
    eager, compiled = jax.grad(loss)(numbers), jax.jit(jax.grad(loss))(numbers)
    for name in numbers:
        np.testing.assert_allclose(eager[name], compiled[name], rtol=1e-6)
        assert eager[name] != 0


def test_eager_calls_compile_once_and_never_use_old_weights():
    """Whether f is the same function or a new one of the same code, and whether its weight is in a
    dictionary, closed over, or bound. Another map is another program."""
    compiled = []

    class Counted(AbstractGradient):
        def run(self, f, z0, x, solver, *, max_steps, probe):
            compiled.append(1)
            return OneStep().run(f, z0, x, solver, max_steps=max_steps, probe=probe)

    holder = {"w": jnp.zeros(3)}

    def same(z, x):
        return 0.5 * z + holder["w"]

    def new(w):
        return lambda z, x: 0.5 * z + w

    def state(f):
        z0, solver = jnp.zeros(3), FixedPoint(1e-6)
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
    numbers = np.ones(3, np.float32)  # of NumPy, and changed in place
    for k in range(3):
        numbers[:] = k
        np.testing.assert_allclose(
            state(lambda z, x: 0.5 * z + jax.jit(jnp.sin)(numbers)), 2 * np.sin(k), rtol=1e-5
        )
    assert len(compiled) == 4


def test_the_solver_works_in_optimistix_itself(x64):
    solution = optx.fixed_point(
        lambda y, _: 0.5 * y + 1, FixedPoint(rtol=1e-10), jnp.zeros(3), throw=True
    )
    np.testing.assert_allclose(solution.value, 2, rtol=1e-9)


def test_damping_reaches_a_fixed_point_that_picard_does_not(x64):
    def f(z, x):
        return -1.5 * z + x

    plain = equilibrium(f, jnp.zeros(()), jnp.asarray(5.0), solver=FixedPoint())
    assert plain.result != eqloop.RESULTS.successful
    damped = equilibrium(
        f, jnp.zeros(()), jnp.asarray(5.0), solver=FixedPoint(rtol=1e-10, damping=0.5)
    )
    assert damped.result == eqloop.RESULTS.successful
    np.testing.assert_allclose(damped.state, 2.0, rtol=1e-9)


def test_plain_iteration_is_euler_with_unit_steps(x64):
    f, x = tanh_network(), jnp.array([0.3, -0.7])
    field = diffrax.ODETerm(lambda t, z, x: f(z, x) - z)
    flow = diffrax.diffeqsolve(
        field,
        diffrax.Euler(),
        0,
        8,
        1,
        jnp.zeros(5),
        args=x,
        saveat=diffrax.SaveAt(ts=jnp.arange(1.0, 9.0)),
    )
    assert flow.ys is not None
    np.testing.assert_allclose(
        flow.ys, eqloop.trajectory(f, jnp.zeros(5), x, 8), rtol=1e-13, atol=1e-14
    )


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
        lambda z, x: 0.5 * z + x, jnp.ones(2), FixedPoint(rtol=1e-5), Implicit(rtol=1e-4)
    )
    np.testing.assert_allclose(slope, 2, rtol=1e-3)
    assert report.fallback == 0
    assert 0 <= report.residual <= 1e-4


def test_a_singular_backward_solve_falls_back_to_one_step_and_says_so():
    # z <- (z_0, z_1 / 2) + x has no isolated fixed point: I - J is singular.
    slope, report = jax.jit(
        lambda x: backward_report(
            lambda z, x: z * jnp.array([1.0, 0.5]) + x, x, Unroll(3), Implicit()
        )
    )(jnp.zeros(2))
    assert report.fallback == 1
    np.testing.assert_array_equal(slope, jnp.ones(2))
    np.testing.assert_allclose(report.residual, np.sqrt(1.25 / 2), rtol=1e-6)


def test_a_backward_solve_that_misses_its_tolerance_keeps_its_best_iterate_and_says_so():
    """Where that leaves less than one step: half of the same system can be solved, `u_1 = 2`."""
    slope, report = backward_report(
        lambda z, x: z * jnp.array([1.0, 0.5]) + x,
        jnp.zeros(2),
        Unroll(3),
        Implicit(solver=FixedPoint()),
    )
    assert report.fallback == 1
    np.testing.assert_allclose(slope[1], 2, rtol=1e-4)
    np.testing.assert_allclose(report.residual, np.sqrt(1 / 2), rtol=1e-4)


def test_a_backward_solve_that_gets_nowhere_falls_back_to_one_step_and_says_so():
    """`z <- 4 z + x`, by plain iteration, which doubles what is left and more; and a loss whose
    cotangent is no number."""
    slope, report = backward_report(
        lambda z, x: 4 * z + x, jnp.ones(2), Unroll(3), Implicit(solver=FixedPoint())
    )
    np.testing.assert_array_equal(slope, jnp.ones(2))
    assert report.fallback == 1
    np.testing.assert_allclose(report.residual, 4, rtol=1e-6)
    _, report = backward_report(
        lambda z, x: jnp.sqrt(z - 1) + 1 + 0 * x, jnp.ones(2), Unroll(3), Implicit()
    )
    assert report.fallback == 1


@pytest.mark.parametrize(
    ("f", "result"),
    [
        (lambda z, x: 3 * z + x, eqloop.RESULTS.nonfinite),
        (lambda z, x: jnp.log(-jnp.abs(z) - 1) + x, eqloop.RESULTS.nonfinite),
        (lambda z, x: -z + x, eqloop.RESULTS.not_converged),
    ],
    ids=["diverges", "nan", "cycles"],
)
def test_failures_are_result_codes_and_never_exceptions(f, result):
    @jax.jit
    def run(x):
        def loss(x):
            out = eqloop.equilibrium(f, jnp.zeros(2), x, solver=FixedPoint(), max_steps=300)
            return jnp.sum(out.state), out

        return jax.grad(loss, has_aux=True)(x)

    _, out = run(jnp.ones(2))
    assert out.result == result


def test_unroll_says_whether_it_has_converged():
    def f(z, x):
        return 0.5 * z + x

    short, long = (
        equilibrium(f, jnp.zeros(1), jnp.ones(1), solver=Unroll(n, rtol=1e-3)) for n in (3, 30)
    )
    assert short.result == eqloop.RESULTS.not_converged
    assert long.result == eqloop.RESULTS.successful
    # z_3 = 7/4 after z_2 = 3/2
    np.testing.assert_allclose(short.residual, 0.25 / 1.75, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Unroll(0), "steps = 0"),
        (lambda: Truncated(0), "steps = 0"),
        (lambda: Truncated(4, checkpoints=0), "Truncated: checkpoints = 0"),
        (lambda: FixedPoint(damping=1.0), "damping = 1.0"),
        (
            lambda: eqloop.equilibrium(
                lambda z, x: z, jnp.zeros(1), None, solver=Unroll(3), gradient=Truncated(4)
            ),
            "steps = 4",
        ),
        (
            lambda: eqloop.equilibrium(
                lambda z, x: z, jnp.zeros(1), None, solver=Unroll(jnp.asarray(3))
            ),
            "max_steps",
        ),
        (
            lambda: eqloop.equilibrium(
                lambda z, x: z,
                jnp.zeros(1),
                None,
                solver=optx.Newton(1e-3, 1e-3),
                gradient=Backprop(),
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
        ({"solver": FixedPoint}, "FixedPoint'> is not a solver"),
        ({"gradient": Implicit}, "Implicit'> is not a gradient"),
        ({"max_steps": 0}, "max_steps = 0 must be at least 1"),
        ({"f": lambda z, x: x}, r"f returns float32\[4\] for a state z0 of float32\[3\]"),
        ({"f": lambda z, x: (z, z)}, "they must be alike"),
        ({"f": lambda z, x: z.astype(jnp.bfloat16)}, r"f returns bfloat16\[3\]"),
    ],
)
def test_what_is_no_argument_is_named(changed, message):
    arguments: dict[str, Any] = {"f": lambda z, x: z / 2, "solver": FixedPoint()} | changed
    with pytest.raises(ValueError, match=message):
        eqloop.equilibrium(arguments.pop("f"), jnp.zeros(3), jnp.ones(4), **arguments)


def test_a_state_of_plain_numbers():
    out = eqloop.equilibrium(
        lambda z, x: [0.5 * z[0] + 1.0, 0.5 * z[1]], [0.0, 1.0], None, solver=FixedPoint()
    )
    np.testing.assert_allclose(out.state, [2, 0], atol=1e-2)


def test_rematerialised_unrolling_keeps_one_state_per_iteration():
    """The forward pass must not keep what is inside f: here 50 arrays as large as the state."""

    def f(z, w):
        for _ in range(50):
            z = jnp.sin(w * z)
        return z

    def loss(w):
        return jnp.sum(unroll(f, jnp.ones(1000), w, 8)[1])

    memory = jax.jit(jax.grad(loss)).lower(jnp.ones(())).compile().memory_analysis()
    state = 4 * 1000
    assert memory is not None
    assert memory.temp_size_in_bytes < (8 + 100) * state  # plain: 8 * 100 and more
