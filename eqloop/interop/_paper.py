"""Weights in the naming of the paper's own code."""

from collections.abc import Mapping
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._errors import InputError
from .._model import LoopedTransformer
from ..nn import GRU, ROTARY_BASE, NormKind, RecallKind, ResidualKind, at_least_float32

NEIGHBOURHOOD = 5
"""Cells in the neighbourhood of the paper's code, along each axis."""


def from_paper_state_dict(
    params: Mapping[str, Any],
    *,
    recall: RecallKind,
    norm: NormKind,
    spatial_dims: int,
    attention: Literal["full", "neighbourhood"] = "full",
    residual: ResidualKind = "add",
    heads: int = 8,
) -> LoopedTransformer:
    """Make a model with the weights of the paper's own code.

    The names of the weights do not determine the architecture, so it is given besides. Arrays of
    float32 and float64 keep their dtype; narrower ones become float32, since no model computes its
    state in less.

    **Arguments:**

    - `params`: name -> array. Names are like `projection.weight`, `recur_blocks.0.Wx.weight`,
        `recur_blocks.0.attn.qkv.weight`, `head.3.bias`; linear weights are (out, in).
    - `recall`, `norm`, `residual`, `heads`: see `LoopedTransformer`.
    - `spatial_dims`: number of axes of the grid.
    - `attention`: "full", or "neighbourhood" for the 5 cells along each axis of the paper's code.

    **Returns:**

    A `LoopedTransformer`, whose `grid` is one cell along each axis: call it on a grid of any size.

    **Raises** `ValueError` naming each array that is missing, unknown or of another shape, and for
    another name of `attention`.

    **Source:** repository ashlab11/generalization, which goes with arXiv 2604.15259.

    ```python
    >>> import eqloop, jax.random as jr
    >>> model = eqloop.LoopedTransformer((3, 3), 2, 5, width=8, heads=2, key=jr.key(0))
    >>> params = eqloop.interop.to_paper_state_dict(model)
    >>> same = eqloop.interop.from_paper_state_dict(
    ...     params, recall="internal", norm="post", spatial_dims=2, heads=2
    ... )
    >>> print((same.coda.output.weight == model.coda.output.weight).mean())
    1.0

    ```
    """
    if attention not in ("full", "neighbourhood"):
        raise InputError(f'attention = {attention!r} must be "full" or "neighbourhood"')
    blocks = len({name.split(".")[1] for name in params if name.startswith("recur_blocks.")})
    try:
        width, channels = np.shape(params["projection.weight"])
        classes = len(params["head.3.bias"])
        mlp_ratio = len(params["recur_blocks.0.mlp.0.bias"]) // width
    except KeyError as error:
        raise ValueError(f"not a state dict of the paper's code: no {error.args[0]!r}") from None
    model = LoopedTransformer(
        grid=(1,) * spatial_dims,
        channels=channels,
        classes=classes,
        width=width,
        heads=heads,
        recall=recall,
        norm=norm,
        residual=residual,
        blocks=blocks,
        attention="full" if attention == "full" else NEIGHBOURHOOD,
        mlp_ratio=mlp_ratio,
        key=jr.key(0),
    )
    expected = to_paper_state_dict(model)
    wrong = [f"missing {name}" for name in expected.keys() - params.keys()]
    wrong += [f"unknown {name}" for name in params.keys() - expected.keys()]
    wrong += [
        f"{name} has shape {np.shape(params[name])}, not {expected[name].shape}"
        for name in expected.keys() & params.keys()
        if np.shape(params[name]) != expected[name].shape
    ]
    if wrong:
        raise ValueError(
            f"state dict does not fit recall={recall!r}, norm={norm!r}, residual={residual!r}: "
            + "; ".join(sorted(wrong))
        )
    leaves = []
    for pieces, name in _names(model):
        array = jnp.asarray(params[name])
        array = array.astype(at_least_float32(array.dtype))
        leaves += jnp.split(array, 3) if len(pieces) == 3 else [array]
    where = lambda m: [leaf for pieces, _ in _names(m) for leaf in pieces]  # noqa: E731
    return eqx.tree_at(where, model, leaves)


def to_paper_state_dict(model: LoopedTransformer) -> dict[str, np.ndarray]:
    """Return the weights of a model in the naming of the paper's code, as NumPy arrays: the inverse
    of `from_paper_state_dict`.

    The names do not say the size of the grid and the precision of the matrix products: a model that
    is read back has one cell along each axis, and computes in float32.

    **Arguments:**

    - `model`: the model.

    **Returns:**

    A dictionary from names to arrays.

    **Raises** `InputError` for a model that the paper's code does not have: with causal attention,
    with another base of the rotary positions, or with a neighbourhood of another size.

    ```python
    >>> import eqloop, jax.random as jr
    >>> model = eqloop.LoopedTransformer((3, 3), 2, 5, width=8, heads=2, key=jr.key(0))
    >>> params = eqloop.interop.to_paper_state_dict(model)
    >>> print(params["recur_blocks.0.attn.qkv.weight"].shape)          # 3 times width
    (24, 8)

    ```
    """
    for attention in (block.attention for block in model.blocks):
        base, window = attention.rotary_base, attention.window
        if base != ROTARY_BASE:
            raise InputError(f"rotary_base = {base}: the paper's code has {ROTARY_BASE:g}")
        if attention.causal:
            raise InputError("causal = True: the paper's code has no causal attention")
        if window not in ("full", NEIGHBOURHOOD):
            raise InputError(
                f'attention = {window}: the paper\'s code has "full" or {NEIGHBOURHOOD}'
            )
    return {
        name: np.concatenate([np.asarray(piece) for piece in pieces])
        for pieces, name in _names(model)
    }


def _names(model: LoopedTransformer):
    """For each array of the paper's code: the leaves of `model` that it holds, one after
    another, and its name."""

    def linear(name: str, *layers: Any):
        yield [m.weight for m in layers], f"{name}.weight"
        yield [m.bias for m in layers], f"{name}.bias"

    yield from linear("projection", model.prelude)
    for i, block in enumerate(model.blocks):
        at = f"recur_blocks.{i}"
        if block.recall is not None:
            yield from linear(f"{at}.Wx", block.recall.state)
            yield from linear(f"{at}.Wh", block.recall.input)
        attention = block.attention
        assert attention.query_norm is not None
        assert attention.key_norm is not None
        yield from linear(f"{at}.attn.qkv", attention.query, attention.key, attention.value)
        yield from linear(f"{at}.attn.out_proj", attention.output)
        yield [attention.query_norm.gain], f"{at}.attn.q_norm.weight"
        yield [attention.key_norm.gain], f"{at}.attn.k_norm.weight"
        yield from linear(f"{at}.mlp.0", block.feedforward.hidden)
        yield from linear(f"{at}.mlp.2", block.feedforward.output)
        norms = block.norms
        for norm, name in ((norms.pre, "pre"), (norms.branch, "peri"), (norms.out, "post")):
            if norm is not None:
                yield [norm.gain], f"{at}.{name}_norm_func.weight"
        if isinstance(block.residual, GRU):
            yield [block.residual.input.weight], f"{at}.gru.weight_ih"
            yield [block.residual.hidden.weight], f"{at}.gru.weight_hh"
            yield [block.residual.input.bias], f"{at}.gru.bias_ih"
            yield [block.residual.hidden.bias], f"{at}.gru.bias_hh"
    yield [model.coda.norm.gain], "head.0.weight"
    yield from linear("head.1", model.coda.hidden)
    yield from linear("head.3", model.coda.output)
