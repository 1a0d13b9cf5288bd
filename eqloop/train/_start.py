"""Runs that go on: a new run from the weights of another one, and a run that is lengthened."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._build import restore
from .._errors import InputError
from ..run import STARTED_FROM, Spec, TrainSpec, open_run
from ._state import TrainState, init_state, make_schedule

_FREE = {"grid", "attention", "precision"}
"""Fields of the model that no weight depends on."""


def start_from(path: Path, spec: Spec) -> tuple[TrainState, dict[str, Any]]:
    """The first state of a run that begins from the best weights of the run in `path`.

    **Returns** the state and what `data.json` records of its origin.

    **Raises** `InputError` for a `path` that is no run, and for a model of other settings.
    """
    source = open_run(path)
    mine, theirs = (dataclasses.asdict(each.model) for each in (spec, source.spec))
    for field in mine.keys() - _FREE:
        if mine[field] != theirs[field]:
            raise InputError(
                f"model.{field} = {mine[field]!r}, but the weights of {path} are of a model with "
                f"{theirs[field]!r}: choose the same, or train a new model without --from"
            )
    weights, step = restore(source)
    state = init_state(spec)
    # Grid, window and precision are those of the new spec; only the arrays come from the source.
    static = eqx.filter(state.model, eqx.is_array, inverse=True)
    model = eqx.combine(
        jax.tree.unflatten(
            jax.tree.structure(eqx.filter(state.model, eqx.is_array)),
            jax.tree.leaves(eqx.filter(weights, eqx.is_array)),
        ),
        static,
    )
    average = None if state.ema is None else jax.tree.map(jnp.array, model)
    with source.checkpoint(step).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    origin = {
        "path": str(path),
        "step": step,
        "weights": "average" if source.spec.train.ema else "raw",
        "sha256": sha256,
    }
    return dataclasses.replace(state, model=model, ema=average), {STARTED_FROM: origin}


def lengthened_line(spec: TrainSpec, before: int, done: int) -> str:
    """How the learning rate goes on after `done` steps in a run that had `before` steps."""
    was = jnp.asarray(make_schedule(dataclasses.replace(spec, steps=before))(max(done - 1, 0)))
    now = jnp.asarray(make_schedule(spec)(done))
    return (
        f"lengthened from {before:,} to {spec.steps:,} steps: from step {done + 1:,} on the "
        f"learning rate is that of the schedule {spec.schedule!r} over {spec.steps:,} steps "
        f"({float(was):.3g} before, {float(now):.3g} now)"
    )
