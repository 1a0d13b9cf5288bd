"""A folder of weights that any program can read: safetensors, and the configuration beside it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .._errors import InputError
from .._files import write_atomic
from ._config import CONFIG
from ._safetensors import NAMES

WEIGHTS = "weights.safetensors"


def write_weights(
    folder: Path, arrays: Mapping[str, np.ndarray], fields: Mapping[str, Any]
) -> None:
    """Write `arrays` and the `fields` of a model into a new folder, as `read_weights` and
    `read_config` read them. The configuration comes first: a folder with weights is whole.

    **Raises** `InputError` if the folder exists and is not empty, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(f"--weights {folder}: is not empty; choose another folder")
        # Text in JSON is text in YAML, too.
        write_atomic(folder / CONFIG, [json.dumps({"arch": fields}, indent=1).encode() + b"\n"])
        write_atomic(folder / WEIGHTS, _serialise(arrays))
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror}") from None


def _serialise(arrays: Mapping[str, np.ndarray]) -> Iterator[bytes | memoryview]:
    """The format of safetensors, whose own writer would make a copy of all arrays first."""
    header, start = {}, 0
    for name, array in arrays.items():
        offsets = [start, start := start + array.nbytes]
        shape = list(array.shape)
        header[name] = {"dtype": NAMES[array.dtype], "shape": shape, "data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for array in arrays.values():
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
