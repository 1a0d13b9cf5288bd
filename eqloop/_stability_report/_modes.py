"""Exact modes of the norms, and Lyapunov exponents in two precisions."""

import dataclasses

from ._statistics import Summary


@dataclasses.dataclass(frozen=True)
class NormModesRecord:
    """What a report holds of the exact modes that the norms leave; see `eqloop.claims.NormModes`.

    **Attributes:** as those of `NormModes`, with the residuals as statistics over the examples.
    """

    zero: int
    zero_residual: Summary
    neutral_residual: Summary
    statement: str


@dataclasses.dataclass(frozen=True)
class PrecisionRecord:
    """Lyapunov exponents in two precisions; see `eqloop.stability.precision_check`.

    **Attributes:**

    - `values`: the leading exponents in the precision of the state, largest first.
    - `double`: those in float64.
    - `warning`: one sentence if they part, or why they are not compared; None if they agree.
    """

    values: list[Summary]
    double: list[Summary]
    warning: str | None
