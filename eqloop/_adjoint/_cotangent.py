"""Gradients that work on the cotangent of the fixed point, and on nothing else."""

import abc
from collections.abc import Callable

from jaxtyping import PyTree

from .._iteration import stop_gradient
from .._solution import BackwardReport, Equilibrium
from .._solver import approach
from ._base import AbstractGradient
from ._finish import finish
from ._implicit_function import fixed_point


class AbstractCotangentSolve(AbstractGradient):
    """A gradient that turns a cotangent g of z* into an approximation u of `(I - df/dz)^-T g`,
    which then goes on through one evaluation of f at z*.

    Memory does not depend on the number of iterations. The gradient with respect to z0 is zero.
    In forward mode and for second derivatives the same method approximates `(I - df/dz)^-1` too.
    A new one is a file with one method.
    """

    @abc.abstractmethod
    def solve(
        self, product: Callable[[PyTree], PyTree], cotangent: PyTree
    ) -> tuple[PyTree, BackwardReport]:
        """`u`, where `product(u) = (df/dz)^T u`, and how well it went. For a tangent: the same with
        `product(u) = (df/dz) u`."""

    def run(self, f, z0, x, solver, *, max_steps, probe) -> Equilibrium:
        reached = approach(f, z0, x, solver, reserve=1, max_steps=max_steps)
        state = fixed_point(stop_gradient(self), f, reached.state, x, probe)
        return finish(state, reached.state, state, solver, reached, 1)
