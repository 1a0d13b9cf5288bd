"""Reading and writing the files of the tasks: streamed, compressed or not, and never half-written.

Two kinds of fault are told apart everywhere. A file that cannot be used as a whole (missing, cut
off, a column missing) is an `InputError`; a row that cannot be used is a `Bad`, handed to the
`on_bad` of the caller, which either refuses the file (`refuse`) or counts and goes on (`Tally`).
"""

import contextlib
import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, TextIO, cast

import zstandard

from .._errors import InputError
from .._files import replacing
from .._task import Bad, Progress

OnBad = Callable[[Bad], None]

_CHUNK = 1 << 12
"""Compressed bytes at a time: few, since how much comes out of them is not in our hands."""
_LONGEST_LINE = 1 << 20
"""Characters. A longer line is one bad row, so that a file without line ends stays bounded too."""


def refuse(bad: Bad) -> None:
    """An `on_bad` that refuses the file at its first bad row."""
    raise InputError(f"{bad}; mend the row, or go on without bad rows: --skip-bad")


class Tally:
    """An `on_bad` that counts bad rows and keeps the first `keep` of them.

    **Attributes:** `count`, and `first`, a list of `Bad`.
    """

    def __init__(self, keep: int = 10):
        self.count = 0
        self.first: list[Bad] = []
        self._keep = keep

    def __call__(self, bad: Bad) -> None:
        self.count += 1
        if len(self.first) < self._keep:
            self.first.append(bad)


class _ZstdReader(io.RawIOBase):
    """The decompressed bytes of `raw`, which may hold several frames.

    `zstandard`'s own stream reader ends quietly where a frame is cut off; this one raises
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


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what reading `path` can raise into an `InputError` of one line."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder, where a file is needed; name a file in it") from None
    except PermissionError:
        raise InputError(f"{path}: not allowed to read it; check its permissions") from None
    except EOFError:
        raise InputError(f"{path}: cut off before its end; fetch or copy it again") from None
    except (gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise InputError(
            f"{path}: cannot be decompressed ({_one_line(error)}); is the suffix right? "
            "Otherwise fetch or copy it again"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason}); convert it to UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({_one_line(error)})") from None


@contextlib.contextmanager
def open_text(path: Path | str, *, errors: str = "strict") -> Iterator[TextIO]:
    """Opens UTF-8 text for reading; `.gz` and `.zst` are decompressed as they are read.

    **Raises** `InputError`, on opening or later while reading: missing, a folder, not permitted,
    cut off, not decompressible, not UTF-8 (unless `errors` says otherwise, as in `open`).
    """
    with _opened(Path(path), errors) as (text, _):
        yield text


@contextlib.contextmanager
def _opened(path: Path, errors: str) -> Iterator[tuple[TextIO, BinaryIO]]:
    """The text, and the file below it, whose position and size tell how far reading has come."""
    with explained(path), path.open("rb") as raw:
        data: IO[bytes]
        if path.suffix == ".gz":
            data = cast(IO[bytes], gzip.GzipFile(fileobj=raw, mode="rb"))
        elif path.suffix == ".zst":
            data = io.BufferedReader(_ZstdReader(raw), 1 << 16)
        else:
            data = raw
        with io.TextIOWrapper(data, encoding="utf-8", errors=errors) as text:
            yield text, raw


def read_csv(
    path: Path | str,
    required: Sequence[str],
    *,
    on_bad: OnBad,
    progress: Progress | None = None,
) -> Iterator[tuple[int, dict[str, str]]]:
    """Streams a CSV file with a header line, one row per line, in bounded memory.

    A row ends where its line ends, quoted or not: a stray quotation mark costs one row, not the
    rest of the file. Blank lines are no rows.

    **Arguments:**

    - `required`: columns that must be there; others may be, in any order.
    - `on_bad`: gets rows with a wrong number of fields, broken quoting, bytes that are not UTF-8,
      or more than 2^20 characters.
    - `progress`: gets (bytes read, bytes in all) of the file as it lies on the disk.

    **Yields** the line number, from 1 for the header, and the fields of the row by column name.

    **Raises** `InputError` as `open_text`, and for an empty file, a missing or doubled column and
    a file with a header only.
    """
    path = Path(path)
    # Undecodable bytes become lone surrogates, so that they spoil a row and not the file.
    with _opened(path, "surrogateescape") as (text, raw):
        total = path.stat().st_size
        header = _header(path, text.readline(_LONGEST_LINE), required)
        number, rows = 1, 0
        while line := text.readline(_LONGEST_LINE):
            number += 1
            if progress is not None and number % 4096 == 0:
                progress(raw.tell(), total)
            if line.isspace():
                continue
            rows += 1
            fields, why = _fields(line, len(header))
            if len(line) == _LONGEST_LINE and not line.endswith("\n"):
                why = f"a line of more than {_LONGEST_LINE} characters"
                while (more := text.readline(_LONGEST_LINE)) and not more.endswith("\n"):
                    pass
            if why:
                on_bad(Bad(f"{path}:{number}", why))
            else:
                yield number, dict(zip(header, fields, strict=True))
        if progress is not None:
            progress(total, total)
    if rows == 0:
        raise InputError(f"{path}: a header but no rows; is this the right file?")


def _header(path: Path, line: str, required: Sequence[str]) -> list[str]:
    expected = f"a CSV file with the columns {', '.join(required)} is expected"
    if not line:
        raise InputError(f"{path}: the file is empty; {expected}")
    line = line.removeprefix("\ufeff")
    if not _is_utf8(line):
        raise InputError(f"{path}:1: not UTF-8 text; {expected}, in UTF-8")
    header, _ = _fields(line, None)
    header = [name.strip() for name in header]
    for name in required:
        if name not in header:
            found = ", ".join(header)
            found = found if len(found) <= 100 else found[:97] + "..."
            raise InputError(f"{path}:1: no column {name!r} (found: {found!r}); {expected}")
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled:
        raise InputError(f"{path}:1: column {doubled[0]!r} is there twice; name each column once")
    return header


def _fields(line: str, count: int | None) -> tuple[list[str], str]:
    """The fields of one line, and what is wrong with them ("" if nothing is)."""
    if not line.isascii() and not _is_utf8(line):
        return [], "not UTF-8 text"
    if '"' in line:
        try:
            fields = next(csv.reader([line], strict=True))
        except csv.Error as error:
            return [], f"broken quoting ({_one_line(error)})"
    else:
        # Several times as fast as the csv module, and the same where nothing is quoted.
        fields = line.rstrip("\n").split(",")
    if count is not None and len(fields) != count:
        return fields, f"{len(fields)} fields, but the header has {count}"
    return fields, ""


def _is_utf8(line: str) -> bool:
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__


@contextlib.contextmanager
def write_atomic(path: Path | str, mode: str = "wb") -> Iterator[IO[Any]]:
    """Opens `path` for writing ("w", as UTF-8, or "wb"): it is there whole afterwards, or, after
    an exception or a kill, as it was before. Missing parent folders are made.

    **Raises** `InputError` where `path` cannot be written.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"mode must be 'w' or 'wb', not {mode!r}")
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: a folder; name a file to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as handle:
            if mode == "wb":
                yield handle
                return
            text = io.TextIOWrapper(handle, encoding="utf-8")
            yield text
            text.flush()
            text.detach()
    except OSError as error:
        why = error.strerror or _one_line(error)
        raise InputError(f"{path}: cannot be written ({why})") from None


@contextlib.contextmanager
def write_text(path: Path | str) -> Iterator[TextIO]:
    """As `write_atomic`, for text that `open_text` reads: compressed where the suffix is `.gz` or
    `.zst`, with the same bytes for the same text."""
    path = Path(path)
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(write_atomic(path, "wb"))
        if path.suffix == ".gz":
            # No name and no time in the header: equal text gives equal files.
            data = stack.enter_context(gzip.GzipFile("", "wb", 6, data, mtime=0))
        elif path.suffix == ".zst":
            data = stack.enter_context(
                zstandard.ZstdCompressor(level=6).stream_writer(data, closefd=False)
            )
        text = io.TextIOWrapper(cast(IO[bytes], data), encoding="utf-8", newline="\n")
        yield text
        text.flush()
        # Left open, so that the layers below can write their ends first.
        text.detach()
