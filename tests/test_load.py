"""`eqloop.load` and `eqloop.save`: runs and models on disk, in one line."""

import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqloop
from eqloop import InputError
from eqloop.nn import NORMS, RECALLS, Recall

RELEASE = Path(__file__).resolve().parents[1] / "benchmarks" / "release"


def make(grid=(6,), **fields: Any) -> eqloop.LoopedTransformer:
    fields = {"width": 16, "heads": 2} | fields
    return eqloop.LoopedTransformer(grid, 3, 4, key=jr.key(0), **fields)


def same(first, second) -> bool:
    leaves = jax.tree.leaves(first), jax.tree.leaves(second)
    pairs = zip(*leaves, strict=True)
    return jax.tree.structure(first) == jax.tree.structure(second) and all(
        left.dtype == right.dtype and bool(jnp.array_equal(left, right)) for left, right in pairs
    )


def test_a_run_is_its_model_task_and_spec():
    model, task, spec = eqloop.load(RELEASE / "prefix-sums")
    assert task.name == spec.task_name == "prefix-sums"
    split = task.load().splits["test"].take(slice(4))
    for tokens, target in zip(split.inputs, split.targets, strict=True):
        out = model(task.encode(jnp.asarray(tokens)), solver=eqloop.FixedPoint(rtol=1e-3))
        np.testing.assert_array_equal(task.predict(out.logits, tokens), target)


SETTINGS: list[dict[str, Any]] = [
    {"recall": recall, "norm": norm, "residual": residual}
    for recall, norm, residual in itertools.product(RECALLS, NORMS, ("add", "gru"))
] + [
    {"grid": (5, 5), "width": 32, "attention": 3},
    {"blocks": 3, "mlp_ratio": 2, "rotary_base": 10.0, "dtype": jnp.bfloat16},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
def test_a_model_comes_back_with_its_settings_and_weights(settings, tmp_path):
    model = make(**settings)
    eqloop.save(model, tmp_path / "m.safetensors")
    assert same(model, eqloop.load(tmp_path / "m.safetensors"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int32"])
def test_weights_that_a_model_does_not_compute_with_are_not_written(dtype, tmp_path):
    """`load` would refuse them, and no solver iterates a state of fewer than 32 bits."""
    model = jax.tree.map(lambda leaf: leaf.astype(dtype), make())
    with pytest.raises(InputError, match=rf"prelude\.weight is {dtype}: .*; cast them$"):
        eqloop.save(model, tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_loaded_is_one_line(tmp_path):
    path = tmp_path / "m.safetensors"
    eqloop.save(make(), path)
    text = bytearray(path.read_bytes())
    text[-5] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(text)
    for name, why in (
        (tmp_path / "damaged.safetensors", "SHA-256"),
        (tmp_path / "none", "no such folder"),
        (next((RELEASE / "sudoku" / "checkpoints").glob("*.safetensors")), "load the run folder"),
    ):
        with pytest.raises(InputError, match=why) as caught:
            eqloop.load(name)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot write"):
        eqloop.save(make(), tmp_path / "none" / "m.safetensors")


def test_every_room_is_there_after_one_import():
    for room in ("audit", "claims", "evaluate", "report", "run", "sweep", "tasks", "train"):
        assert getattr(eqloop, room).__name__ == f"eqloop.{room}"
        assert room in dir(eqloop)
    assert eqloop.nn.Recall is Recall
