"""Functions that real processes run on several devices, or as one of several processes."""

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tiny_task import make_task, slow_steps, tiny_spec

import eqloop
from eqloop.cli import main as command
from eqloop.run import Spec
from eqloop.train import (
    LostProcess,
    broadcast_json,
    exit_now,
    init_state,
    is_main_process,
    join_processes,
    shutdown,
    train,
)
from eqloop.train._devices import Devices
from eqloop.train._state import TrainState, place
from eqloop.train._step import Order, _Fixed, _program, put, training_key

STEPS = 20
SETTINGS = (
    "task.augment=true",
    f"train.steps={STEPS}",
    "train.loss=progressive",
    "train.carry_steps=3",
    "train.ema=0.9",
    "train.lr=0.01",
    "train.validate_every=10",
    "train.validation_iterations=4",
    "train.checkpoint_every=4",
    "train.keep=20",
)


def make_spec(*settings: str) -> Spec:
    return tiny_spec(*SETTINGS, *settings)


def main(path: Path, pause: float, *processes: str) -> int:
    """Begin a run or go on with it, as one of `processes` (address, count, number), where they are
    given. Each step is slowed down by `pause` seconds."""
    slow_steps(pause)
    if processes:
        address, count, number = processes
        join_processes(address, int(count), int(number))
    has_spec = broadcast_json(lambda: (path / "spec.toml").exists())
    # Only the first process gets the right path: the others must not need it.
    where = path if is_main_process() else path.with_name("nowhere")
    spec = make_spec()
    try:
        outcome = train(spec, make_task("tiny", spec.task_fields), where, resume=has_spec)
    except LostProcess as error:
        print(f"error: {error}", file=sys.stderr)
        exit_now(1)
    shutdown()
    return 0 if outcome.status == "finished" else 128 + (outcome.signal or signal.SIGTERM)


def run_command(output: Path, arguments: list[str]) -> int:
    """Run `eqloop` with `arguments` in the folder of the file that its stdout goes to."""
    os.chdir(output.parent)
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
    return command(arguments)


def compare_devices() -> int:
    """Print, as JSON: the metrics and the weights after a step with a solver and a gradient, on one
    device and on four; and, for a step with carried states, the ratio of the arithmetic of one
    device to that of one of four, and the number of operations that gather more than sums."""
    solved = ["solver.name=fixed-point", "solver.gradient=implicit", "solver.max_steps=8"]
    results = []
    for program, fixed, state, where in _steps(8, *solved):
        state, metrics = program(fixed, state)
        if where is not None:
            for leaf in jax.tree.leaves(state):
                assert leaf.sharding.is_fully_replicated
                assert len(leaf.sharding.device_set) == 4
            state = where.here(state)
        numbers = {name: float(metric) for name, metric in metrics.items()}
        weights = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state.model)])
        results.append((numbers, weights.tolist()))
    # A program loaded from the cache has no cost analysis.
    jax.config.update("jax_enable_compilation_cache", False)
    single, four = (
        program.lower(fixed, state).compile().compiled
        for program, fixed, state, _ in _steps(32, "model.width=64", "train.carry_steps=3")
    )
    ratio = single.cost_analysis()["flops"] / four.cost_analysis()["flops"]
    gathered = re.findall(r" all-(?:gather|to-all)", four.as_text())
    print(json.dumps([results, ratio, len(gathered)]))
    return 0


def _steps(batch: int, *settings: str) -> Iterator[tuple[Any, _Fixed, TrainState, Devices | None]]:
    """Yield the program of a step and its arguments, for one device and for four."""
    common = ["task.augment=true", "train.loss=last", "train.schedule=constant"]
    spec = tiny_spec(*common, f"train.batch={batch}", *settings)
    task, devices = make_task("tiny", spec.task_fields), Devices(batch)
    for where in (None, devices):
        data, state = put(task.load().splits["train"]), init_state(spec)
        rows = Order(0, 64, batch)(0)
        if where is not None:
            data, state, rows = where.copy(data), place(state, where), where.split(rows)
        lr = jnp.asarray(spec.train.lr, jnp.float32)
        fixed = _Fixed(data, jnp.asarray(rows), training_key(0), lr, jnp.int32(0))
        yield _program(spec, task, where and where.everywhere, None), fixed, state, where


def compare_solves(pairs: list[tuple[str, str]]) -> int:
    """Print, for each pair of a solver and a gradient, what a batch of solves without a model gives
    on one device and on four: the gradient of the map, the states and the steps."""
    # This module computes when it is imported, which the process that is forked must not.
    from problems import GRADIENTS, PROBLEMS, SOLVERS, weighted

    f, z0, x = next(problem for problem in PROBLEMS if problem.name == "tanh").make(jnp.float32)
    xs = x * jnp.linspace(0.1, 1.5, 8)[:, None]

    def split(count: int) -> jax.Array:
        devices = jax.devices()[:count]
        mesh = jax.make_mesh((count,), ("batch",), axis_types=(AxisType.Auto,), devices=devices)
        return jax.device_put(xs, NamedSharding(mesh, PartitionSpec("batch")))

    @eqx.filter_jit
    def run(f, xs, solver, gradient):
        def loss(f):
            def one(x):
                return eqloop.equilibrium(f, z0, x, solver=solver, gradient=gradient, max_steps=60)

            out = jax.vmap(one)(xs)
            return jnp.sum(jax.vmap(weighted)(out.state)), out

        return jax.grad(loss, has_aux=True)(f)

    results = {}
    for solver, gradient in pairs:
        for count in (1, 4):
            df, out = run(f, split(count), SOLVERS[solver](1e-5), GRADIENTS[gradient](1e-4))
            assert len(out.state.sharding.device_set) == count
            numbers = [df.w.tolist(), out.state.tolist(), out.steps.tolist()]
            results.setdefault(f"{solver} {gradient}", []).append(numbers)
    print(json.dumps(results))
    return 0
