"""The instructions of the README work."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from eqloop.cli import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


def test_the_library_examples_run(capsys):
    """Each example has five lines: one has a model of ours, the other a user's map."""
    for example, output in zip(
        blocks("python")[:2], ("(9, 9, 10) 244", "16 of 16 settled"), strict=True
    ):
        assert sum(bool(line) for line in example.splitlines()) == 5
        exec(compile(example, "README.md", "exec"), {})
        assert output in capsys.readouterr().out


def test_the_task_of_the_readme_makes_examples():
    (example,) = blocks("python")[2:]
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    task = names["Reverse"]()
    split = task.generate(5, seed=0)
    np.testing.assert_array_equal(split.targets, split.inputs[:, ::-1])
    assert task.encode(split.inputs[0]).shape == (8, 10)


def test_two_commands():
    """Each is one line, for a machine that has pip and no uv."""
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert [c for c in commands if "pip install" in c] == [
        "pip install uv && uv run eqloop train",
        "pip install uv && uv run --group dev pytest",
    ]


def named_commands() -> list[str]:
    """List every `eqloop ...` that the README mentions, in a block or in the text."""
    commands = set()
    for text in re.findall(r"`(eqloop [a-z][^`]*)`", README):
        commands.add(text.split("[")[0])
    for block in blocks("sh"):
        for line in block.splitlines():
            commands |= set(re.findall(r"(?:^|uv run )(eqloop .*)$", line))
    return sorted(commands)


@pytest.mark.parametrize("command", named_commands())
def test_commands_exist(command, capsys):
    words = [w.strip(",") for w in shlex.split(command)[1:]]
    path = [w for w in words if w.isalpha() and w.islower()]
    while path and main([*path, "--help"]) != 0:
        path.pop()  # this is an argument of the command, not the name of a command
    assert path, f"README names `{command}`, which does not exist"
    help_text = capsys.readouterr().out
    for option in (w for w in words if w.startswith("--")):
        assert option.split("=")[0] in help_text, f"README gives `{command}` an unknown {option}"


def test_the_tree_is_the_tree():
    """The tree in the README has one comment per folder and lists every folder."""
    (tree,) = [text for text in blocks("") if text.startswith("eqloop/")]
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


def test_nothing_is_left_to_fill_in():
    assert "FIGURE" not in README


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
