"""From a spec to the objects that it names: model, solver, gradient."""

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from ._adjoint import (
    AbstractGradient,
    Backprop,
    Implicit,
    Neumann,
    OneStep,
    Phantom,
    Truncated,
)
from ._arrays import named_arrays
from ._errors import InputError
from ._fields import field_types, typed
from ._model import LoopedTransformer
from ._norms import largest_cell_norm, two_norm
from ._solver import (
    AbstractSolver,
    Anderson,
    Broyden,
    Chord,
    FixedPoint,
    NewtonKrylov,
    Solver,
    SteadyState,
    Unroll,
)
from .nn import GRU
from .run import ModelSpec, Run, SolverSpec, Which


def make_model(spec: ModelSpec, key: PRNGKeyArray) -> LoopedTransformer:
    """A new model. `spec` is a resolved one (see `resolve`): it says what the grid is."""
    return LoopedTransformer(
        grid=spec.grid,
        channels=spec.channels,
        classes=spec.classes,
        width=spec.width,
        heads=spec.heads,
        recall=spec.recall,
        norm=spec.norm,
        residual=spec.residual,
        blocks=spec.blocks,
        attention=spec.attention,  # pyright: ignore[reportArgumentType] (resolved: not "task")
        mlp_ratio=spec.mlp_ratio,
        dtype=jnp.dtype(spec.precision),
        key=key,
    )


def model_spec(model: LoopedTransformer) -> ModelSpec:
    """The settings of a model: `make_model(model_spec(model), key)` makes one of the same shapes.

    **Raises** `InputError` for a model that computes in another precision than a spec can name.
    """
    block = model.blocks[0]
    return ModelSpec(
        width=model.prelude.weight.shape[0],
        heads=block.attention.heads,
        recall=block.recall_kind,
        norm=block.norms.kind,
        residual="gru" if isinstance(block.residual, GRU) else "add",
        blocks=len(model.blocks),
        mlp_ratio=block.feedforward.hidden.weight.shape[0] // model.prelude.weight.shape[0],
        attention=block.attention.window,
        precision=typed("model.precision", str(model.dtype), field_types(ModelSpec)["precision"]),
        grid=model.grid,
        channels=model.prelude.weight.shape[1],
        classes=model.coda.output.weight.shape[0],
    )


def make_solver(spec: SolverSpec) -> Solver:
    if spec.name == "unroll":
        return Unroll(spec.steps, rtol=spec.rtol)
    norm = two_norm if spec.norm == "two" else largest_cell_norm
    common: dict[str, Any] = {"rtol": spec.rtol, "atol": spec.atol, "norm": norm}
    if spec.name == "fixed-point":
        return FixedPoint(damping=spec.damping, patience=spec.patience, **common)
    if spec.name == "anderson":
        return Anderson(memory=spec.memory, damping=spec.damping, **common)
    if spec.name == "broyden":
        return Broyden(memory=spec.memory, **common)
    others = {"newton": NewtonKrylov, "chord": Chord, "steady-state": SteadyState}
    return others[spec.name](**common)


def named_solver(spec: SolverSpec, name: str | None = None) -> tuple[str, AbstractSolver]:
    """A solver that stops by itself, with the settings of `spec`, and what it is called: `name`,
    or by default that of `spec`, or `fixed-point` where that does not stop. **Raises**
    `InputError` for another name."""
    if name is None:
        name = spec.name if spec.converges else "fixed-point"
    known = field_types(SolverSpec)["name"]
    # The gradient, which is not asked for here, must be one that goes with every solver.
    named = dataclasses.replace(spec, name=typed("solver", name, known), gradient="implicit")
    made = make_solver(named)
    if not isinstance(made, AbstractSolver):
        raise InputError(f"solver must be one that stops by itself, got {name!r}")
    return name, made


def make_gradient(spec: SolverSpec) -> AbstractGradient:
    steps = spec.gradient_steps
    if spec.gradient == "backprop":
        return Backprop(checkpoints=spec.gradient_checkpoints or None)
    if spec.gradient == "truncated":
        return Truncated(steps)
    if spec.gradient == "one-step":
        return OneStep()
    if spec.gradient == "phantom":
        return Phantom(steps, damping=spec.gradient_damping)
    if spec.gradient == "neumann":
        return Neumann(steps)
    anderson = spec.gradient_solver == "anderson"
    return Implicit(
        rtol=spec.gradient_rtol,
        cycles=spec.gradient_cycles,
        restart=spec.gradient_restart,
        solver=Anderson(memory=spec.gradient_restart) if anderson else None,
    )


def restore(run: Run, which: Which = "best") -> tuple[LoopedTransformer, int]:
    """The weights of a run to evaluate: the average, where the run keeps one.

    **Arguments:**

    - `run`: an opened run folder.
    - `which`: `"best"` (on validation), `"last"`, or a step.

    **Returns** the model and the step that it is of. The state of the optimiser is not kept.

    **Raises** `InputError` as `Run.load`, and for weights that are not finite.
    """
    part = "ema" if run.spec.train.ema else "model"
    model = eqx.filter_eval_shape(make_model, run.spec.model, jr.key(0))
    loaded, header = run.load(which, {part: model}, part=True)
    for name, array in named_arrays(loaded).items():
        if not np.isfinite(array).all():
            raise InputError(
                f"{run.checkpoint(header.step)}: {name} holds NaN or infinities: such a model "
                "has no answers; name another step with --checkpoint"
            )
    return loaded[part], header.step
