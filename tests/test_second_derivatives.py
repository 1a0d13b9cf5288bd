"""Second derivatives and forward mode through implicit gradients, against closed forms, unrolled
loops and finite differences."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from problems import PROBLEMS, weighted

import eqloop
from eqloop import BackwardReport, FixedPoint, Implicit, Neumann

GRADIENTS = {
    "implicit": Implicit(rtol=1e-13),
    "implicit-anderson": Implicit(rtol=1e-13, solver=eqloop.Anderson()),
    "neumann": Neumann(150),
}
EXACT = GRADIENTS["implicit"]


def solve(f, z0, x, gradient=EXACT, probe=None):
    solver = FixedPoint(rtol=1e-14)
    return eqloop.equilibrium(
        f, z0, x, solver=solver, gradient=gradient, max_steps=500, probe=probe
    ).state


def unrolled(f, z0, x):
    return jax.lax.scan(lambda z, _: (f(z, x), None), z0, length=300)[0]


def problem(name):
    return next(problem for problem in PROBLEMS if problem.name == name).make(jnp.float64)


def second_derivatives(loss, x, v):
    """Return `H v` for the Hessian H of a loss, in every order of forward and reverse mode."""

    def slope(x):  # by forward mode
        return jax.jvp(loss, (x,), (v,))[1]

    return {
        "forward over reverse": jax.jvp(jax.grad(loss), (x,), (v,))[1],
        "reverse over reverse": jax.grad(lambda x: jax.grad(loss)(x) @ v)(x),
        "reverse over forward": jax.grad(slope)(x),
        "forward over forward": jax.vmap(lambda e: jax.jvp(slope, (x,), (e,))[1])(jnp.eye(x.size)),
    }


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_second_derivatives_in_every_order_of_modes_are_those_of_the_closed_form(gradient, x64):
    """For `z = x cos z`, with s, c = sin z, cos z and D = 1 + x s, `z' = c / D` and `z'' = (-s z' D
    - c (s + x c z')) / D^2`. The loss is not linear in z."""
    x = jnp.array([[0.2, 0.5, 0.9], [-0.1, 0.7, 0.3]])  # two examples, for vmap
    v = jnp.array([1.0, -2.0, 0.5])

    def loss(x):
        return jnp.sum(
            solve(lambda z, x: x * jnp.cos(z), jnp.zeros(3), x, GRADIENTS[gradient]) ** 3
        )

    products = jax.jit(jax.vmap(lambda x: second_derivatives(loss, x, v)))(x)
    z = unrolled(lambda z, x: x * jnp.cos(z), jnp.zeros((2, 3)), x)
    s, c = jnp.sin(z), jnp.cos(z)
    d = 1 + x * s
    first = c / d
    second = (-s * first * d - c * (s + x * c * first)) / d**2
    for order, product in products.items():
        expected = (6 * z * first**2 + 3 * z**2 * second) * v[None]
        np.testing.assert_allclose(product, expected, rtol=1e-10, err_msg=order)


def test_hessians_under_vmap_and_of_pytrees_are_those_of_the_unrolled_loop(x64):
    """The Hessians are symmetric as well. The state is a dictionary."""
    f, z0, x = problem("pytree")
    xs = jnp.stack([x, -2 * x])

    def loss(solution, x):
        z = solution(f, z0, x)
        return weighted(z) + jnp.sum(z["b"] ** 3)

    hessians = eqx.filter_jit(jax.vmap(jax.hessian(lambda x: loss(solve, x))))(xs)
    expected = eqx.filter_jit(jax.vmap(jax.hessian(lambda x: loss(unrolled, x))))(xs)
    np.testing.assert_allclose(hessians, expected, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(hessians, jnp.swapaxes(hessians, 1, 2), rtol=1e-9, atol=1e-10)


def test_gradient_penalties_and_outer_gradients_are_those_of_the_unrolled_loop(x64):
    """The gradients with respect to the weights are of `|dL/dx|^2`, and of the loss after one
    gradient step."""
    f, z0, x = problem("tanh")

    def penalty(solution, f):
        return jnp.sum(jax.grad(lambda x: jnp.sum(solution(f, z0, x)))(x) ** 2)

    def adapted(solution, f):
        def loss(f):
            return jnp.sum((solution(f, z0, x) - 0.5) ** 2)

        return loss(jax.tree.map(lambda w, g: w - 0.3 * g, f, jax.grad(loss)(f)))

    def both(solution):
        return eqx.filter_jit(
            lambda f: [jax.grad(loss, 1)(solution, f) for loss in (penalty, adapted)]
        )(f)

    for actual, expected in zip(both(solve), both(unrolled), strict=True):
        actual, expected = ravel_pytree(actual)[0], ravel_pytree(expected)[0]
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-11)


def test_a_looped_transformer_against_finite_differences(x64):
    """The tangent, and the product of a vector with the Hessian with respect to the weights."""
    f, z0, x = problem("external-post")
    weights, static = eqx.partition(f, eqx.is_inexact_array)
    flat, unravel = ravel_pytree((weights, x))
    v = jr.normal(jr.key(0), flat.shape, flat.dtype)
    v = v / jnp.linalg.norm(v)

    def loss(flat):
        weights, x = unravel(flat)
        z = solve(eqx.combine(weights, static), z0, x)
        return weighted(z) + jnp.sum(z**3)

    slope = jax.jit(jax.value_and_grad(loss))
    tangent, product = jax.jit(lambda at: jax.jvp(jax.value_and_grad(loss), (at,), (v,))[1])(flat)
    step = 1e-5
    (value_ahead, ahead), (value_behind, behind) = slope(flat + step * v), slope(flat - step * v)
    np.testing.assert_allclose(tangent, (value_ahead - value_behind) / (2 * step), rtol=1e-6)
    numeric = (ahead - behind) / (2 * step)
    np.testing.assert_allclose(product, numeric, atol=1e-6 * float(jnp.max(jnp.abs(numeric))))


def test_the_probe_reports_the_solves_of_a_second_derivative_too(x64):
    """Reports add up: a single product solves none of the systems of a gradient penalty."""
    f, z0, x = problem("tanh")

    @jax.jit
    def report(f, probe):
        gradient = Implicit(rtol=1e-6, restart=1, cycles=1)

        def penalty(f, probe):
            def loss(x):
                return jnp.sum(solve(f, z0, x, gradient, probe))

            return jnp.sum(jax.grad(loss)(x) ** 2)

        return jax.grad(penalty, argnums=1)(f, probe)

    assert report(f, BackwardReport.zeros()).fallback >= 2


@jax.custom_vjp
def reverse_only_tanh(v):
    return jnp.tanh(v)


reverse_only_tanh.defvjp(
    lambda v: (jnp.tanh(v), jnp.tanh(v)), lambda value, g: (g * (1 - value**2),)
)


@pytest.mark.parametrize("gradient", ["implicit", "neumann"])
def test_a_map_without_forward_mode_has_gradients_under_vmap_and_refuses_tangents(gradient, x64):
    """Fused attention kernels are such maps."""
    xs = jnp.array([[0.3, -0.7], [1.0, 0.1]])

    def loss(act, w, xs):
        f = lambda z, x: act(w @ z + x)  # noqa: E731
        one = lambda x: solve(f, jnp.zeros(2), x, GRADIENTS[gradient])  # noqa: E731
        return jnp.sum(jax.vmap(one)(xs))

    w = jnp.array([[0.4, 0.2], [-0.3, 0.1]])
    actual, expected = (
        jax.jit(jax.grad(lambda w, xs, act=act: loss(act, w, xs), (0, 1)))(w, xs)
        for act in (reverse_only_tanh, jnp.tanh)
    )
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(lambda w: loss(reverse_only_tanh, w, xs), (w,), (w,))


def test_what_the_examples_share_gets_one_gradient(x64):
    """No single example owns the tangent and the probe; the Jacobian of each example uses both."""

    def loss(shared, xs, probe):
        one = lambda x: solve(lambda z, x: shared + x * z, jnp.zeros(3), x, EXACT, probe)  # noqa: E731
        return jnp.sum(jax.vmap(one)(xs))

    xs = jnp.array([0.1, 0.5])
    probe = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), BackwardReport.zeros())
    slope, report = jax.jit(jax.grad(loss, (0, 2)))(jnp.ones(3), xs, probe)
    np.testing.assert_allclose(slope, 1 / 0.9 + 1 / 0.5, rtol=1e-12)
    assert report.products >= 2
