"""A checkpoint: named raw arrays in a safetensors file.

The JSON header of the file names every array by its path in the state (`model.prelude.weight`),
with dtype and shape. Its `__metadata__` contains the format version, the step, the text of
`spec.toml`, and a SHA-256 of all of this and the arrays. Nothing in the file can run code: the
state is built from the spec, and the file fills in arrays of matching path, shape and dtype.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
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
from .._safetensors import raw_bytes, serialise
from .._tables import parse_json
from ._layout import read_metadata

T = TypeVar("T")

FORMAT = "1"


@dataclasses.dataclass(frozen=True)
class Header:
    """The metadata of a checkpoint.

    **Attributes:**

    - `step`: number of optimiser steps taken.
    - `spec`: the text of `spec.toml`.
    - `notes`: what the training loop needs to continue: the step with the best validation scores,
        and these scores.

    ```python
    >>> import eqloop
    >>> header = eqloop.run.Header(step=900, spec="", notes={"best": {"step": 600}})
    >>> header.notes["best"]["step"]
    600

    ```
    """

    step: int
    spec: str
    notes: Mapping[str, Any]


def _digest(metadata: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the metadata, without the digest itself, and of the arrays."""
    sha = hashlib.sha256()
    rest = {name: metadata[name] for name in sorted(metadata) if name != "sha256"}
    sha.update(json.dumps(rest).encode())
    for name in sorted(arrays):
        array = arrays[name]
        sha.update(json.dumps([name, str(array.dtype), list(array.shape)]).encode())
        sha.update(raw_bytes(array))
    return sha.hexdigest()


def save(path: Path, state: Any, header: Header) -> None:
    """Write arrays and a header to a checkpoint, atomically.

    Equal states give equal bytes.

    **Arguments:**

    - `path`: the file; it replaces an older one.
    - `state`: a pytree of arrays: floats of 16 to 64 bits, bfloat16 included, integers or bool.
    - `header`: the metadata.

    **Raises** `OSError` if the file cannot be written, and `InputError` for an array of another
    dtype.

    ```python
    >>> import eqloop, jax.numpy as jnp, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "weights.safetensors")
    ...     eqloop.run.save_arrays(path, {"weight": jnp.ones(2)}, eqloop.run.Header(3, "", {}))
    ...     weights, header = eqloop.run.load_arrays(path, {"weight": jnp.zeros(2)})
    >>> weights["weight"].tolist(), header.step
    ([1.0, 1.0], 3)

    ```
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
    write_atomic(path, serialise(arrays, metadata))


def load_header(path: Path) -> Header:
    """Read the metadata of a checkpoint, without its arrays.

    **Arguments:**

    - `path`: the file.

    **Returns** the header.

    **Raises** `InputError` if the file is no checkpoint, is damaged, or has another format version.

    ```python
    >>> import eqloop, jax.numpy as jnp, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "weights.safetensors")
    ...     eqloop.run.save_arrays(path, {"weight": jnp.ones(2)}, eqloop.run.Header(3, "", {}))
    ...     eqloop.run.load_header(path).step
    3

    ```
    """
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
    """Read a checkpoint.

    **Arguments:**

    - `path`: the file.
    - `skeleton`: the state, with a `jax.ShapeDtypeStruct` or an array in place of every array.
    - `part`: whether the file may contain more arrays than `skeleton`.

    **Returns** the state with the arrays of the file, on the device, and the header.

    **Raises** `InputError` if the file is truncated or altered, has another format version, or
    contains other arrays than `skeleton`; the message names the first difference.

    ```python
    >>> import eqloop, jax.numpy as jnp, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "weights.safetensors")
    ...     state = {"weight": jnp.ones(2), "bias": jnp.zeros(1)}
    ...     eqloop.run.save_arrays(path, state, eqloop.run.Header(3, "", {}))
    ...     part, _ = eqloop.run.load_arrays(path, {"bias": jnp.ones(1)}, part=True)
    >>> part["bias"].tolist()
    [0.0]

    ```
    """
    metadata = read_metadata(path)
    header = _parse(path, metadata)
    try:
        arrays = safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a whole checkpoint ({_first_line(error)})") from None
    if metadata.get("sha256") != _digest(metadata, arrays):
        raise InputError(f"{path} is damaged or was altered: its SHA-256 does not fit its content")
    expected = named_arrays(skeleton)
    if part:
        arrays = {name: arrays[name] for name in arrays.keys() & expected.keys()}
    _compare(path, arrays, expected)

    def fill(place: Any, leaf: Any) -> Any:
        if not is_array(leaf):
            return leaf
        # Copy the array: the training step reuses the memory of its arguments.
        return jnp.array(arrays[jtu.keystr(place, simple=True, separator=".")], copy=True)

    return jtu.tree_map_with_path(fill, skeleton), header


def _compare(path: Path, arrays: Mapping[str, np.ndarray], expected: Mapping[str, Any]) -> None:
    for kind, names in (
        ("lacks the array", expected.keys() - arrays.keys()),
        ("holds the unknown array", arrays.keys() - expected.keys()),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(f"{path} {kind} {min(names)}{more}: it belongs to another model")
    for name, leaf in expected.items():
        array = arrays[name]
        if array.shape != tuple(leaf.shape) or array.dtype != np.dtype(leaf.dtype):
            raise InputError(
                f"{path}: {name} is {array.dtype} {list(array.shape)} where the spec makes it "
                f"{np.dtype(leaf.dtype)} {list(leaf.shape)}"
            )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
