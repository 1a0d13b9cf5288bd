"""Checkpoints of TRM, HRM, EqR and FPRM: from what their files hold to named weights and a complete
configuration.

The authors' names have a prefix, which depends on the wrappers that the model was in when it was
saved (`_orig_mod.model.inner.`), and their configuration is in another file. Sizes follow from the
shapes of the weights; cycles and heads do not, and are asked for where they are missing.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

import numpy as np

from .._errors import InputError
from .._text import one_line
from ..recursive import Family
from ._sibling import BUFFERS

SIBLING_TASKS = {"sudoku": (81, 11), "maze": (900, 6), "arc": (900, 12)}
"""Cells and vocabulary of the tasks of the published checkpoints, which no file states."""

_EMBEDDING = "embed_tokens.embedding_weight"
_POSITIONS = "embed_pos.embedding_weight"
_PUZZLES = "puzzle_emb.weights"
_LAYER = re.compile(r"([HL])_level\.layers\.([0-9]{1,4})\.")
_PARAMETER = re.compile(
    r"embed_(tokens|pos)\.embedding_weight|lm_head\.weight|q_head\.(weight|bias)"
    r"|L_level\.(conv\.(weight|bias)|alpha_[12]_param)"
    rf"|{_LAYER.pattern}(self_attn\.(qkv|o)_proj|mlp(_t)?\.(gate_up|down)_proj)\.weight"
)
_PER_BATCH = re.compile(r"puzzle_emb\.local_(weights|ids)")
"""Rows of the last batch, which the model overwrites before it reads them."""

_CYCLES = ("H_cycles", "L_cycles", "halt_max_steps")
_NEEDED: dict[str, tuple[str, ...]] = {
    "trm": _CYCLES,
    "hrm": _CYCLES,
    "eqr": (*_CYCLES, "lambda_", "noise_scale"),
    "fprm": ("max_iter", "n_backwards_L", "init_std", "norm_placement"),
}
"""Fields that no weight tells."""
_ATTENTION = ("num_heads", "pos_encodings")
"""Further such fields of models with attention."""
_WHOLE = (
    *("H_cycles", "L_cycles", "halt_max_steps", "max_iter", "max_iter_eval", "n_backwards_L"),
    *("num_heads", "seq_len", "puzzle_emb_len", "board_height", "board_width", "decay_patience"),
)
_REAL = (
    *("lambda_", "noise_scale", "init_std", "H_init_std", "L_init_std", "expansion"),
    *("rope_theta", "rms_norm_eps", "halt_exploration_prob", "q_loss_coeff", "fp_thresh"),
    *("stepsize", "stepsize_decay_train", "stepsize_decay_eval", "alpha_1_init", "alpha_2_init"),
)
_MAY_LACK = ("max_iter_eval", "board_height", "board_width", "q_loss_coeff")
"""Fields that the authors leave empty (null)."""


@dataclasses.dataclass(frozen=True)
class SiblingCheckpoint:
    """The weights of a model of TRM, HRM, EqR or FPRM, as `from_sibling_state_dict` takes them.

    **Attributes:**

    - `kind`: "trm", "hrm", "eqr" or "fprm".
    - `params`, `buffers`: name -> array, in the authors' naming without prefix.
    - `config`: the fields of the authors' configuration; those that shapes determine are inferred.
    - `averaged`: whether `params` are the moving average (EMA) of a file that has both it and the
        weights in training. The files of TRM and FPRM have one set, which is the average if their
        training kept one.
    """

    kind: Family
    params: Mapping[str, np.ndarray]
    buffers: Mapping[str, np.ndarray]
    config: Mapping[str, Any]
    averaged: bool


def sibling_checkpoint(
    content: Any,
    kind: Family,
    *,
    config: Mapping[str, Any] | None = None,
    task: str | None = None,
) -> SiblingCheckpoint:
    """Sort what a checkpoint of TRM, HRM, EqR or FPRM holds, and complete its configuration.

    Of a training checkpoint of EqR it takes the moving average, and from the weights in training
    what the average lacks, which are buffers. It leaves out the masks of FPRM's weight dropout,
    which must be ones.

    **Arguments:**

    - `content`: what `read_weights` returned: name -> tensor, or the tables `model` and `ema`.
    - `kind`: "trm", "hrm", "eqr" or "fprm".
    - `config`: fields of the authors' configuration, as `read_config` returns them. They replace
        those that a checkpoint of EqR has itself.
    - `task`: "sudoku", "maze" or "arc", for the number of cells, if `config` has no `seq_len`.

    **Returns** a `SiblingCheckpoint`, whose arrays are views of the file.

    **Raises** `InputError` if the names are not those of that model, if the configuration or the
    task contradicts the shapes, and if neither they nor the configuration determine a field; the
    message names all such fields.

    ```python
    >>> import eqloop, numpy as np
    >>> layer = "_orig_mod.model.inner.L_level.layers.0"
    >>> content = {
    ...     "_orig_mod.model.inner.embed_tokens.embedding_weight": np.zeros((11, 32)),
    ...     f"{layer}.mlp_t.gate_up_proj.weight": np.zeros((512, 81)),
    ...     f"{layer}.mlp.gate_up_proj.weight": np.zeros((512, 32)),
    ... }
    >>> config = {"H_cycles": 3, "L_cycles": 6, "halt_max_steps": 16}
    >>> read = eqloop.interop.sibling_checkpoint(content, "trm", config=config)
    >>> print(read.config["seq_len"], read.config["mlp_t"], sorted(read.params)[0])
    81 True L_level.layers.0.mlp.gate_up_proj.weight

    ```
    """
    if kind not in get_args(Family):
        raise InputError(f"{kind!r} must be one of {', '.join(get_args(Family))}")
    arrays, averaged = _weights(content)
    params = {name: array for name, array in arrays.items() if _PARAMETER.fullmatch(name)}
    buffers = {name: array for name, array in arrays.items() if name in BUFFERS}
    if unknown := arrays.keys() - params.keys() - buffers.keys():
        raise InputError(f"these are no weights of {kind}: {_listed(unknown)}")
    if (kind == "fprm") != any(name.startswith("L_level.alpha") for name in params) or (
        kind == "hrm"
    ) != any(name.startswith("H_level.") for name in params):
        raise InputError(
            f"these are not the weights of {kind}: HRM has H_level, FPRM L_level.alpha_1_param, "
            "TRM and EqR neither; name another model"
        )
    known = _plain(_saved_config(content) | dict(config or {}))
    full = _complete(kind, params, buffers, known, task)
    return SiblingCheckpoint(kind, params, buffers, full, averaged)


# --- names


def _weights(content: Any) -> tuple[dict[str, np.ndarray], bool]:
    """The arrays by their names without prefix, and whether they are a moving average."""
    if not isinstance(content, Mapping):
        raise InputError(f"it holds a {type(content).__name__}, not a dictionary of weights")
    model, average = content.get("model", content), content.get("ema")
    arrays = _stripped(model)
    shadow = average.get("shadow") if isinstance(average, Mapping) else None
    if not shadow:
        return arrays, False
    averages = _stripped(shadow)
    trained = {name for name in arrays if _PARAMETER.fullmatch(name)}
    if lacking := trained - averages.keys():
        raise InputError(f"its moving average lacks {_listed(lacking)}")
    return {**arrays, **averages}, True


def _saved_config(content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the model in a training checkpoint of EqR."""
    saved = content.get("config")
    arch = saved.get("arch") if isinstance(saved, Mapping) else None
    return dict(arch) if isinstance(arch, Mapping) else {}


def _plain(fields: Mapping[str, Any], depth: int = 2) -> dict[str, Any]:
    """Numbers and texts, and tables of such (`loss`)."""
    plain = {k: v for k, v in fields.items() if isinstance(v, str | int | float | None)}
    tables = {k: v for k, v in fields.items() if isinstance(v, Mapping) and depth > 1}
    return plain | {name: _plain(table, depth - 1) for name, table in tables.items()}


def _stripped(model: Any) -> dict[str, np.ndarray]:
    """The arrays of a state dict without the prefix of their names, what is no weight left out."""
    names = list(model) if isinstance(model, Mapping) else []
    plain = {name: name.replace("_orig_mod.", "") for name in names if isinstance(name, str)}
    prefixes = [name[: -len(_EMBEDDING)] for name in plain.values() if name.endswith(_EMBEDDING)]
    if len(prefixes) != 1:
        other = [name if isinstance(name, str) else type(name).__name__ for name in names]
        raise InputError(f"it has no weight {_EMBEDDING}, but {_listed(other)}")
    arrays: dict[str, np.ndarray] = {}
    for name, short in plain.items():
        short = short.removeprefix(prefixes[0])
        if not hasattr(model[name], "shape"):
            raise InputError(f"its entry {_listed([name])} is no tensor")
        if short in arrays:
            raise InputError(f"it has {_listed([short])} twice, with and without a prefix")
        if short.endswith(".mask"):
            if not (np.asarray(model[name]) == 1).all():
                raise InputError(f"{_listed([short])} masks weights out: only ones are supported")
        elif not _PER_BATCH.fullmatch(short):
            arrays[short] = np.asarray(model[name])
    return arrays


def _listed(names: Iterable[str]) -> str:
    first, *rest = sorted(one_line(name[:100]) for name in names) or ["nothing"]
    return f"{first} and {len(rest)} more" if rest else first


# --- sizes


def _complete(
    kind: Family,
    params: Mapping[str, np.ndarray],
    buffers: Mapping[str, np.ndarray],
    given: Mapping[str, Any],
    task: str | None,
) -> dict[str, Any]:
    """The configuration: `given`, and what the shapes and the task determine. **Raises**
    `InputError` for contradictions and for what is missing."""
    # An interpolation that Hydra had not resolved is as good as missing.
    config = {k: v for k, v in given.items() if not str(v).startswith("${")}
    inferred, positions = _from_shapes(kind, params, buffers)
    if kind == "eqr" and config.get("seq_len") == positions and _PUZZLES in buffers:
        del config["seq_len"]  # the released file counts the extra tokens among them
    if task is not None:
        if task not in SIBLING_TASKS:
            raise InputError(f"the task must be one of {', '.join(SIBLING_TASKS)}, not {task}")
        inferred["seq_len"], vocabulary = SIBLING_TASKS[task]
        if inferred["vocab_size"] != vocabulary:
            raise InputError(
                f"its vocabulary has {inferred['vocab_size']} tokens, but that of {task} has "
                f"{vocabulary}"
            )
    for name, value in inferred.items():
        if name in config and config[name] != value:
            raise InputError(
                f"{name} is {config[name]!r} in the configuration, but {value!r} in the checkpoint"
            )
    config |= inferred
    _check_numbers(config)
    _add_tokens(kind, config, positions)
    _add_expansion(config, params, positions)
    if config["mlp_t"]:  # which has neither
        config = {"num_heads": 1, "pos_encodings": "none"} | config
    missing = [name for name in (*_NEEDED[kind], *_ATTENTION) if name not in config]
    missing += [name for name in ("seq_len", "puzzle_emb_len", "expansion") if name not in config]
    if kind == "hrm" and "puzzle_emb_len" in missing:
        missing.remove("puzzle_emb_len")
    if missing:
        raise InputError(
            f"the weights do not determine {', '.join(missing)}: give the authors' all_config.yaml "
            "(--config), these fields (--set arch.FIELD=VALUE), or for seq_len the task (--task)"
        )
    return config


def _from_shapes(
    kind: Family, params: Mapping[str, np.ndarray], buffers: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any], int | None]:
    """The fields that the shapes determine, and the number of positions, extra tokens included, if
    they do."""
    vocabulary, width = _shape(params, _EMBEDDING, 2)
    layers = {level: _layers(params, level) for level in "HL"}
    mlp = "L_level.layers.0.mlp_t.gate_up_proj.weight"
    fields = {"vocab_size": vocabulary, "hidden_size": width, "mlp_t": mlp in params}
    fields |= {"L_layers": layers["L"]} | ({"H_layers": layers["H"]} if kind == "hrm" else {})
    positions = _shape(params, mlp, 2)[1] if mlp in params else None
    if _POSITIONS in params:
        fields["pos_encodings"], positions = "learned", _shape(params, _POSITIONS, 2)[0]
    if _PUZZLES in buffers:
        identifiers, ndim = _shape(buffers, _PUZZLES, 2)
        fields |= {"num_puzzle_identifiers": identifiers, "puzzle_emb_ndim": ndim}
    else:
        fields["puzzle_emb_ndim"] = 0
    if kind == "fprm":
        conv = params.get("L_level.conv.weight")
        axes = 0 if conv is None else conv.ndim - 2
        fields["conv_type"] = f"conv{axes}d" if axes else "none"
        fields |= {"conv_kernel_size": conv.shape[-1]} if conv is not None else {}
        fields["fixed_init"] = "L_optimizer.init_vec" in buffers
    return fields, positions


def _add_tokens(kind: Family, config: dict[str, Any], positions: int | None) -> None:
    """Add `puzzle_emb_len` and `seq_len` if two of them and `positions` determine the third."""
    ndim, cells = config["puzzle_emb_ndim"], config.get("seq_len")
    least = -(-ndim // config["hidden_size"])
    tokens = least if kind == "hrm" or not ndim else config.get("puzzle_emb_len")
    if tokens is None and positions is not None and cells is not None:
        tokens = positions - cells
    if tokens is None:
        return
    tokens = tokens or least
    if cells is None and positions is not None:
        cells = positions - tokens
    if tokens < least or (cells or 1) < 1 or (positions and cells != positions - tokens):
        raise InputError(
            f"it has {positions or 'unknown'} positions and puzzle vectors of {ndim}, which does "
            f"not fit seq_len {cells} and {tokens} tokens of width {config['hidden_size']}"
        )
    config |= {} if kind == "hrm" else {"puzzle_emb_len": tokens}
    config |= {} if cells is None else {"seq_len": cells}


def _add_expansion(
    config: dict[str, Any], params: Mapping[str, np.ndarray], positions: int | None
) -> None:
    """Check `expansion`, or add 4, the authors' own, if it gives the widths of the weights."""
    widths = {"mlp": config["hidden_size"]} | ({"mlp_t": positions} if config["mlp_t"] else {})
    expansion = config.get("expansion", 4)
    for mixer, outer in widths.items():
        rows, _ = _shape(params, f"L_level.layers.0.{mixer}.gate_up_proj.weight", 2)
        if rows != 2 * 256 * math.ceil(round(expansion * outer * 2 / 3) / 256):
            if "expansion" in config:
                raise InputError(f"expansion {expansion} does not give {rows // 2} hidden units")
            return
    config["expansion"] = expansion


def _check_numbers(config: Mapping[str, Any]) -> None:
    """**Raises** `InputError` for a field that is not a number of its kind."""
    given = {k: v for k, v in config.items() if v is not None or k not in _MAY_LACK}
    for name, value in given.items():
        least = name != "puzzle_emb_len"
        if name in _WHOLE and not (type(value) is int and least <= value < 2**31):
            raise InputError(f"{name} must be a whole number above zero, not {value!r}")
        real = isinstance(value, int | float) and abs(value) < 1e12
        if name in _REAL and (isinstance(value, bool) or not real):
            raise InputError(f"{name} must be a number, not {value!r}")
    if config["hidden_size"] % config.get("num_heads", 1):
        raise InputError(
            f"num_heads {config['num_heads']} does not divide the width {config['hidden_size']}"
        )


def _layers(params: Mapping[str, np.ndarray], level: str) -> int:
    found = {int(m[2]) for m in map(_LAYER.match, params) if m and m[1] == level}
    if found != set(range(len(found))) or (level == "L" and not found):
        raise InputError(f"it lacks layers of {level}_level: it has {sorted(found)}")
    return len(found)


def _shape(arrays: Mapping[str, np.ndarray], name: str, axes: int) -> tuple[int, ...]:
    if name not in arrays:
        raise InputError(f"it lacks {name}")
    if arrays[name].ndim != axes or not arrays[name].size:
        raise InputError(f"{name} has the shape {arrays[name].shape}: it must have {axes} axes")
    return arrays[name].shape
