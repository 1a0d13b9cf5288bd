"""Matrix-free solves with `I - J`, by GMRES."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, Bool, Float, Int, PyTree

from ._iteration import Scalar
from ._norms import normalise, two_norm
from ._solution import select


class LinearSolution(NamedTuple):
    """The result of `solve_identity_minus`.

    **Attributes:**

    - `u`: the solution, a pytree like g.
    - `residual`: `|u - J u - g| / |g|`.
    - `products`: number of products with J.
    - `solved`: whether the residual is at most the tolerance.
    - `result`: successful, stagnation, or max_steps_reached.
    """

    u: PyTree
    residual: Float[Array, ""]
    products: Int[Array, ""]
    solved: Bool[Array, ""]
    result: lx.RESULTS


class _CycleState(eqx.Module):
    """`count` counts the cycles of the batch, `cycles` those in which this example was live."""

    u: PyTree
    residual: Float[Array, ""]
    cycles: Int[Array, ""]
    stalled: Bool[Array, ""]
    count: Int[Array, ""]


def solve_identity_minus(
    product: Callable[[PyTree], PyTree],
    g: PyTree,
    *,
    rtol: Scalar,
    restart: int,
    cycles: int,
) -> LinearSolution:
    """Solve `u - J u = g` by GMRES (Lineax). A solve that misses its tolerance does not raise.

    We run GMRES one restart cycle at a time: Lineax's own stopping test costs one extra cycle after
    the system is already solved.

    **Arguments:**

    - `product`: the map `u -> J u`.
    - `g`: the right-hand side, a pytree of arrays.
    - `rtol`: tolerance on `|u - J u - g| / |g|`, in the 2-norm.
    - `restart`: products per cycle (plus three to set up and to judge it); uses this many copies
        of the state.
    - `cycles`: maximum number of restart cycles; stops early, with `lx.RESULTS.stagnation`, if a
        cycle reduces the residual by less than 10%: later cycles nearly always stagnate too, and
        only a longer `restart` helps.

    **Raises** `ValueError` within `jax.pmap` and `jax.shard_map`, where Lineax fails.
    """
    # https://github.com/patrick-kidger/lineax/issues/185
    if jax.sharding.get_abstract_mesh().manual_axes:
        raise ValueError(
            "GMRES does not work within jax.pmap or jax.shard_map: take "
            "Implicit(solver=Anderson()) there, or jax.jit with a mesh of AxisType.Auto"
        )

    def operator(u):
        return jtu.tree_map(lambda a, b: a - b, u, product(u))

    # With a right-hand side of norm 1, the absolute tolerance is a relative one.
    unit_g, scale = normalise(g)
    tolerance = jnp.asarray(rtol, scale.dtype)
    linear = lx.FunctionLinearOperator(operator, jax.eval_shape(lambda: unit_g))
    gmres = lx.GMRES(
        rtol=0.0,
        atol=tolerance,  # pyright: ignore[reportArgumentType] (may be traced)
        norm=two_norm,
        max_steps=2,  # its first step only sets up
        restart=restart,
    )

    def is_live(solve: _CycleState) -> Bool[Array, ""]:
        return (solve.residual > tolerance) & jnp.logical_not(solve.stalled)

    def cycle(solve: _CycleState) -> _CycleState:
        u = lx.linear_solve(linear, unit_g, gmres, options={"y0": solve.u}, throw=False).value
        residual = two_norm(jtu.tree_map(lambda a, b: a - b, operator(u), unit_g))
        live = is_live(solve)
        better = live & (residual < solve.residual)  # False if the residual is NaN
        return _CycleState(
            u=jtu.tree_map(lambda a, b: jnp.where(better, a, b), u, solve.u),
            residual=jnp.where(better, residual, solve.residual),
            cycles=solve.cycles + live.astype(jnp.int32),
            stalled=solve.stalled | (live & jnp.logical_not(residual <= 0.9 * solve.residual)),
            count=solve.count + 1,
        )

    zero = jnp.zeros((), jnp.int32)
    # If `g` is NaN, the first cycle makes no progress and we stop with `stagnation`; if it is zero,
    # there is nothing to solve.
    start = _CycleState(
        u=jtu.tree_map(jnp.zeros_like, unit_g),
        residual=jnp.where(two_norm(unit_g) == 0, 0, jnp.ones_like(scale)),
        cycles=zero,
        stalled=jnp.zeros((), bool),
        count=zero,
    )
    solve = jax.lax.while_loop(
        lambda solve: eqxi.unvmap_any(is_live(solve)) & (solve.count < cycles), cycle, start
    )
    solved = solve.residual <= tolerance
    failed = select(solve.stalled, lx.RESULTS.stagnation, lx.RESULTS.max_steps_reached, lx.RESULTS)
    per_cycle = min(restart, sum(leaf.size for leaf in jtu.tree_leaves(g))) + 3
    return LinearSolution(
        u=jtu.tree_map(lambda a: a * scale.astype(a.dtype), solve.u),
        residual=solve.residual,
        products=solve.cycles * per_cycle,
        solved=solved,
        result=select(solved, lx.RESULTS.successful, failed, lx.RESULTS),
    )
