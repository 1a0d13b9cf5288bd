"""What training tells on the terminal of the loops and their gradients."""

from collections import deque
from collections.abc import Mapping

from ..run import SolverSpec, gradient_facts

WINDOW = 20
"""Steps that a line of text is about: one batch alone says little."""
_MOST = 0.5
"""Share of gradients that may fall back without a warning."""


class Recent:
    """The last steps: what a solver and a backward solve came to, and whether to warn of it."""

    def __init__(self, solver: SolverSpec):
        self.solver = solver
        self.steps: deque[Mapping[str, float]] = deque(maxlen=WINDOW)
        self.warned = False

    def add(self, metrics: Mapping[str, float]) -> str:
        """Take up the metrics of a step. **Returns** a warning, the first time that one is due:
        when most gradients of a whole window fell back; else "" ."""
        self.steps.append(metrics)
        due = len(self.steps) == WINDOW and self._mean("fallback") > _MOST
        if self.warned or not due:
            return ""
        self.warned = True
        return self._warning()

    def text(self) -> str:
        """Iterations, share converged, share of fallback gradients and, of carried states, share
        replaced, as far as the run has them; "" before the first step."""
        if not self.steps:
            return ""
        parts = []
        if self.solver.converges:
            parts += [f"{self._mean('iterations'):.1f} iterations"]
            parts += [f"{100 * self._mean('converged'):.0f} % converged"]
        if gradient_facts(self.solver.gradient).solves:
            parts += [f"{100 * self._mean('fallback'):.0f} % fallback gradients"]
        if "replaced" in self.steps[-1]:
            parts += [f"{100 * self._mean('replaced'):.0f} % of the examples replaced"]
        return ", ".join(parts)

    def _mean(self, name: str) -> float:
        return sum(metrics[name] for metrics in self.steps) / len(self.steps)

    def _warning(self) -> str:
        solver = self.solver
        told = (
            f"warning: {100 * self._mean('fallback'):.0f} % of the gradients of the last {WINDOW} "
            "steps are not those of fixed points: the loop was above solver.gradient_trust "
            f"({100 * self._mean('untrusted'):.0f} %), the backward solve missed "
            f"solver.gradient_rtol = {solver.gradient_rtol:g} ({100 * self._mean('missed'):.0f} %; "
            f"mean residual {self._mean('backward_residual'):.1g} after "
            f"{self._mean('backward_products'):.0f} products), or its solution exceeded "
            f"solver.gradient_largest ({100 * self._mean('oversized'):.0f} %). "
        )
        if solver.converges and self._mean("converged") < 1 - _MOST:
            told += (
                f"Only {100 * self._mean('converged'):.0f} % of the loops converged: raise "
                f"solver.max_steps (now {solver.max_steps}) first, or take another solver. "
            )
        return (
            f"{told}Where GMRES stalls, a longer restart helps and more cycles do not: --set "
            f"solver.gradient_restart={4 * solver.gradient_restart} (now "
            f"{solver.gradient_restart}; it keeps that many states). Else take a larger "
            "solver.gradient_rtol, or --gradient phantom."
        )
