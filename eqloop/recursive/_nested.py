"""The loops of TRM, HRM, EqR and FPRM in a model that is called like a `LoopedTransformer`."""

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import equinox as eqx
import jax
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
from ..starts import AbstractStart, Embed, TruncatedNormal, Vector
from ._family import Family
from ._initial import initialised, logits_of, new_q_head, normal
from ._recursion import Recursion, Stack
from ._scaled_residual import ScaledResidual
from ._states import OneState, TwoLevels
from ._tokens import HALF_ROOT

LEVELS = {"trm": 2, "hrm": 2, "eqr": 2, "fprm": 1}
"""Parts of the state of each family."""

Mixer = Literal["attention", "mlp"]
Positions = Literal["axes", "line", "learned", "none"]
Convolution = Literal["grid", "line", "none"]
EndNorm = Literal["none", "input", "output"]
Begin = Literal["embed", "vectors", "normal"]


class NestedLoop(eqx.Module):
    """A `Recursion` or `ScaledResidual` as a map of one array: the parts of its state stand one
    after another along the last axis, `(*grid, levels x width)`.

    **Arguments:**

    - `map`: the map of the named parts.
    - `flat`: whether the map takes the cells as a line, and not along the axes of the grid.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> loop = eqloop.recursive.NestedLoop(eqloop.recursive.Recursion(lambda x: 0.5 * x, cycles=1))
    >>> r = loop.inject(jnp.ones((3, 1)))
    >>> print(loop(jnp.ones((3, 2)), r)[0])             # (1 + 1.5) / 2, and (1 + 1 + 1) / 2
    [1.25 1.5 ]

    ```
    """

    map: Recursion | ScaledResidual
    flat: bool = eqx.field(default=False, static=True)

    def inject(self, e: Float[Array, "*grid width"]) -> Any:
        """Return the input of the map for the embedding `e`."""
        return self.map.inject(self._placed(e))

    def __call__(self, z: Float[Array, "*grid features"], r: Any) -> Float[Array, "*grid features"]:
        """Return the next state, for `r = loop.inject(e)`."""
        levels = 2 if isinstance(self.map, Recursion) else 1
        parts = jnp.split(self._placed(z), levels, axis=-1)
        if isinstance(self.map, Recursion):
            parts = self.map(TwoLevels(*parts), r)
        else:
            parts = self.map(OneState(*parts), r)
        return jnp.concatenate(parts, axis=-1).reshape(z.shape)

    def _placed(self, z: Float[Array, "*grid features"]) -> Float[Array, "*cells features"]:
        return z.reshape(-1, z.shape[-1]) if self.flat else z


class FirstState(eqx.Module):
    """The initial state of a `NestedTransformer`: its parts by their laws, one after another.

    What a law draws, it draws from the same key in every call, so that an evaluation can be
    repeated.

    **Arguments:**

    - `laws`: the law of each part, for the embedding as its default.
    """

    laws: tuple[AbstractStart, ...]

    def __call__(self, e: Float[Array, "*grid width"]) -> Float[Array, "*grid features"]:
        laws = jax.lax.stop_gradient(self.laws)  # a vector is no weight
        return jnp.concatenate([law(e, jr.key(i)) for i, law in enumerate(laws)], axis=-1)


class FirstPart(eqx.Module):
    """The coda of a `NestedTransformer`: a linear map of the first part of the state, at the cells.

    **Arguments:**

    - `head`: the linear map.
    - `extra`: number of positions before the cells.
    - `grid`: the cells along each axis, where there are extra positions.
    - `outputs`: number of outputs of the head for each class, of which the largest is its score;
        empty for one each.
    """

    head: Linear
    extra: int = eqx.field(default=0, static=True)
    grid: tuple[int, ...] = eqx.field(default=(), static=True)
    outputs: tuple[int, ...] = eqx.field(default=(), static=True)

    def __call__(self, z: Float[Array, "*grid features"]) -> Float[Array, "*grid classes"]:
        z = z[..., : self.head.weight.shape[1]]
        if self.extra:
            z = z[self.extra :].reshape(*self.grid, -1)
        scores = self.head(z)
        if not self.outputs:
            return scores
        groups = jnp.split(scores, np.cumsum(self.outputs)[:-1], axis=-1)
        return jnp.stack([jnp.max(group, axis=-1) for group in groups], axis=-1)


class NestedTransformer(AbstractLoopedModel):
    """A model with the loop of TRM, HRM, EqR or FPRM, called, trained, solved and measured like a
    `LoopedTransformer`.

    ```
    e = sqrt(width) [extra; W x]                        (prelude)
    z_0 = (e, e), or e for FPRM                         (or as `begin` says)
    z_{t+1} = f(z_t, e)                                 (a cycle F of `Recursion`, or FPRM's map)
    logits = W_out z_H                                  (coda)
    q_halt, q_continue = W_q z_H[first position] + b_q  (q head, if there is one)
    ```

    One iteration is a whole cycle F; TRM is `Unroll(3)` with the gradient `Truncated(1)` and
    carried states. It differs from `RecursiveModel`, which is the authors' model to the last digit,
    in that it has one vector for all puzzles; `eqloop.interop.to_nested` makes it from one. The
    state has the shape `(*grid, levels x width)`; with extra positions,
    `(extra + cells, levels x width)`.

    **Arguments:**

    - `family`: "trm" (one net), "hrm" (two nets), "eqr" (one net, damped) or "fprm".
    - `grid`, `channels`, `classes`, `width`, `heads`, `rotary_base`, `dtype`, `key`: see
        `LoopedTransformer`.
    - `layers`: blocks of a net.
    - `high_layers`: blocks of the high level's net of HRM; 0 for as many as `layers`.
    - `cycles`: steps of the low level in one iteration; FPRM has none.
    - `mix`: share of the new value in a step of EqR.
    - `mixer`: "attention", or "mlp" over the cells.
    - `mlp_ratio`: see `nn.swiglu_width`.
    - `positions`: rotary positions along the "axes" of the grid, or along the "line" of its cells;
        "learned" vectors, which are added to the embedding, `0.707106781 (e + p)`; or "none".
    - `extra`: number of positions before the cells, whose input is learned.
    - `causal`: whether a cell attends only to itself and those before it, on a grid of one axis.
    - `begin`: the initial state is the embedding ("embed"), one random vector of each part in all
        positions ("vectors"), or a draw from a truncated normal distribution ("normal").
    - `begin_std`: standard deviation of the "normal" draw of each part, or of all.
    - `outputs`: see `FirstPart`.
    - `q_head`: whether there is a q head, which begins with the weights 0 and the biases -5.
    - `conv`: FPRM's convolution has `conv_width` cells along each axis of the "grid", or along
        the "line" of the cells, causal; or there is "none".
    - `conv_width`: 0 for 3 on a grid of two axes and 4 on a line.
    - `end_norm`: FPRM has no further norm ("none"), or one after the convolution ("input") or at
        the end ("output").

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
    tokens: Float[Array, "extra width"] | None
    places: Float[Array, "positions width"] | None
    begin: FirstState
    map: Recursion | ScaledResidual
    coda: FirstPart
    q_head: Linear | None
    family: Family = eqx.field(static=True)
    heads: int = eqx.field(static=True)
    rotary_base: float = eqx.field(static=True)
    mlp_ratio: int = eqx.field(static=True)
    mixer: Mixer = eqx.field(static=True)
    positions: Positions = eqx.field(static=True)
    flat: bool = eqx.field(static=True)
    grid: tuple[int, ...] = eqx.field(static=True)
    dtype: np.dtype = eqx.field(static=True)

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
        high_layers: int = 0,
        cycles: int = 6,
        mix: float = 0.95,
        mixer: Mixer = "attention",
        mlp_ratio: int = 4,
        positions: Positions = "axes",
        rotary_base: float = ROTARY_BASE,
        extra: int = 0,
        causal: bool = False,
        begin: Begin = "embed",
        begin_std: tuple[float, ...] = (1.0,),
        conv: Convolution = "grid",
        conv_width: int = 0,
        end_norm: EndNorm = "none",
        outputs: tuple[int, ...] = (),
        q_head: bool = False,
        dtype: DTypeLike = jnp.float32,
        key: PRNGKeyArray,
    ):
        choices: dict[str, tuple[Any, Any]] = {
            "family": (family, Family),
            "mixer": (mixer, Mixer),
            "positions": (positions, Positions),
            "begin": (begin, Begin),
            "conv": (conv, Convolution),
            "end_norm": (end_norm, EndNorm),
        }
        for name, (value, kind) in choices.items():
            if value not in get_args(kind):
                raise ValueError(f"{name} = {value!r} must be one of {', '.join(get_args(kind))}")
        grid = tuple(grid)
        if extra and positions == "axes":
            raise ValueError(f'positions = "axes" has no place for extra = {extra} positions')
        if len(begin_std) not in (1, LEVELS[family]):
            raise ValueError(f"begin_std = {begin_std} must be 1 or {LEVELS[family]} numbers")
        if outputs and (len(outputs) != classes or min(outputs) < 1):
            raise ValueError(f"outputs = {outputs} must be {classes} numbers of at least 1")
        low_key, high_key, prelude_key, head_key, draw_key = jr.split(key, 5)
        place_key, *begin_keys = jr.split(jr.fold_in(key, 1), 3)
        cells = extra + math.prod(grid)

        def make_layer(key: PRNGKeyArray) -> MixerBlock:
            mixer_key, mlp_key = jr.split(key)
            if mixer == "mlp":
                mixing = CellMLP(cells, mlp_ratio, key=mixer_key)
            else:
                mixing = Attention(
                    width,
                    heads,
                    rotary_base=rotary_base,
                    pairs="halves" if positions in ("axes", "line") else None,
                    causal=causal,
                    use_norm=False,
                    use_bias=False,
                    key=mixer_key,
                )
            return MixerBlock(mixing, SwiGLU(width, mlp_ratio, key=mlp_key))

        def make_layers(key: PRNGKeyArray, layers: int) -> tuple[MixerBlock, ...]:
            return tuple(map(make_layer, jr.split(key, layers)))

        lined = "line" in (positions, conv if family == "fprm" else "")
        flat = bool(extra) or mixer == "mlp" or positions == "learned" or (lined and len(grid) > 1)
        low = make_layers(low_key, layers)
        if family == "fprm":
            along = (len(grid) if conv == "grid" else 1) if conv != "none" else 0
            taps = (conv_width or (4 if along == 1 else 3),) * along
            made = ScaledResidual(
                DepthwiseConv(width, taps, key=high_key) if taps else None,
                low,
                logits_of(0.75, width),
                logits_of(0.25, width),
                extra,
                grid if conv == "grid" and flat else None,
                end_norm,
            )
        else:
            high = Stack(make_layers(high_key, high_layers or layers)) if family == "hrm" else None
            share = mix if family == "eqr" else 1.0
            made = Recursion(Stack(low), high, cycles, share)
        prelude = Linear(channels, width, use_bias=False, key=prelude_key)
        head = Linear(width, sum(outputs) or classes, use_bias=False, key=head_key)
        coda = FirstPart(head, extra, grid if extra else (), tuple(outputs))
        self.map, self.coda = initialised((made, coda), draw_key)
        self.q_head = new_q_head(width) if q_head else None
        # Of one-hot tokens this is the authors' embedding, of std 1 / sqrt(width).
        std = 1 / math.sqrt(width)
        self.prelude = eqx.tree_at(
            lambda m: m.weight, prelude, std * jr.normal(prelude_key, prelude.weight.shape)
        )
        self.tokens = jnp.zeros((extra, width)) if extra else None
        self.places = normal(std, cells, width, key=place_key) if positions == "learned" else None
        stds = begin_std * (LEVELS[family] // len(begin_std))
        laws: dict[Begin, Callable[[PRNGKeyArray, float], AbstractStart]] = {
            "embed": lambda key, std: Embed(),
            "vectors": lambda key, std: Vector(normal(std, width, key=key)),
            "normal": lambda key, std: TruncatedNormal(std),
        }
        self.begin = FirstState(tuple(map(laws[begin], begin_keys, stds)))
        self.family, self.grid, self.dtype = family, grid, np.dtype(dtype)
        self.heads, self.rotary_base, self.mlp_ratio = heads, rotary_base, mlp_ratio
        self.mixer, self.positions, self.flat = mixer, positions, flat

    def embed(self, x: Float[Array, "*grid channels"]) -> Float[Array, "*grid width"]:
        """Return the embedding `sqrt(width) W x`, with extra positions before it and learned
        positions added, if there are any, for the input `x`, shape `(*grid, channels)`.

        **Raises** `ValueError` for an input of another shape.
        """
        self.check_input(x)
        e = self.prelude(x)
        if self.tokens is not None:
            e = jnp.concatenate([self.tokens, e.reshape(-1, e.shape[-1])])
        if self.places is not None:
            e = HALF_ROOT * (e + self.places.reshape(e.shape))
        return math.sqrt(len(self.prelude.weight)) * e

    def q_values(self, z: Float[Array, "*grid features"]) -> Float[Array, "2"] | None:
        """Return `q_halt` and `q_continue`, which the q head reads in the first position of the
        high level, for a state `z`; None without a q head. The first position is an extra one, or
        the first cell."""
        if self.q_head is None:
            return None
        return self.q_head(z.reshape(-1, z.shape[-1])[0, : self.q_head.weight.shape[1]])

    @property
    def first_state(self) -> FirstState:
        """The map from an embedding to the default initial state."""
        return self.begin

    @property
    def extra(self) -> int:
        """Positions before the cells."""
        return 0 if self.tokens is None else len(self.tokens)

    @property
    def layers(self) -> tuple[MixerBlock, ...]:
        """The blocks of the net, or of that of the low level."""
        if isinstance(self.map, ScaledResidual):
            return self.map.layers
        assert isinstance(self.map.low, Stack)
        return self.map.low.layers

    @property
    def high_layers(self) -> tuple[MixerBlock, ...]:
        """The blocks of the net of the high level of HRM."""
        high = self.map.high if isinstance(self.map, Recursion) else None
        return high.layers if isinstance(high, Stack) else ()

    @property
    def window(self) -> Literal["full"]:
        """A cell sees all cells."""
        return "full"

    @property
    def mixings(self) -> int:
        """The number of blocks that one iteration applies."""
        if isinstance(self.map, ScaledResidual):
            return len(self.layers)
        high = self.high_layers or self.layers
        return len(self.layers) * self.map.cycles + len(high)

    def check_grid(self, grid: tuple[int, ...]) -> None:
        """**Raises** `InputError` for another grid than that of the model, where the cells are a
        line for its map: by an MLP over cells, extra positions, or positions along a line."""
        if self.flat and grid != self.grid:
            raise InputError(
                f"a puzzle of {' x '.join(map(str, grid))} cells is not of the size of this model, "
                f"which has {' x '.join(map(str, self.grid))} cells"
            )

    def loop(self, *, fold: bool = False) -> NestedLoop:
        """Return the map that is iterated; `fold` has no effect."""
        del fold
        return NestedLoop(cast_linear(self.map, self.dtype), self.flat)
