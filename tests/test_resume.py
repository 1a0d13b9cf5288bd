"""A training process is killed at any point and resumed; the result does not show it."""

import functools
import json
import random
import signal
import time
from pathlib import Path

import pytest
import resume_child
from children import Child, start_server
from resume_child import STEPS

from eqloop.run import open_run, read_metrics

PAUSE = 0.004
TIMING = ("examples_per_s", "seconds", "began_at")


@pytest.fixture(scope="module", autouse=True)
def server(compiled) -> None:
    start_server(compiled)


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    """The uninterrupted run of a solver, trained once per solver."""

    @functools.cache
    def make(solver: str) -> Path:
        run = tmp_path_factory.mktemp(solver) / "whole"
        assert finish(start(run, solver, pause=0.0)) == 0
        return run

    return make


def start(run: Path, solver: str, pause: float = PAUSE) -> Child:
    return Child(run.with_suffix(".output"), resume_child.main, run, solver, pause)


def finish(child: Child) -> int:
    code, output = child.wait(300)
    assert code in (0, 128 + signal.SIGINT, 128 + signal.SIGTERM), output
    return code


def without_timing(run: Path) -> list[dict]:
    rows = read_metrics(run / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in TIMING} for row in rows]


def wait_for(child: Child, condition) -> None:
    deadline = time.monotonic() + 120
    while child.poll() is None and not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def same_run(expected: Path, actual: Path) -> None:
    """Compare the last and the best checkpoint byte for byte, the record of the best, and every
    logged number."""
    last, best = open_run(expected).find("last"), open_run(expected).find("best")
    assert last == STEPS
    assert open_run(actual).find("best") == best
    for step in (last, best):
        left, right = open_run(expected).checkpoint(step), open_run(actual).checkpoint(step)
        assert left.read_bytes() == right.read_bytes()
    assert without_timing(expected) == without_timing(actual)
    assert (expected / "checkpoints/best.json").read_text() == (
        actual / "checkpoints/best.json"
    ).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["unroll", "fixed-point"])
def test_killed_anywhere_ends_bit_identical(solver, never_stopped, tmp_path):
    """Two kills are enough per solver, one of them during the write of a checkpoint: the point
    of a kill does not depend on the solver, but the restored state does. benchmarks/kills.py
    makes more; test_carry has a run of phases."""
    whole, killed = never_stopped(solver), tmp_path / "killed"
    rng = random.Random(solver)
    kills = in_a_write = 0
    while kills < 2:
        child = start(killed, solver)
        log, folder = killed / "metrics.jsonl", killed / "checkpoints"
        before = log.stat().st_size if log.exists() else -1

        # First, wait for a new line in the log: the process has then loaded and compiled.
        def moved(log=log, before=before):
            return log.exists() and log.stat().st_size != before

        wait_for(child, moved)
        if kills:  # The second time, wait until it is inside a checkpoint.
            wait_for(child, lambda folder=folder: any(folder.glob(".*.tmp")))
            time.sleep(rng.uniform(0, 0.1))
        else:
            time.sleep(rng.uniform(0, 0.4))
        child.kill()
        code, _ = child.wait(60)
        if code == 0:  # the process ended before the signal
            break
        kills += 1
        in_a_write += any(folder.glob(".*.tmp"))
    assert finish(start(killed, solver, pause=0.0)) == 0
    assert (kills, in_a_write >= 1) == (2, True)
    assert not list(killed.rglob("*.tmp"))
    same_run(whole, killed)


@pytest.mark.slow
def test_a_signal_saves_and_says_so(never_stopped, tmp_path):
    stopped = tmp_path / "stopped"
    log, before = stopped / "metrics.jsonl", 0
    for number in (signal.SIGTERM, signal.SIGINT):
        child = start(stopped, "unroll")
        wait_for(child, lambda n=before: log.exists() and log.read_text().count("\n") > n + 3)
        child.send_signal(number)
        assert finish(child) == 128 + number
        steps = open_run(stopped).steps()
        assert steps[-1] < STEPS
        logged = [json.loads(line)["step"] for line in log.read_text().splitlines()]
        assert logged[-1] == steps[-1]
        before = len(logged)
    assert finish(start(stopped, "unroll", pause=0.0)) == 0
    same_run(never_stopped("unroll"), stopped)
