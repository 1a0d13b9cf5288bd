"""Does a number go with another one over models? Rank correlation, with an interval."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from .tables._table import Table

FEWEST = 5
"""Of fewer models no correlation is given."""
RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of `name` with an outcome, over `count` models, and its 95 %
    interval by resampling models; None where there are fewer than 5, or all are alike."""

    name: str
    count: int
    value: float | None
    low: float | None
    high: float | None


def correlations(
    measures: Mapping[str, Sequence[float | None]], outcome: Sequence[float]
) -> list[Correlation]:
    """One for each of `measures`: name -> a number for each model (None or not finite where it is
    not known; such models are left out), in the order of `outcome`."""
    found = []
    for name, values in measures.items():
        measured = np.array([np.nan if value is None else value for value in values], np.float64)
        known = np.isfinite(measured)
        pairs = np.stack([measured[known], np.asarray(outcome, np.float64)[known]])
        if pairs.shape[1] < FEWEST or not _varies(pairs).all():
            found.append(Correlation(name, pairs.shape[1], None, None, None))
            continue
        low, high = np.quantile(_resampled(pairs), [0.025, 0.975])
        value = float(_correlate(pairs[:, None])[0])
        found.append(Correlation(name, pairs.shape[1], value, float(low), float(high)))
    return found


def correlation_table(found: Iterable[Correlation], outcome: str = "hard") -> Table:
    rows = [
        (each.name, str(each.count), "-", "too few" if each.count < FEWEST else "all alike")
        if each.value is None
        else (
            each.name,
            str(each.count),
            f"{each.value:.2f}",
            f"{each.low:.2f} to {each.high:.2f}",
        )
        for each in found
    ]
    return Table(
        "correlation",
        "What goes with extrapolation",
        ("instrument", "models", f"rank correlation with {outcome}", "95 %"),
        rows,
        f"Spearman’s rank correlation, over models, of each number with the share of {outcome} "
        "examples solved at the last iteration; the interval is by resampling models. Correlation "
        "over a few models is no cause.",
    )


def _varies(pairs: Float[np.ndarray, "2 *draws models"]) -> np.ndarray:
    return (pairs != pairs[..., :1]).any(axis=-1)


def _resampled(pairs: Float[np.ndarray, "2 models"]) -> Float[np.ndarray, " draws"]:
    """The correlation of `RESAMPLES` draws of the models, from a fixed seed; draws in which all
    are alike have none, and are drawn again."""
    random = np.random.default_rng(0)
    count = pairs.shape[1]
    drawn: list[np.ndarray] = []
    while len(drawn) < RESAMPLES:
        each = pairs[:, random.integers(0, count, count)]
        if _varies(each).all():
            drawn.append(each)
    return _correlate(np.stack(drawn, axis=1))


def _correlate(pairs: Float[np.ndarray, "2 draws models"]) -> Float[np.ndarray, " draws"]:
    """Pearson's correlation of the ranks, equal values sharing theirs."""
    from scipy.stats import rankdata

    x, y = rankdata(pairs, axis=-1) - (pairs.shape[-1] + 1) / 2
    return (x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
