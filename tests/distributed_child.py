"""What a real process does that trains on its devices, alone or as one of several.

`main(run, pause, [address, processes, number])` begins a run or goes on with it. Each step is
slowed down by `pause` seconds.
"""

import signal
import sys
from pathlib import Path

from compiled_programs import write_whole_programs
from tiny_task import make_task, slow_steps, tiny_spec

from eqloop.run import Spec
from eqloop.train import (
    LostProcess,
    broadcast_json,
    exit_now,
    is_main_process,
    join_processes,
    shutdown,
    train,
)

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
    write_whole_programs()
    slow_steps(pause)
    if processes:
        address, count, number = processes
        join_processes(address, int(count), int(number))
    begun = broadcast_json(lambda: (path / "spec.toml").exists())
    # The others are told the wrong path: they must not need it.
    where = path if is_main_process() else path.with_name("nowhere")
    spec = make_spec()
    try:
        outcome = train(spec, make_task("tiny", spec.task_fields), where, resume=begun)
    except LostProcess as error:
        print(f"error: {error}", file=sys.stderr)
        exit_now(1)
    shutdown()
    return 0 if outcome.status == "finished" else 128 + (outcome.signal or signal.SIGTERM)
