"""Gradients that transform the cotangent of the fixed point."""

import abc
from collections.abc import Callable

from jaxtyping import Array, Float, PyTree

from .._iteration import later, stop_gradient
from .._solution import BackwardReport, Equilibrium
from .._solver import solve_forward
from ._base import AbstractGradient
from ._implicit_function import fixed_point
from ._make_equilibrium import make_equilibrium


class AbstractCotangentSolve(AbstractGradient):
    """A gradient that replaces the cotangent g of z* by an approximation u of `(I - df/dz)^-T g`,
    and then back-propagates u through one evaluation of f at z*.

    Memory does not depend on the number of iterations. The gradient with respect to z0 is zero.
    Forward mode and second derivatives use the same method to approximate `(I - df/dz)^-1`. A new
    gradient of this kind is one file with one method, `solve`.
    """

    @abc.abstractmethod
    def solve(
        self,
        product: Callable[[PyTree], PyTree],
        cotangent: PyTree,
        residual: Float[Array, ""],
    ) -> tuple[PyTree, BackwardReport]:
        """Return `u`, which approximates `(I - df/dz)^-T cotangent`, and a report on it, whose
        `gain` and `cosine` are filled in by the caller.

        **Arguments:**

        - `product`: the map `u -> (df/dz)^T u`; for a tangent, `u -> (df/dz) u`.
        - `cotangent`: a pytree like the state.
        - `residual`: the relative residual of the loop where it is differentiated.
        """

    def run(self, f, z0, x, solver, *, max_steps, probe) -> Equilibrium:
        forward = solve_forward(f, z0, x, solver, reserved_steps=1, max_steps=max_steps)
        x = later(x, forward.steps)
        state = fixed_point(stop_gradient(self), f, forward.state, x, probe)
        return make_equilibrium(state, forward.state, state, solver, forward, 1)
