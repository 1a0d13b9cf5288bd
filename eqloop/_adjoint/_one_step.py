"""The gradient of the last iteration alone."""

from .._solution import Equilibrium
from ._base import AbstractGradient
from ._truncated import Truncated


class OneStep(AbstractGradient):
    """The gradient of one iteration at the end of the loop: `Truncated(1)`.

    It takes (I - J)^-1 for I: the "Jacobian-free" gradient (arXiv 2103.12803). Cheap, and in
    the right half-space where J is a contraction; when not to use it: where |J| is near one.
    Derivatives of any order and in both modes are those of this iteration from a constant state.
    """

    def run(self, f, z0, x, solver, *, max_steps, probe) -> Equilibrium:
        return Truncated(1).run(f, z0, x, solver, max_steps=max_steps, probe=probe)
