"""The zip file that `torch.save` writes: `NAME/data.pkl`, and one record of raw bytes for each
storage, `NAME/data/0` and so on, none of them compressed."""

import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .._errors import InputError
from .._text import one_line

SAVE_AGAIN = (
    "if you trust its origin, load it in PyTorch and save the tensors alone with "
    "safetensors.torch.save_file"
)
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_LARGEST_DIRECTORY = 1 << 24
"""Bytes of a table of contents or of `data.pkl`: those of 100,000 tensors are smaller."""


class Archive:
    """The records of such a file.

    `record(name)` returns the bytes of `NAME/name` as a view of the mapped file, after comparing
    their CRC-32. Records that lie about their place or size are refused, and so are compressed
    ones, so no record is larger than the file.
    """

    def __init__(self, path: Path, file: BinaryIO, memory: np.ndarray):
        self.path, self._memory = path, memory
        try:
            with zipfile.ZipFile(_Bounded(file)) as directory:
                entries = directory.infolist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
            raise self.damaged(f"not a whole zip file ({one_line(str(error)[:100])})") from None
        self._entries = {entry.filename: entry for entry in entries}
        self._checked: set[str] = set()
        if len(self._entries) < len(entries):
            raise self.damaged("two records have one name")
        roots = [name[: -len("data.pkl")] for name in self._entries if name.endswith("/data.pkl")]
        if len(roots) != 1 or f"{roots[0]}constants.pkl" in self._entries:
            raise self.refused("is a zip file, but not one that torch.save wrote")
        self._root = roots[0]
        order = bytes(self.record("byteorder")) if self.has("byteorder") else b"little"
        if order != b"little":
            raise self.refused(f"has the byte order {one_line(repr(order[:20]))}, not little")

    def damaged(self, why: str) -> InputError:
        return InputError(f"{self.path} is damaged or was cut off: {why}; download it again")

    def refused(self, why: str) -> InputError:
        return InputError(f"{self.path} {why}; {SAVE_AGAIN}")

    def has(self, name: str) -> bool:
        return self._root + name in self._entries

    def size(self, name: str) -> int:
        """The bytes of a record. **Raises** `InputError` if it is missing."""
        if not self.has(name):
            raise self.damaged(f"it has no record {one_line(name[:80])}")
        return self._entries[self._root + name].file_size

    def record(self, name: str) -> np.ndarray:
        """**Raises** `InputError` if the record is missing, damaged or compressed."""
        size, entry = self.size(name), self._entries[self._root + name]
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise self.refused(f"has a compressed or encrypted record {name}")
        header = bytes(self._memory[entry.header_offset :][: _LOCAL_HEADER.size])
        if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
            raise self.damaged(f"record {name} is not where the table of contents says")
        start = entry.header_offset + len(header) + sum(_LOCAL_HEADER.unpack(header)[1:])
        content = self._memory[start : start + size]
        if len(content) != size or entry.compress_size != size:
            raise self.damaged(f"record {name} is not {size:,} bytes long")
        if name not in self._checked and zlib.crc32(content.data) != entry.CRC:
            raise self.damaged(f"the CRC-32 of record {name} is not that of its bytes")
        self._checked.add(name)
        return content

    def pickle(self) -> bytes:
        """The content of `data.pkl`."""
        if self.size("data.pkl") > _LARGEST_DIRECTORY:
            raise self.refused(f"has a data.pkl of more than {_LARGEST_DIRECTORY >> 20} MiB")
        return bytes(self.record("data.pkl"))


class _Bounded:
    """A file for `zipfile`, which reads the whole table of contents at once and keeps ten times its
    bytes: a file that claims a table as large as itself is refused."""

    def __init__(self, file: BinaryIO):
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if size > _LARGEST_DIRECTORY:
            raise zipfile.BadZipFile("its table of contents is too large")
        return self._file.read(size)
