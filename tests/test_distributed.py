"""Several devices compute what one does, up to rounding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from distributed_child import STEPS, make_spec
from tiny_task import Tiny, make_task

from eqloop import InputError
from eqloop.train import open_run, read_metrics, train
from eqloop.train._devices import Devices

HERE = Path(__file__).parent
CHILD = HERE / "distributed_child.py"
EXACT = ("step", "epoch", "iterations", "evaluations", "lr", "kind")
"""What rounding has no part in: the data order and the draws are the same."""


@pytest.fixture(scope="module")
def environment(compiled) -> dict[str, str]:
    return {**os.environ, **compiled, "PYTHONPATH": str(HERE)}


def simulated(count: int, *flags: str) -> dict[str, str]:
    return {"XLA_FLAGS": " ".join((f"--xla_force_host_platform_device_count={count}", *flags))}


QUICKLY = ("--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true")
"""For a program that runs once."""


def finish(child: subprocess.Popen, code: int = 0) -> str:
    try:
        output, _ = child.communicate(timeout=240)
    finally:
        child.kill()
    assert child.returncode == code, output
    return output


def start(path: Path, *arguments: str, environment: dict[str, str]) -> subprocess.Popen:
    command = [sys.executable, "-W", "error", str(CHILD), str(path), *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def same_up_to_rounding(one: Path, other: Path) -> None:
    """Every line of the log and every array of the last checkpoint."""
    for mine, yours in zip(
        *(read_metrics(run / "metrics.jsonl") for run in (one, other)), strict=True
    ):
        assert mine.keys() == yours.keys()
        for name in mine.keys() - {"examples_per_s", "seconds"}:
            if name in EXACT or isinstance(mine[name], str):
                assert mine[name] == yours[name], name
            else:
                np.testing.assert_allclose(mine[name], yours[name], rtol=1e-3, err_msg=name)
    (left, header), (right, other_header) = (open_run(run).load("last") for run in (one, other))
    assert header.step == other_header.step == STEPS
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The run that one device makes."""
    path = tmp_path_factory.mktemp("alone") / "run"
    spec = make_spec()
    train(spec, make_task("tiny", spec.task_fields), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_devices_of_one_process(count, alone, environment, tmp_path):
    run = tmp_path / "run"
    finish(start(run, environment=environment | simulated(count)))
    same_up_to_rounding(alone, run)


_PAIRS = """
import json, re, sys
import equinox as eqx, jax, jax.numpy as jnp, numpy as np
from tiny_task import make_task, tiny_spec
from eqloop.train import init_state
from eqloop.train._devices import Devices
from eqloop.train._step import Order, make_step, put

found = {}
for solver, gradient in json.loads(sys.argv[1]):
    made = tiny_spec(
        "task.augment=true", "train.loss=last", "train.schedule=constant", "solver.max_steps=8",
        f"solver.name={solver}", f"solver.gradient={gradient}",
    )
    task = make_task("tiny", made.task_fields)
    for devices in (None, Devices(8)):
        data, state = put(task.load().splits["train"]), init_state(made)
        if devices is not None:
            data, state = devices.copy((data, state))
        state, metrics = make_step(made, task, devices)(data, state, Order(0, 64, 8)(0))
        if devices is not None:
            for leaf in jax.tree.leaves(state):
                assert leaf.sharding.is_fully_replicated and len(leaf.sharding.device_set) == 4
            state = devices.here(state)
        metrics = {name: float(each) for name, each in metrics.items()}
        weights = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state.model)])
        found.setdefault(f"{solver} {gradient}", []).append((metrics, weights.tolist()))
print(json.dumps(found))
"""
PAIRS = [
    ("unroll", "backprop"),
    ("fixed-point", "implicit"),
    ("anderson", "phantom"),
    ("broyden", "neumann"),
    ("newton", "one-step"),
    ("chord", "truncated"),
    ("steady-state", "implicit"),
]
"""Every solver and every gradient once, since each pair is compiled for twice: what the one does to
a batch that is spread out does not depend on the other."""


@pytest.mark.slow
def test_a_step_of_every_solver_and_gradient(environment):
    ran = subprocess.run(
        [sys.executable, "-c", _PAIRS, json.dumps(PAIRS)],
        env=environment | simulated(4, *QUICKLY),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert len(found) == len(PAIRS)
    for pair, ((one, weights), (four, spread)) in found.items():
        for name, value in one.items():
            np.testing.assert_allclose(four[name], value, rtol=1e-3, err_msg=f"{pair}: {name}")
        np.testing.assert_allclose(spread, weights, rtol=1e-4, atol=1e-5, err_msg=pair)


def test_the_work_is_divided(environment):
    """A quarter of the arithmetic on each of four devices, and nothing gathered but sums."""
    code = """
import equinox as eqx, jax, jax.numpy as jnp, re
from tiny_task import make_task, tiny_spec
from eqloop.train import init_state
from eqloop.train._devices import Devices
from eqloop.train._step import Order, _Fixed, _program, put, training_key
spec = tiny_spec("task.augment=true", "train.batch=32", "model.width=64", "train.loss=last")
task, devices, flops = make_task("tiny", spec.task_fields), Devices(32), []
for where in (None, devices):
    copy, split = (lambda x: x, jnp.asarray) if where is None else (where.copy, where.split)
    fixed = _Fixed(copy(put(task.load().splits["train"])), training_key(0), jnp.float32(1))
    program = _program(spec, task, where and where.everywhere)
    made = program.lower(fixed, copy(init_state(spec)), split(Order(0, 64, 32)(0))).compile()
    flops.append(made.compiled.cost_analysis()["flops"])
print(flops[0] / flops[1], len(re.findall(r" all-(?:gather|to-all)", made.compiled.as_text())))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | simulated(4, *QUICKLY),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stderr
    ratio, gathered = ran.stdout.split()
    assert float(ratio) > 3.8
    assert gathered == "0"


def test_a_batch_that_cannot_be_shared(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    with pytest.raises(InputError, match=r"train\.batch = 8 .* 3 devices: --set train\.batch=6 or"):
        train(make_spec(), Tiny(augment=True), tmp_path / "run")
    assert not (tmp_path / "run").exists(), "nothing is left of a run that could not begin"
    with pytest.raises(InputError, match=r"train\.batch=3, or"):
        Devices(2)
