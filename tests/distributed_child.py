"""Functions that real processes run on several devices, or as one of several processes."""

import json
import re
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from compiled_programs import write_whole_programs
from tiny_task import make_task, slow_steps, tiny_spec

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
from eqloop.train._state import place
from eqloop.train._step import Order, _Fixed, _program, make_step, put, training_key

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
    write_whole_programs()
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


def compare_steps(pairs: list[tuple[str, str]]) -> int:
    """Print the metrics and the weights after a step on one device and on four, for each pair of a
    solver and a gradient."""
    write_whole_programs()
    steps = {}
    for solver, gradient in pairs:
        spec = tiny_spec(
            "task.augment=true",
            "train.loss=last",
            "train.schedule=constant",
            "solver.max_steps=8",
            f"solver.name={solver}",
            f"solver.gradient={gradient}",
        )
        task = make_task("tiny", spec.task_fields)
        for devices in (None, Devices(8)):
            data, state = put(task.load().splits["train"]), init_state(spec)
            if devices is not None:
                data, state = devices.copy((data, state))
            state, metrics = make_step(spec, task, devices)(data, state, Order(0, 64, 8)(0))
            if devices is not None:
                for leaf in jax.tree.leaves(state):
                    assert leaf.sharding.is_fully_replicated
                    assert len(leaf.sharding.device_set) == 4
                state = devices.here(state)
            numbers = {name: float(metric) for name, metric in metrics.items()}
            weights = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state.model)])
            steps.setdefault(f"{solver} {gradient}", []).append((numbers, weights.tolist()))
    print(json.dumps(steps))
    return 0


def divide_work() -> int:
    """Print, for a step without and with carried states, the ratio of the arithmetic of one device
    to that of one of four, and the number of operations that gather more than sums."""
    # A program loaded from the cache has no cost analysis.
    jax.config.update("jax_enable_compilation_cache", False)
    results = []
    for carried in (1, 3):
        spec = tiny_spec(
            "task.augment=true",
            "train.batch=32",
            "model.width=64",
            "train.loss=last",
            f"train.carry_steps={carried}",
        )
        task, devices = make_task("tiny", spec.task_fields), Devices(32)
        programs = []
        for where in (None, devices):
            copy, split = (lambda x: x, jnp.asarray) if where is None else (where.copy, where.split)
            data, rows = copy(put(task.load().splits["train"])), split(Order(0, 64, 32)(0))
            fixed = _Fixed(data, rows, training_key(0), jnp.float32(1), jnp.int32(0))
            program = _program(spec, task, where and where.everywhere, None)
            state = init_state(spec) if where is None else place(init_state(spec), where)
            programs.append(program.lower(fixed, state).compile().compiled)
        single, four = (program.cost_analysis()["flops"] for program in programs)
        gathered = re.findall(r" all-(?:gather|to-all)", programs[-1].as_text())
        results.append((single / four, len(gathered)))
    print(json.dumps(results))
    return 0
