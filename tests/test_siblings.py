"""TRM, HRM, EqR and FPRM compute what their authors' code computes: states, losses, gradients."""

import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqloop
from eqloop._cross_entropy import IGNORED, log_stablemax, stablemax_cross_entropy
from eqloop.interop import from_sibling_state_dict, to_sibling_state_dict
from eqloop.recursive import RecursiveModel, make_model

FILES = Path(__file__).resolve().parents[2] / "shared" / "data" / "siblings"
KINDS = ("trm", "hrm", "eqr", "fprm")
NAMES = sorted(p.stem for p in FILES.glob("*.npz") if p.stem.split("_")[0] in KINDS)
needs_files = pytest.mark.skipif(not NAMES, reason=f"{FILES} is absent: it is not shipped")

VALUES = ("logits", "q_halt", "q_continue", "target_q_continue")
VALUES += ("loss", "lm_loss", "q_halt_loss", "q_continue_loss", "residual", "best_residual")
EXACT = ("halted", "steps", "step_size", "patience")


def error(a: Any, b: Any) -> float:
    """The largest difference, in units of the largest entry of b."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-300))


def weights(data: Any, prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): data[k] for k in data if k.startswith(prefix)}


def load(name: str) -> tuple[Any, RecursiveModel]:
    data = np.load(FILES / f"{name}.npz")
    return data, from_sibling_state_dict(
        name.split("_")[0],  # pyright: ignore[reportArgumentType]
        weights(data, "param."),
        buffers=weights(data, "buffer."),
        config=json.loads(str(data["config"])),
    )


def at(data: Any, name: str, segment: int) -> Any:
    return data[key] if (key := f"{name}_{segment}") in data else data[name]


@eqx.filter_jit
def work(model: RecursiveModel, carry, batch, noise, starts):
    """A segment, the gradient of its loss by the names of the weights, and that by the vector of
    the puzzle of each row."""
    vectors = model.puzzle_vectors(model.offered(carry, *batch).puzzle_identifiers)

    def loss(differentiated):
        model, vectors = differentiated
        carry_out = model.segment(carry, *batch, noise, starts, puzzle_vectors=vectors)
        return carry_out[1].loss, carry_out

    (_, (carry, out)), (slope, by_row) = eqx.filter_value_and_grad(loss, has_aux=True)(
        (model, vectors)
    )
    slopes, _ = to_sibling_state_dict(slope)
    return carry, out, slopes | {"puzzle_emb.local_weights": by_row}


@needs_files
@pytest.mark.parametrize("name", NAMES)
def test_segments_are_those_of_the_authors(name, x64):
    data, model = load(name)
    parts = type(model.begin)._fields
    carry = model.start(at(data, "inputs", 1), at(data, "puzzle_identifiers", 1))
    # Rows that do not begin ignore what is offered: one program serves all segments.
    unused = {part: np.full_like(data[f"{part}_1"], np.nan) for part in parts}
    for segment in range(1, sum(key.startswith("loss_") for key in data) + 1):
        batch = [at(data, key, segment) for key in ("inputs", "labels", "puzzle_identifiers")]
        starts = None
        if any(key.startswith("start_") for key in data):
            starts = {p: data.get(f"start_{p}_{segment}", unused[p]) for p in parts}
            starts = {p: start.astype(np.float64) for p, start in starts.items()}
        noise = data["noise"][segment - 1] if "noise" in data else None
        carry, out, slopes = work(model, carry, batch, noise, starts)
        for part in parts:
            assert error(getattr(carry, part), data[f"{part}_{segment}"]) < 1e-9, part
        for key in VALUES + EXACT:
            wanted = data[key][segment - 1] if key in data else data.get(f"{key}_{segment}")
            if wanted is not None:
                bound = 1e-9 if key in VALUES else 1e-15
                assert error(getattr(out, key), wanted) < bound, (key, segment)
        for key in ("inputs", "labels"):
            if (wanted := data.get(f"current.{key}_{segment}")) is not None:
                np.testing.assert_array_equal(getattr(carry.current, key), wanted)
        if segment == data["grad_segment"]:
            for key, wanted in weights(data, "grad.").items():
                assert error(slopes[key], wanted) < 1e-6, key


@needs_files
@pytest.mark.parametrize("name", [name for name in NAMES if name in ("fprm_conv2d", "fprm_damping")])
def test_evaluation_of_fprm_is_that_of_the_authors(name, x64):
    """One step in each call; the batch ends as a whole, by its largest residual."""
    data, model = load(name)
    model = eqx.nn.inference_mode(model)
    batch = [data[key] for key in ("inputs", "labels", "puzzle_identifiers")]
    carry, out = model.start(batch[0], batch[2], data["start_z_1"]), None
    for call, halted in enumerate(data["eval_halted"]):
        carry, out = model.segment(carry, *batch)
        for key in ("residual", "best_residual", "step_size", "patience"):
            bound = 1e-9 if key in VALUES else 1e-15
            assert error(getattr(out, key)[0], data[f"eval_{key}"][call]) < bound, (key, call)
        np.testing.assert_array_equal(out.halted, halted)
    assert out is not None
    assert error(carry.z, data["eval_z"]) < 1e-9
    assert error(out.logits, data["eval_logits"]) < 1e-9


# --- the three small files


@needs_files
def test_adam_atan2_is_that_of_the_package(x64):
    data = np.load(FILES / "adam_atan2.npz")
    masks = {"p": {"p": True, "r": False}, "r": {"p": False, "r": True}}
    params = {name: jnp.asarray(data[f"{name}_0"]) for name in "pr"}

    def objective(params):
        residual = data["a" if "a" in data else "A"] @ params["p"] - data["b"]
        return jnp.sum(data["scale"] * residual**2) / 2 + jnp.sum(jnp.cosh(params["r"]))

    rates = jnp.asarray(data["learning_rates"])
    rule = eqloop.recursive.adam_atan2(lambda step: rates[step], *data["betas"], 0.0)
    state = rule.init(params)
    del masks
    for step in (1, 2, 3):
        loss, slopes = jax.value_and_grad(objective)(params)
        assert error(loss, data[f"loss_{step}"]) < 1e-12
        decays = dict(zip("pr", data["weight_decay"], strict=True))
        updates, state = rule.update(slopes, state, params)
        params = {
            name: (1 - rates[step - 1] * decays[name]) * params[name] + updates[name]
            for name in params
        }
        for name in params:
            assert error(params[name], data[f"{name}_{step}"]) < 1e-12
