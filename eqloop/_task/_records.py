"""Rows of a file as records, name -> text: from CSV, JSON or parquet, or one puzzle a line."""

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
"""Characters. A longer line is one bad row, so that a file without line ends stays bounded too."""
_LONGEST_JSON = 1 << 26
"""Characters of a file that is one JSON array, which has to be held whole."""
_DELIMITERS = ",;\t"


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the rows of a task look like.

    **Attributes:**

    - `required`: columns that must be there.
    - `expected`: what a refusal of a file ends with: which columns, and what they mean.
    - `names`: for each column other names that people give it, in lower case, the commonest first.
      The case of a name does not matter.
    - `plain`: for files without a header: a line as a record, or None where it is no row.
    - `row`: what `plain` takes a line for, as a bad row says it.
    - `others`: formats that are known but not read: a pattern of the first line, and what to say.
    """

    required: Sequence[str]
    expected: str
    names: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    plain: Callable[[str], Record | None] | None = None
    row: str = ""
    others: Sequence[tuple[str, str]] = ()

    @functools.cached_property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """Each column, and what it may be called, in lower case."""
        known = dict.fromkeys((*self.required, *self.names))
        return {name: (name.lower(), *self.names.get(name, ())) for name in known}

    def canonical(self, given: Iterable[str]) -> dict[str, str]:
        """For each of the `given` names the column that it stands for, or itself."""
        stands = {name: name.strip() for name in given}
        lower = {name.strip().lower(): name for name in reversed(stands)}
        for column, names in self.columns.items():
            if (name := next((lower[each] for each in names if each in lower), None)) is not None:
                stands[name] = column
        return stands

    def header(self, given: Sequence[str], where: str) -> list[str]:
        """The columns that the `given` names stand for. **Raises** `InputError` where one is
        missing or is there twice."""
        stands = self.canonical(given)
        header = [stands[name] for name in given]
        for name in self.required:
            if name not in header:
                there = ", ".join(header)
                there = there if len(there) <= 100 else there[:97] + "..."
                raise InputError(f"{where}: no column {name!r} (found: {there!r}); {self.expected}")
        if doubled := sorted({name for name in header if header.count(name) > 1}):
            raise InputError(
                f"{where}: column {doubled[0]!r} is there twice; name each column once"
            )
        return header


def read_records(
    path: Path | str, layout: Layout, *, on_bad: OnBad, progress: Progress | None = None
) -> Iterator[tuple[int, Record]]:
    """Streams the rows of a file, in bounded memory.

    The file may be CSV with a header (separated by commas, semicolons or tabs), JSON with one
    object a line or one array of objects, parquet, or what `layout.plain` reads; compressed and
    encoded as `_open` knows it. In CSV a row ends where its line ends, quoted or not: a stray
    quotation mark costs one row, not the rest of the file. Blank lines are no rows.

    **Arguments:**

    - `on_bad`: gets rows with a wrong number of fields, broken quoting or JSON, text that cannot be
      decoded, or more than 2^20 characters.
    - `progress`: gets (bytes read, bytes in all) of the file as it lies on the disk.

    **Yields** the number of the line (of the row, in parquet and arrays; both from 1) and the
    record, by column name.

    **Raises** `InputError` as `open_text`, and for a file that is empty or has no rows, that lacks
    a column or has one twice, or that is in another format.
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
            # Undecodable bytes become lone surrogates, so that they spoil a row and not the file.
            text, below = stack.enter_context(opened(path, "surrogateescape", layout.expected))
            rows, position = _parsed(path, text, layout), below.tell
        for number, record in rows:
            count += 1
            if progress is not None and count % 4096 == 0:
                progress(position(), size)
            if isinstance(record, str):
                on_bad(Bad(f"{path}:{number}", record))
            else:
                yield number, record
    if count == 0:
        raise InputError(f"{path}: a header but no rows; {layout.expected}")
    if progress is not None:
        progress(size, size)


Parsed = Iterator[tuple[int, "Record | str"]]
"""Number and record of each row, or what is wrong with it."""
_Lines = Iterator[tuple[int, str]]


def _parsed(path: Path, text: TextIO, layout: Layout) -> Parsed:
    """The rows of a text file, whichever layout it has."""
    lines = _lines(text)
    comments = ("#", "//")
    number, first = next(((n, line) for n, line in lines if not line.startswith(comments)), (0, ""))
    if not first:
        raise InputError(f"{path}: the file is empty; {layout.expected}")
    if not _is_utf8(first):
        raise InputError(f"{path}:{number}: not UTF-8 text; {layout.expected}")
    for pattern, what in layout.others:
        if re.match(pattern, first):
            raise InputError(f"{path}:{number}: this is {what}; {layout.expected}")
    start = first.lstrip()
    if start.startswith("["):
        return _json_array(path, first + text.read(_LONGEST_JSON), layout)
    lines = itertools.chain([(number, first)], lines)
    if start.startswith("{"):
        return _json_lines(path, lines, layout)
    if layout.plain is not None and layout.plain(first) is not None:
        return _plain(lines, layout.plain, layout.row, comments)
    return _csv(path, lines, layout)


def _lines(text: TextIO) -> _Lines:
    """The lines that are not blank, numbered from 1; of a longer line the first `LONGEST_LINE`
    characters, without its end."""
    number = 0
    while line := text.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE and not line.endswith("\n"):
            while (more := text.readline(LONGEST_LINE)) and not more.endswith("\n"):
                pass
        if not line.isspace():
            yield number, line


def _plain(
    lines: _Lines, plain: Callable[[str], Record | None], row: str, comments: tuple[str, ...]
) -> Parsed:
    for number, line in lines:
        if not line.startswith(comments):
            record = None if _unreadable(line) else plain(line)
            yield (
                number,
                _unreadable(line) or f"no {row} in this line" if record is None else record,
            )


# --- CSV


def _csv(path: Path, lines: _Lines, layout: Layout) -> Parsed:
    number, line = next(lines)
    known = {name for names in layout.columns.values() for name in names}

    def columns_known(delimiter: str) -> int:
        return len(known.intersection(n.strip().lower() for n in _fields(line, None, delimiter)[0]))

    delimiter = max(_DELIMITERS, key=columns_known)
    names, _ = _fields(line, None, delimiter)
    header = layout.header(names, f"{path}:{number}")
    for number, line in lines:
        fields, why = _fields(line, len(header), delimiter)
        yield number, why or dict(zip(header, fields, strict=True))


def _fields(line: str, count: int | None, delimiter: str) -> tuple[list[str], str]:
    """The fields of one line, and what is wrong with them ("" if nothing is)."""
    if why := _unreadable(line):
        return [], why
    if '"' in line:
        spaced = '", "' in line  # by hand, or by a program that wants it to look nice
        try:
            fields = next(
                csv.reader([line], delimiter=delimiter, strict=True, skipinitialspace=spaced)
            )
        except csv.Error as error:
            return [], f"broken quoting ({one_line(error)})"
    else:
        # Several times as fast as the csv module, and the same where nothing is quoted.
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
                f"{path}:{number}: JSON, but not one object a line ({value}); convert it: jq -c "
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
            f"write one object a line: jq -c '.[]' FILE > FILE.jsonl; {layout.expected}"
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
    # Numbers stay the text that they are: a reader decides what it takes for one.
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
    """A value of a record as text, a list of values with spaces between; None for what has none."""
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
        wanted = [name for name in names if columns[name] in layout.columns]
        number = 0
        for batch in file.iter_batches(batch_size=4096, columns=wanted):
            for value in batch.to_pylist():
                number += 1
                yield number, _record(value, columns, layout)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(
            f"{path}: a parquet file that cannot be read ({one_line(error)[:80]}); fetch or make "
            f"it again; {layout.expected}"
        ) from None
