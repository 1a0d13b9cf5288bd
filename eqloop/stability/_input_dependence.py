"""Input-dependence: do the fixed points depend on the input, and is the dependence smooth?"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist, squareform

from .._linear import solve_identity_minus
from .._noise import normal_like
from .._norms import two_norm
from .._stability_report import InputDependence
from ._operators import input_jacobian, state_jacobian
from ._orbits import SAME, Orbits, converge_from, iterate_to_tolerance, starts
from ._plane import main_plane
from ._reachability import band, geometric_grid
from ._statistics import CONFIDENCE, summary
from ._trees import subtract, take
from ._work import Tick, silent

PROBES = 2
ORDERS = 20
NUDGE = 1e-2
"""Relative size of the change of an input that measures smoothness."""
LEAST = 8
"""Minimum number of examples for a linear probe; also used to test whether f depends on x."""


def input_dependence(
    orbits: Orbits,
    *,
    key: PRNGKeyArray,
    detail: Orbits | None = None,
    tolerance: float = SAME,
    tick: Tick = silent,
) -> InputDependence:
    """Count the fixed points, compare their spread with that of the inputs, and differentiate them.

    **Arguments:**

    - `orbits`: from `follow_orbits`.
    - `key`: random key of the tangent vectors.
    - `detail`: the subset of `orbits` that is differentiated; by default all.
    - `tolerance`: relative distance below which two fixed points count as one.
    - `tick`: called with the name of each finished stage (see `planned`).

    **Returns:**

    The `InputDependence`.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> f, start = lambda z, x: 0.5 * jnp.tanh(z) + x, lambda x: 0 * x
    >>> xs = jr.normal(jr.key(0), (4, 2))
    >>> orbits = eqloop.stability.follow_orbits(f, start, xs, iterations=32)
    >>> part = eqloop.stability.input_dependence(orbits, key=jr.key(1))
    >>> print(part.clusters[-1], part.recall, f"{part.smoothness.median:.1f}")
    4.0 True 1.0

    ```
    """
    detail = orbits if detail is None else detail
    probe_key, nudge_key = jr.split(key)
    converged = np.flatnonzero(orbits.converged)
    points, inputs = _rows(orbits.state)[converged], _rows(orbits.xs, len(orbits))[converged]
    distances = (
        pdist(points) / max(_size(points), np.finfo(float).tiny) if len(converged) > 1 else None
    )
    labels = (
        cluster(distances, tolerance) if distances is not None else np.zeros(len(converged), int)
    )
    counts, clusters = _growth(labels)
    spread = _spread(points, inputs)
    grid = geometric_grid(orbits.iterations)
    keys = jr.split(probe_key, len(detail))
    squares, tangents = _push_forward(
        detail.f, detail.start, detail.z0s, detail.xs, keys, detail.iterations
    )
    sensitivity = np.sqrt(np.asarray(squares, np.float64))
    tick("sensitivity to the input")
    converged_detail = np.flatnonzero(detail.converged)
    implicit, smooth_ratio, through_start = np.full((3, len(detail)), math.nan)
    at_fixed_points = detail.take(converged_detail)
    if converged_detail.size:
        squares = _implicit(
            at_fixed_points.f,
            at_fixed_points.state,
            at_fixed_points.xs,
            keys[converged_detail],
            _rtol(at_fixed_points),
        )
        implicit[converged_detail] = np.sqrt(np.asarray(squares, np.float64))
    tick("derivative of the fixed points")
    if converged_detail.size:
        smooth_ratio[converged_detail] = smoothness(at_fixed_points, key=nudge_key)
        through_start[converged_detail] = _through_start(
            at_fixed_points,
            keys[converged_detail],
            np.asarray(tangents, np.float64)[converged_detail],
        )
    tick("smoothness")
    with np.errstate(divide="ignore", invalid="ignore"):
        agreement = sensitivity[:, -1] / implicit
        kept_sensitivity = np.where(
            detail.converged, sensitivity[:, -1] / sensitivity[:, 0], math.nan
        )
    coordinates: list[list[float] | None] = [None] * len(orbits)
    share_in_plane = math.nan
    if len(points):
        plane = main_plane(points)
        share_in_plane = plane.variance
        for example, point in zip(converged, plane.place(points), strict=True):
            coordinates[example] = point.tolist()
    return InputDependence(
        tolerance=tolerance,
        inputs=counts,
        clusters=clusters,
        distinct=len(set(labels.tolist())) / len(labels) if len(labels) else math.nan,
        spread=spread[0],
        spread_low=spread[1],
        spread_high=spread[2],
        iterations=grid,
        recall=_sees_input(orbits.take(np.arange(min(LEAST, len(orbits))))),
        sensitivity=band(sensitivity[:, np.array(grid) - 1]),
        kept=summary(kept_sensitivity),
        implicit=summary(implicit),
        agreement=summary(agreement),
        smoothness=summary(smooth_ratio),
        through_start=summary(through_start),
        probe=linear_probe(take(orbits.state, converged), take(orbits.xs, converged)),
        points=coordinates,
        plane=share_in_plane,
    )


def cluster(distances: Float[np.ndarray, " pairs"], tolerance: float) -> Int[np.ndarray, " points"]:
    """Cluster points by single linkage: points joined by a chain of steps of at most `tolerance`
    share a cluster.

    **Arguments:**

    - `distances`: pairwise distances, condensed as by SciPy's `pdist`.
    - `tolerance`: the longest step that joins two points, in the units of the distances.

    **Returns:**

    The cluster number of each point, from 1.

    ```python
    >>> import eqloop, numpy as np
    >>> from scipy.spatial.distance import pdist
    >>> points = np.array([[0.0], [1.0], [2.0], [9.0]])
    >>> print(eqloop.stability.cluster(pdist(points), 1.5))
    [1 1 1 2]

    ```
    """
    return fcluster(linkage(distances, "single"), tolerance, "distance")


def smoothness(orbits: Orbits, *, key: PRNGKeyArray) -> Float[np.ndarray, " examples"]:
    """Measure `|z*(x + d) - z*(x)| / |(I - J)^-1 df/dx d|` for a random d with 1 % of the norm of
    x: 1 if z* is differentiable and d small enough.

    **Arguments:**

    - `orbits`: from `follow_orbits`.
    - `key`: random key of d.

    **Returns:**

    An array of shape `(examples,)`; NaN if a loop did not converge, or if the fixed point does not
    depend on the input to first order.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> f, start = lambda z, x: 0.5 * jnp.tanh(z) + x, lambda x: 0 * x
    >>> xs = jr.normal(jr.key(0), (4, 2))
    >>> orbits = eqloop.stability.follow_orbits(f, start, xs, iterations=32)
    >>> print(eqloop.stability.smoothness(orbits, key=jr.key(1)).round(1))
    [1. 1. 1. 1.]

    ```
    """
    rtol = orbits.min_residual
    keys = jr.split(key, len(orbits))
    moved, nudge, _ = _nudge(orbits.xs, keys)
    tangent = _tangent(orbits.f, orbits.state, orbits.xs, nudge, _rtol(orbits))
    state, converged = iterate_to_tolerance(
        orbits.f, orbits.state, moved, rtol=rtol, max_steps=4 * orbits.iterations
    )
    secant = np.asarray(_difference(state, orbits.state), np.float64)
    tangent = np.asarray(tangent, np.float64)
    # Rounding may keep a residual above `rtol`: it suffices that z* moved by much more.
    sizes = np.linalg.norm(_rows(orbits.state), axis=1)
    is_known = orbits.converged & (converged | (secant > 100 * rtol * sizes)) & (tangent > 0)
    return np.where(is_known, secant / np.where(tangent > 0, tangent, 1), math.nan)


def _through_start(
    orbits: Orbits, keys: PRNGKeyArray, tangents: Float[np.ndarray, " examples"]
) -> Float[np.ndarray, " examples"]:
    """As `smoothness`, but the loop restarts at the start of the other input, so that the influence
    of the start is included. The change of z* is divided by `|dz_T/dx d|`, with the d that
    `_push_forward` drew with the same keys (`tangents` are per unit length of d)."""
    moved, _, sizes = _nudge(orbits.xs, keys)
    z0s = orbits.z0s if orbits.start is None else starts(orbits.start, moved)
    state, converged = converge_from(orbits, z0s, moved, orbits.rate)
    tangent = tangents * np.asarray(sizes, np.float64)
    secant = np.asarray(_difference(state, orbits.state), np.float64)
    is_known = orbits.converged & converged & (tangent > 0)
    return np.where(is_known, secant / np.where(tangent > 0, tangent, 1), math.nan)


def _sees_input(orbits: Orbits) -> bool:
    """Whether f changes as a function of the state if the input is that of another example."""
    other_inputs = take(orbits.xs, np.roll(np.arange(len(orbits)), 1))
    return bool(np.any(_changes(orbits.f, orbits.state, orbits.xs, other_inputs)))


def linear_probe(states: PyTree, inputs: PyTree) -> float | None:
    """R^2 of a ridge regression of the inputs on the states, on a held-out quarter of the examples;
    None for fewer than 8 examples, or if the inputs do not vary.

    If state and input are arrays over the same cells, the regression is from each cell to the input
    of that cell, otherwise from the whole state to the whole input.

    **Arguments:**

    - `states`, `inputs`: pytrees of arrays, stacked along a first axis of examples. Only their
        floating-point arrays count.

    **Returns:**

    The R^2, at most 1; below 0 if the mean of the training inputs predicts better.

    ```python
    >>> import eqloop, numpy as np
    >>> states = np.random.default_rng(0).normal(size=(40, 3))
    >>> print(f"{eqloop.stability.linear_probe(states, states @ np.ones((3, 1))):.2f}")
    1.00

    ```
    """
    z, x = _rows(states), _rows(inputs)
    if len(z) < LEAST or not x.size:
        return None
    train_count = len(z) - len(z) // 4
    z_leaves, x_leaves = jtu.tree_leaves(states), jtu.tree_leaves(inputs)
    cells = [leaf.shape[:-1] for leaf in (*z_leaves, *x_leaves)]
    if len(z_leaves) == len(x_leaves) == 1 and cells[0] == cells[1] != ():
        z, x = (
            np.asarray(a, np.float64).reshape(len(z), -1, a.shape[-1])
            for a in (z_leaves[0], x_leaves[0])
        )
    train, test = (
        [a[part].reshape(-1, a.shape[-1]) for a in (z, x)]
        for part in (slice(train_count), slice(train_count, None))
    )
    z_mean, x_mean = train[0].mean(0), train[1].mean(0)
    total = np.sum((test[1] - x_mean) ** 2)
    if total == 0:
        return None
    a, b = train[0] - z_mean, train[1] - x_mean
    ridge = 1e-3 * np.mean(np.square(a)) * len(a)
    if ridge == 0:  # all states are equal, so they have no information
        return 0.0
    if len(a) < a.shape[1]:  # the smaller of two equal systems
        weights = a.T @ np.linalg.solve(a @ a.T + ridge * np.eye(len(a)), b)
    else:
        weights = np.linalg.solve(a.T @ a + ridge * np.eye(a.shape[1]), a.T @ b)
    return float(1 - np.sum((test[1] - x_mean - (test[0] - z_mean) @ weights) ** 2) / total)


def _growth(labels: np.ndarray) -> tuple[list[int], list[float]]:
    """Number of distinct labels among n examples, averaged over orders: (n, mean number)."""
    if not len(labels):
        return [], []
    counts = sorted({*(2**k for k in range(len(labels).bit_length())), len(labels)})
    counts = [n for n in counts if n <= len(labels)]
    rng = np.random.default_rng(0)
    orders = [rng.permutation(labels) for _ in range(ORDERS)]
    return counts, [float(np.mean([len(set(o[:n])) for o in orders])) for n in counts]


def _spread(points: np.ndarray, inputs: np.ndarray) -> tuple[float, float, float]:
    """Mean pairwise distance relative to the mean norm, of the points divided by that of the
    inputs; with a bootstrap interval of 95 %."""
    if len(points) < 3 or not inputs.size or _size(inputs) == 0:
        return math.nan, math.nan, math.nan
    z, x = (squareform(pdist(a)) / max(_size(a), np.finfo(float).tiny) for a in (points, inputs))
    if not x.any():
        return math.nan, math.nan, math.nan
    resamples = np.random.default_rng(0).integers(0, len(z), (500, len(z)))
    # An example that is drawn twice has distance 0 to itself, so only pairs of different examples
    # count; their number cancels in the quotient.
    ratios = [
        z[np.ix_(rows, rows)].sum() / total
        for rows in resamples
        if (total := x[np.ix_(rows, rows)].sum()) > 0
    ]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return float(z.sum() / x.sum()), float(low), float(high)


def _rows(tree: PyTree, examples: int = 0) -> Float[np.ndarray, "examples size"]:
    """Each example as one row in float64; only floating-point arrays count. `examples` is the
    number of rows if there is no such array."""
    leaves = [leaf for leaf in jtu.tree_leaves(tree) if eqx.is_inexact_array(leaf)]
    flat = [
        np.asarray(leaf, np.float64).reshape(len(leaf), math.prod(leaf.shape[1:]))
        for leaf in leaves
    ]
    return np.concatenate(flat, axis=1) if flat else np.zeros((examples, 0))


def _size(rows: np.ndarray) -> float:
    """The mean norm of the rows."""
    return float(np.linalg.norm(rows, axis=1).mean()) if rows.size else 0.0


def _rtol(orbits: Orbits) -> float:
    return max(1e-8, 100 * orbits.eps)


def _solve(f, z, x, v: PyTree, rtol: float) -> PyTree:
    """`(I - J)^-1 df/dx v`; NaN if the linear solve failed."""
    rhs = input_jacobian(f, z, x).mv(v)
    solution = solve_identity_minus(
        state_jacobian(f, z, x).mv, rhs, rtol=rtol, restart=20, cycles=10
    )
    zero = two_norm(rhs) == 0  # then u = 0, for which a relative residual is undefined
    return jtu.tree_map(
        lambda u: jnp.where(zero, 0, jnp.where(solution.solved, u, jnp.nan)), solution.u
    )


@eqx.filter_jit
def _push_forward(
    f, start, z0s: PyTree, xs: PyTree, keys: PRNGKeyArray, steps: int
) -> tuple[Float[Array, "examples iterations"], Float[Array, " examples"]]:
    """`|dz_t/dx|_F^2` after each iteration, by Hutchinson's estimate `|A|_F^2 = E |A v|^2` with
    Gaussian v; and `|dz_T/dx v| / |v|` for the first v."""

    def push_one(f, start, z0, x, key):
        floats, static = eqx.partition(x, eqx.is_inexact_array)
        # Map over keys: inputs without floating-point arrays give probes without arrays.
        probe_keys = jr.split(key, PROBES)
        probes = jax.vmap(lambda k: normal_like(x, k))(probe_keys)

        def begin(k):
            if start is None:
                return jtu.tree_map(jnp.zeros_like, z0)
            v = normal_like(x, k)
            return jax.jvp(lambda floats: start(eqx.combine(floats, static)), (floats,), (v,))[1]

        def body(carry, _):
            z, tangents = carry
            value, push = jax.linearize(
                lambda z, floats: f(z, eqx.combine(floats, static)), z, floats
            )
            tangents = jax.vmap(push)(tangents, probes)
            return (value, tangents), jnp.mean(jnp.square(jax.vmap(two_norm)(tangents)))

        (_, tangents), squares = jax.lax.scan(body, (z0, jax.vmap(begin)(probe_keys)), length=steps)
        first_tangent, v = (jtu.tree_map(lambda leaf: leaf[0], tree) for tree in (tangents, probes))
        size = two_norm(v).astype(squares.dtype)
        return squares, two_norm(first_tangent) / jnp.where(size > 0, size, 1)

    return eqx.filter_vmap(push_one, in_axes=(None, None, 0, 0, 0))(f, start, z0s, xs, keys)


@eqx.filter_jit
def _implicit(
    f, states: PyTree, xs: PyTree, keys: PRNGKeyArray, rtol: float
) -> Float[Array, " examples"]:
    """`|(I - J)^-1 df/dx|_F^2`, with the same v as `_push_forward` for the same keys."""

    def squared_norm(f, state, x, key):
        def norm(k):
            return two_norm(_solve(f, state, x, normal_like(x, k), rtol))

        return jnp.mean(jnp.square(jax.vmap(norm)(jr.split(key, PROBES))))

    return eqx.filter_vmap(squared_norm, in_axes=(None, 0, 0, 0))(f, states, xs, keys)


@eqx.filter_jit
def _nudge(xs: PyTree, keys: PRNGKeyArray) -> tuple[PyTree, PyTree, Float[Array, " examples"]]:
    """The inputs with a small change added; the changes, in the direction of the first v of
    `_push_forward`; and the norms of the changes."""

    def nudge_one(x, key):
        floats, static = eqx.partition(x, eqx.is_inexact_array)
        d = normal_like(x, jr.split(key, PROBES)[0])
        length = two_norm(d)
        scale = NUDGE * two_norm(floats) / jnp.where(length > 0, length, 1)
        d = jtu.tree_map(lambda a: a * scale.astype(a.dtype), d)
        moved = jtu.tree_map(lambda a, b: a + b, floats, d)
        return eqx.combine(moved, static), d, two_norm(d)

    return jax.vmap(nudge_one)(xs, keys)


@eqx.filter_jit
def _tangent(f, states: PyTree, xs: PyTree, nudges: PyTree, rtol: float):
    def norm(f, state, x, d):
        return two_norm(_solve(f, state, x, d, rtol))

    return eqx.filter_vmap(norm, in_axes=(None, 0, 0, 0))(f, states, xs, nudges)


@eqx.filter_jit
def _changes(f, states: PyTree, xs: PyTree, other_inputs: PyTree):
    def has_changed(f, z, x, other_x):
        return two_norm(subtract(f(z, x), f(z, other_x))) > 0

    return eqx.filter_vmap(has_changed, in_axes=(None, 0, 0, 0))(f, states, xs, other_inputs)


@eqx.filter_jit
def _difference(a: PyTree, b: PyTree) -> Float[Array, " examples"]:
    return jax.vmap(lambda a, b: two_norm(subtract(a, b)))(a, b)
