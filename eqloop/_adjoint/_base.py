"""The interface of a gradient."""

import abc
from typing import Any

import equinox as eqx
from jaxtyping import PyTree

from .._iteration import Count
from .._solution import BackwardReport, Equilibrium
from .._solver import Solver


class AbstractGradient(eqx.Module):
    """How a loop is differentiated, chosen independently of the solver. A new gradient is one file
    with one method."""

    @abc.abstractmethod
    def run(
        self,
        f: Any,
        z0: PyTree,
        x: PyTree,
        solver: Solver,
        *,
        max_steps: Count,
        probe: BackwardReport | None,
    ) -> Equilibrium:
        """Run the solver and make its result differentiable: differentiating the returned state
        gives this gradient. See `eqloop.equilibrium` for the arguments."""
