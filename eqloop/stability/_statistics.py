"""Summary statistics with confidence intervals."""

import math

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.special import stdtrit

from .._stability_report import Share, Summary

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
CONFIDENCE = 0.95
RESAMPLES = 2000
FEWEST = 8
NORMAL_95 = 1.959963984540054
"""Between minus this and this lie 95 % of the normal distribution."""


def summary(values: Shaped[np.ndarray, " examples"]) -> Summary:
    """Summarise one number per example, ignoring values that are not finite.

    **Arguments:**

    - `values`: one number per example, shape `(examples,)`.

    **Returns:**

    The `Summary`.

    ```python
    >>> import eqloop, numpy as np
    >>> lengths = eqloop.stability.summary(np.array([1.0, 2.0, 3.0, np.nan]))
    >>> print(lengths.count, lengths.mean, lengths.median)
    3 2.0 2.0

    ```
    """
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
    """Compute the 95 % interval of the mean, by the bootstrap in t.

    Resamples of the examples give the distribution of `(mean* - mean) / error*`; the interval is
    made of its quantiles times the standard error. The plain percentile interval is too narrow for
    a few dozen examples, and more so for skewed ones. The seed is fixed, so the same examples
    always give the same interval. For fewer than 8 examples, many resamples are nearly constant;
    the interval is then that of Student.

    **Arguments:**

    - `values`: one finite number per example, shape `(examples,)`.

    **Returns:**

    The lower and the upper end, in the units of the values; NaN for fewer than two examples.

    **Source:** Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 12.

    ```python
    >>> import eqloop, numpy as np
    >>> low, high = eqloop.stability.bootstrap(np.array([1.0, 2.0, 3.0]))
    >>> print(f"{low:.2f} to {high:.2f}")           # 2 -+ 4.30 / sqrt(3), by Student
    -0.48 to 4.48

    ```
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


def block_means(
    blocks: Float[np.ndarray, "examples blocks *shape"],
) -> tuple[Float[np.ndarray, "examples *shape"], Float[np.ndarray, "examples *shape"]]:
    """Compute the mean over the blocks of a series, and half of its 95 % interval.

    The interval is that of Student for independent blocks: a block must be longer than the series
    remembers.

    **Arguments:**

    - `blocks`: the mean of each of at least two blocks, shape `(examples, blocks, ...)`.

    **Returns:**

    The means and the half-widths, both of shape `(examples, ...)`.

    ```python
    >>> import eqloop, numpy as np
    >>> mean, half = eqloop.stability.block_means(np.array([[1.0, 2.0, 3.0]]))
    >>> print(f"{mean[0]:.2f} -+ {half[0]:.2f}")          # 4.30 / sqrt(3), by Student
    2.00 -+ 2.48

    ```
    """
    blocks = np.asarray(blocks, np.float64)
    count = blocks.shape[1]
    error = blocks.std(axis=1, ddof=1) / math.sqrt(count)
    return blocks.mean(axis=1), error * stdtrit(count - 1, (1 + CONFIDENCE) / 2)


def share(hits: Bool[np.ndarray, " examples"]) -> Share:
    """Compute the share of the examples that have a property, with Wilson's 95 % interval. At
    shares of 0 and 1 it does not collapse, unlike that of the bootstrap.

    **Arguments:**

    - `hits`: whether each example has it, booleans of shape `(examples,)`.

    **Returns:**

    The `Share`; its numbers are NaN if there are no examples.

    **Source:** Wilson 1927, doi:10.1080/01621459.1927.10502953.

    ```python
    >>> import eqloop, numpy as np
    >>> solved = eqloop.stability.share(np.ones(10, bool))
    >>> print(f"{solved.share:.2f}, {solved.low:.2f} to {solved.high:.2f}")    # 10 / (10 + 1.96^2)
    1.00, 0.72 to 1.00

    ```
    """
    n, k = len(hits), int(np.sum(hits))
    if not n:
        return Share(0, 0, math.nan, math.nan, math.nan)
    z = NORMAL_95
    centre = (k + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * math.sqrt(k * (n - k) / n + z**2 / 4)
    # Rounding would leave 3e-16 or -0.0 in place of 0.
    low, high = centre - half if k else 0.0, 1.0 if k == n else centre + half
    return Share(k, n, k / n, low, high)
