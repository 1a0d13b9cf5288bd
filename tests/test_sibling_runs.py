"""Checkpoints of TRM, HRM, EqR and FPRM as runs: the same answers, taken by every command."""

import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import torch_layout
from torch_layout import trained

import eqloop
from eqloop._build import make_model as make_task_model
from eqloop.interop import (
    from_sibling_state_dict,
    sibling_task,
    spec_tables,
    to_nested,
    to_sibling_state_dict,
)
from eqloop.recursive import NestedTransformer, make_model
from eqloop.run import ModelSpec, TrainSpec, overlay
from eqloop.tasks import make_task
from eqloop.train._carry import Carry
from eqloop.train._q import bootstrapped, q_losses

SIZES: dict[str, Any] = {"seq_len": 16, "vocab_size": 6, "hidden_size": 16, "num_heads": 2}
SIZES |= {"expansion": 4, "L_layers": 1, "H_cycles": 2, "L_cycles": 2, "halt_max_steps": 3}
ROPE, PUZZLE = {"pos_encodings": "rope"}, {"puzzle_emb_ndim": 20, "puzzle_emb_len": 3}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "trm-mlp": ("trm", {"mlp_t": True, "num_heads": 1, **PUZZLE}),
    "trm-learned": ("trm", {"pos_encodings": "learned", **PUZZLE}),
    "trm-maze": ("trm", ROPE),
    "hrm": ("hrm", {**ROPE, "H_layers": 2, "puzzle_emb_ndim": 16}),
    "eqr": ("eqr", {**ROPE, "lambda_": 0.8, "noise_scale": 0.0, "L_init_std": 0.125}),
    "eqr-plane": ("eqr", {"pos_encodings": "rope2d", "noise_scale": 0.0}),
    "fprm": (
        "fprm",
        {**ROPE, **PUZZLE, "conv_type": "conv2d", "conv_kernel_size": 3, "init_std": 6.0}
        | {"n_backwards_L": 3, "max_iter": 12, "norm_placement": "output", "decay_patience": 99},
    ),
    "fprm-line": (
        "fprm",
        {"pos_encodings": "none", "conv_type": "conv1d", "conv_kernel_size": 4, "fixed_init": True}
        | {"n_backwards_L": 3, "max_iter": 12, "decay_patience": 99},
    ),
}


def varied(model: Any) -> Any:
    """`model` with random arrays where the authors begin with zeros."""
    weight = jr.normal(jr.key(8), model.q_head.weight.shape)
    model = eqx.tree_at(lambda m: m.q_head.weight, model, weight)
    if model.embed.puzzles is None:
        return model
    vectors = jr.normal(jr.key(7), model.embed.puzzles.shape)
    return eqx.tree_at(lambda m: m.embed.puzzles, model, vectors)


@pytest.mark.parametrize("case", CASES)
def test_a_model_of_a_run_gives_the_answers_of_the_authors_model(case):
    """After two segments in evaluation, from the same start."""
    kind, fields = CASES[case]
    config, name = SIZES | fields, "maze" if case == "trm-maze" else "sudoku"
    task, size = sibling_task(config, name)
    assert task == name
    tables = spec_tables(kind, config, task)
    if task == "maze":  # of an even size, from a file only
        shapes = {"grid": (4, 4), "channels": 4, "classes": 2}
        spec = eqloop.run.Spec({"name": "maze"}, eqloop.run.ModelSpec(**tables["model"], **shapes))
    else:
        spec = overlay({"task": size, **tables}, task, make_task=make_task)
    theirs = varied(make_model(kind, config, key=jr.key(3)))
    nested = to_nested(theirs, eqx.filter_eval_shape(make_task_model, spec.model, jr.key(0)))
    channels = spec.model.channels
    tokens = jr.randint(jr.key(1), (1, 16), 0, channels)
    x = jax.nn.one_hot(tokens[0].reshape(4, 4), channels)
    start = nested.first_state(nested.embed(x))
    width = spec.model.width
    parts = start.reshape(1, -1, start.shape[-1])
    starts = [parts[..., i : i + width] for i in range(0, parts.shape[-1], width)]
    identifiers = jnp.zeros(1, jnp.int32)
    carry = theirs.start(tokens + 1, identifiers, starts)
    offered = tokens + 1, tokens + 1, identifiers
    carry, _ = theirs.segment(carry, *offered, starts=starts, inference=True)
    carry, out = theirs.segment(carry, *offered, starts=starts, inference=True)
    # In evaluation FPRM takes one step per segment.
    steps = 2 * (1 if kind == "fprm" else tables["solver"]["steps"])
    ran = nested(x, solver=eqloop.Unroll(steps))
    mine, q = ran.logits.reshape(16, -1), nested.q_values(ran.state)
    assert q is not None
    np.testing.assert_allclose(q, jnp.stack([out.q_halt[0], out.q_continue[0]]), rtol=1e-3)
    if task == "maze":  # off the path: wall or free; on it: start, goal or path
        wanted = jnp.stack([out.logits[0, :, 1:3].max(-1), out.logits[0, :, 3:].max(-1)], -1)
    else:
        wanted = out.logits[0, :, 1:]
    np.testing.assert_allclose(mine, wanted, atol=2e-4 * float(jnp.abs(wanted).max()))


# --- the q head, against numbers of the authors' code

FILES = Path(__file__).resolve().parents[2] / "shared" / "data" / "siblings"
needs_files = pytest.mark.skipif(not FILES.is_dir(), reason=f"{FILES} is absent: it is not shipped")
Q_CASES = ("trm_attention", "trm_mlp", "hrm_learned", "hrm_rope", "eqr_rope2d", "fprm_conv2d")


def error(a: Any, b: Any) -> float:
    """The largest difference, in units of the largest entry of b."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(b).max())


def at(data: Any, name: str, segment: int) -> Any:
    return data[key] if (key := f"{name}_{segment}") in data else data[name]


def read(name: str) -> tuple[Any, dict[str, Any], Any, NestedTransformer]:
    """The numbers of a file, its configuration, the authors' model, and that of a run, in
    float64: the weights are exact in float32."""
    data, kind = np.load(FILES / f"{name}.npz"), name.split("_")[0]
    config = json.loads(str(data["config"]))
    params, buffers = (
        {key.removeprefix(prefix): data[key].astype(float) for key in data if prefix in key}
        for prefix in ("param.", "buffer.")
    )
    theirs: Any = from_sibling_state_dict(kind, params, buffers=buffers, config=config)  # pyright: ignore[reportArgumentType]
    tables = spec_tables(kind, config, "sudoku")  # pyright: ignore[reportArgumentType]
    grid = (config.get("board_height", 4), config.get("board_width", 4))
    tokens = config["vocab_size"] - 1
    sizes = {"grid": grid, "channels": tokens, "classes": tokens}
    precision: Any = "float64"
    spec = ModelSpec(**tables["model"] | {"precision": precision}, **sizes)
    nested: Any = to_nested(theirs, eqx.filter_eval_shape(make_task_model, spec, jr.key(0)))
    nested = jax.tree.map(lambda a: a.astype(float) if eqx.is_array(a) else a, nested)
    return data, config | {"steps": tables["solver"]["steps"]}, theirs, nested


@needs_files
@pytest.mark.parametrize("name", Q_CASES)
def test_the_q_head_of_a_run_is_that_of_the_authors(name, x64):
    """Its values after each segment, the target of q_continue, the loss, and the gradient of that
    loss by the head."""
    data, config, theirs, nested = read(name)
    levels = ("z",) if name.startswith("fprm") else ("z_H", "z_L")
    solve = {"solver": eqloop.Unroll(config["steps"]), "gradient": eqloop.Truncated(1)}
    most = config["halt_max_steps"]

    @jax.jit
    def run(inputs, tokens, z, steps):
        def one(inputs, tokens, z, steps):
            model = nested
            if tokens is not None:
                model = eqx.tree_at(lambda m: m.tokens, nested, tokens)
            x = jax.nn.one_hot(inputs - 1, model.prelude.weight.shape[1]).reshape(*model.grid, -1)
            z = z.reshape(model.first_state(model.embed(x)).shape)
            state = model(x, start=z, **solve, max_steps=1).state
            last = steps >= most
            target = bootstrapped(model, x[None], state[None], last[None], **solve, max_steps=1)
            return state, target[0]

        return jax.vmap(one)(inputs, tokens, z, steps)

    def loss(nested, states, right, target):
        return 0.5 * jnp.sum(q_losses(jax.vmap(nested.q_values)(states), right, target))

    identifiers, halted = at(data, "puzzle_identifiers", 1), None
    for segment in range(1, 4):
        offered = at(data, "puzzle_identifiers", segment)
        new = np.ones(len(offered), bool) if halted is None else halted
        identifiers = np.where(new, offered, identifiers)
        inputs, labels = (
            data.get(f"current.{key}_{segment}", data.get(key)) for key in ("inputs", "labels")
        )
        parts = []
        for law, level in zip(nested.begin.laws, levels, strict=True):
            old = data[f"{level}_{segment - 1}"] if segment > 1 else data[f"{level}_1"]
            fresh = data.get(f"start_{level}_{segment}", getattr(law, "vector", None))
            fresh = old if fresh is None else np.broadcast_to(fresh, old.shape)
            parts.append(np.where(new[:, None, None], fresh, old))
        vectors = theirs.puzzle_vectors(identifiers)
        tokens = None if vectors is None else jax.vmap(theirs.embed.extra_tokens)(vectors)
        states, target = run(inputs, tokens, np.concatenate(parts, -1), data[f"steps_{segment}"])
        q: Any = jax.vmap(nested.q_values)(states)
        halted = data[f"halted_{segment}"]
        # Of a head whose second output is not trained only the first is there.
        names = [name for name in ("q_halt", "q_continue") if f"{name}_{segment}" in data]
        wanted = np.stack([data[f"{name}_{segment}"] for name in names], -1)
        q = q[:, : len(names)]
        # Rows of FPRM whose steps are damped are not those of a run.
        plain = np.ones(len(q), bool)
        if "step_size" in data:
            plain = (data["step_size"][:segment] == 1).all((0, 1))
        assert plain.any()
        assert error(q[plain], wanted[plain]) < 1e-9, segment
        likeliest = np.argmax(data[f"logits_{segment}"], -1)
        right = jnp.asarray(((likeliest == labels) | (labels < 0)).all(-1))
        is_hrm = f"target_q_continue_{segment}" in data
        if is_hrm:
            assert error(target, data[f"target_q_continue_{segment}"]) < 1e-9, segment
        target = target if is_hrm else None
        if plain.all():
            total = data[f"q_halt_loss_{segment}"] + data.get(f"q_continue_loss_{segment}", 0)
            assert error(2 * loss(nested, states, right, target), total) < 1e-9
            slope = eqx.filter_grad(loss)(nested, states, right, target).q_head
            if segment == data["grad_segment"]:
                assert error(slope.weight, data["grad.q_head.weight"]) < 1e-6
                assert error(slope.bias, data["grad.q_head.bias"]) < 1e-6


@needs_files
@pytest.mark.parametrize("name", ["trm_halting", "hrm_learned"])
def test_rows_end_where_they_end_in_the_code_of_the_authors(name):
    """For its outputs of the q head: by age, and by `q_halt > 0` or `q_halt > q_continue`."""
    data = np.load(FILES / f"{name}.npz")
    rule: Any = "compare" if name.startswith("hrm") else "halt"
    most = json.loads(str(data["config"]))["halt_max_steps"]
    spec = TrainSpec(carry_steps=most, carry_q=rule, q_weight=0.5)
    segment, ended = 1, []
    while f"halted_{segment}" in data:
        steps = jnp.asarray(data[f"steps_{segment}"], jnp.int32)
        counts = {"age": steps - 1, "least": jnp.ones_like(steps), "most": steps * 0 + most}
        words = jnp.zeros((len(steps), 2), jnp.uint32)
        state = jnp.zeros((len(steps), 1, 1))
        carry = Carry(state=state, example=steps, key=words, **counts)
        names = ["q_halt"] if rule == "halt" else ["q_halt", "q_continue"]
        q = jnp.stack([jnp.asarray(data[f"{name}_{segment}"]) for name in names], -1)
        q = jnp.pad(q, ((0, 0), (0, 2 - len(names))))
        new = carry.ended(state, jnp.ones(len(steps)), spec, q)
        np.testing.assert_array_equal(new.is_new, data[f"halted_{segment}"])
        ended += new.is_new.tolist()
        segment += 1
    assert any(ended)


def test_a_task_is_told_by_the_sizes():
    assert sibling_task({"seq_len": 900, "vocab_size": 6}) == ("maze", {"size": 30})
    assert sibling_task({"seq_len": 16, "vocab_size": 6}) == ("sudoku", {"box": 2})
    with pytest.raises(eqloop.InputError, match="900 cells and a vocabulary of 12 are those of no"):
        sibling_task({"seq_len": 900, "vocab_size": 12})
    with pytest.raises(eqloop.InputError, match="are those of no maze"):
        sibling_task({"seq_len": 81, "vocab_size": 11}, "maze")


def saved(model: Any, config: dict[str, Any], path: Path) -> list[Any]:
    """What `eqloop import` takes for a model of TRM that is written to `path`."""
    params, buffers = to_sibling_state_dict(model)
    arrays = {name: np.asarray(array) for name, array in {**params, **buffers}.items()}
    settings = [f"--set=arch.{name}={value}" for name, value in config.items() if name != "mlp_t"]
    return [torch_layout.save(trained(arrays), path), "--as", "trm", *settings]


@pytest.mark.parametrize("levels", [1, 2])
def test_what_no_run_can_be_made_of_is_one_line_and_leaves_nothing(levels, tmp_path, cli):
    """A model of TRM with one level, whose weights alone can be written; and folders in use."""
    config = SIZES | ROPE
    imported = saved(make_model("trm", config, levels=levels), config, tmp_path / "step_1")
    weights, run, used = (tmp_path / name for name in ("weights", "run", "used"))
    used.mkdir()
    (used / "file").touch()
    level = "the state of the model has 1 level, and that of a run of trm has 2, so that"
    cases = [({"out": used}, "not empty and not a run"), ({"weights": used}, "is not empty")]
    cases += [({"out": weights / "run"}, "two folders"), ({"weights": run / "w"}, "two folders")]
    cases += [({}, level)] if levels == 1 else []
    for other, why in cases:
        folders = {"out": run, "weights": weights} | other
        options = [word for name, path in folders.items() for word in (f"--{name}", path)]
        code, text, err = cli("import", *imported, *options)
        assert (code, text, err.count("\n")) == (2, "", 1), err
        assert why in err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["step_1", "used"]
        assert [path.name for path in used.iterdir()] == ["file"]
    assert cli("import", *imported, "--weights", weights)[0] == 0


def test_every_command_takes_an_imported_run(tmp_path, cli):
    config, run = SIZES | CASES["trm-mlp"][1], tmp_path / "run"
    model = varied(make_model("trm", config, key=jr.key(3)))
    imported = saved(model, config, tmp_path / "step_1")
    small = ["--set=task.rows=100"]
    code, text, err = cli("import", *imported, *small, "--out", run)
    assert (code, err) == (0, ""), err
    assert f"next: eqloop eval {run}" in text
    code, text, err = cli("eval", run, "--rows", "2", "--iterations", "6", "--json")
    assert code == 0, err
    code, _, err = cli("solve", run, "1234341221434321")
    assert code in (0, 1), err
    code, _, err = cli(
        "stability",
        run,
        "--examples",
        "2",
        "--iterations",
        "32",
        "--census",
        "off",
        "--detail",
        "1",
    )
    assert code == 0, err
    report = json.loads((run / "stability" / "report.json").read_text())
    assert report["predicted"] is None
    # It is not written over.
    weights = tmp_path / "weights"
    code, _, err = cli("import", *imported, "--out", run, "--weights", weights)
    assert (code, err.count("\n")) == (2, 1)
    assert "is a run already" in err
    assert not weights.exists()
