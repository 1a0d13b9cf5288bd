"""Writing a file so that it is there whole or not at all."""

import os
from collections.abc import Iterable
from pathlib import Path

TEMPORARY = ".tmp"


def write_atomic(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write `chunks` to `path`; whoever looks, at any moment, sees the old file or the new one.

    The bytes are on the disk before the name is: without the first `fsync` a power cut could
    leave the new name on an empty file, without the second the old name on the old file.
    """
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    with temporary.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed `write_atomic` left behind."""
    for path in folder.glob(f".*{TEMPORARY}"):
        path.unlink()
