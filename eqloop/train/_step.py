"""One training step, compiled once for a whole run."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from .._errors import InputError
from .._solution import BackwardReport
from .._task import Split, Task
from ..run import Spec, TrainSpec
from ._devices import Devices, along_batch
from ._method import Method, batch_loss, make_method
from ._q import q_losses
from ._state import TrainState, make_optimiser, stage_schedule, training_key


class Data(NamedTuple):
    """The whole training split on the device, as tokens: a byte per cell."""

    inputs: UInt8[Array, "examples *grid"]
    targets: UInt8[Array, "examples *grid"]


SHARES = ("fallback", "untrusted", "missed", "oversized", "series")
"""The reports of the backward solve that are 0 or 1 for each example."""

METRICS = (
    "loss",
    "cells",
    "grad_norm",
    "lr",
    "iterations",
    "evaluations",
    "residual",
    "converged",
    *SHARES,
    "backward_residual",
    "backward_products",
    "gain",
    "gain_largest",
    "cosine",
)
"""The metrics of a step, means over its batch. `cells`: share of cells that are right after the
last iteration; `iterations`: steps of the solver; `evaluations`: evaluations of the loop;
`converged`: share of converged examples. The others are of the backward solve, see
`BackwardReport`: shares of examples from `fallback` to `series`; `gain` is the median of
`|u| / |g|`, `gain_largest` its maximum."""

CARRY_METRICS = ("age", "replaced", "fallback_new", "fallback_carried")
"""Further metrics of a step with carried states: the mean number of optimiser steps that the rows
have been trained for; the share of rows that new examples replace in the next step; and `fallback`
among the rows that began in this step and among the others, 0 for no rows."""

Q_METRICS = ("right", "q_right", "q_loss")
"""Further metrics of a step that trains a q head: the share of examples whose cells are all right;
the share for which `q_halt > 0` says rightly whether they are; and the binary cross-entropy of
`q_halt`, without its weight."""

AGES, BUDGET, STARTS = 2, 3, 4
"""Numbers that are folded into the key of a step, one per kind of draw. `jr.fold_in(key, i)` may
equal `jr.split(key)[i]`, and the halves 0 and 1 are for augmentation and loss."""

Metrics = dict[str, Float[Array, ""]]
Step = Callable[[Data, TrainState, Int[np.ndarray, " batch"]], tuple[TrainState, Metrics]]


def put(split: Split) -> Data:
    """Move a split to the device once; batches are gathered there.

    **Arguments:**

    - `split`: the examples.

    **Returns** inputs and targets as arrays of bytes, of shape (examples, *grid).

    ```python
    >>> import eqloop
    >>> data = eqloop.train.put(eqloop.Split.of([[0, 1], [1, 1]], [[0, 1], [1, 0]]))
    >>> data.targets.tolist()
    [[0, 1], [1, 0]]

    ```
    """
    return Data(jnp.asarray(split.inputs), jnp.asarray(split.targets))


class Order:
    """The examples of each step: a pure function of (seed, step), independent of earlier steps.

    Epoch e is a permutation by `Philox(key=[seed, e])`, cut into batches; the remainder at its end
    (less than a batch) is not used in that epoch.

    With a curriculum, step s of its first `curriculum_steps` steps draws different examples,
    uniformly from the easiest `curriculum_share + (1 - curriculum_share) s / curriculum_steps` of
    all; examples of equal difficulty are in random order, and those of unknown difficulty (NaN)
    come last. Later steps see the same examples as without a curriculum.

    **Arguments:**

    - `seed`: seed of the order, from 0 to 2^32 - 1.
    - `examples`: number of examples.
    - `batch`: number of examples of a step.
    - `difficulty`: one number per example, of shape (examples,); only a curriculum needs it.
    - `curriculum_steps`: number of steps of the curriculum; 0 for none.
    - `curriculum_share`: share of the examples that the first step draws from.

    **Raises** `InputError` if a batch exceeds the number of examples that it is drawn from, or if
    all examples of a curriculum have the same difficulty.

    ```python
    >>> import eqloop
    >>> order = eqloop.train.Order(seed=0, examples=8, batch=4)
    >>> sorted([*order(0).tolist(), *order(1).tolist()])  # one epoch
    [0, 1, 2, 3, 4, 5, 6, 7]

    ```
    """

    def __init__(
        self,
        seed: int,
        examples: int,
        batch: int,
        *,
        difficulty: Float[np.ndarray, " examples"] | None = None,
        curriculum_steps: int = 0,
        curriculum_share: float = 1.0,
    ):
        if batch > examples:
            raise InputError(
                f"train.batch = {batch} exceeds the {examples} training examples: lower it, or "
                "raise task.rows"
            )
        self.seed, self.examples, self.batch = seed, examples, batch
        self.per_epoch = examples // batch
        self._epoch = -1
        self._permutation = np.zeros(0, np.int64)
        self.curriculum_steps, self.curriculum_share = curriculum_steps, curriculum_share
        if not curriculum_steps:
            return
        if difficulty is None or len(np.unique(difficulty)) < 2:
            raise InputError(
                f"train.curriculum_steps = {curriculum_steps} has no effect: all training examples "
                "are of one difficulty; set it to 0, or take data of several (prefix sums: "
                "task.shortest, sudoku: task.most_givens)"
            )
        if self.easiest(0) < batch:
            raise InputError(
                f"train.curriculum_share = {curriculum_share} is {self.easiest(0)} of the "
                f"{examples} training examples, fewer than train.batch = {batch}: raise it"
            )
        ties = self._generator(_TIES, 0).random(examples)
        self._ranked = np.lexsort((ties, difficulty)).astype(np.int32)

    def easiest(self, step: int) -> int:
        """The number of easiest examples that a step draws from."""
        if step >= self.curriculum_steps:
            return self.examples
        share = self.curriculum_share
        return round((share + (1 - share) * step / self.curriculum_steps) * self.examples)

    def __call__(self, step: int) -> Int[np.ndarray, " batch"]:
        """Indices of the batch of step 0, 1, ..."""
        if step < self.curriculum_steps:
            drawn = self._generator(_DRAWN, step).choice(
                self.easiest(step), self.batch, replace=False
            )
            return self._ranked[drawn]
        epoch, index = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            generator = self._generator(_EPOCHS, epoch)
            self._permutation = generator.permutation(self.examples).astype(np.int32)
            self._epoch = epoch
        return self._permutation[index * self.batch : (index + 1) * self.batch]

    def _generator(self, stream: int, number: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=[self.seed + (stream << 32), number]))


_EPOCHS, _DRAWN, _TIES = range(3)
"""Streams of random numbers of an `Order`, which a seed, below 2^32, leaves room for in the key."""


def make_order(spec: TrainSpec, split: Split) -> Order:
    """The order in which a run sees the examples of its training split.

    **Arguments:**

    - `spec`: the table `[train]` of the run.
    - `split`: the training split.

    **Returns** the order: step 0, 1, ... -> indices of its batch.

    **Raises** `InputError` as `Order`.

    ```python
    >>> import eqloop
    >>> split = eqloop.Split.of([[0], [1], [0]], [[0], [1], [0]])
    >>> eqloop.train.make_order(eqloop.run.TrainSpec(batch=2), split)(0).shape
    (2,)

    ```
    """
    return Order(
        spec.seed,
        len(split),
        spec.batch,
        difficulty=split.difficulty,
        curriculum_steps=spec.curriculum_steps,
        curriculum_share=spec.curriculum_share,
    )


class _Fixed(NamedTuple):
    """The inputs of a step that it does not change or donate. Key and learning rate are runtime
    inputs, so runs that differ only in these share one executable."""

    data: Data
    rows: Int[Array, " batch"]
    key: PRNGKeyArray
    lr: Float[Array, ""]
    schedule_begin: Int[Array, ""]


def make_step(
    spec: Spec,
    task: Task,
    devices: Devices | None = None,
    method: Method | None = None,
    *,
    schedule_begin: int = 0,
) -> Step:
    """The compiled step `(data, state, indices) -> (state, metrics)`.

    A step gathers the batch (with carried states, for new rows only), transforms and encodes it,
    computes the gradient, clips it, and updates the weights and their average. The state is
    donated: its memory is reused for the new one. Specs that differ only in seed and learning rate
    share one program.

    The metrics are scalars on the device: reading one blocks until the step has finished.

    **Arguments:**

    - `spec`: the spec of the run; its phases do not count.
    - `task`: the task, which transforms and encodes the examples.
    - `devices`: the devices of the data (`Devices.copy`), the state (`place`) and the batch; one
      device by default.
    - `method`: solver, gradient and loss; by default those that the spec names. Steps with the
      same `Method` share a program.
    - `schedule_begin`: the step at which the schedule of the learning rate begins.

    **Returns** the step: a function of the data (see `put`), the state (see `init_state`) and the
    indices of the batch (see `make_order`).

    **Raises** `InputError` if `method` is missing and the spec names a class from outside the
    package.

    ```python
    >>> import eqloop
    >>> make_task = eqloop.tasks.make_task
    >>> settings = ["task.length=8", "task.rows=20", "task.test_rows=4", "model.width=8"]
    >>> settings += ["model.heads=2", "solver.steps=2", "train.steps=2", "train.batch=4"]
    >>> spec = eqloop.run.resolve("prefix-sums", "quick", settings, make_task=make_task)
    >>> task = make_task(spec.task_name, spec.task_fields)
    >>> split = task.load().splits["train"]
    >>> data, order = eqloop.train.put(split), eqloop.train.make_order(spec.train, split)
    >>> step, state = eqloop.train.make_step(spec, task), eqloop.train.init_state(spec)
    >>> state, metrics = step(data, state, order(0))
    >>> state.step.item(), 0 < metrics["loss"].item() < 2
    (1, True)

    ```
    """
    begin = jnp.asarray(schedule_begin, jnp.int32)
    key, lr = training_key(spec.train.seed), jnp.asarray(spec.train.lr, jnp.float32)
    everywhere = None if devices is None else devices.everywhere
    place = jnp.asarray if devices is None else devices.split
    compiled = _program(spec.of_all_seeds, task, everywhere, method)

    def step(data: Data, state: TrainState, index: np.ndarray) -> tuple[TrainState, Metrics]:
        return compiled(_Fixed(data, place(index), key, lr, begin), state)

    return step


@functools.lru_cache(maxsize=4)
def _program(
    spec: Spec,
    task: Task,
    everywhere: NamedSharding | None,
    method: Method | None,
) -> Any:
    step = functools.partial(_step, spec, task, method or make_method(spec))
    if everywhere is None:
        return eqx.filter_jit(step, donate="all-except-first")

    def spread(fixed: _Fixed, state: TrainState) -> tuple[TrainState, Metrics]:
        state, metrics = step(fixed, state)
        carry = eqx.filter_shard(state.carry, along_batch(everywhere))
        rest = dataclasses.replace(state, carry=None)
        rest, metrics = eqx.filter_shard((rest, metrics), everywhere)
        return dataclasses.replace(rest, carry=carry), metrics

    return eqx.filter_jit(spread, donate="all-except-first")


def _step(
    spec: Spec, task: Task, method: Method, fixed: _Fixed, state: TrainState
) -> tuple[TrainState, Metrics]:
    batch = spec.train.batch
    schedule = stage_schedule(spec.train, fixed.schedule_begin, fixed.lr)
    step_key, rows, carry = jr.fold_in(fixed.key, state.step), fixed.rows, state.carry
    keys = jr.split(step_key)
    if carry is not None:
        age_key = jr.fold_in(step_key, AGES)
        carry = carry.begun(rows, jr.split(keys[0], batch), age_key, spec.train)
        rows = carry.example
    elif spec.train.carry_steps > 1:
        raise ValueError("state has no carry: init_state of a spec with train.carry_steps makes it")
    tokens, targets = fixed.data.inputs[rows], fixed.data.targets[rows]
    if task.augment:
        symmetries = jr.split(keys[0], batch) if carry is None else carry.symmetries
        tokens, targets = jax.vmap(task.transform)(symmetries, tokens, targets)
    inputs = jax.vmap(task.encode)(tokens)
    probes = jax.tree.map(lambda leaf: jnp.zeros((batch,), leaf.dtype), BackwardReport.zeros())

    drawn = method.with_drawn_steps(jr.fold_in(step_key, BUDGET))

    def objective(differentiated):
        model, probes = differentiated
        starts = drawn.initial_states(model, inputs, jr.fold_in(step_key, STARTS))
        if carry is not None:
            if starts is None:
                starts = jax.vmap(lambda x: model.first_state(model.embed(x)))(inputs)
            starts = carry.starts(starts)
        is_last = None if carry is None else carry.is_last
        return batch_loss(model, probes, inputs, targets, keys[1], drawn, starts, is_last)

    (loss, examples), (gradient, reports) = eqx.filter_value_and_grad(objective, has_aux=True)(
        (state.model, probes)
    )
    weights = eqx.filter(state.model, eqx.is_inexact_array)
    with jax.numpy_dtype_promotion("standard"):  # Optax raises a float to an integer power
        updates, optimiser = make_optimiser(spec.train, schedule).update(
            gradient, state.optimiser, weights
        )
    model = eqx.apply_updates(state.model, updates)
    metrics = {
        "loss": loss,
        "cells": jnp.mean(examples.cells),
        "grad_norm": optax.tree.norm(gradient),
        "lr": schedule(state.step),
        "iterations": jnp.mean(examples.iterations, dtype=jnp.float32),
        "evaluations": jnp.mean(examples.evaluations, dtype=jnp.float32),
        "residual": jnp.mean(examples.residual),
        "converged": jnp.mean(examples.converged, dtype=jnp.float32),
        **{name: jnp.mean(getattr(reports, name)) for name in SHARES},
        "backward_residual": jnp.mean(reports.residual),
        "backward_products": jnp.mean(reports.products),
        "gain": jnp.median(reports.gain),
        "gain_largest": jnp.max(reports.gain),
        "cosine": jnp.mean(reports.cosine),
    }
    if spec.train.q_weight and examples.q is not None and examples.right is not None:
        says = (examples.q[:, 0] > 0) == examples.right
        metrics["right"] = jnp.mean(examples.right, dtype=jnp.float32)
        metrics["q_right"] = jnp.mean(says, dtype=jnp.float32)
        metrics["q_loss"] = jnp.mean(q_losses(examples.q, examples.right))
    if carry is not None:
        metrics["age"] = jnp.mean(carry.age + 1, dtype=jnp.float32)
        for name, rows in (("new", carry.is_new), ("carried", ~carry.is_new)):
            count = jnp.maximum(jnp.sum(rows, dtype=jnp.float32), 1.0)
            metrics[f"fallback_{name}"] = jnp.sum(jnp.where(rows, reports.fallback, 0.0)) / count
        carry = carry.ended(examples.state, examples.residual, spec.train, examples.q)
        metrics["replaced"] = jnp.mean(carry.is_new, dtype=jnp.float32)
    ema = state.ema
    if ema is not None:
        # Early in training the average must forget the random initial weights.
        count = state.step.astype(jnp.float32)
        decay = jnp.minimum(spec.train.ema, (1 + count) / (10 + count))
        ema = jax.tree.map(
            lambda a, b: a + (1 - decay) * (b - a) if eqx.is_inexact_array(a) else a, ema, model
        )
    return TrainState(model, ema, optimiser, state.step + 1, carry), metrics
