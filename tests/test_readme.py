"""The instructions of the README and of the pages work."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from eqloop.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str, page: Path = PAGES[0]) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [text for kind, text in fenced if kind == language]


def test_the_library_example_has_five_lines():
    """It is that of the first page, which the next test runs."""
    (example,) = blocks("python")
    assert sum(bool(line) for line in example.splitlines()) == 5
    assert example in blocks("python", ROOT / "docs/index.md")


@pytest.mark.parametrize(
    "page", [p for p in PAGES[1:] if blocks("python", p)], ids=lambda page: page.stem
)
def test_examples_print_what_the_page_says(page, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    for example in blocks("python", page):
        names: dict = {}
        exec(compile(example, str(page), "exec"), names)
        assert capsys.readouterr().out in page.read_text("utf-8")
        if "Reverse" in names:  # a task prints nothing
            task = names["Reverse"]()
            split = task.generate(5, seed=0)
            np.testing.assert_array_equal(split.targets, split.inputs[:, ::-1])
            assert task.encode(split.inputs[0]).shape == (8, 10)


def test_two_commands():
    """Each is one line, for a machine that has pip and no uv."""
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert [c for c in commands if "pip install uv" in c] == [
        "pip install uv && uv run eqloop train",
        "pip install uv && uv run --group dev pytest",
    ]


def named_commands() -> list[str]:
    """List every `eqloop ...` that the pages mention, in a block or in the text."""
    commands = set()
    for page in PAGES:
        for text in re.findall(r"`(eqloop [a-z][^`]*)`", page.read_text("utf-8")):
            commands.add(text.split("[")[0])
        for block in blocks("sh", page):
            for line in block.splitlines():
                commands |= set(
                    re.findall(r"(?:^|uv run )(eqloop .*)$", line.split("#")[0].strip())
                )
    return sorted(commands)


@pytest.mark.parametrize("command", named_commands())
def test_commands_exist(command, capsys):
    words = [w.strip(",") for w in shlex.split(command)[1:]]
    path = [w for w in words if w.isalpha() and w.islower()]
    while path and main([*path, "--help"]) != 0:
        path.pop()  # this is an argument of the command, not the name of a command
    assert path, f"a page names `{command}`, which does not exist"
    help_text = capsys.readouterr().out
    for option in (w for w in words if w.startswith("--")):
        assert option.split("=")[0] in help_text, f"a page gives `{command}` an unknown {option}"


def test_the_tree_is_the_tree():
    """The tree in CONTRIBUTING.md has one comment per folder and lists every folder."""
    (tree,) = [text for text in blocks("", PAGES[1]) if text.startswith("eqloop/")]
    listed, parent = set(), ""
    for line in tree.splitlines():
        name, comment = line.strip().split(maxsplit=1)
        assert comment
        parent = name if not line.startswith(" ") else parent
        listed.add(parent + (name if line.startswith(" ") else ""))
    for folder in listed:
        assert (ROOT / folder).is_dir(), folder
    folders = {f"eqloop/{p.parent.name}/" for p in (ROOT / "eqloop").glob("*/__init__.py")}
    assert folders - {"eqloop/tasks/", "eqloop/cli/"} <= listed


def anchors(page: Path) -> set[str]:
    """The anchors that Python-Markdown gives to the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {
        re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert path.startswith("http") or target.exists(), link
        assert not anchor or anchor in anchors(target), link
        # The site has what is in docs, and nothing else of the repository.
        inside = ROOT / "docs" in target.resolve().parents
        assert page.parent == ROOT or path.startswith("http") or inside, link


def test_entries_of_the_log_exist():
    """A title in brackets on the page of failures is the beginning of an entry of the log."""
    log = " ".join((ROOT / "benchmarks/LOG.md").read_text("utf-8").replace("*", "").split())
    for title in re.findall(r'\("([^"]+)"', (ROOT / "docs/failures.md").read_text("utf-8")):
        assert title in log, title
