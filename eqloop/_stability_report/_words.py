"""The words of a stability report: verdicts, and outcomes of single orbits."""

import enum
from typing import Literal, get_args

Outcome = Literal["converged", "unresolved", "cycle", "slow", "wandering", "diverged"]
"""What an orbit does; see `classify`."""

PointKind = Literal["stable", "saddle", "slow", "undecided"]
"""The kind of a point; see `Point`."""
POINT_KINDS: tuple[PointKind, ...] = get_args(PointKind)


class Verdict(enum.StrEnum):
    """The verdict of one axis. Each member is the text that `report.json` holds.

    ```python
    >>> import eqloop
    >>> unknown = eqloop.stability.Verdict("not measurable")
    >>> print(unknown == "not measurable", unknown.measured)
    True False

    ```
    """

    # Reachability.
    REACHED_FROM_EVERY_START = "reached from every start"
    REACHED_FROM_OWN_START = "reached from its own start"
    REACHED_IN_PART = "reached in part"
    NOT_REACHED = "not reached"
    # Input-dependence.
    SMOOTH = "smooth in the input"
    NOT_SMOOTH = "differs, not smoothly"
    SMOOTHNESS_UNKNOWN = "differs, smoothness not measurable"
    FEW_FIXED_POINTS = "few fixed points"
    ONE_FIXED_POINT = "one fixed point, whatever the input"
    # Geometry.
    STABLE = "stable"
    CONDITIONING_UNKNOWN = "stable, conditioning not measurable"
    EXPLODING = "exploding"
    ILL_CONDITIONED = "ill-conditioned"
    # Any axis.
    NOT_MEASURABLE = "not measurable"

    @property
    def measured(self) -> bool:
        """Whether the measurement decides the question of the axis."""
        return self not in _UNDECIDED


_UNDECIDED = (Verdict.NOT_MEASURABLE, Verdict.SMOOTHNESS_UNKNOWN, Verdict.CONDITIONING_UNKNOWN)
