"""Differentiation by the implicit function theorem."""

import dataclasses

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from .._iteration import Scalar
from .._linear import solve_identity_minus
from .._norms import normalise, two_norm
from .._solution import BackwardReport
from .._solver import AbstractSolver, check_not_negative, iterate, traced_float
from ._cotangent import AbstractCotangentSolve


class Implicit(AbstractCotangentSolve):
    """The gradient of the fixed point itself: `dz*/dx = (I - df/dz)^-1 df/dx`.

    A cotangent g of z* is replaced by the solution `u` of `(I - df/dz)^T u = g`, found by GMRES
    (Lineax) from vector-Jacobian products alone, and u is back-propagated through one evaluation
    of f at z*. Memory does not depend on the number of iterations. The gradient with respect to z0
    is zero.

    A linear solve that misses its tolerance does not raise. The backward pass uses the best
    iterate if its residual is below those of `u = g`, which is `|J^T g| / |g|`, and of `u = 0`;
    otherwise it uses `u = g`, the gradient of `OneStep`. A stricter tolerance therefore makes no
    gradient worse. The `probe` reports residual and fallback (see `BackwardReport`). GMRES stops
    after a cycle that reduces the residual by less than 10%, since later cycles rarely reduce it
    at all: then a longer `restart` helps, more cycles do not.

    Derivatives of any order and in both modes (`jax.grad`, `jvp`, `jacfwd`, `hessian`, gradient
    penalties, ...) are those of the fixed point, to the tolerances of their linear solves and of
    the loop. A tangent solves `(I - df/dz) t = v` with Jacobian-vector products; only solves of a
    reverse pass can report to a probe. An f without forward mode (a `jax.custom_vjp` inside, as in
    fused attention) has its first gradient in reverse mode; `jvp` then raises JAX's `TypeError`,
    and so do second derivatives that need it.

    GMRES does not work within `jax.pmap` and `jax.shard_map` (it raises `ValueError`), and
    `jax.export` cannot serialise it (LAPACK). `Implicit(solver=Anderson())` works there, with
    `jax.shard_map(..., check_vma=False)`. Meshes with explicit axes are not supported: use
    `AxisType.Auto` under `jax.jit`.

    When not to use it: if the loop does not converge. Then there is no fixed point to
    differentiate, and the result is not the gradient of what was computed.

    **Arguments:**

    - `rtol`: tolerance on `|(I - J)^T u - g| / |g|`, in the 2-norm.
    - `cycles`: maximum number of restart cycles of GMRES; stops early if a cycle reduces the
        residual by less than 10%.
    - `restart`: vector-Jacobian products per cycle; uses this many copies of the state.
    - `solver`: a fixed-point solver for `u = J^T u + g` instead of GMRES, for example `Anderson`.
        It stops at the product that reaches the tolerance, GMRES only after a full cycle. Its
        tolerances are replaced by `rtol`, and it makes at most `cycles * restart` steps.

    **Raises** `ValueError` for an argument out of range.

    **Source:** deep equilibrium models, Bai et al. 2019, arXiv 1909.01377.

    ```python
    >>> import eqloop, jax, jax.numpy as jnp
    >>> def state(x):
    ...     f, z0 = lambda z, x: 0.5 * z + x, jnp.zeros(())
    ...     solver, gradient = eqloop.FixedPoint(), eqloop.Implicit()
    ...     return eqloop.equilibrium(f, z0, x, solver=solver, gradient=gradient).state
    >>> print(f"{jax.grad(state)(1.0):.4f}")         # z* = 2 x
    2.0000

    ```
    """

    rtol: Scalar = traced_float(1e-3)
    cycles: int = eqx.field(default=10, static=True)
    restart: int = eqx.field(default=10, static=True)
    solver: AbstractSolver | None = None

    def __check_init__(self):
        check_not_negative(self, "rtol")
        if not isinstance(self.solver, AbstractSolver | None):
            raise ValueError(
                f"Implicit: solver = {type(self.solver).__name__} is not a solver of eqloop that "
                "converges: use eqloop.Anderson(), say"
            )
        for name in ("cycles", "restart"):
            if getattr(self, name) < 1:
                raise ValueError(f"Implicit: {name} = {getattr(self, name)} must be at least 1")

    def solve(self, product, cotangent):
        if self.solver is None:
            u, residual, products, solved, _ = solve_identity_minus(
                product, cotangent, rtol=self.rtol, restart=self.restart, cycles=self.cycles
            )
        else:
            u, residual, products, solved = self._iterate(self.solver, product, cotangent)
        missed = jnp.logical_not(solved)
        u, residual, further = jax.lax.cond(
            eqxi.unvmap_any(missed),
            lambda: _replace_missed(missed, product, cotangent, u, residual),
            lambda: (u, residual, jnp.zeros_like(products)),
        )
        products = (products + further).astype(residual.dtype)
        return u, BackwardReport(residual, missed.astype(residual.dtype), products)

    def _iterate(self, solver: AbstractSolver, product, cotangent):
        # With a right-hand side of norm 1, the absolute tolerance is a relative one.
        unit_cotangent, scale = normalise(cotangent)
        rtol = jnp.asarray(self.rtol, scale.dtype)
        solver = dataclasses.replace(solver, rtol=0.0, atol=rtol, norm=two_norm)

        def adjoint(u):
            return jtu.tree_map(lambda a, g: a + g, product(u), unit_cotangent)

        _, solve = iterate(adjoint, solver, unit_cotangent, max_steps=self.cycles * self.restart)
        u = jtu.tree_map(lambda a: a * scale.astype(a.dtype), solve.best)
        # The solver's residual is relative to u (to first order), ours to g, which has norm 1.
        residual = solve.residual * two_norm(solve.best)
        return u, residual, solve.evaluations, solve.converged


def _replace_missed(missed, product, g, u, residual):
    """If the solve missed its tolerance, choose the better of its best iterate `u` and `g`.

    **Returns:**

    The chosen vector, its residual, and the number of products made to choose it.
    """
    unit_g, scale = normalise(g)
    residual_of_g = two_norm(product(unit_g))
    difference = jtu.tree_map(lambda a, b, c: a - b - c, u, product(u), g)
    # Recomputed: far from the solution, a fixed-point solver's own residual is inexact.
    residual_of_u = two_norm(difference) / scale
    # `u = 0` has a residual of 1 and is not a gradient. A NaN compares as False: g is used.
    uses_g = missed & jnp.logical_not(residual_of_u < jnp.minimum(residual_of_g, 1))
    u = jtu.tree_map(lambda a, b: jnp.where(uses_g, b, a), u, g)
    residual = jnp.where(missed, jnp.where(uses_g, residual_of_g, residual_of_u), residual)
    return u, residual, jnp.where(missed, 2, 0).astype(jnp.int32)
