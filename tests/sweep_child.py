"""A real process of a sweep: `python sweep_child.py SWEEP JOBS`, or `... SWEEP worker`.

With JOBS it starts that many of itself as workers and waits for them, as `eqloop sweep` does. Steps
are slowed down, so that a signal from outside finds them at work.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from eqloop.sweep import open_sweep, run_local, work
from eqloop.tasks import make_task
from eqloop.train import _step

PAUSE = 0.02


def slow_steps() -> None:
    order = _step.Order.__call__

    def slow(self, step):
        time.sleep(PAUSE)
        return order(self, step)

    _step.Order.__call__ = slow


def stop_when_alone() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def main(path: Path, how: str) -> int:
    sweep = open_sweep(path, make_task=make_task)
    if how != "worker":
        command = [sys.executable, __file__, str(path), "worker"]
        return 0 if run_local(sweep, command, int(how), watch=lambda: None) else 1
    threading.Thread(target=stop_when_alone, daemon=True).start()
    slow_steps()
    work(sweep, make_task=make_task)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
