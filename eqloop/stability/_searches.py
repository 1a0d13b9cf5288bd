"""Two searches for points with small `|f(z) - z|`, from any start: damped Newton-Krylov steps, and
minimisation."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._iteration import Map
from .._norms import normalise, two_norm
from .._solver import AbstractNewton, AbstractSolver, Iterate, Proposal, iterate
from ._trees import subtract

HALVINGS = 8
PRODUCTS = 40
"""Maximum number of steps of conjugate gradients per step of the minimisation."""


class DampedNewton(AbstractNewton):
    """`z <- z + t d` with `(I - df/dz) d = f(z) - z`, where t is the first of 1, 1/2, 1/4, ... that
    decreases `|f(z) - z|`. The solve ends if none of them does.

    Fixed points of any stability attract it, saddles included. When not to use it: to solve for the
    fixed point that iteration reaches; steps may lead to another one.
    """

    explain = AbstractSolver.explain

    def start(self, f: Callable, z: PyTree) -> None:
        del f, z

    def propose(self, f: Callable, at: Iterate, state: None) -> Proposal:
        forcing = jnp.minimum(jnp.asarray(self.forcing, at.residual.dtype), at.residual)
        full, _, evaluations = self.newton(f, at.z, at, forcing)
        direction, size = subtract(full, at.z), two_norm(subtract(at.value, at.z))

        def move(t: Float[Array, ""]) -> PyTree:
            return jtu.tree_map(lambda a, d: a + t.astype(a.dtype) * d, at.z, direction)

        def fails(t: Float[Array, ""]) -> Bool[Array, ""]:
            z = move(t)
            return jnp.logical_not(two_norm(subtract(f(z), z)) <= (1 - 1e-4 * t) * size)

        def halve(search):
            t, _, halvings = search
            return t / 2, fails(t / 2), halvings + 1

        one = jnp.ones_like(size)
        t, failed, halvings = jax.lax.while_loop(
            lambda search: search[1] & (search[2] < HALVINGS), halve, (one, fails(one), 0)
        )
        # An iterate that is not finite ends the solve.
        return Proposal(move(jnp.where(failed, jnp.nan, t)), state, evaluations + 1 + halvings)


@eqx.filter_jit
def newton(
    f: Map, zs: PyTree, xs: PyTree, tolerances: Array, max_steps: Array
) -> tuple[PyTree, Bool[Array, " rows"]]:
    """`DampedNewton`. Each example ends where `|f(z) - z|` is at most its tolerance.

    **Returns:**

    The last iterates, and a mask of those that are a minimum of `|f(z) - z|`: none is known to be.
    """

    def one(f, z, x, tolerance):
        solver = DampedNewton(rtol=0.0, atol=tolerance, plain=0, restart=20, cycles=3)
        return iterate(lambda z: f(z, x), solver, z, max_steps=max_steps)[0]

    ends = eqx.filter_vmap(one, in_axes=(None, 0, 0, 0))(f, zs, xs, tolerances)
    return ends, jnp.zeros(tolerances.shape, bool)


class _Search(NamedTuple):
    """`damping` is mu of Levenberg and Marquardt, `growth` its factor at the next rejection."""

    z: Float[Array, " n"]
    damping: Float[Array, ""]
    growth: Float[Array, ""]
    steps: Int[Array, ""]
    ended: Bool[Array, ""]


@eqx.filter_jit
def minimise(
    f: Map, zs: PyTree, xs: PyTree, tolerances: Array, max_steps: Array
) -> tuple[PyTree, Bool[Array, " rows"]]:
    """Minimise `q(z) = |r(z)|^2 / 2` for `r(z) = f(z) - z`, by Levenberg-Marquardt steps d with
    `(A^T A + mu I) d = -A^T r`, `A = dr/dz`, solved by conjugate gradients without a matrix.

    Each example ends where `|r|` is at most its tolerance, where `A^T r` is zero to rounding, or
    where no step decreases q.

    **Returns:**

    The last iterates, and a mask of the examples that ended within `max_steps`.

    **Source:** Nielsen 1999, "Damping parameter in Marquardt's method", for mu.
    """

    def one(f, z, x, tolerance):
        start, unravel = ravel_pytree(z)
        eps = jnp.finfo(start.dtype).eps

        def residual(z):
            return ravel_pytree(f(unravel(z), x))[0] - z

        def step(search: _Search) -> _Search:
            z, damping, growth = search.z, search.damping, search.growth
            r, product = jax.linearize(residual, z)
            transposed = jax.linear_transpose(product, z)
            gradient = transposed(r)[0]
            size = jnp.linalg.norm(r)
            # Any number of steps gives a direction of descent.
            d, _ = cg(
                lambda v: transposed(product(v))[0] + damping * v,
                -gradient,
                tol=jnp.minimum(0.1, size / (size + jnp.linalg.norm(z))),  # pyright: ignore[reportArgumentType]
                maxiter=min(PRODUCTS, 2 * z.size),
            )
            moved = residual(z + d)
            image = product(d)
            # Differences of norms would cancel: both decreases are sums of products instead.
            predicted = -gradient @ d - image @ image / 2
            ratio = (r - moved) @ (r + moved) / (2 * predicted)
            accepted = (predicted > 0) & (ratio > 1e-4)
            shrunk = damping * jnp.maximum(1 / 3, 1 - (2 * ratio - 1) ** 3)
            return _Search(
                z=jnp.where(accepted, z + d, z),
                damping=jnp.where(accepted, shrunk, damping * growth),
                growth=jnp.where(accepted, 2.0, 2 * growth).astype(growth.dtype),
                steps=search.steps + 1,
                ended=(size <= tolerance)
                | (jnp.linalg.norm(gradient) <= 10 * eps * size)
                | (jnp.linalg.norm(d) <= eps * jnp.linalg.norm(z))
                | jnp.logical_not(jnp.isfinite(size)),
            )

        # Past this damping the steps are below rounding.
        end = jax.lax.while_loop(
            lambda s: ~s.ended & (s.steps < max_steps) & (s.damping < 1 / eps),
            step,
            _Search(
                start,
                jnp.asarray(1e-2, start.dtype),
                jnp.asarray(2.0, start.dtype),
                jnp.zeros((), jnp.int32),
                jnp.zeros((), bool),
            ),
        )
        return unravel(end.z), end.ended | (end.damping >= 1 / eps)

    return eqx.filter_vmap(one, in_axes=(None, 0, 0, 0))(f, zs, xs, tolerances)


@eqx.filter_jit
def measure(
    f: Map, zs: PyTree, xs: PyTree, sizes: Float[Array, " rows"]
) -> tuple[Array, Array, Array]:
    """`|r|` for `r = f(z) - z`; the slope `|A^T r| / |r|` of `|r|`, for `A = dr/dz` (0 if r is);
    and the least `|r|` down the slope, at distances of 1 % and 10 % of the size."""

    def one(f, z, x, size):
        def residual(z):
            return subtract(f(z, x), z)

        r, transposed = jax.vjp(residual, z)
        down, length = normalise(transposed(r)[0])

        def after(distance):
            step = distance * size
            moved = jtu.tree_map(lambda a, d: a - step.astype(a.dtype) * d, z, down)
            return two_norm(residual(moved))

        norm = two_norm(r)
        slope = jnp.where(norm > 0, length / jnp.where(norm > 0, norm, 1), 0)
        return norm, slope, jnp.minimum(after(0.01), after(0.1))

    return eqx.filter_vmap(one, in_axes=(None, 0, 0, 0))(f, zs, xs, sizes)
