"""Differentiation by the implicit function theorem."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import PyTree

from .._iteration import stop_gradient, unroll
from .._norms import two_norm
from .._solution import BackwardReport, Equilibrium
from .._solver import approach
from ._base import AbstractGradient
from ._finish import finish


class Implicit(AbstractGradient):
    """The gradient of the fixed point itself: `dz*/dx = (I - df/dz)^-1 df/dx`.

    A cotangent g of z* becomes `u` with `(I - df/dz)^T u = g`, solved by GMRES (Lineax) with
    vector-Jacobian products alone, and goes on through one evaluation of f at z*. Memory does
    not depend on the number of iterations. It never raises: where the linear solve misses its
    tolerance, or is not finite, u = g is used, the gradient of `OneStep`, and the `probe` says so
    (see `BackwardReport`). The gradient with respect to z0 is zero.

    When not to use it: where the loop has not converged there is no fixed point to
    differentiate, and the answer is the gradient of something that was not computed.

    **Arguments:**

    - `rtol`: tolerance on `|(I - J)^T u - g| / |g|`, 2-norms.
    - `max_steps`: restart cycles of GMRES at most.
    - `restart`: vector-Jacobian products per cycle; memory is that many states.
    """

    rtol: float = 1e-3
    max_steps: int = eqx.field(default=10, static=True)
    restart: int = eqx.field(default=10, static=True)

    def run(self, f, z0, x, solver, *, max_steps, probe) -> Equilibrium:
        start, steps, result = approach(f, z0, x, solver, reserve=1, max_steps=max_steps)
        start, state = unroll(f, start, x, 1)
        probe = BackwardReport.zeros() if probe is None else probe
        frozen = stop_gradient((f, start, x))
        state = _solve_cotangent((state, probe), self, *frozen)
        return finish(start, state, steps + 1, solver, result)


@eqx.filter_custom_vjp
def _solve_cotangent(
    state_and_probe: tuple[PyTree, BackwardReport],
    gradient: Implicit,
    f: Any,
    z: PyTree,
    x: PyTree,
) -> PyTree:
    """The identity on the state, whose backward pass multiplies by `(I - df/dz)^-T`.

    Only the cotangent passes through it, never the gradient of a weight: so a `vmap` over
    examples does not make one gradient of the weights per example.
    """
    del gradient, f, z, x
    return state_and_probe[0]


@_solve_cotangent.def_fwd
def _forward(perturbed, state_and_probe, gradient, f, z, x):
    del perturbed, gradient, f, z, x
    return state_and_probe[0], None


@_solve_cotangent.def_bwd
def _backward(residuals, cotangent, perturbed, state_and_probe, gradient, f, z, x):
    del residuals, perturbed, state_and_probe
    # A part of the state that the loss does not look at comes without a cotangent.
    cotangent = jtu.tree_map(lambda a, g: jnp.zeros_like(a) if g is None else g, z, cotangent)
    _, transpose = jax.vjp(lambda z: f(z, x), z)

    def operator(u):
        return jtu.tree_map(lambda a, b: a - b, u, transpose(u)[0])

    # A unit right-hand side turns Lineax' absolute tolerance into a relative one.
    size = two_norm(cotangent)
    scale = jnp.where(size > 0, size, 1)
    unit = jtu.tree_map(lambda g: g / scale, cotangent)
    structure = jax.eval_shape(lambda: unit)
    solution = lx.linear_solve(
        lx.FunctionLinearOperator(operator, structure),
        unit,
        lx.GMRES(
            rtol=0.0,
            atol=gradient.rtol,
            norm=two_norm,
            max_steps=gradient.max_steps + 1,  # its first step only sets up
            restart=gradient.restart,
        ),
        throw=False,
    )
    residual = two_norm(jtu.tree_map(lambda a, b: a - b, operator(solution.value), unit))
    # Lineax is stricter (its last update must be small as well): the residual is what counts.
    solved = residual <= gradient.rtol
    u = jtu.tree_map(lambda a, g: jnp.where(solved, a * scale, g), solution.value, cotangent)
    report = BackwardReport(
        residual=residual, fallback=jnp.where(solved, 0.0, 1.0).astype(residual.dtype)
    )
    return u, report
