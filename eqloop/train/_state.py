"""From a spec to the model, the solver, the optimiser and the state that training carries."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Int, PRNGKeyArray

from .._build import make_model
from .._model import AbstractLoopedModel
from ..recursive import adam_atan2
from ..run import Spec, TrainSpec
from ._carry import Carry, no_rows
from ._devices import Devices


class TrainState(eqx.Module):
    """The state of training, which a checkpoint contains: everything that the next step depends on.

    **Attributes:**

    - `model`: the weights in training, float32.
    - `ema`: exponential moving average of the weights, or None.
    - `optimiser`: the state of AdamW.
    - `step`: number of finished optimiser steps.
    - `carry`: the rows that the next step continues, or None if each step has new examples.

    ```python
    >>> import eqloop
    >>> model = eqloop.run.ModelSpec(
    ...     width=8, heads=2, attention="full", grid=(8,), channels=1, classes=2
    ... )
    >>> train = eqloop.run.TrainSpec(ema=0.999)
    >>> spec = eqloop.run.Spec({"name": "prefix-sums"}, model, train=train)
    >>> state = eqloop.train.init_state(spec)
    >>> state.best_weights is state.ema, state.step.item()
    (True, 0)

    ```
    """

    model: AbstractLoopedModel
    ema: AbstractLoopedModel | None
    optimiser: Any
    step: Int[Array, ""]
    carry: Carry | None = None

    @property
    def best_weights(self) -> AbstractLoopedModel:
        """The weights to evaluate: the average, if there is one, else the raw weights."""
        return self.model if self.ema is None else self.ema


def make_schedule(spec: TrainSpec, lr: ArrayLike | None = None) -> optax.Schedule:
    """The schedule: step 0, 1, ... -> learning rate; see `TrainSpec`. `lr` replaces that of `spec`
    and may be traced, so that runs with different rates share one program."""
    rate = jnp.asarray(spec.lr if lr is None else lr, jnp.float32)
    if spec.schedule == "constant":
        return lambda step: rate
    if spec.schedule == "warmup-cosine":
        # `warmup` counts steps that are below the full rate; the first of them is not zero.
        warmup = min(spec.warmup, spec.steps - 1)

        def warmup_cosine(step: ArrayLike) -> Array:
            step = jnp.asarray(step, jnp.float32)
            rise = (step + 1) / (warmup + 1)
            way = jnp.clip((step - warmup) / (spec.steps - warmup), 0, 1)
            return rate * jnp.minimum(rise, 0.5 * (1 + jnp.cos(jnp.pi * way)))

        return warmup_cosine
    if spec.schedule == "warmup-constant":
        return lambda step: rate * jnp.clip((step + 1) / (spec.warmup + 1), 0, 1)

    # First steps of all epochs but the first; step * epochs may overflow an int32.
    begins = [-(-epoch * spec.steps // spec.epochs) for epoch in range(1, spec.epochs)]

    def paper(step: ArrayLike) -> Array:
        starts = jnp.asarray(begins, jnp.int32)
        epoch = jnp.searchsorted(starts, jnp.asarray(step, jnp.int32), side="right")
        rise = 1 - jnp.exp(-(epoch.astype(jnp.float32) + 1) / 10)
        factor = jnp.where(10 * epoch < spec.epochs, rise, 1.0)
        return rate * factor * jnp.where(10 * epoch >= 6 * spec.epochs, 0.1, 1.0)

    return paper


def stage_schedule(
    spec: TrainSpec, begin: ArrayLike, lr: ArrayLike | None = None
) -> Callable[[ArrayLike], Array]:
    """The learning rate after 0, 1, ... steps of the run in a stage whose schedule begins after
    `begin` of them. `lr` is that of `make_schedule`."""
    rates = make_schedule(spec, lr)
    return lambda step: jnp.asarray(rates(jnp.asarray(step, jnp.int32) - begin), jnp.float32)


def make_optimiser(
    spec: TrainSpec, schedule: optax.Schedule | None = None
) -> optax.GradientTransformation:
    """AdamW or AdamATan2 with clipping; biases and norm gains, which have one axis, are not
    decayed."""
    clip = optax.clip_by_global_norm(spec.clip) if spec.clip else optax.identity()
    options: dict[str, Any] = {
        "b1": spec.betas[0],
        "b2": spec.betas[1],
        "weight_decay": spec.weight_decay,
        "mask": lambda weights: jax.tree.map(lambda leaf: leaf.ndim >= 2, weights),
    }
    rate = schedule or make_schedule(spec)
    if spec.optimiser == "adam-atan2":
        return optax.chain(clip, adam_atan2(rate, **options))
    return optax.chain(clip, optax.adamw(rate, eps=spec.eps, **options))


def init_state(spec: Spec) -> TrainState:
    """The state before the first step: a pure function of the spec.

    **Arguments:**

    - `spec`: the spec of the run, with `model.grid`, `model.channels` and `model.classes`.

    **Returns** the state: random weights, zero moments, and an average if `train.ema` is set.

    ```python
    >>> import eqloop
    >>> model = eqloop.run.ModelSpec(
    ...     width=8, heads=2, attention="full", grid=(8,), channels=1, classes=2
    ... )
    >>> state = eqloop.train.init_state(eqloop.run.Spec({"name": "prefix-sums"}, model))
    >>> state.model.prelude.weight.shape, state.ema is None
    ((8, 1), True)

    ```
    """
    # The other half of this split is the key of the steps: see `training_key`.
    model = make_model(spec.model, jr.split(jr.key(spec.train.seed))[0])
    weights = eqx.filter(model, eqx.is_inexact_array)
    return TrainState(
        model=model,
        # Copy: the step donates its arguments, and a buffer can be donated only once.
        ema=jax.tree.map(jnp.array, model) if spec.train.ema else None,
        optimiser=make_optimiser(spec.train).init(weights),
        step=jnp.zeros((), jnp.int32),
        carry=no_rows(spec),
    )


def place(state: TrainState, devices: Devices) -> TrainState:
    """Place the state on all devices: a share of the carried rows, and a copy of the rest."""
    rest = devices.copy(dataclasses.replace(state, carry=None))
    return dataclasses.replace(rest, carry=devices.split(state.carry))


def training_key(seed: int) -> PRNGKeyArray:
    """The key of the steps; all randomness of step n comes from this key with n folded in."""
    return jr.split(jr.key(seed))[1]


def skeleton(spec: Spec) -> TrainState:
    """`init_state(spec)` with shapes and dtypes in place of arrays: nothing is computed."""
    return eqx.filter_eval_shape(init_state, spec)
