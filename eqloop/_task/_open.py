"""Open a file as text according to its content, not its name.

Compressed files (gzip, bzip2, Zstandard, zip with one file) are decompressed while they are read,
and UTF-16 is decoded. A file of another kind is refused in one line that names the kind.
"""

import bz2
import contextlib
import gzip
import io
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, TextIO, cast

import zstandard

from .._errors import InputError
from .._files import kind_of as special_kind

PARQUET = b"PAR1"
PARQUET_KIND = (
    'a parquet file; pip install pyarrow, or convert it: python -c "import pandas; '
    "pandas.read_parquet('FILE').to_csv('FILE.csv', index=False)\""
)

_CHUNK = 1 << 12
"""Compressed bytes per read; small, because the decompression ratio is unbounded."""
_HEAD = 512
_NESTED = 2
"""Maximum depth of nested compression, such as a .gz in a .zip."""
_BOMB_BYTES, _BOMB_RATIO = 1 << 28, 200
"""A file that decompresses to more than both is refused; puzzles compress to about a tenth."""

_TORCH = (
    "a PyTorch file (a pickle, which eqloop never opens); for strings of bits, convert it: python "
    "-c \"import numpy, torch; numpy.savetxt('FILE.txt', torch.load('FILE', weights_only=True), "
    "'%d', '')\""
)
_NUMPY = (
    'a NumPy file; for strings of bits, convert it: python -c "import numpy; '
    "numpy.savetxt('FILE.txt', numpy.load('FILE'), '%d', '')\""
)
_KINDS: tuple[tuple[bytes, str], ...] = (
    (b"\x93NUMPY", _NUMPY),
    *(
        (bytes([0x80, protocol]), "a pickle of Python, which eqloop never opens; save it as CSV")
        for protocol in (2, 3, 4, 5)
    ),
    (b"SQLite format 3\0", 'an SQLite database; export it: sqlite3 -csv -header FILE "SELECT ..."'),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file; save it as CSV"),
    (b"ARROW1", "an Arrow file; save it as CSV or parquet"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook; save it as CSV"),
    (b"%PDF", "a PDF file; save its rows as CSV"),
    (b"\xfd7zXZ\0", "an xz file; decompress it: xz -d FILE"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive; unpack it and name one file"),
    (b"Rar!", "a RAR archive; unpack it and name one file"),
    (b"\x89PNG", "a PNG image; eqloop reads text"),
    (b"\xff\xd8\xff", "a JPEG image; eqloop reads text"),
    (b"\x7fELF", "a program; eqloop reads text"),
    (b"PK\x03\x04", "a zip archive inside a compressed file; unpack it"),
)


@contextlib.contextmanager
def explained(path: Path, expected: str = "") -> Iterator[None]:
    """Convert the exceptions of reading `path` to an `InputError` of one line."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, but a file is needed; name a file in it") from None
    except PermissionError:
        raise InputError(
            f"{path}: cannot be read (permission denied); check its permissions"
        ) from None
    except EOFError:
        raise InputError(f"{path}: is truncated; fetch or copy it again") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 text ({error.reason}); convert it to UTF-8{_suffix(expected)}"
        ) from None
    except (gzip.BadGzipFile, zlib.error, zstandard.ZstdError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: cannot be decompressed ({one_line(error)}); fetch or copy it again"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)})") from None


def regular(path: Path) -> int:
    """The size of a regular file in bytes. **Raises** `InputError` for anything else: reading a
    pipe or a device may never end."""
    with explained(path):
        try:
            status = path.stat()
        except ValueError:  # a zero byte in the name
            raise InputError(f"{str(path)!r}: no such file; check the path") from None
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError
        if not stat.S_ISREG(status.st_mode):
            raise InputError(
                f"{path}: not a regular file but {special_kind(status.st_mode)}; write its "
                "content to a file, and name that file"
            )
    return status.st_size


@contextlib.contextmanager
def open_text(path: Path | str, *, errors: str = "strict") -> Iterator[TextIO]:
    """Open a file of text for reading.

    **Arguments:**

    - `path`: the file, perhaps compressed.
    - `errors`: as in `open`: what to do with bytes that are neither UTF-8 nor UTF-16.

    **Raises** `InputError`, on opening or later while reading, if the file is missing, a folder, a
    pipe or a device, not readable, truncated, not decompressible, or not text.
    """
    with opened(Path(path), errors) as (text, _):
        yield text


@contextlib.contextmanager
def opened(
    path: Path, errors: str = "strict", expected: str = ""
) -> Iterator[tuple[TextIO, BinaryIO]]:
    """As `open_text`, but also gives the underlying file, whose position measures progress.
    Messages about the content end with `expected`."""
    size = regular(path)
    with contextlib.ExitStack() as stack, explained(path, expected):
        raw = stack.enter_context(path.open("rb"))
        data: Any = raw
        depth = 0
        while inner := _decompressed(path, data, stack):
            depth += 1
            if depth > _NESTED:
                raise InputError(f"{path}: compressed more than {_NESTED} times; decompress it")
            data = io.BufferedReader(_Bounded(inner, path, size), 1 << 16)
        head = data.peek(_HEAD)[:_HEAD]
        if kind := kind_of(head):
            raise InputError(f"{path}: this is {kind}{_suffix(expected)}")
        text = io.TextIOWrapper(cast(IO[bytes], data), encoding=_encoding(head), errors=errors)
        yield stack.enter_context(text), raw


def kind_of(head: bytes) -> str:
    """The kind of a file that is not text, from its first bytes, and what to do with it; "" for a
    file that may be text."""
    if head.startswith(PARQUET):
        return PARQUET_KIND
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it and name one file"
    if head[8:10] == b'{"' and head[3:8] == bytes(5):
        return "a safetensors file: weights, not rows"
    if re.match(rb"\s*<(\?xml|!DOCTYPE|html|opensudoku)", head, re.IGNORECASE):
        return "an XML or HTML file; take its rows out of the markup, one a line"
    return next((kind for magic, kind in _KINDS if head.startswith(magic)), "")


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__


def _suffix(expected: str) -> str:
    return f"; {expected}" if expected else ""


def _encoding(head: bytes) -> str:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    even, odd = head[0:64:2], head[1:64:2]
    # ASCII in UTF-16 without a byte order mark has a zero in every other byte.
    if len(odd) > 3 and 0 not in even and not any(odd):
        return "utf-16-le"
    if len(odd) > 3 and 0 not in odd and not any(even):
        return "utf-16-be"
    return "utf-8-sig"


def _decompressed(path: Path, data: Any, stack: contextlib.ExitStack) -> IO[bytes] | None:
    """The decompressed content of `data`, or None if it is not compressed."""
    head = data.peek(_HEAD)[:_HEAD]
    if head.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=data, mode="rb"))
    if re.match(rb"BZh[1-9]1AY&SY", head):
        return cast(IO[bytes], bz2.BZ2File(data))
    if head.startswith(b"\x28\xb5\x2f\xfd") or head[1:4] == b"\x2a\x4d\x18":
        return cast(IO[bytes], _ZstdReader(data))
    if head.startswith(b"PK\x03\x04") and data.seekable():
        return _only_member(path, stack.enter_context(zipfile.ZipFile(data)), stack)
    return None


def _only_member(path: Path, archive: zipfile.ZipFile, stack: contextlib.ExitStack) -> IO[bytes]:
    names = [name for name in archive.namelist() if not name.endswith("/")]
    if any(name.endswith("data.pkl") for name in names):
        raise InputError(f"{path}: this is {_TORCH}")
    if "[Content_Types].xml" in names:
        raise InputError(f"{path}: this is an office file, as of Excel; save it as CSV")
    if names and all(name.endswith(".npy") for name in names):
        raise InputError(f"{path}: this is {_NUMPY}")
    names = [n for n in names if not n.startswith("__MACOSX/") and not Path(n).name.startswith(".")]
    if len(names) != 1:
        listed = ", ".join(repr(name[:40]) for name in names[:3]) + ", ..." * (len(names) > 3)
        raise InputError(
            f"{path}: a zip archive of {len(names)} files ({listed}); unpack it and name one"
        )
    try:
        return stack.enter_context(archive.open(names[0]))
    except (RuntimeError, NotImplementedError) as error:  # a password, an unknown compression
        raise InputError(f"{path}: cannot be unpacked ({one_line(error)}); unpack it") from None


class _Bounded(io.RawIOBase):
    """The bytes of `inner`, which decompresses a file of `size` bytes. **Raises** `InputError` if
    they exceed the limits of a decompression bomb."""

    def __init__(self, inner: IO[bytes], path: Path, size: int):
        self._inner, self._path = inner, path
        self._limit = max(_BOMB_BYTES, _BOMB_RATIO * size)
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        try:
            data = self._inner.read(len(buffer))
        except (OSError, ValueError, RuntimeError) as error:
            if isinstance(error, gzip.BadGzipFile | InputError):
                raise
            # bz2 and zipfile raise these general exceptions for damaged data.
            raise zipfile.BadZipFile(one_line(error)) from None
        self._count += len(data)
        if self._count > self._limit:
            raise InputError(
                f"{self._path}: decompresses to more than {_BOMB_RATIO} times its size, so it "
                "cannot be a file of puzzles"
            )
        buffer[: len(data)] = data
        return len(data)


class _ZstdReader(io.RawIOBase):
    """The decompressed bytes of `raw`, which may contain several frames.

    The stream reader of `zstandard` ends silently at a truncated frame; this one raises
    `EOFError`, as `gzip` does.
    """

    def __init__(self, raw: BinaryIO):
        # Dumps made with `zstd --long` need a window beyond the default limit.
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
        self._raw = raw
        self._frame = None
        self._compressed = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._ready:
            if not self._compressed:
                self._compressed = self._raw.read(_CHUNK)
                if not self._compressed:
                    if self._frame is not None:
                        raise EOFError("the last zstd frame has no end")
                    return 0
            if self._frame is None:
                self._frame = self._decompressor.decompressobj()
            self._ready = memoryview(self._frame.decompress(self._compressed))
            if self._frame.eof:
                self._compressed = self._frame.unused_data
                self._frame = None
            else:
                self._compressed = b""
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count
