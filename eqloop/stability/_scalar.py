"""The scalar model of a looped block: where each recall is stable, and how far from balance."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from ._statistics import LEVELS, NORMAL_95, Share, share

RECALLS = ("external", "internal")
SHOWN = 60
"""Draws of each sigma that a report keeps for a picture."""
THRESHOLDS = tuple(number / 10 for number in range(101))
"""At which the distribution of the anisotropy is tabulated."""

Points = Float[np.ndarray, "points 2"]


def stable_external(
    x: Float[np.ndarray, "*shape"], y: Float[np.ndarray, "*shape"]
) -> Bool[np.ndarray, "*shape"]:
    """Whether `|(1 + y) x| <= 1`: external recall, `u = x z + e`, `z' = u + y u`.

    The state is a number, `x` the weight on it and `y` the Jacobian of the residual branch; two
    states of one input move apart or together by the factor `(1 + y) x` each iteration. The edge
    counts as stable. (Appendix B.2 of arXiv 2604.15259.)
    """
    return np.abs((1 + y) * x) <= 1


def stable_internal(
    x: Float[np.ndarray, "*shape"], y: Float[np.ndarray, "*shape"]
) -> Bool[np.ndarray, "*shape"]:
    """Whether `|1 + x y| <= 1`, that is `-2 <= x y <= 0`: internal recall, `z' = z + y (x z + e)`.

    See `stable_external`. Here the axes are on the edge, and all of the quadrants in which x and y
    have the same sign is unstable.
    """
    product = x * y  # and not 1 + x y, in which a small product is lost
    return (product >= -2) & (product <= 0)


def project_external(points: Points) -> Points:
    """The nearest point at which external recall is stable, for each `(x, y)`.

    A stable point is its own. Others go to a branch of the hyperbola `|(1 + y) x| = 1`: the
    distance is right to rounding, and what comes back is stable as `stable_external` sees it. Where
    two points are equally near (`|x| = |1 + y| > 2`), that with the larger `|x|`. **Raises**
    `ValueError` for points that are not finite, or not in rows of two.
    """
    x, y = _columns(points)
    moved = ~stable_external(x, y)
    centred = _onto_hyperbola(x[moved], 1 + y[moved], 1.0) - (0.0, 1.0)
    nearest = np.stack([x, y], axis=-1)
    nearest[moved, 0] = _just_inside(centred[:, 0], 1 + centred[:, 1], 1.0)
    nearest[moved, 1] = centred[:, 1]
    return nearest


def project_internal(points: Points) -> Points:
    """The nearest point at which internal recall is stable, for each `(x, y)`.

    A stable point is its own. Where x and y have the same sign the nearest is on an axis: the
    smaller of the two becomes 0. Where `x y < -2` it is on a branch of the hyperbola `x y = -2`. Of
    two that are equally near, that with the larger `|x|`. **Raises** `ValueError` as
    `project_external` does.
    """
    x, y = _columns(points)
    nearest = np.stack([x, y], axis=-1)
    same = x * y > 0
    nearest[same & (np.abs(y) <= np.abs(x)), 1] = 0
    nearest[same & (np.abs(y) > np.abs(x)), 0] = 0
    moved = x * y < -2
    onto = _onto_hyperbola(x[moved], y[moved], 2.0)
    nearest[moved, 0] = _just_inside(onto[:, 0], onto[:, 1], 2.0)
    nearest[moved, 1] = onto[:, 1]
    return nearest


def anisotropy(points: Points) -> Float[np.ndarray, " points"]:
    """`|log(|x| / |y|)|`: 0 where weight and Jacobian are of one size, infinite on an axis, and NaN
    at the origin. **Raises** `ValueError` as `project_external` does."""
    x, y = _columns(points)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.abs(np.log(np.abs(x)) - np.log(np.abs(y)))


def _columns(points: Points) -> tuple[np.ndarray, np.ndarray]:
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points: must be rows of (x, y), got an array of shape {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError("points: must be finite")
    return points[:, 0], points[:, 1]


def _onto_hyperbola(
    x: Float[np.ndarray, " points"], y: Float[np.ndarray, " points"], c: float
) -> Points:
    """The nearest point with `|x y| = c` to one with `|x y| > c`.

    Signs apart, the hyperbola is `sqrt(c) (e^t, e^-t)`, and the nearest point has its larger
    coordinate where the given one has: t >= 0 for a >= b. There the squared distance is stationary
    where

    `G(t) = 4 sqrt(c) sinh t - (a + b) tanh t - (a - b) = 0`

    G is convex for t >= 0 and `G(0) <= 0`, so that its largest root is the minimum and Newton's
    method from any t beyond it decreases to it without a safeguard.
    """
    a, b, root = np.abs(x), np.abs(y), math.sqrt(c)
    size, lead = a + b, np.abs(a - b)
    t = np.arcsinh(np.maximum(a, b) / (2 * root))  # G = (a + b) (1 - tanh t) there
    # Quadratic, save for a = b = 2 sqrt(c), a triple root: by 2/3 per step.
    for _ in range(100):
        value = 4 * root * np.sinh(t) - size * np.tanh(t) - lead
        slope = 4 * root * np.cosh(t) - size / np.cosh(t) ** 2
        step = np.divide(value, slope, out=np.zeros_like(t), where=(value > 0) & (slope > 0))
        t = np.maximum(t - step, 0)
        if not np.any(step > 1e-16 * t):
            break
    t = np.where(a >= b, t, -t)
    return np.stack([np.copysign(root * np.exp(t), x), np.copysign(root * np.exp(-t), y)], axis=-1)


def _just_inside(
    u: Float[np.ndarray, " points"], v: Float[np.ndarray, " points"], c: float
) -> Float[np.ndarray, " points"]:
    """`u`, made smaller by rounding errors where `|u v|` is above c because of them."""
    with np.errstate(divide="ignore"):
        most = np.nextafter(c / np.abs(v), 0)
    return np.copysign(np.minimum(np.abs(u), most), u)


@dataclasses.dataclass(frozen=True)
class ScalarCase:
    """The draws of one sigma, moved to where one recall is stable.

    **Attributes:**

    - `stable`: draws that were stable and stayed.
    - `distance`: median distance that the others were moved.
    - `infinite`: points on an axis afterwards, whose anisotropy is infinite.
    - `median`; `low`, `high`: of all anisotropies, with its 95 % interval from order statistics,
        which assumes nothing of the distribution. All three may be infinite.
    - `finite`: quantiles of the finite ones, at 5, 25, 50, 75 and 95 %, by name.
    - `at_most`: share of all whose anisotropy is at most each of `ScalarReport.thresholds`.
    """

    stable: Share
    distance: float
    infinite: Share
    median: float
    low: float
    high: float
    finite: dict[str, float]
    at_most: list[float]


@dataclasses.dataclass(frozen=True)
class ScalarReport:
    """The results of `scalar_experiment`.

    **Attributes:**

    - `cases`: sigma (by name, `"0.1"`) -> recall ("external", "internal") -> `ScalarCase`.
    - `thresholds`: those of `ScalarCase.at_most`.
    - `shown`: sigma -> `{"drawn", "external", "internal"}`: some draws, and where each was moved,
        as pairs.
    - `settings`: `sigmas`, `n`, `seed`.
    """

    cases: dict[str, dict[str, ScalarCase]]
    thresholds: list[float]
    shown: dict[str, dict[str, list[list[float]]]]
    settings: dict[str, Any]

    def tables(self) -> dict[str, Any]:
        """As nested plain values; an infinite median is infinity (JSON has null for it)."""
        return dataclasses.asdict(self)


def scalar_experiment(
    sigmas: Sequence[float] = (0.1, 1.0, 4.0), n: int = 3000, seed: int = 0
) -> ScalarReport:
    """How far from balance must weight and Jacobian be for the loop to be stable?

    Draws `(x, y) ~ N(0, sigma^2 I)`, n for each sigma (the same ones, scaled), moves each to the
    nearest stable point and measures the anisotropy `|log(|x| / |y|)|` there. (Appendix B.2 of
    arXiv 2604.15259.)

    **The median for internal recall is not a number to compare.** Whatever sigma, x and y have the
    same sign in half of the draws, their nearest stable point is on an axis, and its anisotropy is
    infinite. So the population has no median: any number that exceeds all the finite ones would
    do. That of a sample is one of its largest finite values, or infinity, by the chance of which
    half is larger; `low` and `high` say so. What does not depend on chance is the share of
    infinite ones and the quantiles of the finite ones: hence these stand beside it.

    As sigma goes to 0 every point of external recall, and every finite one of internal recall,
    stays where it is drawn: `P(anisotropy <= t) = 4/pi arctan(e^t) - 1`, with median
    log(1 + sqrt(2)) = 0.881.

    **Arguments:**

    - `sigmas`: standard deviations, each above 0.
    - `n`: number of draws per sigma, at least 1.
    - `seed`: seed of the draws.

    **Returns:**

    A `ScalarReport`.

    **Raises** `ValueError` for an argument out of range.

    ```python
    >>> import eqloop
    >>> report = eqloop.stability.scalar_experiment(sigmas=[1.0], n=100)
    >>> print(sorted(report.cases["1"]), report.cases["1"]["external"].infinite.share)
    ['external', 'internal'] 0.0

    ```
    """
    if not sigmas or not all(0 < sigma < math.inf for sigma in sigmas):
        raise ValueError(f"sigmas = {list(sigmas)}: must be positive numbers, at least one")
    if n < 1:
        raise ValueError(f"n = {n} must be at least 1")
    unit = np.random.default_rng(seed).standard_normal((n, 2))
    cases, shown = {}, {}
    for sigma in sigmas:
        name, drawn = f"{sigma:g}", sigma * unit
        cases[name], shown[name] = {}, {"drawn": drawn[:SHOWN].tolist()}
        for recall, project in zip(RECALLS, (project_external, project_internal), strict=True):
            cases[name][recall], moved = _case(drawn, project)
            shown[name][recall] = moved[:SHOWN].tolist()
    settings = {"sigmas": [float(sigma) for sigma in sigmas], "n": n, "seed": seed}
    return ScalarReport(cases, list(THRESHOLDS), shown, settings)


def _case(drawn: Points, project: Callable[[Points], Points]) -> tuple[ScalarCase, Points]:
    points = project(drawn)
    distance = np.linalg.norm(points - drawn, axis=-1)
    values = np.sort(anisotropy(points))
    finite = values[np.isfinite(values)]
    low, high = _median_interval(values)
    return (
        ScalarCase(
            stable=share(distance == 0),
            distance=_quantile(np.sort(distance[distance > 0]), 0.5),
            infinite=share(np.isinf(values)),
            median=_quantile(values, 0.5),
            low=low,
            high=high,
            finite={f"{level:g}": _quantile(finite, level) for level in LEVELS},
            at_most=[float(np.mean(values <= threshold)) for threshold in THRESHOLDS],
        ),
        points,
    )


def _quantile(ordered: Float[np.ndarray, " values"], level: float) -> float:
    """An order statistic: between a finite value and infinity there is nothing to interpolate."""
    if not ordered.size:
        return math.nan
    return float(ordered[min(int(level * len(ordered)), len(ordered) - 1)])


def _median_interval(ordered: Float[np.ndarray, " values"]) -> tuple[float, float]:
    """Two order statistics with the median of the population between them, at 95 % confidence.

    The number of values below that median is binomial, with 1/2; its normal approximation, rounded
    outwards (Conover 1999, section 3.2). The whole line for fewer values than it takes.
    """
    n = len(ordered)
    k = math.floor((n - NORMAL_95 * math.sqrt(n)) / 2)
    return (-math.inf, math.inf) if k < 1 else (float(ordered[k - 1]), float(ordered[n - k]))
