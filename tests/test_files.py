"""The files of the tasks: what is written is read back, and every fault is one clear line."""

import csv
import gzip
import io
import json
import string
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eqloop import InputError
from eqloop._task import Bad, Layout, Split, _dataset, _files, _open, read_records
from eqloop.tasks import TASKS, make_task

SUFFIXES = (".csv", ".csv.gz", ".csv.zst")
quick = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("EQLOOP_CACHE", str(folder))
    return folder


def compress(text: bytes, suffix: str) -> bytes:
    if suffix.endswith(".gz"):
        return gzip.compress(text)
    if suffix.endswith(".zst"):
        return zstandard.compress(text)
    return text


LAYOUT = Layout(("a", "b"), "a CSV file with the columns a, b is expected")


def rows_of(path: Path, on_bad=_files.refuse) -> list[dict[str, str]]:
    return [row for _, row in read_records(path, LAYOUT, on_bad=on_bad)]


# --- what is written is read back

cells = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\x0b\x0c\x1c\x1d\x1e\x85"),
    max_size=8,
)


@quick
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=20), st.sampled_from(SUFFIXES))
def test_every_csv_row_comes_back(tmp_path, rows, suffix):
    rows = [(a, "x" + b) for a, b in rows]  # a row that holds only blanks would be a blank line
    path = tmp_path / f"f{suffix}"
    with _files.write_text(path) as out:
        csv.writer(out, lineterminator="\n").writerows([("a", "b"), *rows])
    assert rows_of(path) == [{"a": a, "b": b} for a, b in rows]


@quick
@given(st.binary(max_size=300), st.sampled_from(SUFFIXES))
def test_any_bytes_are_rows_bad_rows_or_one_line(tmp_path, data, suffix):
    path = tmp_path / f"f{suffix}"
    path.write_bytes(compress(b"a,b\n" + data, suffix))
    tally, rows, refused = _files.Tally(), [], ""
    try:
        rows = list(read_records(path, LAYOUT, on_bad=tally))
    except InputError as error:
        refused = str(error)
    if refused:
        assert "\n" not in refused
        assert str(path) in refused
    else:
        assert rows or tally.count
        assert all(set(row) == {"a", "b"} for _, row in rows)
        assert all(bad.where.startswith(f"{path}:") and "\n" not in bad.why for bad in tally.first)


@quick
@given(st.binary(max_size=200), st.sampled_from(SUFFIXES))
def test_any_file_at_all_raises_nothing_but_input_errors(tmp_path, data, suffix):
    path = tmp_path / f"f{suffix}"
    path.write_bytes(data)
    refused = ""
    try:
        rows_of(path, on_bad=_files.Tally())
    except InputError as error:
        refused = str(error)
    assert "\n" not in refused


@quick
@given(st.integers(1, 400), st.sampled_from(SUFFIXES[1:]))
def test_a_compressed_file_cut_anywhere_is_refused(tmp_path, cut, suffix):
    text = "a,b\n" + "".join(f"{i},{i * i % 97}\n" for i in range(200))
    whole = compress(text.encode(), suffix)
    path = tmp_path / f"f{suffix}"
    path.write_bytes(whole[: max(1, len(whole) - cut)])
    with pytest.raises(InputError, match=r"truncated|decompressed|cannot be read"):
        rows_of(path)


def test_zstd_frames_follow_one_another(tmp_path):
    path = tmp_path / "f.csv.zst"
    path.write_bytes(zstandard.compress(b"a,b\n1,") + zstandard.compress(b"2\n3,4\n"))
    assert rows_of(path) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


def test_byte_order_mark_carriage_returns_and_blank_lines(tmp_path):
    path = tmp_path / "f.csv"
    path.write_bytes(b"\xef\xbb\xbfa,b\r\n1,2\r\n\r\n3,4")
    assert list(read_records(path, LAYOUT, on_bad=_files.refuse)) == [
        (2, {"a": "1", "b": "2"}),
        (4, {"a": "3", "b": "4"}),
    ]


# --- whatever is wrong with the file is one line

WHOLE = {
    "empty": (b"", "the file is empty; a CSV file with the columns a, b is expected"),
    "missing column": (b"a,c\n1,2\n", "no column 'b'"),
    "doubled column": (b"a,b,a\n1,2,3\n", "column 'a' occurs twice"),
    "header only": (b"a,b\n", "a header but no rows"),
    "blank lines only": (b"a,b\n\n  \n", "a header but no rows"),
    "utf-16 cut off": ("a,b\n1,2\n".encode("utf-16")[:-1], "not UTF-8 text"),
    "json": (b'{"a": 1, "c": 2}\n', "no column 'b'"),
    "binary": (bytes(range(256)), "not UTF-8 text|no column"),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("case", WHOLE)
def test_a_file_that_cannot_be_used(tmp_path, case, suffix):
    data, message = WHOLE[case]
    path = tmp_path / f"f{suffix}"
    path.write_bytes(compress(data, suffix))
    with pytest.raises(InputError, match=message) as caught:
        rows_of(path, on_bad=_files.Tally())
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ["f", "f.csv", "f.gz", "f.zip", "f.parquet"])
def test_what_a_file_holds_decides_and_not_its_name(tmp_path, suffix, name):
    (tmp_path / name).write_bytes(compress(b"a,b\n1,2\n", suffix))
    assert rows_of(tmp_path / name) == [{"a": "1", "b": "2"}]


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        rows_of(tmp_path / "none.csv")
    with pytest.raises(InputError, match="is a folder, but a file is needed"):
        rows_of(tmp_path)


def test_open_text_names_undecodable_text(tmp_path):
    path = tmp_path / "f.txt"
    path.write_bytes(b"caf\xe9\n")
    with pytest.raises(InputError, match="not UTF-8"), _open.open_text(path) as text:
        text.read()


# --- whatever is wrong with a row is told with its line, and costs that row only

ROWS = {
    "too few fields": (b"1", "1 fields, but the header has 2"),
    "too many fields": (b"1,2,3", "3 fields, but the header has 2"),
    "not UTF-8": (b"1,caf\xe9", "not UTF-8 text"),
    "stray quote": (b'1,"2', "broken quoting"),
    "text after a quote": (b'"1"x,2', "broken quoting"),
    "endless": (b"1," + b"9" * (3 << 20), "more than 1048576 characters"),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_row_that_cannot_be_used(tmp_path, case):
    data, message = ROWS[case]
    path = tmp_path / "f.csv"
    path.write_bytes(b"a,b\n1,2\n" + data + b"\n3,4\n")
    tally = _files.Tally()
    assert [row["a"] for row in rows_of(path, on_bad=tally)] == ["1", "3"]
    assert tally.count == 1
    assert tally.first[0].where == f"{path}:3"
    assert message in tally.first[0].why
    with pytest.raises(InputError, match=r"f\.csv:3: .*--skip-bad"):
        rows_of(path)


def test_the_tally_keeps_the_first_ten():
    tally = _files.Tally()
    for line in range(25):
        tally(Bad(f"f:{line}", "no"))
    assert tally.count == 25
    assert [bad.where for bad in tally.first] == [f"f:{line}" for line in range(10)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_reading_streams_in_bounded_memory_and_reports_progress(tmp_path, suffix):
    path = tmp_path / f"f{suffix}"
    rows = 60_000
    with _files.write_text(path) as out:
        out.write("a,b\n")
        out.writelines(f"{i},{'x' * 100}\n" for i in range(rows))
    progress: list[tuple[int, int | None]] = []
    tracemalloc.start()
    count = sum(
        1
        for _ in read_records(
            path, LAYOUT, on_bad=_files.refuse, progress=lambda *at: progress.append(at)
        )
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == rows
    assert peak < 3e6  # the text has 6.4 MB
    assert progress == sorted(progress)
    assert progress[-1] == (path.stat().st_size, path.stat().st_size)


# --- writing is all or nothing


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "deep" / "f.txt"
    with _files.write_atomic(path, "w") as out:
        out.write("old")

    def interrupted():
        with _files.write_atomic(path, "w") as out:
            out.write("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert [child.name for child in path.parent.iterdir()] == ["f.txt"]


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"name a file to write|cannot be written"):
            _files.write_atomic(path).__enter__()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_text_gives_equal_files(tmp_path, suffix):
    contents = []
    for name in ("one", "two"):
        with _files.write_text(tmp_path / f"{name}{suffix}") as out:
            out.write("a,b\n1,2\n")
        contents.append((tmp_path / f"{name}{suffix}").read_bytes())
    assert contents[0] == contents[1]


# --- the cache


def an_example(rows: int = 3) -> Split:
    return Split(
        inputs=np.arange(rows * 2, dtype=np.uint8).reshape(rows, 2),
        targets=np.ones((rows, 2), np.uint8),
        difficulty=np.linspace(0, 1, rows, dtype=np.float32),
        puzzles=np.array([b"01"] * rows),
        columns={"themes": np.eye(rows, dtype=bool)},
    )


def assert_equal(actual: Split, expected: Split) -> None:
    one_arrays, other_arrays = _dataset.pack({"": actual}), _dataset.pack({"": expected})
    assert one_arrays.keys() == other_arrays.keys()
    for name, values in one_arrays.items():
        np.testing.assert_array_equal(values, other_arrays[name])
        assert values.dtype == other_arrays[name].dtype


def test_splits_are_saved_and_loaded(tmp_path):
    path = tmp_path / "splits.npz"
    _dataset.save({"train": an_example(), "hard": an_example(0)}, path)
    loaded = _dataset.load(path)
    assert list(loaded) == ["train", "hard"]
    assert_equal(loaded["train"], an_example())
    assert_equal(loaded["hard"], an_example(0))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"splits\.npz"):
        _dataset.load(path)


@pytest.mark.parametrize("harm", ["none", "cut", "altered", "method", "empty", "pickle"])
def test_the_cache_builds_once_and_again_when_it_is_harmed(cache, caplog, harm):
    built = []

    def build():
        built.append(1)
        return {"x": np.arange(1000)}

    key = {"task": "t", "version": 1}
    first = _dataset.cached(key, build)
    (path,) = (cache / "data").iterdir()
    data = path.read_bytes()
    if harm == "cut":
        path.write_bytes(data[:-40])
    elif harm == "altered":
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :])
    elif (
        harm == "method"
    ):  # a byte of the compression header, which no checksum of the zip format covers
        place = data.rindex(b"PK\x01\x02") + 10
        path.write_bytes(data[:place] + b"\x0e" + data[place + 1 :])
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "pickle":
        stream = io.BytesIO()
        np.savez(stream, x=np.array([{}], object))
        path.write_bytes(stream.getvalue())
    second = _dataset.cached(key, build)
    np.testing.assert_array_equal(first["x"], second["x"])
    assert len(built) == (1 if harm == "none" else 2)
    assert ("it is rebuilt" in caplog.text) == (harm != "none")
    _dataset.cached(key | {"version": 2}, build)
    assert len(built) == (2 if harm == "none" else 3)


def test_a_cache_that_cannot_be_written_is_done_without(cache, caplog, monkeypatch):
    (cache / "file").write_text("")
    monkeypatch.setenv("EQLOOP_CACHE", str(cache / "file" / "below"))
    assert _dataset.cached({}, lambda: {"x": np.ones(1)})["x"] == 1
    assert "not cached" in caplog.text


def test_the_source_is_known_by_its_content(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).write_text("same")
    one, two = (_dataset.describe(tmp_path / name) for name in ("one", "two"))
    assert one["sha256"] == two["sha256"]
    assert one["size"] == 4
    both = _dataset.describe(tmp_path, ["one", "two"])
    assert both["size"] == 8
    json.dumps(both)
    with pytest.raises(InputError, match="no such file"):
        _dataset.describe(tmp_path, ["three"])


def test_the_hash_of_rows_sees_every_array():
    split = an_example()
    assert _dataset.rows_hash(split) == _dataset.rows_hash(an_example())
    assert _dataset.rows_hash(split) != _dataset.rows_hash(split.take(slice(2)))
    assert _dataset.rows_hash(split) != _dataset.rows_hash(split.take(np.array([1, 0, 2])))
    themed = Split(split.inputs, split.targets, split.difficulty, split.puzzles, {})
    assert _dataset.rows_hash(split) != _dataset.rows_hash(themed)


@quick
@given(st.integers(0, 500), st.integers(0, 2**32 - 1))
def test_a_partition_is_one(rows, seed):
    train, validation = _dataset.partition(rows, seed)
    assert len(train) == round(rows * 0.8)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(rows))
    again, _ = _dataset.partition(rows, seed)
    np.testing.assert_array_equal(train, again)


def test_a_partition_stays_what_it_was():
    np.testing.assert_array_equal(_dataset.partition(10, 42)[1], [3, 6])


# --- the table of tasks


def test_tasks_are_listed_without_importing_them():
    assert set(TASKS) == {"prefix-sums", "sudoku", "chess", "maze", "group-words"}


MADE = {
    "unknown task": ("sudoko", {}, "did you mean sudoku"),
    "nothing near": ("zzz", {}, "known: chess, group-words, maze, prefix-sums, sudoku"),
    "unknown field": ("sudoku", {"givns": 30}, "unknown field task.givns; did you mean"),
    "text for a number": (
        "sudoku",
        {"givens": "30"},
        "must be a whole number, got '30'",
    ),
    "bool for a number": ("sudoku", {"rows": True}, "task.rows must be a whole number, got True"),
    "number for a bool": ("sudoku", {"augment": 1}, "task.augment must be true or false, got 1"),
}


@pytest.mark.parametrize("case", MADE)
def test_a_task_that_cannot_be_made(case):
    name, fields, message = MADE[case]
    with pytest.raises(InputError, match=message):
        make_task(name, fields)


@given(st.text(string.printable, max_size=8))
@quick
def test_any_other_name_is_an_input_error(name):
    if name not in TASKS:
        with pytest.raises(InputError):
            make_task(name, {})
