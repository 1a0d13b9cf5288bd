"""Statistics of one number per example; `eqloop.stability.summary` and `share` make them."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Summary:
    """One number per example, and statistics of the finite ones.

    **Attributes:**

    - `values`: the number of each example, NaN if it could not be measured.
    - `count`: number of finite values; the statistics are of these, and NaN if there are none.
    - `mean`: their mean.
    - `low`, `high`: the ends of its 95 % interval (see `bootstrap`); NaN for fewer than two values.
    - `quantiles`: level -> quantile at 5, 25, 50, 75 and 95 %; `"0.5"` is the median.
    """

    values: list[float]
    count: int
    mean: float
    low: float
    high: float
    quantiles: dict[str, float]

    @property
    def median(self) -> float:
        """The median of the finite values."""
        return self.quantiles["0.5"]


@dataclasses.dataclass(frozen=True)
class Share:
    """The share of the examples that have a property.

    **Attributes:**

    - `hits`: number of examples that have it.
    - `count`: number of examples.
    - `share`: `hits / count`, in [0, 1]; NaN if there are no examples.
    - `low`, `high`: the ends of its 95 % interval (see `share`).
    """

    hits: int
    count: int
    share: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Auroc:
    """The area under the ROC curve of a score that is to tell positive from negative examples; see
    `eqloop.stability.auroc`.

    **Attributes:**

    - `value`: the probability that a positive example has a higher score than a negative one; 0.5
        by chance, NaN if it is not measurable.
    - `low`, `high`: the ends of its 95 % interval.
    - `positives`, `negatives`: numbers of examples whose score is known.
    - `p`: the share of permutations of the labels whose area is as far from 0.5.
    - `null_low`, `null_high`: the 2.5 % and 97.5 % quantiles of the area under permutation.
    - `because`: why it is not measurable; None if it is.
    """

    value: float
    low: float
    high: float
    positives: int
    negatives: int
    p: float
    null_low: float
    null_high: float
    because: str | None


@dataclasses.dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation of two numbers over examples; see
    `eqloop.stability.rank_correlation`.

    **Attributes:**

    - `value`: the correlation, in [-1, 1]; NaN if it is not measurable.
    - `low`, `high`: the ends of its 95 % interval.
    - `count`: number of examples for which both numbers are finite.
    """

    value: float
    low: float
    high: float
    count: int


NOT_MEASURED = Summary(
    values=[],
    count=0,
    mean=math.nan,
    low=math.nan,
    high=math.nan,
    quantiles=dict.fromkeys(("0.05", "0.25", "0.5", "0.75", "0.95"), math.nan),
)
"""What reports of earlier versions say of a number that these did not measure."""
