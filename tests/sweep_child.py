"""A real process of a sweep: `python sweep_child.py SWEEP JOBS`, or `... SWEEP worker`. With JOBS
it starts that many copies of itself as workers and waits for them, as `eqloop sweep` does. Steps
are slowed down, so that a signal from outside arrives while they run."""

import sys
from pathlib import Path

from compiled_programs import share_programs
from tiny_task import slow_steps

from eqloop.sweep import open_sweep, run_local, stop_with_parent, work
from eqloop.tasks import make_task

PAUSE = 0.02


def main(path: Path, how: str) -> int:
    sweep = open_sweep(path, make_task=make_task)
    if how != "worker":
        command = [sys.executable, __file__, str(path), "worker"]
        return 0 if run_local(sweep, command, int(how), watch=lambda: None) else 1
    stop_with_parent()
    slow_steps(PAUSE)
    work(sweep, make_task=make_task)
    return 0


if __name__ == "__main__":
    share_programs()
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
