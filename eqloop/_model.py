"""The looped transformer: prelude, recurrent block iterated, coda."""

import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ._adjoint import AbstractGradient
from ._equilibrium import equilibrium
from ._iteration import Count
from ._solution import RESULTS, BackwardReport
from ._solver import Solver, Unroll
from .nn import Block, Linear, Loop, NormKind, RecallKind, ResidualKind, RMSNorm, gelu

ITERATIONS = 30
"""How often a model that is called without a solver iterates its loop."""


class Output(eqx.Module):
    """What a looped transformer returns for one example; under `vmap` one of each per example.

    **Attributes:**

    - `logits`: class scores of each cell.
    - `state`: the last state of the loop.
    - `steps`, `evaluations`, `residual`, `result`, `curve`: see `Equilibrium`.
    """

    logits: Float[Array, "*grid classes"]
    state: Float[Array, "*grid width"]
    steps: Int[Array, ""]
    evaluations: Int[Array, ""]
    residual: Float[Array, ""]
    result: RESULTS
    curve: Float[Array, " curve"] | None = None


class Coda(eqx.Module):
    """`Linear(gelu(Linear(RMSNorm(z))))`: from the state to class scores, cell by cell."""

    norm: RMSNorm
    hidden: Linear
    output: Linear

    def __init__(self, width: int, classes: int, *, key: PRNGKeyArray):
        hidden_key, output_key = jr.split(key)
        self.norm = RMSNorm(width)
        self.hidden = Linear(width, width, key=hidden_key)
        self.output = Linear(width, classes, key=output_key)

    def __call__(self, z: Float[Array, "*grid width"]) -> Float[Array, "*grid classes"]:
        return self.output(gelu(self.hidden(self.norm(z))))


class LoopedTransformer(eqx.Module):
    """A transformer whose recurrent block is iterated: the model family of arXiv 2604.15259.

    ```
    e = Linear(x);  z_0 = e;  r = block.inject(e)      (prelude)
    z_{t+1} = f(z_t, r)                                (recurrent block, iterated by the solver)
    logits = Coda(z_T)                                 (coda)
    ```

    Written for one example on a grid of cells with one or two axes; `jax.vmap` it for a batch. It
    may be called on a grid of another size than it was made for: no weight depends on the size.
    With `blocks = 15`, `recall = "none"` and `Unroll(1)` it is the paper's untied baseline of
    fixed depth.

    **Arguments:**

    - `grid`: cells along each axis.
    - `channels`, `classes`: per cell, in and out.
    - `width`, `heads`, `mlp_ratio`: of the block.
    - `recall`: "none", "external" or "internal"; see `nn.Recall`.
    - `norm`: "pre", "peri", "post" (outer normalisation) or "sandwich"; see `nn.NormPlacement`.
    - `residual`: "add" or "gru"; see `nn.GRU`.
    - `blocks`: distinct blocks in one iteration.
    - `attention`: "full", or the window of neighbourhood attention; see `nn.Attention`.
    - `dtype`: the precision of the matrix products, float32 or bfloat16. Weights, norms and the
        state of the loop are float32 all the same.

    **Raises** `ValueError` naming the argument that is out of range.
    """

    prelude: Linear
    blocks: tuple[Block, ...]
    coda: Coda
    grid: tuple[int, ...] = eqx.field(static=True)
    dtype: np.dtype = eqx.field(static=True)

    def __init__(
        self,
        grid: tuple[int, ...],
        channels: int,
        classes: int,
        width: int = 256,
        heads: int = 8,
        *,
        recall: RecallKind = "internal",
        norm: NormKind = "post",
        residual: ResidualKind = "add",
        blocks: int = 1,
        attention: Literal["full"] | int = "full",
        mlp_ratio: int = 4,
        dtype: DTypeLike = jnp.float32,
        key: PRNGKeyArray,
    ):
        if blocks < 1:
            raise ValueError(f"blocks = {blocks} must be at least 1")
        grid = tuple(grid)
        if not grid:
            raise ValueError("grid = () must have at least one axis")
        if width % (2 * len(grid) * heads):
            raise ValueError(
                f"width = {width} must be a multiple of 2 x {len(grid)} grid axes x heads = {heads}"
                ": rotary positions turn pairs of features of each head"
            )
        prelude_key, coda_key, *block_keys = jr.split(key, 2 + blocks)
        self.prelude = Linear(channels, width, key=prelude_key)
        self.blocks = tuple(
            Block(
                width,
                heads,
                recall=recall,
                norm=norm,
                residual=residual,
                attention=attention,
                mlp_ratio=mlp_ratio,
                key=block_key,
            )
            for block_key in block_keys
        )
        self.coda = Coda(width, classes, key=coda_key)
        self.grid = grid
        self.dtype = np.dtype(dtype)

    def embed(self, x: Float[Array, "*grid channels"]) -> Float[Array, "*grid width"]:
        """`e`, which is also the initial state z_0."""
        if x.ndim != len(self.grid) + 1:
            raise ValueError(
                f"x has shape {x.shape}, not one example of {len(self.grid)} grid axes and a "
                "channel axis: jax.vmap the model over a batch"
            )
        channels = self.prelude.weight.shape[-1]
        if x.shape[-1] != channels:
            raise ValueError(f"x has {x.shape[-1]} channels, and the model takes {channels}")
        return self.prelude(x)

    def loop(self, *, fold: bool = False) -> Loop:
        """The map that is iterated. It depends on the weights alone: make it once, outside any
        `vmap`, then `r = loop.inject(e)` and `z = loop(z, r)` per example."""
        return Loop(self.blocks, fold=fold, dtype=self.dtype)

    def __call__(
        self,
        x: Float[Array, "*grid channels"],
        *,
        solver: Solver | None = None,
        gradient: AbstractGradient | None = None,
        max_steps: Count = 256,
        fold: bool = False,
        probe: BackwardReport | None = None,
    ) -> Output:
        """Solve the loop for one example; see `eqloop.equilibrium` for the arguments.

        Without a `solver` the loop is iterated `ITERATIONS = 30` times, as many as the paper
        trains with: `model(x)` is `model(x, solver=Unroll(30))`.

        `fold` multiplies internal recall into the layers that follow it: the same function,
        fewer operations per iteration, wider constants (see `nn.FoldedBlock`).
        """
        f = self.loop(fold=fold)
        e = self.embed(x)
        out = equilibrium(
            f,
            e,
            f.inject(e),
            solver=Unroll(ITERATIONS) if solver is None else solver,
            gradient=gradient,
            max_steps=max_steps,
            probe=probe,
        )
        return Output(
            self.coda(out.state),
            out.state,
            out.steps,
            out.evaluations,
            out.residual,
            out.result,
            out.curve,
        )


def parameter_count(model: eqx.Module) -> int:
    """The number of weights of a module, or of the shapes that `jax.eval_shape` made of one."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(model) if hasattr(leaf, "shape"))
