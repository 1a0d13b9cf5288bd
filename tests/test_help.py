"""Every command and option says what it does in a sentence."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from eqloop.cli._main import app

VERBS = {
    *("Add", "Begin", "Call", "Check", "Choose", "Differentiate", "Draw", "Evaluate", "Examine"),
    *("Expect", "Give", "Go", "Iterate", "Load", "Make", "Measure", "Only", "Place", "Print"),
    *("Read", "Replace", "Run", "Set", "Share", "Show", "Solve", "Stop", "Take", "Train", "Use"),
    *("Wait", "Write"),
}
"""An option tells the program to do something: its help begins with the verb."""


def parameters() -> Iterator[tuple[str, Any]]:
    def walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
        for parameter in command.params:
            if parameter.name != "help" and not getattr(parameter, "hidden", False):
                yield f"{path} {parameter.opts[0]}", parameter
        for name, sub in getattr(command, "commands", {}).items():
            yield from walk(sub, f"{path} {name}")

    yield from walk(typer.main.get_command(app), "eqloop")


@pytest.mark.parametrize("parameter", [pytest.param(p, id=name) for name, p in parameters()])
def test_the_help_of_an_option_is_a_sentence(parameter):
    text = parameter.help
    assert text
    assert text.split()[0] in VERBS, text
    assert text.endswith("."), text
    assert len(text.split()) >= 3, text
