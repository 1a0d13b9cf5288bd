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
from ._neumann import Neumann


class Implicit(AbstractCotangentSolve):
    """The gradient of the fixed point itself: `dz*/dx = (I - df/dz)^-1 df/dx`.

    A cotangent g of z* is replaced by the solution `u` of `(I - df/dz)^T u = g`, found by GMRES
    from vector-Jacobian products alone, and u is back-propagated through one evaluation
    of f at z*. Memory does not depend on the number of iterations. The gradient with respect to z0
    is zero.

    The solution is used where it can be trusted: the relative residual of the loop is at most
    `trust`, the linear solve reached its tolerance, and `|u| <= largest |g|` (near a merging of
    fixed points u grows without bound, and one example outweighs its batch). Otherwise nothing
    raises, and the backward pass uses a fallback: where the linear solve alone failed, its best
    iterate if the residual of that is below those of `fallback` and of `u = 0`; else `fallback`,
    scaled down to `largest |g|`. A stricter tolerance therefore makes no gradient worse. The
    `probe` reports what was used and why (see `BackwardReport`). GMRES stops after a cycle that
    reduces the residual by less than 10%, since later cycles rarely reduce it at all: then a
    longer `restart` helps, more cycles do not.

    Derivatives of any order and in both modes (`jax.grad`, `jvp`, `jacfwd`, `hessian`, gradient
    penalties, ...) are those of the fixed point, to the tolerances of their linear solves and of
    the loop. A tangent solves `(I - df/dz) t = v` with Jacobian-vector products; only solves of a
    reverse pass can report to a probe. An f without forward mode (a `jax.custom_vjp` inside, as in
    fused attention) has its first gradient in reverse mode; `jvp` then raises JAX's `TypeError`,
    and so do second derivatives that need it.

    Within `jax.shard_map` give `check_vma=False`. Meshes with explicit axes are not supported: use
    `AxisType.Auto` under `jax.jit`.

    When not to use it: if the loop does not converge. Then there is no fixed point to
    differentiate, and the result is not the gradient of what was computed.

    **Arguments:**

    - `rtol`: tolerance on `|(I - J)^T u - g| / |g|`, in the 2-norm.
    - `cycles`: maximum number of restart cycles of GMRES; stops early if a cycle reduces the
        residual by less than 10%.
    - `restart`: maximum number of vector-Jacobian products per cycle, besides the one that judges
        it; uses this many copies of the state. A cycle ends at the product that reaches `rtol`.
    - `solver`: a fixed-point solver for `u = J^T u + g` instead of GMRES, for example `Anderson`.
        Its tolerances are replaced by `rtol`, and it makes at most `cycles * restart` steps.
    - `trust`: largest relative residual of the loop (2-norm) at which the system is solved at all.
    - `largest`: largest `|u| / |g|`.
    - `fallback`: the gradient in place of the solution, which makes its `steps` products; by
        default 8 terms of the series with damping 0.5. `Neumann(1)` is `u = g`.

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
    trust: Scalar = traced_float(jnp.inf)
    largest: Scalar = traced_float(jnp.inf)
    fallback: Neumann = Neumann(8, damping=0.5)

    def __check_init__(self):
        check_not_negative(self, "rtol", "trust", "largest")
        if not isinstance(self.solver, AbstractSolver | None):
            raise ValueError(
                f"Implicit: solver = {type(self.solver).__name__} is not a solver of eqloop that "
                "converges: use eqloop.Anderson(), say"
            )
        if not isinstance(self.fallback, Neumann):
            raise ValueError(
                f"Implicit: fallback = {self.fallback!r} must be an eqloop.Neumann(steps, damping)"
            )
        for name in ("cycles", "restart"):
            if getattr(self, name) < 1:
                raise ValueError(f"Implicit: {name} = {getattr(self, name)} must be at least 1")

    def solve(self, product, cotangent, residual):
        # Comparisons with NaN are False: NaN is neither trusted nor small enough.
        trusted = residual <= jnp.asarray(self.trust, residual.dtype)
        # A right-hand side of zero takes no products, where the whole batch has it.
        right_side = jtu.tree_map(lambda a: jnp.where(trusted, a, 0), cotangent)
        u, remaining, products, solved = self._solve_linear(product, right_side)
        size = two_norm(cotangent)
        limit = jnp.asarray(self.largest, size.dtype) * size
        small = (size == 0) | (two_norm(u) <= limit)
        usable = trusted & solved & small
        u, remaining, is_series, further = jax.lax.cond(
            eqxi.unvmap_all(usable),
            lambda: (u, remaining, jnp.zeros_like(usable), jnp.zeros_like(products)),
            lambda: self._fall_back(
                product, cotangent, residual, limit, u, remaining, usable, trusted & small
            ),
        )
        return u, BackwardReport.of(
            residual=remaining,
            products=products + further,
            fallback=jnp.logical_not(usable),
            untrusted=jnp.logical_not(trusted),
            missed=trusted & jnp.logical_not(solved),
            oversized=trusted & solved & jnp.logical_not(small),
            series=is_series,
        )

    def _solve_linear(self, product, g):
        if self.solver is None:
            return solve_identity_minus(
                product, g, rtol=self.rtol, restart=self.restart, cycles=self.cycles
            )[:4]
        # With a right-hand side of norm 1, the absolute tolerance is a relative one.
        unit_g, scale = normalise(g)
        rtol = jnp.asarray(self.rtol, scale.dtype)
        solver = dataclasses.replace(self.solver, rtol=0.0, atol=rtol, norm=two_norm)

        def adjoint(u):
            return jtu.tree_map(lambda a, b: a + b, product(u), unit_g)

        _, solve = iterate(adjoint, solver, unit_g, max_steps=self.cycles * self.restart)
        u = jtu.tree_map(lambda a: a * scale.astype(a.dtype), solve.best)
        # The solver's residual is relative to u (to first order), ours to g, which has norm 1.
        residual = solve.residual * two_norm(solve.best)
        return u, residual, solve.evaluations, solve.converged

    def _fall_back(self, product, g, residual, limit, u, remaining, usable, comparable):
        """Where u is not `usable`: u all the same if it is `comparable` and leaves less than the
        series and less than `u = 0`, which is no gradient; else the series.

        **Returns:**

        The vector, its residual, whether it is the series, and the number of products made here.
        """
        size = two_norm(g)
        series, report = self.fallback.solve(product, g, residual)
        length = two_norm(series)
        shrink = jnp.where(length > limit, limit / length, 1)
        series = jtu.tree_map(
            lambda a, b: jnp.where(length < jnp.inf, a * shrink.astype(a.dtype), b), series, g
        )

        def left_by(u):
            difference = jtu.tree_map(lambda a, b, c: a - b - c, u, product(u), g)
            return two_norm(difference) / jnp.where(size > 0, size, 1)

        # Recomputed: far from the solution, a fixed-point solver's own residual is inexact.
        left_by_u, left_by_series = left_by(u), left_by(series)
        keeps_u = comparable & (left_by_u < jnp.minimum(left_by_series, 1))
        is_series = jnp.logical_not(usable | keeps_u)
        u = jtu.tree_map(lambda a, b: jnp.where(is_series, b, a), u, series)
        left = jnp.where(is_series, left_by_series, left_by_u)
        remaining = jnp.where(usable, remaining, left)
        further = jnp.where(usable, 0, report.products.astype(jnp.int32) + 2)
        return u, remaining, is_series, further
