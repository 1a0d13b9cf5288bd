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

from ._norms import normalise, two_norm


class LinearSolution(NamedTuple):
    """`residual` is `|u - J u - g| / |g|`; `products` counts products with J."""

    u: PyTree
    residual: Float[Array, ""]
    products: Int[Array, ""]
    solved: Bool[Array, ""]
    result: lx.RESULTS


class _Cycle(eqx.Module):
    u: PyTree
    residual: Float[Array, ""]
    cycles: Int[Array, ""]
    stalled: Bool[Array, ""]
    count: Int[Array, ""]


def solve_identity_minus(
    product: Callable[[PyTree], PyTree],
    g: PyTree,
    *,
    rtol: Array | float,
    restart: int,
    cycles: int,
) -> LinearSolution:
    """`u - J u = g` by GMRES (Lineax), where `product(u) = J u`. Never raises.

    Lineax is asked for one cycle at a time: left to itself it makes one more after the one that
    solves the system, to see the solution stand still.

    **Arguments:**

    - `rtol`: on `|u - J u - g| / |g|`, 2-norms.
    - `restart`: products per cycle (and three more to begin and to judge it); memory is that many
        states.
    - `cycles`: maximum number of restart cycles. The solve stops earlier, with
        `lx.RESULTS.stagnation`, after a cycle that takes less than a tenth off the residual: the
        cycles after it nearly always stagnate, and only a longer `restart` helps.

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

    # A unit right-hand side turns an absolute tolerance into a relative one.
    unit, scale = normalise(g)
    tolerance = jnp.asarray(rtol, scale.dtype)
    linear = lx.FunctionLinearOperator(operator, jax.eval_shape(lambda: unit))
    gmres = lx.GMRES(
        rtol=0.0,
        atol=tolerance,  # pyright: ignore[reportArgumentType] (may be traced)
        norm=two_norm,
        max_steps=2,  # its first step only sets up
        restart=restart,
    )

    def live(at: _Cycle) -> Bool[Array, ""]:
        return (at.residual > tolerance) & jnp.logical_not(at.stalled)

    def cycle(at: _Cycle) -> _Cycle:
        found = lx.linear_solve(linear, unit, gmres, options={"y0": at.u}, throw=False).value
        residual = two_norm(jtu.tree_map(lambda a, b: a - b, operator(found), unit))
        better = live(at) & (residual < at.residual)  # not where it is nan
        return _Cycle(
            u=jtu.tree_map(lambda a, b: jnp.where(better, a, b), found, at.u),
            residual=jnp.where(better, residual, at.residual),
            cycles=at.cycles + live(at).astype(jnp.int32),
            stalled=at.stalled | (live(at) & jnp.logical_not(residual <= 0.9 * at.residual)),
            count=at.count + 1,
        )

    none = jtu.tree_map(jnp.zeros_like, unit)
    zero = jnp.zeros((), jnp.int32)
    # Also where g is nan, which then stalls.
    start = _Cycle(none, jnp.ones_like(scale), zero, jnp.zeros((), bool), zero)
    at = jax.lax.while_loop(
        lambda at: eqxi.unvmap_any(live(at)) & (at.count < cycles), cycle, start
    )
    solved = at.residual <= tolerance
    failed = lx.RESULTS.where(
        at.stalled,
        lx.RESULTS.stagnation,  # pyright: ignore[reportArgumentType]
        lx.RESULTS.max_steps_reached,  # pyright: ignore[reportArgumentType]
    )
    per_cycle = min(restart, sum(leaf.size for leaf in jtu.tree_leaves(g))) + 3
    return LinearSolution(
        u=jtu.tree_map(lambda a: a * scale.astype(a.dtype), at.u),
        residual=at.residual,
        products=at.cycles * per_cycle,
        solved=solved,
        result=lx.RESULTS.where(solved, lx.RESULTS.successful, failed),  # pyright: ignore
    )
