"""The names in a spec, and facts about the solvers, gradients and losses; needs no JAX.

`eqloop._build` has the constructors of solvers and gradients, `eqloop.train` those of losses. Tests
check that these tables have the same names.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .._precision import steps_backwards

if TYPE_CHECKING:
    from ._spec import SolverSpec


@dataclasses.dataclass(frozen=True)
class SolverFacts:
    """Facts about a solver.

    **Attributes:**

    - `meaning`: a phrase for help texts.
    - `converges`: whether it stops by itself, at a fixed point.
    - `followed`: whether its steps can be differentiated.
    - `history`: spec -> number of states that it stores.
    - `evaluations`: evaluations of the loop in one step.
    """

    meaning: str
    converges: bool = True
    followed: bool = True
    history: Callable[["SolverSpec"], int] = lambda spec: 0
    evaluations: int = 1


@dataclasses.dataclass(frozen=True)
class GradientFacts:
    """Facts about a gradient.

    **Attributes:**

    - `meaning`: a phrase for help texts.
    - `differentiated`: spec, number of iterations of the loop -> number of iterations that it
        differentiates.
    - `states`: spec, states stored by one differentiated iteration, states stored by one step of
        the solver -> minimum number of states that it stores.
    - `losses`: names of the losses of the package that it supports.
    - `inside`: whether its differentiated iterations count as iterations of the loop.
    - `whole`: whether it differentiates through every step of the loop.
    - `follows`: whether it differentiates the solver's own steps, not plain iterations after them.
    - `cuts`: whether it takes `solver.gradient_steps` from the iterations of `unroll`.
    - `solves`: whether it solves a linear system, and may fall back if the solve fails.
    """

    meaning: str
    differentiated: Callable[["SolverSpec", float], float]
    states: Callable[["SolverSpec", int, int], int] = lambda spec, iteration, step: iteration
    losses: tuple[str, ...] = ("last", "progressive")
    inside: bool = False
    whole: bool = False
    follows: bool = False
    cuts: bool = False
    solves: bool = False


@dataclasses.dataclass(frozen=True)
class LossFacts:
    """Facts about a loss.

    **Attributes:**

    - `meaning`: a phrase for help texts.
    - `counts`: whether it draws, or averages over, numbers of iterations; only `unroll` has these.
    - `clash`: why it does not support some gradients, as a predicate of the loss.
    """

    meaning: str
    counts: bool = True
    clash: str = "does not go with every gradient"


def _remembered(spec: "SolverSpec") -> int:
    return 2 * spec.memory


SOLVERS: dict[str, SolverFacts] = {
    "unroll": SolverFacts("a fixed number of iterations", converges=False),
    "fixed-point": SolverFacts("plain iteration until it converges"),
    "anderson": SolverFacts("Anderson acceleration", history=_remembered),
    "broyden": SolverFacts("Broyden's method", history=_remembered),
    "newton": SolverFacts("Newton's method with GMRES", followed=False),
    "chord": SolverFacts("Newton's method with one Jacobian", followed=False),
    "reversible": SolverFacts(
        "two coupled states, computed backwards by backprop",
        history=lambda spec: 1,
        evaluations=2,
    ),
    "steady-state": SolverFacts("the flow dz/dt = f(z) - z to its rest"),
}


_EPS = 2.0**-23
"""Rounding of states, which are float32."""


def _states_of_backprop(spec: "SolverSpec", iteration: int, step: int) -> int:
    if spec.name == "reversible":
        return 2 * math.ceil(spec.max_steps / steps_backwards(spec.mix, _EPS)) + iteration
    if spec.converges:
        return spec.max_steps * (iteration + step)
    segments = spec.gradient_checkpoints
    inside = spec.steps // segments if 0 < segments < spec.steps else spec.steps
    return segments + inside * iteration


def _states_of_steps(spec: "SolverSpec", iteration: int, step: int) -> int:
    return spec.gradient_steps * iteration


def _states_of_last_steps(spec: "SolverSpec", iteration: int, step: int) -> int:
    return spec.gradient_steps * (iteration + step)


def _states_of_implicit(spec: "SolverSpec", iteration: int, step: int) -> int:
    pairs = 2 if spec.gradient_solver == "anderson" else 1
    return pairs * spec.gradient_restart + iteration


GRADIENTS: dict[str, GradientFacts] = {
    "backprop": GradientFacts(
        "back-propagation through every step",
        differentiated=lambda spec, total: total,
        states=_states_of_backprop,
        losses=("last", "progressive", "mean"),
        inside=True,
        whole=True,
        follows=True,
    ),
    "truncated": GradientFacts(
        "back-propagation through the last iterations",
        differentiated=lambda spec, total: spec.gradient_steps,
        states=_states_of_steps,
        inside=True,
        cuts=True,
    ),
    "last-steps": GradientFacts(
        "back-propagation through the last steps of the solver itself",
        differentiated=lambda spec, total: (
            spec.gradient_steps * solver_facts(spec.name).evaluations
        ),
        states=_states_of_last_steps,
        inside=True,
        follows=True,
        cuts=True,
    ),
    "one-step": GradientFacts(
        "back-propagation through one iteration", differentiated=lambda spec, total: 1
    ),
    "phantom": GradientFacts(
        "back-propagation through damped iterations",
        differentiated=lambda spec, total: spec.gradient_steps,
        states=_states_of_steps,
        losses=("last",),
        cuts=True,
    ),
    "neumann": GradientFacts(
        "a Neumann series at the fixed point",
        differentiated=lambda spec, total: spec.gradient_steps,
    ),
    "implicit": GradientFacts(
        "a linear solve at the fixed point",
        differentiated=lambda spec, total: 1 + spec.gradient_restart * spec.gradient_cycles,
        states=_states_of_implicit,
        solves=True,
    ),
}

LOSSES: dict[str, LossFacts] = {
    "progressive": LossFacts(
        "the paper's, after a drawn number of iterations",
        clash="may draw fewer iterations than the gradient differentiates",
    ),
    "mean": LossFacts(
        "the mean over all iterations", clash="is differentiated through every iteration"
    ),
    "last": LossFacts("after the last iteration", counts=False),
}

_OUTSIDE_SOLVER = SolverFacts("a class from outside the package")
# The only known fact is that it runs after the solve: it counts as one iteration.
_OUTSIDE_GRADIENT = GradientFacts(
    "a class from outside the package", differentiated=lambda spec, total: 1, losses=("last",)
)


def is_outside(name: str) -> bool:
    """Whether a solver, gradient or loss is a class from outside the package, `PLACE:Class`."""
    return ":" in name


def solver_facts(name: str) -> SolverFacts:
    """The facts about a solver of the package or from outside."""
    return _OUTSIDE_SOLVER if is_outside(name) else SOLVERS[name]


def gradient_facts(name: str) -> GradientFacts:
    """The facts about a gradient of the package or from outside."""
    return _OUTSIDE_GRADIENT if is_outside(name) else GRADIENTS[name]


def meanings(table: Mapping[str, Any]) -> str:
    """`name (meaning), ...`, for the help of an option."""
    return ", ".join(f"{name} ({facts.meaning})" for name, facts in table.items())
