"""The looped transformer: prelude, recurrent block iterated, coda."""

import abc
import math
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ._adjoint import AbstractCotangentSolve, AbstractGradient
from ._equilibrium import default_gradient, equilibrium
from ._errors import InputError
from ._iteration import Count
from ._noise import PathNoise
from ._solution import RESULTS, BackwardReport
from ._solver import Solver, Unroll
from .nn import (
    ROTARY_BASE,
    Block,
    Linear,
    Loop,
    NormKind,
    RecallKind,
    ResidualKind,
    RMSNorm,
    gelu,
)

ITERATIONS = 30
"""How often a model that is called without a solver iterates its loop."""


class Output(eqx.Module):
    """What a looped transformer returns for one example. Under `vmap` every attribute gets a
    leading axis of examples.

    **Attributes:**

    - `logits`: class scores of each cell, shape `(*grid, classes)`, before a softmax.
    - `state`: the state of the loop that the coda reads, shape `(*grid, width)`.
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
    """`Linear(gelu(Linear(RMSNorm(z))))`: maps the state of each cell to its class scores.

    **Arguments:**

    - `width`: features of the state per cell.
    - `classes`: class scores per cell.
    - `key`: a random key for the initial weights.
    """

    norm: RMSNorm
    hidden: Linear
    output: Linear

    def __init__(self, width: int, classes: int, *, key: PRNGKeyArray):
        hidden_key, output_key = jr.split(key)
        self.norm = RMSNorm(width)
        self.hidden = Linear(width, width, key=hidden_key)
        self.output = Linear(width, classes, key=output_key)

    @jax.named_scope("coda")
    def __call__(self, z: Float[Array, "*grid width"]) -> Float[Array, "*grid classes"]:
        return self.output(gelu(self.hidden(self.norm(z))))


def own_start(e: Float[Array, "*grid width"]) -> Float[Array, "*grid width"]:
    """The start of a loop at the embedding of its input: `z_0 = e`."""
    return e


class AbstractLoopedModel(eqx.Module):
    """A prelude, a map that a solver iterates, and a coda, for one example.

    A new model is a class with three methods and two properties. The embedding and the state of its
    loop are arrays with an axis of features at the end.

    **Attributes:**

    - `prelude`: the linear map of the input of a cell.
    - `coda`: maps a state of the loop to the class scores of the cells.
    - `grid`: number of cells along each axis.
    - `dtype`: precision of the matrix products.
    """

    prelude: eqx.AbstractVar[Linear]
    coda: eqx.AbstractVar[Any]
    grid: eqx.AbstractVar[tuple[int, ...]]
    dtype: eqx.AbstractVar[np.dtype]

    @abc.abstractmethod
    def embed(self, x: Float[Array, "*grid channels"]) -> Float[Array, "*grid features"]:
        """Return the embedding e of the input `x`: what the loop sees of it."""

    @property
    def first_state(self) -> Callable[[Float[Array, "*grid features"]], Any]:
        """The map from an embedding to the default initial state z_0; by default z_0 = e."""
        return own_start

    def q_values(self, z: Float[Array, "*grid width"]) -> Float[Array, "2"] | None:
        """Return what a q head says of a state: `q_halt`, the logit of "all cells are right", and
        `q_continue`; None for a model without one, as by default."""
        del z
        return None

    @abc.abstractmethod
    def loop(self, *, fold: bool = False) -> Any:
        """Return the map that is iterated: `r = loop.inject(e)`, then `z = loop(z, r)`."""

    @property
    @abc.abstractmethod
    def window(self) -> Literal["full"] | int:
        """The cells that a cell sees in one mixing: "full", or an odd number along each axis."""

    @property
    @abc.abstractmethod
    def mixings(self) -> int:
        """The number of times that cells see others in one iteration."""

    @abc.abstractmethod
    def check_grid(self, grid: tuple[int, ...]) -> None:
        """**Raises** `InputError` if the model cannot be called on a grid of this size."""

    def check_input(self, x: Float[Array, "*grid channels"]) -> None:
        """**Raises** `ValueError` for an input of another rank or number of channels."""
        if x.ndim != len(self.grid) + 1:
            raise ValueError(
                f"x has shape {x.shape}, not one example of {len(self.grid)} grid axes and a "
                "channel axis: jax.vmap the model over a batch"
            )
        channels = self.prelude.weight.shape[-1]
        if x.shape[-1] != channels:
            raise ValueError(f"x has {x.shape[-1]} channels, and the model takes {channels}")

    def __call__(
        self,
        x: Float[Array, "*grid channels"],
        *,
        start: Float[Array, "*grid width"] | None = None,
        solver: Solver | None = None,
        gradient: AbstractGradient | None = None,
        max_steps: Count = 256,
        fold: bool | None = None,
        probe: BackwardReport | None = None,
        path_noise: float = 0.0,
        key: PRNGKeyArray | None = None,
    ) -> Output:
        """Solve the loop for one example.

        **Arguments:**

        - `x`: the input, shape `(*grid, channels)`.
        - `start`: the initial state z_0, shape `(*grid, width)`; by default `first_state(e)`,
            which is the embedding e in a `LoopedTransformer`.
        - `solver`, `gradient`, `max_steps`, `probe`: see `eqloop.equilibrium`. Without a solver
            the loop is iterated `ITERATIONS` = 30 times, as the paper trains it.
        - `fold`: multiply internal recall into the layers that follow it: the same function, with
            fewer operations per iteration and larger constants (see `nn.FoldedBlock`). By default
            with `Implicit` and `Neumann`, which differentiate one iteration alone; if all are
            differentiated, the gradients of the constants cost more than the folding saves.
        - `path_noise`, `key`: standard deviation and random key of noise that every iteration adds
            to the state (see `PathNoise`).

        **Returns:**

        An `Output`.

        **Raises** `ValueError` for an input of another rank or number of channels, and for noise
        without a key.
        """
        solver = Unroll(ITERATIONS) if solver is None else solver
        gradient = default_gradient(solver) if gradient is None else gradient
        if fold is None:
            fold = isinstance(gradient, AbstractCotangentSolve)
        f = self.loop(fold=fold)
        e = self.embed(x)
        r: Any = f.inject(e)
        if path_noise:
            if key is None:
                raise ValueError(
                    f"path_noise = {path_noise} needs a key: give key=jax.random.key(0)"
                )
            f = PathNoise(f, path_noise)
            r = f.inject(r, key)
        out = equilibrium(
            f,
            self.first_state(e) if start is None else start,
            r,
            solver=solver,
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


class LoopedTransformer(AbstractLoopedModel):
    """A transformer whose recurrent block is iterated by a solver.

    ```
    e = Linear(x);  z_0 = e;  r = block.inject(e)      (prelude)
    z_{t+1} = f(z_t, r)                                (recurrent block, iterated by the solver)
    logits = Coda(z_T)                                 (coda)
    ```

    Written for one example on a grid of cells with one or two axes; `jax.vmap` it for a batch. No
    weight depends on the size of the grid, so a model can be called on a grid of another size.
    With `blocks = 15`, `recall = "none"` and `Unroll(1)` it is the paper's untied baseline of
    fixed depth.

    **Arguments:**

    - `grid`: number of cells along each axis.
    - `channels`: input channels per cell.
    - `classes`: class scores per cell.
    - `width`: features of the state per cell, a multiple of 2 x axes x heads.
    - `heads`: attention heads.
    - `recall`: how each iteration sees the input, "none", "external" or "internal"; see
        `nn.Recall`.
    - `norm`: where a sub-block normalises, "pre", "peri", "post" (outer normalisation) or
        "sandwich"; see `nn.NormPlacement`.
    - `residual`: how a branch joins the residual stream, "add" or "gru"; see `nn.GRU`.
    - `blocks`: number of distinct blocks in one iteration.
    - `attention`: "full", or the window of neighbourhood attention in cells; see `nn.Attention`.
    - `mlp_ratio`: width of the hidden MLP layer, in units of `width`.
    - `rotary_base`, `causal`: see `nn.Attention`.
    - `dtype`: precision of the matrix products, float32 or bfloat16. Weights, norms and the state
        of the loop stay in float32.
    - `key`: a random key for the initial weights.

    **Raises** `ValueError` naming the argument that is out of range.

    **Source:** arXiv 2604.15259.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> model = eqloop.LoopedTransformer((3, 3), 2, 5, width=8, heads=2, key=jr.key(0))
    >>> out = model(jnp.ones((3, 3, 2)), solver=eqloop.Unroll(4))
    >>> print(out.logits.shape, out.state.shape, out.steps)
    (3, 3, 5) (3, 3, 8) 4

    ```
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
        rotary_base: float = ROTARY_BASE,
        causal: bool = False,
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
                rotary_base=rotary_base,
                causal=causal,
                key=block_key,
            )
            for block_key in block_keys
        )
        self.coda = Coda(width, classes, key=coda_key)
        self.grid = grid
        self.dtype = np.dtype(dtype)

    def embed(self, x: Float[Array, "*grid channels"]) -> Float[Array, "*grid width"]:
        """Return the input embedding `e`, which is also the default initial state z_0.

        **Arguments:**

        - `x`: the input, shape `(*grid, channels)`.

        **Raises** `ValueError` for an input of another rank or number of channels.
        """
        self.check_input(x)
        with jax.named_scope("prelude"):
            return self.prelude(x)

    @property
    def window(self) -> Literal["full"] | int:
        """The cells that a cell attends to: "full", or an odd number along each axis."""
        return self.blocks[0].attention.window

    @property
    def mixings(self) -> int:
        """The number of blocks, each with one attention."""
        return len(self.blocks)

    def check_grid(self, grid: tuple[int, ...]) -> None:
        """**Raises** `InputError` if a grid is smaller than the neighbourhood of a cell."""
        if self.window != "full" and min(grid) < self.window:
            raise InputError(
                f"a puzzle of {' x '.join(map(str, grid))} cells is too small for this model, "
                f"whose cells attend to {self.window} along each axis"
            )

    def loop(self, *, fold: bool = False) -> Loop:
        """Return the map that is iterated.

        It depends only on the weights: build it once, outside of any `vmap`, then call
        `r = loop.inject(e)` and `z = loop(z, r)` per example.

        **Arguments:**

        - `fold`: see `nn.FoldedBlock`.
        """
        return Loop(self.blocks, fold=fold, dtype=self.dtype)


def parameter_count(model: eqx.Module) -> int:
    """Count the weights of a module: the entries of all its arrays.

    **Arguments:**

    - `model`: any module, or its shapes from `eqx.filter_eval_shape`.

    **Returns:**

    The number, a Python integer.

    ```python
    >>> import eqloop, jax.random as jr
    >>> layer = eqloop.nn.Linear(3, 2, key=jr.key(0))
    >>> print(eqloop.parameter_count(layer))            # 2 x 3 weights and 2 biases
    8

    ```
    """
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(model) if hasattr(leaf, "shape"))
