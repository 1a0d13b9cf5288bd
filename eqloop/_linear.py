"""Matrix-free solves with `I - J`, by GMRES."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from ._iteration import Scalar
from ._norms import normalise, two_norm
from ._solution import select

Vector = Float[Array, " n"]


class LinearSolution(NamedTuple):
    """The result of `solve_identity_minus`.

    **Attributes:**

    - `u`: the solution, a pytree like g.
    - `residual`: `|u - J u - g| / |g|`, recomputed from u.
    - `products`: number of products with J.
    - `solved`: whether the residual is at most the tolerance.
    - `result`: successful, stagnation, or max_steps_reached.
    """

    u: PyTree
    residual: Float[Array, ""]
    products: Int[Array, ""]
    solved: Bool[Array, ""]
    result: lx.RESULTS


class _SolveState(eqx.Module):
    """`left` is `g - (u - J u)`, `residual` its norm. `count` counts the cycles of the batch."""

    u: Vector
    left: Vector
    residual: Float[Array, ""]
    products: Int[Array, ""]
    stalled: Bool[Array, ""]
    count: Int[Array, ""]


class _CycleState(eqx.Module):
    """One cycle, with `m = restart`: `A basis[:m]^T = basis^T H` for the Hessenberg matrix H.

    `rotations` is the orthogonal Q that makes `Q H = R` upper triangular; `triangle` is `R^T`. The
    least residual over the first j columns is `|Q[j, 0]|` of that at the start of the cycle.
    `steps` counts the steps of the batch, `used` those of this example that added a column.
    """

    basis: Float[Array, "m+1 n"]
    rotations: Float[Array, "m+1 m+1"]
    triangle: Float[Array, "m m"]
    residual: Float[Array, ""]
    live: Bool[Array, ""]
    products: Int[Array, ""]
    used: Int[Array, ""]
    steps: Int[Array, ""]


def solve_identity_minus(
    product: Callable[[PyTree], PyTree],
    g: PyTree,
    *,
    rtol: Scalar,
    restart: int,
    cycles: int,
) -> LinearSolution:
    """Solve `u - J u = g` by GMRES. A solve that misses its tolerance does not raise.

    A cycle ends at the product that brings the residual down to the tolerance; one more product
    judges its result. The GMRES of Lineax and of JAX make all `restart` products of every cycle.
    Under `vmap` a cycle ends when every example has reached its tolerance; an example that has
    ended no longer changes, and has its own number of products.

    **Arguments:**

    - `product`: the map `u -> J u`.
    - `g`: the right-hand side, a pytree of arrays.
    - `rtol`: tolerance on `|u - J u - g| / |g|`, in the 2-norm.
    - `restart`: maximum number of products per cycle, besides the one that judges it; uses this
        many copies of the state.
    - `cycles`: maximum number of restart cycles; stops early, with `lx.RESULTS.stagnation`, if a
        cycle reduces the residual by less than 10%: later cycles nearly always stagnate too, and
        only a longer `restart` helps.

    **Source:** Saad and Schultz 1986, doi:10.1137/0907058.
    """
    # With a right-hand side of norm 1, the absolute tolerance is a relative one.
    unit_tree, scale = normalise(g)
    tolerance = jnp.asarray(rtol, scale.dtype)

    def ravel(tree: PyTree) -> tuple[Vector, Callable[[Vector], PyTree]]:
        # The leaves may differ in precision: the solve has the widest.
        return ravel_pytree(jtu.tree_map(lambda a: a.astype(scale.dtype), tree))

    unit_g, unravel_wide = ravel(unit_tree)

    def unravel(u: Vector) -> PyTree:
        return jtu.tree_map(lambda a, b: a.astype(b.dtype), unravel_wide(u), g)

    def operator(u: Vector) -> Vector:
        return u - ravel(product(unravel(u)))[0]

    def is_live(solve: _SolveState) -> Bool[Array, ""]:
        return (solve.residual > tolerance) & jnp.logical_not(solve.stalled)

    def cycle(solve: _SolveState) -> _SolveState:
        live = is_live(solve)
        change, products = _cycle(operator, solve, live, tolerance, min(restart, unit_g.size))
        u = solve.u + change
        left = unit_g - operator(u)
        residual = two_norm(left)
        better = live & (residual < solve.residual)  # False if the residual is NaN
        return _SolveState(
            u=jnp.where(better, u, solve.u),
            left=jnp.where(better, left, solve.left),
            residual=jnp.where(better, residual, solve.residual),
            products=solve.products + products + live.astype(jnp.int32),
            stalled=solve.stalled | (live & jnp.logical_not(residual <= 0.9 * solve.residual)),
            count=solve.count + 1,
        )

    zero = jnp.zeros((), jnp.int32)
    # If `g` is NaN, the first cycle makes no progress and we stop with `stagnation`; if it is zero,
    # there is nothing to solve.
    start = _SolveState(
        u=jnp.zeros_like(unit_g),
        left=unit_g,
        residual=jnp.where(two_norm(unit_g) == 0, 0, jnp.ones_like(tolerance)),
        products=zero,
        stalled=jnp.zeros((), bool),
        count=zero,
    )
    solve = jax.lax.while_loop(
        lambda solve: eqxi.unvmap_any(is_live(solve)) & (solve.count < cycles), cycle, start
    )
    solved = solve.residual <= tolerance
    failed = select(solve.stalled, lx.RESULTS.stagnation, lx.RESULTS.max_steps_reached, lx.RESULTS)
    return LinearSolution(
        u=unravel(scale * solve.u),
        residual=solve.residual,
        products=solve.products,
        solved=solved,
        result=select(solved, lx.RESULTS.successful, failed, lx.RESULTS),
    )


def _cycle(
    operator: Callable[[Vector], Vector],
    solve: _SolveState,
    live: Bool[Array, ""],
    tolerance: Float[Array, ""],
    restart: int,
) -> tuple[Vector, Int[Array, ""]]:
    """The change of u that leaves the least residual over the Krylov space of `solve.left`, whose
    dimension is the first that meets the tolerance, or `restart`. Also returns the number of
    products, which is 0 if this example is not `live`."""
    first, size = normalise(solve.left)
    dtype = first.dtype
    zero = jnp.zeros((), jnp.int32)
    start = _CycleState(
        basis=jnp.zeros((restart + 1, first.size), dtype).at[0].set(first),
        rotations=jnp.eye(restart + 1, dtype=dtype),
        triangle=jnp.eye(restart, dtype=dtype),
        residual=jnp.ones_like(tolerance),
        live=live,
        products=zero,
        used=zero,
        steps=zero,
    )

    def any_live(state: _CycleState) -> Bool[Array, ""]:
        return eqxi.unvmap_any(state.live) & (state.steps < restart)

    def step(state: _CycleState) -> _CycleState:
        new = _add_column(operator, state)
        return eqx.tree_at(lambda s: s.live, new, new.live & (size * new.residual > tolerance))

    state = jax.lax.while_loop(any_live, step, start)
    right = size * state.rotations[:restart, 0]

    def substitute(i: Int[Array, ""], y: Float[Array, " m"]) -> Float[Array, " m"]:
        row = state.steps - 1 - i
        left = right[row] - _dot(state.triangle[:, row], y)
        return y.at[row].set(jnp.where(row < state.used, left / state.triangle[row, row], 0))

    y = jax.lax.fori_loop(0, state.steps, substitute, jnp.zeros((restart,), dtype))
    return _dot(y, state.basis[:restart]), state.products


def _add_column(operator: Callable[[Vector], Vector], state: _CycleState) -> _CycleState:
    """One step of Arnoldi, and the rotation that makes its column of H triangular.

    An example that is not live keeps its columns; its next basis vector is zero. It ends if the new
    column depends on the others: then the system is singular on the Krylov space.
    """
    j = state.steps
    image = operator(state.basis[j])
    # Classical Gram-Schmidt, twice: as orthogonal as Householder's, and only products with `basis`.
    coefficients = _dot(state.basis, image)
    rest = image - _dot(coefficients, state.basis)
    correction = _dot(state.basis, rest)
    rest = rest - _dot(correction, state.basis)
    vector, length = normalise(rest)
    # Below this a number is rounding alone: the Krylov space is invariant (a happy breakdown), or
    # the new column depends on the others.
    noise = 10 * jnp.finfo(image.dtype).eps * two_norm(image)
    invariant = two_norm(rest) <= noise
    length = jnp.where(invariant, 0, length)
    column = _dot(state.rotations, (coefficients + correction).at[j + 1].set(length))
    a, b = column[j], column[j + 1]
    pivot = jnp.hypot(a, b)
    independent = pivot > noise  # False if the product is not finite
    live = state.live & independent
    safe = jnp.where(independent, pivot, 1)
    c, s = a / safe, b / safe
    upper, lower = state.rotations[j], state.rotations[j + 1]
    rotations = state.rotations.at[j].set(c * upper + s * lower)
    rotations = rotations.at[j + 1].set(c * lower - s * upper)
    column = jnp.where(jnp.arange(len(column), dtype=j.dtype) < j, column, 0).at[j].set(pivot)[:-1]
    return _CycleState(
        basis=state.basis.at[j + 1].set(jnp.where(live & ~invariant, vector, 0)),
        rotations=jnp.where(live, rotations, state.rotations),
        triangle=state.triangle.at[j].set(jnp.where(live, column, state.triangle[j])),
        residual=jnp.where(live, jnp.abs(rotations[j + 1, 0]), state.residual),
        live=live,
        products=state.products + state.live.astype(jnp.int32),
        used=state.used + live.astype(jnp.int32),
        steps=state.steps + 1,
    )


def _dot(a: Array, b: Array) -> Array:
    """`a @ b` in full precision, also on accelerators that round float32 products."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
