"""How far a loop can be computed backwards."""

import math


def steps_backwards(mix: float, eps: float) -> int:
    """The number of steps of a `Reversible` that can be computed backwards in a row so that half of
    the digits of a state stay: an error of at most about `sqrt(eps)`, relative to it.

    **Arguments:**

    - `mix`: the share b of each new value; each step back amplifies errors by up to `(1 - b)^-2`.
    - `eps`: the rounding error of a state, relative to it.
    """
    return math.floor(math.log(eps) / (4 * math.log1p(-mix)))
