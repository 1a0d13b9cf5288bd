"""The recurrent block: an attention sub-block, then an MLP sub-block, with recall of the input."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._places import RECALLS
from .._remat import mark
from ._attention import Attention, AttentionBias
from ._feedforward import FeedForward
from ._linear import Linear
from ._norm_placement import NormKind, NormPlacement
from ._recall import Recall, RecallKind
from ._residual import GRU, Add, ResidualKind, make_residual
from ._rotary import ROTARY_BASE

Stage = Callable[[Float[Array, "*grid width"]], Float[Array, "*grid width"]]


class Block(eqx.Module):
    """One application of the shared block, `z -> f(z, r)`, with `r = block.inject(e)`.

    A sub-block with branch F (attention or MLP) is `z <- N_out(residual(z, N_branch(F(c))))`,
    where `c = N_pre(z)`, or `W_x N_pre(z) + r` with internal recall. External recall first
    replaces z by `W_x z + r`. See `NormPlacement` and `Recall`.

    **Arguments:**

    - `width`: features per cell.
    - `heads`: attention heads.
    - `recall`: "none", "external", "internal", or another row of `RECALLS`.
    - `norm`: "pre", "peri", "post", "sandwich", or another row of `NORMS`.
    - `residual`: "add" or "gru".
    - `attention`: "full", or the window of neighbourhood attention in cells.
    - `mlp_ratio`: width of the hidden MLP layer, in units of `width`.
    - `rotary_base`, `causal`: see `Attention`.
    - `key`: a random key for the initial weights.

    **Raises** `ValueError` for an argument out of range.

    **Source:** arXiv 2604.15259, section 3.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> block = eqloop.nn.Block(8, 2, recall="internal", norm="post", key=jr.key(0))
    >>> z, e = jr.normal(jr.key(1), (2, 3, 3, 8))
    >>> squares = jnp.square(block(z, block.inject(e)))
    >>> print(jnp.abs(squares.mean(-1) - 1).max() < 1e-5)       # outer normalisation of a cell
    True

    ```
    """

    attention: Attention
    feedforward: FeedForward
    norms: NormPlacement
    residual: Add | GRU
    recall: Recall | None
    recall_kind: RecallKind = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        recall: RecallKind,
        norm: NormKind,
        residual: ResidualKind = "add",
        attention: Literal["full"] | int = "full",
        mlp_ratio: int = 4,
        rotary_base: float = ROTARY_BASE,
        causal: bool = False,
        key: PRNGKeyArray,
    ):
        attention_key, feedforward_key, residual_key, recall_key = jr.split(key, 4)
        self.attention = Attention(
            width, heads, attention, rotary_base=rotary_base, causal=causal, key=attention_key
        )
        self.feedforward = FeedForward(width, mlp_ratio, key=feedforward_key)
        self.norms = NormPlacement(norm, width)
        self.residual = make_residual(residual, width, key=residual_key)
        self.recall = None if recall == "none" else Recall(width, key=recall_key)
        self.recall_kind = recall

    def __check_init__(self):
        if self.recall_kind not in RECALLS:
            raise ValueError(f"recall = {self.recall_kind!r} must be one of {', '.join(RECALLS)}")

    def inject(self, e: Float[Array, "*grid width"]) -> Float[Array, "*grid width"] | None:
        """Return what the input adds at every iteration, `W_h e + b`, for the embedding `e`, shape
        `(*grid, width)`; None without recall."""
        return None if self.recall is None else self.recall.inject(e)

    def __call__(
        self, z: Float[Array, "*grid width"], r: Float[Array, "*grid width"] | None
    ) -> Float[Array, "*grid width"]:
        """Return the next state, shape `(*grid, width)`, for a state `z` of this shape and
        `r = block.inject(e)`."""
        for _, stage in self.stages(r):
            z = stage(z)
        return z

    def stages(self, r: Float[Array, "*grid width"] | None) -> list[tuple[str, Stage]]:
        """Return the functions of the state that the block applies in sequence, with their names:
        "recall" if it comes before the sub-blocks, "attention" and "feedforward"."""

        def sub_block(branch: Attention | FeedForward) -> Stage:
            return lambda z: join(self, z, branch(self.branch_input(z, r)))

        stages = [(name, sub_block(getattr(self, name))) for name in ("attention", "feedforward")]
        if RECALLS[self.recall_kind].before:
            stages.insert(0, ("recall", lambda z: self.recalled(z, r)))
        return stages

    @jax.named_scope("external_recall")
    def recalled(
        self, z: Float[Array, "*grid width"], r: Float[Array, "*grid width"] | None
    ) -> Float[Array, "*grid width"]:
        """Return the residual stream before the first sub-block: `W_x z + r` with external recall,
        else z."""
        if not RECALLS[self.recall_kind].before:
            return z
        assert self.recall is not None
        assert r is not None
        return self.recall(z, r).astype(z.dtype)

    @jax.named_scope("branch_input")
    def branch_input(
        self, z: Float[Array, "*grid width"], r: Float[Array, "*grid width"] | None
    ) -> Float[Array, "*grid width"]:
        """Return the input `c` of a branch."""
        c = z if self.norms.pre is None else self.norms.pre(z)
        if not RECALLS[self.recall_kind].inside:
            return c
        assert self.recall is not None
        assert r is not None
        return self.recall(c, r)


@jax.named_scope("join")
def join(block: "Block | FoldedBlock", z: Array, branch: Array) -> Array:
    """`N_out(residual(z, N_branch(branch)))`."""
    norms = block.norms
    branch = mark(branch)
    branch = branch if norms.branch is None else norms.branch(branch)
    z = block.residual(z, branch)
    return z if norms.out is None else norms.out(z)


class FoldedInjection(NamedTuple):
    """`W r + b` for every first layer W of the two branches."""

    attention: AttentionBias
    feedforward: Float[Array, "*grid hidden"]


class FoldedBlock(eqx.Module):
    """A block with internal recall, with `W_x` multiplied into the layers that follow it.

    `W (W_x n + r) + b = (W W_x) n + (W r + b)`, where W is the query, key, value or first MLP
    weight. It computes the same function as the original block without the product by `W_x` in
    each iteration, but with larger injected constants.

    **Arguments:**

    - `block`: a block with internal recall.

    **Raises** `ValueError` for a block with another recall.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> block = eqloop.nn.Block(8, 2, recall="internal", norm="post", key=jr.key(0))
    >>> folded = eqloop.nn.FoldedBlock(block)
    >>> z, e = jr.normal(jr.key(1), (2, 3, 3, 8))
    >>> change = folded(z, folded.inject(e)) - block(z, block.inject(e))
    >>> print(jnp.abs(change).max() < 1e-5)
    True

    ```
    """

    attention: Attention
    feedforward: FeedForward
    norms: NormPlacement
    residual: Add | GRU
    unfolded: Block

    def __init__(self, block: Block):
        if block.recall is None or block.recall_kind != "internal":
            raise ValueError(f"recall = {block.recall_kind!r} must be internal to be folded")
        weight_x = block.recall.state.weight

        def fold(layer: Linear) -> Linear:
            return eqx.tree_at(lambda m: m.weight, layer, layer.weight @ weight_x)

        layers = _first_layers(block.attention)
        self.attention = eqx.tree_at(_first_layers, block.attention, [fold(m) for m in layers])
        self.feedforward = eqx.tree_at(
            lambda m: m.hidden, block.feedforward, fold(block.feedforward.hidden)
        )
        self.norms = block.norms
        self.residual = block.residual
        self.unfolded = block

    def inject(self, e: Float[Array, "*grid width"]) -> FoldedInjection:
        """Return the injected input after every first layer, for the embedding `e`, shape
        `(*grid, width)`."""
        r = self.unfolded.inject(e)
        assert r is not None
        query, key, value = (layer(r) for layer in _first_layers(self.unfolded.attention))
        return FoldedInjection(
            AttentionBias(query, key, value), self.unfolded.feedforward.hidden(r)
        )

    def __call__(
        self, z: Float[Array, "*grid width"], r: FoldedInjection
    ) -> Float[Array, "*grid width"]:
        """Return the next state, as `Block` does, with `r = folded.inject(e)`."""
        z = join(self, z, self.attention(self.branch_input(z), r.attention))
        return join(self, z, self.feedforward(self.branch_input(z), r.feedforward))

    def branch_input(self, z: Float[Array, "*grid width"]) -> Float[Array, "*grid width"]:
        """Return the input of a branch, before the folded layers."""
        return z if self.norms.pre is None else self.norms.pre(z)


def _first_layers(attention: Attention) -> list[Linear]:
    return [attention.query, attention.key, attention.value]


class Loop(eqx.Module):
    """The map that is iterated: all blocks in sequence.

    `loop(z, r)` is one iteration, and `r = loop.inject(e)` is the contribution of the input. The
    loop depends only on the weights, so one loop serves a whole batch under `vmap`.

    **Arguments:**

    - `blocks`: a tuple of at least one `Block`.
    - `fold`: fold internal recall into the layers that follow it (see `FoldedBlock`); has no effect
        without internal recall.
    - `dtype`: precision of the matrix products. Norms, residual stream and state keep the
        precision of the state.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> block = eqloop.nn.Block(8, 2, recall="internal", norm="post", key=jr.key(0))
    >>> loop = eqloop.nn.Loop((block, block))
    >>> z, e = jr.normal(jr.key(1), (2, 3, 3, 8))
    >>> r = block.inject(e)
    >>> print(jnp.abs(loop(z, loop.inject(e)) - block(block(z, r), r)).max() < 1e-6)
    True

    ```
    """

    blocks: tuple[Block | FoldedBlock, ...]

    def __init__(self, blocks: tuple[Block, ...], *, fold: bool = False, dtype=jnp.float32):
        folded = tuple(
            FoldedBlock(b) if fold and b.recall_kind == "internal" else b for b in blocks
        )
        self.blocks = cast_linear(folded, dtype)

    def inject(self, e: Float[Array, "*grid width"]) -> tuple[Any, ...]:
        """Return the term that the input adds at every iteration, one entry per block, for the
        embedding `e`, shape `(*grid, width)`."""
        return tuple(block.inject(e) for block in self.blocks)

    def __call__(
        self, z: Float[Array, "*grid width"], r: tuple[Any, ...]
    ) -> Float[Array, "*grid width"]:
        """Return the next state, shape `(*grid, width)`, for a state `z` of this shape and
        `r = loop.inject(e)`."""
        for number, (block, injected) in enumerate(zip(self.blocks, r, strict=True)):
            with jax.named_scope(f"block_{number}"):
                z = block(z, injected)
        return z


def cast_linear(tree: Any, dtype: DTypeLike) -> Any:
    """`tree` with the float32 weights of its linear layers cast to `dtype`; float64 weights keep
    their precision.

    **Arguments:**

    - `tree`: a pytree with `Linear` layers.
    - `dtype`: float32 or bfloat16.

    **Returns:**

    A pytree like `tree`.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> layer = eqloop.nn.Linear(8, 8, key=jr.key(0))
    >>> print(eqloop.nn.cast_linear((layer,), jnp.bfloat16)[0].weight.dtype)
    bfloat16

    ```
    """

    def cast(node):
        if isinstance(node, Linear) and node.weight.dtype == jnp.float32:
            return node.astype(dtype)
        return node

    return jax.tree.map(cast, tree, is_leaf=lambda node: isinstance(node, Linear))
