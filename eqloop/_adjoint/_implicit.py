"""Differentiation by the implicit function theorem."""

import dataclasses

import equinox as eqx
import equinox.internal as eqxi
import jax
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
    not depend on the number of iterations. The gradient with respect to z0 is zero.

    It never raises. Where the linear solve misses its tolerance, its best iterate is used, if that
    leaves less than `u = g` does, `|J^T g| / |g|`, and less than `u = 0`; otherwise `u = g`, the
    gradient of `OneStep`. So a stricter tolerance makes no gradient worse. The `probe` reports both
    (see `BackwardReport`). GMRES stops after a cycle that takes less than a tenth off the residual,
    since the cycles after it mostly take off nothing: then a longer `restart` helps, more cycles do
    not.

    Derivatives of any order and in both modes (`jax.grad`, `jvp`, `jacfwd`, `hessian`, gradient
    penalties, ...) are those of the fixed point, each to the tolerance of its linear solves and of
    the loop. A tangent solves `(I - df/dz) t = v` with Jacobian-vector products; only solves of a
    reverse pass can report to a probe. An f without forward mode (a `jax.custom_vjp` inside, as in
    fused attention) has its first gradient in reverse mode; `jvp` then raises JAX's `TypeError`,
    and so do second derivatives that need it.

    GMRES does not work within `jax.pmap` and `jax.shard_map` (it raises `ValueError`), and what
    `jax.export` makes of it cannot be serialised (LAPACK). `Implicit(solver=Anderson())` works
    there, with `jax.shard_map(..., check_vma=False)`. A mesh with explicit axes is not supported:
    take one with `AxisType.Auto` under `jax.jit`.

    When not to use it: where the loop has not converged there is no fixed point to
    differentiate, and the answer is the gradient of something that was not computed.

    **Arguments:**

    - `rtol`: tolerance on `|(I - J)^T u - g| / |g|`, 2-norms.
    - `max_steps`: restart cycles of GMRES at most; fewer where one takes less than a tenth off the
        residual.
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
            u, residual, products, solved = found.u, found.residual, found.products, found.solved
        else:
            u, residual, products, solved = self._iterate(self.solver, product, cotangent)
        missed = jnp.logical_not(solved)
        u, residual, further = jax.lax.cond(
            eqxi.unvmap_any(missed),
            lambda: _where_missed(missed, product, cotangent, u, residual),
            lambda: (u, residual, jnp.zeros_like(products)),
        )
        products = (products + further).astype(residual.dtype)
        return u, BackwardReport(residual, missed.astype(residual.dtype), products)

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


def _where_missed(missed, product, g, u, residual):
    """Where the solve missed its tolerance: the better of its best iterate `u` and of `u = g`, its
    residual, and the products that this took. Another thing to put in place of `u` is a further
    candidate here."""
    unit, scale = normalise(g)
    one_step = two_norm(product(unit))
    left = jtu.tree_map(lambda a, b, c: a - b - c, u, product(u), g)
    # That of a solver of fixed points is not exact far from the solution.
    exact = two_norm(left) / scale
    # Zero has a residual of 1, and would be no gradient. A nan is below nothing.
    takes_g = missed & jnp.logical_not(exact < jnp.minimum(one_step, 1))
    u = jtu.tree_map(lambda a, b: jnp.where(takes_g, b, a), u, g)
    residual = jnp.where(missed, jnp.where(takes_g, one_step, exact), residual)
    return u, residual, jnp.where(missed, 2, 0).astype(jnp.int32)
