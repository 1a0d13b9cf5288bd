"""The numbers of a stability report that are compared between runs, and where they are in it."""

from collections.abc import Mapping
from typing import Any

from ..run import finite

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
}
"""Name -> path of a number, a `Summary`, a `Share`, or the clusters of an `InputDependence`. The
cosines are those of the cotangent at a fixed point with that of the implicit gradient."""


def value_at(report: Any, path: str) -> Any:
    """The value at a path of keys and places in lists.

    **Arguments:**

    - `report`: a stability report, as nested tables.
    - `path`: the keys and places, joined by dots.

    **Returns** the value; None if the report does not have it.

    ```python
    >>> import eqloop
    >>> report = {"spectrum": {"lyapunov": [{"mean": -0.2}]}}
    >>> eqloop.report.value_at(report, "spectrum.lyapunov.0.mean")
    -0.2
    >>> eqloop.report.value_at(report, "spectrum.radius") is None
    True

    ```
    """
    for name in path.split("."):
        if isinstance(report, list):
            report = report[int(name)] if int(name) < len(report) else None
        else:
            report = (report or {}).get(name)
    return report


def number_at(report: Any, path: str) -> float | None:
    """The value at a path as one number: the median of a `Summary`, the share of a `Share`, the
    share of inputs with a fixed point of their own; None if it was not measured."""
    value = value_at(report, path)
    if not isinstance(value, Mapping):
        return finite(value)
    for name in ("share", "distinct"):
        if name in value:
            return finite(value[name])
    return finite((value.get("quantiles") or {}).get("0.5"))


def is_share(report: Any, path: str) -> bool:
    """Whether `number_at` is a share between 0 and 1."""
    value = value_at(report, path)
    return isinstance(value, Mapping) and not {"share", "distinct"}.isdisjoint(value)


def check_compared(report: Any) -> None:
    """**Raises** `LookupError`, `TypeError`, `ValueError` or `AttributeError` if a part of the
    report that is compared is damaged."""
    for path in QUANTITIES.values():
        number_at(report, path)
    for test in report.get("computes", {}).values():
        finite(test["value"])
        if not all(isinstance(test[name], str) for name in ("claim", "verdict")):
            raise TypeError("a test has no verdict")
    part = report["reachability"]
    if len(list(map(finite, part["iterations"]))) != len(
        list(map(finite, part["residual"]["median"]))
    ):
        raise ValueError("as many residuals as iterations are needed")
    for example in report["spectrum"]["eigenvalues"]:
        for value in example:
            list(map(finite, value))
