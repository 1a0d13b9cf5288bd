"""The names that a spec knows, and the plain facts of what they name: no JAX in here.

`eqloop._build` has the constructors of solvers and gradients, `eqloop.train` those of losses; the
tests hold that each of those tables has the names of this one.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._spec import SolverSpec


@dataclasses.dataclass(frozen=True)
class SolverFacts:
    """What is known of a solver without making one.

    **Attributes:**

    - `meaning`: one phrase, for help texts.
    - `converges`: whether it stops by itself, at a fixed point.
    - `followed`: whether `backprop` can go back through its steps.
    - `history`: the states that it remembers, from the spec.
    """

    meaning: str
    converges: bool = True
    followed: bool = True
    history: Callable[["SolverSpec"], int] = lambda spec: 0


@dataclasses.dataclass(frozen=True)
class GradientFacts:
    """What is known of a gradient without making one.

    **Attributes:**

    - `meaning`: one phrase, for help texts.
    - `differentiated`: how many iterations it differentiates, from the spec and the number of
      iterations that the loop makes.
    - `states`: how many states a step keeps for it at least, from the spec, the states that one
      differentiated iteration keeps, and those that one step of the solver keeps.
    - `losses`: the losses of the package that it goes with.
    - `inside`: whether the iterations that it differentiates are counted among those of the loop.
    - `whole`: whether it goes back through every step of the loop.
    - `cuts`: whether it takes `solver.gradient_steps` from the iterations of `unroll`.
    - `solves`: whether it solves a linear system, and may fall back where that fails.
    """

    meaning: str
    differentiated: Callable[["SolverSpec", float], float]
    states: Callable[["SolverSpec", int, int], int] = lambda spec, iteration, step: iteration
    losses: tuple[str, ...] = ("last", "progressive")
    inside: bool = False
    whole: bool = False
    cuts: bool = False
    solves: bool = False


@dataclasses.dataclass(frozen=True)
class LossFacts:
    """What is known of a loss without making one.

    **Attributes:**

    - `meaning`: one phrase, for help texts.
    - `counts`: whether it draws or averages over numbers of iterations, which only `unroll` has.
    - `clash`: why some gradients do not go with it, as a predicate of the loss.
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
    "steady-state": SolverFacts("the flow dz/dt = f(z) - z to its rest"),
}


def _states_of_backprop(spec: "SolverSpec", iteration: int, step: int) -> int:
    if spec.converges:
        return spec.max_steps * (iteration + step)
    kept = spec.gradient_checkpoints
    inside = spec.steps // kept if 0 < kept < spec.steps else spec.steps
    return kept + inside * iteration


def _states_of_steps(spec: "SolverSpec", iteration: int, step: int) -> int:
    return spec.gradient_steps * iteration


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
    ),
    "truncated": GradientFacts(
        "back-propagation through the last iterations",
        differentiated=lambda spec, total: spec.gradient_steps,
        states=_states_of_steps,
        inside=True,
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
# Nothing is known of it but that it runs after the solve: it is counted as one iteration.
_OUTSIDE_GRADIENT = GradientFacts(
    "a class from outside the package", differentiated=lambda spec, total: 1, losses=("last",)
)


def is_outside(name: str) -> bool:
    """Whether a solver, gradient or loss is a class from outside the package, `PLACE:Class`."""
    return ":" in name


def solver_facts(name: str) -> SolverFacts:
    return _OUTSIDE_SOLVER if is_outside(name) else SOLVERS[name]


def gradient_facts(name: str) -> GradientFacts:
    return _OUTSIDE_GRADIENT if is_outside(name) else GRADIENTS[name]


def meanings(table: Mapping[str, Any]) -> str:
    """`name (meaning), ...`, for the help of an option: `table` has a row for each name."""
    return ", ".join(f"{name} ({facts.meaning})" for name, facts in table.items())
