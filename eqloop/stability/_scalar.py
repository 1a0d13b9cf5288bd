"""The scalar model of a looped block: the stable region of each recall, and its anisotropy."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from .._stability_report import Share
from ._statistics import LEVELS, NORMAL_95, share

RECALLS = ("external", "internal")
SHOWN = 60
"""Number of draws of each sigma that a report stores for its picture."""
THRESHOLDS = tuple(number / 10 for number in range(101))
"""Values at which the distribution function of the anisotropy is tabulated."""

Points = Float[np.ndarray, "points 2"]


def stable_external(
    x: Float[np.ndarray, "*shape"], y: Float[np.ndarray, "*shape"]
) -> Bool[np.ndarray, "*shape"]:
    """Whether `|(1 + y) x| <= 1`: external recall, `u = x z + e`, `z' = u + y u`.

    The state is a number, `x` is its weight and `y` the Jacobian of the residual branch. Each
    iteration multiplies the distance of two states with the same input by `(1 + y) x`. The boundary
    counts as stable.

    **Arguments:**

    - `x`, `y`: weights and Jacobians, arrays of one shape.

    **Returns** an array of the shape of `x` and `y`.

    **Source:** arXiv 2604.15259, appendix B.2.

    ```python
    >>> import eqloop, numpy as np
    >>> eqloop.stability.stable_external(np.array([0.5, 2.0]), np.array([0.5, 0.5])).tolist()
    [True, False]

    ```
    """
    return np.abs((1 + y) * x) <= 1


def stable_internal(
    x: Float[np.ndarray, "*shape"], y: Float[np.ndarray, "*shape"]
) -> Bool[np.ndarray, "*shape"]:
    """Whether `|1 + x y| <= 1`, that is `-2 <= x y <= 0`: internal recall, `z' = z + y (x z + e)`.

    Here the axes belong to the boundary, and the interiors of the quadrants in which x and y have
    the same sign are unstable.

    **Arguments:**

    - `x`, `y`: weights and Jacobians, arrays of one shape; see `stable_external`.

    **Returns** an array of the shape of `x` and `y`.

    **Source:** arXiv 2604.15259, appendix B.2.

    ```python
    >>> import eqloop, numpy as np
    >>> eqloop.stability.stable_internal(np.array([0.5, 2.0]), np.array([-0.5, 0.5])).tolist()
    [True, False]

    ```
    """
    product = x * y  # rather than 1 + x y, which rounds a small product away
    return (product >= -2) & (product <= 0)


def project_external(points: Points) -> Points:
    """The nearest point at which external recall is stable, for each `(x, y)`.

    Stable points are unchanged. Other points move to a branch of the hyperbola `|(1 + y) x| = 1`:
    the distance is correct to rounding, and `stable_external` is True for the result. If two points
    are equally near (`|x| = |1 + y| > 2`), the one with the larger `|x|` is taken.

    **Arguments:**

    - `points`: rows `(x, y)`, shape `(points, 2)`.

    **Returns** points, `(points, 2)`.

    **Raises** `ValueError` for points that are not finite, or not rows of two numbers.

    ```python
    >>> import eqloop, numpy as np
    >>> eqloop.stability.project_external(np.array([[4.0, 0.0], [0.5, 0.5]])).round(3).tolist()
    [[3.952, -0.747], [0.5, 0.5]]

    ```
    """
    x, y = _columns(points)
    unstable = ~stable_external(x, y)
    centred = _onto_hyperbola(x[unstable], 1 + y[unstable], 1.0) - (0.0, 1.0)
    nearest = np.stack([x, y], axis=-1)
    nearest[unstable, 0] = _just_inside(centred[:, 0], 1 + centred[:, 1], 1.0)
    nearest[unstable, 1] = centred[:, 1]
    return nearest


def project_internal(points: Points) -> Points:
    """The nearest point at which internal recall is stable, for each `(x, y)`.

    Stable points are unchanged. If x and y have the same sign, the nearest point is on an axis: the
    smaller of the two becomes 0. If `x y < -2`, it is on a branch of the hyperbola `x y = -2`. If
    two points are equally near, the one with the larger `|x|` is taken.

    **Arguments:**

    - `points`: rows `(x, y)`, shape `(points, 2)`.

    **Returns** points, `(points, 2)`.

    **Raises** `ValueError` as `project_external` does.

    ```python
    >>> import eqloop, numpy as np
    >>> eqloop.stability.project_internal(np.array([[3.0, 0.5], [1.0, -1.0]])).tolist()
    [[3.0, 0.0], [1.0, -1.0]]

    ```
    """
    x, y = _columns(points)
    nearest = np.stack([x, y], axis=-1)
    same_sign = x * y > 0
    nearest[same_sign & (np.abs(y) <= np.abs(x)), 1] = 0
    nearest[same_sign & (np.abs(y) > np.abs(x)), 0] = 0
    beyond = x * y < -2
    onto = _onto_hyperbola(x[beyond], y[beyond], 2.0)
    nearest[beyond, 0] = _just_inside(onto[:, 0], onto[:, 1], 2.0)
    nearest[beyond, 1] = onto[:, 1]
    return nearest


def anisotropy(points: Points) -> Float[np.ndarray, " points"]:
    """`|log(|x| / |y|)|`: 0 if weight and Jacobian have equal size, infinite on an axis, and NaN at
    the origin.

    **Arguments:**

    - `points`: rows `(x, y)`, shape `(points, 2)`.

    **Returns** one number per point, `(points,)`.

    **Raises** `ValueError` as `project_external` does.

    ```python
    >>> import eqloop, numpy as np
    >>> eqloop.stability.anisotropy(np.array([[2.0, -2.0], [1.0, 0.0]])).tolist()
    [0.0, inf]

    ```
    """
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
    """The nearest point with `|x y| = c` to a point with `|x y| > c`.

    Up to signs, the hyperbola is `sqrt(c) (e^t, e^-t)`. The larger coordinate of the nearest point
    is that of the given point: t >= 0 for a >= b. The squared distance is stationary if

    `G(t) = 4 sqrt(c) sinh t - (a + b) tanh t - (a - b) = 0`

    G is convex for t >= 0 and `G(0) <= 0`, so its largest root is the minimum, and Newton's method
    decreases to it from any larger t without a safeguard.
    """
    a, b, root = np.abs(x), np.abs(y), math.sqrt(c)
    size, lead = a + b, np.abs(a - b)
    t = np.arcsinh(np.maximum(a, b) / (2 * root))  # G = (a + b) (1 - tanh t) there
    # Convergence is quadratic, except for the triple root a = b = 2 sqrt(c): 2/3 per step.
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
    """`u`, reduced by a rounding error if rounding makes `|u v|` exceed c."""
    with np.errstate(divide="ignore"):
        bound = np.nextafter(c / np.abs(v), 0)
    return np.copysign(np.minimum(np.abs(u), bound), u)


@dataclasses.dataclass(frozen=True)
class ScalarCase:
    """The draws of one sigma, projected to the stable region of one recall.

    **Attributes:**

    - `stable`: share of draws that were stable and did not move.
    - `distance`: median distance between the other draws and their projections.
    - `infinite`: share of projections on an axis, whose anisotropy is infinite.
    - `median`: median of all anisotropies; it may be infinite.
    - `low`: lower end of the 95 % interval of the median, from order statistics, which assume
        nothing of the distribution; it may be infinite.
    - `high`: upper end of that interval; it may be infinite.
    - `finite`: level -> quantile of the finite anisotropies, at 5, 25, 50, 75 and 95 %.
    - `at_most`: for each of `ScalarReport.thresholds`, the share of all anisotropies that are at
        most that number.
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

    - `cases`: sigma (as text, `"0.1"`) -> recall ("external", "internal") -> `ScalarCase`.
    - `thresholds`: the thresholds of `ScalarCase.at_most`.
    - `shown`: sigma -> `{"drawn", "external", "internal"}`: the first draws and their projections,
        as pairs.
    - `settings`: the arguments `sigmas`, `n` and `seed`.
    """

    cases: dict[str, dict[str, ScalarCase]]
    thresholds: list[float]
    shown: dict[str, dict[str, list[list[float]]]]
    settings: dict[str, Any]

    def tables(self) -> dict[str, Any]:
        """Return the report as nested plain values; an infinite median stays infinite (in JSON it
        is null)."""
        return dataclasses.asdict(self)


def scalar_experiment(
    sigmas: Sequence[float] = (0.1, 1.0, 4.0), n: int = 3000, seed: int = 0
) -> ScalarReport:
    """Measure how much weight and Jacobian must differ in size for the loop to be stable.

    Draws n points `(x, y) ~ N(0, sigma^2 I)` for each sigma (the same points, scaled), projects
    each to the nearest stable point and measures the anisotropy `|log(|x| / |y|)|` there.

    **Do not compare the median for internal recall.** For every sigma, x and y have the same sign
    in half of the draws; the nearest stable point of these is on an axis, with infinite anisotropy.
    So the population has no unique median: every number above all finite values is one. The median
    of a sample is one of its largest finite values or infinity, depending on chance, as `low` and
    `high` show. The share of infinite values and the quantiles of the finite ones do not depend on
    chance, so the report has these too.

    As sigma goes to 0, every point of external recall, and every finite one of internal recall,
    does not move: `P(anisotropy <= t) = 4/pi arctan(e^t) - 1`, with median log(1 + sqrt(2)) =
    0.881.

    **Arguments:**

    - `sigmas`: standard deviations, each above 0.
    - `n`: number of draws per sigma, at least 1.
    - `seed`: seed of the draws.

    **Returns:**

    A `ScalarReport`.

    **Raises** `ValueError` for an argument out of range.

    **Source:** arXiv 2604.15259, appendix B.2.

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
        name, draws = f"{sigma:g}", sigma * unit
        cases[name], shown[name] = {}, {"drawn": draws[:SHOWN].tolist()}
        for recall, project in zip(RECALLS, (project_external, project_internal), strict=True):
            cases[name][recall], moved = _case(draws, project)
            shown[name][recall] = moved[:SHOWN].tolist()
    settings = {"sigmas": [float(sigma) for sigma in sigmas], "n": n, "seed": seed}
    return ScalarReport(cases, list(THRESHOLDS), shown, settings)


def _case(draws: Points, project: Callable[[Points], Points]) -> tuple[ScalarCase, Points]:
    points = project(draws)
    distance = np.linalg.norm(points - draws, axis=-1)
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
    """An order statistic; values may be infinite, so there is no interpolation."""
    if not ordered.size:
        return math.nan
    return float(ordered[min(int(level * len(ordered)), len(ordered) - 1)])


def _median_interval(ordered: Float[np.ndarray, " values"]) -> tuple[float, float]:
    """Two order statistics that enclose the median of the population, at 95 % confidence.

    The number of values below the median is binomial with p = 1/2; this uses its normal
    approximation, rounded outwards (Conover 1999, section 3.2). For too few values the interval is
    the whole line.
    """
    n = len(ordered)
    k = math.floor((n - NORMAL_95 * math.sqrt(n)) / 2)
    return (-math.inf, math.inf) if k < 1 else (float(ordered[k - 1]), float(ordered[n - k]))
