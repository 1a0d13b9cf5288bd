"""A run is a folder: its spec, its data, its log and its checkpoints."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from .._errors import InputError
from .._files import TEMPORARY, remove_leftovers, write_atomic
from .._model import LoopedTransformer
from ._checkpoint import Header, load, load_header, save
from ._config import Spec
from ._state import TrainState, skeleton

SPEC, MANIFEST, METRICS, CHECKPOINTS, BEST = (
    "spec.toml",
    "data.json",
    "metrics.jsonl",
    "checkpoints",
    "best.json",
)
Which = Literal["best", "last"] | int


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder.

    ```
    spec.toml                              everything that decides what it computes
    data.json                              where its data came from, with hashes
    metrics.jsonl                          one line per logged step and per validation
    checkpoints/step-00001200.safetensors  the state after a step
    checkpoints/best.json                  the step that was best on validation
    ```
    """

    path: Path
    spec: Spec
    manifest: Mapping[str, Any]

    @property
    def metrics(self) -> Path:
        return self.path / METRICS

    def checkpoint(self, step: int) -> Path:
        return self.path / CHECKPOINTS / f"step-{step:08d}.safetensors"

    def steps(self) -> list[int]:
        """The steps that there are checkpoints of, in order."""
        names = (each.name for each in (self.path / CHECKPOINTS).glob("step-*.safetensors"))
        found = (re.fullmatch(r"step-(\d{8,})\.safetensors", name) for name in names)
        return sorted(int(match[1]) for match in found if match)

    def best(self) -> int | None:
        """The step that was best on validation, or None before the first validation."""
        path = self.path / CHECKPOINTS / BEST
        try:
            step = json.loads(path.read_text("utf-8"))["step"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path} is damaged: delete it, or name a step") from None
        if not isinstance(step, int):
            raise InputError(f"{path} is damaged: delete it, or name a step")
        return step

    def find(self, which: Which) -> int:
        """The step that `which` means: itself, "last", or "best" (the last where no validation
        has run yet). **Raises** `InputError` where there is no such checkpoint."""
        steps = self.steps()
        if not steps:
            raise InputError(f"{self.path} has no checkpoint yet: resume it, or let it run longer")
        if which == "last":
            return steps[-1]
        if which == "best":
            best = self.best()
            which = steps[-1] if best is None else best
        if which not in steps:
            raise InputError(
                f"{self.path} has no checkpoint of step {which}; there are "
                + ", ".join(map(str, steps))
            )
        return which

    def load(self, which: Which) -> tuple[TrainState, Header]:
        """The whole state of training. **Raises** `InputError` for a checkpoint that is damaged
        or not of this run, offering the one before it."""
        step = self.find(which)
        path = self.checkpoint(step)
        try:
            # The header first: the spec decides what the arrays must look like.
            stored = Spec.from_text(load_header(path).spec, str(path))
            if not (changed := stored.differences(self.spec)):
                return load(path, skeleton(self.spec))
        except InputError as error:
            before = [each for each in self.steps() if each < step]
            offer = f"; the checkpoint before it is of step {before[-1]}" if before else ""
            if before and step == self.steps()[-1]:
                offer += ": delete the file to go on from there"
            raise InputError(f"{error}{offer}") from None
        raise InputError(
            f"{path} was trained with another spec than {self.path / SPEC} now holds "
            f"({'; '.join(changed[:3])}): restore that file"
        )

    def restore(self, which: Which = "best") -> tuple[LoopedTransformer, int]:
        """The weights to evaluate (the average, where one is kept) and the step they are of."""
        state, header = self.load(which)
        return state.best_weights, header.step

    def save(self, state: TrainState, step: int, best: Mapping[str, Any] | None) -> None:
        """Write the checkpoint of a step, point at the best, and drop those no longer wanted.

        In this order: whenever it is cut off, the best and the last checkpoint are there whole,
        and going on from the last one does again what was left to do.
        """
        notes = {"best": None if best is None else dict(best)}
        save(self.checkpoint(step), state, Header(step, self.spec.to_toml(), notes))
        self.point(best)
        self.prune(best)

    def point(self, best: Mapping[str, Any] | None) -> None:
        if best is not None:
            text = json.dumps(dict(best), sort_keys=True) + "\n"
            write_atomic(self.path / CHECKPOINTS / BEST, [text.encode()])

    def prune(self, best: Mapping[str, Any] | None) -> None:
        """Keep the last `train.keep` checkpoints and the best one."""
        for step in self.steps()[: -self.spec.train.keep]:
            if best is None or step != best["step"]:
                self.checkpoint(step).unlink()


def create_run(path: Path, spec: Spec, manifest: Mapping[str, object]) -> Run:
    """Begin a run. **Raises** `InputError` where something is in the way."""
    if (path / SPEC).exists():
        raise InputError(f"{path} is a run already: go on with --resume {path}, or choose --out")
    if path.exists():
        if not path.is_dir():
            raise InputError(f"{path} is a file: choose another --out")
        # What a run leaves that was killed while it began is not in the way.
        own = {MANIFEST, CHECKPOINTS}
        if any(each.name not in own and each.suffix != TEMPORARY for each in path.iterdir()):
            raise InputError(f"{path} is not empty and not a run: choose another --out")
    try:
        (path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
        write_atomic(path / MANIFEST, [text.encode()])
        write_atomic(path / SPEC, [spec.to_toml().encode()])  # last: now it is a run
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror}") from None
    return open_run(path)


def open_run(path: Path | str) -> Run:
    """An existing run. **Raises** `InputError` where `path` is not one."""
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path} is not a run: there is no such folder")
    if not (path / SPEC).is_file():
        raise InputError(f"{path} is not a run: it has no {SPEC}")
    spec = Spec.from_toml(path / SPEC)
    if not spec.model.grid:
        raise InputError(f"{path / SPEC} does not say model.grid: it is not the spec of a run")
    try:
        manifest = json.loads((path / MANIFEST).read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} has no {MANIFEST}, which says what data it used") from None
    except ValueError as error:
        raise InputError(f"{path / MANIFEST} is not valid JSON: {error}") from None
    return Run(path, spec, manifest)
