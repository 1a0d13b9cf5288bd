"""TRM, HRM, EqR and FPRM compute what their authors' code computes: states, losses, gradients."""

import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.test_util
import numpy as np
import pytest

import eqloop
from eqloop._cross_entropy import IGNORED, log_stablemax, stablemax_cross_entropy
from eqloop._solver import Damping
from eqloop.interop import from_sibling_state_dict, to_sibling_state_dict
from eqloop.recursive import (
    ByAge,
    ByQ,
    ByResidual,
    Recursion,
    RecursiveModel,
    Row,
    TwoLevels,
    adam_atan2,
    make_model,
    sign_descent,
)

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
    """In float64: a gradient has the dtype of its weight."""
    return {k.removeprefix(prefix): data[k].astype(float) for k in data if k.startswith(prefix)}


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
@pytest.mark.parametrize(
    "name", [name for name in NAMES if name in ("fprm_conv2d", "fprm_damping")]
)
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
    rates, decays = jnp.asarray(data["learning_rates"]), data["weight_decay"]
    b1, b2 = data["betas"]
    rules = {
        name: adam_atan2(lambda step: rates[step], b1, b2, decay)
        for name, decay in zip("pr", decays, strict=True)
    }
    params = {name: jnp.asarray(data[f"{name}_0"]) for name in "pr"}
    states = {name: rules[name].init(params[name]) for name in "pr"}

    def objective(params):
        residual = data["A"] @ params["p"] - data["b"]
        return jnp.sum(data["scale"] * residual**2) / 2 + jnp.sum(jnp.cosh(params["r"]))

    for step in (1, 2, 3):
        loss, slopes = jax.value_and_grad(objective)(params)
        assert error(loss, data[f"loss_{step}"]) < 1e-12
        for name, rule in rules.items():
            update, states[name] = rule.update(slopes[name], states[name], params[name])
            params[name] = params[name] + jnp.asarray(update)
            assert error(params[name], data[f"{name}_{step}"]) < 1e-12


@needs_files
def test_sign_descent_is_that_of_the_authors(x64):
    data = np.load(FILES / "sign_descent.npz")
    vectors = jnp.asarray(data["weights_0"])
    for step, rate in enumerate(data["learning_rates"], 1):
        vectors = sign_descent(vectors, data["ids"], data["grad"], rate, data["weight_decay"])
        assert error(vectors, data[f"weights_{step}"]) < 1e-15


@needs_files
def test_stablemax_is_that_of_the_authors(x64):
    data = np.load(FILES / "stablemax.npz")
    logits, labels = jnp.asarray(data["logits"]), jnp.asarray(data["labels"])
    assert error(log_stablemax(logits), data["log_probs"]) < 1e-12

    def loss(logits):
        return jnp.sum(jax.vmap(stablemax_cross_entropy)(logits, labels))

    value, slope = jax.value_and_grad(loss)(logits)
    assert error(value, data["loss"]) < 1e-12
    assert error(slope, data["grad.logits"]) < 1e-12


# --- laws


def test_stablemax_has_the_gradient_of_its_formula(x64):
    """In float32 too, at a logit of 1, where the branch that is not taken has a pole."""
    x = jnp.array([1.0, -1.0, 0.5, -7.0, 1e-12, 1e4])
    s = np.where(x < 0, 1 / (1 - np.minimum(x, 0)), x + 1)
    np.testing.assert_allclose(log_stablemax(x), np.log(s / s.sum()), rtol=1e-12)
    labels = jnp.array([2, IGNORED, 0])
    logits = jr.normal(jr.key(0), (3, 6))

    def loss(logits):
        return stablemax_cross_entropy(logits, labels)

    wanted = -(log_stablemax(logits)[0, 2] + log_stablemax(logits)[2, 0]) / 2
    np.testing.assert_allclose(loss(logits), wanted, rtol=1e-12)
    jax.test_util.check_grads(loss, (logits,), order=1, rtol=1e-6)
    assert jnp.isfinite(jax.grad(lambda x: log_stablemax(x)[0])(x.astype(jnp.float32))).all()


def test_the_first_step_of_adam_atan2_is_almost_the_learning_rate():
    rule, p = adam_atan2(0.1, weight_decay=0.0), jnp.ones(3)
    update, _ = rule.update(jnp.array([1e-4, -2.0, 0.0]), rule.init(p), p)
    first = 10 * np.arctan(0.1)  # m = 0.1 g, and sqrt(v) / sqrt(1 - b2) = |g|
    np.testing.assert_allclose(jnp.asarray(update), 0.1 * first * np.array([-1, 1, 0]), rtol=1e-5)
    assert 0.996 < first < 0.997


CONFIG: dict[str, Any] = {
    **{"seq_len": 4, "vocab_size": 5, "hidden_size": 8, "num_heads": 2, "expansion": 4},
    **{"L_layers": 1, "H_layers": 1, "H_cycles": 3, "L_cycles": 2, "halt_max_steps": 4},
    **{"puzzle_emb_ndim": 8, "puzzle_emb_len": 1, "num_puzzle_identifiers": 3},
}


class Halves(eqx.Module):
    """A net of one weight, with a kink nowhere."""

    w: jax.Array

    def __call__(self, x):
        return jnp.sin(self.w * x)


@pytest.mark.parametrize("through_last", [False, True], ids=["trm", "hrm"])
def test_truncated_to_one_is_the_schedule_of_the_authors(through_last, x64):
    """F unrolled with `Truncated(1)`: all cycles but the last are constants and, in HRM, all
    steps of the last one but two."""
    low, high = Halves(jnp.array(0.7)), Halves(jnp.array(-0.6)) if through_last else None
    f = Recursion(low, high, 3, 0.9, 0.1, through_last)
    z0 = TwoLevels(*jr.normal(jr.key(0), (2, 4, 2)))
    noise, e = jr.normal(jr.key(1), (2, 4, 4, 2)), jr.normal(jr.key(2), (4, 2))

    def end(f, e):
        solver, gradient = eqloop.Unroll(2), eqloop.Truncated(1)
        return eqloop.equilibrium(f, z0, f.inject(e, noise), solver=solver, gradient=gradient).state

    def by_hand(f, e):
        def step(net, z, i, eps):
            return 0.1 * z + 0.9 * net(z + i) + 0.1 * eps

        z_H, z_L = z0
        for cycle in range(2):
            for call in range(3):
                new = step(f.low, z_L, z_H + e, noise[cycle, call])
                constant = cycle == 0 or (through_last and call < 2)
                z_L = jax.lax.stop_gradient(new) if constant else new
            z_H = step(f.high or f.low, z_H, z_L, noise[cycle, 3])
            z_H, z_L = jax.lax.stop_gradient((z_H, z_L)) if cycle == 0 else (z_H, z_L)
        return TwoLevels(z_H, z_L)

    def loss(run, f, e):
        z_H, z_L = run(f, e)
        return jnp.sum(z_H**2) + jnp.sum(z_L**3)

    for run in (end, by_hand):
        np.testing.assert_allclose(run(f, e)[0], by_hand(f, e)[0], rtol=1e-12)
    slopes = [eqx.filter_grad(lambda fe, run=run: loss(run, *fe))((f, e)) for run in (end, by_hand)]
    for a, b in zip(*map(jax.tree.leaves, slopes), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("trm", {}),
        ("trm", {"mlp_t": True, "pos_encodings": "none"}),
        ("hrm", {"pos_encodings": "learned"}),
        ("eqr", {"pos_encodings": "rope2d", "puzzle_emb_ndim": 0}),
        ("eqr", {"mlp_t": True}),
        ("fprm", {"conv_type": "conv2d", "conv_kernel_size": 3}),
        ("fprm", {"conv_type": "conv1d", "fixed_init": True, "causal": True}),
    ],
)
def test_weights_go_and_come_back(kind, config):
    config = CONFIG | config
    params, buffers = to_sibling_state_dict(make_model(kind, config, key=jr.key(1)))
    masks = {"lm_head.mask": np.ones((5, 8))} if kind == "fprm" else {}
    model = from_sibling_state_dict(kind, params | masks, buffers=buffers, config=config)
    again = to_sibling_state_dict(model)
    for old, new in zip((params, buffers), again, strict=True):
        assert old.keys() == new.keys()
        assert all(np.array_equal(old[name], new[name]) for name in old)
    renamed = {k.replace("lm_head.weight", "head"): v for k, v in params.items()}
    with pytest.raises(ValueError, match=r"missing lm_head\.weight; unknown head"):
        from_sibling_state_dict(kind, renamed, buffers=buffers, config=config)
    wide = params | {"lm_head.weight": np.zeros((5, 9))}
    with pytest.raises(ValueError, match=r"lm_head\.weight has shape \(5, 9\), not \(5, 8\)"):
        from_sibling_state_dict(kind, wide, buffers=buffers, config=config)


def test_the_number_of_extra_positions():
    """That of the configuration, or as many as the vector needs; HRM has no such field."""
    cases: Any = (
        *(("trm", 3, 3), ("trm", 0, 2), ("trm", None, 16), ("hrm", 5, 2), ("eqr", None, 2)),
        ("fprm", None, 16),
    )
    for kind, length, wanted in cases:
        config = CONFIG | {"puzzle_emb_ndim": 12, "puzzle_emb_len": length}
        config = {k: v for k, v in config.items() if v is not None}
        shapes = eqloop.recursive.model_shapes(kind, config)
        assert shapes.embed.extra == wanted, (kind, length)
    bare = CONFIG | {"puzzle_emb_ndim": 0, "puzzle_emb_len": 16}
    assert eqloop.recursive.model_shapes("trm", bare).embed.extra == 0


def test_vectors_of_puzzles_of_an_eqr_are_seen_in_its_arrays():
    """Its configuration has no fields for them: their number follows from the width of the
    mixer."""
    config = CONFIG | {"mlp_t": True, "puzzle_emb_len": 2}
    params, buffers = to_sibling_state_dict(make_model("eqr", config))
    bare = {k: v for k, v in config.items() if "puzzle" not in k}
    assert from_sibling_state_dict("eqr", params, buffers=buffers, config=bare).embed.extra == 2


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("mlp", {}, "kind = 'mlp' must be one of trm, hrm, eqr, fprm"),
        ("fprm", {"outer_only": True}, "outer_only = True is not supported: it must be False"),
        ("trm", {"puzzle_emb_ndim": 9}, "puzzle_emb_ndim = 9 numbers do not fit into"),
        ("trm", {"seq_len": None}, "the configuration has no seq_len"),
        ("eqr", {"pos_encodings": "rope2d", "seq_len": 5, "puzzle_emb_ndim": 0}, "not a square"),
    ],
)
def test_a_configuration_of_no_model_is_refused(kind, config, message):
    config = {k: v for k, v in (CONFIG | config).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        make_model(kind, config)


def test_rows_end_by_age_by_q_and_by_residual():
    damping = Damping(*jnp.array([[1.0, 1, 1e-4], [5, 5, 5], [9, 9, 9], [0.05, 0.5, 0.5]]))
    q = jnp.array([0.5, -0.5, -0.5])
    rows = Row(jnp.array([1, 3, 2]), q, jnp.full(3, -1.0), damping)
    for law, training, evaluation in (
        (ByAge(3), [0, 1, 0], [0, 1, 0]),
        (ByAge(3, 2), [0, 1, 0], [0, 1, 1]),
        (ByQ(3), [1, 1, 0], [0, 1, 0]),
        (ByQ(3, compare=True), [1, 1, 1], [0, 1, 0]),
        (ByQ(3, exploration=1.0), [0, 1, 0], [0, 1, 0]),  # at least two segments
        (ByResidual(0.1, 3), [1, 1, 1], [0, 1, 0]),
        (ByResidual(0.6, 9), [1, 1, 1], [1, 1, 1]),  # the largest residual is below
    ):
        for inference, wanted in ((False, training), (True, evaluation)):
            halted = law(rows, jr.key(0), inference=inference)
            np.testing.assert_array_equal(halted, np.array(wanted, bool), err_msg=str(law))


def test_the_damping_is_that_of_a_plain_loop(x64):
    """The step shrinks after `patience` steps without a new minimum, above the tolerance only."""
    solver = eqloop.AdaptiveDamping(0.1, decay=0.5, patience=2)
    z = jnp.zeros((1, 1))
    residuals = [0.9, 0.8, 0.85, 0.8, 0.7, 0.7, 0.7, 0.05, 0.06, 0.07, 0.5]
    memory, step, best, patience = solver.start(lambda z: z, z), 1.0, np.inf, 2
    for residual in residuals:
        value = jnp.full((1, 1), 1.0)
        old = value * (1 - residual)  # so that |value - old| / |value| is the residual
        moved, memory = solver.damp(old, value, memory)
        np.testing.assert_allclose(moved, step * value + (1 - step) * old)
        patience, best = (2, residual) if residual < best else (patience - 1, best)
        if patience <= 0 and residual >= 0.1:
            step, patience = 0.5 * step, 2
        np.testing.assert_allclose(memory.step_size, step)
        assert memory.patience == patience
    assert step == 0.125


def test_draws_follow_the_key_of_the_carry():
    """Starts and noise that are not given are drawn, anew in each segment, and the same for the
    same key."""
    model = make_model("eqr", CONFIG | {"noise_scale": 0.1, "puzzle_emb_ndim": 0})
    ones, zeros = jnp.ones((2, 4), jnp.int32), jnp.zeros(2, jnp.int32)
    batch = ones, ones, zeros

    def ends(key) -> Any:
        carry: Any = model.start(batch[0], batch[2], key=key)
        first, _ = model.segment(carry, *batch)
        again, _ = model.segment(eqx.tree_at(lambda c: c.key, carry, first.key), *batch)
        return carry.z_H, first.z_H, again.z_H

    one, same, other = ends(jr.key(3)), ends(jr.key(3)), ends(jr.key(4))
    for a, b, c in zip(one, same, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert jnp.abs(a - c).max() > 1e-2
    assert jnp.abs(one[1] - one[2]).max() > 1e-4
