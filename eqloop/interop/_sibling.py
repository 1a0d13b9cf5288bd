"""Weights of TRM, HRM, EqR and FPRM, in the naming of their authors."""

from collections.abc import Iterator, Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..nn import CellMLP, MixerBlock, SwiGLU
from ..recursive import Family, RecursiveModel, ScaledResidual, Stack, model_shapes
from ..starts import Vector

BUFFERS = ("H_init", "L_init", "L_optimizer.init_vec", "puzzle_emb.weights")
"""Arrays that no optimiser of weights trains."""


def from_sibling_state_dict(
    kind: Family,
    params: Mapping[str, Any],
    *,
    buffers: Mapping[str, Any],
    config: Mapping[str, Any],
) -> RecursiveModel:
    """Make a TRM, HRM, EqR or FPRM with the weights of its authors' code.

    The arrays keep their dtype, and states and losses have JAX's default precision. It may be
    called inside of a function that JAX differentiates or compiles, with traced arrays.

    **Arguments:**

    - `kind`: the family.
    - `params`: name -> array, after the prefix `model.inner.`: `embed_tokens.embedding_weight`,
        `lm_head.weight`, `L_level.layers.0.self_attn.qkv_proj.weight`; linear weights are
        (out, in).
    - `buffers`: name -> array: `H_init`, `L_init`, `puzzle_emb.weights`, and the vector
        `L_optimizer.init_vec` of an FPRM with fixed start. They may be among `params` just as
        well. A TRM without `H_init` is the one with one level. Masks of ones (`*.mask`) are
        ignored.
    - `config`: the fields of the authors' configuration; see `eqloop.recursive.make_model`.

    **Returns:**

    An `eqloop.recursive.RecursiveModel`. Call its `start` and `segment`.

    **Raises** `ValueError` naming each array that is missing, unknown or of another shape, and for
    a configuration that describes no model.

    **Source:** TRM, arXiv 2510.04871; HRM, arXiv 2506.21734; EqR (github.com/locuslab/EqR); FPRM
    (github.com/nilskiKonjIzDunava/fprm).

    ```python
    >>> import eqloop
    >>> config = dict(seq_len=4, vocab_size=3, hidden_size=8, num_heads=2, expansion=4, L_layers=1)
    >>> model = eqloop.recursive.make_model("trm", config)
    >>> params, buffers = eqloop.interop.to_sibling_state_dict(model)
    >>> same = eqloop.interop.from_sibling_state_dict(
    ...     "trm", params, buffers=buffers, config=config
    ... )
    >>> print((same.lm_head.weight == model.lm_head.weight).mean())
    1.0

    ```
    """
    given = {
        name: array for name, array in {**params, **buffers}.items() if not _is_mask(name, array)
    }
    config = _with_extra_positions(kind, given, dict(config))
    levels = 1 if kind == "trm" and "H_init" not in given else 2
    skeleton = model_shapes(kind, config, levels=levels)
    entries = dict(_entries(skeleton))
    wrong = [f"missing {name}" for name in entries.keys() - given.keys()]
    wrong += [f"unknown {name}" for name in given.keys() - entries.keys()]
    for name in entries.keys() & given.keys():
        pieces = entries[name]
        shape = (sum(len(piece) for piece in pieces), *pieces[0].shape[1:])
        if np.shape(given[name]) != shape:
            wrong.append(f"{name} has shape {np.shape(given[name])}, not {shape}")
    if wrong:
        raise ValueError(
            f"state dict does not fit a {kind} of this config: {'; '.join(sorted(wrong))}"
        )
    leaves = []
    for name, pieces in entries.items():
        # Slices of a NumPy array cost no program of their own.
        size = len(pieces[0])
        leaves += [jnp.asarray(given[name][i * size : (i + 1) * size]) for i in range(len(pieces))]
    return eqx.tree_at(lambda m: [p for _, pieces in _entries(m) for p in pieces], skeleton, leaves)


def to_sibling_state_dict(
    model: RecursiveModel,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the weights of a model in the naming of its authors' code: the inverse of
    `from_sibling_state_dict`. It names the arrays of a gradient, which is a model, just as well.

    **Arguments:**

    - `model`: the model, or a gradient with respect to it.

    **Returns:**

    Two dictionaries from names to arrays: trained weights, and buffers.

    ```python
    >>> import eqloop
    >>> config = dict(seq_len=4, vocab_size=3, hidden_size=8, num_heads=2, expansion=4, L_layers=1)
    >>> model = eqloop.recursive.make_model("trm", config)
    >>> params, buffers = eqloop.interop.to_sibling_state_dict(model)
    >>> print(params["L_level.layers.0.self_attn.qkv_proj.weight"].shape, *buffers)
    (24, 8) H_init L_init

    ```
    """
    arrays = {
        name: pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces)
        for name, pieces in _entries(model)
    }
    params = {name: array for name, array in arrays.items() if name not in BUFFERS}
    return params, {name: array for name, array in arrays.items() if name in BUFFERS}


def _is_mask(name: str, array: Any) -> bool:
    """Whether an array is a mask of weights, all of which are kept.

    **Raises** `ValueError` for a mask that drops weights.
    """
    if not name.endswith(".mask"):
        return False
    if not np.all(np.asarray(array) == 1):
        raise ValueError(f"{name} is not all ones: weights that are dropped are not supported")
    return True


def _with_extra_positions(
    kind: str, given: Mapping[str, Any], config: dict[str, Any]
) -> dict[str, Any]:
    """The configuration with what the arrays say about vectors of puzzles: that of EqR has no such
    fields, and its later weights have the vectors."""
    if "puzzle_emb.weights" not in given:
        return config | {"puzzle_emb_ndim": 0, "puzzle_emb_len": 0}
    puzzles, numbers = np.shape(given["puzzle_emb.weights"])
    mixer = given.get("L_level.layers.0.mlp_t.down_proj.weight")
    if kind == "eqr" and mixer is not None and "puzzle_emb_len" not in config:
        config["puzzle_emb_len"] = len(mixer) - config["seq_len"]
    return config | {"puzzle_emb_ndim": numbers, "num_puzzle_identifiers": puzzles}


def _entries(model: RecursiveModel) -> Iterator[tuple[str, list[Any]]]:
    """The name of each array of the authors' code, and the leaves of `model` that it holds, one
    after another."""
    embed, loop, begin = model.embed, model.loop, model.begin
    yield "embed_tokens.embedding_weight", [embed.tokens]
    yield "lm_head.weight", [model.lm_head.weight]
    yield "q_head.weight", [model.q_head.weight]
    yield "q_head.bias", [model.q_head.bias]
    if embed.positions is not None:
        yield "embed_pos.embedding_weight", [embed.positions]
    if embed.puzzles is not None:
        yield "puzzle_emb.weights", [embed.puzzles]
    names = {"z_H": "H_init", "z_L": "L_init", "z": "L_optimizer.init_vec"}
    for part, law in zip(begin._fields, begin, strict=True):
        if isinstance(law, Vector):
            yield names[part], [law.vector]
    if isinstance(loop, ScaledResidual):
        yield "L_level.alpha_1_param", [loop.alpha_1]
        yield "L_level.alpha_2_param", [loop.alpha_2]
        if loop.conv is not None:
            yield "L_level.conv.weight", [loop.conv.weight]
        yield from _layers("L_level", loop.layers)
        return
    for level, net in (("L_level", loop.low), ("H_level", getattr(loop, "high", None))):
        if isinstance(net, Stack):
            yield from _layers(level, net.layers)


def _layers(level: str, layers: tuple[MixerBlock, ...]) -> Iterator[tuple[str, list[Any]]]:
    for number, layer in enumerate(layers):
        at, mixer = f"{level}.layers.{number}", layer.mixer
        if isinstance(mixer, CellMLP):
            yield from _perceptron(f"{at}.mlp_t", mixer.mlp)
        else:
            projections = (mixer.query, mixer.key, mixer.value)
            yield f"{at}.self_attn.qkv_proj.weight", [layer.weight for layer in projections]
            yield f"{at}.self_attn.o_proj.weight", [mixer.output.weight]
        yield from _perceptron(f"{at}.mlp", layer.mlp)


def _perceptron(at: str, mlp: SwiGLU) -> Iterator[tuple[str, list[Any]]]:
    yield f"{at}.gate_up_proj.weight", [mlp.gate.weight, mlp.up.weight]
    yield f"{at}.down_proj.weight", [mlp.down.weight]
