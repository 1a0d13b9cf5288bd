"""Iterate a given number of times."""

import equinox as eqx
from jaxtyping import Array, Int

from .._iteration import Count, clamp, python_int
from ._setting import setting


class Unroll(eqx.Module):
    """`z <- f(z, x)`, `steps` times, converged or not.

    The paper's own way to run the loop, for training and at test time. When not to use it: where
    a fixed point is wanted and the number of iterations that it takes is not known.

    **Arguments:**

    - `steps`: an integer (of Python or NumPy), or a traced one, so that the number can change
        from call to call without a new compilation. A traced one below 1 makes no iteration: the
        state is `z0`, the residual inf, the result `RESULTS.not_converged`.
    - `max_steps`: a static bound on a traced `steps`, which counts as no more than that;
        back-propagation needs it (see `eqloop.trajectory` for all the iterates). Not looked at
        where `steps` is an integer.
    - `rtol`: the result is `successful` where the last relative residual is at most this.

    **Raises** `ValueError` where `steps` is an integer below 1.
    """

    steps: int | Int[Array, ""] = eqx.field(converter=python_int)
    max_steps: int | None = eqx.field(default=None, static=True, converter=python_int)
    rtol: float = setting(1e-3)

    def __check_init__(self):
        if isinstance(self.steps, float):
            raise ValueError(f"Unroll: steps = {self.steps} must be a whole number")
        if isinstance(self.steps, int) and self.steps < 1:
            raise ValueError(f"Unroll: steps = {self.steps} must be at least 1")

    @property
    def count(self) -> Count:
        """The steps that are made."""
        return clamp(self.steps, 0, self.max_steps)
