"""Messages of training on the terminal: its speed, its progress, the loops and their gradients."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from ..run import SolverSpec, gradient_facts

WINDOW = 20
"""Number of steps that a message summarises, since a single batch says little."""
_MOST = 0.5
"""Share of gradients that may fall back without a warning."""
_STANDSTILL = 0.005
"""Rise of the share of cells right, from one window to the next, below which it stands still."""
_LEARNT = 0.99
"""Share of right cells above which a standstill does not warn."""


class Recent:
    """Statistics of solver and backward solve over the last steps, and warnings about them.

    `crossing` are the iterations that information takes across the grid (`ModelSpec.crossing`).
    """

    def __init__(self, solver: SolverSpec, crossing: int = 1):
        self.solver, self.crossing = solver, crossing
        self.steps: deque[Mapping[str, float]] = deque(maxlen=WINDOW)
        self.before: deque[Mapping[str, float]] = deque(maxlen=WINDOW)
        self.due = {self._fallback, self._collapse}

    def add(self, metrics: Mapping[str, float]) -> str:
        """Add the metrics of a step. **Returns** a warning the first time that its condition holds,
        else "": if most gradients of a window fell back, or if the loops of a window settle before
        information can cross the grid and the share of right cells does not grow."""
        if len(self.steps) == WINDOW:
            self.before.append(self.steps[0])
        self.steps.append(metrics)
        if len(self.steps) < WINDOW:
            return ""
        for warning in (self._fallback, self._collapse):
            if warning in self.due and (text := warning()):
                self.due.remove(warning)
                return text
        return ""

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
        return _mean(self.steps, name)

    def _collapse(self) -> str:
        """The warning that the loops settle before they can have computed anything."""
        iterations, cells = self._mean("iterations"), self._mean("cells")
        settles = self.solver.converges and self._mean("converged") > _MOST
        if not (settles and iterations < self.crossing and len(self.before) == WINDOW):
            return ""
        if cells > _LEARNT or cells - _mean(self.before, "cells") > _STANDSTILL:
            return ""
        return (
            f"warning: the loops settle after {iterations:.1f} iterations, before information has "
            f"crossed the grid ({self.crossing}), and the share of cells right stands still at "
            f"{100 * cells:.1f} %. If it stays so, begin with easier examples, with other weights "
            "(--seed), or with a phase of --solver unroll."
        )

    def _fallback(self) -> str:
        """The warning that most gradients are not those of fixed points."""
        if self._mean("fallback") <= _MOST:
            return ""
        solver = self.solver
        text = (
            f"warning: {100 * self._mean('fallback'):.0f} % of the gradients of the last {WINDOW} "
            "steps are not those of fixed points: the loop was above solver.gradient_trust "
            f"({100 * self._mean('untrusted'):.0f} %), the backward solve missed "
            f"solver.gradient_rtol = {solver.gradient_rtol:g} ({100 * self._mean('missed'):.0f} %; "
            f"mean residual {self._mean('backward_residual'):.1g} after "
            f"{self._mean('backward_products'):.0f} products), or its solution exceeded "
            f"solver.gradient_largest ({100 * self._mean('oversized'):.0f} %). "
        )
        if solver.converges and self._mean("converged") < 1 - _MOST:
            text += (
                f"Only {100 * self._mean('converged'):.0f} % of the loops converged: raise "
                f"solver.max_steps (now {solver.max_steps}) first, or take another solver. "
            )
        return (
            f"{text}Where GMRES stalls, a longer restart helps and more cycles do not: --set "
            f"solver.gradient_restart={4 * solver.gradient_restart} (now "
            f"{solver.gradient_restart}; it keeps that many states). Else take a larger "
            "solver.gradient_rtol, or --gradient phantom."
        )


def _mean(steps: Collection[Mapping[str, float]], name: str) -> float:
    return sum(metrics[name] for metrics in steps) / len(steps)


class Clock:
    """Examples per second over the last steps, without compilation, validation, checkpoints."""

    def __init__(self, step: int):
        self.began = time.perf_counter()
        self.laps = deque([(step, self.began)], maxlen=20)
        self.first, self.rate = True, 0.0

    def lap(self, step: int, batch: int) -> dict[str, float]:
        now = time.perf_counter()
        before, then = self.laps[0]
        self.rate = (step - before) * batch / max(now - then, 1e-9)
        self.laps.append((step, now))
        if self.first:
            self.skip()
            self.first = False
        return {"examples_per_s": self.rate, "seconds": now - self.began}

    def skip(self) -> None:
        """What was done since the last lap was no training."""
        step, _ = self.laps[-1]
        self.laps.clear()
        self.laps.append((step, time.perf_counter()))


@contextlib.contextmanager
def training_bar(
    console: Console, steps: int, done: int, text: Callable[[], str]
) -> Iterator[Callable[[int], None]]:
    """A bar with `text()` and the time left where there is a terminal; nothing elsewhere. Gives the
    function that is called with the number of steps done."""
    if not console.is_terminal:
        yield lambda step: None
        return
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        row = bar.add_task("", total=steps, completed=done, told="")
        yield lambda step: bar.update(row, completed=step, told=text())
