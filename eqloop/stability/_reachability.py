"""Does iteration get to a fixed point, from where, and how fast?"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from .._norms import two_norm
from ._orbits import OUTCOMES, SAME, Orbits, converge_from, distance, settle_steps
from ._report import Band, Reachability, Start
from ._statistics import share, summary
from ._trees import draw, inner, take
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
    """How the orbits ended, at which rate, and whether other starts lead to the same fixed points.

    The measured rate is `exp` of the slope of `log |f(z_t) - z_t|` over the last half of the
    descent (above rounding); for a fixed point at which J has spectral radius rho it is rho.

    **Arguments:**

    - `orbits`: of `follow_orbits`.
    - `detail`: the examples (some of `orbits`) that are begun elsewhere too; by default all.
    - `predicted_rate`: the spectral radius at the end of each orbit, where it is known.
    - `tick`: called with the name of each stage that is done (see `planned`).
    """
    gaussian_key, basin_key = jr.split(key)
    grid = geometric_grid(orbits.iterations)
    at = np.array(grid) - 1
    some = orbits if detail is None else detail
    others = np.roll(np.arange(len(some)), 1)
    every = np.ones(len(some), bool)
    starts = {
        "gaussian": (_noise(some.z0s, jr.split(gaussian_key, len(some))), every),
        # An only example has no other, and one that did not converge no fixed point.
        "other": (take(some.state, others), some.converged[others] & (len(some) > 1)),
    }
    unknown = np.full(len(orbits), math.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = orbits.sizes[:, -1] / orbits.sizes[:, 0]
    compared = {name: _compare(some, *each) for name, each in starts.items()}
    tick("other starts")
    basin = basin_radius(some, key=basin_key)
    tick("basins")
    return Reachability(
        tolerance=orbits.rtol,
        outcomes=orbits.outcomes,
        shares={
            name: share(np.array([each == name for each in orbits.outcomes])) for name in OUTCOMES
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


def geometric_grid(most: int) -> list[int]:
    """1 to `most` in steps that become larger by an eighth."""
    found = [1]
    while found[-1] < most:
        found.append(min(most, max(found[-1] + 1, round(found[-1] * 1.125))))
    return found


def band(values: Float[np.ndarray, "examples places"]) -> Band:
    """Over the examples, at each place; what is not a number is left out."""
    # Quantiles that are one of the values: between infinite ones there is nothing to interpolate.
    levels, method = [0.5, 0.05, 0.95], "inverted_cdf"
    found = []
    for column in np.asarray(values, np.float64).T:
        known = column[~np.isnan(column)]
        found.append(
            np.quantile(known, levels, method=method) if known.size else np.full(3, np.nan)
        )
    median, low, high = np.array(found).T.tolist()
    return Band(median, low, high)


def rates(orbits: Orbits) -> Float[np.ndarray, " examples"]:
    """The measured factor per iteration at the end of each descent; NaN where the orbit did not end
    in a fixed point, and where it was there within too few iterations to tell."""
    return np.where(orbits.converged, orbits.rate, math.nan)


def basin_radius(
    orbits: Orbits, *, key: PRNGKeyArray, largest: float = BASIN_LIMIT
) -> Float[np.ndarray, " examples"]:
    """For each fixed point the largest push, relative to its own norm (to 1, where that is zero),
    from which the loop comes back: the least over 4 random directions, each found by bisection in
    [0, `largest`]. An estimate from above, and NaN where there is no fixed point to come back to.

    **Arguments:** `largest`: where even this comes back, it is the answer.
    """
    examples, n = np.flatnonzero(orbits.converged), DIRECTIONS
    found = np.full(len(orbits), math.nan)
    if not examples.size:
        return found
    rows = np.repeat(examples, n)
    home, xs = take(orbits.state, rows), take(orbits.xs, rows)
    directions = _directions(home, jr.split(key, len(rows)))

    def returns(radius: np.ndarray) -> Bool[np.ndarray, " rows"]:
        pushed = _move(home, directions, jnp.asarray(radius))
        return comes_back(orbits, pushed, home, xs, orbits.rate[rows])

    low, high = np.zeros(len(rows)), np.full(len(rows), largest)
    outside = ~returns(high)
    low[~outside] = largest
    # Of loops that come back from everywhere there is nothing to bisect.
    for _ in range(BISECTIONS if outside.any() else 0):
        middle = np.where(outside, (low + high) / 2, largest)
        back = returns(middle)
        low = np.where(outside & back, middle, low)
        high = np.where(outside & ~back, middle, high)
    found[examples] = low.reshape(-1, n).min(axis=1)
    return found


def comes_back(
    orbits: Orbits, zs: PyTree, home: PyTree, xs: PyTree, rate: Float[np.ndarray, " examples"]
) -> Bool[np.ndarray, " examples"]:
    """Whether iteration from `zs` converges to `home`."""
    state, converged = converge_from(orbits, zs, xs, rate)
    return converged & (distance(state, home) <= SAME)


def _compare(orbits: Orbits, zs: PyTree, there: Bool[np.ndarray, " examples"]) -> Start:
    """`there`: of which examples there is such a start."""
    state, converged = converge_from(orbits, zs, orbits.xs, orbits.rate)
    both = there & converged & orbits.converged
    return Start(
        converged=share(converged[there]),
        same=share((distance(state, orbits.state) <= SAME)[both]),
        cosine=summary(np.where(both, np.asarray(_cosine(state, orbits.state)), math.nan)),
    )


@eqx.filter_jit
def _noise(zs: PyTree, keys: PRNGKeyArray) -> PyTree:
    """Gaussian starts whose root mean square is that of the own start (1 where that is zero)."""

    def one(z, key):
        def scaled(leaf, noise):
            size = jnp.sqrt(jnp.mean(jnp.square(leaf)))
            return noise * jnp.where(size > 0, size, 1)

        return jtu.tree_map(scaled, z, draw(z, key))

    return jax.vmap(one)(zs, keys)


@eqx.filter_jit
def _directions(zs: PyTree, keys: PRNGKeyArray) -> PyTree:
    """Random directions as long as the states themselves."""

    def one(z, key):
        d = draw(z, key)
        size = two_norm(z)
        scale = jnp.where(size > 0, size, 1) / two_norm(d)
        return jtu.tree_map(lambda a: a * scale.astype(a.dtype), d)

    return jax.vmap(one)(zs, keys)


@eqx.filter_jit
def _move(zs: PyTree, directions: PyTree, radius: Array) -> PyTree:
    def one(z, d, radius):
        return jtu.tree_map(lambda a, b: a + radius.astype(a.dtype) * b, z, d)

    return jax.vmap(one)(zs, directions, radius)


@eqx.filter_jit
def _cosine(a: PyTree, b: PyTree) -> Float[Array, " examples"]:
    def one(a, b):
        return inner(a, b) / (two_norm(a) * two_norm(b))

    return jax.vmap(one)(a, b)
