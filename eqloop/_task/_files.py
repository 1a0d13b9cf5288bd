"""Atomic writing of files of puzzles, and the two ways to handle bad rows.

There are two kinds of fault. A file that is unusable as a whole (missing, truncated, a column
missing) raises `InputError`. A row that is unusable is a `Bad`, which is passed to the callback
`on_bad`: it either refuses the file (`refuse`) or counts the row and continues (`Tally`).
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
    """Callback `on_bad` that refuses the file at its first bad row.

    **Arguments:**

    - `bad`: the bad row.

    **Raises** `InputError` always.

    ```python
    >>> import eqloop
    >>> eqloop.tasks.refuse(eqloop.Bad("puzzles.csv:2", "80 cells"))
    Traceback (most recent call last):
    eqloop._errors.InputError: puzzles.csv:2: 80 cells; correct the row, or use --skip-bad

    ```
    """
    raise InputError(f"{bad}; correct the row, or use --skip-bad")


class Tally:
    """Callback `on_bad` that counts bad rows and stores the first `keep` of them.

    **Arguments:**

    - `keep`: maximum number of stored rows.

    **Attributes:**

    - `count`: number of bad rows.
    - `first`: list of the first `keep` bad rows.

    ```python
    >>> import eqloop
    >>> tally = eqloop.tasks.Tally()
    >>> tally(eqloop.Bad("puzzles.csv:2", "80 cells"))
    >>> tally.count, str(tally.first[0])
    (1, 'puzzles.csv:2: 80 cells')

    ```
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
    """**Raises** `InputError` if `path` exists and is not a regular file: a file never replaces a
    folder, a symbolic link, a device or a pipe."""
    try:
        refuse_special(path)
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; name a file to write") from None
    except OSError as error:
        why = error.strerror or one_line(error)
        raise InputError(f"{path}: cannot be written ({why}); name another file") from None


@contextlib.contextmanager
def write_atomic(path: Path | str, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open `path` for atomic writing ("w" for UTF-8 text, or "wb"): afterwards it is complete, or,
    after an exception or a kill, unchanged. Missing parent folders are created.

    **Raises** `InputError` if `path` cannot be written.
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
    """Open a file for atomic writing of UTF-8 text, which `open_text` reads.

    The file is compressed if the suffix is `.gz` or `.zst`; equal text gives equal bytes.

    **Arguments:**

    - `path`: the file; missing parent folders are created. It replaces an older file.

    **Yields** the open file. After an exception the older file is unchanged.

    **Raises** `InputError` if `path` cannot be written.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "bits.txt.gz")
    ...     with eqloop.tasks.write_text(path) as file:
    ...         _ = file.write("0110")
    ...     path.read_bytes()[:2].hex()
    '1f8b'

    ```
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(write_atomic(path, "wb"))
        if path.suffix == ".gz":
            # The header has neither name nor time, so that equal text gives equal files.
            data = stack.enter_context(gzip.GzipFile("", "wb", 6, data, mtime=0))
        elif path.suffix == ".zst":
            data = stack.enter_context(
                zstandard.ZstdCompressor(level=6).stream_writer(data, closefd=False)
            )
        text = io.TextIOWrapper(cast(IO[bytes], data), encoding="utf-8", newline="\n")
        yield text
        text.flush()
        # Detach rather than close: the layers below must write their trailers first.
        text.detach()
