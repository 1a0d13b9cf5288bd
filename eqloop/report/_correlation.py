"""Rank correlation of a number with an outcome over models, with an interval."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from .tables._table import Table

FEWEST = 5
"""Minimum number of models for a correlation."""
RESAMPLES = 1000
"""Number of bootstrap resamples of the models."""


@dataclasses.dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of a number with an outcome over models.

    **Attributes:**

    - `name`: name of the number.
    - `count`: number of models for which it is known.
    - `value`: the correlation; None for fewer than 5 models or if all values are equal.
    - `low`, `high`: its 95 % interval, by resampling models; None if `value` is None.

    ```python
    >>> import eqloop
    >>> [few] = eqloop.report.correlations({"spectral radius": [0.5, 0.8]}, [0.9, 0.8])
    >>> few
    Correlation(name='spectral radius', count=2, value=None, low=None, high=None)

    ```
    """

    name: str
    count: int
    value: float | None
    low: float | None
    high: float | None


def correlations(
    measures: Mapping[str, Sequence[float | None]], outcome: Sequence[float]
) -> list[Correlation]:
    """Correlate numbers with an outcome over models.

    **Arguments:**

    - `measures`: name -> one number per model. Models whose number is None or not finite are left
        out.
    - `outcome`: one number per model, in the same order.

    **Returns** one `Correlation` per entry of `measures`.

    **Raises** `IndexError` if an entry has another number of models than `outcome`.

    ```python
    >>> import eqloop
    >>> radii, solved = [0.5, 0.8, 0.9, 1.1, 1.3, 1.4], [0.9, 0.8, 0.7, 0.5, 0.2, 0.1]
    >>> [radius] = eqloop.report.correlations({"spectral radius": radii}, solved)
    >>> round(radius.value, 2), radius.count
    (-1.0, 6)

    ```
    """
    results = []
    for name, values in measures.items():
        measured = np.array([np.nan if value is None else value for value in values], np.float64)
        known = np.isfinite(measured)
        pairs = np.stack([measured[known], np.asarray(outcome, np.float64)[known]])
        if pairs.shape[1] < FEWEST or not _varies(pairs).all():
            results.append(Correlation(name, pairs.shape[1], None, None, None))
            continue
        low, high = np.quantile(_resampled(pairs), [0.025, 0.975])
        value = float(_correlate(pairs[:, None])[0])
        results.append(Correlation(name, pairs.shape[1], value, float(low), float(high)))
    return results


def correlation_table(results: Iterable[Correlation], outcome: str = "hard") -> Table:
    """The table of correlations with the share of a split that is solved.

    **Arguments:**

    - `results`: the result of `correlations`.
    - `outcome`: name of the split.

    **Returns** a table with one row per correlation.

    ```python
    >>> import eqloop
    >>> radius = eqloop.report.Correlation("spectral radius", 6, -0.9, -1.0, -0.5)
    >>> eqloop.report.correlation_table([radius]).rows
    [('spectral radius', '6', '-0.90', '-1.00 to -0.50')]

    ```
    """
    rows = [
        (result.name, str(result.count), "-", "too few" if result.count < FEWEST else "all alike")
        if result.value is None
        else (
            result.name,
            str(result.count),
            f"{result.value:.2f}",
            f"{result.low:.2f} to {result.high:.2f}",
        )
        for result in results
    ]
    return Table(
        "correlation",
        "What goes with extrapolation",
        ("instrument", "models", f"rank correlation with {outcome}", "95 %"),
        rows,
        f"Spearman’s rank correlation, over models, of each number with the share of {outcome} "
        "examples solved at the last iteration; the interval is by resampling models. A "
        "correlation over a few models does not show a cause.",
    )


def _varies(pairs: Float[np.ndarray, "2 *draws models"]) -> np.ndarray:
    return (pairs != pairs[..., :1]).any(axis=-1)


def _resampled(pairs: Float[np.ndarray, "2 models"]) -> Float[np.ndarray, " draws"]:
    """The correlations of `RESAMPLES` resamples of the models, from a fixed seed. A resample whose
    values are all equal has no correlation and is drawn again."""
    random = np.random.default_rng(0)
    count = pairs.shape[1]
    drawn: list[np.ndarray] = []
    while len(drawn) < RESAMPLES:
        resample = pairs[:, random.integers(0, count, count)]
        if _varies(resample).all():
            drawn.append(resample)
    return _correlate(np.stack(drawn, axis=1))


def _correlate(pairs: Float[np.ndarray, "2 draws models"]) -> Float[np.ndarray, " draws"]:
    """Pearson's correlation of the ranks; equal values share the mean of their ranks."""
    from scipy.stats import rankdata

    x, y = rankdata(pairs, axis=-1) - (pairs.shape[-1] + 1) / 2
    return (x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
