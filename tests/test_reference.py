"""The model computes the function of the paper's own code: states, logits and gradients."""

from pathlib import Path
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqloop

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "reference"
NAMES = sorted(path.stem for path in SHARED.glob("*.npz"))
RECALLS, NORMS = ("none", "external", "internal"), ("pre", "peri", "post", "sandwich", "gru")


def relative_error(a, b) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-300))


def load(name: str):
    recall, norm, layout = name.split("_")
    data = np.load(SHARED / f"{name}.npz")
    axes = 2 if layout == "grid" else 1
    model = eqloop.interop.from_paper_state_dict(
        {k.removeprefix("param."): data[k].astype(np.float64) for k in data if k[:6] == "param."},
        recall=cast(Any, recall),
        norm=cast(Any, "peri" if norm == "gru" else norm),
        residual="gru" if norm == "gru" else "add",
        spatial_dims=axes,
        attention="full" if layout == "grid" else "neighbourhood",
    )
    return data, model, jnp.asarray(np.moveaxis(data["input"], 1, -1), jnp.float64)


def loss(model, x, target, solver, gradient):
    logits = jax.vmap(lambda x: model(x, solver=solver, gradient=gradient).logits)(x)
    log_p = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.take_along_axis(log_p, target[..., None], axis=-1))


def test_all_files_are_there(shared):
    assert shared / "data" / "reference" == SHARED
    assert len(NAMES) == 19


@pytest.mark.skipif(not NAMES, reason=f"{SHARED} is absent: reference vectors are not shipped")
@pytest.mark.parametrize("name", NAMES)
def test_states_and_logits(name, x64):
    data, model, x = load(name)
    for fold in (False, True):
        f = model.loop(fold=fold)
        e = jax.vmap(model.embed)(x)
        states = jax.vmap(lambda e, f=f: eqloop.trajectory(f, e, f.inject(e), 6))(e)
        for steps in (1, 2, 6):
            state = states[:, steps - 1]
            assert relative_error(state, data[f"state_{steps}"]) < 1e-9
            logits = np.moveaxis(data[f"logits_{steps}"], 1, -1)
            assert relative_error(model.coda(state), logits) < 1e-9


@pytest.mark.skipif(not NAMES, reason=f"{SHARED} is absent: reference vectors are not shipped")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("key", "steps", "last"), [("4", 4, 4), ("2_3", 5, 3)], ids=["backprop", "progressive"]
)
def test_gradients(name, key, steps, last, x64):
    data, model, x = load(name)
    target = jnp.asarray(data["target"])
    prefix = "" if last == steps else "progressive_"
    gradient = eqloop.Backprop() if last == steps else eqloop.Truncated(last)
    run = eqx.filter_jit(eqx.filter_value_and_grad(loss))
    value, grads = run(model, x, target, eqloop.Unroll(steps), gradient)
    assert relative_error(value, data[f"{prefix}loss_{key}"]) < 1e-6
    grads = eqloop.interop.to_paper_state_dict(grads)
    for k in data:
        if k.startswith(f"{prefix}grad_{key}."):
            assert relative_error(grads[k.split(".", 1)[1]], data[k]) < 1e-6, k


@pytest.mark.parametrize("recall", RECALLS)
@pytest.mark.parametrize("norm", NORMS)
def test_state_dict_round_trip(recall, norm):
    model = eqloop.LoopedTransformer(
        (3, 3),
        4,
        5,
        width=16,
        heads=4,
        recall=cast(Any, recall),
        norm=cast(Any, "peri" if norm == "gru" else norm),
        residual="gru" if norm == "gru" else "add",
        blocks=2,
        key=jax.random.key(1),
    )
    params = eqloop.interop.to_paper_state_dict(model)
    back = eqloop.interop.from_paper_state_dict(
        params,
        recall=cast(Any, recall),
        norm=cast(Any, "peri" if norm == "gru" else norm),
        residual="gru" if norm == "gru" else "add",
        spatial_dims=2,
        heads=4,
    )
    for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(back), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"causal": True}, "causal = True"),
        ({"attention": 3}, "attention = 3"),
        ({"rotary_base": 10.0}, "rotary_base = 10.0"),
    ],
)
def test_a_model_that_the_paper_does_not_have_is_refused(fields, why):
    model = eqloop.LoopedTransformer((7,), 1, 2, width=16, heads=4, key=jax.random.key(1), **fields)
    with pytest.raises(eqloop.InputError, match=f"{why}: the paper's code has"):
        eqloop.interop.to_paper_state_dict(model)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_weights_become_a_model_that_computes_and_can_be_saved(dtype, tmp_path):
    model = eqloop.LoopedTransformer((3,), 1, 2, width=16, heads=4, key=jax.random.key(1))
    params = eqloop.interop.to_paper_state_dict(model)
    narrow = {name: array.astype(jax.numpy.dtype(dtype)) for name, array in params.items()}
    made = eqloop.interop.from_paper_state_dict(
        narrow, recall="internal", norm="post", spatial_dims=1, heads=4
    )
    assert made(jnp.ones((3, 1))).logits.dtype == jnp.float32
    for name, array in eqloop.interop.to_paper_state_dict(made).items():
        np.testing.assert_array_equal(array, narrow[name].astype(np.float32), strict=True)
    eqloop.save(made, tmp_path / "made.safetensors")
    assert eqx.tree_equal(made, eqloop.load(tmp_path / "made.safetensors"), typematch=True)


def test_a_state_dict_that_does_not_fit_names_what_is_wrong():
    model = eqloop.LoopedTransformer((3,), 1, 2, width=16, heads=4, key=jax.random.key(1))
    params = eqloop.interop.to_paper_state_dict(model)
    params["extra"] = params.pop("head.1.bias")
    with pytest.raises(ValueError, match=r"missing head\.1\.bias; unknown extra"):
        eqloop.interop.from_paper_state_dict(
            params, recall="internal", norm="post", spatial_dims=1, heads=4
        )
