"""One progress bar for several measurements."""

import threading
from collections.abc import Callable, Mapping

from .._task import Progress as PartProgress

Progress = Callable[[str, int, int | None], None]


class SharedProgress:
    """Adds up the work of several parts, which may run in different threads.

    **Arguments:**

    - `plan`: name of a part -> its work, in evaluations of the loop.
    - `progress`: called with the name of the part that reports, the work done in all parts, and
        the work of all parts; or None.
    """

    def __init__(self, plan: Mapping[str, int], progress: Progress | None):
        self._plan = plan
        self._done = dict.fromkeys(plan, 0)
        self._progress = progress
        self._stopped = threading.Event()

    def part(self, name: str) -> PartProgress:
        """The callback of one part: it takes the done and the total work, both in any unit."""

        def report(done: int, total: int | None) -> None:
            if self._stopped.is_set():
                raise InterruptedError(f"{name}: stopped")
            self._done[name] = self._plan[name] * done // max(1, total or 1)
            if self._progress is not None:
                self._progress(name, sum(self._done.values()), sum(self._plan.values()))

        return report

    def stages(self, name: str, plan: Mapping[str, int]) -> Callable[[str], None]:
        """The callback of a part that consists of the stages of `plan`: it takes the name of a
        stage that is done."""
        report, done = self.part(name), set()

        def tick(stage: str) -> None:
            done.add(stage)
            report(sum(plan[stage] for stage in done), sum(plan.values()))

        return tick

    def stop(self) -> None:
        """Make every part raise `InterruptedError` when it next reports."""
        self._stopped.set()
