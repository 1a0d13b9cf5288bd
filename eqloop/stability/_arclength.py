"""Newton's method for a fixed point and its parameter, on a plane across the branch."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._iteration import Map
from .._linear import solve_identity_minus
from .._norms import two_norm
from . import _trees
from ._trees import subtract

NEWTON_STEPS = 10
RESTART, CYCLES = 30, 10
"""Of GMRES: see `solve_identity_minus`."""
FORCING = 1e-4
"""Relative residual of the linear solves of Newton's method, or `rtol` if that is larger."""

Point = tuple[PyTree, Float[Array, ""]]
"""A state z and a scaled parameter q: `s = start + slope q`."""


class Corrected(NamedTuple):
    """A point of the branch on the plane through a guess.

    **Attributes:**

    - `point`: the point.
    - `tangent`: the unit tangent there, on the side to which the normal of the plane points.
    - `steps`: number of Newton steps.
    - `converged`: whether `residual` is at most `rtol`, and the tangent is finite.
    - `size`: `|z|`.
    - `residual`: `|g(z) - z|`, or the distance from the plane if that is larger, relative to the
        larger of `|g(z)|` and `weight`.
    """

    point: Point
    tangent: Point
    steps: Int[Array, ""]
    converged: Bool[Array, ""]
    size: Float[Array, ""]
    residual: Float[Array, ""]


@eqx.filter_jit
def correct(
    g: Map,
    x: PyTree,
    line: tuple[Array, Array],
    guess: Point,
    normal: Point,
    rtol: Float[Array, ""],
    weight: Float[Array, ""],
) -> Corrected:
    """Solve `g(z, (x, s)) = z` with `<normal, (z, q) - guess> = 0`, for `s = start + slope q`.

    The bordered linear system `[I - J, -dg/dq; normal^T]` is regular at a fold, where `I - J` is
    singular. Written as `u - K u` it is one for GMRES.

    **Arguments:**

    - `g`: the map, of a state and a pair of an input and a parameter.
    - `x`: the input.
    - `line`: start and slope.
    - `guess`, `normal`: a point and a unit vector.
    - `rtol`, `weight`: see `Corrected`.
    """
    start, slope = line

    def value_at(point: Point) -> PyTree:
        z, q = point
        return g(z, (x, start + slope * q))

    def solve(product: Callable, right: Point, tolerance: Array) -> Point:
        def bordered(u: Point) -> Point:
            return product(u), u[1] - inner(normal, u)

        return solve_identity_minus(
            bordered, right, rtol=tolerance, restart=RESTART, cycles=CYCLES
        ).u

    def residual_of(point: Point, value: PyTree) -> Array:
        miss = two_norm(subtract(value, point[0])).astype(weight.dtype)
        miss = jnp.maximum(miss, jnp.abs(inner(normal, subtract(point, guess))))
        return miss / jnp.maximum(two_norm(value).astype(weight.dtype), weight)

    def newton(carry):
        point, before, _, steps = carry
        value, product = jax.linearize(value_at, point)
        right = (subtract(value, point[0]), -inner(normal, subtract(point, guess)))
        point = shifted(point, solve(product, right, jnp.maximum(rtol, FORCING)))
        return point, residual_of(point, value_at(point)), before, steps + 1

    # One step from a point that meets the tolerance: next to a branching, where the system is
    # almost singular, such a point may be far from the solution.
    def is_live(carry):
        _, residual, before, steps = carry
        return (jnp.maximum(residual, before) > rtol) & (steps < NEWTON_STEPS)

    far = jnp.full_like(weight, jnp.inf)
    first = (guess, residual_of(guess, value_at(guess)), far, jnp.zeros((), jnp.int32))
    point, residual, _, steps = jax.lax.while_loop(is_live, newton, first)
    _, product = jax.linearize(value_at, point)
    across = (jtu.tree_map(jnp.zeros_like, point[0]), jnp.ones_like(point[1]))
    tangent = solve(product, across, rtol)
    length = jnp.sqrt(inner(tangent, tangent))
    tangent = jtu.tree_map(lambda a: a / length.astype(a.dtype), tangent)
    converged = (residual <= rtol) & jnp.isfinite(length) & (length > 0)
    return Corrected(point, tangent, steps, converged, two_norm(point[0]), residual)


def inner(a: Point, b: Point) -> Float[Array, ""]:
    """The sum of products over all leaves, in the dtype of the parameter."""
    return _trees.inner(a, b, a[1].dtype)


def shifted(a: Point, b: Point, length: float = 1.0) -> Point:
    """`a + length b`."""
    return jtu.tree_map(lambda a, b: a + jnp.asarray(length, a.dtype) * b, a, b)
