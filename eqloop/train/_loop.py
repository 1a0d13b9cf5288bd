"""`train`: a run is begun or taken up, and trained from wherever it stands."""

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import jax
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
)

from .._adjoint import AbstractGradient
from .._errors import InputError
from .._solver import Solver
from .._tables import plain
from .._task import Dataset, Task
from ..run import (
    History,
    Run,
    Spec,
    create_run,
    make_folder,
    make_next_folder,
    open_run,
    owned,
    same_content,
)
from ._devices import Devices
from ._loss import AbstractLoss
from ._memory import check_memory
from ._method import Objects
from ._processes import (
    broadcast_json,
    is_main_process,
    is_multiprocess,
    raise_on_all,
    report_lost_process,
)
from ._signals import note_signals
from ._start import Start, start_from
from ._step import make_order
from ._tracker import require_tracker
from ._trainer import Outcome, Trainer


def train(
    spec: Spec | None,
    task: Task,
    path: Path | None,
    *,
    resume: bool = False,
    steps: int | None = None,
    start: Path | Start | None = None,
    console: Console | None = None,
    solver: Solver | None = None,
    gradient: AbstractGradient | None = None,
    loss: AbstractLoss | None = None,
) -> Outcome:
    """Train to the end of the spec, writing the run folder `path`.

    A run killed at any moment and resumed ends bit-identical, on the same machine, to one that
    was never stopped: the state in a checkpoint is all that the next step depends on. (On a GPU
    this takes `XLA_FLAGS=--xla_gpu_deterministic_ops=true`.) SIGINT and SIGTERM end the step
    under way, save, and return; a second signal acts at once.

    It uses all devices that there are. Where `jax.distributed` has joined several processes, each
    calls this function with the same arguments: the first one alone reads and writes `path` and
    shows progress, and a signal to any of them stops them all after the same step.

    **Arguments:**

    - `spec`: what to train; with `resume` None, or the spec of the run again.
    - `task`: as the spec says; the library cannot make it, as it knows no tasks.
    - `path`: None for the first `runs/TASK-001, ...` that is not taken; see `Outcome.run`.
    - `resume`: go on with the run in `path` from its last checkpoint instead of beginning one.
    - `steps`: with `resume`, lengthen the run to this number of optimiser steps in all. From the
        next step on the learning rate is that of the schedule over `steps`; the console says both
        rates, and `data.json` records the former number.
    - `start`: the folder of another run, whose best weights (the average, if it keeps one) are the
        first weights of the new run, or a `Start`, which says more. `data.json` records the path,
        the step and the SHA-256 of the checkpoint.
    - `console`: where progress is shown; nowhere by default.
    - `solver`, `gradient`, `loss`: objects to train by; by default those that the spec names. The
      spec of the run records their classes and shows them as text, and `resume` takes equal ones.

    **Returns** an `Outcome`.

    **Raises** `InputError` for data, run or checkpoint that cannot be used, for a run that another
    process is training, and where the folder can no longer be written; `Diverged` where the
    loss is no longer finite; `LostProcess` where another process no longer answers; `TypeError` for
    arguments that do not go together.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> make_task = eqloop.tasks.make_task
    >>> settings = ["task.length=8", "task.rows=20", "task.test_rows=4", "model.width=8"]
    >>> settings += ["model.heads=2", "solver.steps=2", "train.steps=2", "train.batch=4"]
    >>> spec = eqloop.run.resolve("prefix-sums", "quick", settings, make_task=make_task)
    >>> task = make_task(spec.task_name, spec.task_fields)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     outcome = eqloop.train.train(spec, task, pathlib.Path(folder, "mine"))
    ...     outcome.status, outcome.step, outcome.run.steps()
    ('finished', 2, [2])

    ```
    """
    if spec is None and not resume:
        raise TypeError("a new run needs a spec")
    if path is None and resume:
        raise TypeError("to resume takes a run")
    if steps is not None and not resume:
        raise TypeError("steps is for a run that is resumed: a new one has them in its spec")
    if start is not None and resume:
        raise TypeError("start is for a new run")
    objects = Objects(solver, gradient, loss)
    spec = None if spec is None else objects.recorded(spec)
    console = Console(quiet=True) if console is None or not is_main_process() else console
    with contextlib.ExitStack() as stack:

        def taken_up() -> Run | None:
            if not (resume and path is not None and is_main_process()):
                return None
            open_run(path)  # what is no run gets no lock
            stack.enter_context(owned(path))
            old = _open_old(spec, path, objects)
            return old if steps is None else old.lengthened(steps)

        old = raise_on_all(taken_up)
        own_spec = spec if spec is None or steps is None else spec.with_steps(steps)
        begun = same_spec(own_spec if old is None else old.spec)
        raise_on_all(lambda: objects.method(begun))
        raise_on_all(lambda: objects.check_starts(begun))
        # One example of each device, before the data is made; the batch once it is known to exist.
        smallest = dataclasses.replace(begun.train, batch=1)
        raise_on_all(lambda: check_memory(dataclasses.replace(begun, train=smallest)))
        data = raise_on_all(lambda: _load(task, console))
        _same_everywhere(data)
        devices = Devices(begun.train.batch)

        def opened() -> Run:
            if not is_main_process():
                return Run(path or Path(), begun, data.manifest)
            require_tracker(begun)
            if old is not None:
                _same_data(old, data)
                if steps is not None:
                    old.describe()
                return old
            _check_splits(begun, data)
            first_state, origin = None, None
            if start is not None:
                first = start if isinstance(start, Start) else Start(start)
                first_state, origin = start_from(first, begun)
            folder = make_next_folder(Path("runs"), task.name) if path is None else path
            make_folder(folder)
            stack.enter_context(owned(folder))
            manifest = History(started_from=origin).added_to(data.manifest)
            created = create_run(folder, begun, manifest)
            if first_state is not None:
                created.save(first_state, 0, None)
            return created

        trainer = Trainer(raise_on_all(opened), task, data, devices, console, objects)
        console.print(f"{task.name}: training in {trainer.run.path}", markup=False, soft_wrap=True)
        if left_out := _bad_rows(data):
            line = f"{left_out:,} bad rows are left out; data.json has the count"
            console.print(line, markup=False)
        with note_signals() as received, report_lost_process(trainer.place):
            return trainer.go(received)


def _open_old(spec: Spec | None, path: Path, objects: Objects) -> Run:
    old = open_run(path)
    objects.check(old.spec, path)
    if spec is not None and (changed := old.spec.differences(spec, place=False)):
        raise InputError(
            f"{path} was begun with another spec ({'; '.join(changed[:3])}): resume it as it "
            "was, or begin a new run with --out"
        )
    return old


def same_spec(spec: Spec | None) -> Spec:
    """The spec of the first process, in all processes.

    Each process has its own place of the data, `task.data`.

    **Arguments:**

    - `spec`: the spec of this process; None if it has none of its own.

    **Returns** `spec`, or that of the first process if it is None.

    **Raises** `InputError` in all processes if one of them has another spec.

    ```python
    >>> import eqloop
    >>> spec = eqloop.run.Spec({"name": "prefix-sums"})
    >>> eqloop.train.same_spec(spec) is spec  # a process alone
    True

    ```
    """
    if spec is not None and not is_multiprocess():
        return spec
    text = broadcast_json(lambda: "" if spec is None else spec.to_toml())
    theirs = Spec.from_text(text, "the spec of process 0")

    def compare() -> None:
        if spec is not None and (changed := theirs.differences(spec, place=False)):
            raise InputError(
                f"it was started with another spec than the first ({'; '.join(changed[:3])}): "
                "give every process the same options"
            )

    raise_on_all(compare)
    return theirs if spec is None else spec


def _same_everywhere(data: Dataset) -> None:
    mine = plain(data.manifest)
    first_one = broadcast_json(lambda: mine)

    def compare() -> None:
        if part := same_content(first_one, mine):
            raise InputError(
                f"its data differs from that of the first process ({part!r} in its manifest): give "
                "every process a copy of the same file"
            )

    raise_on_all(compare)


def _load(task: Task, console: Console) -> Dataset:
    columns = (TextColumn("reading the data"), BarColumn(), TaskProgressColumn())
    shown = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        row = bar.add_task("", total=None)
        return task.load(progress=lambda done, total: bar.update(row, completed=done, total=total))


def _bad_rows(data: Dataset) -> int:
    """How many rows the task could not use, where its manifest says so."""
    read = data.manifest.get("read")
    count = read.get("bad", 0) if isinstance(read, Mapping) else 0
    return count if isinstance(count, int) else 0


def _check_splits(spec: Spec, data: Dataset) -> None:
    make_order(spec.train, data.splits["train"])
    wanted = spec.train.validation_split
    if wanted not in data.splits:
        known = ", ".join(name for name in data.splits if name.startswith("validation"))
        raise InputError(f"train.validation_split = {wanted!r}: the task has {known}")
    check_memory(spec, jax.device_count())


def _same_data(run: Run, data: Dataset) -> None:
    """What is loaded now must be what the run began with: rows and hashes of every split."""
    if part := same_content(run.manifest, plain(data.manifest)):
        raise InputError(
            f"the data has changed since {run.path} began ({part!r} in its data.json differs): "
            "restore it, or begin a new run with --out"
        )
