"""The loops of TRM, HRM, EqR and FPRM in a model that is called like a `LoopedTransformer`."""

import math
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._errors import InputError
from .._model import AbstractLoopedModel
from ..nn import (
    ROTARY_BASE,
    Attention,
    CellMLP,
    DepthwiseConv,
    Linear,
    MixerBlock,
    SwiGLU,
    cast_linear,
)
from ._family import Family
from ._initial import initialised, logits_of
from ._recursion import Recursion, Stack
from ._scaled_residual import ScaledResidual
from ._states import OneState, TwoLevels

LEVELS = {"trm": 2, "hrm": 2, "eqr": 2, "fprm": 1}
"""Parts of the state of each family."""


class NestedLoop(eqx.Module):
    """A `Recursion` or `ScaledResidual` as a map of one array: the parts of its state stand one
    after another along the last axis, `(*grid, levels x width)`.

    **Arguments:**

    - `map`: the map of the named parts.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> loop = eqloop.recursive.NestedLoop(eqloop.recursive.Recursion(lambda x: 0.5 * x, cycles=1))
    >>> z = jnp.ones((3, 2))                            # two levels of one feature
    >>> print(loop(z, loop.inject(z))[0])               # (1 + 1.5) / 2, and (1 + 1 + 1) / 2
    [1.25 1.5 ]

    ```
    """

    map: Recursion | ScaledResidual

    def inject(self, e: Float[Array, "*grid features"]) -> Any:
        """Return the input of the map, for the initial state `e`, whose parts are the embedding."""
        return self.map.inject(self._parts(e)[0])

    def __call__(self, z: Float[Array, "*grid features"], r: Any) -> Float[Array, "*grid features"]:
        """Return the next state, for `r = loop.inject(e)`."""
        parts = self._parts(z)
        if isinstance(self.map, Recursion):
            parts = self.map(TwoLevels(*parts), r)
        else:
            parts = self.map(OneState(*parts), r)
        return jnp.concatenate(parts, axis=-1).reshape(z.shape)

    def _parts(self, z: Float[Array, "*grid features"]) -> list[Float[Array, "cells width"]]:
        levels = 2 if isinstance(self.map, Recursion) else 1
        return jnp.split(z.reshape(-1, z.shape[-1]), levels, axis=-1)


class FirstPart(eqx.Module):
    """The coda of a `NestedTransformer`: a linear map of the first part of the state."""

    head: Linear

    def __call__(self, z: Float[Array, "*grid features"]) -> Float[Array, "*grid classes"]:
        return self.head(z[..., : self.head.weight.shape[1]])


class NestedTransformer(AbstractLoopedModel):
    """A model with the loop of TRM, HRM, EqR or FPRM, called, trained, solved and measured like a
    `LoopedTransformer`.

    ```
    e = sqrt(width) W x;  z_0 = (e, e), or e for FPRM      (prelude)
    z_{t+1} = f(z_t, e)                                    (a cycle F of `Recursion`, or FPRM's map)
    logits = W_out z_H                                     (coda)
    ```

    One iteration is a whole cycle F; TRM is `Unroll(3)` with the gradient `Truncated(1)` and
    carried states. It differs from `RecursiveModel`, which is the authors' model to the last digit,
    in what belongs to their data and their training: it begins at the embedding, has no vectors of
    puzzles, and no q head. Cells mix by attention with rotary positions along the axes of the grid,
    or by an MLP over cells.

    **Arguments:**

    - `family`: "trm" (one net), "hrm" (two nets), "eqr" (one net, damped) or "fprm".
    - `grid`, `channels`, `classes`, `width`, `heads`, `rotary_base`, `dtype`, `key`: see
        `LoopedTransformer`.
    - `layers`: blocks of a net.
    - `cycles`: steps of the low level in one iteration; FPRM has none.
    - `mix`: share of the new value in a step of EqR.
    - `mixer`: "attention", or "mlp" over the cells.
    - `mlp_ratio`: see `nn.swiglu_width`.

    **Raises** `ValueError` naming the argument that is out of range.

    **Source:** TRM, arXiv 2510.04871; HRM, arXiv 2506.21734; EqR (github.com/locuslab/EqR); FPRM
    (github.com/nilskiKonjIzDunava/fprm).

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> model = eqloop.recursive.NestedTransformer(
    ...     "trm", (3, 3), 2, 5, width=8, heads=2, layers=1, key=jr.key(0)
    ... )
    >>> out = model(jnp.ones((3, 3, 2)), solver=eqloop.Unroll(3), gradient=eqloop.Truncated(1))
    >>> print(out.logits.shape, out.state.shape, out.steps)
    (3, 3, 5) (3, 3, 16) 3

    ```
    """

    prelude: Linear
    map: Recursion | ScaledResidual
    coda: FirstPart
    family: Family = eqx.field(static=True)
    layers: int = eqx.field(static=True)
    heads: int = eqx.field(static=True)
    cycles: int = eqx.field(static=True)
    mix: float = eqx.field(static=True)
    mixer: Literal["attention", "mlp"] = eqx.field(static=True)
    rotary_base: float = eqx.field(static=True)
    grid: tuple[int, ...] = eqx.field(static=True)
    dtype: np.dtype = eqx.field(static=True)
    mlp_ratio: int = eqx.field(static=True)

    def __init__(
        self,
        family: Family,
        grid: tuple[int, ...],
        channels: int,
        classes: int,
        width: int = 512,
        heads: int = 8,
        *,
        layers: int = 2,
        cycles: int = 6,
        mix: float = 0.95,
        mixer: Literal["attention", "mlp"] = "attention",
        mlp_ratio: int = 4,
        rotary_base: float = ROTARY_BASE,
        dtype: DTypeLike = jnp.float32,
        key: PRNGKeyArray,
    ):
        if family not in LEVELS:
            raise ValueError(f"family = {family!r} must be one of {', '.join(LEVELS)}")
        grid = tuple(grid)
        low_key, high_key, prelude_key, head_key, draw_key = jr.split(key, 5)

        def make_layer(key: PRNGKeyArray) -> MixerBlock:
            mixer_key, mlp_key = jr.split(key)
            if mixer == "mlp":
                mixing = CellMLP(math.prod(grid), mlp_ratio, key=mixer_key)
            else:
                options: Any = {"pairs": "halves", "use_norm": False, "use_bias": False}
                mixing = Attention(width, heads, rotary_base=rotary_base, **options, key=mixer_key)
            return MixerBlock(mixing, SwiGLU(width, mlp_ratio, key=mlp_key))

        def make_layers(key: PRNGKeyArray) -> tuple[MixerBlock, ...]:
            return tuple(map(make_layer, jr.split(key, layers)))

        board = None if mixer == "mlp" else grid
        if family == "fprm":
            conv = DepthwiseConv(width, (3, 3) if len(grid) == 2 else (4,), key=high_key)
            alphas = logits_of(0.75, width), logits_of(0.25, width)
            made = ScaledResidual(conv, make_layers(low_key), *alphas, 0, grid)
        else:
            high = Stack(make_layers(high_key), board) if family == "hrm" else None
            share = mix if family == "eqr" else 1.0
            made = Recursion(Stack(make_layers(low_key), board), high, cycles, share)
        prelude = Linear(channels, width, use_bias=False, key=prelude_key)
        head = Linear(width, classes, use_bias=False, key=head_key)
        self.map, self.coda = initialised((made, FirstPart(head)), draw_key)
        # Of one-hot tokens this is the authors' embedding, of std 1 / sqrt(width).
        std = 1 / math.sqrt(width)
        self.prelude = eqx.tree_at(
            lambda m: m.weight, prelude, std * jr.normal(prelude_key, prelude.weight.shape)
        )
        self.family, self.grid, self.dtype = family, grid, np.dtype(dtype)
        self.layers, self.heads, self.cycles, self.mix = layers, heads, cycles, mix
        self.mixer, self.mlp_ratio, self.rotary_base = mixer, mlp_ratio, rotary_base

    def embed(self, x: Float[Array, "*grid channels"]) -> Float[Array, "*grid features"]:
        """Return the initial state, `sqrt(width) W x` in each of its parts, for the input `x`,
        shape `(*grid, channels)`.

        **Raises** `ValueError` for an input of another shape.
        """
        self.check_input(x)
        e = math.sqrt(len(self.prelude.weight)) * self.prelude(x)
        return jnp.concatenate([e] * LEVELS[self.family], axis=-1)

    @property
    def window(self) -> Literal["full"]:
        """A cell sees all cells."""
        return "full"

    @property
    def mixings(self) -> int:
        """The number of blocks that one iteration applies."""
        return self.layers * (1 if self.family == "fprm" else self.cycles + 1)

    def check_grid(self, grid: tuple[int, ...]) -> None:
        """**Raises** `InputError` if an MLP over cells is to mix another number of them."""
        if self.mixer == "mlp" and math.prod(grid) != math.prod(self.grid):
            raise InputError(
                f"a puzzle of {' x '.join(map(str, grid))} cells is not of the size of this model, "
                f"whose MLP mixes {' x '.join(map(str, self.grid))} cells"
            )

    def loop(self, *, fold: bool = False) -> NestedLoop:
        """Return the map that is iterated; `fold` has no effect."""
        del fold
        return NestedLoop(cast_linear(self.map, self.dtype))
