"""Edge states: the saddle on the boundary between two basins, by bisection."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PRNGKeyArray, PyTree

from .._iteration import Map, advance
from .._norms import two_norm
from ._closed import closed
from ._orbits import (
    MAX_PERIOD,
    MIN_RESIDUAL_ULPS,
    ROUNDING_ULPS,
    SAME,
    precision,
    states_of_cycle,
)
from ._point import Point, describe, flattened
from ._searches import measure, newton
from ._trees import head, single, subtract, take

GRID = 8
"""Points that divide the segment at once."""
PUSH = 1e-2
"""Length of the push off an edge state, relative to the distance of the attractors."""
APART = 1e-3
"""Distance, relative to that of the attractors, at which two orbits that follow the boundary are
replaced by closer ones."""
CLOSE = 1e-6
"""Distance at which bisection ends, relative to that of the attractors."""
NEWTON_STEPS = 50


@dataclasses.dataclass(frozen=True)
class EdgeState:
    """What `edge_state` finds on the boundary between two basins.

    **Attributes:**

    - `found`: whether there is an edge state that is a fixed point.
    - `because`: why so, or why not.
    - `point`: the edge state, a saddle; None if none was found.
    - `z`: the last state on the boundary.
    - `gap`: distance of the two states, one on each side, between which it is, relative to that of
        the attractors; NaN if there is no boundary between the starts.
    - `residuals`: `|f(z) - z|` of the states on the boundary where searches began, relative to the
        distance of the attractors.
    """

    found: bool
    because: str
    point: Point | None
    z: PyTree
    gap: float
    residuals: list[float]


def edge_state(
    f: Map,
    za: PyTree,
    zb: PyTree,
    x: PyTree,
    *,
    key: PRNGKeyArray,
    iterations: int = 256,
    rounds: int = 16,
    count: int = 6,
) -> EdgeState:
    """Find the edge state between two attractors: the fixed point on the boundary of their basins
    that attracts along the boundary.

    Bisection on the segment between two starts finds two close states of which one goes to the
    attractor of `za` and the other does not. Their orbits follow the boundary until they part, and
    bisection between them begins anew. From each state on the boundary, Newton-Krylov steps search
    for a fixed point. It is the edge state if it has one unstable direction and if pushes along it
    lead to the attractor of `za` on one side and elsewhere on the other.

    When not to use it: if the edge state is not a fixed point, but a cycle or chaotic: then it is
    not found, and the result says so.

    **Arguments:**

    - `f`: the map, of a state and an input of one example, both pytrees of arrays.
    - `za`, `zb`: two starts that go to different attractors: fixed points, or cycles of at most 16
        iterations; an orbit that does not stay finite counts as an attractor as well.
    - `x`: the input, for one example.
    - `key`: a random key.
    - `iterations`: iterations after which an orbit is at its attractor. Close to the boundary it
        needs more of them the smaller the unstable eigenvalue of the edge state.
    - `rounds`: maximum number of bisections.
    - `count`: number of eigenvalues of the point.

    **Returns:**

    The `EdgeState`.

    **Raises** `ValueError` for arguments out of range.

    **Source:** Skufca, Yorke and Eckhardt 2006, doi:10.1103/PhysRevLett.96.174101.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> f, x = lambda z, x: jnp.tanh(2 * z - x), jnp.full(1, 0.1)
    >>> edge = eqloop.stability.edge_state(f, x - 1, x + 1, x, key=jr.key(0))
    >>> print(edge.because)
    a saddle whose unstable direction leads to the attractor of za and to that of zb
    >>> print(edge.point.z.round(3))                    # z = tanh(2 z - 0.1)
    [0.1]

    ```
    """
    if iterations < 1:
        raise ValueError(f"iterations = {iterations} must be at least 1")
    if rounds < 1:
        raise ValueError(f"rounds = {rounds} must be at least 1")
    boundary = _Boundary(closed(f, za, x), za, zb, x, iterations)
    if boundary.trouble is not None:
        return EdgeState(False, boundary.trouble, None, za, math.nan, [])
    a, b, middle, gap = single(za), single(zb), za, 1.0
    residuals: list[float] = []
    for round_key in jr.split(key, rounds):
        a, b, gap = boundary.bisect(a, b)
        middles = _between(a, b, jnp.array([0.5]))
        middle = head(middles)
        residuals.append(boundary.residual(middles))
        point = boundary.saddle(middles, round_key, count)
        ends = boundary.pushed(point) if point is not None else set[str]()
        if len(ends) == 2 and "za" in ends:
            (other,) = ends - {"za"}
            because = (
                "a saddle whose unstable direction leads to the attractor of za and to "
                f"{'that of zb' if other == 'zb' else other}"
            )
            return EdgeState(True, because, point, middle, gap, residuals)
        a, b = boundary.follow(a, b)
    because = (
        f"the orbit on the boundary led to no fixed point with one unstable direction in {rounds} "
        f"rounds; |f(z) - z| was at least {min(residuals):.1e} of the distance of the attractors"
    )
    return EdgeState(False, because, None, middle, gap, residuals)


class _Boundary:
    """The attractors of two starts, and the boundary of the basin of the first. States are stacked
    along a first axis, of length 1 if there is one.

    `trouble` says why there is no boundary, or is None. `scale` is the distance of the attractors
    (the norm of one if the other orbit does not stay finite).
    """

    def __init__(self, f: Map, za: PyTree, zb: PyTree, x: PyTree, iterations: int):
        self.f, self.x, self.iterations = f, x, iterations
        ends = _iterate(f, jtu.tree_map(lambda a, b: jnp.stack([a, b]), za, zb), x, iterations)
        self.attractors = dict(zip(("za", "zb"), flattened(ends, axes=2), strict=True))
        finite = [states[-1] for states in self.attractors.values() if np.isfinite(states).all()]
        self.size = max((float(np.linalg.norm(state)) for state in finite), default=0.0) or 1.0
        self.scale = float(np.linalg.norm(finite[0] - finite[1])) if len(finite) == 2 else self.size
        self.trouble = None
        # An orbit has settled if it is at the same states after as many iterations again.
        again = self.sides(jtu.tree_map(lambda leaf: leaf[:, -1], ends))
        if again[1] == "za" or not self.scale > 0:
            self.trouble = "both starts go to the same attractor"
        for name, side in zip(self.attractors, again, strict=True):
            if self.trouble is None and side != name:
                self.trouble = (
                    f"the orbit of {name} is not at a fixed point or a cycle of at most "
                    f"{MAX_PERIOD} iterations after {iterations} iterations"
                )

    def sides(self, zs: PyTree) -> list[str]:
        """Where the orbit of each state goes."""
        names = []
        for end in flattened(_iterate(self.f, zs, self.x, self.iterations), axes=2)[:, -1]:
            name = "another attractor" if np.isfinite(end).all() else "infinity"
            for attractor, states in reversed(self.attractors.items()):
                near = np.linalg.norm(states - end, axis=1) <= SAME * self.scale
                escaped = not np.isfinite(end).all() and not np.isfinite(states).all()
                if near.any() or escaped:
                    name = attractor
            names.append(name)
        return names

    def bisect(self, a: PyTree, b: PyTree) -> tuple[PyTree, PyTree, float]:
        """Two close states between a, whose orbit goes to the first attractor, and b, and their
        distance relative to `scale`."""
        smallest = max(CLOSE * self.scale, 10 * precision(a) * self.size)
        gap = _distance(a, b)
        while gap > smallest:
            inner = _between(a, b, jnp.arange(1, GRID + 1) / (GRID + 1))
            inside = np.array([side == "za" for side in self.sides(inner)])
            first = int(inside.argmin()) if not inside.all() else GRID
            a, b = (
                take(inner, np.array([first - 1])) if first > 0 else a,
                take(inner, np.array([first])) if first < GRID else b,
            )
            gap = _distance(a, b)
        return a, b, gap / self.scale

    def follow(self, a: PyTree, b: PyTree) -> tuple[PyTree, PyTree]:
        """Iterate both states until they part."""
        return _follow(self.f, a, b, self.x, jnp.asarray(APART * self.scale), self.iterations)

    def residual(self, zs: PyTree) -> float:
        miss, _, _ = measure(self.f, zs, single(self.x), jnp.asarray([self.size]))
        return float(miss[0]) / self.scale

    def saddle(self, zs: PyTree, key: PRNGKeyArray, count: int) -> Point | None:
        """The saddle with one unstable direction to which Newton's method leads, or None."""
        sizes, xs, eps = np.array([self.size]), single(self.x), precision(zs)
        tolerance = jnp.asarray(MIN_RESIDUAL_ULPS * eps * sizes)
        end, _ = newton(self.f, zs, xs, tolerance, jnp.asarray(NEWTON_STEPS))
        miss = np.asarray(measure(self.f, end, xs, jnp.asarray(sizes))[0], np.float64)
        if not miss[0] <= ROUNDING_ULPS * eps * self.size:
            return None
        one = np.zeros(1, np.int64)
        (point,) = describe(self.f, end, xs, one, miss, sizes, one + 1, key=key, count=count)
        return point if point.kind == "saddle" and point.unstable == 1 else None

    def pushed(self, point: Point) -> set[str]:
        """Where the orbits go from both sides of the point, along its unstable direction."""
        flat, unravel = ravel_pytree(point.z)
        push = jnp.asarray(PUSH * self.scale * point.directions[0], flat.dtype)
        return set(self.sides(jax.vmap(unravel)(jnp.stack([flat + push, flat - push]))))


@eqx.filter_jit
def _iterate(f: Map, zs: PyTree, x: PyTree, iterations: Array | int) -> PyTree:
    """The states after the iterations and the next ones, along a second axis."""

    def one(f, z, x):
        return states_of_cycle(f, advance(f, z, x, iterations), x)

    return eqx.filter_vmap(one, in_axes=(None, 0, None))(f, zs, x)


@eqx.filter_jit
def _follow(f: Map, a: PyTree, b: PyTree, x: PyTree, apart: Array, most: int):
    def gap(a, b):
        return two_norm(subtract(a, b))

    def step(pair):
        a, b, steps = pair
        next_a, next_b = (jax.vmap(lambda z: f(z, x))(zs) for zs in (a, b))
        return next_a, next_b, steps + 1

    def close(pair):
        a, b, steps = pair
        return (steps < most) & (gap(a, b) < apart.astype(gap(a, b).dtype))

    return jax.lax.while_loop(close, step, (a, b, jnp.zeros((), jnp.int32)))[:2]


@jax.jit
def _between(a: PyTree, b: PyTree, places: Array) -> PyTree:
    """The states at `places` in [0, 1] of the segment from a to b."""

    def point(place):
        return jtu.tree_map(lambda p, q: p[0] + place.astype(p.dtype) * (q[0] - p[0]), a, b)

    return jax.vmap(point)(places)


def _distance(a: PyTree, b: PyTree) -> float:
    return float(np.linalg.norm(flattened(a, axes=1)[0] - flattened(b, axes=1)[0]))
