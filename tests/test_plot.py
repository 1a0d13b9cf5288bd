"""`eqloop plot` and `eqloop watch`: the curves of a run, ended or in training."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from eqloop import InputError, run
from eqloop.report import read_training, training_figure
from eqloop.run import MetricsReader, open_run, owned


@pytest.fixture
def trained(tiny_run, tmp_path) -> Path:
    """A copy of the run, which has four steps and a validation."""
    return Path(shutil.copytree(tiny_run, tmp_path / "tiny"))


def train_lines(*steps: int) -> bytes:
    lines = [run.TrainingLine(n, 0, {"loss": 1 / n, "cells": 0.5}, 9.0, 2.0 * n) for n in steps]
    return b"".join(run._log.format_json(run._log.to_table(line)) for line in lines)


def test_plot_prints_a_line_for_each_quantity(trained, cli):
    code, out, err = cli("plot", trained)
    assert (code, err) == (0, "")
    assert "tiny: step 4 of 4\n" in out
    for name in ("loss", "cells right %", "solved, validation %", "converged %", "fallback %"):
        assert name in out
    code, out, _ = cli("plot", trained, "--json")
    table = json.loads(out)
    assert (code, table["step"], table["in_training"]) == (0, 4, False)
    assert table["curves"]["loss"]["steps"] == [1, 2, 3, 4]
    assert table["curves"]["solved, validation"]["steps"] == [4]


def test_plot_reads_a_run_in_training(trained, cli):
    """The last line is half written, and a line has no step."""
    (trained / "metrics.jsonl").write_bytes(b"{}\n" + train_lines(1, 2) + train_lines(3)[:20])
    with owned(trained):
        code, out, err = cli("plot", trained)
    assert (code, err) == (0, "")
    assert "tiny: step 2 of 4, about 4 s left\n" in out
    assert "converged" not in out
    assert "not in training: go on with eqloop train --resume" in cli("plot", trained)[1]
    (trained / "metrics.jsonl").write_bytes(b"")
    assert "nothing is logged yet" in cli("plot", trained)[1]


def test_the_time_left_is_that_at_the_pace_within_processes(trained):
    (trained / "metrics.jsonl").unlink()
    log = run.MetricsLog(trained / "metrics.jsonl", 0)
    for step, seconds, began_at in ((1, 3.0, 0), (2, 5.0, None), (3, 90.0, 2)):
        log.write(run.TrainingLine(step, 0, {}, 9.0, seconds, began_at))
    log.close()
    opened = open_run(trained)
    assert read_training(opened, run.read_metrics(opened.metrics)).seconds_per_step == 2


@pytest.mark.parametrize(
    ("name", "begins"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.html", b"<!doctype html>")]
)
def test_plot_draws_into_a_file(name, begins, trained, tmp_path, cli):
    code, _, err = cli("plot", trained, "--out", tmp_path / name)
    assert (code, err) == (0, f"wrote {tmp_path / name}\n")
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_plot_refuses_what_it_cannot_draw(trained, tmp_path, cli):
    for arguments, message in (
        ([trained, "--out", tmp_path / "a.txt"], "the name must end in .png, .svg, .pdf, .html"),
        ([trained, "--out", tmp_path / "no" / "a.png"], "there is no folder"),
        ([tmp_path / "no"], "is not a run: there is no such folder"),
    ):
        code, out, err = cli("plot", *arguments)
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1
    (trained / "metrics.jsonl").unlink()
    assert "the run has logged nothing yet" in cli("plot", trained)[2]


def test_phases_are_drawn(trained):
    opened = open_run(trained)
    text = opened.spec.to_toml() + "\n[[phases]]\nuntil = 2\ntrain.lr = 0.1\n"
    (trained / "spec.toml").write_text(text)
    opened = open_run(trained)
    training = read_training(opened, run.read_metrics(opened.metrics))
    assert training.phases == (2,)
    lines = training_figure(training).axes[0].lines
    assert [np.asarray(line.get_xdata()).tolist() for line in lines[1:]] == [[2, 2]]


def test_watch_ends_with_the_training(trained, cli, monkeypatch):
    log = trained / "metrics.jsonl"
    log.write_bytes(train_lines(1))
    lock = owned(trained)
    lock.__enter__()
    parts = [train_lines(2), train_lines(3), train_lines(4)]

    def pause(seconds: float) -> None:
        assert open_run(trained).in_training
        with log.open("ab") as file:
            file.write(parts.pop(0))
        if not parts:
            lock.__exit__(None, None, None)

    monkeypatch.setattr(time, "sleep", pause)
    code, out, err = cli("watch", trained)
    assert (code, err) == (0, "")
    assert "tiny: step 4 of 4\n" in out


def test_control_c_ends_the_watching_alone(trained, cli, monkeypatch):
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    with owned(trained):
        code, out, err = cli("watch", trained, "--json")
        assert open_run(trained).in_training
    assert (code, err) == (0, "")
    assert json.loads(out)["step"] == 4
    assert not open_run(trained).in_training


def test_a_log_that_is_resumed_is_read_from_its_beginning(tmp_path):
    path = tmp_path / "metrics.jsonl"
    reader = MetricsReader(path)
    assert not reader.update()
    path.write_bytes(train_lines(1, 2, 3))
    assert reader.update()
    run.MetricsLog(path, start=1).close()  # as a run that goes on from step 1
    assert reader.update()
    assert [row["step"] for row in reader.rows] == [1]
    with path.open("ab") as file:
        file.write(train_lines(2) + b"{\n")
    for _ in range(2):
        with pytest.raises(InputError, match=r"metrics\.jsonl:3: not a line of a log"):
            reader.update()
    path.write_bytes(train_lines(1, 2, 3))
    assert reader.update()
    assert [row["step"] for row in reader.rows] == [1, 2, 3]
