"""A branch of fixed points, as `continuation` returns it."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Complex, Float, PyTree

Kind = Literal["fold", "branch", "flip", "neimark-sacker", "unresolved"]
"""What happens at a place of a branch; see `Bifurcation`."""


@dataclasses.dataclass(frozen=True)
class Bifurcation:
    """A place on a branch where the fixed point loses or gains an unstable direction.

    **Attributes:**

    - `kind`: "fold": an eigenvalue passes through 1 where the branch turns back; "branch": through
        1 where it does not turn back, so that other fixed points branch off or cross; "flip":
        through -1, where a cycle of period 2 branches off; "neimark-sacker": a complex pair passes
        through the unit circle, where an invariant circle branches off; "unresolved": the number of
        unstable directions changes, but not by an eigenvalue that could be followed through the
        circle, as where f is not smooth.
    - `parameter`: the value of the parameter; for "unresolved", the middle of the interval.
    - `eigenvalue`: the eigenvalue of `df/dz` there; of a pair, the one above the real axis; NaN
        where it could not be measured.
    - `state`: the fixed point there; for "unresolved", the last one before the interval.
    - `after`: index of the last point of the branch before it.
    """

    kind: Kind
    parameter: float
    eigenvalue: complex
    state: PyTree
    after: int


@dataclasses.dataclass(frozen=True)
class Branch:
    """The fixed points that `continuation` followed, in order along the branch.

    **Attributes:**

    - `parameters`: the value of the parameter at each point, shape `(points,)`.
    - `states`: the fixed points, stacked along a first axis; None if there are none.
    - `norms`: their 2-norms, shape `(points,)`.
    - `residuals`: `|f(z) - z|` at each point, relative to the larger of `|f(z)|` and the norm of
        the first state, shape `(points,)`.
    - `eigenvalues`: the eigenvalues of `df/dz` of largest modulus, largest first, shape `(points,
        count)`; NaN if there are fewer, or where one did not converge.
    - `unstable`: number of different eigenvalues outside the unit circle, shape `(points,)`: 0 at a
        stable point. NaN where it is not measurable: an eigenvalue is on the circle within its
        error, or all `count` are outside.
    - `bifurcations`: the events along the branch, in order; a fold before others of its step.
    - `ended`: why the branch ends: "reached stop"; "left the range" through the value at which it
        started; "no convergence: ..."; or "not at stop after ... points".
    """

    parameters: Float[np.ndarray, " points"]
    states: PyTree
    norms: Float[np.ndarray, " points"]
    residuals: Float[np.ndarray, " points"]
    eigenvalues: Complex[np.ndarray, "points count"]
    unstable: Float[np.ndarray, " points"]
    bifurcations: list[Bifurcation]
    ended: str
