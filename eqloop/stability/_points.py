"""Fixed points and slow points of a map, those that no orbit reaches included."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Complex, Float, PRNGKeyArray, PyTree

from .._iteration import Map
from ._orbits import Orbits

Kind = Literal["stable", "saddle", "slow", "undecided"]
"""The kind of a point; see `Point`."""


@dataclasses.dataclass(frozen=True)
class Point:
    """A fixed point or a slow point of `z <- f(z, x)`, for the input of one example.

    **Attributes:**

    - `kind`: "stable" or "saddle" for a fixed point without or with unstable directions; "slow" for
        a local minimum of `|f(z) - z|` that is not a fixed point; "undecided" if the measurement
        does not tell which of these the point is.
    - `because`: why it is of that kind, with the numbers.
    - `z`: the point, a pytree like one start.
    - `x`: its input, a pytree like one input.
    - `example`: index of the input.
    - `unstable`: number of eigenvalues of `J = df/dz` whose modulus exceeds 1 by more than their
        error, with multiplicity. At a slow point they describe the linear part of the motion.
    - `eigenvalues`: the leading eigenvalues, largest modulus first; the unstable ones with their
        multiplicity.
    - `errors`: estimate of the error of each eigenvalue.
    - `right`: unit vector v with `J v = eigenvalues[0] v`, flattened.
    - `left`: unit vector w with `J^T w = eigenvalues[0] w`, flattened; NaN if it was not found.
    - `directions`: orthonormal basis of the unstable directions, shape `(unstable, size)`.
    - `residual`: `|f(z) - z|` over the size of the states of the orbit.
    - `q`: `|f(z) - z|^2 / 2`.
    - `candidates`: number of searches that ended at this point.
    """

    kind: Kind
    because: str
    z: PyTree
    x: PyTree
    example: int
    unstable: int
    eigenvalues: Complex[np.ndarray, " count"]
    errors: Float[np.ndarray, " count"]
    right: Complex[np.ndarray, " size"]
    left: Complex[np.ndarray, " size"]
    directions: Float[np.ndarray, "unstable size"]
    residual: float
    q: float
    candidates: int


def find_points(
    f: Map,
    z0s: PyTree,
    xs: PyTree,
    *,
    key: PRNGKeyArray,
    iterations: int = 256,
    candidates: int = 32,
    noise: float = 1.0,
    count: int = 6,
) -> list[Point]:
    """Find fixed points and slow points of any map."""
    raise NotImplementedError


def points(
    orbits: Orbits,
    *,
    key: PRNGKeyArray,
    candidates: int = 32,
    noise: float = 1.0,
    count: int = 6,
) -> list[Point]:
    """`find_points` along orbits that `follow_orbits` has followed."""
    raise NotImplementedError
