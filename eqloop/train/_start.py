"""Start a new run from the weights of another one, or lengthen a run."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from .._arrays import named_arrays
from .._build import restore
from .._errors import InputError
from ..run import Origin, Run, Spec, Stage, open_run, parts_of
from ._state import TrainState, init_state, skeleton, stage_schedule

T = TypeVar("T")

_FREE = {"grid", "attention", "precision"}
"""Fields that may differ from those of the model of the weights. The grid decides the shapes of
some weights, such as learned positions, which `_with_arrays` compares."""


@dataclasses.dataclass(frozen=True)
class Start:
    """The source of the first weights of a new run.

    **Attributes:**

    - `path`: the folder of another run; its best checkpoint on validation is used.
    - `weights`: averaged or raw weights; a run without an average has only raw ones.
    - `moments`: whether to take Adam's moments too. A trained model has small gradients, so with
      zero moments the first wrong example causes a large step. The schedule of the learning rate
      restarts in either case.

    ```python
    >>> import eqloop, pathlib
    >>> start = eqloop.train.Start(pathlib.Path("runs/first"), moments=True)  # for train(start=...)
    >>> start.weights
    'average'

    ```
    """

    path: Path
    weights: Literal["average", "raw"] = "average"
    moments: bool = False


def start_from(start: Start, spec: Spec) -> tuple[TrainState, Origin]:
    """The initial state of a run that starts from another one.

    **Returns** the state and what `data.json` records of its origin.

    **Raises** `InputError` if the path is not a run, if its model has other settings or weights of
    other shapes, or if the checkpoint lacks the moments.
    """
    source = open_run(start.path)
    mine, theirs = (dataclasses.asdict(model) for model in (spec.model, source.spec.model))
    for field in mine.keys() - _FREE:
        if mine[field] != theirs[field]:
            raise InputError(
                f"model.{field} = {mine[field]!r}, but the weights of {start.path} are of a model "
                f"with {theirs[field]!r}: choose the same, or train a new model without --from"
            )
    state = init_state(spec)
    average = start.weights == "average" and bool(source.spec.train.ema)
    weights, step = restore(source, raw=not average)
    # Grid, window and precision are those of the new spec; only the arrays come from the source.
    model = _with_arrays(state.model, weights, start.path)
    if start.moments:
        state = dataclasses.replace(state, optimiser=_with_moments(state.optimiser, source, step))
    ema = None if state.ema is None else jax.tree.map(jnp.array, model)
    with source.checkpoint(step).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    origin = Origin(
        path=str(start.path),
        step=step,
        weights="average" if average else "raw",
        moments=start.moments,
        sha256=sha256,
    )
    return dataclasses.replace(state, model=model, ema=ema), origin


def _with_arrays(like: T, source: T, path: Path) -> T:
    """`like` with the arrays of `source`, which is from the run at `path`."""
    arrays, static = eqx.partition(like, eqx.is_array)
    leaves = jax.tree.leaves(eqx.filter(source, eqx.is_array))
    for (name, mine), theirs in zip(named_arrays(arrays).items(), leaves, strict=True):
        if mine.shape != theirs.shape:
            raise InputError(
                f"{name} of the new model has the shape {mine.shape}, but {theirs.shape} in "
                f"{path}, whose model.grid is another: choose a task with the grid of that run, "
                "or train a new model without --from"
            )
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(arrays), leaves), static)


def _with_moments(optimiser: Any, source: Run, step: int) -> Any:
    """`optimiser` with Adam's moments, and its count of steps for their bias, from a checkpoint."""
    if "optimiser" not in parts_of(source.checkpoint(step)):
        raise InputError(
            f"{source.path}: its checkpoint holds weights alone: begin from it without the moments "
            "of the optimiser"
        )
    like = {"optimiser": skeleton(source.spec).optimiser}
    theirs, _ = source.load(step, like, part=True)

    def is_adam(part: Any) -> bool:
        return isinstance(part, optax.ScaleByAdamState)

    return jax.tree.map(
        lambda mine, loaded: _with_arrays(mine, loaded, source.path) if is_adam(mine) else mine,
        optimiser,
        theirs["optimiser"],
        is_leaf=is_adam,
    )


def lengthened_line(spec: Spec, before: int, done: int) -> str:
    """One line on the learning rate after `done` steps of a run that had `before` steps."""
    _, was = _stage_and_rate(spec.with_steps(before), max(done - 1, 0))
    stage, now = _stage_and_rate(spec, done)
    own, begin = stage.spec.train, stage.schedule_begin
    return (
        f"lengthened from {before:,} to {spec.train.steps:,} steps: from step {done + 1:,} on the "
        f"learning rate is that of the schedule {own.schedule!r} over {own.steps:,} steps"
        + (f" from step {begin + 1:,} on" if begin else "")
        + f" ({was:.3g} before, {now:.3g} now)"
    )


def _stage_and_rate(spec: Spec, done: int) -> tuple[Stage, float]:
    """The stage of the step that follows `done` steps, and its learning rate."""
    stage = next(stage for stage in spec.stages if stage.end > done)
    return stage, stage_schedule(stage.spec.train, stage.schedule_begin)(done).item()
