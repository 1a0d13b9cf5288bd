"""One process that trains a run: steps, log, validation and checkpoints."""

import contextlib
import dataclasses
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import numpy as np
from rich.console import Console

from .._errors import InputError
from .._files import remove_leftovers
from .._scores import CELLS, EXACT
from .._task import Dataset, Task
from ..audit import AUDITED, audit_batch, audit_line, make_auditor
from ..evaluate import Evaluation, evaluate
from ..run import (
    CHECKPOINTS,
    AbstractLog,
    Best,
    Line,
    MetricsLog,
    NoLog,
    Run,
    Stage,
    TrainingLine,
    ValidationLine,
    best_of_notes,
    notes_of_best,
    parts_of,
    trained_iterations,
    understood,
)
from ._devices import Devices
from ._display import Clock, Recent, training_bar
from ._method import Objects
from ._processes import broadcast_arrays, broadcast_json, is_main_process, is_multiprocess
from ._signals import Received
from ._start import lengthened_line
from ._state import TrainState, init_state, place, skeleton
from ._step import CARRY_METRICS, METRICS, Q_METRICS, Metrics, make_order, make_step, put
from ._tracker import AbstractTracker, NoTracker, make_tracker

AHEAD = 2
"""Steps that may be under way while an older one is logged: reading a metric waits for its step,
and a device that is waited for after every step is idle in between."""


class Diverged(ArithmeticError):
    """The loss or the weights are no longer finite; one line: where, what is kept, what to try."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How training ended.

    **Attributes:**

    - `run`: the run.
    - `status`: "finished", or "interrupted" by a signal, with the state saved.
    - `step`: optimiser steps done.
    - `best`: step and scores of the best validation; None if there was none.
    - `signal`: the number of the signal; None if training finished.
    """

    run: Run
    status: Literal["finished", "interrupted"]
    step: int
    best: Best | None
    signal: int | None = None


@dataclasses.dataclass(frozen=True)
class Hook:
    """A periodic action of training.

    **Attributes:**

    - `every`: number of steps between two calls; 0 for never.
    - `action`: called once all steps so far are logged; returns whether the state is to be saved.
    - `at_end`: whether it is also called after the last step.
    """

    every: int
    action: Callable[[], bool]
    at_end: bool = False

    def is_due(self, step: int, steps: int) -> bool:
        """Whether the action follows the step `step` of `steps`."""
        periodic = self.every > 0 and step % self.every == 0
        return periodic or (self.at_end and step == steps)


class Trainer:
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
        self.received = Received()
        self.log: AbstractLog = NoLog()
        self.tracker: AbstractTracker = NoTracker()
        self.stages = deque(stage for stage in spec.stages if stage.end > self.done)
        self.latest: Mapping[str, float] | None = None
        self.hooks = (
            Hook(spec.train.validate_every, self._validate, at_end=True),
            Hook(spec.train.audit_every, self._audit),
            Hook(spec.train.checkpoint_every, lambda: True, at_end=True),
        )

    def _begin(self) -> tuple[TrainState, tuple[int, Best | None, str]]:
        """The state on all devices, the step it is of, the best so far, and the path of the run as
        the first process knows it."""
        run, state = self.run, None

        def load() -> tuple[int, Mapping[str, Any], str]:
            nonlocal state
            remove_leftovers(run.path)
            remove_leftovers(run.path / CHECKPOINTS)
            done, notes = 0, notes_of_best(None)
            if run.history.started_from is not None and not run.steps():
                raise InputError(
                    f"{run.path} was stopped before it had its first weights: delete it, and begin "
                    "it again with --from"
                )
            if run.steps():
                last = run.checkpoint(run.steps()[-1])
                if _is_weights_alone(last):
                    raise InputError(
                        f"{last} holds weights alone, without the state of an optimiser: begin a "
                        f"new run from them with --from {run.path}"
                    )
                state, header = run.load("last", skeleton(run.spec))
                done, notes = header.step, header.notes
                again = "delete the file to go on from the one before it"
                best = understood(run.checkpoint(done), again, best_of_notes, notes)
                # A process killed between a checkpoint and what follows it left that undone.
                run.point(best)
                run.prune(best)
            return done, notes, str(run.path)

        with self._writing():
            done, notes, shown = broadcast_json(load)
        state = init_state(self.spec) if state is None else state
        placed = place(broadcast_arrays(state), self.devices)
        return placed, (done, best_of_notes(notes), shown)

    def place(self) -> str:
        """Where this process stands, for the line that tells of the loss of another."""
        saved = self.saved if is_main_process() else self.surely_saved
        hint = (
            f"the run is saved up to step {saved}; go on with --resume {self.shown}"
            if saved
            else "no checkpoint had been written yet"
        )
        return f"at step {self.done}: {hint}"

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Say in one line, and how to go on, that the run folder cannot be written."""
        try:
            yield
        except ConnectionError:  # of another process, not of the disk
            raise
        except OSError as error:
            hint = (
                f"the run is saved up to step {self.saved}; once it is there and has room, go on "
                f"with --resume {self.run.path}"
                if self.saved
                else "no checkpoint had been written yet"
            )
            raise InputError(
                f"cannot write to {self.run.path} at step {self.done} ({error.strerror}): {hint}"
            ) from None

    def go(self, received: Received) -> Outcome:
        """Train to the end of the spec, or until a signal is `received`."""
        spec, self.received = self.spec.train, received
        if is_main_process():
            with self._writing():
                self.log = MetricsLog(self.run.metrics, self.done)
            self.tracker = make_tracker(self.spec, self.run.path, self.done)
        self.clock, self.began_at = Clock(self.done), self.done
        if self.done:
            self.console.print(f"going on from step {self.done}", markup=False)
        before = self.run.history.longest_before
        if before is not None and self.done <= before:
            self.console.print(
                lengthened_line(self.spec, before, self.done), markup=False, soft_wrap=True
            )
        try:
            with training_bar(self.console, spec.steps, self.done, self._progress) as show:
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
        save = False
        for hook in self.hooks:
            if hook.is_due(self.done, spec.steps):
                self._flush()
                save = hook.action() or save
        if save:
            self._save()

    def _flush(self, ahead: int = 0) -> None:
        """Log the steps done, all but the newest `ahead`."""
        while len(self.pending) > ahead:
            step, metrics, heard = self.pending.popleft()
            read = jax.device_get(metrics)
            self.heard = self.heard or int(heard) or None
            if step > self.saved:  # the first process has come here past its checkpoint
                self.surely_saved = self.saved
            names = (*METRICS, *CARRY_METRICS, *Q_METRICS)
            values = {name: float(read[name]) for name in names if name in read}
            if warning := self.recent.add(values):
                self.console.print(warning, markup=False, soft_wrap=True)
            timing = self.clock.lap(step, self.spec.train.batch)
            bad = next(
                (name for name in ("loss", "grad_norm") if not np.isfinite(values[name])), None
            )
            if step % self.spec.train.log_every == 0 or step == self.spec.train.steps or bad:
                epoch = (step - 1) // self.order.per_epoch
                line = TrainingLine(
                    step=step,
                    epoch=epoch,
                    metrics=values,
                    examples_per_s=timing["examples_per_s"],
                    seconds=timing["seconds"],
                    began_at=self.began_at,
                )
                self._log(line)
                self.began_at = None
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
            self.best = Best(last[CELLS], last[EXACT], self.done)
        self._log(validation_line(self.done, spec.validation_split, measured, better))
        self.tracker.log(self.done, _under("validation", last))
        sentence = _sentence(self.done, measured, better)
        if loops := self.recent.text():
            sentence += (
                f"\nstep {self.done}: training, last {len(self.recent.steps)} steps: {loops}"
            )
        self.console.print(sentence, markup=False, soft_wrap=True)
        return better

    def _audit(self) -> bool:
        """Compare gradients of the weights in training; False: nothing is to be saved. Nothing that
        a step depends on is touched: no key is drawn, and the weights are only read."""
        examples = min(AUDITED, len(self.validation))
        batch = audit_batch(self.task, self.validation, examples)
        line = audit_line(self.done, self.auditor(self.devices.here(self.state.model), batch))
        self.clock.skip()
        self._log(line)
        flat = {
            f"{name}/{measure}": value
            for measure, values in dataclasses.asdict(line).items()
            if isinstance(values, dict)
            for name, value in values.items()
            if np.isfinite(value)
        }
        self.tracker.log(self.done, _under("gradients", flat | {"share": line.share}))
        return False

    def _save(self) -> None:
        if self.saved == self.done:
            return
        self._flush()
        state = self.devices.here(self.state)
        for leaf in jax.tree.leaves(eqx.filter(state.model, eqx.is_inexact_array)):
            if not np.isfinite(leaf).all():
                self._diverged("weights", self.done, float("nan"))
        with self._writing():
            self.log.sync()
            if is_main_process():
                self.run.save(state, self.done, self.best)
        self.saved = self.done
        self.clock.skip()

    def _log(self, line: Line) -> None:
        with self._writing():
            self.log.write(line)

    def _diverged(self, what: str, step: int, value: float) -> None:
        hint = (
            f"the checkpoint of step {self.saved} is kept"
            if self.saved
            else "no checkpoint had been written yet"
        )
        raise Diverged(
            f"the {what} became {value} at step {step}; {hint}. Try a lower train.lr (now "
            f"{self.spec.train.lr:g}), a longer train.warmup, a lower train.clip, model.norm = "
            '"post", or model.precision = "float32"'
        )

    def _progress(self) -> str:
        """Loss, loops and rate of the last steps."""
        text = "" if self.latest is None else f"loss {self.latest['loss']:.4f}"
        text += f"  {loops}" if (loops := self.recent.text()) else ""
        return text + (f"  {self.clock.rate:.0f} examples/s" if self.clock.rate else "")


def improves(scores: Mapping[str, float], best: Best | None) -> bool:
    """Whether a validation is better than the best before it: more examples solved whole or, of
    as many, more cells right. Of equals the earlier one stays, or a run that has reached its
    ceiling would replace its best checkpoint at every validation."""
    if best is None:
        return True
    return (scores[EXACT], scores[CELLS]) > (best.exact, best.cells)


def validation_line(step: int, split: str, measured: Evaluation, better: bool) -> ValidationLine:
    """The line of a validation in `metrics.jsonl`.

    **Raises** `InputError` if a score of the task has the name of another quantity of the line.
    """
    curve = measured.overall
    return ValidationLine(
        step=step,
        split=split,
        best=better,
        examples=curve.examples,
        iterations=measured.iterations,
        scores=curve.scores,
        residual=curve.residual_mean,
        converged=curve.converged,
    )


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


def _is_weights_alone(checkpoint: Path) -> bool:
    try:
        return "optimiser" not in parts_of(checkpoint)
    except InputError:  # `Run.load` says what is wrong with the file, and names the one before it
        return False
