"""The fields that `--set` knows: their meanings, and the messages about a misspelt one."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from eqloop import InputError
from eqloop._fields import field_meanings, nearest_field
from eqloop.run import GROUPS, parse_setting
from eqloop.tasks import TASKS

CLASSES = {**GROUPS, **{f"task {name}": TASKS[name] for name in TASKS}}
KNOWN = {group: [field.name for field in dataclasses.fields(cls)] for group, cls in GROUPS.items()}


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
def test_every_field_has_a_meaning(cls):
    meanings = field_meanings(cls)
    assert set(meanings) == {field.name for field in dataclasses.fields(cls)}


VERBS = {
    *("is", "are", "has", "have", "gets", "goes", "takes", "makes", "adds", "begins", "follow"),
    *("starts", "start", "stops", "runs", "decides", "joins", "applies", "attends", "draws"),
    *("stores", "solves", "differentiate", "gives", "damps", "records", "decay", "follows"),
    *("minimises", "replaces", "chooses", "stay", "rises", "use", "pass", "converges", "sets"),
    *("counts", "fills", "requires", "mix", "serves", "excludes", "opens", "sees"),
    *("normalises", "shrinks", "ignores"),
}
"""Finite verbs: a sentence has a subject and one of these."""


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
def test_every_meaning_is_made_of_sentences(cls):
    for name, text in field_meanings(cls).items():
        assert text.endswith("."), name
        for sentence in re.split(r"(?<=[.;]) (?![^(]*\))", text):
            first = sentence.split()[0].lower()
            assert first not in VERBS | {"whether"}, f"{name}: no subject: {sentence}"
            assert VERBS & set(re.findall(r"[a-z]+", sentence)), f"{name}: no verb: {sentence}"


@pytest.mark.parametrize(
    ("group", "name", "hint"),
    [
        ("model", "widht", "model.width"),
        ("modle", "width", "model.width"),
        ("train", "LR", "train.lr"),
        ("", "width", "model.width"),
        ("model", "steps", None),
        ("train", "width", None),
        ("model", "colour", None),
        ("model", "number_of_hats", None),
    ],
)
def test_a_hint_is_a_field_of_nearly_that_name(group, name, hint):
    known = {group: KNOWN[group]} if group in KNOWN else KNOWN
    suggestion = nearest_field(group, name, known)
    assert suggestion == (f"; did you mean {hint}?" if hint else "; eqloop fields lists them all")


def test_a_field_without_its_group():
    with pytest.raises(InputError, match=r"--set width=64: .*; did you mean model\.width\?"):
        parse_setting("width=64")


@pytest.mark.parametrize("task", [None, *TASKS])
def test_the_command_lists_every_field_that_can_be_set(task, cli):
    chosen = [] if task is None else ["--task", task]
    code, out, err = cli("fields", *chosen)
    assert (code, err) == (0, "")
    expected = [f"{group}.{name}" for group, names in KNOWN.items() for name in names]
    expected += [] if task is None else [f"task.{f.name}" for f in dataclasses.fields(TASKS[task])]
    given_by_the_task = {"model.grid", "model.channels", "model.classes"}
    given_by_the_task |= {"solver.object", "solver.gradient_object", "train.loss_object"}
    listed = [line.split(" = ")[0] for line in out.splitlines() if not line.startswith(" ")]
    assert set(expected) - given_by_the_task == {
        name for name in listed if "." in name and " " not in name
    }
    table = json.loads(cli("fields", *chosen, "--json")[1])["fields"]
    assert table["model.width"]["default"] == 256
    assert table["model.recall"]["allowed"] == "one of none, external, internal"


def test_the_fields_of_a_task_of_a_file(cli, monkeypatch):
    monkeypatch.setattr(TASKS, "registered", {})  # the task is registered for this test alone
    example = Path(__file__).parents[1] / "docs" / "examples" / "addition.py"
    code, out, err = cli("fields", "--task", f"{example}:Addition")
    assert (code, err) == (0, "")
    assert "task.seed = 42" in out


@pytest.mark.parametrize("field", ["model.grid", "solver.object", "train.loss_object"])
def test_a_field_that_follows_from_another_cannot_be_set(field, cli):
    code, _, err = cli("train", "--set", f"{field}=1")
    assert code == 2
    assert f"{field} is given by" in err
