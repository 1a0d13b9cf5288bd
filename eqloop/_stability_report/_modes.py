"""Exact modes of the norms, and Lyapunov exponents in two precisions."""

import dataclasses

from ._statistics import Summary


@dataclasses.dataclass(frozen=True)
class NormModesRecord:
    """What a report holds of the exact modes that the norms leave; see `eqloop.claims.NormModes`.

    **Attributes:**

    - `zero`: number of eigenvalues that are exactly 0.
    - `zero_residual`: how far the left null vectors are from being such, over the examples.
    - `neutral_residual`: how far the scales of the cells are from an eigenvalue of 1, over the
      examples.
    - `statement`: what this means, in a sentence.
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
