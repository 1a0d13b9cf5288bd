"""Odd command lines give one clear line and exit code 2, never a traceback or a hang. This is a
sample; `pytest --hypothesis-profile=explore tests/test_fuzz.py` tries 2,000 of each."""

import re
import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from eqloop._fields import field_types
from eqloop.cli import main
from eqloop.run._spec import GROUPS

FIELDS = [f"{group}.{name}" for group, cls in GROUPS.items() for name in field_types(cls)]
FIELDS += ["task.length", "task.rows", "task.seed", "task.augment", "task.hard_length", "task.x"]
FIELDS += ["", ".", "model", "model.", ".width", "model.width.x", "x" * 1000, "mödel.width"]
TEXTS = st.one_of(
    # The text includes surrogates, but not NUL, which no argument can hold.
    st.text(st.characters(codec=None, exclude_characters="\0"), max_size=12),
    st.sampled_from(["", "-", "--", "--help", "x" * 5000, "../" * 100, "\x1b[31m", "[/bold]"]),
    st.sampled_from(["/dev/null", "/proc/self/mem", "/", ".", "~", "nul\n", "\udcff", "é±"]),
)
VALUES = st.one_of(
    TEXTS,
    st.integers().map(str),
    st.integers(1, 40).map(lambda digits: "9" * digits**2),
    st.floats().map(str),
    st.sampled_from(["9" * 5000, "[" * 200, "[" * 5000, "{a={" * 50, "[1, [2]]", "true"]),
    st.sampled_from(['"\\u0000"', '"\\u001b[0m"', '"', "{", "= =", "1 1", "1\nx = 2", "1 # 2"]),
    st.sampled_from(["inf", "-0", "0x10", "1979-05-27", "[0.9, 0.99]"]),
)
SETS = st.tuples(st.sampled_from(FIELDS), VALUES).map(lambda pair: ["--set", "=".join(pair)])
NAMES = st.sampled_from(
    ["--task", "--preset", "--solver", "--gradient", "--recall", "--norm", "--steps", "--seed"]
)
OPTIONS = st.one_of(SETS, st.tuples(NAMES, VALUES).map(list), SETS)
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

PROFILE = settings.get_profile(settings.get_current_profile_name())
few = settings(
    max_examples=25 if PROFILE.derandomize else PROFILE.max_examples,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(arguments: list[str], capsys) -> None:
    began = time.process_time()
    code = main(arguments)
    spent = time.process_time() - began
    out, err = capsys.readouterr()
    assert not CONTROL.search(out + err)
    assert code in (0, 1, 2)
    if code == 2:
        assert err.startswith("error: ")
        assert err.count("\n") == 1
    assert spent < 10, "JAX is imported by the first"


@few
@given(options=st.lists(OPTIONS, max_size=4))
@example(options=[["--set", "model.width=" + "[" * 5000]])
@example(options=[["--set", "model.width=" + "9" * 5000]])
@example(options=[["--set", "train.seed=" + "9" * 40]])
@example(options=[["--set", f"train.betas=[{'9' * 400}, 0.9]"]])
@example(options=[["--task", "x" * 5000]])
@example(options=[["--task", ""], ["--steps", ""], ["--steps", "1"], ["--steps", "2"]])
def test_train(options, capsys):
    """The data file does not exist, so that nothing is trained or written."""
    arguments = [part for option in options for part in option]
    refused(["train", *arguments, "--data", "no-such.csv", "--out", "run"], capsys)


@few
@given(text=TEXTS, more=st.lists(OPTIONS, max_size=2))
@pytest.mark.parametrize("command", ["eval", "gradients", "solve", "stability", "report", "sweep"])
def test_what_is_no_run(command, text, more, capsys):
    arguments = [text, *(["1"] if command == "solve" else [])]
    arguments += [part for option in more for part in option]
    refused([command, *arguments], capsys)


@few
@given(text=TEXTS, task=st.sampled_from(["prefix-sums", "sudoku", "chess", "x", ""]), sets=SETS)
@pytest.mark.parametrize("command", ["check", "show"])
def test_what_is_no_file(command, text, task, sets, capsys):
    refused(["data", command, text, "--task", task, *sets], capsys)
