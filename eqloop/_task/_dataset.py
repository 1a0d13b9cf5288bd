"""From rows to named splits: the cache on the disk, the manifest, the 80/20 partition."""

import dataclasses
import functools
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
from .._files import open_regular, remove_leftovers, replacing
from .._plugins import origin, source_digest
from ._files import write_atomic
from ._open import explained, regular
from ._split import Dataset, Split

if TYPE_CHECKING:
    from ._base import Task

_LOG = logging.getLogger(__name__)

READER = 2
"""Part of the cache key of files: raised when the same bytes give other rows or splits."""

Arrays = Mapping[str, np.ndarray]


def cache_folder() -> Path | None:
    """`$EQLOOP_CACHE`, or `$XDG_CACHE_HOME/eqloop`, or `~/.cache/eqloop`. Not created. None, with a
    warning that is logged once, for a user without a home."""
    if own := os.environ.get("EQLOOP_CACHE"):
        return Path(own)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "eqloop"
    try:
        return Path.home() / ".cache" / "eqloop"
    except RuntimeError:
        _say_no_home()
        return None


@functools.cache
def _say_no_home() -> None:
    _LOG.warning("there is no home folder: encoded data are not cached; name one in EQLOOP_CACHE")


def cached(key: Mapping[str, object], build: Callable[[], Arrays]) -> dict[str, np.ndarray]:
    """`build()`, remembered on the disk under the sha256 of `key`.

    **Arguments:**

    - `key`: JSON-ready; everything the arrays depend on (see `key_of`). `key["task"]` begins the
      file's name.
    - `build`: name -> array, no object arrays.

    A cache file that is damaged is made anew, and one that cannot be written is done without;
    either is logged as a warning.
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
        _LOG.warning("cache file %s cannot be used (%s); making it anew", path, why)
    arrays = dict(build())
    try:
        remove_leftovers(path.parent)
        _write_sealed(path, {"_key": np.frombuffer(text.encode(), np.uint8), **arrays})
    except (InputError, OSError) as error:
        _LOG.warning("the encoded data are not cached (%s)", error)
    return arrays


def _write_sealed(path: Path, arrays: Arrays) -> None:
    """An `.npz` file and behind it the SHA-256 of all of it, at which a reader of zip files takes
    no offence."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as handle:
        # numpy's stub takes `allow_pickle` for one of the arrays
        np.savez(handle, **arrays)  # pyright: ignore[reportArgumentType]
        handle.seek(0)
        digest = hashlib.file_digest(handle, "sha256")  # pyright: ignore[reportArgumentType]
        handle.write(digest.hexdigest().encode())


def _read_sealed(path: Path) -> dict[str, np.ndarray]:
    """**Raises** `OSError`, and `ValueError` where the checksum is not that of the content: what
    decodes an archive is not made for bytes that anything may have happened to."""
    with open_regular(path) as handle:
        digest = hashlib.sha256()
        left = os.fstat(handle.fileno()).st_size - 2 * digest.digest_size
        while left > 0 and (chunk := handle.read(min(left, 1 << 20))):
            digest.update(chunk)
            left -= len(chunk)
        if handle.read() != digest.hexdigest().encode():
            raise ValueError("its checksum is not that of its content")
        handle.seek(0)
        with np.load(handle, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}


def pack(splits: Mapping[str, Split]) -> dict[str, np.ndarray]:
    """Splits as one flat mapping "split/field" or "split/columns/name" -> array."""
    arrays: dict[str, np.ndarray] = {}
    for name, split in splits.items():
        for field in ("inputs", "targets", "difficulty", "puzzles"):
            arrays[f"{name}/{field}"] = getattr(split, field)
        for column, values in split.columns.items():
            arrays[f"{name}/columns/{column}"] = values
    return arrays


def unpack(arrays: Arrays) -> dict[str, Split]:
    """The inverse of `pack`; the splits are in the order in which they were packed."""
    fields: dict[str, dict[str, np.ndarray]] = {}
    columns: dict[str, dict[str, np.ndarray]] = {}
    for path, values in arrays.items():
        name, _, rest = path.partition("/")
        fields.setdefault(name, {})
        columns.setdefault(name, {})
        if rest.startswith("columns/"):
            columns[name][rest.removeprefix("columns/")] = values
        else:
            fields[name][rest] = values
    return {name: Split(**fields[name], columns=columns[name]) for name in fields}


def save(splits: Mapping[str, Split], path: Path | str) -> None:
    """Writes splits to one `.npz` file, atomically."""
    with write_atomic(path, "wb") as handle:
        np.savez(handle, **pack(splits))  # pyright: ignore[reportArgumentType]


def load(path: Path | str) -> dict[str, Split]:
    """Reads what `save` wrote. **Raises** `InputError` where it cannot be read."""
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
        raise InputError(f"{path}: not a file of splits ({error}); make it anew") from None


def describe(path: Path | str, files: Sequence[str] = ()) -> dict[str, object]:
    """Where rows come from: `path`, `size` in bytes and `sha256`, of a file or, for a folder, of
    the named `files` in it, in this order.

    **Raises** `InputError` where one cannot be read.
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
    """sha256 of the rows of a split: names, dtypes, shapes and bytes of all its arrays."""
    digest = hashlib.sha256()
    for name, values in sorted(pack({"": split}).items()):
        digest.update(f"{name}{values.dtype.str}{values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def partition(rows: int, seed: int, share: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    """Indices of a random `share` of the rows and of the rest, each in ascending order.

    `RandomState`, for its streams are frozen: the same seed gives the same split with every
    version of numpy.
    """
    order = np.random.RandomState(seed).permutation(rows)
    first = round(rows * share)
    return np.sort(order[:first]), np.sort(order[first:])


def key_of(task: "Task", source: Mapping[str, object]) -> dict[str, object] | None:
    """The cache key of a task's data: what it was made from and how, not where it lay. None for a
    class of which no file has the code, as in a notebook: whether it has changed is not known."""
    code = source_digest(type(task))
    if code is None:
        return None
    fields = dataclasses.asdict(task)
    for without in ("data", "augment"):
        del fields[without]
    kept = {name: value for name, value in source.items() if name != "path"}
    key: dict[str, object] = {"task": task.name, "version": task.version}
    key |= {"fields": fields, "source": kept}
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

    - `source`: from `describe`, or `{"generator": ...}`.
    - `read`: counts of the task's own (rows read, bad rows, duplicates, ...).
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
    """The splits that `build` makes, cached on the disk, with their manifest.

    **Arguments:**

    - `source`: from `describe`, or `{"generator": ...}`.
    - `build`: gives the splits and the JSON-ready `read` of `manifest`.
    """

    def arrays() -> dict[str, np.ndarray]:
        splits, read = build()
        return pack(splits) | {"_read": np.frombuffer(json.dumps(read).encode(), np.uint8)}

    key = key_of(task, source)
    stored = arrays() if key is None else cached(key, arrays)
    read = json.loads(stored.pop("_read").tobytes())
    splits = unpack(stored)
    return Dataset(splits, manifest(task, splits, source, read))
