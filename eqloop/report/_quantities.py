"""The numbers of a stability report that are compared between runs, and where they are in it."""

from collections.abc import Mapping
from typing import Any

from .._numbers import is_known
from .._stability_report import Auroc, InputDependence, Share, StabilityReport, Summary

QUANTITIES: Mapping[str, str] = {
    "converged": "reachability.shares.converged",
    "settle step": "reachability.settle_step",
    "measured rate": "reachability.rate",
    "spectral radius at fixed points": "spectrum.radius_at_fixed_points",
    "spectral radius at all ends": "spectrum.radius",
    "sigma max": "spectrum.sigma_max",
    "non-normality": "spectrum.non_normality",
    "Lyapunov exponent": "spectrum.lyapunov.0",
    "basin": "reachability.basin",
    "restarts from noise that agree": "reachability.starts.gaussian.same",
    "restarts from another z* that agree": "reachability.starts.other.same",
    "distinct fixed points": "input_dependence",
    "spread": "input_dependence.spread",
    "|(I-J)^-1 df/dx|": "input_dependence.implicit",
    "|dz_T/dx| over that": "input_dependence.agreement",
    "smoothness": "input_dependence.smoothness",
    "input read off z*, R^2": "input_dependence.probe",
    "condition of I-J": "geometry.condition",
    "backward products": "geometry.products",
    "cosine of one-step": "geometry.cosines.one-step",
    "cosine of phantom-8": "geometry.cosines.phantom-8",
    "cosine of neumann-8": "geometry.cosines.neumann-8",
    "rho(W_x)": "spectrum.weights.rho_w_x",
    "settled but wrong": "census.settled_wrong.wrong_of_settled",
    "right but not settled": "census.settled_wrong.unsettled_of_right",
    "answer froze at": "census.froze.answer",
    "AUROC of the residual": "census.auroc.residual",
    "points located by searches": "points",
}
"""Name -> path of a number, a `Summary`, a `Share`, an `Auroc`, the clusters of an
`InputDependence`, or a list of points. The cosines are those of the cotangent at a fixed point
with that of the implicit gradient."""


def value_at(report: Any, path: str) -> Any:
    """The value at a path of attributes, keys and places in lists.

    **Arguments:**

    - `report`: a `StabilityReport`, or a part of one.
    - `path`: the names and places, joined by dots.

    **Returns** the value; None if the report does not have it.

    ```python
    >>> import eqloop
    >>> start = eqloop.stability.Share(hits=3, count=4, share=0.75, low=0.3, high=0.95)
    >>> eqloop.report.value_at({"shares": [start]}, "shares.0.hits")
    3
    >>> eqloop.report.value_at({"shares": [start]}, "shares.1.hits") is None
    True

    ```
    """
    value = report
    for name in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(name)
        elif isinstance(value, list):
            value = value[int(name)] if int(name) < len(value) else None
        else:
            value = getattr(value, name, None)
    return value


def number_at(report: StabilityReport | None, path: str) -> float | None:
    """The value at a path as one number: the median of a `Summary`, the share of a `Share`, the
    area of an `Auroc`, the share of inputs with a fixed point of their own, the number of points;
    None if it was not measured."""
    value = value_at(report, path)
    if isinstance(value, Summary):
        value = value.median
    elif isinstance(value, Share):
        value = value.share
    elif isinstance(value, Auroc):
        value = value.value
    elif isinstance(value, InputDependence):
        value = value.distinct
    elif isinstance(value, list):
        value = len(value)
    return value if is_known(value) else None


def is_share(report: StabilityReport | None, path: str) -> bool:
    """Whether `number_at` is a share between 0 and 1."""
    return isinstance(value_at(report, path), Share | InputDependence)
