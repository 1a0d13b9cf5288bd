"""Reachability: does iteration converge to a fixed point, from which starts, and how fast?"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from .._noise import normal_like
from .._norms import two_norm
from .._stability_report import Band, Reachability, Start
from ._orbits import OUTCOMES, SAME, Orbits, converge_from, distance, settle_steps
from ._statistics import share, summary
from ._trees import inner, take
from ._work import Tick, silent

BASIN_LIMIT = 4.0
DIRECTIONS = 4
BISECTIONS = 6


def reachability(
    orbits: Orbits,
    *,
    key: PRNGKeyArray,
    detail: Orbits | None = None,
    predicted_rate: Float[np.ndarray, " examples"] | None = None,
    tick: Tick = silent,
) -> Reachability:
    """Measure how the orbits end, at which rate, and whether other starts reach the same points.

    The measured rate is `exp` of the slope of `log |f(z_t) - z_t|` over the last half of the
    descent (above rounding); for a fixed point at which J has spectral radius rho it is rho.

    **Arguments:**

    - `orbits`: from `follow_orbits`.
    - `key`: a random key.
    - `detail`: the subset of `orbits` that is also run from other starts; by default all.
    - `predicted_rate`: spectral radius at the end of each orbit, shape `(examples,)`, NaN if
        unknown.
    - `tick`: called with the name of each stage that is done (see `planned`).

    **Returns:**

    The `Reachability`.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> f, start = lambda z, x: 0.5 * jnp.tanh(z) + x, lambda x: 0 * x
    >>> xs = jr.normal(jr.key(0), (4, 2))
    >>> orbits = eqloop.stability.follow_orbits(f, start, xs, iterations=32)
    >>> part = eqloop.stability.reachability(orbits, key=jr.key(1))
    >>> print(part.shares["converged"].share, part.starts["gaussian"].same.share)
    1.0 1.0

    ```
    """
    gaussian_key, basin_key = jr.split(key)
    grid = geometric_grid(orbits.iterations)
    at = np.array(grid) - 1
    detail = orbits if detail is None else detail
    others = np.roll(np.arange(len(detail)), 1)
    all_examples = np.ones(len(detail), bool)
    starts = {
        "gaussian": (gaussian_starts(detail.z0s, key=gaussian_key), all_examples),
        # A single example has no other, and one that did not converge has no fixed point.
        "other": (take(detail.state, others), detail.converged[others] & (len(detail) > 1)),
    }
    unknown = np.full(len(orbits), math.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = orbits.sizes[:, -1] / orbits.sizes[:, 0]
    compared = {name: _compare(detail, zs, mask) for name, (zs, mask) in starts.items()}
    tick("other starts")
    basin = basin_radius(detail, key=basin_key)
    tick("basins")
    return Reachability(
        tolerance=orbits.rtol,
        outcomes=orbits.outcomes,
        shares={
            name: share(np.array([outcome == name for outcome in orbits.outcomes]))
            for name in OUTCOMES
        },
        periods=orbits.periods.tolist(),
        iterations=grid,
        residual=band(orbits.residuals[:, at]),
        residual_cell=band(orbits.cells[:, at]),
        curves=orbits.residuals[:, at].tolist(),
        settle_step=summary(settle_steps(orbits)),
        rate=summary(rates(orbits)),
        remaining=summary(orbits.remaining),
        predicted_rate=summary(unknown if predicted_rate is None else predicted_rate),
        growth=summary(growth),
        starts=compared,
        basin=summary(basin),
        basin_limit=BASIN_LIMIT,
    )


def geometric_grid(largest: int) -> list[int]:
    """Integers from 1 to `largest`, each about 12.5 % above the one before."""
    grid = [1]
    while grid[-1] < largest:
        grid.append(min(largest, max(grid[-1] + 1, round(grid[-1] * 1.125))))
    return grid


def band(values: Float[np.ndarray, "examples places"]) -> Band:
    """Median and 5 % and 95 % quantiles over the examples, ignoring NaN."""
    # Quantiles without interpolation, which is undefined between infinite values.
    levels, method = [0.5, 0.05, 0.95], "inverted_cdf"
    quantiles = []
    for column in np.asarray(values, np.float64).T:
        known = column[~np.isnan(column)]
        quantiles.append(
            np.quantile(known, levels, method=method) if known.size else np.full(3, np.nan)
        )
    median, low, high = np.array(quantiles).T.tolist()
    return Band(median, low, high)


def rates(orbits: Orbits) -> Float[np.ndarray, " examples"]:
    """The measured factor per iteration by which the steps decay at the end of each descent.

    **Arguments:**

    - `orbits`: from `follow_orbits`.

    **Returns:**

    An array of shape `(examples,)`; NaN if the orbit did not end at a fixed point, or if its
    descent has fewer than 4 iterations to fit a rate to.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> f, start = lambda z, x: 0.5 * jnp.tanh(z) + x, lambda x: 0 * x
    >>> xs = jr.normal(jr.key(0), (4, 2))
    >>> orbits = eqloop.stability.follow_orbits(f, start, xs, iterations=32)
    >>> leading = eqloop.stability.jacobian_eigenvalues(orbits, key=jr.key(1))
    >>> print(eqloop.stability.rates(orbits).round(1), abs(leading.values[:, 0]).round(1))
    [nan 0.5 0.4 0.3] [0. 0.5 0.4 0.3]

    ```
    """
    return np.where(orbits.converged, orbits.rate, math.nan)


def basin_radius(
    orbits: Orbits, *, key: PRNGKeyArray, largest: float = BASIN_LIMIT
) -> Float[np.ndarray, " examples"]:
    """Estimate the radius of the basin of each fixed point, relative to its norm (absolute if that
    is zero): the largest perturbation from which the loop returns, by bisection in [0, `largest`],
    minimised over 4 random directions. The estimate is an upper bound; NaN without a fixed point.

    **Arguments:**

    - `orbits`: from `follow_orbits`.
    - `key`: a random key.
    - `largest`: upper end of the bisection, relative to the norm of the fixed point; returned if
        the loop returns even from there.

    **Returns:**

    An array of shape `(examples,)`.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> f, start = lambda z, x: 0.5 * jnp.tanh(z) + x, lambda x: 0 * x
    >>> xs = jr.normal(jr.key(0), (4, 2))
    >>> orbits = eqloop.stability.follow_orbits(f, start, xs, iterations=32)
    >>> print(eqloop.stability.basin_radius(orbits, key=jr.key(1)))     # f contracts everywhere
    [4. 4. 4. 4.]

    ```
    """
    examples, n = np.flatnonzero(orbits.converged), DIRECTIONS
    radii = np.full(len(orbits), math.nan)
    if not examples.size:
        return radii
    rows = np.repeat(examples, n)
    home, xs = take(orbits.state, rows), take(orbits.xs, rows)
    directions = directions_like(home, jr.split(key, len(rows)))

    def returns(radius: np.ndarray) -> Bool[np.ndarray, " rows"]:
        pushed = move(home, directions, jnp.asarray(radius))
        return comes_back(orbits, pushed, home, xs, orbits.rate[rows])

    low, high = np.zeros(len(rows)), np.full(len(rows), largest)
    outside = ~returns(high)
    low[~outside] = largest
    # Skip the bisection if every loop returns from the largest perturbation.
    for _ in range(BISECTIONS if outside.any() else 0):
        middle = np.where(outside, (low + high) / 2, largest)
        back = returns(middle)
        low = np.where(outside & back, middle, low)
        high = np.where(outside & ~back, middle, high)
    radii[examples] = low.reshape(-1, n).min(axis=1)
    return radii


def gaussian_starts(zs: PyTree, *, key: PRNGKeyArray) -> PyTree:
    """Draw Gaussian starts whose root mean square is that of the own start, 1 if that is zero.

    **Arguments:**

    - `zs`: the own starts, stacked along a first axis.
    - `key`: a random key.

    **Returns:**

    Starts of the same shapes.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> noise = eqloop.stability.gaussian_starts(10 * jnp.ones((4, 1000)), key=jr.key(0))
    >>> print(round(float(jnp.std(noise))))
    10

    ```
    """
    return _gaussian(zs, jr.split(key, len(jtu.tree_leaves(zs)[0])))


def comes_back(
    orbits: Orbits, zs: PyTree, home: PyTree, xs: PyTree, rate: Float[np.ndarray, " examples"]
) -> Bool[np.ndarray, " examples"]:
    """Whether iteration from `zs` converges to `home`."""
    state, converged = converge_from(orbits, zs, xs, rate)
    return converged & (distance(state, home) <= SAME)


def _compare(orbits: Orbits, zs: PyTree, has_start: Bool[np.ndarray, " examples"]) -> Start:
    """Compare the orbits with those from the starts `zs`; `has_start` masks the examples that have
    such a start."""
    state, converged = converge_from(orbits, zs, orbits.xs, orbits.rate)
    both = has_start & converged & orbits.converged
    return Start(
        converged=share(converged[has_start]),
        same=share((distance(state, orbits.state) <= SAME)[both]),
        cosine=summary(np.where(both, np.asarray(_cosine(state, orbits.state)), math.nan)),
    )


@eqx.filter_jit
def _gaussian(zs: PyTree, keys: PRNGKeyArray) -> PyTree:
    def one(z, key):
        def scaled(leaf, noise):
            size = jnp.sqrt(jnp.mean(jnp.square(leaf)))
            return noise * jnp.where(size > 0, size, 1)

        return jtu.tree_map(scaled, z, normal_like(z, key))

    return jax.vmap(one)(zs, keys)


@eqx.filter_jit
def directions_like(zs: PyTree, keys: PRNGKeyArray) -> PyTree:
    """Random directions as long as the states themselves."""

    def one(z, key):
        d = normal_like(z, key)
        size = two_norm(z)
        scale = jnp.where(size > 0, size, 1) / two_norm(d)
        return jtu.tree_map(lambda a: a * scale.astype(a.dtype), d)

    return jax.vmap(one)(zs, keys)


@eqx.filter_jit
def move(zs: PyTree, directions: PyTree, radius: Array) -> PyTree:
    def one(z, d, radius):
        return jtu.tree_map(lambda a, b: a + radius.astype(a.dtype) * b, z, d)

    return jax.vmap(one)(zs, directions, radius)


@eqx.filter_jit
def _cosine(a: PyTree, b: PyTree) -> Float[Array, " examples"]:
    def one(a, b):
        return inner(a, b) / (two_norm(a) * two_norm(b))

    return jax.vmap(one)(a, b)
