"""Checkpoints of TRM, HRM, EqR and FPRM in the authors' layout: names, moving averages, and what
the shapes determine of the configuration."""

import json
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import numpy as np
import pytest
import torch_layout
from torch_layout import COMPILED, PLAIN, Tensor, arrays_of, of_eqr, trained

from eqloop import InputError
from eqloop.interop import from_sibling_state_dict, read_weights, sibling_checkpoint

CYCLES = {"H_cycles": 3, "L_cycles": 6, "halt_max_steps": 16}
HEADS = {"num_heads": 2, "pos_encodings": "rope"}
NEEDED: dict[str, dict[str, Any]] = {
    "trm": CYCLES | HEADS | {"puzzle_emb_len": 2},
    "hrm": CYCLES | HEADS,
    "eqr": CYCLES | HEADS | {"puzzle_emb_len": 2, "lambda_": 0.95, "noise_scale": 0.01},
    "fprm": HEADS
    | {"puzzle_emb_len": 2, "max_iter": 12, "n_backwards_L": 6, "init_std": 6.0}
    | {"norm_placement": "none"},
}
"""What no shape tells."""
SHAPES = {"hidden_size": 16, "vocab_size": 7, "L_layers": 2, "mlp_t": False, "expansion": 4}
PUZZLES = {"num_puzzle_identifiers": 3, "puzzle_emb_ndim": 16}
FOUND: dict[str, dict[str, Any]] = {
    "trm": SHAPES | PUZZLES,
    "hrm": SHAPES | PUZZLES | {"H_layers": 2},
    "eqr": SHAPES | PUZZLES,
    "fprm": SHAPES | PUZZLES | {"conv_type": "conv2d", "conv_kernel_size": 3, "fixed_init": False},
}


def equal(read: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> bool:
    return read.keys() == wanted.keys() and all(
        read[name].dtype == array.dtype and read[name].tobytes() == array.tobytes()
        for name, array in wanted.items()
    )


def saved(kind: str, params: Mapping, buffers: Mapping, prefix: str = COMPILED) -> dict:
    """What the authors of each model save."""
    if kind == "eqr":
        return of_eqr(params, buffers, {"H_cycles": 1, "no_such_field": 3})
    state = trained({**params, **buffers}, prefix)
    if kind == "fprm":
        layers = [name for name in state if name.endswith("_proj.weight")]
        masks = {name.replace(".weight", ".mask"): state[name].array * 0 + 1 for name in layers}
        state.update({name: Tensor(mask) for name, mask in masks.items()})
    return state


@pytest.mark.parametrize("kind", NEEDED)
def test_a_checkpoint_gives_its_arrays_and_a_whole_configuration(kind, tmp_path):
    params, buffers = arrays_of(kind)
    content = read_weights(torch_layout.save(saved(kind, params, buffers), tmp_path / "step_1"))
    config = {**NEEDED[kind], "seq_len": 12}
    read = sibling_checkpoint(content, kind, config=config)
    assert equal(read.params, params)
    assert equal(read.buffers, buffers)
    assert read.averaged == (kind == "eqr")
    own = {"no_such_field": 3, "loss": {"name": "x"}} if kind == "eqr" else {}
    assert read.config == config | FOUND[kind] | own


@pytest.mark.parametrize("kind", ["trm", "eqr"])
def test_mixers_over_cells_tell_the_number_of_positions(kind):
    params, buffers = arrays_of(kind, mlp=True)
    needed = {name: value for name, value in NEEDED[kind].items() if name not in HEADS}
    read = sibling_checkpoint(params | buffers, kind, config=needed)
    assert read.config["seq_len"] == 12
    assert read.config["mlp_t"] is True
    by_cells = {**needed, "seq_len": 12}
    del by_cells["puzzle_emb_len"]
    assert sibling_checkpoint(params | buffers, kind, config=by_cells).config == read.config
    if kind == "eqr":  # of which the released file counts all positions
        counted = {**needed, "seq_len": 14}
        assert sibling_checkpoint(params | buffers, kind, config=counted).config == read.config
    without = {name: value for name, value in buffers.items() if "puzzle" not in name}
    bare, _ = arrays_of(kind, mlp=True, tokens=0)
    config = {**needed, "puzzle_emb_len": 16}  # the authors' default, without vectors to fill it
    assert sibling_checkpoint(bare | without, kind, config=config).config["puzzle_emb_len"] == 0


def test_learned_positions_tell_the_number_of_positions():
    params, buffers = arrays_of("hrm")
    params["embed_pos.embedding_weight"] = np.zeros((13, 16), np.float32)
    config = CYCLES | {"num_heads": 2}
    read = sibling_checkpoint(params | buffers, "hrm", config=config)
    assert read.config["seq_len"] == 12
    assert read.config["pos_encodings"] == "learned"
    assert "puzzle_emb_len" not in read.config


@pytest.mark.parametrize(
    "prefix", ["", PLAIN, COMPILED, "module._orig_mod.model.inner.", "model._orig_mod.inner."]
)
def test_prefixes_are_stripped_wherever_they_stand(prefix):
    params, buffers = arrays_of("trm")
    state = {prefix + name: array for name, array in (params | buffers).items()}
    state = {name.replace("layers.1.", "layers.1._orig_mod."): a for name, a in state.items()}
    state[f"{prefix}puzzle_emb.local_weights"] = np.zeros((2, 16))
    read = sibling_checkpoint(state, "trm", config=NEEDED["trm"] | {"seq_len": 12})
    assert equal(read.params, params)
    assert equal(read.buffers, buffers)


def test_every_reference_file_is_read_as_it_was_saved(shared, tmp_path):
    """The authors' own weights, names and configurations: what the shapes determine is left out of
    the configuration, and comes back."""
    files = sorted((shared / "data" / "siblings").glob("*_*.npz"))
    files = [path for path in files if path.name.partition("_")[0] in NEEDED]
    assert len(files) == 17
    inferred = {"hidden_size", "vocab_size", "L_layers", "mlp_t", "expansion", "conv_type"}
    inferred |= {"num_puzzle_identifiers", "puzzle_emb_ndim", "conv_kernel_size"}
    for path in files:
        kind: Any = path.name.partition("_")[0]
        stored = np.load(path)
        params, buffers = (
            {n.removeprefix(part): stored[n] for n in stored if n.startswith(part)}
            for part in ("param.", "buffer.")
        )
        config = json.loads(str(stored["config"]))
        given = {name: value for name, value in config.items() if name not in inferred}
        file = torch_layout.save(saved(kind, params, buffers), tmp_path / "step_1")
        read = sibling_checkpoint(read_weights(file), kind, config=given)
        assert equal(read.params, params), path
        assert equal(read.buffers, buffers), path
        if "puzzle_emb.weights" not in buffers:
            del config["num_puzzle_identifiers"]
        assert {n: v for n, v in config.items() if v and v != read.config[n]} == {}, path
        if path.stem in ("trm_mlp", "hrm_learned", "eqr_mlp_noise", "fprm_conv2d"):
            made, wanted = (
                from_sibling_state_dict(kind, params, buffers=buffers, config=fields)
                for fields in (read.config, config)
            )
            assert eqx.tree_equal(made, wanted, typematch=True), path


# --- what is refused

PARAMS, BUFFERS = arrays_of("trm")
WHOLE = {**PARAMS, **BUFFERS}
CONFIG = {**NEEDED["trm"], "seq_len": 12}


def refused(content: Any, message: str, kind: Any = "trm", task: Any = None, **fields: Any) -> None:
    config = {name: value for name, value in (CONFIG | fields).items() if value is not None}
    with pytest.raises(InputError, match=message) as caught:
        sibling_checkpoint(content, kind, config=config, task=task)
    assert "\n" not in str(caught.value)


def test_what_no_shape_tells_is_asked_for_at_once():
    absent: dict[str, Any] = dict.fromkeys(CONFIG)
    message = (
        "do not determine H_cycles, L_cycles, halt_max_steps, num_heads, pos_encodings, seq_len, "
        "puzzle_emb_len: give"
    )
    refused(WHOLE, message, **absent)
    refused(WHOLE, "do not determine seq_len: give", seq_len=None)
    refused(WHOLE, "do not determine H_cycles: give", H_cycles="${.L_cycles}")


def test_the_task_tells_the_number_of_cells():
    params = PARAMS | {"embed_tokens.embedding_weight": np.zeros((11, 16), np.float32)}
    config = {**NEEDED["trm"]}
    read = sibling_checkpoint(params | BUFFERS, "trm", config=config, task="sudoku")
    assert read.config["seq_len"] == 81
    refused(WHOLE, "vocabulary has 7 tokens, but that of maze has 6", task="maze")
    refused(WHOLE, "task must be one of sudoku, maze, arc, not chess", task="chess")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 32}, "hidden_size is 32 in the configuration, but 16 in the checkpoint"),
        ({"mlp_t": True}, "mlp_t is True in the configuration, but False"),
        ({"L_layers": 4}, "L_layers is 4"),
        ({"puzzle_emb_ndim": 512}, "puzzle_emb_ndim is 512"),
        ({"expansion": 32}, "expansion 32 does not give 256 hidden units"),
        ({"num_heads": 3}, "num_heads 3 does not divide the width 16"),
        ({"num_heads": 0}, "num_heads must be a whole number above zero, not 0"),
        ({"H_cycles": "3"}, "H_cycles must be a whole number above zero, not '3'"),
        ({"L_cycles": True}, "L_cycles must be a whole number above zero, not True"),
        ({"seq_len": -1}, "seq_len must be a whole number"),
        ({"expansion": "4"}, "expansion must be a number, not '4'"),
        ({"lambda_": float("nan")}, "lambda_ must be a number, not nan"),
        ({"expansion": 1e308}, "expansion must be a number, not 1e"),
        ({"rope_theta": "x"}, "rope_theta must be a number, not 'x'"),
        ({"seq_len": {"a": 1}}, "seq_len must be a whole number above zero, not {'a': 1}"),
        ({"H_cycles": 2**31}, "H_cycles must be a whole number above zero"),
    ],
)
def test_a_configuration_that_contradicts_the_weights(fields, message):
    refused(WHOLE, message, **fields)


def test_tokens_and_cells_that_do_not_add_up():
    params, buffers = arrays_of("trm", mlp=True)
    whole = params | buffers
    refused(whole, "does not fit seq_len 12 and 3 tokens", puzzle_emb_len=3)
    refused(whole, "does not fit seq_len 20 and", seq_len=20, puzzle_emb_len=None)
    refused(whole, "does not fit seq_len -2 and 16 tokens", seq_len=None, puzzle_emb_len=16)
    wide = {**WHOLE, "puzzle_emb.weights": np.zeros((3, 40), np.float32)}
    refused(wide, "puzzle vectors of 40, which does not fit", puzzle_emb_len=2)


def changed(**arrays: Any) -> dict[str, Any]:
    """The weights with these in place of their own, or without (None)."""
    both = WHOLE | {name.replace("__", "."): array for name, array in arrays.items()}
    return {name: array for name, array in both.items() if array is not None}


def test_what_is_no_such_model():
    embedding = "embed_tokens.embedding_weight"
    refused([1], "it holds a list, not a dictionary")
    refused({}, f"no weight {embedding}, but nothing")
    refused({"a": 1, 10**5000: 4, "\x1b[31m": 0}, f"no weight {embedding}, but .*and 2 more")
    refused({**WHOLE, f"model.{embedding}": 0}, "no weight embed_tokens")
    refused(changed(other=np.zeros(2)), "these are no weights of trm: other")
    refused(changed(lm_head__weight=3), "entry lm_head.weight is no tensor")
    refused({**WHOLE, "_orig_mod.lm_head.weight": PARAMS["lm_head.weight"]}, "weight twice")
    refused(changed(embed_tokens__embedding_weight=np.zeros(7)), r"shape \(7,\): it must have 2")
    layer = "L_level.layers.{}.mlp.gate_up_proj.weight"
    second = {name: array for name, array in WHOLE.items() if ".layers.0." not in name}
    refused(second, r"it lacks layers of L_level: it has \[1\]")
    refused({n: a for n, a in WHOLE.items() if n != layer.format(0)}, f"it lacks {layer.format(0)}")
    refused(WHOLE, "not the weights of hrm: HRM has H_level", kind="hrm")
    refused(WHOLE, "not the weights of fprm", kind="fprm")
    refused(dict.fromkeys(["model", "ema"]), "no weight embed_tokens", kind="eqr")
    refused(WHOLE, "'x' must be one of trm, hrm, eqr, fprm", kind="x")
    masked = {**WHOLE, "L_level.layers.0.mlp.down_proj.mask": np.array([1.0, 0.0])}
    refused(masked, "down_proj.mask masks weights out: only ones are supported")


def test_an_average_of_only_some_weights_is_not_mixed_with_the_others(tmp_path):
    content = of_eqr(PARAMS, {}, {})
    del content["ema"]["shadow"][f"{PLAIN}lm_head.weight"]
    read = read_weights(torch_layout.save(content, tmp_path / "eqr.pth"))
    refused(read, "its moving average lacks lm_head.weight", kind="eqr")
    del read["ema"]
    config = NEEDED["eqr"] | {"seq_len": 12}
    assert not sibling_checkpoint(read, "eqr", config=config).averaged
