"""A run is a folder: its spec, its data, its log and its checkpoints."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from .._errors import InputError
from .._files import TEMPORARY, Held, exclusive, remove_leftovers, write_atomic
from .._tables import format_json, read_json, write_json
from ._layout import (
    BEST,
    CHECKPOINTS,
    LENGTHENED,
    MANIFEST,
    METRICS,
    SPEC,
    STARTED_FROM,
    checkpoint_path,
    checkpoint_steps,
    read_best,
)
from ._spec import Spec

if TYPE_CHECKING:
    from ._checkpoint import Header

T = TypeVar("T")

LOCK = "lock"
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
    lock                                   held by the process that trains it, else absent
    ```
    """

    path: Path
    spec: Spec
    manifest: Mapping[str, Any]

    @property
    def metrics(self) -> Path:
        return self.path / METRICS

    def checkpoint(self, step: int) -> Path:
        return checkpoint_path(self.path, step)

    def steps(self) -> list[int]:
        """The steps that there are checkpoints of, in order."""
        return checkpoint_steps(self.path)

    def best(self) -> int | None:
        """The step that was best on validation, or None before the first validation."""
        best = read_best(self.path)
        return None if best is None else best["step"]

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

    def load(self, which: Which, like: T, *, part: bool = False) -> tuple[T, "Header"]:
        """The arrays of a checkpoint in the structure of `like`, and what it says of itself.

        **Arguments:**

        - `which`: see `find`.
        - `like`: a pytree with an array, or a `jax.ShapeDtypeStruct`, for each array to read.
        - `part`: whether the checkpoint may hold more arrays than `like`.

        **Raises** `InputError` for a checkpoint that is damaged or not of this run, and names the
        checkpoint before it.
        """
        from ._checkpoint import load, load_header  # JAX, which the rest of a folder does not need

        step = self.find(which)
        path = self.checkpoint(step)
        try:
            # The header first: the spec decides what the arrays must look like.
            header = load_header(path)
            if header.step != step:
                raise InputError(
                    f"{path} is of step {header.step}, which is not what its name says"
                )
            stored = Spec.from_text(header.spec, str(path))
            if not (changed := self.differences(stored)):
                return load(path, like, part=part)
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

    def differences(self, stored: Spec) -> list[str]:
        """In what the spec of a checkpoint differs from that of the run. Where the data lies does
        not count, nor a number of steps that the run had before it was lengthened."""
        train = stored.train
        if train.steps in self.manifest.get(LENGTHENED, ()):
            stored = stored.with_steps(self.spec.train.steps)
        return stored.differences(self.spec, place=False)

    def lengthened(self, steps: int) -> "Run":
        """The run with `steps` optimiser steps in all; nothing is written before `describe`.
        **Raises** `InputError` for fewer steps than it has."""
        now = self.spec.train.steps
        if steps < now:
            raise InputError(
                f"--steps {steps}: {self.path} is a run of {now} steps, which cannot become fewer"
            )
        if steps == now:
            return self
        before = sorted({*self.manifest.get(LENGTHENED, ()), now})
        manifest = dict(self.manifest) | {LENGTHENED: before}
        return Run(self.path, self.spec.with_steps(steps), manifest)

    def describe(self) -> None:
        """Write `data.json`, then `spec.toml`: whenever it is cut off, the checkpoints that there
        are fit both."""
        write_json(self.path / MANIFEST, self.manifest)
        write_atomic(self.path / SPEC, [self.spec.to_toml().encode()])

    def save(self, state: Any, step: int, best: Mapping[str, Any] | None) -> None:
        """Write the checkpoint of a step, point at the best, and drop those no longer wanted.

        In this order: whenever it is cut off, the best and the last checkpoint are there whole,
        and going on from the last one does again what was left to do.
        """
        from ._checkpoint import Header, save

        notes = {"best": None if best is None else dict(best)}
        save(self.checkpoint(step), state, Header(step, self.spec.to_toml(), notes))
        self.point(best)
        self.prune(best)

    def point(self, best: Mapping[str, Any] | None) -> None:
        if best is not None:
            # Sorted, as a checkpoint has it: a run that is resumed writes the same bytes.
            text = format_json(dict(sorted(best.items())))
            write_atomic(self.path / CHECKPOINTS / BEST, [text])

    def prune(self, best: Mapping[str, Any] | None) -> None:
        """Keep the last `train.keep` checkpoints and the best one."""
        for step in self.steps()[: -self.spec.train.keep]:
            if best is None or step != best["step"]:
                self.checkpoint(step).unlink()


@contextlib.contextmanager
def owned(path: Path) -> Iterator[None]:
    """Train in the run folder `path`, which is there, for as long as the context lasts: no other
    process does. **Raises** `InputError` where one does."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive(path / LOCK))
        except Held as who:
            raise InputError(
                f"{path} is being trained by {who}: wait until it has ended, or stop it (Ctrl-C or "
                f"kill -INT), then go on with --resume {path}"
            ) from None
        except OSError as error:
            raise InputError(f"cannot write to {path}: {error.strerror}") from None
        yield


def make_folder(path: Path) -> None:
    """The folder of a new run. **Raises** `InputError` where something is in the way."""
    if (path / SPEC).exists():
        raise InputError(f"{path} is a run already: go on with --resume {path}, or choose --out")
    try:
        if path.exists():
            if not path.is_dir():
                raise InputError(f"{path} is a file: choose another --out")
            # What a run leaves that was killed while it began is not in the way.
            own = {MANIFEST, CHECKPOINTS, LOCK}
            if any(each.name not in own and each.suffix != TEMPORARY for each in path.iterdir()):
                raise InputError(f"{path} is not empty and not a run: choose another --out")
        (path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror}") from None


def make_next_folder(folder: Path, name: str) -> Path:
    """`folder/name-001`, or the first number that is not taken, made by this process alone."""
    for number in itertools.count(1):
        path = folder / f"{name}-{number:03d}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise InputError(f"cannot write to {folder}: {error.strerror}") from None
        return path
    raise AssertionError


def create_run(path: Path, spec: Spec, manifest: Mapping[str, object]) -> Run:
    """Begin a run. **Raises** `InputError` where something is in the way."""
    make_folder(path)
    try:
        remove_leftovers(path)
        Run(path, spec, manifest).describe()
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
    if not (path / MANIFEST).exists():
        raise InputError(f"{path} has no {MANIFEST}, which says what data it used")
    manifest = read_json(path / MANIFEST, "restore it, or begin a new run")
    return Run(path, spec, manifest)


def same_content(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The first part in which two manifests tell of different data, or "". Where it lies does not
    count: hashes say what it is."""
    mine, theirs = _content(one), _content(other)
    parts = sorted(mine.keys() | theirs.keys())
    return next((part for part in parts if mine.get(part) != theirs.get(part)), "")


def _content(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest without paths, and without what the run adds to it."""
    own = (LENGTHENED, STARTED_FROM)
    content = {name: value for name, value in manifest.items() if name not in own}
    for part, name in (("source", "path"), ("fields", "data"), ("code", "file")):
        if isinstance(content.get(part), Mapping):
            content[part] = {k: v for k, v in content[part].items() if k != name}
    return content
