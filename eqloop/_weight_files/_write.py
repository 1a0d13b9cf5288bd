"""A folder of weights that any program can read: safetensors, and the configuration beside it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .._errors import InputError
from .._files import write_atomic
from .._safetensors import serialise
from ._config import CONFIG

WEIGHTS = "weights.safetensors"


def check_new(folder: Path) -> None:
    """**Raises** `InputError` if `write_weights` would refuse the folder: it exists and is not
    empty, or is no folder."""
    try:
        if folder.exists() and any(folder.iterdir()):
            raise InputError(f"--weights {folder}: is not empty; choose another folder")
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror}") from None


def write_weights(
    folder: Path, arrays: Mapping[str, np.ndarray], fields: Mapping[str, Any]
) -> None:
    """Write `arrays` and the `fields` of a model into a new folder, as `read_weights` and
    `read_config` read them. The configuration comes first: a folder with weights is whole.

    **Raises** `InputError` as `check_new`, if it cannot be written, and for an array of a dtype
    that safetensors does not have.
    """
    chunks = serialise(arrays)
    check_new(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Text in JSON is text in YAML, too.
        write_atomic(folder / CONFIG, [json.dumps({"arch": fields}, indent=1).encode() + b"\n"])
        write_atomic(folder / WEIGHTS, chunks)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror}") from None
