"""Every command and option says what it does in a sentence."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from eqloop.cli._main import app

VERBS = {
    *("Add", "Begin", "Call", "Check", "Choose", "Differentiate", "Draw", "Evaluate", "Examine"),
    *("Expect", "Give", "Go", "Iterate", "Load", "Make", "Measure", "Only", "Place", "Print"),
    *(
        "Read",
        "Replace",
        "Run",
        "Set",
        "Share",
        "Show",
        "Skip",
        "Solve",
        "Stop",
        "Take",
        "Train",
        "Use",
    ),
    *("Wait", "Write"),
}
"""An option tells the program to do something: its help begins with the verb."""


def commands() -> Iterator[tuple[str, Any]]:
    def walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
        yield path, command
        for name, sub in getattr(command, "commands", {}).items():
            yield from walk(sub, f"{path} {name}")

    yield from walk(typer.main.get_command(app), "eqloop")


def parameters() -> Iterator[tuple[str, Any]]:
    for path, command in commands():
        for parameter in command.params:
            if parameter.name != "help" and not getattr(parameter, "hidden", False):
                yield f"{path} {parameter.opts[0]}", parameter


@pytest.mark.parametrize("parameter", [pytest.param(p, id=name) for name, p in parameters()])
def test_the_help_of_an_option_is_a_sentence(parameter):
    text = parameter.help
    assert text
    assert text.split()[0] in VERBS, text
    assert text.endswith("."), text
    assert len(text.split()) >= 3, text


@pytest.mark.parametrize("command", [pytest.param(c, id=path) for path, c in commands()])
def test_the_help_of_a_command_is_made_of_sentences(command):
    first, *others = [" ".join(part.split()) for part in command.help.split("\n\n")]
    assert first.split()[0] in VERBS | {"Compare"}, first
    assert first.endswith("."), first
    for text in others:
        assert text.startswith("Example: ") or text.rstrip().endswith((".", ":")), text
