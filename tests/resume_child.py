"""The child process of the resume tests: `main(run, solver, pause)` begins a run or resumes it. It
writes every checkpoint in small pieces with pauses in between, so that a signal can arrive in the
middle of a write, and it slows each step down as well."""

import signal
import time
from pathlib import Path

from tiny_task import make_task, slow_steps, tiny_spec

from eqloop.run import Spec, _checkpoint
from eqloop.train import train

SOLVERS = {
    "unroll": ["train.loss=progressive", "train.ema=0.9"],
    "fixed-point": [
        "solver.name=fixed-point",
        "solver.gradient=implicit",
        "solver.max_steps=12",
        "train.carry_steps=5",
        "train.carry_least=2",
        "train.carry_residual=0.01",
        "train.carry_random=0.5",
    ],
}
STEPS = 40


def make_spec(solver: str) -> Spec:
    settings = [
        "task.augment=true",
        f"train.steps={STEPS}",
        "train.validate_every=10",
        "train.validation_iterations=6",
        "train.checkpoint_every=7",
        "train.keep=2",
    ]
    return tiny_spec(*settings, *SOLVERS[solver])


def slow_writes(pause: float) -> None:
    fast = _checkpoint.write_atomic

    def slow(path, chunks):
        def pieces():
            for chunk in chunks:
                yield chunk
                time.sleep(pause)

        fast(path, pieces())

    _checkpoint.write_atomic = slow


def main(path: Path, solver: str, pause: float) -> int:
    slow_writes(pause)
    slow_steps(2 * pause)
    spec = make_spec(solver)
    task = make_task("tiny", spec.task_fields)
    has_spec = (path / "spec.toml").exists()
    outcome = train(None if has_spec else spec, task, path, resume=has_spec)
    return 0 if outcome.status == "finished" else 128 + (outcome.signal or signal.SIGTERM)
