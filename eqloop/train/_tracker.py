"""Trackers of metrics besides `metrics.jsonl`: none, TensorBoard, Trackio or Weights & Biases."""

import abc
import contextlib
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path

from .._errors import InputError
from ..run import Spec


class AbstractTracker(abc.ABC):
    """The whole interface; a new tracker is a class with these two methods."""

    @abc.abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars of one step, by name (`train/loss`, `validation/exact`)."""

    @abc.abstractmethod
    def close(self) -> None:
        """Flush and close; do not log afterwards."""


class NoTracker(AbstractTracker):
    def log(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


class TensorBoard(AbstractTracker):
    """Event files in `RUN/tensorboard`; see them with `tensorboard --logdir RUN`."""

    def __init__(self, path: Path, start: int):
        from tensorboardX import SummaryWriter

        # Remove what a killed run logged after its last checkpoint.
        self.writer = SummaryWriter(str(path / "tensorboard"), purge_step=start + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class Trackio(AbstractTracker):
    """A run in the project `eqloop` on this machine, without an account; `trackio show` shows it.

    A run that is resumed goes on there, too; what a killed run logged after its last checkpoint is
    there twice.
    """

    def __init__(self, path: Path, spec: Spec, start: int):
        import trackio  # pyright: ignore[reportMissingImports] (an extra)

        self.trackio = trackio
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for the answer of a command
            trackio.init(
                project="eqloop",
                name=path.name,
                config=spec.tables(),
                resume="allow" if start else "never",
                embed=False,
            )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.trackio.log(dict(values), step=step)

    def close(self) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            self.trackio.finish()


class WeightsAndBiases(AbstractTracker):
    """A run in the project `eqloop`; without an account set `WANDB_MODE=offline`."""

    def __init__(self, path: Path, spec: Spec):
        import wandb  # pyright: ignore[reportMissingImports] (an extra)

        self.run = wandb.init(
            project="eqloop",
            name=path.name,
            dir=str(path),
            config=spec.tables(),
            resume="allow",
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()


PACKAGES = {"tensorboard": "tensorboardX", "trackio": "trackio", "wandb": "wandb"}


def require_tracker(spec: Spec) -> None:
    """**Raises** `InputError` where the package of the tracker is not installed: to be called
    before a run begins."""
    package = PACKAGES.get(spec.train.tracker)
    if package is None:
        return
    try:
        importlib.import_module(package)
    except ImportError:
        raise InputError(
            f"train.tracker = {spec.train.tracker!r} needs a package: pip install {package}"
        ) from None


def make_tracker(spec: Spec, path: Path, start: int) -> AbstractTracker:
    """The tracker that the spec names, for a run that starts at step `start`."""
    if spec.train.tracker == "tensorboard":
        return TensorBoard(path, start)
    if spec.train.tracker == "trackio":
        return Trackio(path, spec, start)
    if spec.train.tracker == "wandb":
        return WeightsAndBiases(path, spec)
    return NoTracker()
