"""Named splits of a task: the cache on disk, the manifest, the 80/20 partition."""

import dataclasses
import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._errors import InputError
from .._files import cache_folder, open_regular, remove_leftovers, replacing
from .._plugins import origin, source_digest
from ._files import write_atomic
from ._open import explained, regular
from ._split import Dataset, Split

if TYPE_CHECKING:
    from ._base import Task

_LOG = logging.getLogger(__name__)

READER = 2
"""Part of the cache key of files. Raise it when the same bytes give other rows or splits."""

Arrays = Mapping[str, np.ndarray]


def cached(key: Mapping[str, object], build: Callable[[], Arrays]) -> dict[str, np.ndarray]:
    """The arrays from `build`, cached on disk under the SHA-256 of `key`.

    A damaged cache file is rebuilt. If the cache cannot be written, the data is used uncached.
    Both cases log a warning.

    **Arguments:**

    - `key`: JSON-ready; everything that the arrays depend on (see `key_of`). The file name begins
      with `key["task"]`.
    - `build`: called if the cache has no such file; returns name -> array, no object arrays.

    **Returns** name -> array.
    """
    text = json.dumps(key, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    folder = cache_folder()
    if folder is None:
        return dict(build())
    path = folder / "data" / f"{key.get('task', 'data')}-{digest[:32]}.npz"
    try:
        arrays = _read_sealed(path)
        if arrays.pop("_key").tobytes().decode() != text:
            raise ValueError("it belongs to another key")
        return arrays
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        _LOG.warning("cache file %s cannot be used (%s); it is rebuilt", path, why)
    arrays = dict(build())
    try:
        remove_leftovers(path.parent)
        _write_sealed(path, {"_key": np.frombuffer(text.encode(), np.uint8), **arrays})
    except (InputError, OSError) as error:
        _LOG.warning("the encoded data are not cached (%s)", error)
    return arrays


def _write_sealed(path: Path, arrays: Arrays) -> None:
    """Write an `.npz` file followed by its SHA-256; readers of zip files ignore these bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as handle:
        # The stub of NumPy mistakes the arrays for `allow_pickle`.
        np.savez(handle, **arrays)  # pyright: ignore[reportArgumentType]
        handle.seek(0)
        digest = hashlib.file_digest(handle, "sha256")  # pyright: ignore[reportArgumentType]
        handle.write(digest.hexdigest().encode())


def _read_sealed(path: Path) -> dict[str, np.ndarray]:
    """Read what `_write_sealed` wrote. The checksum is verified first, since the decoder of
    archives is not safe for damaged bytes. **Raises** `OSError`, or `ValueError` if the checksum
    does not match."""
    with open_regular(path) as handle:
        digest = hashlib.sha256()
        remaining = os.fstat(handle.fileno()).st_size - 2 * digest.digest_size
        while remaining > 0 and (chunk := handle.read(min(remaining, 1 << 20))):
            digest.update(chunk)
            remaining -= len(chunk)
        if handle.read() != digest.hexdigest().encode():
            raise ValueError("its checksum does not match its content")
        handle.seek(0)
        with np.load(handle, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}


def pack(splits: Mapping[str, Split]) -> dict[str, np.ndarray]:
    """Flatten splits to one mapping "split/field" or "split/columns/name" -> array."""
    arrays: dict[str, np.ndarray] = {}
    for name, split in splits.items():
        for field in ("inputs", "targets", "difficulty", "puzzles"):
            arrays[f"{name}/{field}"] = getattr(split, field)
        for column, values in split.columns.items():
            arrays[f"{name}/columns/{column}"] = values
    return arrays


def unpack(arrays: Arrays) -> dict[str, Split]:
    """The inverse of `pack`, with the splits in the same order."""
    fields: dict[str, dict[str, np.ndarray]] = {}
    columns: dict[str, dict[str, np.ndarray]] = {}
    for path, values in arrays.items():
        name, _, field = path.partition("/")
        fields.setdefault(name, {})
        columns.setdefault(name, {})
        if field.startswith("columns/"):
            columns[name][field.removeprefix("columns/")] = values
        else:
            fields[name][field] = values
    return {name: Split(**fields[name], columns=columns[name]) for name in fields}


def save(splits: Mapping[str, Split], path: Path | str) -> None:
    """Write splits atomically to one `.npz` file."""
    with write_atomic(path, "wb") as handle:
        np.savez(handle, **pack(splits))  # pyright: ignore[reportArgumentType]


def load(path: Path | str) -> dict[str, Split]:
    """Read what `save` wrote. **Raises** `InputError` if it cannot be read."""
    path = Path(path)
    try:
        with (
            explained(path),
            path.open("rb") as handle,
            np.load(handle, allow_pickle=False) as stored,
        ):
            return unpack({name: stored[name] for name in stored.files})
    except (ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a file of splits ({error}); make it again") from None


def describe(path: Path | str, files: Sequence[str] = ()) -> dict[str, object]:
    """Describe the source of rows for the manifest.

    **Arguments:**

    - `path`: a file or a folder.
    - `files`: for a folder, the names of the files in it that are read, in this order.

    **Returns** `path`, `size` in bytes and `sha256`, over all these files.

    **Raises** `InputError` if a file cannot be read.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "bits.txt")
    ...     _ = path.write_text("0110")
    ...     source = eqloop.tasks.describe(path)
    >>> source["size"], source["sha256"][:8]
    (4, 'a5c3dd48')

    ```
    """
    path = Path(path)
    digest, size = hashlib.sha256(), 0
    for part in [path / name for name in files] or [path]:
        regular(part)
        with explained(part), part.open("rb") as handle:
            while chunk := handle.read(1 << 20):
                digest.update(chunk)
                size += len(chunk)
    return {"path": str(path.absolute()), "size": size, "sha256": digest.hexdigest()}


def rows_hash(split: Split) -> str:
    """SHA-256 of a split: the names, dtypes, shapes and bytes of all its arrays."""
    digest = hashlib.sha256()
    for name, values in sorted(pack({"": split}).items()):
        digest.update(f"{name}{values.dtype.str}{values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def partition(rows: int, seed: int, share: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    """Divide `rows` row numbers at random into two parts.

    `RandomState` has frozen streams: the same seed gives the same parts with every version of
    NumPy.

    **Arguments:**

    - `rows`: number of rows.
    - `seed`: seed of the permutation.
    - `share`: fraction of the rows in the first part.

    **Returns** the indices of the first part and of the second, each in ascending order.

    ```python
    >>> import eqloop
    >>> train, validation = eqloop.tasks.partition(5, seed=0)
    >>> len(train), len(validation)
    (4, 1)

    ```
    """
    order = np.random.RandomState(seed).permutation(rows)
    count = round(rows * share)
    return np.sort(order[:count]), np.sort(order[count:])


def key_of(task: "Task", source: Mapping[str, object]) -> dict[str, object] | None:
    """The cache key of the data of a task: their source without its path, and the fields and code
    of the task. **Returns** None for a class without a source file, as in a notebook: whether its
    code has changed is unknown."""
    code = source_digest(type(task))
    if code is None:
        return None
    fields = dataclasses.asdict(task)
    for excluded in ("data", "augment"):
        del fields[excluded]
    content = {name: value for name, value in source.items() if name != "path"}
    key: dict[str, object] = {"task": task.name, "version": task.version}
    key |= {"fields": fields, "source": content}
    if code:
        key["code"] = code
    return key | {"reader": READER} if "path" in source else key


def manifest(
    task: "Task",
    splits: Mapping[str, Split],
    source: Mapping[str, object],
    read: Mapping[str, object],
) -> dict[str, object]:
    """The JSON-ready record of the data of a run.

    **Arguments:**

    - `task`, `splits`: the task and its named splits.
    - `source`: from `describe`, or `{"generator": ...}`.
    - `read`: counts that the task reports (rows read, bad rows, duplicates, ...).
    """
    code = origin(type(task))
    return {
        "task": task.name,
        "version": task.version,
        **({"code": dict(zip(("file", "sha256"), code, strict=True))} if code else {}),
        "fields": dataclasses.asdict(task),
        "source": dict(source),
        "read": dict(read),
        "splits": {
            name: {"rows": len(split), "sha256": rows_hash(split)} for name, split in splits.items()
        },
    }


def dataset(
    task: "Task",
    source: Mapping[str, object],
    build: Callable[[], tuple[Mapping[str, Split], Mapping[str, object]]],
) -> Dataset:
    """The splits from `build`, cached on disk, with their manifest.

    **Arguments:**

    - `task`: the task; its fields, version and code are part of the cache key.
    - `source`: from `describe`, or `{"generator": ...}`.
    - `build`: returns the splits and the JSON-ready counts for the entry `read` of the manifest.

    **Returns** the `Dataset`.

    **Raises** what `build` raises.

    ```python
    >>> import eqloop
    >>> task = eqloop.tasks.make_task("prefix-sums", {"length": 8})
    >>> def build():
    ...     return {"train": task.generate(4, seed=0)}, {"bad": 0}
    >>> data = eqloop.tasks.dataset(task, {"generator": "an example"}, build)
    >>> data.splits["train"].inputs.shape, data.manifest["read"]
    ((4, 8), {'bad': 0})

    ```
    """

    def arrays() -> dict[str, np.ndarray]:
        splits, counts = build()
        return pack(splits) | {"_read": np.frombuffer(json.dumps(counts).encode(), np.uint8)}

    key = key_of(task, source)
    stored = arrays() if key is None else cached(key, arrays)
    counts = json.loads(stored.pop("_read").tobytes())
    splits = unpack(stored)
    return Dataset(splits, manifest(task, splits, source, counts))
