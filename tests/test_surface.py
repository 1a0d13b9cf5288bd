"""What `import eqloop` opens: rooms by name, models in one line, weights in one file."""

import json
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqloop
from eqloop import InputError, Unroll
from eqloop.cli import main
from eqloop.cli.fields import field_rows
from eqloop.run import ModelSpec, SolverSpec, TrainSpec, resolve

RELEASE = Path(__file__).parents[1] / "benchmarks" / "release"


def small(**options) -> eqloop.LoopedTransformer:
    return eqloop.LoopedTransformer((4, 4), 3, 5, width=16, heads=2, **options, key=jr.key(1))


def test_rooms_open_by_name_and_only_when_they_are_asked_for():
    code = """
import sys, types, eqloop
assert "jax" not in sys.modules
eqloop.run, eqloop.tasks
assert "jax" not in sys.modules
for name in "train evaluate audit tasks report claims sweep run stability nn interop".split():
    assert isinstance(getattr(eqloop, name), types.ModuleType), name
assert isinstance(eqloop.train, types.ModuleType)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr


def test_a_model_without_a_solver_is_iterated_30_times():
    model, x = small(), jr.normal(jr.key(2), (4, 4, 3))
    out, same = model(x), model(x, solver=Unroll(30))
    assert int(out.steps) == 30
    np.testing.assert_array_equal(out.logits, same.logits)


def test_a_run_is_loaded_in_one_line():
    model, task, spec = eqloop.load(RELEASE / "prefix-sums")
    assert task == eqloop.tasks.make_task(spec.task_name, spec.task_fields)
    split = task.generate(1, 0)
    out = model(task.encode(jnp.asarray(split.inputs[0])), solver=Unroll(64))
    np.testing.assert_array_equal(task.predict(out.logits, split.inputs[0]), split.targets[0])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"recall": "none", "norm": "pre", "blocks": 2},
        {"recall": "external", "norm": "peri", "attention": 3, "mlp_ratio": 2},
        {"norm": "sandwich", "residual": "gru", "dtype": jnp.bfloat16},
    ],
)
def test_weights_alone_make_the_same_model_and_the_same_bytes(options, tmp_path):
    model = small(**options)
    eqloop.save(model, tmp_path / "a.safetensors")
    loaded = eqloop.load(tmp_path / "a.safetensors")
    assert eqx.tree_equal(loaded, model)
    eqloop.save(loaded, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_weights_that_cannot_be_used_are_one_line(tmp_path):
    path = tmp_path / "a.safetensors"
    eqloop.save(small(), path)
    whole = path.read_bytes()
    checkpoint = next((RELEASE / "sudoku" / "checkpoints").glob("*.safetensors"))
    for content, told in [
        (whole[:-4] + b"\0\0\0\1", "SHA-256"),
        (whole[: len(whole) // 2], "not a whole checkpoint"),
        (whole.replace(b"width = 16", b"width = 32"), "SHA-256"),
        (whole.replace(b"width = 16", b"width = 17"), "multiple"),
        (checkpoint.read_bytes(), "load the folder of the run"),
    ]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=told) as caught:
            eqloop.load(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such run and no such file"):
        eqloop.load(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"must end in \.safetensors"):
        eqloop.save(small(), tmp_path / "model.pkl")
    other = eqx.tree_at(lambda m: m.coda.norm, small(), replace=eqx.nn.Identity())
    with pytest.raises(ValueError, match="no settings"):
        eqloop.save(other, path)


def test_a_run_on_a_task_of_another_name_is_refused():
    other = eqloop.tasks.make_task("sudoku", {})
    with pytest.raises(InputError, match="trained on the task 'prefix-sums', not on 'sudoku'"):
        eqloop.load(RELEASE / "prefix-sums", task=other)


GROUPS = {"model": ModelSpec, "solver": SolverSpec, "train": TrainSpec}


@pytest.mark.parametrize("task", sorted(eqloop.tasks.TASKS))
def test_every_field_that_can_be_set_has_a_meaning(task):
    rows = field_rows("task", type(eqloop.tasks.make_task(task, {})))
    rows += [row for group, cls in GROUPS.items() for row in field_rows(group, cls)]
    assert [row["field"] for row in rows if len(row["meaning"].split()) < 2] == []
    by_name = {row["field"]: row for row in rows}
    assert by_name["model.norm"]["values"] == ["pre", "peri", "post", "sandwich"]
    assert by_name["train.steps"]["default"] == TrainSpec().steps
    assert "model.grid" not in by_name


def test_fields_are_listed_for_people_and_for_machines(capsys):
    assert main(["fields", "--task", "sudoku"]) == 0
    text = capsys.readouterr().out
    assert "model.width = 256   (a whole number)" in text
    assert "task.givens = 0" in text
    assert main(["fields", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["task"] == "prefix-sums"
    assert "task.length" in {row["field"] for row in listed["fields"]}


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("width=64", "write GROUP.FIELD=VALUE; did you mean model.width?"),
        ("steps=64", "write GROUP.FIELD=VALUE; did you mean solver.steps or train.steps?"),
        ("train.width=64", "unknown field train.width; `eqloop fields` lists them all"),
        ("model.colour=1", "unknown field model.colour; `eqloop fields` lists them all"),
        ("modle.width=64", "unknown field modle.width; did you mean model.width?"),
    ],
)
def test_a_hint_names_a_field_that_is_alike_or_none(setting, told):
    with pytest.raises(InputError) as caught:
        resolve("prefix-sums", "quick", [setting], make_task=eqloop.tasks.make_task)
    assert told in str(caught.value)


def test_a_report_of_any_map_prints_saves_and_draws_itself(tmp_path):
    def f(z, x):
        return jnp.tanh(0.5 * z + x)

    xs = jr.normal(jr.key(3), (4, 3))
    report = eqloop.stability.analyse(
        f, jnp.zeros_like(xs), xs, key=jr.key(4), iterations=16, detail=1
    )
    text = str(report)
    assert len(text.splitlines()) <= 24
    for statement in report.verdict.values():
        assert statement.verdict in text
    saved = json.loads(report.save(tmp_path / "new" / "folder").read_text())
    assert saved["verdict"]["reachability"]["verdict"] == report.verdict["reachability"].verdict
    page = report.page(tmp_path / "page")
    assert page.name == "report.html"
    assert report.verdict["reachability"].verdict in page.read_text()
