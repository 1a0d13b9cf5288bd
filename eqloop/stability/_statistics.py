"""Summary statistics with confidence intervals."""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.special import stdtrit

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
CONFIDENCE = 0.95
RESAMPLES = 2000
FEWEST = 8
NORMAL_95 = 1.959963984540054
"""Between minus this and this lie 95 % of the normal distribution."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """One number per example, and the set as a whole.

    **Attributes:**

    - `values`: of each example; NaN where it could not be measured.
    - `count`: how many are finite; all that follows is about these.
    - `mean`; `low`, `high`: its 95 % interval (see `bootstrap`). NaN where `count` is 0.
    - `quantiles`: at 5, 25, 50, 75 and 95 %, by name (`"0.5"` is the median).
    """

    values: list[float]
    count: int
    mean: float
    low: float
    high: float
    quantiles: dict[str, float]

    @property
    def median(self) -> float:
        return self.quantiles["0.5"]


@dataclasses.dataclass(frozen=True)
class Share:
    """`hits` of `count` examples: `share`, with its 95 % interval by Wilson's formula."""

    hits: int
    count: int
    share: float
    low: float
    high: float


def summary(values: Shaped[np.ndarray, " examples"]) -> Summary:
    """Summarise one number per example, ignoring values that are not finite."""
    values = np.asarray(values, np.float64)
    finite = values[np.isfinite(values)]
    low, high = bootstrap(finite)
    nothing = not finite.size
    return Summary(
        values=values.tolist(),
        count=len(finite),
        mean=math.nan if nothing else float(finite.mean()),
        low=low,
        high=high,
        quantiles={
            f"{level:g}": math.nan if nothing else float(np.quantile(finite, level))
            for level in LEVELS
        },
    )


def bootstrap(values: Float[np.ndarray, " examples"]) -> tuple[float, float]:
    """The 95 % interval of the mean, by the bootstrap in t.

    Resamples of the examples give the distribution of `(mean* - mean) / error*`, and its quantiles
    times the standard error the interval (Efron and Tibshirani 1993, chapter 12). The plain
    percentile interval is too narrow for a few dozen examples, and more so for skewed ones. With
    a fixed seed: the same examples always give the same interval. Below `FEWEST` examples, of which
    many resamples are nearly constant, it is Student's interval; NaN for fewer than two.
    """
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    mean, error = values.mean(), values.std(ddof=1) / math.sqrt(n)
    if error == 0:
        return float(mean), float(mean)
    tail = (1 - CONFIDENCE) / 2
    if n < FEWEST:
        half = float(stdtrit(n - 1, 1 - tail)) * error
        return float(mean - half), float(mean + half)
    drawn = values[np.random.default_rng(0).integers(0, n, (RESAMPLES, n))]
    errors = drawn.std(axis=1, ddof=1) / math.sqrt(n)
    # A resample of one value n times says nothing about t.
    varied = errors > 1e-12 * error
    t = (drawn.mean(axis=1)[varied] - mean) / errors[varied]
    below, above = np.quantile(t, [tail, 1 - tail])
    return float(mean - above * error), float(mean - below * error)


def share(hits: Bool[np.ndarray, " examples"]) -> Share:
    """How many hold. Wilson's interval does not collapse at 0 and at 1, unlike the bootstrap's.
    (Wilson 1927.) NaN where there are no examples."""
    n, k = len(hits), int(np.sum(hits))
    if not n:
        return Share(0, 0, math.nan, math.nan, math.nan)
    z = NORMAL_95
    centre = (k + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * math.sqrt(k * (n - k) / n + z**2 / 4)
    return Share(k, n, k / n, max(0.0, centre - half), min(1.0, centre + half))
