"""TRM, HRM, EqR and FPRM from the fields of their authors' configurations."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from .._adjoint import Truncated
from .._solver import AdaptiveDamping, Unroll
from ..nn import ROTARY_BASE, Attention, CellMLP, DepthwiseConv, Linear, MixerBlock, SwiGLU
from ..starts import TruncatedNormal, Vector
from ._family import Family
from ._halting import AbstractHalting, ByAge, ByQ, ByResidual
from ._initial import initialised, logits_of, new_q_head, normal
from ._model import RecursiveModel
from ._recursion import Recursion, SingleRecursion, Stack
from ._scaled_residual import ScaledResidual
from ._schedule import AbstractSchedule, Cycles, DampedSteps
from ._states import LowLevel, OneState, State, TwoLevels
from ._tokens import TokenEmbedding

ONLY: dict[str, tuple[Any, ...]] = {
    "no_ACT_continue": (True,),
    "q_logit_from_puzzle_emb": (True,),
    "q_logit_detach_model": (False,),
    "softmax_temp": (1.0,),
    "norm_type": ("pre-norm",),
    "residual_scale": ("input-independent",),
    "normalize_input_injection": (False,),
    "use_spec_norm_linear": (False,),
    "outer_only": (False,),
    "conv_bias": (False,),
    "eps": (1e-8,),
    "additive_noise_std": (0.0,),
    "variational_dropout": (0.0,),
    "weight_dropout": (0.0,),
    "n_jacobian_samples": (0,),
    "pos_encodings": ("rope", "rope2d", "learned", "none", None),
    "norm_placement": ("none", "input", "output"),
    "conv_type": ("none", "conv1d", "conv2d"),
    "halting_mechanism": ("fixed_point", "fixed_iterations", "act"),
}
"""The values that the fields of a configuration may have: others describe other functions."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The fields of a configuration that a model is made of, under the authors' names.

    Fields that change no number, such as `batch_size`, are not read. A limit of segments that FPRM
    draws for each batch (`max_iter_dist`) is `max_iter` here.
    """

    seq_len: int
    vocab_size: int
    hidden_size: int
    num_heads: int
    expansion: float
    L_layers: int
    H_layers: int = 0
    H_cycles: int = 1
    L_cycles: int = 1
    pos_encodings: str | None = "rope"
    rope_theta: float = ROTARY_BASE
    rms_norm_eps: float = 1e-5
    mlp_t: bool = False
    causal: bool = False
    num_puzzle_identifiers: int = 1
    puzzle_emb_ndim: int = 0
    puzzle_emb_len: int | None = None
    board_height: int | None = None
    board_width: int | None = None
    halt_max_steps: int = 1
    halt_exploration_prob: float = 0.0
    q_loss_coeff: float | None = None
    # EqR
    lambda_: float = 0.95
    noise_scale: float = 0.01
    H_init_std: float = 1.0
    L_init_std: float = 1.0
    # FPRM
    n_backwards_L: int = 1
    halting_mechanism: str = "fixed_point"
    max_iter: int = 1
    max_iter_eval: int | None = None
    fp_thresh: float = 0.1
    stepsize: float = 1.0
    stepsize_decay_train: float = 0.9
    stepsize_decay_eval: float = 0.99
    decay_patience: int = 5
    init_std: float = 1.0
    fixed_init: bool = False
    alpha_1_init: float = 0.5
    alpha_2_init: float = 0.5
    norm_placement: str = "none"
    conv_type: str = "none"
    conv_kernel_size: int = 4

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Sizes":
        """The sizes in a configuration.

        **Raises** `ValueError` for a field that is missing, and for a value that describes a
        function that is not here.
        """
        loss = config.get("loss")
        if isinstance(loss, Mapping):
            config = {**{k: v for k, v in loss.items() if k == "q_loss_coeff"}, **config}
        for name, values in ONLY.items():
            if name in config and config[name] not in values:
                raise ValueError(
                    f"{name} = {config[name]!r} is not supported: it must be "
                    + " or ".join(map(repr, values))
                )
        fields = dataclasses.fields(cls)
        for field in fields:
            if field.default is dataclasses.MISSING and field.name not in config:
                raise ValueError(f"the configuration has no {field.name}")
        return cls(**{field.name: config[field.name] for field in fields if field.name in config})

    def extra(self, kind: Family) -> int:
        """The number of positions before the cells.

        **Raises** `ValueError` where the vector of a puzzle does not fit into them.
        """
        needed = math.ceil(self.puzzle_emb_ndim / self.hidden_size)
        length = self.puzzle_emb_len
        if length is None:  # the defaults of their configurations
            length = 16 if kind in ("trm", "fprm") else 0
        if not needed or not length or kind == "hrm":
            return needed
        if length < needed:
            raise ValueError(
                f"puzzle_emb_ndim = {self.puzzle_emb_ndim} numbers do not fit into "
                f"puzzle_emb_len = {length} positions of {self.hidden_size}"
            )
        return length

    @property
    def board(self) -> tuple[int, int]:
        """Rows and columns of the cells. **Raises** `ValueError` where they are not known."""
        if self.board_height is not None and self.board_width is not None:
            return self.board_height, self.board_width
        side = math.isqrt(self.seq_len)
        if side * side != self.seq_len:
            raise ValueError(
                f"seq_len = {self.seq_len} is not a square: give board_height and board_width"
            )
        return side, side


def make_model(
    kind: Family,
    config: Mapping[str, Any],
    *,
    levels: Literal[1, 2] = 2,
    dtype: Any = None,
    key: PRNGKeyArray | None = None,
) -> RecursiveModel:
    """Make a new model with the initial weights of its authors.

    **Arguments:**

    - `kind`: "trm", "hrm", "eqr" or "fprm".
    - `config`: the fields of the authors' configuration: `seq_len`, `vocab_size`, `hidden_size`,
        `num_heads`, `expansion`, `L_layers` and others.
    - `levels`: 1 for TRM with one level.
    - `dtype`: precision of states and losses; JAX's default by default.
    - `key`: a random key for the initial weights; `jax.random.key(0)` by default.

    **Returns:**

    A `RecursiveModel`.

    **Raises** `ValueError` for a configuration that describes no model.

    ```python
    >>> import eqloop
    >>> model = eqloop.recursive.make_model("fprm", dict(
    ...     seq_len=9, vocab_size=5, hidden_size=8, num_heads=2, expansion=4, L_layers=1,
    ...     conv_type="conv2d", conv_kernel_size=3, n_backwards_L=4, max_iter=12, init_std=6.0,
    ... ))
    >>> print(model.loop.conv.weight.shape, model.schedule.steps)
    (8, 1, 3, 3) 4

    ```
    """
    if kind not in get_args(Family):
        raise ValueError(f"kind = {kind!r} must be one of {', '.join(get_args(Family))}")
    sizes = Sizes.of(config)
    extra = sizes.extra(kind)
    embed_key, loop_key, head_key, begin_key, weight_key = jr.split(
        jr.key(0) if key is None else key, 5
    )
    width = sizes.hidden_size
    q_weight = sizes.q_loss_coeff
    if q_weight is None:  # the authors' state tracking, which is causal, trains no q head
        q_weight = 0.0 if sizes.causal else 0.5
    loop = _make_loop(kind, sizes, extra, levels, loop_key)
    lm_head = Linear(width, sizes.vocab_size, use_bias=False, key=head_key)
    loop, lm_head = initialised((loop, lm_head), weight_key)
    return RecursiveModel(
        embed=_make_embedding(sizes, extra, embed_key),
        loop=loop,
        lm_head=lm_head,
        q_head=new_q_head(width),
        begin=_make_begin(kind, sizes, levels, begin_key),
        schedule=_make_schedule(kind, sizes),
        halting=_make_halting(kind, sizes),
        q_weight=q_weight,
        bootstrap=kind == "hrm",
        dtype=np.dtype(jnp.result_type(float) if dtype is None else dtype),
    )


def model_shapes(
    kind: Family, config: Mapping[str, Any], *, levels: Literal[1, 2] = 2
) -> RecursiveModel:
    """The model that `make_model` makes, with shapes in the places of its arrays, to be filled.

    **Arguments:**

    - `kind`, `config`, `levels`: see `make_model`.

    **Returns:**

    A `RecursiveModel`.

    **Raises** `ValueError` as `make_model`.

    ```python
    >>> import eqloop
    >>> sizes = dict(seq_len=4, vocab_size=3, hidden_size=8, num_heads=2, expansion=4, L_layers=1)
    >>> print(eqloop.recursive.model_shapes("trm", sizes).lm_head.weight.shape)
    (3, 8)

    ```
    """
    model = eqx.filter_eval_shape(lambda: make_model(kind, config, levels=levels))
    # The numbers of a solver are not weights: they stay.
    return eqx.tree_at(lambda m: m.schedule, model, _make_schedule(kind, Sizes.of(config)))


def _make_embedding(sizes: Sizes, extra: int, key: PRNGKeyArray) -> TokenEmbedding:
    width, std = sizes.hidden_size, 1 / math.sqrt(sizes.hidden_size)
    token_key, position_key = jr.split(key)
    learned, numbers = sizes.pos_encodings == "learned", sizes.puzzle_emb_ndim
    return TokenEmbedding(
        tokens=normal(std, sizes.vocab_size, width, key=token_key),
        positions=normal(std, extra + sizes.seq_len, width, key=position_key) if learned else None,
        puzzles=jnp.zeros((sizes.num_puzzle_identifiers, numbers)) if numbers else None,
        extra=extra,
    )


def _make_layers(
    sizes: Sizes, extra: int, layers: int, key: PRNGKeyArray
) -> tuple[MixerBlock, ...]:
    def make_layer(key: PRNGKeyArray) -> MixerBlock:
        mixer_key, mlp_key = jr.split(key)
        if sizes.mlp_t:
            mixer = CellMLP(extra + sizes.seq_len, sizes.expansion, key=mixer_key)
        else:
            mixer = Attention(
                sizes.hidden_size,
                sizes.num_heads,
                rotary_base=sizes.rope_theta,
                pairs="halves" if sizes.pos_encodings in ("rope", "rope2d") else None,
                causal=sizes.causal,
                use_norm=False,
                use_bias=False,
                key=mixer_key,
            )
        return MixerBlock(mixer, SwiGLU(sizes.hidden_size, sizes.expansion, key=mlp_key))

    return tuple(map(make_layer, jr.split(key, layers)))


def _make_loop(
    kind: Family, sizes: Sizes, extra: int, levels: Literal[1, 2], key: PRNGKeyArray
) -> Recursion | SingleRecursion | ScaledResidual:
    low_key, high_key = jr.split(key)
    layers = _make_layers(sizes, extra, sizes.L_layers, low_key)
    if kind == "fprm":
        return _make_scaled_residual(sizes, extra, layers, high_key)
    plane = sizes.pos_encodings == "rope2d" and not sizes.mlp_t
    if plane and extra:
        raise ValueError('pos_encodings = "rope2d" has no place for the extra positions of puzzles')

    def stack(layers: tuple[MixerBlock, ...]) -> Stack:
        return Stack(layers, sizes.board if plane else None, sizes.rms_norm_eps)

    low = stack(layers)
    if levels == 1:
        return SingleRecursion(low, sizes.L_cycles)
    if kind == "hrm":
        high = stack(_make_layers(sizes, extra, sizes.H_layers, high_key))
        return Recursion(low, high, sizes.L_cycles, through_last=True)
    if kind == "eqr":
        return Recursion(low, None, sizes.L_cycles, sizes.lambda_, sizes.noise_scale)
    return Recursion(low, None, sizes.L_cycles)


def _make_scaled_residual(
    sizes: Sizes, extra: int, layers: tuple[MixerBlock, ...], key: PRNGKeyArray
) -> ScaledResidual:
    conv, board = None, None
    if sizes.conv_type == "conv1d":
        conv = DepthwiseConv(sizes.hidden_size, (sizes.conv_kernel_size,), key=key)
    elif sizes.conv_type == "conv2d":
        conv = DepthwiseConv(sizes.hidden_size, (sizes.conv_kernel_size,) * 2, key=key)
        board = sizes.board
    return ScaledResidual(
        conv,
        layers,
        logits_of(sizes.alpha_1_init, sizes.hidden_size),
        logits_of(sizes.alpha_2_init, sizes.hidden_size),
        extra,
        board,
        sizes.norm_placement,
        sizes.rms_norm_eps,
    )


def _make_begin(kind: Family, sizes: Sizes, levels: Literal[1, 2], key: PRNGKeyArray) -> State:
    """The law of start of each part of the state."""
    high_key, low_key = jr.split(key)
    if kind == "fprm":
        std = sizes.init_std
        vector = normal(std, sizes.hidden_size, key=low_key)
        return OneState(Vector(vector) if sizes.fixed_init else TruncatedNormal(std))  # pyright: ignore
    if kind == "eqr":
        return TwoLevels(TruncatedNormal(sizes.H_init_std), TruncatedNormal(sizes.L_init_std))  # pyright: ignore
    high, low = (Vector(normal(1.0, sizes.hidden_size, key=k)) for k in (high_key, low_key))
    return LowLevel(low) if levels == 1 else TwoLevels(high, low)  # pyright: ignore


def _make_schedule(kind: Family, sizes: Sizes) -> AbstractSchedule:
    if kind != "fprm":
        return Cycles(Unroll(sizes.H_cycles), Truncated(1))
    damping = AdaptiveDamping(
        rtol=sizes.fp_thresh,
        step_size=sizes.stepsize,
        decay=sizes.stepsize_decay_train,
        patience=sizes.decay_patience,
    )
    return DampedSteps(damping, sizes.n_backwards_L, sizes.stepsize_decay_eval)


def _make_halting(kind: Family, sizes: Sizes) -> AbstractHalting:
    if kind != "fprm" or sizes.halting_mechanism == "act":
        return ByQ(sizes.halt_max_steps, sizes.halt_exploration_prob, kind == "hrm")
    if sizes.halting_mechanism == "fixed_iterations":
        return ByAge(sizes.max_iter, sizes.max_iter_eval)
    return ByResidual(sizes.fp_thresh, sizes.max_iter, sizes.max_iter_eval)
