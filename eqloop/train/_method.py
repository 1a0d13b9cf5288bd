"""Solver, gradient and loss of a run: objects from its spec, or objects of the user."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8

from .. import starts
from .._adjoint import AbstractGradient, Backprop, OneStep, Truncated
from .._build import (
    check_file,
    construct,
    described,
    make_gradient,
    make_model,
    make_solver,
)
from .._errors import InputError
from .._iteration import Count, stop_gradient
from .._model import AbstractLoopedModel
from .._outside import reference_of, same_name
from .._solution import BackwardReport
from .._solver import AbstractSolver, Solver, Unroll
from ..run import LOSSES, OBJECTS, SolverSpec, Spec, is_outside
from ._budget import Budget
from ._dependence import depends_on_first
from ._loss import AbstractLoss, Examples
from ._q import bootstrapped, q_losses


@dataclasses.dataclass(frozen=True)
class Objects:
    """Objects of the user to train by.

    **Attributes:**

    - `solver`, `gradient`, `loss`: the objects; None for those that the spec names.

    **Raises** `InputError` for a class or a name in place of an object.

    ```python
    >>> import eqloop
    >>> objects = eqloop.train.Objects(solver=eqloop.Unroll(5))
    >>> objects.recorded(eqloop.run.Spec({"name": "prefix-sums"})).solver.steps
    5

    ```
    """

    solver: Solver | None = None
    gradient: AbstractGradient | None = None
    loss: AbstractLoss | None = None

    def __post_init__(self) -> None:
        kinds = {"solver": Solver, "gradient": AbstractGradient, "loss": AbstractLoss}
        for name, kind in kinds.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise InputError(f"{name} = {value!r}: must be an object, not a class or a name")

    def recorded(self, spec: Spec) -> Spec:
        """The spec of a run with these objects: it has the names of their classes, and the objects
        as text. An `Unroll` is written as fields of the spec.

        **Raises** `InputError` for objects that cannot be combined with each other or the spec.
        """
        changes: dict[str, dict[str, Any]] = {"solver": {}, "train": {}}
        for (group, field), (_, text), item in self._places():
            if isinstance(item, Unroll):
                if not isinstance(item.steps, int):
                    raise InputError("solver = Unroll: must have a whole number of steps")
                changes[group] |= {"name": "unroll", "steps": item.steps, "rtol": item.rtol}
            elif item is not None:
                changes[group] |= {field: reference_of(type(item)), text: described(item)}
        groups = {
            name: dataclasses.replace(getattr(spec, name), **changes[name]) for name in changes
        }
        return dataclasses.replace(spec, **groups)

    def check(self, spec: Spec, path: Path) -> None:
        """**Raises** `InputError` if a resumed run was started with other objects."""
        tables, current = spec.tables(), self.recorded(spec).tables()
        for (group, field), (_, text), item in self._places():
            option = "solver" if field == "name" else field
            name, recorded_text = tables[group][field], tables[group].get(text, "")
            if item is None:
                if is_outside(name):
                    raise InputError(
                        f"{path} was trained by {option} {name}: go on with --{option} {name} "
                        f"(in Python {option}=...)"
                    )
                continue
            check_file(option, name, recorded_text, item)
            same = same_name(name, current[group][field]) and recorded_text == current[group].get(
                text, ""
            )
            if not same or (isinstance(item, Unroll) and current != tables):
                raise InputError(
                    f"{path} was trained by {option} {name} {recorded_text}".rstrip()
                    + f", not by {described(item)}: go on with that one, or begin a new run"
                )

    def in_stage(self, spec: Spec, stage: Spec) -> "Objects":
        """The objects for a stage of the run: those whose names its phase does not change. An
        `Unroll` is none of them: it is fields of the spec, which a phase may change."""
        tables, stage_tables = spec.tables(), stage.tables()
        objects = [
            item
            if tables[group][field] == stage_tables[group][field] and not isinstance(item, Unroll)
            else None
            for (group, field), _, item in self._places()
        ]
        return Objects(*objects)

    def method(self, spec: Spec) -> "Method | None":
        """The method of training; None if the spec names all objects, so that runs of one spec
        share a program. **Raises** `InputError` as `make_method` does."""
        method = make_method(spec, self)
        is_custom = any(item is not None for item in (self.solver, self.gradient, self.loss))
        return method if is_custom else None

    def check_starts(self, spec: Spec) -> None:
        """**Raises** `InputError` if the loss ignores the initial states that it is given, so that
        a part of the run would begin every loop from the embeddings after all."""
        for stage in (stage.spec for stage in spec.stages):
            own = self.in_stage(spec, stage)
            carry_steps, start = stage.train.carry_steps, stage.solver.start
            if own.loss is None or (carry_steps == 1 and start == "embed"):
                continue
            if not _uses_starts(make_method(stage, own), stage):
                carried = f"train.carry_steps = {carry_steps}", "train.carry_steps = 1"
                begun = f"solver.start = {start!r}", 'solver.start = "embed"'
                setting, default = carried if carry_steps > 1 else begun
                raise InputError(
                    f"loss {reference_of(type(own.loss))} ignores its argument starts, so that "
                    f"{setting} has no effect: begin the loops at starts (model(x, start=...)), or "
                    f"set {default}"
                )

    def _places(self) -> list[tuple[tuple[str, str], tuple[str, str], Any]]:
        """For each object: the field of its name, the field of its text, and the object."""
        objects = (self.solver, self.gradient, self.loss)
        return [(*place, item) for place, item in zip(OBJECTS.items(), objects, strict=True)]


@dataclasses.dataclass(frozen=True, eq=False)
class Method:
    """Solver, gradient and loss of a training step: constants of its program.

    **Attributes:**

    - `max_steps`: the most steps of a solver that converges.
    - `start`: the law of the initial state.
    - `budget`: the law of `max_steps`, and of the steps of an `Unroll`; None if they are not drawn.
    - `q_weight`: weight of the loss of the q head; 0 for none.
    - `bootstrap`: whether `q_continue` is trained too.
    """

    solver: Solver
    gradient: AbstractGradient
    loss: AbstractLoss
    max_steps: Count
    start: starts.AbstractStart
    budget: Budget | None
    q_weight: float
    bootstrap: bool

    def with_drawn_steps(self, key: PRNGKeyArray) -> "Method":
        """The method of one step, whose number of steps is drawn."""
        if self.budget is None:
            return self
        steps, solver = self.budget(key), self.solver
        if isinstance(solver, Unroll):
            solver = Unroll(steps, max_steps=self.budget.most, rtol=solver.rtol)
        return dataclasses.replace(self, solver=solver, max_steps=steps)

    def initial_states(
        self,
        model: AbstractLoopedModel,
        inputs: Float[Array, "batch *grid channels"],
        key: PRNGKeyArray,
    ) -> Float[Array, "batch *grid width"] | None:
        """The initial states of a batch; None for the embeddings."""
        if isinstance(self.start, starts.Embed):
            return None

        frozen = stop_gradient(model)

        def one(x, key):
            def solve(z):
                # Nothing is differentiated here; this gradient only adds one iteration.
                options = {"solver": self.solver, "max_steps": self.max_steps}
                return frozen(x, start=z, gradient=OneStep(), **options).state

            return self.start(model.first_state(model.embed(x)), key, solve)

        return jax.vmap(one)(inputs, jr.split(key, len(inputs)))


def _uses_starts(method: Method, spec: Spec) -> bool:
    """Whether what the loss returns depends on the states that it is given to start from."""
    model, batch, key = spec.model, spec.train.batch, jr.key(0)

    def outcome(starts, made, probes, inputs, targets):
        drawn = method.with_drawn_steps(key)
        return batch_loss(made, probes, inputs, targets, key, drawn, starts)

    shaped = jax.ShapeDtypeStruct
    return depends_on_first(
        outcome,
        shaped((batch, *model.state_shape), jnp.float32),
        eqx.filter_eval_shape(make_model, model, key),
        jax.tree.map(lambda leaf: shaped((batch,), leaf.dtype), BackwardReport.zeros()),
        shaped((batch, *model.grid, model.channels), jnp.float32),
        shaped((batch, *model.grid), jnp.uint8),
    )


def make_method(spec: Spec, objects: Objects | None = None) -> Method:
    """The method of a run: the objects of the user, and otherwise those that the spec names.

    **Raises** `InputError` for a class from outside the package that has no object, and for a
    gradient that cannot follow the solver.
    """
    own = Objects() if objects is None else objects
    if own.loss is None and is_outside(spec.train.loss):
        raise InputError(f"loss {spec.train.loss} is a class from outside the package: give loss=")
    solver = make_solver(spec.solver) if own.solver is None else own.solver
    gradient = make_gradient(spec.solver) if own.gradient is None else own.gradient
    followed = isinstance(solver, Unroll) or (
        isinstance(solver, AbstractSolver) and solver.followed
    )
    follows = isinstance(gradient, Backprop) or (
        isinstance(gradient, Truncated) and gradient.follow
    )
    if follows and not followed:
        raise InputError(
            f"gradient {type(gradient).__name__} cannot follow the steps of solver "
            f"{type(solver).__name__}: use Implicit, Neumann or Phantom"
        )
    loss = construct(LOSSES[spec.train.loss].make(spec)) if own.loss is None else own.loss
    budget = _budget(spec.solver)
    if budget is not None and not isinstance(solver, Unroll):
        clash = None
        if not isinstance(solver, AbstractSolver):
            clash = f"solver {type(solver).__name__}"
        elif isinstance(gradient, Backprop):
            clash = "gradient Backprop through a solver that converges"
        if clash is not None:
            raise InputError(
                f"solver.budget = {spec.solver.budget!r} does not go with {clash}, which needs a "
                'number of steps that is known when it is compiled: use "fixed"'
            )
    return Method(
        solver,
        gradient,
        loss,
        spec.solver.max_steps,
        _start(spec.solver),
        budget,
        spec.train.q_weight,
        spec.train.carry_q == "compare",
    )


def _budget(spec: SolverSpec) -> Budget | None:
    most = spec.max_steps if spec.converges else spec.steps
    return None if spec.budget == "fixed" else Budget(spec.budget, spec.budget_least, most)


STARTS: dict[str, Callable[[float], starts.AbstractStart]] = {
    "embed": lambda std: starts.Embed(),
    "zeros": lambda std: starts.Zeros(),
    "normal": starts.Normal,
    "fixed": starts.FixedNormal,
    "solution": lambda std: starts.Solved(),
}
"""The constructors of the laws of the initial state, by the name in a spec."""


def _start(spec: SolverSpec) -> starts.AbstractStart:
    law, share = STARTS[spec.start](spec.start_std), spec.start_share
    if isinstance(law, starts.Embed):
        return law
    return starts.Mixture((law, starts.Embed()), (share, 1 - share))


def batch_loss(
    model: AbstractLoopedModel,
    probes: BackwardReport,
    inputs: Float[Array, "batch *grid channels"],
    targets: UInt8[Array, "batch *grid"],
    key: PRNGKeyArray,
    method: Method,
    starts: Float[Array, "batch *grid width"] | None = None,
    is_last: Bool[Array, " batch"] | None = None,
) -> tuple[Float[Array, ""], Examples]:
    """The mean loss of a batch with that of the q head, and what happened in each example. See
    `AbstractLoss` for the arguments; `is_last` are the carried rows that end by age, None for
    none."""
    solve = {
        "solver": method.solver,
        "gradient": method.gradient,
        "max_steps": method.max_steps,
    }
    examples = method.loss(model, probes, inputs, targets, key, starts=starts, **solve)
    loss = jnp.mean(examples.loss)
    if method.q_weight and examples.q is not None and examples.right is not None:
        target = None
        if method.bootstrap:
            is_last = jnp.zeros(len(inputs), bool) if is_last is None else is_last
            target = bootstrapped(model, inputs, examples.state, is_last, **solve)
        loss += method.q_weight * jnp.mean(q_losses(examples.q, examples.right, target))
    return loss, examples
