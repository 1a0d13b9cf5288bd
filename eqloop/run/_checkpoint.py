"""One checkpoint: raw arrays under readable names, in a safetensors file.

The JSON header of the file names every array by its path in the state (`model.prelude.weight`),
with dtype and shape; its `__metadata__` holds the format version, the step, the whole `spec.toml`
and a SHA-256 over all of it and the arrays. Nothing in it can run code: the state is rebuilt from
the spec, and the file only fills in arrays whose path, shape and dtype it must match.
"""

import dataclasses
import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import safetensors
import safetensors.numpy

from .._arrays import is_array, named_arrays
from .._errors import InputError
from .._files import write_atomic
from .._tables import parse_json
from ._layout import read_metadata

T = TypeVar("T")

FORMAT = "1"
_DTYPES = {"float32": "F32", "float64": "F64", "int32": "I32", "uint32": "U32", "bool": "BOOL"}


@dataclasses.dataclass(frozen=True)
class Header:
    """What a checkpoint says about itself.

    `spec` is the text of `spec.toml`; `notes` whatever else the training loop must know to go on
    (which step was best on validation, and how good it was).
    """

    step: int
    spec: str
    notes: Mapping[str, Any]


def _digest(metadata: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over everything a checkpoint says except this digest itself."""
    sha = hashlib.sha256()
    told = {name: metadata[name] for name in sorted(metadata) if name != "sha256"}
    sha.update(json.dumps(told).encode())
    for name in sorted(arrays):
        array = arrays[name]
        sha.update(json.dumps([name, str(array.dtype), list(array.shape)]).encode())
        sha.update(_bytes(array))
    return sha.hexdigest()


def _bytes(array: np.ndarray) -> memoryview:
    """The memory of a contiguous array, as it lies there."""
    return array.reshape(-1).view(np.uint8).data


def save(path: Path, state: Any, header: Header) -> None:
    """Write the arrays of `state` and `header` to `path`, atomically.

    The same state gives the same bytes: safetensors' own writer orders the metadata at random,
    so the few lines of the format are written out here.
    """
    arrays = {
        name: np.ascontiguousarray(jax.device_get(leaf)).reshape(leaf.shape)
        for name, leaf in named_arrays(state).items()
    }
    metadata = {
        "format": FORMAT,
        "step": str(header.step),
        "notes": json.dumps(dict(header.notes), sort_keys=True),
        "spec": header.spec,
    }
    metadata["sha256"] = _digest(metadata, arrays)
    write_atomic(path, _serialise(metadata, arrays))


def _serialise(
    metadata: Mapping[str, str], arrays: Mapping[str, np.ndarray]
) -> Iterator[bytes | memoryview]:
    """The safetensors format: length of the header, JSON header, arrays one after the other."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": _DTYPES[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [start, start + array.nbytes],
        }
        start += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the arrays begin at a multiple of 8 bytes
    yield struct.pack("<Q", len(text)) + text
    for array in arrays.values():
        yield _bytes(array)


def load_header(path: Path) -> Header:
    """What a checkpoint says about itself, without reading its arrays."""
    return _parse(path, read_metadata(path))


def _parse(path: Path, metadata: Mapping[str, str]) -> Header:
    written = metadata.get("format")
    if written != FORMAT:
        raise InputError(
            f"{path} has checkpoint format {written!r}; this eqloop reads format {FORMAT!r}"
        )
    try:
        return Header(
            step=int(metadata["step"]),
            spec=metadata["spec"],
            notes=parse_json(metadata["notes"]),
        )
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} has a damaged header ({error!r})") from None


def load(path: Path, skeleton: T, *, part: bool = False) -> tuple[T, Header]:
    """The state in `path`, on the device.

    **Arguments:**

    - `skeleton`: what the state must look like: the same pytree with a `jax.ShapeDtypeStruct`
      (or an array) for each array.
    - `part`: whether the file may hold more arrays than `skeleton`.

    **Raises** `InputError` where the file is truncated or altered, is of another version, or
    holds other arrays than `skeleton`: one line that names the first difference.
    """
    metadata = read_metadata(path)
    header = _parse(path, metadata)
    try:
        arrays = safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a whole checkpoint ({_first_line(error)})") from None
    if metadata.get("sha256") != _digest(metadata, arrays):
        raise InputError(f"{path} is damaged or was altered: its SHA-256 does not fit its content")
    wanted = named_arrays(skeleton)
    if part:
        arrays = {name: arrays[name] for name in arrays.keys() & wanted.keys()}
    _compare(path, arrays, wanted)

    def fill(place: Any, leaf: Any) -> Any:
        if not is_array(leaf):
            return leaf
        # A copy: the training step reuses the memory of the state it is given.
        return jnp.array(arrays[jtu.keystr(place, simple=True, separator=".")], copy=True)

    return jtu.tree_map_with_path(fill, skeleton), header


def _compare(path: Path, arrays: Mapping[str, np.ndarray], wanted: Mapping[str, Any]) -> None:
    for kind, names in (
        ("lacks the array", wanted.keys() - arrays.keys()),
        ("holds the unknown array", arrays.keys() - wanted.keys()),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(f"{path} {kind} {min(names)}{more}: it belongs to another model")
    for name, leaf in wanted.items():
        found = arrays[name]
        if found.shape != tuple(leaf.shape) or found.dtype != np.dtype(leaf.dtype):
            raise InputError(
                f"{path}: {name} is {found.dtype} {list(found.shape)} where the spec makes it "
                f"{np.dtype(leaf.dtype)} {list(leaf.shape)}"
            )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
