"""Classes from files and from entry points: what is loaded, and the message where nothing is."""

import hashlib
import importlib.metadata
import sys

import pytest

from eqloop import InputError
from eqloop._plugins import entry_point_classes, load_class, origin

SOURCE = """
import dataclasses

@dataclasses.dataclass(frozen=True)
class Mine:
    size: int = 3
"""


def test_a_class_of_a_file(tmp_path, monkeypatch):
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    loaded = load_class("mine.py:Mine", "task")
    assert loaded().size == 3
    assert load_class(f"{path}:Mine", "task") is loaded  # one file gives one class
    assert origin(loaded) == (f"{path}:Mine", hashlib.sha256(path.read_bytes()).hexdigest())
    assert origin(int) is None
    # The new text has the same length and the same second, so that cached bytecode would not
    # notice.
    path.write_text(SOURCE.replace("3", "4"))
    changed = load_class("mine.py:Mine", "task")
    assert (changed().size, loaded().size) == (4, 3)
    assert origin(changed) != origin(loaded)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.py"]


@pytest.mark.parametrize(
    ("source", "reference", "words"),
    [
        (None, "mine.py:Mine", "no such file"),
        (SOURCE, "mine.py", "path/to/file.py:Name"),
        (SOURCE, "mine.py:", "path/to/file.py:Name"),
        (SOURCE, "mine.txt:Mine", "path/to/file.py:Name"),
        (SOURCE, "mine.py:mine", "has no class mine; did you mean Mine?"),
        ("x = 1", "mine.py:Mine", "it defines no class"),
        ("Mine = 1", "mine.py:Mine", "has no class Mine"),
        ("x = 1\ny = (", "mine.py:Mine", r"mine\.py:2: SyntaxError: '\(' was never closed"),
        ("\n\nraise OSError('a\\nb')", "mine.py:Mine", r"mine\.py:3: OSError: a b"),
        ("import no_such_thing", "mine.py:Mine", r"mine\.py:1: ModuleNotFoundError"),
        ("raise SystemExit(3)", "mine.py:Mine", r"mine\.py:1: SystemExit: 3"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(tmp_path, monkeypatch, source, reference, words):
    monkeypatch.chdir(tmp_path)
    if source is not None:
        (tmp_path / "mine.py").write_text(source)
    before = set(sys.modules)
    with pytest.raises(InputError, match=words) as caught:
        load_class(reference, "task")
    assert str(caught.value).startswith("task ")
    assert "\n" not in str(caught.value)
    if source is not None and "class" not in source and "= 1" not in source:
        assert set(sys.modules) <= before  # a second try runs the file again


def test_a_folder_or_pipe_is_no_file(tmp_path):
    (tmp_path / "mine.py").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        load_class(f"{tmp_path}/mine.py:Mine", "task")


def test_entry_points(monkeypatch):
    def points(*, group):
        assert group == "eqloop.tasks"
        values = {"good": "fractions:Fraction", "bad": "no_such_thing:X", "odd": "math:pi"}
        return [importlib.metadata.EntryPoint(n, v, group) for n, v in values.items()]

    monkeypatch.setattr(importlib.metadata, "entry_points", points)
    loaders = entry_point_classes("eqloop.tasks")
    assert loaders["good"]().__name__ == "Fraction"
    with pytest.raises(InputError, match=r"bad = no_such_thing:X of eqloop\.tasks cannot be "):
        loaders["bad"]()
    with pytest.raises(InputError, match=r"odd = math:pi of eqloop\.tasks names no class"):
        loaders["odd"]()
