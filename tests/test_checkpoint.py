"""Checkpoints are whole or refused, with one line that says why; runs are found or refused."""

import dataclasses
import json
import struct
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from tiny_task import tiny_spec

from eqloop import InputError
from eqloop._arrays import named_arrays
from eqloop._build import restore
from eqloop._safetensors import serialise
from eqloop.run import Best, create_run, open_run
from eqloop.run._checkpoint import Header, load, load_header, save
from eqloop.train import init_state
from eqloop.train._state import skeleton

RELEASE = Path(__file__).resolve().parents[1] / "benchmarks" / "release"
SPEC = tiny_spec("train.ema=0.5")
OTHER = tiny_spec("train.ema=0.5", "model.heads=1")


@pytest.fixture(scope="module")
def state():
    return init_state(SPEC)


@pytest.fixture
def path(state, tmp_path):
    path = tmp_path / "step-00000005.safetensors"
    save(path, state, Header(5, SPEC.to_toml(), {"best": None}))
    return path


def same(first, second) -> bool:
    left, right = named_arrays(first), named_arrays(second)
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and np.array_equal(np.asarray(left[name]), np.asarray(right[name]))
        for name in left
    )


def test_what_is_written_is_read(state, path):
    loaded, header = load(path, skeleton(SPEC))
    assert same(loaded, state)
    assert jax.tree.structure(loaded) == jax.tree.structure(state)
    assert header == Header(5, SPEC.to_toml(), {"best": None})


def test_the_names_are_paths_and_any_safetensors_reader_sees_them(state, path):
    arrays = safetensors.numpy.load_file(path)
    assert arrays["model.prelude.weight"].shape == (16, 1)
    assert "ema.coda.output.bias" in arrays
    assert any(name.startswith("optimiser.") and "mu" in name for name in arrays)
    np.testing.assert_array_equal(arrays["model.prelude.weight"], state.model.prelude.weight)


def test_the_same_state_gives_the_same_bytes(state, path, tmp_path):
    again = tmp_path / "again"
    save(again, state, Header(5, SPEC.to_toml(), {"best": None}))
    assert again.read_bytes() == path.read_bytes()
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


DTYPES = ("float32", "float16", "bfloat16", "int32", "int8", "uint32", "uint16", "bool")


def test_arrays_of_every_dtype_come_back(tmp_path):
    state = {name: jnp.arange(3).astype(name) for name in DTYPES}
    save(tmp_path / "state", state, Header(0, "", {}))
    assert same(load(tmp_path / "state", state)[0], state)


def test_an_array_that_the_format_does_not_have_is_one_line(tmp_path):
    state = {"weight": jnp.ones(3, jnp.float8_e4m3fn)}
    with pytest.raises(InputError, match="weight is float8_e4m3fn, which is not written: cast it"):
        save(tmp_path / "state", state, Header(0, "", {}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", sorted(RELEASE.glob("*/checkpoints/*.safetensors")), ids=str)
def test_a_released_checkpoint_would_be_written_with_the_same_bytes(path):
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    metadata = header.pop("__metadata__")
    read = safetensors.numpy.load_file(path)
    assert b"".join(serialise({name: read[name] for name in header}, metadata)) == whole


def test_a_checkpoint_cut_off_anywhere_is_refused(path):
    whole = path.read_bytes()
    for length in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="not a whole checkpoint"):
            load(path, skeleton(SPEC))


def test_a_single_changed_bit_is_refused(path):
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in [8, len(whole) - 1, *rng.integers(8, len(whole), 60).tolist()]:
        altered = bytearray(whole)
        altered[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(altered))
        with pytest.raises(InputError) as caught:
            load(path, skeleton(SPEC))
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def rewrite(path, change) -> None:
    """Rewrite the header of a checkpoint, as somebody would who forges one."""
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    change(header["__metadata__"])
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(step="6"), "damaged or was altered"),
        (lambda m: m.update(spec=OTHER.to_toml()), "damaged or was altered"),
        (lambda m: m.update(notes="{"), "damaged header"),
        (lambda m: m.pop("step"), "damaged header"),
        (lambda m: m.update(format="2"), "format '2'; this eqloop reads format '1'"),
        (lambda m: m.clear(), "format None"),
    ],
)
def test_an_altered_header_is_refused(path, change, message):
    rewrite(path, change)
    with pytest.raises(InputError, match=message):
        load(path, skeleton(SPEC))


def test_another_model_is_refused_by_name(state, path, tmp_path):
    with pytest.raises(InputError, match=r"holds the unknown array ema\..* another model"):
        load(path, eqx.tree_at(lambda s: s.ema, skeleton(SPEC), None))
    without = tmp_path / "without"
    pruned = eqx.tree_at(lambda s: s.model.prelude.weight, state, None)
    save(without, pruned, Header(5, SPEC.to_toml(), {}))
    with pytest.raises(InputError, match=r"lacks the array model\.prelude\.weight"):
        load(without, skeleton(SPEC))
    wider = eqx.tree_at(lambda s: s.model.prelude.weight, state, jnp.zeros((9, 1)))
    save(without, wider, Header(5, SPEC.to_toml(), {}))
    with pytest.raises(InputError, match=r"model\.prelude\.weight is float32 \[9, 1\] where"):
        load(without, skeleton(SPEC))
    whole = eqx.tree_at(lambda s: s.step, state, jnp.zeros(()))
    save(without, whole, Header(5, SPEC.to_toml(), {}))
    with pytest.raises(InputError, match=r"step is float32 \[\] where the spec makes it int32"):
        load(without, skeleton(SPEC))


def test_a_file_that_is_no_checkpoint(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_header(tmp_path / "none")
    with pytest.raises(InputError, match="not a whole checkpoint"):
        load_header(tmp_path)


BEST = Best(cells=1.0, exact=1.0, step=10)


@pytest.fixture
def run(state, tmp_path):
    run = create_run(tmp_path / "run", SPEC, {"rows": 3})
    for step in (10, 20, 30, 40):
        run.save(state, step, BEST)
    return run


def test_a_run_keeps_the_last_and_the_best(run):
    assert run.steps() == [10, 20, 30, 40], "three, and the best one"
    run.save(init_state(SPEC), 50, BEST)
    assert run.steps() == [10, 30, 40, 50]
    again = open_run(run.path)
    assert (again.spec, again.manifest) == (SPEC, {"rows": 3})
    assert (again.find("best"), again.find("last"), again.find(40)) == (10, 50, 40)
    with pytest.raises(InputError, match="no checkpoint of step 7; there are 10, 30, 40, 50"):
        again.find(7)


def test_restore_gives_the_averaged_weights(run, state):
    model, step = restore(run)
    assert step == 10
    assert same(model, state.ema)


def test_a_damaged_checkpoint_offers_the_one_before(run):
    last = run.checkpoint(40)
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.raises(InputError, match="before it is of step 30: delete the file to go on"):
        run.load("last", skeleton(run.spec))
    run.checkpoint(10).write_bytes(b"")
    with pytest.raises(InputError, match="not a whole checkpoint") as caught:
        restore(run, "best")
    assert "before it" not in str(caught.value)


def test_a_changed_spec_is_refused(run):
    (run.path / "spec.toml").write_text(OTHER.to_toml())
    with pytest.raises(InputError, match=r"another spec than .*\(model\.heads: 2 -> 1\): restore"):
        open_run(run.path).load("last", skeleton(OTHER))


def test_where_no_run_is(tmp_path, run):
    with pytest.raises(InputError, match="no such folder"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"it has no spec\.toml"):
        open_run(tmp_path)
    with pytest.raises(InputError, match="a run already: go on with --resume"):
        create_run(run.path, SPEC, {})
    with pytest.raises(InputError, match="not empty and not a run"):
        create_run(tmp_path, SPEC, {})
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        create_run(tmp_path / "file", SPEC, {})
    unresolved = dataclasses.replace(SPEC, model=dataclasses.replace(SPEC.model, attention="task"))
    for make in (lambda spec: create_run(tmp_path / "bare", spec, {}), init_state):
        with pytest.raises(InputError, match=r"model.attention = 'task': the task sets it"):
            make(unresolved)
    assert not (tmp_path / "bare").exists()
    new = create_run(tmp_path / "new", SPEC, {})
    with pytest.raises(InputError, match="no checkpoint yet"):
        restore(new)
    (new.path / "data.json").write_text("{")
    with pytest.raises(InputError, match="damaged, not JSON"):
        open_run(new.path)
    (new.path / "data.json").unlink()
    with pytest.raises(InputError, match=r"no data\.json"):
        open_run(new.path)
    (run.path / "checkpoints/best.json").write_text("{}")
    with pytest.raises(InputError, match="damaged"):
        restore(run)
