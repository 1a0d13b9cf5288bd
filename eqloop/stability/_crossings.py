"""Where between two points of a branch an eigenvalue crosses the unit circle, or the branch turns
back."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree
from scipy.optimize import brentq

from .._iteration import Map
from ._arclength import Corrected, Point, correct, inner, shifted
from ._branch import Bifurcation, Kind
from ._eigenvalues import leading_eigenvalues
from ._operators import Jacobian
from ._trees import single

ON_CIRCLE = 1e-3
"""Maximum distance from the unit circle of an eigenvalue that was located there."""
STRAIGHT = 0.9
"""Minimum cosine between the tangents of neighbouring points."""
SPLITS = 6
"""How often an interval is halved in which one eigenvalue enters the circle and another leaves."""


@dataclasses.dataclass(frozen=True)
class Spot:
    """A point of the branch and the eigenvalues of `df/dz` there.

    **Attributes:**

    - `at`: the point and its tangent.
    - `values`: the eigenvalues, NaN where one did not converge.
    - `distinct`, `errors`: the different eigenvalues, largest modulus first, and their errors.
    - `unstable`: how many of these are outside the unit circle; None where not measurable.
    """

    at: Corrected
    values: np.ndarray
    distinct: np.ndarray
    errors: np.ndarray
    unstable: int | None

    @property
    def q(self) -> float:
        return float(self.at.point[1])

    @property
    def slope(self) -> float:
        """The parameter's part of the unit tangent."""
        return float(self.at.tangent[1])

    @property
    def signature(self) -> tuple[int, int, int] | None:
        """What changes if an eigenvalue crosses the circle, and not if two meet outside of it."""
        if self.unstable is None:
            return None
        outside = self.distinct[: self.unstable]
        real = np.real(outside[np.imag(outside) == 0])
        return self.unstable, int(np.sum(real > 0)) % 2, int(np.sum(real < 0)) % 2


class NotLocated(Exception):
    """A point inside the interval that is searched could not be measured."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """The map along the parameter, with the tolerances.

    **Attributes:**

    - `g`: the map, of a state and a pair of an input and a parameter.
    - `x`: the input.
    - `start`, `stop`: the range of the parameter.
    - `rtol`, `count`: see `continuation`.
    - `weight`: the norm of a state that counts as much as the whole range of the parameter:
        `s = start + (stop - start) q / weight`.
    """

    g: Map
    x: PyTree
    start: float
    stop: float
    rtol: float
    count: int
    weight: float

    def parameter(self, q: float) -> float:
        return self.start + (self.stop - self.start) * q / self.weight

    def correct(self, guess: Point, normal: Point) -> Corrected:
        def array(value: float) -> jax.Array:
            return jnp.asarray(value, guess[1].dtype)

        line = (array(self.start), array((self.stop - self.start) / self.weight))
        return correct(self.g, self.x, line, guess, normal, array(self.rtol), array(self.weight))

    def measure(self, at: Corrected) -> Spot:
        """Return the point with its eigenvalues."""
        z, q = at.point
        s = jnp.asarray(self.parameter(float(q)), q.dtype)
        leading = leading_eigenvalues(
            Jacobian(self.g),
            *single((z, (self.x, s))),
            key=jr.key(0),
            count=self.count,
            rtol=max(self.rtol, 1e-6),
        )
        values, errors, converged = leading.values[0], leading.errors[0], leading.converged[0]
        same = math.sqrt(jnp.finfo(q.dtype).eps)
        distinct, errors = _distinct(values, errors, same)
        moduli = np.abs(distinct)
        unstable = int(np.sum(moduli > 1))
        size = sum(leaf.size for leaf in jtu.tree_leaves(z))
        complete = np.any(np.isnan(values)) or self.count >= size
        on_circle = np.any(~(np.abs(moduli - 1) > errors))
        if on_circle or not len(distinct) or (unstable == len(distinct) and not complete):
            unstable = None
        values = np.where(converged, values, complex(math.nan, math.nan))
        return Spot(at, values, distinct, errors, unstable)


def _distinct(values: np.ndarray, errors: np.ndarray, same: float) -> tuple[Any, Any]:
    """The different ones of the eigenvalues, and their errors. Krylov methods return a multiple
    eigenvalue once or several times, by chance."""
    chosen: list[int] = []
    for k in np.flatnonzero(np.isfinite(values)):
        if all(abs(values[k] - values[j]) > same * abs(values[j]) for j in chosen):
            chosen.append(int(k))
    return values[chosen], errors[chosen]


def locate(problem: Problem, a: Spot, b: Spot, value: Callable[[float, Spot], float]) -> Spot:
    """Find the point between `a` and `b` where `value` is zero by Brent's method.

    `value` is a function of the way h along the tangent of a, from 0 to 1 at b, and of the point on
    the plane across it. Newton's method starts from the cubic through the nearest points with their
    tangents: next to a branching, a rougher guess would lead to the other branch.

    **Raises** `NotLocated` if a point between them cannot be measured.
    """
    start, direction = a.at.point, a.at.tangent
    reach = float(inner(direction, shifted(b.at.point, start, -1.0)))
    if not reach > 0:
        raise NotLocated
    spots = {0.0: a, 1.0: b}

    def spot(h: float) -> Spot:
        if h not in spots:
            left, right = max(k for k in spots if k < h), min(k for k in spots if k > h)
            guess = _cubic(direction, spots[left], spots[right], (h - left) / (right - left))
            corrected = problem.correct(guess, direction)
            if not corrected.converged or inner(direction, corrected.tangent) < STRAIGHT:
                raise NotLocated
            spots[h] = problem.measure(corrected)
        return spots[h]

    tolerance = math.sqrt(jnp.finfo(start[1].dtype).eps)
    root: Any = brentq(lambda h: value(float(h), spot(float(h))), 0.0, 1.0, xtol=tolerance)
    return spot(float(root))


def _cubic(direction: Point, a: Spot, b: Spot, t: float) -> Point:
    """The point at t, from 0 to 1, on the cubic with the points and tangents of a and b."""
    step = shifted(b.at.point, a.at.point, -1.0)
    length = float(inner(direction, step))
    guess = shifted(a.at.point, step, t * t * (3 - 2 * t))
    for spot, weight in ((a, t * (1 - t) ** 2), (b, t * t * (t - 1))):
        along = float(inner(direction, spot.at.tangent))
        guess = shifted(guess, spot.at.tangent, weight * length / along)
    return guess


def fold(problem: Problem, a: Spot, b: Spot, after: int) -> Bifurcation:
    """The fold between two points where the parameter moves in opposite directions."""
    try:
        place = locate(problem, a, b, lambda _, spot: spot.slope)
    except NotLocated:
        return _unresolved(problem, a, b, after)
    nearest = min(place.distinct, key=lambda v: abs(v - 1), default=complex(math.nan, math.nan))
    return _event(problem, "fold", place, nearest if abs(nearest - 1) <= ON_CIRCLE else None, after)


def crossings(
    problem: Problem, a: Spot, b: Spot, after: int, splits: int = SPLITS
) -> list[Bifurcation]:
    """The eigenvalues that cross the unit circle between two points where `unstable` is known.

    The moduli, largest first, are continuous along the branch: if the number outside of the circle
    is m at one end and less at the other, the m-th modulus passes through 1.
    """
    if a.unstable is None or b.unstable is None or a.signature == b.signature:
        return []
    if a.unstable == b.unstable:
        try:
            middle = locate(problem, a, b, lambda h, _: h - 0.5)
        except NotLocated:
            return [_unresolved(problem, a, b, after)]
        if middle.unstable is None or not splits:
            return [_unresolved(problem, a, b, after)]
        halves = ((a, middle), (middle, b))
        return [e for half in halves for e in crossings(problem, *half, after, splits - 1)]
    events: list[Bifurcation] = []
    least, m = sorted((a.unstable, b.unstable))
    while m > least:

        def modulus(_: float, spot: Spot, m: int = m) -> float:
            if len(spot.distinct) < m:
                raise NotLocated
            return float(np.abs(spot.distinct[m - 1])) - 1

        try:
            place = locate(problem, a, b, modulus)
        except NotLocated:
            return [*events, _unresolved(problem, a, b, after)]
        eigenvalue, error = complex(place.distinct[m - 1]), float(place.errors[m - 1])
        if not abs(abs(eigenvalue) - 1) <= max(ON_CIRCLE, min(error, 0.1)):
            return [*events, _unresolved(problem, a, b, after)]
        kind: Kind = "branch" if eigenvalue.real > 0 else "flip"
        if eigenvalue.imag:
            kind, eigenvalue = "neimark-sacker", complex(eigenvalue.real, abs(eigenvalue.imag))
        events.append(_event(problem, kind, place, eigenvalue, after))
        m -= 2 if eigenvalue.imag else 1
    return events


def _event(
    problem: Problem, kind: Kind, place: Spot, eigenvalue: complex | None, after: int
) -> Bifurcation:
    value = complex(math.nan, math.nan) if eigenvalue is None else complex(eigenvalue)
    state = jtu.tree_map(np.asarray, place.at.point[0])
    return Bifurcation(kind, problem.parameter(place.q), value, state, after)


def _unresolved(problem: Problem, a: Spot, b: Spot, after: int) -> Bifurcation:
    middle = problem.parameter((a.q + b.q) / 2)
    state = jtu.tree_map(np.asarray, a.at.point[0])
    return Bifurcation("unresolved", middle, complex(math.nan, math.nan), state, after)
