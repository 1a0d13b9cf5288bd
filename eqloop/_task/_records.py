"""Read the rows of a CSV, JSON or parquet file, or of one puzzle per line, as name -> text."""

import contextlib
import csv
import dataclasses
import functools
import importlib.util
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from .._errors import InputError
from ._files import OnBad
from ._open import PARQUET, PARQUET_KIND, explained, one_line, opened, regular
from ._split import Bad, Progress

Record = dict[str, str]

LONGEST_LINE = 1 << 20
"""Maximum characters of a line. A longer line is one bad row, so that memory stays bounded."""
_LONGEST_JSON = 1 << 26
"""Maximum characters of a file that is one JSON array, since the array is held in memory."""
_DELIMITERS = ",;\t"


@dataclasses.dataclass(frozen=True)
class Layout:
    """The layout of the rows of a task.

    **Attributes:**

    - `required`: names of the columns that a file must have.
    - `expected`: end of each message that refuses a file: which columns are expected.
    - `names`: column -> alternative names, in lower case, the most common first. Names are
      compared without case.
    - `plain`: for files without a header: parses a line to a record, or returns None if the line
      is no row.
    - `row`: name of what `plain` parses, for messages about bad rows.
    - `others`: formats that are recognised but not read: (pattern of the first line, name).

    ```python
    >>> import eqloop
    >>> layout = eqloop.tasks.Layout(
    ...     required=("question",), expected="expected a column question",
    ...     names={"question": ("input", "puzzle")},
    ... )
    >>> layout.header(["Puzzle", "rating"], "puzzles.csv:1")
    ['question', 'rating']

    ```
    """

    required: Sequence[str]
    expected: str
    names: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    plain: Callable[[str], Record | None] | None = None
    row: str = ""
    others: Sequence[tuple[str, str]] = ()

    @functools.cached_property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """Column -> its possible names, in lower case."""
        columns = dict.fromkeys((*self.required, *self.names))
        return {name: (name.lower(), *self.names.get(name, ())) for name in columns}

    def canonical(self, names: Iterable[str]) -> dict[str, str]:
        """Map each of `names` to the column that it denotes, or to itself."""
        columns = {name: name.strip() for name in names}
        lower = {name.strip().lower(): name for name in reversed(columns)}
        for column, aliases in self.columns.items():
            if (name := next((lower[key] for key in aliases if key in lower), None)) is not None:
                columns[name] = column
        return columns

    def header(self, names: Sequence[str], where: str) -> list[str]:
        """The columns that `names` denote, in their order.

        **Raises** `InputError`, with `where` in the message, if a required column is missing or a
        column occurs twice.
        """
        columns = self.canonical(names)
        header = [columns[name] for name in names]
        for name in self.required:
            if name not in header:
                listed = ", ".join(header)
                listed = listed if len(listed) <= 100 else listed[:97] + "..."
                raise InputError(
                    f"{where}: no column {name!r} (found: {listed!r}); {self.expected}"
                )
        if duplicates := sorted({name for name in header if header.count(name) > 1}):
            raise InputError(
                f"{where}: column {duplicates[0]!r} occurs twice; name each column once"
            )
        return header


def read_records(
    path: Path | str, layout: Layout, *, on_bad: OnBad, progress: Progress | None = None
) -> Iterator[tuple[int, Record]]:
    """Read the rows of a file one by one, in bounded memory.

    The file may be CSV with a header (separated by commas, semicolons or tabs), JSON with one
    object per line or one array of objects, parquet, or lines that `layout.plain` parses. It may be
    compressed (see `_open`). In CSV a row ends at the end of its line even inside quotation marks,
    so that a stray quotation mark costs one row and not the rest of the file. Blank lines are
    ignored.

    **Arguments:**

    - `path`: the file.
    - `layout`: the columns of the rows.
    - `on_bad`: called with each row that has a wrong number of fields, broken quoting or JSON,
      undecodable text, or more than 2^20 characters.
    - `progress`: optional callback `(bytes read, size of the file in bytes)`.

    **Yields** the line number (row number in parquet and arrays; both from 1) and the record:
    column -> text.

    **Raises** `InputError` as `open_text`, and if the file is empty or has no rows, lacks a column
    or has one twice, or has another format.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> layout = eqloop.tasks.Layout(required=("question",), expected="expected a column question")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "puzzles.csv")
    ...     _ = path.write_text("question,rating\\n0110,3\\n")
    ...     list(eqloop.tasks.read_records(path, layout, on_bad=eqloop.tasks.refuse))
    [(2, {'question': '0110', 'rating': '3'})]

    ```
    """
    path = Path(path)
    size = regular(path)
    count = 0
    with contextlib.ExitStack() as stack:
        with explained(path), path.open("rb") as raw:
            is_parquet = raw.read(len(PARQUET)) == PARQUET
        if is_parquet:
            rows, position = _parquet(path, layout), lambda: 0
        else:
            # Undecodable bytes become lone surrogates: they make one row bad, not the file.
            text, raw = stack.enter_context(opened(path, "surrogateescape", layout.expected))
            rows, position = _parsed(path, text, layout), raw.tell
        for number, record in rows:
            count += 1
            if progress is not None and count % 4096 == 0:
                progress(position(), size)
            if isinstance(record, str):
                on_bad(Bad(f"{path}:{number}", record))
            else:
                yield number, record
    if count == 0:
        raise InputError(f"{path}: has a header but no rows; {layout.expected}")
    if progress is not None:
        progress(size, size)


Parsed = Iterator[tuple[int, "Record | str"]]
"""(number, record) of each row; a string in place of the record says what is wrong with it."""
_Lines = Iterator[tuple[int, str]]


def _parsed(path: Path, text: TextIO, layout: Layout) -> Parsed:
    """Parse the rows of a text file according to its first line."""
    lines = _lines(text)
    comments = ("#", "//")
    number, head = next(((n, line) for n, line in lines if not line.startswith(comments)), (0, ""))
    if not head:
        raise InputError(f"{path}: the file is empty; {layout.expected}")
    if not _is_utf8(head):
        raise InputError(f"{path}:{number}: not UTF-8 text; {layout.expected}")
    for pattern, name in layout.others:
        if re.match(pattern, head):
            raise InputError(f"{path}:{number}: this is {name}; {layout.expected}")
    start = head.lstrip()
    if start.startswith("["):
        return _json_array(path, head + text.read(_LONGEST_JSON), layout)
    lines = itertools.chain([(number, head)], lines)
    if start.startswith("{"):
        return _json_lines(path, lines, layout)
    if layout.plain is not None and layout.plain(head) is not None:
        return _plain_lines(lines, layout.plain, layout.row, comments)
    return _csv(path, lines, layout)


def _lines(text: TextIO) -> _Lines:
    """The lines that are not blank, numbered from 1. A line of more than `LONGEST_LINE` characters
    is truncated, without its line end."""
    number = 0
    while line := text.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE and not line.endswith("\n"):
            while (tail := text.readline(LONGEST_LINE)) and not tail.endswith("\n"):
                pass
        if not line.isspace():
            yield number, line


def _plain_lines(
    lines: _Lines, parse: Callable[[str], Record | None], row: str, comments: tuple[str, ...]
) -> Parsed:
    for number, line in lines:
        if not line.startswith(comments):
            record = None if _unreadable(line) else parse(line)
            yield (
                number,
                _unreadable(line) or f"no {row} in this line" if record is None else record,
            )


# --- CSV


def _csv(path: Path, lines: _Lines, layout: Layout) -> Parsed:
    number, line = next(lines)
    aliases = {name for names in layout.columns.values() for name in names}

    def known_columns(delimiter: str) -> int:
        names = _fields(line, None, delimiter)[0]
        return len(aliases.intersection(name.strip().lower() for name in names))

    delimiter = max(_DELIMITERS, key=known_columns)
    names, _ = _fields(line, None, delimiter)
    header = layout.header(names, f"{path}:{number}")
    for number, line in lines:
        fields, why = _fields(line, len(header), delimiter)
        yield number, why or dict(zip(header, fields, strict=True))


def _fields(line: str, count: int | None, delimiter: str) -> tuple[list[str], str]:
    """The fields of one line, and what is wrong with them ("" for nothing)."""
    if why := _unreadable(line):
        return [], why
    if '"' in line:
        spaced = '", "' in line  # written by hand or pretty-printed
        try:
            fields = next(
                csv.reader([line], delimiter=delimiter, strict=True, skipinitialspace=spaced)
            )
        except csv.Error as error:
            return [], f"broken quoting ({one_line(error)})"
    else:
        # Several times as fast as the csv module, with the same result without quotation marks.
        fields = line.rstrip("\n").split(delimiter)
    if count is not None and len(fields) != count:
        return fields, f"{len(fields)} fields, but the header has {count}"
    return fields, ""


def _unreadable(line: str) -> str:
    if len(line) == LONGEST_LINE and not line.endswith("\n"):
        return f"a line of more than {LONGEST_LINE} characters"
    return "" if line.isascii() or _is_utf8(line) else "not UTF-8 text"


def _is_utf8(line: str) -> bool:
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


# --- JSON and parquet


def _json_lines(path: Path, lines: _Lines, layout: Layout) -> Parsed:
    columns: dict[tuple[str, ...], dict[str, str]] = {}
    for number, line in lines:
        value = _unreadable(line) or _json(line)
        if not columns and isinstance(value, str):
            raise InputError(
                f"{path}:{number}: JSON, but not one object per line ({value}); convert it: jq -c "
                f"'.[]' FILE > FILE.jsonl; {layout.expected}"
            )
        if isinstance(value, str):
            yield number, value
            continue
        names = tuple(value)
        if not columns:
            layout.header(names, f"{path}:{number}")
        if names not in columns:
            if len(columns) > 1000:
                columns.clear()
            columns[names] = layout.canonical(names)
        yield number, _record(value, columns[names], layout)


def _json_array(path: Path, text: str, layout: Layout) -> Parsed:
    try:
        values = _loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: JSON that cannot be read ({one_line(error)[:80]}), or too long an array; "
            f"write one object per line: jq -c '.[]' FILE > FILE.jsonl; {layout.expected}"
        ) from None
    if not values or not isinstance(values[0], dict):
        raise InputError(f"{path}: a JSON array without objects; {layout.expected}")
    layout.header(tuple(values[0]), str(path))
    for number, value in enumerate(values, 1):
        if isinstance(value, dict):
            yield number, _record(value, layout.canonical(tuple(value)), layout)
        else:
            yield number, "not a JSON object"


def _json(line: str) -> dict[str, Any] | str:
    try:
        value = _loads(line)
    except (ValueError, RecursionError) as error:
        return f"broken JSON ({one_line(error)[:80]})"
    return value if isinstance(value, dict) else "not a JSON object"


def _loads(text: str) -> Any:
    # Numbers stay text: the reader of a column decides how to parse them.
    return json.loads(text, parse_int=str, parse_float=str, parse_constant=str)


def _record(value: Mapping[str, Any], columns: Mapping[str, str], layout: Layout) -> Record | str:
    record = {
        columns[name]: text for name, item in value.items() if (text := _text(item)) is not None
    }
    for name in layout.required:
        if name not in record:
            return f"no field {name!r}"
    return record if all(map(_is_utf8, record.values())) else "not UTF-8 text"


def _text(value: Any) -> str | None:
    """A value of a record as text (of a list with spaces between values); None for an object."""
    if isinstance(value, list):
        parts = [None if isinstance(part, list) else _text(part) for part in value]
        return None if None in parts else " ".join(map(str, parts))
    if value is None or isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) else None


def _parquet(path: Path, layout: Layout) -> Parsed:
    if importlib.util.find_spec("pyarrow") is None:
        raise InputError(f"{path}: this is {PARQUET_KIND}; {layout.expected}")
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = file.schema_arrow.names
        columns = layout.canonical(names)
        layout.header(names, str(path))
        read_columns = [name for name in names if columns[name] in layout.columns]
        number = 0
        for batch in file.iter_batches(batch_size=4096, columns=read_columns):
            for value in batch.to_pylist():
                number += 1
                yield number, _record(value, columns, layout)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(
            f"{path}: a parquet file that cannot be read ({one_line(error)[:80]}); fetch or make "
            f"it again; {layout.expected}"
        ) from None
