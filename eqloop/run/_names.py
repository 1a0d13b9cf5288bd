"""The names in a spec, and facts about the solvers, gradients and losses; needs no JAX.

A solver, a gradient or a loss of the package is one file and one row here. The row says where its
class is and which arguments it takes; `eqloop._build.construct` imports the class.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from .._errors import InputError
from .._fields import nearest
from .._precision import steps_backwards

if TYPE_CHECKING:
    from ._spec import SolverSpec, Spec

Facts = TypeVar("Facts")


class Call:
    """A class of the package and the arguments to call it with, before either is imported.

    **Arguments:**

    - `place`: `"module:Class"`.
    - `arguments`: by name. A `Call`, also in a tuple, stands for the object that it makes, and a
        NumPy number for a traced one, so that objects that differ only in it share a compiled
        program.

    ```python
    >>> import eqloop
    >>> call = eqloop.run.SOLVERS["anderson"].make(eqloop.run.SolverSpec(memory=3))
    >>> call.place, call.arguments["memory"]
    ('eqloop._solver._anderson:Anderson', 3)

    ```
    """

    def __init__(self, place: str, **arguments: Any):
        self.place = place
        self.arguments = arguments


@dataclasses.dataclass(frozen=True)
class SolverFacts:
    """Facts about a solver.

    **Attributes:**

    - `meaning`: a phrase for help texts.
    - `make`: spec -> the `Call` that makes it. A solver that converges also gets the tolerances,
        the norm and `min_steps` of the spec.
    - `converges`: whether it stops by itself, at a fixed point.
    - `followed`: whether its steps can be differentiated.
    - `history`: spec -> number of states that it stores.
    - `evaluations`: evaluations of the loop in one step.
    """

    meaning: str
    make: Callable[["SolverSpec"], Call]
    converges: bool = True
    followed: bool = True
    history: Callable[["SolverSpec"], int] = lambda spec: 0
    evaluations: int = 1


@dataclasses.dataclass(frozen=True)
class GradientFacts:
    """Facts about a gradient.

    **Attributes:**

    - `meaning`: a phrase for help texts.
    - `make`: spec -> the `Call` that makes it.
    - `differentiated`: spec, number of iterations of the loop -> number of iterations that it
        differentiates.
    - `states`: spec, states stored by one differentiated iteration, states stored by one step of
        the solver -> minimum number of states that it stores.
    - `losses`: names of the losses of the package that it supports.
    - `inside`: whether its differentiated iterations count as iterations of the loop.
    - `whole`: whether it differentiates through every step of the loop.
    - `follows`: whether it differentiates the solver's own steps, not plain iterations after them.
    - `keeps`: whether it takes `solver.gradient_keep`.
    - `cuts`: whether it takes `solver.gradient_steps` from the iterations of `unroll`.
    - `solves`: whether it solves a linear system, and may fall back if the solve fails.
    - `family`, `terms`: number of terms -> the `Call` of the gradient of that number, and the
        numbers that an audit compares.
    - `others`: further gradients that an audit compares, by name.
    """

    meaning: str
    make: Callable[["SolverSpec"], Call]
    differentiated: Callable[["SolverSpec", float], float]
    states: Callable[["SolverSpec", int, int], int] = lambda spec, iteration, step: iteration
    losses: tuple[str, ...] = ("last", "progressive")
    inside: bool = False
    whole: bool = False
    follows: bool = False
    keeps: bool = False
    cuts: bool = False
    solves: bool = False
    family: Callable[[int], Call] | None = None
    terms: tuple[int, ...] = ()
    others: Mapping[str, Call] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class LossFacts:
    """Facts about a loss.

    **Attributes:**

    - `meaning`: a phrase for help texts.
    - `make`: spec -> the `Call` that makes it.
    - `counts`: whether it draws, or averages over, numbers of iterations; only `unroll` has these.
    - `clash`: why it does not support some gradients, as a predicate of the loss.
    """

    meaning: str
    make: Callable[["Spec"], Call]
    counts: bool = True
    clash: str = "does not go with every gradient"


@dataclasses.dataclass(frozen=True)
class PenaltyFacts:
    """Facts about a penalty of the loss `last`.

    **Attributes:**

    - `place`: `"module:Class"`, which takes the weight.
    - `differentiated`: number of iterations that it differentiates. A vector-Jacobian product of
        the loop counts as one.
    """

    place: str
    differentiated: int


SOLVERS: dict[str, SolverFacts] = {
    "unroll": SolverFacts(
        "a fixed number of iterations",
        lambda spec: Call("eqloop._solver._unroll:Unroll", steps=spec.steps, rtol=spec.rtol),
        converges=False,
    ),
    "fixed-point": SolverFacts(
        "plain iteration until it converges",
        lambda spec: Call(
            "eqloop._solver._fixed_point:FixedPoint", damping=spec.damping, patience=spec.patience
        ),
    ),
    "adaptive-damping": SolverFacts(
        "damped iteration, with steps that shrink where the residual stalls",
        lambda spec: Call(
            "eqloop._solver._adaptive_damping:AdaptiveDamping",
            step_size=1 - spec.damping,
            decay=spec.damping_decay,
            patience=spec.patience or 5,
        ),
    ),
    "anderson": SolverFacts(
        "Anderson acceleration",
        lambda spec: Call(
            "eqloop._solver._anderson:Anderson", memory=spec.memory or 3, damping=spec.damping
        ),
        history=lambda spec: 2 * (spec.memory or 3),
    ),
    "broyden": SolverFacts(
        "Broyden's method",
        lambda spec: Call("eqloop._solver._broyden:Broyden", memory=spec.memory or 16),
        history=lambda spec: 2 * (spec.memory or 16),
    ),
    "newton": SolverFacts(
        "Newton's method with GMRES",
        lambda spec: Call("eqloop._solver._newton:NewtonKrylov"),
        followed=False,
    ),
    "chord": SolverFacts(
        "Newton's method with one Jacobian",
        lambda spec: Call("eqloop._solver._chord:Chord"),
        followed=False,
    ),
    "reversible": SolverFacts(
        "two coupled states, computed backwards by backprop",
        lambda spec: Call("eqloop._solver._reversible:Reversible", mix=spec.mix),
        history=lambda spec: 1,
        evaluations=2,
    ),
    "steady-state": SolverFacts(
        "the flow dz/dt = f(z) - z to its rest",
        lambda spec: Call("eqloop._solver._steady_state:SteadyState"),
    ),
}
"""Name of a solver in a spec -> the facts that the rest of the program needs of it."""


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


def _implicit(spec: "SolverSpec") -> Call:
    anderson = Call("eqloop._solver._anderson:Anderson", memory=spec.gradient_restart)
    return Call(
        "eqloop._adjoint._implicit:Implicit",
        rtol=spec.gradient_rtol,
        cycles=spec.gradient_cycles,
        restart=spec.gradient_restart,
        solver=anderson if spec.gradient_solver == "anderson" else None,
        trust=spec.gradient_trust or math.inf,
        largest=spec.gradient_largest or math.inf,
        fallback=_neumann(spec.gradient_steps, damping=spec.gradient_damping),
    )


def _truncated(steps: int, **arguments: Any) -> Call:
    return Call("eqloop._adjoint._truncated:Truncated", steps=steps, **arguments)


def _phantom(steps: int, **arguments: Any) -> Call:
    return Call("eqloop._adjoint._phantom:Phantom", steps=steps, **arguments)


def _neumann(steps: Any, **arguments: Any) -> Call:
    return Call("eqloop._adjoint._neumann:Neumann", steps=steps, **arguments)


def _neumann_family(terms: int) -> Call:
    """One program for any number of terms, which is an argument of it, as NumPy numbers are."""
    import numpy as np

    return _neumann(np.int32(terms))


GRADIENTS: dict[str, GradientFacts] = {
    "backprop": GradientFacts(
        "back-propagation through every step",
        lambda spec: Call(
            "eqloop._adjoint._backprop:Backprop",
            keep=spec.gradient_keep,
            checkpoints=spec.gradient_checkpoints or None,
        ),
        differentiated=lambda spec, total: total,
        states=_states_of_backprop,
        losses=("last", "progressive", "mean"),
        inside=True,
        whole=True,
        follows=True,
        keeps=True,
    ),
    "truncated": GradientFacts(
        "back-propagation through the last iterations",
        lambda spec: _truncated(spec.gradient_steps, keep=spec.gradient_keep),
        differentiated=lambda spec, total: spec.gradient_steps,
        states=_states_of_steps,
        inside=True,
        keeps=True,
        cuts=True,
        family=_truncated,
        terms=(2, 4, 8),
    ),
    "last-steps": GradientFacts(
        "back-propagation through the last steps of the solver itself",
        lambda spec: _truncated(spec.gradient_steps, keep=spec.gradient_keep, follow=True),
        differentiated=lambda spec, total: (
            spec.gradient_steps * solver_facts(spec.name).evaluations
        ),
        states=_states_of_last_steps,
        inside=True,
        follows=True,
        keeps=True,
        cuts=True,
    ),
    "one-step": GradientFacts(
        "back-propagation through one iteration",
        lambda spec: Call("eqloop._adjoint._one_step:OneStep"),
        differentiated=lambda spec, total: 1,
        others={"one-step": Call("eqloop._adjoint._one_step:OneStep")},
    ),
    "phantom": GradientFacts(
        "back-propagation through damped iterations",
        lambda spec: _phantom(spec.gradient_steps, damping=spec.gradient_damping),
        differentiated=lambda spec, total: spec.gradient_steps,
        states=_states_of_steps,
        losses=("last",),
        cuts=True,
        family=_phantom,
        # Two damped terms are hardly more than one step, and each program is compiled.
        terms=(4, 8),
    ),
    "neumann": GradientFacts(
        "a Neumann series at the fixed point",
        lambda spec: _neumann(spec.gradient_steps),
        differentiated=lambda spec, total: spec.gradient_steps,
        family=_neumann_family,
        terms=(2, 4, 8),
    ),
    "implicit": GradientFacts(
        "a linear solve at the fixed point",
        _implicit,
        differentiated=lambda spec, total: 1 + spec.gradient_restart * spec.gradient_cycles,
        states=_states_of_implicit,
        solves=True,
        others={
            "implicit": Call("eqloop._adjoint._implicit:Implicit"),
            "implicit-anderson": Call(
                "eqloop._adjoint._implicit:Implicit",
                solver=Call("eqloop._solver._anderson:Anderson", memory=10),
            ),
        },
    ),
}
"""Name of a gradient in a spec -> the facts that the rest of the program needs of it."""

PENALTIES: dict[str, PenaltyFacts] = {
    "residual_penalty": PenaltyFacts("eqloop.train._penalty:TerminalResidual", differentiated=1),
    "jacobian_penalty": PenaltyFacts("eqloop.train._penalty:JacobianNorm", differentiated=2),
}
"""The penalties of the loss `last`, by the field of `[train]` that holds the weight."""


def _last(spec: "Spec") -> Call:
    weights = {facts.place: getattr(spec.train, field) for field, facts in PENALTIES.items()}
    return Call(
        "eqloop.train._loss:Last",
        penalties=tuple(Call(place, weight=weight) for place, weight in weights.items() if weight),
        share=spec.train.penalty_share,
        path_noise=spec.solver.path_noise,
        correction=spec.train.correction,
        states=spec.train.correction_states,
        scores=spec.train.scores,
    )


LOSSES: dict[str, LossFacts] = {
    "progressive": LossFacts(
        "the paper's, after a drawn number of iterations",
        lambda spec: Call(
            "eqloop.train._loss:Progressive",
            path_noise=spec.solver.path_noise,
            scores=spec.train.scores,
        ),
        clash="may draw fewer iterations than the gradient differentiates",
    ),
    "mean": LossFacts(
        "the mean over all iterations",
        lambda spec: Call(
            "eqloop.train._loss:Mean",
            burn_in=spec.train.burn_in,
            path_noise=spec.solver.path_noise,
            scores=spec.train.scores,
        ),
        clash="is differentiated through every iteration",
    ),
    "last": LossFacts("after the last iteration", _last, counts=False),
}
"""Name of a loss in a spec -> the facts that the rest of the program needs of it."""


def refuse_outside(option: str, reference: str) -> NoReturn:
    """Say that a class from outside the package must be named to be used.

    **Arguments:**

    - `option`: "solver", "gradient" or "loss".
    - `reference`: the class, `PLACE:Class`.

    **Raises** `InputError` always.

    ```python
    >>> import eqloop
    >>> try:
    ...     eqloop.run.refuse_outside("solver", "mine.py:Mine")
    ... except eqloop.InputError as error:
    ...     print(str(error).rpartition(": ")[2])
    give --solver mine.py:Mine (in Python solver=...)

    ```
    """
    raise InputError(
        f"{option} {reference} is a class from outside the package, whose code runs only where it "
        f"is named: give --{option} {reference} (in Python {option}=...)"
    )


_OUTSIDE_SOLVER = SolverFacts(
    "a class from outside the package", lambda spec: refuse_outside("solver", spec.name)
)
# The only known fact is that it runs after the solve: it counts as one iteration.
_OUTSIDE_GRADIENT = GradientFacts(
    "a class from outside the package",
    lambda spec: refuse_outside("gradient", spec.gradient),
    differentiated=lambda spec, total: 1,
    losses=("last",),
)


def is_outside(name: str) -> bool:
    """Whether a solver, gradient or loss is a class from outside the package, `PLACE:Class`.

    **Arguments:**

    - `name`: the name in a spec.

    **Returns** True for such a class.

    ```python
    >>> import eqloop
    >>> eqloop.run.is_outside("mine.py:Mine"), eqloop.run.is_outside("anderson")
    (True, False)

    ```
    """
    return ":" in name


def solver_facts(name: str) -> SolverFacts:
    """The facts about a solver of the package or from outside.

    **Arguments:**

    - `name`: one of `SOLVERS`, or `PLACE:Class`.

    **Returns** the `SolverFacts`; for every class from outside the same.

    **Raises** `InputError` for another name.

    ```python
    >>> import eqloop
    >>> facts = eqloop.run.solver_facts("anderson")
    >>> facts.meaning, facts.converges
    ('Anderson acceleration', True)

    ```
    """
    return _facts("solver", name, SOLVERS, _OUTSIDE_SOLVER)


def gradient_facts(name: str) -> GradientFacts:
    """The facts about a gradient of the package or from outside.

    **Arguments:**

    - `name`: one of `GRADIENTS`, or `PLACE:Class`.

    **Returns** the `GradientFacts`; for every class from outside the same.

    **Raises** `InputError` for another name.

    ```python
    >>> import eqloop
    >>> facts = eqloop.run.gradient_facts("implicit")
    >>> facts.meaning, facts.solves
    ('a linear solve at the fixed point', True)

    ```
    """
    return _facts("gradient", name, GRADIENTS, _OUTSIDE_GRADIENT)


def _facts(option: str, name: str, table: Mapping[str, Facts], outside: Facts) -> Facts:
    if is_outside(name):
        return outside
    if name not in table:
        raise InputError(f"{option} {name!r} is unknown{nearest(name, table)}")
    return table[name]


def meanings(table: Mapping[str, Any]) -> str:
    """The names of a table with their meanings, for the help of an option.

    **Arguments:**

    - `table`: name -> facts with a `meaning`: `SOLVERS`, `GRADIENTS` or `LOSSES`.

    **Returns** the text `name (meaning), ...`.

    ```python
    >>> import eqloop
    >>> eqloop.run.meanings({"anderson": eqloop.run.SOLVERS["anderson"]})
    'anderson (Anderson acceleration)'

    ```
    """
    return ", ".join(f"{name} ({facts.meaning})" for name, facts in table.items())
