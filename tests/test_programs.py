"""Compiled programs that commands keep, in processes of their own: JAX reads where when it is
imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eqloop.cli import _programs

CHILD = """
import sys
from eqloop.cli import _programs
_programs.keep_programs()
import jax
print(jax.jit(lambda x: x + 1)(1).tolist(), jax.config.jax_compilation_cache_dir)
"""


def compile_one(cache: Path, **variables: str) -> tuple[str, str, str]:
    """Compile one program in a new process. Return its result, its folder, and its stderr."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    variables = {"EQLOOP_CACHE": str(cache), _programs.SHORTEST: "0", **variables}
    done = subprocess.run(
        [sys.executable, "-c", CHILD], env=kept | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    result, folder = done.stdout.split()
    return result, folder, done.stderr


def programs(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*-cache"))


def test_programs_are_kept_and_damaged_ones_written_anew(tmp_path):
    result, folder, errors = compile_one(tmp_path)
    assert (result, errors) == ("2", "")
    assert Path(folder).parent == tmp_path / "programs"
    whole = {path: path.read_bytes() for path in programs(tmp_path)}
    assert whole
    for path, content in whole.items():
        path.write_bytes(content[: len(content) // 2])  # as a process leaves it that is killed
    assert compile_one(tmp_path) == ("2", folder, "")  # deletes them
    assert compile_one(tmp_path) == ("2", folder, "")  # writes them anew
    assert programs(tmp_path) == sorted(whole)


def test_a_folder_of_the_user_counts_and_one_that_cannot_be_written_does_no_harm(tmp_path):
    own = tmp_path / "own"
    result, folder, errors = compile_one(tmp_path / "cache", JAX_COMPILATION_CACHE_DIR=str(own))
    assert (result, folder, errors) == ("2", str(own), "")
    assert programs(own)
    assert not (tmp_path / "cache").exists()
    (tmp_path / "file").touch()
    result, folder, errors = compile_one(tmp_path / "file")
    assert (result, errors) == ("2", "")


def test_a_process_with_jax_is_left_alone(monkeypatch):
    monkeypatch.delenv(_programs.FOLDER, raising=False)
    _programs.keep_programs()
    assert _programs.FOLDER not in os.environ


def test_the_programs_not_used_for_longest_are_deleted(tmp_path):
    for age in range(4):
        path = tmp_path / f"jit_{age}-cache"
        path.write_bytes(bytes(10))
        os.utime(path, (1000 - age, 1000 - age))
    _programs._shrink(tmp_path, 25)
    assert [path.name for path in programs(tmp_path)] == ["jit_0-cache", "jit_1-cache"]
    _programs._shrink(tmp_path / "absent", 25)


@pytest.mark.parametrize("flags", ["fpu avx2", "fpu avx512f"])
def test_each_kind_of_processor_has_its_own_programs(flags, monkeypatch):
    before = _programs._processor()
    text = f"vendor_id\t: x\nmodel name\t: y\nflags\t\t: {flags}\nbogomips : 1\n\nprocessor : 1\n"
    monkeypatch.setattr(Path, "read_text", lambda *_: text)
    one = _programs._processor()
    assert one != before
    text = text.replace("bogomips : 1", "bogomips : 2")
    assert _programs._processor() == one
    text = text.replace("fpu", "fpu sse2")
    assert _programs._processor() != one
