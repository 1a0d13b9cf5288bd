"""`eqloop import`: from the authors' file to a folder of safetensors, in one process."""

import json
import os
import pickle
from pathlib import Path

import equinox as eqx
import numpy as np
import pytest
import torch_layout
from torch_layout import arrays_of, of_eqr, trained

from eqloop.interop import from_sibling_state_dict, read_config, read_weights, sibling_checkpoint

ARCH = {
    "H_cycles": 3,
    "L_cycles": 6,
    "halt_max_steps": 16,
    "num_heads": 2,
    "pos_encodings": "rope",
    "puzzle_emb_len": 2,
    "rms_norm_eps": 1e-5,
    "loss": {"name": "losses@ACTLossHead", "q_loss_coeff": 0.5},
}
PARAMS, BUFFERS = arrays_of("trm")
EQR = ["--set=arch.lambda_=0.95", "--set=arch.noise_scale=0.01", "--set=arch.seq_len=12"]


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A checkpoint of TRM and its configuration, as their authors' programs leave them."""
    folder = tmp_path / "run"
    folder.mkdir()
    lines = [f"  {name}: {value}" for name, value in ARCH.items() if name != "loss"]
    text = "\n".join(["arch:", *lines, "  loss:", "    q_loss_coeff: 0.5", "seed: 0", ""])
    (folder / "all_config.yaml").write_text(text)
    return torch_layout.save(trained(PARAMS | BUFFERS), folder / "step_32550")


def test_a_checkpoint_becomes_a_folder_of_equal_weights(checkpoint, tmp_path, cli):
    out = tmp_path / "made" / "trm"
    code, text, err = cli(
        "import", checkpoint, "--as", "trm", "--set=arch.seq_len=12", "--weights", out
    )
    assert (code, err) == (0, "")
    assert "L_level.layers.1.mlp.down_proj.weight" in text
    assert "trm: 26,882 weights\n" in text
    assert {path.name for path in out.iterdir()} == {"all_config.yaml", "weights.safetensors"}
    # It is read again without another option, and makes the same model.
    code, text, _ = cli("import", out / "weights.safetensors", "--as", "trm", "--json")
    table = json.loads(text)
    assert code == 0
    assert table["arrays"]["H_init"] == {"shape": [16], "dtype": "bfloat16"}
    assert table["config"] == read_config(out / "all_config.yaml")
    assert table["config"]["rms_norm_eps"] == 1e-5
    assert table["config"]["loss"] == {"q_loss_coeff": 0.5}
    read = sibling_checkpoint(
        read_weights(out / "weights.safetensors"), "trm", config=table["config"]
    )
    made = [
        from_sibling_state_dict("trm", params, buffers=buffers, config=table["config"])
        for params, buffers in ((PARAMS, BUFFERS), (read.params, read.buffers))
    ]
    assert eqx.tree_equal(*made, typematch=True)
    # It is not written over.
    code, _, err = cli("import", out / "weights.safetensors", "--as", "trm", "--weights", out)
    assert (code, err) == (2, f"error: --weights {out}: is not empty; choose another folder\n")


def test_the_moving_average_of_eqr(tmp_path, cli):
    params, buffers = arrays_of("eqr", mlp=True)
    saved = of_eqr(params, buffers, {"H_cycles": 3, "L_cycles": 6, "halt_max_steps": 16})
    path = torch_layout.save(saved, tmp_path / "eqr.pth")
    code, text, _ = cli(
        "import", path, "--as", "eqr", *EQR, "--json", "--weights", tmp_path / "out"
    )
    table = json.loads(text)
    assert code == 0
    assert table["averaged"] is True
    assert table["config"]["puzzle_emb_len"] == 2
    written = read_weights(tmp_path / "out" / "weights.safetensors")
    np.testing.assert_array_equal(written["lm_head.weight"], params["lm_head.weight"])


def test_a_malicious_checkpoint_is_refused_and_not_run(tmp_path, cli):
    class Run:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    params, buffers = arrays_of("eqr")
    saved = of_eqr(params, buffers, {"H_cycles": Run()})
    path = torch_layout.save(saved, tmp_path / "eqr.pth")
    code, text, err = cli("import", path, "--as", "eqr", *EQR, "--weights", tmp_path / "out")
    assert (code, text) == (2, "")
    assert err.startswith(f"error: {path} is refused, since its pickle names posix.system: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()
    pickle.loads(pickle.dumps(Run()))
    assert (tmp_path / "ran").exists(), "the pickle would have run it"


def test_bad_input_is_one_line_and_leaves_nothing_behind(checkpoint, tmp_path, cli):
    other = torch_layout.save(
        trained(PARAMS | BUFFERS | {"lm_head.weight": np.zeros((6, 16), np.float32)}),
        checkpoint.with_name("other"),
    )
    infinite = torch_layout.save(
        trained(PARAMS | BUFFERS | {"q_head.bias": np.full(2, np.inf, np.float32)}),
        checkpoint.with_name("infinite"),
    )
    damaged = checkpoint.with_name("damaged")
    content = checkpoint.read_bytes()
    place = content.index(PARAMS["lm_head.weight"].tobytes())
    damaged.write_bytes(content[:place] + b"\1\2" + content[place + 2 :])
    cells = "--set=arch.seq_len=12"
    (tmp_path / "file").write_text("")
    for arguments, message in (
        (
            [checkpoint, "--as", "trm"],
            "do not determine seq_len: give the authors' all_config.yaml",
        ),
        (
            [checkpoint, "--as", "trm", "--task", "maze"],
            "vocabulary has 7 tokens, but that of maze",
        ),
        ([checkpoint, "--as", "hrm", cells], "these are not the weights of hrm"),
        ([checkpoint, "--as", "x", cells], "'x' must be one of trm, hrm, eqr, fprm"),
        ([checkpoint, cells], "Missing option '--as'"),
        ([checkpoint, "--as", "trm", "--set=model.width=3"], "write arch.FIELD=VALUE"),
        ([checkpoint, "--as", "trm", cells, "--set=arch.softmax_temp=2"], "softmax_temp = 2"),
        ([checkpoint, "--as", "trm", cells, "--config", tmp_path / "no"], "does not exist"),
        ([tmp_path / "no", "--as", "trm"], f"{tmp_path}/no does not exist"),
        ([tmp_path, "--as", "trm"], "it is a folder"),
        ([other, "--as", "trm", cells], "lm_head.weight has shape"),
        ([infinite, "--as", "trm", cells], "q_head.bias holds NaN or infinities"),
        ([damaged, "--as", "trm", cells], "is damaged or was cut off: the CRC-32 of record data/"),
        ([checkpoint, "--as", "trm", cells, "--weights", tmp_path / "file"], "cannot write"),
    ):
        extra = [] if "--weights" in arguments else ["--weights", tmp_path / "out"]
        code, text, err = cli("import", *arguments, *extra)
        assert (code, text) == (2, ""), arguments
        assert message in err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert err.count(str(arguments[0])) <= 1
        assert not (tmp_path / "out").exists()
