"""The training loop: steps, log, validation and checkpoints, from wherever the run stands."""

import contextlib
import dataclasses
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from .._adjoint import AbstractGradient
from .._errors import InputError
from .._files import remove_leftovers
from .._solver import Solver
from .._tables import plain
from .._task import Dataset, Task
from ..audit import AUDITED, audit_batch, audit_line, make_auditor
from ..evaluate import Evaluation, evaluate
from ..run import (
    CHECKPOINTS,
    LENGTHENED,
    STARTED_FROM,
    AbstractLog,
    MetricsLog,
    NoLog,
    Run,
    Spec,
    Stage,
    create_run,
    make_folder,
    make_next_folder,
    open_run,
    owned,
    same_content,
    trained_iterations,
)
from ._devices import Devices
from ._display import Recent
from ._loss import AbstractLoss
from ._memory import check_memory
from ._method import Objects
from ._processes import (
    broadcast_arrays,
    broadcast_json,
    is_main_process,
    is_multiprocess,
    raise_on_all,
    report_lost_process,
)
from ._start import Start, lengthened_line, start_from
from ._state import TrainState, init_state, place, skeleton
from ._step import CARRY_METRICS, METRICS, Metrics, make_order, make_step, put
from ._tracker import AbstractTracker, NoTracker, make_tracker, require_tracker

AHEAD = 2
"""Steps that may be under way while an older one is logged: reading a metric waits for its step,
and a device that is waited for after every step is idle in between."""


class Diverged(ArithmeticError):
    """The loss or the weights are no longer finite; one line: where, what is kept, what to try."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How training ended.

    **Attributes:**

    - `status`: "finished", or "interrupted" by `signal` (its number), the state saved.
    - `step`: optimiser steps done.
    - `best`: step and scores of the best validation, if there was one.
    """

    run: Run
    status: Literal["finished", "interrupted"]
    step: int
    best: dict[str, Any] | None
    signal: int | None = None


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

    **Raises** `InputError` for data, run or checkpoint that cannot be used, for a run that another
    process is training, and where the folder can no longer be written; `Diverged` where the
    loss is no longer finite; `LostProcess` where another process no longer answers.
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
            first_state, origin = None, {}
            if start is not None:
                first = start if isinstance(start, Start) else Start(start)
                first_state, origin = start_from(first, begun)
            folder = make_next_folder(Path("runs"), task.name) if path is None else path
            make_folder(folder)
            stack.enter_context(owned(folder))
            created = create_run(folder, begun, {**data.manifest, **origin})
            if first_state is not None:
                created.save(first_state, 0, None)
            return created

        trainer = _Trainer(raise_on_all(opened), task, data, devices, console, objects)
        console.print(f"{task.name}: training in {trainer.run.path}", markup=False, soft_wrap=True)
        if left_out := _bad_rows(data):
            told = f"{left_out:,} bad rows are left out; data.json has the count"
            console.print(told, markup=False)
        with _signals() as received, report_lost_process(trainer.place):
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
    """The spec of the first process, in all; None where a process has none of its own. Where the
    data lies (`task.data`) each process says for itself. **Raises** `InputError` in all where one
    has another."""
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
    found = read.get("bad", 0) if isinstance(read, Mapping) else 0
    return found if isinstance(found, int) else 0


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


class _Trainer:
    """The state of one process that trains a run."""

    def __init__(
        self,
        run: Run,
        task: Task,
        data: Dataset,
        devices: Devices,
        console: Console,
        objects: Objects,
    ):
        self.objects = objects
        self.run, self.task, self.devices, self.console = run, task, devices, console
        self.spec = spec = run.spec
        self.data = devices.copy(put(data.splits["train"]))
        self.order = make_order(spec.train, data.splits["train"])
        self.validation = data.splits[spec.train.validation_split].take(
            slice(spec.train.validation_rows or None)
        )
        self.done = self.saved = 0
        self.state, (self.done, self.best, self.shown) = self._begin()
        self.saved = self.surely_saved = self.done
        self.pending: deque[tuple[int, Metrics, Any]] = deque()
        self.heard: int | None = None

    def _begin(self) -> tuple[TrainState, tuple[int, dict[str, Any] | None, str]]:
        """The state on all devices, the step it is of, the best so far, and the path of the run as
        the first process knows it."""
        run, state = self.run, None

        def load() -> tuple[int, dict[str, Any] | None, str]:
            nonlocal state
            remove_leftovers(run.path)
            remove_leftovers(run.path / CHECKPOINTS)
            done, best = 0, None
            if STARTED_FROM in run.manifest and not run.steps():
                raise InputError(
                    f"{run.path} was stopped before it had its first weights: delete it, and begin "
                    "it again with --from"
                )
            if run.steps():
                state, header = run.load("last", skeleton(run.spec))
                done, best = header.step, header.notes["best"]
                # A process killed between a checkpoint and what follows it left that undone.
                run.point(best)
                run.prune(best)
            return done, best, str(run.path)

        with self._writing():
            done, best, shown = broadcast_json(load)
        state = init_state(self.spec) if state is None else state
        return place(broadcast_arrays(state), self.devices), (done, best, shown)

    def place(self) -> str:
        """Where this process stands, for the line that tells of the loss of another."""
        saved = self.saved if is_main_process() else self.surely_saved
        kept = (
            f"the run is saved up to step {saved}; go on with --resume {self.shown}"
            if saved
            else "no checkpoint had been written yet"
        )
        return f"at step {self.done}: {kept}"

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Say in one line, and how to go on, that the run folder cannot be written."""
        try:
            yield
        except ConnectionError:  # of another process, not of the disk
            raise
        except OSError as error:
            kept = (
                f"the run is saved up to step {self.saved}; once it is there and has room, go on "
                f"with --resume {self.run.path}"
                if self.saved
                else "no checkpoint had been written yet"
            )
            raise InputError(
                f"cannot write to {self.run.path} at step {self.done} ({error.strerror}): {kept}"
            ) from None

    def go(self, received: "_Received") -> Outcome:
        spec, self.received = self.spec.train, received
        with self._writing():
            self.log: AbstractLog = (
                MetricsLog(self.run.metrics, self.done) if is_main_process() else NoLog()
            )
        self.tracker: AbstractTracker = (
            make_tracker(self.spec, self.run.path, self.done) if is_main_process() else NoTracker()
        )
        self.stages = deque(stage for stage in self.spec.stages if stage.end > self.done)
        self.clock = _Clock(self.done)
        if self.done:
            self.console.print(f"going on from step {self.done}", markup=False)
        before = max(self.run.manifest.get(LENGTHENED, ()), default=-1)
        if self.done <= before:
            self.console.print(
                lengthened_line(self.spec.train, before, self.done), markup=False, soft_wrap=True
            )
        try:
            with self._progress() as show:
                while self.done < spec.steps and self._stopped is None:
                    self._one_step()
                    show(self.done)
            if (stop := self._stopped) is not None and self.done < spec.steps:
                self._save()
                name = signal.Signals(stop).name
                self.console.print(
                    f"{name}: saved step {self.done}; go on with --resume {self.run.path}",
                    markup=False,
                    soft_wrap=True,
                )
                return Outcome(self.run, "interrupted", self.done, self.best, stop)
            return Outcome(self.run, "finished", self.done, self.best)
        finally:
            try:
                with self._writing():
                    self.log.close()
            finally:
                self.tracker.close()

    @property
    def _stopped(self) -> int | None:
        """The signal to stop at: of several processes, once all of them have heard of it."""
        return self.heard if is_multiprocess() else self.received.signal

    def _begin_stage(self, stage: Stage) -> None:
        objects = self.objects.in_stage(self.spec, stage.spec)
        self.step = make_step(
            stage.spec,
            self.task,
            self.devices,
            objects.method(stage.spec),
            schedule_begin=stage.schedule_begin,
        )
        self.auditor = make_auditor(stage.spec.solver, objects.gradient)
        self.recent = Recent(stage.spec.solver, stage.spec.model.crossing)
        if self.spec.phases:
            solver = stage.spec.solver
            self.console.print(
                f"steps {stage.begin + 1:,} to {stage.end:,}: solver {solver.name}, gradient "
                f"{solver.gradient}",
                markup=False,
                soft_wrap=True,
            )

    def _one_step(self) -> None:
        spec = self.spec.train
        if self.stages and self.done >= self.stages[0].begin:
            self._flush()
            self._begin_stage(self.stages.popleft())
        self.state, metrics = self.step(self.data, self.state, self.order(self.done))
        self.done += 1
        heard = self.devices.largest(self.received.signal or 0)
        self.pending.append((self.done, metrics, heard))
        self._flush(AHEAD)
        last = self.done == spec.steps
        better = False
        if self.done % spec.validate_every == 0 or last:
            self._flush()
            better = self._validate()
        if spec.audit_every and self.done % spec.audit_every == 0:
            self._flush()
            self._audit()
        if better or last or self.done % spec.checkpoint_every == 0:
            self._save()

    def _flush(self, ahead: int = 0) -> None:
        """Log the steps done, all but the newest `ahead`."""
        while len(self.pending) > ahead:
            step, metrics, heard = self.pending.popleft()
            read = jax.device_get(metrics)
            self.heard = self.heard or int(heard) or None
            if step > self.saved:  # the first process has come here past its checkpoint
                self.surely_saved = self.saved
            names = (*METRICS, *CARRY_METRICS)
            values = {name: float(read[name]) for name in names if name in read}
            if warning := self.recent.add(values):
                self.console.print(warning, markup=False, soft_wrap=True)
            timing = self.clock.lap(step, self.spec.train.batch)
            bad = next(
                (name for name in ("loss", "grad_norm") if not np.isfinite(values[name])), None
            )
            if step % self.spec.train.log_every == 0 or step == self.spec.train.steps or bad:
                epoch = (step - 1) // self.order.per_epoch
                line = {"kind": "train", "step": step, "epoch": epoch} | values | timing
                self._log(line)
                self.tracker.log(step, _under("train", values | timing))
                self.latest = values
            if bad:
                self._diverged("loss" if bad == "loss" else "gradient", step, values[bad])

    def _validate(self) -> bool:
        """Evaluate; whether this is the best so far."""
        spec = self.spec.train
        iterations = spec.validation_iterations or trained_iterations(self.spec)[1]
        measured = evaluate(
            self.devices.here(self.state.best_weights),
            self.task,
            self.validation,
            iterations=iterations,
            early_exit=iterations > 64,  # below that, compiling it costs more than it saves
            tolerance=self.spec.solver.rtol,
        )
        self.clock.skip()
        last = {name: curve[-1] for name, curve in measured.overall.scores.items()}
        better = improves(last, self.best)
        if better:
            self.best = {"step": self.done, "exact": last["exact"], "cells": last["cells"]}
        self._log(
            {
                "kind": "validation",
                "step": self.done,
                "split": spec.validation_split,
                "best": better,
                "examples": measured.overall.examples,
                "iterations": measured.iterations,
                **measured.overall.scores,
                "residual": measured.overall.residual_mean,
                "converged": measured.overall.converged,
            }
        )
        self.tracker.log(self.done, _under("validation", last))
        sentence = _sentence(self.done, measured, better)
        if told := self.recent.text():
            sentence += f"\nstep {self.done}: training, last {len(self.recent.steps)} steps: {told}"
        self.console.print(sentence, markup=False, soft_wrap=True)
        return better

    def _audit(self) -> None:
        """Compare gradients of the weights in training. Nothing that a step depends on is touched:
        no key is drawn, and the weights are only read."""
        examples = min(AUDITED, len(self.validation))
        batch = audit_batch(self.task, self.validation, examples)
        line = audit_line(self.auditor(self.devices.here(self.state.model), batch))
        self.clock.skip()
        self._log({"kind": "gradients", "step": self.done} | line)
        flat = {
            f"{name}/{of}": value
            for of, values in line.items()
            if isinstance(values, dict)
            for name, value in values.items()
            if np.isfinite(value)
        }
        self.tracker.log(self.done, _under("gradients", flat | {"share": line["share"]}))

    def _save(self) -> None:
        if self.saved == self.done:
            return
        self._flush()
        state = self.devices.here(self.state)
        for leaf in jax.tree.leaves(eqx.filter(state.model, eqx.is_inexact_array)):
            if not bool(jnp.isfinite(leaf).all()):
                self._diverged("weights", self.done, float("nan"))
        with self._writing():
            self.log.sync()
            if is_main_process():
                self.run.save(state, self.done, self.best)
        self.saved = self.done
        self.clock.skip()

    def _log(self, line: Mapping[str, Any]) -> None:
        with self._writing():
            self.log.write(line)

    def _diverged(self, what: str, step: int, value: float) -> None:
        kept = (
            f"the checkpoint of step {self.saved} is kept"
            if self.saved
            else "no checkpoint had been written yet"
        )
        raise Diverged(
            f"the {what} became {value} at step {step}; {kept}. Try a lower train.lr (now "
            f"{self.spec.train.lr:g}), a longer train.warmup, a lower train.clip, model.norm = "
            '"post", or model.precision = "float32"'
        )

    @contextlib.contextmanager
    def _progress(self) -> Iterator[Any]:
        """A bar with rate and time left where there is a terminal; validation lines elsewhere."""
        if not self.console.is_terminal:
            yield lambda step: None
            return
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}", markup=False),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as bar:
            row = bar.add_task("", total=self.spec.train.steps, completed=self.done, told="")

            def show(step: int) -> None:
                latest = getattr(self, "latest", None)
                told = "" if latest is None else f"loss {latest['loss']:.4f}"
                told += f"  {loops}" if (loops := self.recent.text()) else ""
                told += f"  {self.clock.rate:.0f} examples/s" if self.clock.rate else ""
                bar.update(row, completed=step, told=told)

            yield show


def improves(scores: Mapping[str, float], best: Mapping[str, Any] | None) -> bool:
    """Whether a validation is better than the best before it: more examples solved whole or, of
    as many, more cells right. Of equals the earlier one stays, or a run that has reached its
    ceiling would replace its best checkpoint at every validation."""
    if best is None:
        return True
    return (scores["exact"], scores["cells"]) > (best["exact"], best["cells"])


class _Clock:
    """Examples per second over the last steps, without compilation, validation, checkpoints."""

    def __init__(self, step: int):
        self.began = time.perf_counter()
        self.laps = deque([(step, self.began)], maxlen=20)
        self.first, self.rate = True, 0.0

    def lap(self, step: int, batch: int) -> dict[str, float]:
        now = time.perf_counter()
        before, then = self.laps[0]
        self.rate = (step - before) * batch / max(now - then, 1e-9)
        self.laps.append((step, now))
        if self.first:
            self.skip()
            self.first = False
        return {"examples_per_s": self.rate, "seconds": now - self.began}

    def skip(self) -> None:
        """What was done since the last lap was no training."""
        step, _ = self.laps[-1]
        self.laps.clear()
        self.laps.append((step, time.perf_counter()))


def _under(group: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{group}/{name}": value for name, value in values.items()}


def _sentence(step: int, measured: Evaluation, better: bool) -> str:
    scores = "  ".join(
        f"{name} {100 * curve[-1]:.1f} %" for name, curve in measured.overall.scores.items()
    )
    star = "  (best so far)" if better else ""
    return (
        f"step {step}: validation after {measured.iterations[-1]} iterations: {scores}  "
        f"residual {measured.overall.residual_mean[-1]:.1e}{star}"
    )


class _Received:
    signal: int | None = None


@contextlib.contextmanager
def _signals() -> Iterator[_Received]:
    """Note the first SIGINT or SIGTERM instead of dying of it; the second one acts as usual."""
    received = _Received()
    if threading.current_thread() is not threading.main_thread():
        yield received  # Python lets only the main thread handle signals
        return
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        received.signal = number
        for each, handler in before.items():
            signal.signal(each, handler)

    for each in before:
        signal.signal(each, note)
    try:
        yield received
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
