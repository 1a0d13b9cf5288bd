"""What the files of a run folder say, for whoever reads one without training: no JAX in here."""

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors

from .._errors import InputError
from .._files import open_regular, read_bytes
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

LENGTHENED, STARTED_FROM = "lengthened", "started_from"
"""Keys of data.json that the run itself adds: the numbers of steps that it had before it was
lengthened, and the checkpoint that its first weights are from."""


def checkpoint_path(run: Path, step: int) -> Path:
    return run / CHECKPOINTS / f"step-{step:08d}.safetensors"


def checkpoint_steps(run: Path) -> list[int]:
    """The steps that there are checkpoints of, in order."""
    names = (each.name for each in (run / CHECKPOINTS).glob("step-*.safetensors"))
    matches = (re.fullmatch(r"step-([0-9]{8,})\.safetensors", name) for name in names)
    return sorted(int(match[1]) for match in matches if match)


def read_metadata(path: Path) -> dict[str, str]:
    """What a checkpoint says of itself, without reading its arrays. **Raises** `InputError` where
    it is none."""
    return _look_into(path, lambda file: file.metadata() or {})


def parts_of(path: Path) -> set[str]:
    """The parts of the state that a checkpoint holds: `model`, `optimiser`, ... **Raises**
    `InputError` where it is none."""
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


def read_best(run: Path) -> dict[str, Any] | None:
    """The step that was best on validation and its scores; None before the first validation.

    `best.json` says it, and so does the last checkpoint, whose word counts: where the two differ
    that is logged as a warning. **Raises** `InputError` for a damaged `best.json`.
    """
    path = run / CHECKPOINTS / BEST
    try:
        said = parse_json(read_bytes(path))
        if type(said.get("step")) is not int:
            raise ValueError
    except FileNotFoundError:
        said = None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; delete it") from None
    except ValueError:
        raise InputError(f"{path} is damaged: delete it, or name a step") from None
    steps = checkpoint_steps(run)
    if not steps or (said is not None and said["step"] not in steps):
        return said
    try:
        known = parse_json(read_metadata(checkpoint_path(run, steps[-1]))["notes"])["best"]
    except (InputError, ValueError, KeyError):
        return said  # whoever loads that checkpoint hears of it
    if not (known is None or (isinstance(known, dict) and type(known.get("step")) is int)):
        return said
    if said is not None and said != known:
        _LOG.warning(
            "%s says %s, but the last checkpoint, of step %d, says %s: the checkpoint counts",
            path,
            _in_words(said),
            steps[-1],
            _in_words(known),
        )
    return known


def _in_words(best: Mapping[str, Any] | None) -> str:
    if best is None:
        return "that nothing was best yet"
    scores = ", ".join(f"{name} {best[name]}" for name in sorted(best.keys() - {"step"}))
    return f"that step {best['step']} is best ({scores})"
