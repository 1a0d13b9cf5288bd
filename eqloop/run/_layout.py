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

SPEC, MANIFEST, METRICS, CHECKPOINTS, BEST = (
    "spec.toml",
    "data.json",
    "metrics.jsonl",
    "checkpoints",
    "best.json",
)


@dataclasses.dataclass(frozen=True)
class Best:
    """`checkpoints/best.json`, which the notes of each checkpoint hold, too. The fields are in the
    order of the file.

    **Attributes:**

    - `cells`, `exact`: the best validation scores: the share of the cells that are right, and of
        the examples that are solved whole.
    - `step`: the optimiser step that has them.
    """

    cells: float
    exact: float
    step: int


def checkpoint_path(run: Path, step: int) -> Path:
    """The path of the checkpoint of a step."""
    return run / CHECKPOINTS / f"step-{step:08d}.safetensors"


def checkpoint_steps(run: Path) -> list[int]:
    """The steps that have a checkpoint, in order."""
    names = (file.name for file in (run / CHECKPOINTS).glob("step-*.safetensors"))
    matches = (re.fullmatch(r"step-([0-9]{8,})\.safetensors", name) for name in names)
    return sorted(int(match[1]) for match in matches if match)


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a checkpoint without its arrays. **Raises** `InputError` if the file is
    not a checkpoint."""
    return _look_into(path, lambda file: file.metadata() or {})


def parts_of(path: Path) -> set[str]:
    """Read which parts of the state a checkpoint holds: `model`, `optimiser`, ... **Raises**
    `InputError` if the file is not a checkpoint."""
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
    """The best validation in the notes of a checkpoint. **Raises** `KeyError` or `ValueError` if
    they do not have it."""
    best = notes["best"]
    return None if best is None else from_table(Best, best)


def notes_of_best(best: Best | None) -> dict[str, Any]:
    """The notes of a checkpoint."""
    return {"best": None if best is None else to_table(best)}


def _in_words(best: Best | None) -> str:
    if best is None:
        return "that nothing was best yet"
    return f"that step {best.step} is best (cells {best.cells}, exact {best.exact})"
