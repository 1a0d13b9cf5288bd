"""The names of the files of a run folder, and readers that need no JAX."""

import dataclasses
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors

from .._errors import InputError
from .._files import open_regular, read_bytes
from .._schema import from_table, to_table
from .._tables import parse_json

T = TypeVar("T")

_LOG = logging.getLogger(__name__)

SPEC = "spec.toml"
"""The file of the spec in the folder of a run."""
MANIFEST = "data.json"
"""The file that says what the examples of a run were, in its folder."""
METRICS = "metrics.jsonl"
"""The log, in the folder of a run."""
CHECKPOINTS = "checkpoints"
"""The folder of the checkpoints, in the folder of a run."""
BEST = "best.json"
"""The file in `CHECKPOINTS` that names the best checkpoint on validation."""


@dataclasses.dataclass(frozen=True)
class Best:
    """`checkpoints/best.json`, which the notes of each checkpoint hold, too. The fields are in the
    order of the file.

    **Attributes:**

    - `cells`: the best validation score: the share of the cells that are right.
    - `exact`: the share of the examples that are solved whole, at the same step.
    - `step`: that optimiser step.
    """

    cells: float
    exact: float
    step: int


def checkpoint_path(run: Path, step: int) -> Path:
    """The path of the checkpoint of a step.

    **Arguments:**

    - `run`: the run folder.
    - `step`: number of optimiser steps taken.

    **Returns** the path; the file may be missing.

    ```python
    >>> import eqloop, pathlib
    >>> eqloop.run.checkpoint_path(pathlib.Path("runs/mine"), 1200).as_posix()
    'runs/mine/checkpoints/step-00001200.safetensors'

    ```
    """
    return run / CHECKPOINTS / f"step-{step:08d}.safetensors"


def checkpoint_steps(run: Path) -> list[int]:
    """The steps that have a checkpoint.

    **Arguments:**

    - `run`: the run folder.

    **Returns** the steps in ascending order; none if there is no such folder.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for step in (20, 10):
    ...         path = eqloop.run.checkpoint_path(pathlib.Path(folder), step)
    ...         path.parent.mkdir(exist_ok=True)
    ...         path.touch()
    ...     eqloop.run.checkpoint_steps(pathlib.Path(folder))
    [10, 20]

    ```
    """
    names = (file.name for file in (run / CHECKPOINTS).glob("step-*.safetensors"))
    matches = (re.fullmatch(r"step-([0-9]{8,})\.safetensors", name) for name in names)
    return sorted(int(match[1]) for match in matches if match)


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a checkpoint without its arrays. **Raises** `InputError` if the file is
    not a checkpoint."""
    return _look_into(path, lambda file: file.metadata() or {})


def parts_of(path: Path) -> set[str]:
    """Read which parts of the state a checkpoint holds.

    **Arguments:**

    - `path`: the checkpoint.

    **Returns** the names of the parts: `model`, `optimiser`, ...

    **Raises** `InputError` if the file is not a checkpoint.

    ```python
    >>> import eqloop, jax.numpy as jnp, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "weights.safetensors")
    ...     state = {"model": {"weight": jnp.ones(2)}, "step": jnp.array(3)}
    ...     eqloop.run.save_arrays(path, state, eqloop.run.Header(3, "", {}))
    ...     sorted(eqloop.run.parts_of(path))
    ['model', 'step']

    ```
    """
    return _look_into(path, lambda file: {name.partition(".")[0] for name in list(file.keys())})


def _look_into(path: Path, read: Callable[[Any], T]) -> T:
    try:
        open_regular(path).close()  # safetensors would wait for a FIFO
        with safetensors.safe_open(path, framework="numpy") as file:
            return read(file)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (safetensors.SafetensorError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"{path} is not a whole checkpoint ({why.splitlines()[0]})") from None


def read_best(run: Path) -> Best | None:
    """The best validation of a run; None before the first validation.

    Both `best.json` and the last checkpoint record it. If they differ, the checkpoint counts, and a
    warning is logged. **Raises** `InputError` for a damaged `best.json`.
    """
    path = run / CHECKPOINTS / BEST
    try:
        written = from_table(Best, parse_json(read_bytes(path)))
    except FileNotFoundError:
        written = None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; delete it") from None
    except ValueError:
        raise InputError(f"{path} is damaged: delete it, or name a step") from None
    steps = checkpoint_steps(run)
    if not steps or (written is not None and written.step not in steps):
        return written
    try:
        known = best_of_notes(parse_json(read_metadata(checkpoint_path(run, steps[-1]))["notes"]))
    except (InputError, ValueError, KeyError):
        return written  # loading that checkpoint reports the error
    if written is not None and written != known:
        _LOG.warning(
            "%s says %s, but the last checkpoint, of step %d, says %s: the checkpoint counts",
            path,
            _in_words(written),
            steps[-1],
            _in_words(known),
        )
    return known


def best_of_notes(notes: Mapping[str, Any]) -> Best | None:
    """Read the best validation from the notes of a checkpoint.

    **Arguments:**

    - `notes`: the notes of its header; see `notes_of_best`.

    **Returns** the best validation; None before the first one.

    **Raises** `KeyError` or `ValueError` if the notes do not have it.

    ```python
    >>> import eqloop
    >>> eqloop.run.best_of_notes({"best": {"cells": 0.75, "exact": 0.5, "step": 10}})
    Best(cells=0.75, exact=0.5, step=10)

    ```
    """
    best = notes["best"]
    return None if best is None else from_table(Best, best)


def notes_of_best(best: Best | None) -> dict[str, Any]:
    """Make the notes of a checkpoint.

    **Arguments:**

    - `best`: the best validation so far; None before the first one.

    **Returns** the notes, JSON-ready, for `Header`.

    ```python
    >>> import eqloop
    >>> eqloop.run.notes_of_best(eqloop.run.Best(cells=0.75, exact=0.5, step=10))
    {'best': {'cells': 0.75, 'exact': 0.5, 'step': 10}}

    ```
    """
    return {"best": None if best is None else to_table(best)}


def _in_words(best: Best | None) -> str:
    if best is None:
        return "that nothing was best yet"
    return f"that step {best.step} is best (cells {best.cells}, exact {best.exact})"
