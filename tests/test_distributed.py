"""Several devices, or several processes, compute what one device computes, up to rounding; when one
process ends, the others end soon."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import distributed_child
import jax
import numpy as np
import pytest
from children import Child, start_server
from distributed_child import STEPS, make_spec, run_command
from tiny_task import Tiny, make_task

from eqloop import InputError
from eqloop.cli import main
from eqloop.run import open_run, read_metrics
from eqloop.train import _processes, train
from eqloop.train._devices import Devices
from eqloop.train._state import skeleton

HERE = Path(__file__).parent
EXACT = ("step", "epoch", "iterations", "evaluations", "lr", "kind", "age", "replaced")
"""What rounding has no part in: the data order and the draws are the same."""


@pytest.fixture(scope="module")
def environment(compiled) -> dict[str, str]:
    return {**os.environ, **compiled, "PYTHONPATH": str(HERE)}


def simulated(count: int) -> dict[str, str]:
    return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}


@pytest.fixture(scope="module", autouse=True)
def server(compiled) -> None:
    start_server(compiled)


started: list[Child] = []


@pytest.fixture(autouse=True)
def none_is_left():
    yield
    while started:
        child = started.pop()
        child.kill()
        child.wait(60)


def start(
    path: Path, *processes: str, pause: float = 0.0, variables: dict[str, str] | None = None
) -> Child:
    output = path.with_name(f"{path.name}-{len(started)}.output")
    child = Child(output, distributed_child.main, path, pause, *processes, variables=variables)
    started.append(child)
    return child


def finish(child: Child, code: int = 0) -> str:
    ended, output = child.wait(240)
    assert ended == code, output
    return output


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def start_two(path: Path, **options) -> list[Child]:
    address = free_address()
    return [start(path, address, "2", str(number), **options) for number in range(2)]


def wait_for_step(run: Path, step: int, *children: Child) -> None:
    log, deadline = run / "metrics.jsonl", time.monotonic() + 120
    while not log.exists() or last_step(log) < step:
        assert time.monotonic() < deadline
        assert all(child.poll() is None for child in children), "it ended before it was to"
        time.sleep(0.01)


def last_step(log: Path) -> int:
    return max((row["step"] for row in read_metrics(log)), default=0)


OF_PROCESS = {"examples_per_s", "seconds", "began_at"}


def same_up_to_rounding(actual: Path, expected: Path) -> None:
    """Compare every line of the log and every array of the last checkpoint of two runs."""
    for mine, yours in zip(
        *(read_metrics(run / "metrics.jsonl") for run in (actual, expected)), strict=True
    ):
        names = mine.keys() - OF_PROCESS
        assert names == yours.keys() - OF_PROCESS
        for name in names:
            if name in EXACT or isinstance(mine[name], str):
                assert mine[name] == yours[name], name
            else:
                np.testing.assert_allclose(mine[name], yours[name], rtol=1e-3, err_msg=name)
    (left, header), (right, other_header) = (
        (opened := open_run(run)).load("last", skeleton(opened.spec)) for run in (actual, expected)
    )
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
def test_devices_of_one_process(alone, tmp_path):
    """Four devices of one process train as one device does; the processes below train with two."""
    run = tmp_path / "run"
    finish(start(run, variables=simulated(4)))
    same_up_to_rounding(alone, run)


@pytest.mark.slow
def test_a_step_on_four_devices(tmp_path):
    """With a solve forwards and one backwards, four devices compute what one does: that other
    solvers and gradients do so is held in test_gradients, without a model around them. Each does a
    quarter of the arithmetic and gathers nothing but sums: carried states stay where they are."""
    output = tmp_path / "output"
    child = Child(output, distributed_child.compare_devices, variables=simulated(4))
    ((single, weights), (four, spread)), ratio, gathered = json.loads(finish(child))
    for name, value in single.items():
        np.testing.assert_allclose(four[name], value, rtol=1e-3, err_msg=name)
    np.testing.assert_allclose(spread, weights, rtol=1e-4, atol=1e-5)
    assert ratio > 3.8
    assert gathered == 0


def test_a_batch_that_cannot_be_shared(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    with pytest.raises(InputError, match=r"train\.batch = 8 .* 3 devices: --set train\.batch=6 or"):
        train(make_spec(), Tiny(augment=True), tmp_path / "run")
    assert not (tmp_path / "run").exists(), "nothing is left of a run that could not begin"
    with pytest.raises(InputError, match=r"train\.batch=3, or"):
        Devices(2)


# --- several processes


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    """The run that two processes make."""
    run = tmp_path_factory.mktemp("pair") / "run"
    for child in start_two(run):
        finish(child)
    return run


@pytest.mark.slow
def test_two_processes(alone, pair):
    same_up_to_rounding(alone, pair)
    files = {file for file in pair.parent.iterdir() if file.suffix != ".output"}
    assert files == {pair}, "the second process writes nothing"


@pytest.mark.slow
def test_whoever_comes_with_a_taken_id_or_port_does_no_harm(pair, tmp_path, capsys, monkeypatch):
    """Processes with a taken id or port join at two moments while two others train: those compute
    what they would compute undisturbed."""
    run, address = tmp_path / "run", free_address()
    two = [start(run, address, "2", str(number), pause=0.3) for number in range(2)]
    wait_for_step(run, 2, *two)
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    for number, count, why in (
        ("1", "2", "--process-id 1 is taken by process "),
        ("0", "2", "this port is in use"),
        ("2", "3", "process 0 was started with --num-processes 2, not 3"),
    ):
        where = ["--coordinator", address, "--num-processes", count, "--process-id", number]
        assert main(["train", *where]) == 2
        assert re.fullmatch(f"error: --coordinator {address}: {why}.*\n", capsys.readouterr().err)
    assert all(child.poll() is None for child in two), "these are to be at work all the while"
    for child in two:
        finish(child)
    assert list(elsewhere.iterdir()) == []
    assert open_run(run).steps() == open_run(pair).steps()
    for step in open_run(run).steps():
        assert (
            open_run(run).checkpoint(step).read_bytes()
            == open_run(pair).checkpoint(step).read_bytes()
        )


@pytest.mark.slow
def test_a_signal_to_one_stops_all_and_any_number_goes_on(alone, tmp_path):
    """One process begins the run, two continue it, and one ends it."""
    run = tmp_path / "run"
    process = start(run, pause=0.1)
    wait_for_step(run, 3, process)
    process.send_signal(signal.SIGTERM)
    finish(process, 128 + signal.SIGTERM)
    before = open_run(run).steps()[-1]
    two = start_two(run, pause=0.1)
    wait_for_step(run, before + 2, *two)
    two[1].send_signal(signal.SIGINT)
    for child in two:
        finish(child, 128 + signal.SIGINT)
    assert before < open_run(run).steps()[-1] == last_step(run / "metrics.jsonl") < STEPS
    finish(start(run))
    same_up_to_rounding(alone, run)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_lost_process_ends_the_other_and_the_run_goes_on(killed, alone, tmp_path):
    """One process continues the run; the test above continues a stopped run with two."""
    run = tmp_path / "run"
    two = start_two(run, pause=0.1)
    wait_for_step(run, 6, *two)
    two[killed].kill()
    began = time.monotonic()
    lines = finish(two[1 - killed], 1).splitlines()
    assert time.monotonic() - began < 60
    # gRPC may write a line of its own before or after this one.
    (error,) = (line for line in lines if line.startswith("error: "))
    assert "lost" in error
    saved = re.search(rf"the run is saved up to step (\d+); go on with --resume {run}$", error)
    assert saved is not None, error
    assert int(saved[1]) in open_run(run).steps()
    finish(start(run))
    same_up_to_rounding(alone, run)


@pytest.mark.slow
def test_slurm_says_who_is_who(tmp_path):
    """The environment is that of srun for the two tasks of a step: no option is needed, and one
    process prints the table."""
    step = {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "JAX_COORDINATOR_PORT": free_address().split(":")[1],
    }
    settings = ["task.rows=60", "task.test_rows=16", "model.width=16", "model.heads=2"]
    settings += ["task.length=8", "task.validation_length=0", "task.hard_length=8"]
    settings += ["train.burn_in=0", "train.batch=8", "train.validation_iterations=4"]
    options = [f"--set={setting}" for setting in (*settings, "solver.steps=4")]
    command = ["train", "--steps=2", "--json", "--out=run", *options]
    stdouts = [tmp_path / f"{number}.json" for number in range(2)]
    for number, stdout in enumerate(stdouts):
        variables = step | {"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)}
        output = stdout.with_suffix(".output")
        started.append(Child(output, run_command, stdout, command, variables=variables))
    for child in started:
        finish(child)
    table, nothing = (stdout.read_text() for stdout in stdouts)
    assert json.loads(table)["steps"] == 2
    assert nothing == ""


def test_jax_ending_a_process_is_told_in_one_line(environment):
    """A C thread aborts while Python waits, so that a handler in Python would never run."""
    code = """
import ctypes, threading, time
from eqloop.train import _processes
_processes.install_abort_handler(lambda: "a line")
threading.Timer(0.1, ctypes.CDLL(None).abort).start()
time.sleep(60)
"""
    completed = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=50
    )
    assert (completed.returncode, completed.stderr) == (1, "error: a line\n")


@pytest.mark.slow
def test_all_end_where_one_cannot_begin(tmp_path):
    """The run folder exists and is not a run, which only the first process sees."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "other").touch()
    for child in start_two(run):
        output = finish(child, 1)
        assert "InputError" in output
        assert "is not empty and not a run" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--coordinator a:1", "--num-processes is missing: it goes with --coordinator"),
        ("--num-processes 2 --process-id 0", "--coordinator is missing"),
        ("--coordinator a --num-processes 2 --process-id 0", "--coordinator a: must be HOST:PORT"),
        ("--join-timeout 0", "--join-timeout"),
        ("--coordinator a:x --num-processes 2 --process-id 0", "must be HOST:PORT"),
        ("--coordinator a:99999 --num-processes 2 --process-id 0", "must be HOST:PORT"),
        ("--coordinator a:1 --num-processes 0 --process-id 0", "--num-processes 0: must be at"),
        ("--coordinator a:1 --num-processes 2 --process-id 2", "--process-id 2: must be in 0 .. 1"),
    ],
)
def test_options_that_make_no_sense(options, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *options.split()]) == 2
    assert re.fullmatch(f"error: .*{re.escape(message)}.*\n", capsys.readouterr().err)


def test_open_mpi_that_does_not_say_where_the_first_is(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    assert main(["train"]) == 2
    assert "give each --coordinator HOST:PORT" in capsys.readouterr().err


def test_a_plain_command_in_an_allocation_is_alone(monkeypatch):
    """In the batch script of a SLURM job of four tasks, only the script itself was started."""
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert _processes._launched() == 1
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert _processes._launched() == 4
