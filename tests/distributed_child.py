"""A real process that trains on the devices it is given: `python distributed_child.py RUN`."""

import sys
from pathlib import Path

from tiny_task import make_task, tiny_spec

from eqloop.train import Spec, train

STEPS = 20
SETTINGS = (
    "task.augment=true",
    f"train.steps={STEPS}",
    "train.loss=progressive",
    "train.ema=0.9",
    "train.lr=0.01",
    "train.validate_every=10",
    "train.validation_iterations=4",
    "train.checkpoint_every=4",
    "train.keep=20",
)


def make_spec(*settings: str) -> Spec:
    return tiny_spec(*SETTINGS, *settings)


def main(path: Path) -> int:
    spec = make_spec()
    outcome = train(spec, make_task("tiny", spec.task_fields), path)
    return 0 if outcome.status == "finished" else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
