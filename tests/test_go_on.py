"""Runs that continue: a lengthened run, and a run that begins from the weights of another."""

import hashlib
import io
import json
import re
import shutil
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console
from tiny_task import make_task, tiny_spec

from eqloop import InputError
from eqloop._build import restore
from eqloop.run import create_run, open_run, read_metrics, read_run
from eqloop.train import Start, init_state, train
from eqloop.train._start import start_from
from eqloop.train._state import make_schedule, skeleton

EVERY = ("train.validate_every=4", "train.checkpoint_every=4", "train.ema=0.9")


def trained(path, steps, *settings, **options):
    spec = tiny_spec(f"train.steps={steps}", *EVERY, *settings)
    return train(spec, make_task("tiny", spec.task_fields), path, **options).run


def gone_on(path, **options):
    spec = open_run(path).spec
    return train(None, make_task("tiny", spec.task_fields), path, resume=True, **options).run


def last_bytes(path):
    run = open_run(path)
    return run.checkpoint(run.find("last")).read_bytes()


def test_a_lengthened_run_follows_the_schedule_over_all_steps_and_resumes_bit_for_bit(tmp_path):
    whole = trained(tmp_path / "whole", 12, "train.schedule=constant")
    trained(tmp_path / "run", 4, "train.schedule=constant")
    gone_on(tmp_path / "run", steps=8)
    (
        tmp_path / "run/checkpoints/step-00000008.safetensors"
    ).unlink()  # the process is killed before the end
    (tmp_path / "run/checkpoints/best.json").unlink()
    gone_on(tmp_path / "run", steps=12)
    # The rate is constant, so that the parts together are one run of 12 steps.
    assert last_bytes(tmp_path / "run") == last_bytes(whole.path)
    run = open_run(tmp_path / "run")
    assert (run.spec.train.steps, run.manifest["lengthened"]) == (12, [4, 8])
    read_run(run.path)
    restore(run, 4)
    rates = [row["lr"] for row in read_metrics(run.metrics) if row["kind"] == "train"]
    assert len(rates) == 12
    with pytest.raises(InputError, match="cannot become fewer"):
        gone_on(run.path, steps=11)
    gone_on(run.path, steps=12)  # the same command again has nothing left to do


@pytest.mark.parametrize(
    "phase",
    [
        ("phases.1.until=4", "train.schedule_per_phase=true"),
        ("phases.1.until=8", "phases.1.train.lr=1e-2"),
    ],
)
def test_the_rates_that_are_told_of_a_lengthened_run_are_those_of_training(phase, tmp_path):
    path = tmp_path / "run"
    trained(path, 6, *phase)
    told = io.StringIO()
    gone_on(path, steps=12, console=Console(file=told))
    rates = [row["lr"] for row in read_metrics(path / "metrics.jsonl") if row["kind"] == "train"]
    line = next(line for line in told.getvalue().splitlines() if line.startswith("lengthened"))
    said = re.search(r"\((\S+) before, (\S+) now\)", line)
    assert said is not None
    np.testing.assert_allclose([float(rate) for rate in said.groups()], rates[5:7], rtol=6e-3)
    assert abs(rates[6] / rates[5] - 1) > 0.05  # the two can be told apart
    if "train.schedule_per_phase=true" in phase:
        assert "over 8 steps from step 5 on (" in line


def test_a_number_of_steps_that_the_run_never_had_is_refused(tmp_path):
    run = trained(tmp_path / "run", 4)
    text = (run.path / "spec.toml").read_text()
    (run.path / "spec.toml").write_text(text.replace("steps = 4\nbatch", "steps = 9\nbatch"))
    with pytest.raises(InputError, match=r"train\.steps: 4 -> 9"):
        gone_on(run.path)


def test_a_run_begins_from_the_weights_of_another(tmp_path):
    source = trained(tmp_path / "source", 8)
    weights, step = restore(source)
    run = trained(tmp_path / "run", 4, "task.length=8", start=source.path)
    checkpoint = source.checkpoint(step).read_bytes()
    assert run.manifest["started_from"] == {
        "path": str(source.path),
        "step": step,
        "weights": "average",
        "moments": False,
        "sha256": hashlib.sha256(checkpoint).hexdigest(),
    }
    first, _ = run.load(0, eqx.filter_eval_shape(init_state, run.spec))
    for mine, theirs in zip(_arrays(first.model), _arrays(weights), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    # The run is cut off after its first checkpoint; resumed, it ends the same.
    again = tmp_path / "again"
    trained(again, 4, "task.length=8", start=source.path)
    for path in (again / "checkpoints").glob("*"):
        if path.name != "step-00000000.safetensors":
            path.unlink()
    gone_on(again)
    assert last_bytes(again) == last_bytes(run.path)
    (again / "checkpoints/step-00000000.safetensors").unlink()
    (again / "checkpoints/step-00000004.safetensors").unlink()
    (again / "checkpoints/best.json").unlink(missing_ok=True)
    with pytest.raises(InputError, match="before it had its first weights"):
        gone_on(again)
    with pytest.raises(InputError, match=r"model\.width = 32, but the weights"):
        trained(tmp_path / "wide", 4, "model.width=32", start=source.path)
    assert not (tmp_path / "wide").exists()
    assert json.loads((again / "data.json").read_text())["started_from"]["step"] == step


@pytest.mark.parametrize(
    ("setting", "name"),
    [("model.mixer=mlp", "layers.0.mixer"), ("model.positions=learned", "places")],
)
def test_weights_that_depend_on_the_grid_are_for_that_grid_alone(setting, name, tmp_path):
    settings = ("model.family=trm", "model.attention=full", "model.recall=internal", setting)
    spec = tiny_spec("task.length=4", "train.steps=1", *settings)
    source = create_run(tmp_path / "source", spec, {})
    source.save(init_state(spec), 1, None)
    message = rf"{name}\S* of the new model has the shape .*6.*, but .*4.* in {source.path}, "
    with pytest.raises(InputError, match=message + r".* a task with the grid of that run"):
        trained(tmp_path / "run", 1, *settings, start=source.path)
    assert not (tmp_path / "run").exists()
    start_from(Start(source.path), spec)  # the same grid


def test_a_run_begins_from_raw_weights_and_moments_and_its_schedule_from_zero(tmp_path):
    source = trained(tmp_path / "source", 8)
    step = source.find("best")
    whole, _ = source.load(step, skeleton(source.spec))
    start = Start(source.path, weights="raw", moments=True)
    run = trained(tmp_path / "run", 4, start=start)
    first, _ = run.load(0, skeleton(run.spec))
    assert first.ema is not None
    for part in (first.model, first.ema):
        for mine, theirs in zip(_arrays(part), _arrays(whole.model), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    for name in ("mu", "nu", "count"):
        mine, theirs = (optax.tree.get(state.optimiser[1][0], name) for state in (first, whole))
        for actual, reference in zip(_arrays(mine), _arrays(theirs), strict=True):
            np.testing.assert_array_equal(actual, reference)
    assert first.step == 0
    rates = [row["lr"] for row in read_metrics(run.metrics) if row["kind"] == "train"]
    expected = [jnp.asarray(make_schedule(run.spec.train)(step)) for step in range(4)]
    np.testing.assert_allclose(rates, expected)
    assert run.manifest["started_from"]["weights"] == "raw"
    assert run.manifest["started_from"]["moments"] is True


def test_weights_alone_have_no_moments():
    release = Path(__file__).parents[1] / "benchmarks/release/prefix-sums-paper"
    with pytest.raises(InputError, match="weights alone: begin from it without the moments"):
        start_from(Start(release, moments=True), open_run(release).spec)


def test_weights_alone_are_not_resumed(tmp_path, cli):
    shutil.copytree(
        Path(__file__).parents[1] / "benchmarks/release/prefix-sums-paper", tmp_path / "run"
    )
    code, _, err = cli("train", "--resume", tmp_path / "run")
    assert code == 2
    assert (
        "holds weights alone, without the state of an optimiser: begin a new run from them " in err
    )
    assert err.endswith(f"with --from {tmp_path / 'run'}\n")


def _arrays(tree):
    return jax.tree.leaves(eqx.filter(tree, eqx.is_array))
