"""Checkpoints of TRM, HRM, EqR and FPRM as runs: the same answers, taken by every command."""

import json
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
from eqloop.interop import sibling_task, spec_tables, to_nested, to_sibling_state_dict
from eqloop.recursive import make_model
from eqloop.run import overlay
from eqloop.tasks import make_task

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
    mine = nested(x, solver=eqloop.Unroll(steps)).logits.reshape(16, -1)
    if task == "maze":  # off the path: wall or free; on it: start, goal or path
        wanted = jnp.stack([out.logits[0, :, 1:3].max(-1), out.logits[0, :, 3:].max(-1)], -1)
    else:
        wanted = out.logits[0, :, 1:]
    np.testing.assert_allclose(mine, wanted, atol=2e-4 * float(jnp.abs(wanted).max()))


def test_a_task_is_told_by_the_sizes():
    assert sibling_task({"seq_len": 900, "vocab_size": 6}) == ("maze", {"size": 30})
    assert sibling_task({"seq_len": 16, "vocab_size": 6}) == ("sudoku", {"box": 2})
    with pytest.raises(eqloop.InputError, match="900 cells and a vocabulary of 12 are those of no"):
        sibling_task({"seq_len": 900, "vocab_size": 12})
    with pytest.raises(eqloop.InputError, match="are those of no maze"):
        sibling_task({"seq_len": 81, "vocab_size": 11}, "maze")


def test_every_command_takes_an_imported_run(tmp_path, cli):
    config = SIZES | CASES["trm-mlp"][1]
    params, buffers = to_sibling_state_dict(varied(make_model("trm", config, key=jr.key(3))))
    arrays = {name: np.asarray(array) for name, array in {**params, **buffers}.items()}
    path, run = torch_layout.save(trained(arrays), tmp_path / "step_1"), tmp_path / "run"
    settings = [f"--set=arch.{name}={value}" for name, value in config.items() if name != "mlp_t"]
    small = ["--set=task.rows=100"]
    code, text, err = cli("import", path, "--as", "trm", *settings, *small, "--out", run)
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
    code, _, err = cli("import", path, "--as", "trm", *settings, "--out", run)
    assert (code, err.count("\n")) == (2, 1)
    assert "is a run already" in err
