"""A run folder: spec, manifest of the data, log and checkpoints."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

from .._errors import InputError
from .._files import TEMPORARY, Held, exclusive, is_held, remove_leftovers, write_atomic
from .._schema import to_table
from .._tables import format_json, read_json, write_json
from ._history import OWN_KEYS, History
from ._layout import (
    BEST,
    CHECKPOINTS,
    MANIFEST,
    METRICS,
    SPEC,
    Best,
    checkpoint_path,
    checkpoint_steps,
    notes_of_best,
    read_best,
)
from ._record import understood
from ._spec import Spec

if TYPE_CHECKING:
    from ._checkpoint import Header

T = TypeVar("T")

LOCK = "lock"
Which = Literal["best", "last"] | int
"""A checkpoint: the best one on validation, the last one, or the one after this step."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder; see `create_run` and `open_run`.

    ```
    spec.toml                              the settings that determine the result
    data.json                              the source of the data, with hashes
    metrics.jsonl                          one line per logged step and per validation
    checkpoints/step-00001200.safetensors  the state after a step
    checkpoints/best.json                  the step with the best validation scores
    lock                                   held by the process that trains the run, else absent
    ```

    **Attributes:**

    - `path`: the folder.
    - `spec`: the content of `spec.toml`.
    - `manifest`: the content of `data.json`.

    ```python
    >>> import eqloop, jax.numpy as jnp, pathlib, tempfile
    >>> model = eqloop.run.ModelSpec(8, 2, attention="full", grid=(8,), channels=1, classes=2)
    >>> spec = eqloop.run.Spec({"name": "prefix-sums"}, model)
    >>> best = eqloop.run.Best(cells=0.75, exact=0.5, step=10)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = eqloop.run.create_run(pathlib.Path(folder, "mine"), spec, {})
    ...     for step in (10, 20):
    ...         run.save({"weights": jnp.full(2, 0.5)}, step, best)
    ...     run.steps(), run.find("best"), run.find("last")
    ([10, 20], 10, 20)

    ```
    """

    path: Path
    spec: Spec
    manifest: Mapping[str, Any]

    @property
    def history(self) -> History:
        """The part of the manifest that the run added."""
        return History.of(self.manifest)

    @property
    def metrics(self) -> Path:
        """The path of `metrics.jsonl`."""
        return self.path / METRICS

    @property
    def in_training(self) -> bool:
        """Whether a process is training it, on any machine that sees the folder."""
        return is_held(self.path / LOCK)

    def checkpoint(self, step: int) -> Path:
        """The path of the checkpoint of a step.

        **Arguments:**

        - `step`: number of optimiser steps taken.

        **Returns** the path; the file may be missing.
        """
        return checkpoint_path(self.path, step)

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in order."""
        return checkpoint_steps(self.path)

    def best(self) -> int | None:
        """The step with the best validation scores; None before the first validation."""
        best = read_best(self.path)
        return None if best is None else best.step

    def find(self, which: Which) -> int:
        """Find a checkpoint.

        **Arguments:**

        - `which`: the number of a step, "last", or "best" (the last one before the first
            validation).

        **Returns** its step.

        **Raises** `InputError` if there is no such checkpoint.
        """
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
        """Read a checkpoint.

        **Arguments:**

        - `which`: see `find`.
        - `like`: a pytree with an array or a `jax.ShapeDtypeStruct` in place of every array.
        - `part`: whether the checkpoint may contain more arrays than `like`.

        **Returns** the arrays in the structure of `like`, and the header.

        **Raises** `InputError` for a checkpoint that is damaged or belongs to another run; the
        message names the checkpoint before it.
        """
        from ._checkpoint import load, load_header  # imports JAX, which no other method needs

        step = self.find(which)
        path = self.checkpoint(step)
        try:
            # The header comes first: its spec determines the shapes of the arrays.
            header = load_header(path)
            if header.step != step:
                raise InputError(
                    f"{path} is of step {header.step}, which is not what its name says"
                )
            stored = Spec.from_text(header.spec, str(path))
            if not (changed := self.differences(stored)):
                return load(path, like, part=part)
        except InputError as error:
            before = [earlier for earlier in self.steps() if earlier < step]
            offer = f"; the checkpoint before it is of step {before[-1]}" if before else ""
            if before and step == self.steps()[-1]:
                offer += ": delete the file to go on from there"
            raise InputError(f"{error}{offer}") from None
        self.refuse(path, changed)

    def differences(self, stored: Spec) -> list[str]:
        """Compare the spec of a checkpoint with that of the run.

        The place of the data is ignored, and so is a number of steps from before the run was
        lengthened.

        **Arguments:**

        - `stored`: the spec of the checkpoint.

        **Returns** one text `group.field: here -> there` per difference.
        """
        train = stored.train
        if train.steps in self.history.lengthened:
            stored = stored.with_steps(self.spec.train.steps)
        return stored.differences(self.spec, place=False)

    def refuse(self, checkpoint: Path, changed: Sequence[str]) -> NoReturn:
        """Say that a checkpoint was trained with another spec.

        **Arguments:**

        - `checkpoint`: the path of the checkpoint.
        - `changed`: what `differences` returned for its spec.

        **Raises** `InputError` always.
        """
        raise InputError(
            f"{checkpoint} was trained with another spec than {self.path / SPEC} now holds "
            f"({'; '.join(changed[:3])}): restore that file"
        )

    def lengthened(self, steps: int) -> "Run":
        """The run with more optimiser steps; `describe` writes it.

        **Arguments:**

        - `steps`: number of optimiser steps in total.

        **Returns** the run; this one if it already has this number of steps.

        **Raises** `InputError` if the run already has more steps.
        """
        now = self.spec.train.steps
        if steps < now:
            raise InputError(
                f"--steps {steps}: {self.path} is a run of {now} steps, which cannot become fewer"
            )
        if steps == now:
            return self
        before = tuple(sorted({*self.history.lengthened, now}))
        history = dataclasses.replace(self.history, lengthened=before)
        return Run(self.path, self.spec.with_steps(steps), history.added_to(self.manifest))

    def describe(self) -> None:
        """Write `data.json`, then `spec.toml`. In this order all checkpoints fit both files, even
        if the process is killed in between."""
        write_json(self.path / MANIFEST, self.manifest)
        write_atomic(self.path / SPEC, [self.spec.to_toml().encode()])

    def save(self, state: Any, step: int, best: Best | None) -> None:
        """Write the checkpoint of a step, write `best.json`, and delete old checkpoints.

        In this order the best and the last checkpoint are always complete: if the process is
        killed in between, the resumed run does the rest.

        **Arguments:**

        - `state`: a pytree of arrays.
        - `step`: number of optimiser steps taken.
        - `best`: the best validation so far; None before the first one.

        **Raises** `OSError` if a file cannot be written.
        """
        from ._checkpoint import Header, save

        header = Header(step, self.spec.to_toml(), notes_of_best(best))
        save(self.checkpoint(step), state, header)
        self.point(best)
        self.prune(best)

    def point(self, best: Best | None) -> None:
        """Write `best.json`."""
        if best is not None:
            write_atomic(self.path / CHECKPOINTS / BEST, [format_json(to_table(best))])

    def prune(self, best: Best | None) -> None:
        """Keep the last `train.keep` checkpoints and the best one."""
        for step in self.steps()[: -self.spec.train.keep]:
            if best is None or step != best.step:
                self.checkpoint(step).unlink()


@contextlib.contextmanager
def owned(path: Path) -> Iterator[None]:
    """Hold the lock of an existing run folder, so that no other process trains in it.

    **Arguments:**

    - `path`: the run folder.

    **Returns** a context manager that holds the lock.

    **Raises** `InputError` if another process holds the lock, and if it cannot be written.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with eqloop.run.owned(pathlib.Path(folder)):
    ...         pathlib.Path(folder, "lock").exists()
    ...     pathlib.Path(folder, "lock").exists()
    True
    False

    ```
    """
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
    """Make the folder of a new run, with a folder for checkpoints.

    **Arguments:**

    - `path`: the folder; it may exist if it is empty. Missing parent folders are made.

    **Raises** `InputError` as `check_folder`, and if it cannot be written.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     eqloop.run.make_folder(pathlib.Path(folder, "mine"))
    ...     [path.name for path in pathlib.Path(folder, "mine").iterdir()]
    ['checkpoints']

    ```
    """
    check_folder(path)
    try:
        (path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror}") from None


def check_folder(path: Path) -> None:
    """Refuse a folder that no new run can have; nothing is written.

    **Arguments:**

    - `path`: the folder.

    **Raises** `InputError` if `path` is a run, a file, or a folder with other files, and if that
    cannot be seen.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     eqloop.run.check_folder(pathlib.Path(folder, "mine"))
    ...     pathlib.Path(folder, "mine").exists()
    False

    ```
    """
    try:
        if (path / SPEC).exists():
            raise InputError(
                f"{path} is a run already: go on with --resume {path}, or choose --out"
            )
        if not path.exists():
            return
        if not path.is_dir():
            raise InputError(f"{path} is a file: choose another --out")
        # A run that was killed at its beginning leaves only these files, which are overwritten.
        own = {MANIFEST, CHECKPOINTS, LOCK}
        if any(file.name not in own and file.suffix != TEMPORARY for file in path.iterdir()):
            raise InputError(f"{path} is not empty and not a run: choose another --out")
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror}") from None


def make_next_folder(folder: Path, name: str) -> Path:
    """Make `folder/name-001`, or the first number that is free; two processes never share one.

    **Arguments:**

    - `folder`: the parent folder; it is made if it is missing.
    - `name`: the first part of the name.

    **Returns** the path of the new folder.

    **Raises** `InputError` if it cannot be made.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for _ in range(2):
    ...         print(eqloop.run.make_next_folder(pathlib.Path(folder), "sudoku").name)
    sudoku-001
    sudoku-002

    ```
    """
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
    """Make a run folder with spec and manifest.

    **Arguments:**

    - `path`: the folder; see `make_folder`.
    - `spec`: the spec of the run.
    - `manifest`: the record of its data, JSON-ready; see `eqloop.tasks.Dataset`.

    **Returns** the run.

    **Raises** `InputError` as `make_folder`, and before it makes the folder if `spec` lacks the
    choices of a task (see `resolve`).

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> model = eqloop.run.ModelSpec(8, 2, attention="full", grid=(8,), channels=1, classes=2)
    >>> spec = eqloop.run.Spec({"name": "prefix-sums"}, model)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = eqloop.run.create_run(pathlib.Path(folder, "mine"), spec, {"task": "prefix-sums"})
    ...     sorted(path.name for path in run.path.iterdir())
    ['checkpoints', 'data.json', 'spec.toml']

    ```
    """
    spec.model.check_resolved()
    make_folder(path)
    try:
        remove_leftovers(path)
        Run(path, spec, manifest).describe()
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror}") from None
    return open_run(path)


def open_run(path: Path | str) -> Run:
    """Open an existing run folder.

    **Arguments:**

    - `path`: the folder.

    **Returns** the run; its checkpoints are not read.

    **Raises** `InputError` if `path` is not a run or is damaged.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> model = eqloop.run.ModelSpec(8, 2, attention="full", grid=(8,), channels=1, classes=2)
    >>> spec = eqloop.run.Spec({"name": "prefix-sums"}, model)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = eqloop.run.create_run(pathlib.Path(folder, "mine"), spec, {})
    ...     run = eqloop.run.open_run(f"{folder}/mine")
    >>> run.spec == spec, run.history.started_from is None
    (True, True)

    ```
    """
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
    again = "restore it, or begin a new run"
    manifest = read_json(path / MANIFEST, again)
    understood(path / MANIFEST, again, History.of, manifest)
    return Run(path, spec, manifest)


def same_content(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Find the first part in which two manifests describe different data.

    Paths are ignored: hashes identify the data.

    **Arguments:**

    - `one`, `other`: the contents of two `data.json`.

    **Returns** the name of the part, or "" if both describe the same data.

    ```python
    >>> import eqloop
    >>> one = {"source": {"path": "/a/bits.txt", "sha256": "1f"}, "version": 1}
    >>> other = {"source": {"path": "/b/bits.txt", "sha256": "1f"}, "version": 2}
    >>> eqloop.run.same_content(one, other)
    'version'

    ```
    """
    mine, theirs = _content(one), _content(other)
    parts = sorted(mine.keys() | theirs.keys())
    return next((part for part in parts if mine.get(part) != theirs.get(part)), "")


def _content(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest without paths, and without the keys that a run adds. Fields of the task that are
    0, false or empty are left out, for a task that gets a field has it off then: see
    `Spec.differences`."""
    content = {name: value for name, value in manifest.items() if name not in OWN_KEYS}
    for part, name in (("source", "path"), ("fields", "data"), ("code", "file")):
        if isinstance(content.get(part), Mapping):
            content[part] = {k: v for k, v in content[part].items() if k != name}
    if isinstance(content.get("fields"), Mapping):
        content["fields"] = {k: v for k, v in content["fields"].items() if v}
    return content
