"""Differentiation by the implicit function theorem."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu

from .._linear import solve_identity_minus
from .._norms import normalise, two_norm
from .._solution import BackwardReport
from .._solver import AbstractSolver, check_not_negative, iterate, setting
from ._cotangent import AbstractCotangentSolve


class Implicit(AbstractCotangentSolve):
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
    - `solver`: a solver of fixed points for `u = J^T u + g` in place of GMRES, `Anderson` say. It
        stops at the product that reaches the tolerance, GMRES only after a whole cycle. Its
        tolerances are replaced by `rtol`; it takes at most `max_steps * restart` steps.
    """

    rtol: float = setting(1e-3)
    max_steps: int = eqx.field(default=10, static=True)
    restart: int = eqx.field(default=10, static=True)
    solver: AbstractSolver | None = None

    def __check_init__(self):
        check_not_negative(self, "rtol")
        if not isinstance(self.solver, AbstractSolver | None):
            raise ValueError(
                f"Implicit: solver = {type(self.solver).__name__} is not a solver of eqloop that "
                "converges: use eqloop.Anderson(), say"
            )
        for name in ("max_steps", "restart"):
            if getattr(self, name) < 1:
                raise ValueError(f"Implicit: {name} = {getattr(self, name)} must be at least 1")

    def solve(self, product, cotangent):
        if self.solver is None:
            found = solve_identity_minus(
                product, cotangent, rtol=self.rtol, restart=self.restart, cycles=self.max_steps
            )
            u, residual, products = found.u, found.residual, found.products
            solved = found.solved
        else:
            u, residual, products, solved = self._iterate(self.solver, product, cotangent)
        u = jtu.tree_map(lambda a, g: jnp.where(solved, a, g), u, cotangent)
        fallback = jnp.logical_not(solved).astype(residual.dtype)
        return u, BackwardReport(residual, fallback, products.astype(residual.dtype))

    def _iterate(self, solver: AbstractSolver, product, cotangent):
        # A unit right-hand side turns an absolute tolerance into a relative one.
        unit, scale = normalise(cotangent)
        rtol = jnp.asarray(self.rtol, scale.dtype)
        solver = dataclasses.replace(solver, rtol=0.0, atol=rtol, norm=two_norm)  # pyright: ignore

        def adjoint(u):
            return jtu.tree_map(lambda a, g: a + g, product(u), unit)

        _, progress = iterate(adjoint, solver, unit, max_steps=self.max_steps * self.restart)
        u = jtu.tree_map(lambda a: a * scale.astype(a.dtype), progress.best)
        # The solver's residual is relative to u (to first order), ours to g, which has norm 1.
        residual = progress.residual * two_norm(progress.best)
        return u, residual, progress.evaluations, progress.converged
