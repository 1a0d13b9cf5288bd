"""What is installed is what is on disk, under the names that imports use."""

import importlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import eqloop

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"eqloop": "eqloop", "tasks": "eqloop.tasks", "cli": "eqloop.cli"}


def packages_on_disk() -> set[str]:
    packages = set()
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("__init__.py"):
            below = path.parent.relative_to(ROOT / folder).parts
            if folder == "eqloop" and below and below[0] in {"tasks", "cli"}:
                continue  # links: their packages are listed under the folders that they lead to
            packages.add(".".join((package, *below)))
    return packages


def sources_on_disk() -> set[str]:
    """List every module and data file of the package by its path in the wheel."""
    paths = set()
    for package in packages_on_disk():
        folder = ROOT.joinpath(*package.split("."))
        for path in folder.rglob("*"):
            if path.suffix in {".py", ".toml", ".html", ".css", ".js"} or path.name == "py.typed":
                paths.add(path.relative_to(ROOT).as_posix())
    return {path for path in paths if "__pycache__" not in path}


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_every_folder_is_in_the_package_list(project):
    """A forgotten package works in an editable install and is missing from the wheel."""
    listed = project["tool"]["setuptools"]["packages"]
    assert listed == sorted(listed)
    assert set(listed) == packages_on_disk()


def test_every_folder_of_modules_is_a_package():
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), path


@pytest.mark.parametrize("name", ["tasks", "cli"])
def test_linked_folders(name, monkeypatch):
    """Tools that follow links see one tree, and each module has one name to import it by."""
    link = ROOT / "eqloop" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..") / name
    monkeypatch.syspath_prepend(ROOT)
    with pytest.raises(ImportError, match=f"import eqloop.{name}"):
        importlib.import_module(name)


def test_one_version(project):
    assert "version" not in project["project"]
    assert importlib.metadata.version("eqloop") == eqloop.__version__


def test_every_public_name_loads():
    for name in dir(eqloop):
        assert getattr(eqloop, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'LoopedTransfomer'"):
        _ = eqloop.LoopedTransfomer  # pyright: ignore[reportAttributeAccessIssue]


def test_tools_are_pinned_and_libraries_bounded(project):
    tools = ("hypothesis", "playwright", "pre-commit", "pyright", "pytest", "ruff")
    for line in project["dependency-groups"]["dev"]:
        assert ("==" in line) == line.startswith(tools), line
    for line in project["project"]["dependencies"]:
        assert ">=" in line
        assert "==" not in line


@pytest.mark.slow
def test_wheel(tmp_path):
    """The wheel holds every source file, and puts nothing outside `eqloop`."""
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not on PATH: the wheel is built by it")
    # Build through the sdist (no `--wheel`), so that no stale build/ folder gets in.
    completed = subprocess.run(
        [uv, "build", "--python", sys.executable, "--out-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    assert names == sources_on_disk()
    assert {"eqloop/tasks/__init__.py", "eqloop/cli/__init__.py", "eqloop/py.typed"} <= names
    metadata = [n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" in n]
    assert any(n.endswith("licenses/LICENSE") for n in metadata)
    assert any(n.endswith("entry_points.txt") for n in metadata)
