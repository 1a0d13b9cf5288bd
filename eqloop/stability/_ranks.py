"""Statistics of ranks: does a score separate two groups, and do two numbers rise together?"""

import math

import numpy as np
from jaxtyping import Bool, Float, Shaped

from .._stability_report import Auroc, RankCorrelation
from ._statistics import CONFIDENCE, NORMAL_95

PERMUTATIONS = 1999
FEWEST = 5
"""Minimum number of examples for a rank correlation."""
_BLOCK = 1 << 20
"""Maximum number of ranks that are permuted at once."""


def auroc(
    scores: Shaped[np.ndarray, " examples"],
    positive: Bool[np.ndarray, " examples"],
    *,
    groups: tuple[str, str] = ("positive", "negative"),
) -> Auroc:
    """Compute the area under the ROC curve, with an interval and a permutation test.

    The area is `P(s+ > s-) + P(s+ = s-) / 2` over pairs of a positive and a negative example. Its
    interval is the wider of two, because each fails alone: that of DeLong on the logistic scale is
    empty if all pairs are in order, that of Newcombe is too narrow if the scores of the two groups
    differ in spread. The p-value is two-sided, from 1999 permutations with a fixed seed, and counts
    the given labels as a further one.

    **Arguments:**

    - `scores`: one number per example, shape `(examples,)`. Infinite scores have a rank; examples
        whose score is NaN are left out.
    - `positive`: whether each example is positive, booleans of shape `(examples,)`.
    - `groups`: names of positive and negative examples, for `Auroc.because`.

    **Returns:**

    The `Auroc`. It is not measurable if all examples with a score are positive, or all negative.

    **Source:** DeLong et al. 1988, doi:10.2307/2531595; Newcombe 2006, doi:10.1002/sim.2324,
    method 5.

    ```python
    >>> import eqloop, numpy as np
    >>> scores, positive = np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, True, False, True])
    >>> area = eqloop.stability.auroc(scores, positive)     # 3 of 4 pairs are in order
    >>> print(f"{area.value}, {area.low:.2f} to {area.high:.2f}, p = {area.p:.2f}")
    0.75, 0.07 to 0.99, p = 0.66

    ```
    """
    from scipy.stats import rankdata  # slow to import

    known = ~np.isnan(scores)
    scores, positive = np.asarray(scores, np.float64)[known], positive[known]
    m, n = int(positive.sum()), int((~positive).sum())
    if not (m and n):
        if not known.any():
            because = "the score is not known for any example"
        else:
            because = f"all {m or n} examples with a score are {groups[0] if m else groups[1]}"
        nan = math.nan
        return Auroc(nan, nan, nan, m, n, nan, nan, nan, because)
    ranks = rankdata(scores)
    value = _area(ranks[positive].sum(), m, n)
    # Of each positive example the share of negative ones below it, and the reverse.
    below = (ranks[positive] - rankdata(scores[positive])) / n
    above = 1 - (ranks[~positive] - rankdata(scores[~positive])) / m
    intervals = [_newcombe(value, m, n)]
    if m > 1 and n > 1 and 0 < value < 1:
        intervals.append(_delong(value, below, above))
    null = _area(_permuted_sums(ranks, m), m, n)
    extreme = np.abs(null - 0.5) >= abs(value - 0.5) - 1e-12
    tail = (1 - CONFIDENCE) / 2
    return Auroc(
        value=float(value),
        low=min(low for low, _ in intervals),
        high=max(high for _, high in intervals),
        positives=m,
        negatives=n,
        p=float((1 + extreme.sum()) / (1 + PERMUTATIONS)),
        null_low=float(np.quantile(null, tail)),
        null_high=float(np.quantile(null, 1 - tail)),
        because=None,
    )


def _area(sum_of_ranks, m: int, n: int):
    """The Mann-Whitney statistic as a share of the pairs."""
    return (sum_of_ranks - m * (m + 1) / 2) / (m * n)


def _delong(
    value: float, below: Float[np.ndarray, " positives"], above: Float[np.ndarray, " negatives"]
) -> tuple[float, float]:
    variance = below.var(ddof=1) / len(below) + above.var(ddof=1) / len(above)
    half = NORMAL_95 * math.sqrt(variance) / (value * (1 - value))
    centre = math.log(value / (1 - value))
    low, high = 1 / (1 + np.exp(-centre - np.array([-half, half])))
    return float(low), float(high)


def _newcombe(value: float, m: int, n: int) -> tuple[float, float]:
    """The areas from which `value` is 1.96 standard errors away, by the variance of Hanley and
    McNeil at these areas."""
    from scipy.optimize import brentq

    pairs, extra = m * n, (m + n) / 2 - 1

    def distance(area: float) -> float:
        spread = 1 + extra * ((1 - area) / (2 - area) + area / (1 + area))
        return (area - value) ** 2 - NORMAL_95**2 * area * (1 - area) * spread / pairs

    # At an area of 0 or 1 the variance is 0, so `value` itself is a second root there.
    tiny = 1e-9
    low = brentq(distance, 0, min(value, 1 - tiny)) if value > 0 else 0.0
    high = brentq(distance, max(value, tiny), 1) if value < 1 else 1.0
    return float(low), float(high)  # pyright: ignore[reportArgumentType]


def _permuted_sums(
    ranks: Float[np.ndarray, " examples"], m: int
) -> Float[np.ndarray, " permutations"]:
    """The sum of the first `m` ranks of each permutation."""
    random = np.random.default_rng(0)
    at_once = max(1, _BLOCK // len(ranks))
    sums = []
    for done in range(0, PERMUTATIONS, at_once):
        rows = np.tile(ranks, (min(at_once, PERMUTATIONS - done), 1))
        sums.append(random.permuted(rows, axis=1)[:, :m].sum(axis=1))
    return np.concatenate(sums)


def rank_correlation(
    x: Shaped[np.ndarray, " examples"], y: Shaped[np.ndarray, " examples"]
) -> RankCorrelation:
    """Compute Spearman's rank correlation, with the interval of Bonett and Wright.

    **Arguments:**

    - `x`: the number that explains, one per example.
    - `y`: the number to be explained, one per example. Examples for which one is not finite are
        left out.

    **Returns:**

    The `RankCorrelation`. It is 0 if y does not vary, and not measurable if x does not vary or if
    there are fewer than 5 examples.

    **Source:** Bonett and Wright 2000, doi:10.1007/BF02294183.

    ```python
    >>> import eqloop, numpy as np
    >>> x = np.arange(10.0)
    >>> print(f"{eqloop.stability.rank_correlation(x, np.exp(x)).value:.2f}")
    1.00

    ```
    """
    from scipy.stats import rankdata  # slow to import

    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    count = len(x)
    if count < FEWEST or np.ptp(x) == 0:
        return RankCorrelation(math.nan, math.nan, math.nan, count)
    if np.ptp(y) == 0:
        return RankCorrelation(0.0, 0.0, 0.0, count)
    value = float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])
    half = NORMAL_95 * math.sqrt((1 + value**2 / 2) / (count - 3))
    with np.errstate(divide="ignore"):
        low, high = np.tanh(np.arctanh(value) + np.array([-half, half])).tolist()
    return RankCorrelation(value, low, high, count)
