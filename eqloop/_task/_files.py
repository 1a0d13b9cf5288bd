"""Writing files so that they are there whole or not at all, and what happens to bad rows.

Two kinds of fault are told apart everywhere. A file that cannot be used as a whole (missing, cut
off, a column missing) is an `InputError`; a row that cannot be used is a `Bad`, handed to the
`on_bad` of the caller, which either refuses the file (`refuse`) or counts and goes on (`Tally`).
"""

import contextlib
import gzip
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TextIO, cast

import zstandard

from .._errors import InputError
from .._files import refuse_special, replacing
from ._open import one_line
from ._split import Bad

OnBad = Callable[[Bad], None]


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


def replaceable(path: Path) -> None:
    """**Raises** `InputError` where something is at `path` that is not a regular file: a folder, a
    symbolic link, a device or a pipe is never replaced by a file."""
    try:
        refuse_special(path)
    except IsADirectoryError:
        raise InputError(f"{path}: a folder; name a file to write") from None
    except OSError as error:
        why = error.strerror or one_line(error)
        raise InputError(f"{path}: cannot be written ({why}); name another file") from None


@contextlib.contextmanager
def write_atomic(path: Path | str, mode: str = "wb") -> Iterator[IO[Any]]:
    """Opens `path` for writing ("w", as UTF-8, or "wb"): it is there whole afterwards, or, after
    an exception or a kill, as it was before. Missing parent folders are made.

    **Raises** `InputError` where `path` cannot be written.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"mode must be 'w' or 'wb', not {mode!r}")
    path = Path(path)
    replaceable(path)
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
        why = error.strerror or one_line(error)
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
