"""The derivatives of a map as linear operators, without a matrix."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import PyTree

from .._iteration import Map
from .._linear import solve_identity_minus
from ._trees import subtract


def state_jacobian(f: Map, z: PyTree, x: PyTree) -> lx.FunctionLinearOperator:
    """`J = df/dz` at one state and input. Its transpose is `.T`, a product `.mv(v)`."""

    def product(v: PyTree) -> PyTree:
        return jax.jvp(lambda z: f(z, x), (z,), (v,))[1]

    return lx.FunctionLinearOperator(product, jax.eval_shape(lambda: z))


def input_jacobian(f: Map, z: PyTree, x: PyTree) -> lx.FunctionLinearOperator:
    """`df/dx` at one state and input, with respect to the floating-point arrays of x: its vectors
    are pytrees like `eqx.filter(x, eqx.is_inexact_array)`."""
    floats, rest = eqx.partition(x, eqx.is_inexact_array)

    def product(v: PyTree) -> PyTree:
        return jax.jvp(lambda floats: f(z, eqx.combine(floats, rest)), (floats,), (v,))[1]

    return lx.FunctionLinearOperator(product, jax.eval_shape(lambda: floats))


class Jacobian(eqx.Module):
    """`v -> J v`."""

    f: Map

    def __call__(self, z: PyTree, x: PyTree, v: PyTree) -> PyTree:
        return state_jacobian(self.f, z, x).mv(v)


class Gram(eqx.Module):
    """`v -> A^T A v`, for `A = J`, or `A = I - J` where `minus` holds: its eigenvalues are the
    squares of the singular values of A."""

    f: Map
    minus: bool = False

    def __call__(self, z: PyTree, x: PyTree, v: PyTree) -> PyTree:
        jacobian = state_jacobian(self.f, z, x)
        forward, backward = jacobian.mv, jacobian.T.mv
        if not self.minus:
            return backward(forward(v))
        w = subtract(v, forward(v))
        return subtract(w, backward(w))


class InverseGram(eqx.Module):
    """`v -> ((I - J)^T (I - J))^-1 v`, by two solves with GMRES; NaN if one of them misses its
    tolerance. Its largest eigenvalue is `sigma_min(I - J)^-2`."""

    f: Map
    rtol: float
    restart: int = eqx.field(default=20, static=True)
    cycles: int = eqx.field(default=5, static=True)

    def __call__(self, z: PyTree, x: PyTree, v: PyTree) -> PyTree:
        jacobian = state_jacobian(self.f, z, x)
        for product in (jacobian.T.mv, jacobian.mv):
            solution = solve_identity_minus(
                product, v, rtol=self.rtol, restart=self.restart, cycles=self.cycles
            )
            v = jtu.tree_map(lambda a, ok=solution.solved: jnp.where(ok, a, jnp.nan), solution.u)
        return v
