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


NOT_MEASURED = Summary(
    values=[],
    count=0,
    mean=math.nan,
    low=math.nan,
    high=math.nan,
    quantiles=dict.fromkeys(("0.05", "0.25", "0.5", "0.75", "0.95"), math.nan),
)
"""What reports of earlier versions say of a number that these did not measure."""
