"""GMRES for `u - J u = g` against dense least squares over its Krylov space, step by step; each
example of a batch is solved as if it were alone."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import pytest

from eqloop._linear import solve_identity_minus

SIZE = 8


@functools.partial(jax.jit, static_argnames=("restart", "cycles"))
def solve(j, g, rtol, restart=SIZE, cycles=1):
    """Solve with `j` and the state as two leaves of a dictionary, so that the solver sees a
    pytree."""

    def product(u):
        image = j @ jnp.concatenate([u["a"], jnp.ravel(u["b"])])
        return {"a": image[:2], "b": image[2:].reshape(2, -1)}

    tree = {"a": g[:2], "b": g[2:].reshape(2, -1)}
    solution = solve_identity_minus(product, tree, rtol=rtol, restart=restart, cycles=cycles)
    return solution._replace(u=jnp.concatenate([solution.u["a"], jnp.ravel(solution.u["b"])]))


def system(dtype):
    j, g = (
        jr.normal(jr.key(k), shape, jnp.float64) for k, shape in ((1, (SIZE, SIZE)), (2, (SIZE,)))
    )
    return 0.5 * j.astype(dtype), g.astype(dtype)


def least_residuals(j, g):
    """Least-squares residuals over the Krylov spaces of dimension 1, 2, ..., by NumPy in
    float64."""
    a, g = np.eye(len(g)) - np.asarray(j, np.float64), np.asarray(g, np.float64)
    space, residuals = [g / np.linalg.norm(g)], []
    for _ in range(len(g)):
        images = a @ np.stack(space, 1)
        y = np.linalg.lstsq(images, g)[0]
        residuals.append(np.linalg.norm(g - images @ y) / np.linalg.norm(g))
        rest = images[:, -1]
        for _ in range(2):
            for vector in space:
                rest = rest - (vector @ rest) * vector
        space.append(rest / np.linalg.norm(rest))
    return np.array(residuals)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_residual_of_each_step_is_that_of_least_squares_over_the_krylov_space(dtype, x64):
    """A tolerance between the residuals of two steps stops GMRES at the later step; after n
    products the solution is that of the dense system. One more product computes the residual."""
    j, g = system(dtype)
    least = least_residuals(j, g)
    rounding = 50 * float(jnp.finfo(dtype).eps)
    least[-1] = rounding
    assert np.all(least[:-1] > 1.05 * least[1:])
    solutions = jax.vmap(lambda rtol: solve(j, g, rtol))(jnp.asarray(1.02 * least, dtype))
    np.testing.assert_array_equal(solutions.products, np.arange(1, SIZE + 1) + 1)
    np.testing.assert_allclose(solutions.residual[:-1], least[:-1], rtol=1e-5)
    assert bool(jnp.all(solutions.solved))
    exact = np.linalg.solve(np.eye(SIZE) - np.asarray(j, np.float64), np.asarray(g, np.float64))
    np.testing.assert_allclose(solutions.u[-1], exact, rtol=50 * rounding)
    residuals = [u - j @ u - g for u in solutions.u]
    np.testing.assert_allclose(
        solutions.residual, np.linalg.norm(residuals, axis=1) / np.linalg.norm(g), atol=rounding
    )


def test_each_example_of_a_batch_has_its_own_products_and_result(x64):
    """The examples are easy, zero, NaN, an eigenvector, and one that a short cycle cannot solve."""
    j, g = system(jnp.float64)
    vector = jnp.linalg.eigh(j + j.T)[1][:, 0]
    symmetric = jnp.stack([j, j, j, j + j.T, jnp.roll(jnp.eye(SIZE), 1, 0)])
    right = jnp.stack([g, 0 * g, g * jnp.nan, vector, jnp.zeros(SIZE).at[0].set(1)])
    rtol = jnp.array([0.5, 0.1, 0.1, 1e-6, 1e-6])
    together = jax.vmap(lambda *arguments: solve(*arguments, restart=4, cycles=9))(
        symmetric, right, rtol
    )
    alone = [
        solve(*arguments, restart=4, cycles=9)
        for arguments in zip(symmetric, right, rtol, strict=True)
    ]
    assert [int(solution.products) for solution in alone] == together.products.tolist()
    for i, solution in enumerate(alone):
        np.testing.assert_allclose(together.u[i], solution.u, rtol=1e-12)
        np.testing.assert_allclose(together.residual[i], solution.residual, rtol=1e-9, atol=1e-14)
    for name, ended in (("successful", [1, 1, 0, 1, 0]), ("stagnation", [0, 0, 1, 0, 1])):
        result = getattr(lx.RESULTS, name)
        np.testing.assert_array_equal(together.result == result, ended)
        np.testing.assert_array_equal([solution.result == result for solution in alone], ended)
    assert together.products[1:4].tolist() == [0, 2, 2]
    np.testing.assert_array_equal(alone[1].u, 0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_breakdown_ends_with_the_solution_or_with_the_best_that_the_space_has(dtype, x64):
    """`I - J` is diagonal with k distinct values, one of which may be zero."""
    eigenvalues = jnp.array([0.5, 0.5, 0.2, 0.2, 0.2, -1.0, -1.0, -1.0], dtype)
    ones = jnp.ones(SIZE, dtype)
    happy = solve(jnp.diag(eigenvalues), ones, 0.0, cycles=1)
    assert happy.products == 3 + 1
    np.testing.assert_allclose(happy.u, 1 / (1 - eigenvalues), rtol=1e-5)
    singular = solve(jnp.diag(eigenvalues.at[:2].set(1)), ones, 1e-3, cycles=9)
    assert singular.result == lx.RESULTS.stagnation
    np.testing.assert_allclose(singular.residual, np.sqrt(2 / SIZE), rtol=1e-5)
    assert float(jnp.max(jnp.abs(singular.u))) < 10
    consistent = solve(jnp.diag(eigenvalues.at[:2].set(1)), ones.at[:2].set(0), 1e-5)
    assert consistent.result == lx.RESULTS.successful
    nothing = solve(jnp.eye(SIZE, dtype=dtype), ones, 1e-3)
    assert nothing.result == lx.RESULTS.stagnation
    np.testing.assert_allclose(nothing.residual, 1, rtol=1e-6)
    np.testing.assert_array_equal(nothing.u, 0)


def test_a_system_out_of_reach_of_the_precision_is_told():
    """`I - J` is Hilbert's matrix, whose condition number is 1e10, in float32."""
    n = jnp.arange(SIZE, dtype=jnp.float32)
    hilbert = 1 / (n[:, None] + n[None] + 1)
    solution = solve(jnp.eye(SIZE) - hilbert, jr.normal(jr.key(0), (SIZE,)), 1e-6, cycles=9)
    assert not solution.solved
    assert solution.result == lx.RESULTS.stagnation
    assert solution.residual < 1


def test_leaves_of_two_precisions_keep_theirs(x64):
    g = (jnp.ones(2, jnp.float32), jnp.ones(3))
    solution = solve_identity_minus(
        lambda u: jax.tree.map(lambda leaf: leaf / 2, u), g, rtol=1e-6, restart=3, cycles=1
    )
    assert [leaf.dtype for leaf in solution.u] == [jnp.float32, jnp.float64]
    assert solution.products == 2
    for leaf in solution.u:
        np.testing.assert_allclose(leaf, 2, rtol=1e-6)
