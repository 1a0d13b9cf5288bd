"""A model with a nested loop, carried state and halting."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._cross_entropy import IGNORED, stablemax_cross_entropy
from .._iteration import stop_gradient
from .._q_head import continue_target
from .._solver import Damping
from ..nn import Linear
from ..starts import AbstractStart
from ._carry import Carry, Puzzles, replaced
from ._halting import AbstractHalting, Row
from ._recursion import Recursion, SingleRecursion
from ._scaled_residual import ScaledResidual
from ._schedule import AbstractSchedule
from ._states import State, answer, as_state
from ._tokens import TokenEmbedding


class Segment(eqx.Module):
    """What a segment returns besides the carry.

    **Attributes:**

    - `logits`: class scores, shape `(batch, cells, classes)`.
    - `q_halt`, `q_continue`: the outputs of the q head, shape `(batch,)`.
    - `loss`: `lm_loss + q_weight (q_halt_loss + q_continue_loss)`, a sum over the rows.
    - `lm_loss`: stablemax cross-entropy, the mean over the labelled cells of each row.
    - `q_halt_loss`: binary cross-entropy of `q_halt` with "all labelled cells are right".
    - `q_continue_loss`: binary cross-entropy of `q_continue` with its target; None without one.
    - `target_q_continue`: `sigmoid(q_halt')` at the last segment of a row, else
        `sigmoid(max(q_halt', q_continue'))`, of one more segment; None for a model without it.
    - `halted`, `steps`: as in the carry.
    - `damping`: after each step of an `eqloop.AdaptiveDamping`, shape `(steps, batch)`, or None;
        also as `residual`, `step_size`, `patience` and `best_residual`.
    """

    logits: Float[Array, "batch cells classes"]
    q_halt: Float[Array, " batch"]
    q_continue: Float[Array, " batch"]
    loss: Float[Array, ""]
    lm_loss: Float[Array, ""]
    q_halt_loss: Float[Array, ""]
    q_continue_loss: Float[Array, ""] | None
    target_q_continue: Float[Array, " batch"] | None
    halted: Bool[Array, " batch"]
    steps: Int[Array, " batch"]
    damping: Damping | None

    @property
    def residual(self) -> Float[Array, "steps batch"] | None:
        """The residual of each step; see `eqloop.AdaptiveDamping`."""
        return None if self.damping is None else self.damping.residual

    @property
    def step_size(self) -> Float[Array, "steps batch"] | None:
        """The step size after each step."""
        return None if self.damping is None else self.damping.step_size

    @property
    def patience(self) -> Int[Array, "steps batch"] | None:
        """The patience that is left after each step."""
        return None if self.damping is None else self.damping.patience

    @property
    def best_residual(self) -> Float[Array, "steps batch"] | None:
        """The smallest residual up to each step."""
        return None if self.damping is None else self.damping.best_residual


class RecursiveModel(eqx.Module):
    """A model that works on a batch of puzzles segment by segment: TRM, HRM, EqR and FPRM are its
    instances, and `eqloop.interop.from_sibling_state_dict` makes them.

    A segment iterates the map of each row from where the last segment ended, detached, and reads
    the answer there. A row that has ended begins anew with the puzzle that is offered at its
    place. `loop` is an ordinary map, for `eqloop.equilibrium` and `eqloop.stability`:

    ```
    f = model.loop
    x = f.inject(model.embed(inputs, model.embed.puzzles[0]))
    ```

    **Arguments:**

    - `embed`: the embedding of the input.
    - `loop`: the map that is iterated.
    - `lm_head`: the linear map from a cell to its class scores.
    - `q_head`: the linear map from the first position to `q_halt` and `q_continue`.
    - `begin`: the state before the first iteration: a law of the initial state (see
        `eqloop.starts`) for each part.
    - `schedule`: the iterations of a segment.
    - `halting`: when a row ends.
    - `q_weight`: weight of the losses of the q head.
    - `bootstrap`: whether `q_continue` is trained, by one more segment without gradient.
    - `inference`: whether the model is evaluated, and not trained: `equinox.nn.inference_mode`
        sets it.
    - `dtype`: precision of states and losses. The weights are cast to it.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> model = eqloop.recursive.make_model("trm", dict(
    ...     seq_len=4, vocab_size=3, hidden_size=8, num_heads=2, expansion=4, L_layers=1,
    ...     H_cycles=2, L_cycles=2, halt_max_steps=3, pos_encodings="rope",
    ... ))
    >>> inputs, identifiers = jnp.ones((2, 4), jnp.int32), jnp.zeros(2, jnp.int32)
    >>> carry = model.start(inputs, identifiers)
    >>> carry, out = model.segment(carry, inputs, inputs, identifiers)
    >>> print(out.logits.shape, carry.z_H.shape, out.steps)
    (2, 4, 3) (2, 4, 8) [1 1]

    ```
    """

    embed: TokenEmbedding
    loop: Recursion | SingleRecursion | ScaledResidual
    lm_head: Linear
    q_head: Linear
    begin: State
    schedule: AbstractSchedule
    halting: AbstractHalting
    q_weight: float = eqx.field(default=0.5, static=True)
    bootstrap: bool = eqx.field(default=False, static=True)
    inference: bool = False
    dtype: np.dtype = eqx.field(default=np.dtype(np.float32), static=True)

    @eqx.filter_jit
    def start(
        self,
        inputs: Int[Array, "batch cells"],
        puzzle_identifiers: Int[Array, " batch"],
        starts: Any = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Carry:
        """Return the carry before the first segment: all rows begin in it.

        **Arguments:**

        - `inputs`: the token of each cell, shape `(batch, cells)`.
        - `puzzle_identifiers`: which vector each puzzle has, shape `(batch,)`.
        - `starts`: initial states, a mapping from the names of the parts to arrays of shape
            `(batch, extra + cells, width)`, or these in order; drawn by `begin` if not given.
        - `key`: the random key of all that is drawn in this and later segments;
            `jax.random.key(0)` by default.
        """
        inputs = jnp.asarray(inputs, jnp.int32)
        batch, cells = inputs.shape
        start_key, next_key = jr.split(jr.key(0) if key is None else key)
        shape = (batch, self.embed.extra + cells, self.lm_head.weight.shape[-1])
        state = self._fresh(shape, start_key, starts)
        return stop_gradient(
            Carry(
                state=state,
                damping=jax.vmap(self.schedule.remember)(state),
                steps=jnp.zeros(batch, jnp.int32),
                halted=jnp.ones(batch, bool),
                current=Puzzles(
                    inputs,
                    jnp.full_like(inputs, IGNORED),
                    jnp.asarray(puzzle_identifiers, jnp.int32),
                ),
                key=next_key,
            )
        )

    def _fresh(self, shape: tuple[int, ...], key: PRNGKeyArray, starts: Any) -> State:
        kind = type(self.begin)
        if starts is not None:
            return as_state(kind, starts, self.dtype)
        zeros, keys = jnp.zeros(shape, self.dtype), jr.split(key, len(self.begin))
        laws: list[AbstractStart] = list(self.begin)  # pyright: ignore
        return kind(*(law(zeros, k) for law, k in zip(laws, keys, strict=True)))

    def puzzle_vectors(
        self, puzzle_identifiers: Int[Array, " batch"]
    ) -> Float[Array, "batch numbers"] | None:
        """Return the vector of each puzzle; None for a model without them."""
        puzzles = self.embed.puzzles
        return None if puzzles is None else puzzles[puzzle_identifiers]

    def offered(
        self,
        carry: Carry,
        inputs: Int[Array, "batch cells"],
        labels: Int[Array, "batch cells"],
        puzzle_identifiers: Int[Array, " batch"],
    ) -> Puzzles:
        """Return the puzzles that the next segment works on: those offered in the rows that have
        ended, else the current ones. For the arguments see `segment`."""
        arrays = inputs, labels, puzzle_identifiers
        offered = Puzzles(*(jnp.asarray(array, jnp.int32) for array in arrays))
        return replaced(carry.halted, offered, carry.current)

    @eqx.filter_jit
    def segment(
        self,
        carry: Carry,
        inputs: Int[Array, "batch cells"],
        labels: Int[Array, "batch cells"],
        puzzle_identifiers: Int[Array, " batch"],
        noise: Float[Array, "iterations calls batch positions width"] | None = None,
        starts: Any = None,
        *,
        puzzle_vectors: Float[Array, "batch numbers"] | None = None,
        inference: bool | None = None,
    ) -> tuple[Carry, Segment]:
        """Work on a batch for one segment.

        The loss is differentiable in the model (`equinox.filter_grad`; the gradient is a model,
        and `eqloop.interop.to_sibling_state_dict` names its arrays), in `puzzle_vectors` and, for
        a model that `eqloop.interop.from_sibling_state_dict` makes inside of the function, in its
        arrays.

        **Arguments:**

        - `carry`: what `start` or the last `segment` returned.
        - `inputs`, `labels`, `puzzle_identifiers`: the puzzles that are offered to rows that have
            ended; see `Puzzles`.
        - `noise`: the standard normal draws of EqR's noise, those of an iteration as in
            `Recursion.inject`; drawn from the key of the carry if not given.
        - `starts`: the states in which rows begin, as in `start`; by default those of `start` in
            its first segment, later drawn.
        - `puzzle_vectors`: the vector of the puzzle of each row, instead of that of its identifier
            (see `offered` and `puzzle_vectors`), to differentiate by it.
        - `inference`: overrides that of the model.

        **Returns:**

        The next carry, and a `Segment`.
        """
        model = jax.tree.map(
            lambda leaf: leaf.astype(self.dtype) if eqx.is_inexact_array(leaf) else leaf, self
        )
        if puzzle_vectors is not None:
            puzzle_vectors = jnp.asarray(puzzle_vectors, self.dtype)
        if noise is not None:
            noise = jnp.moveaxis(jnp.asarray(noise, self.dtype), 2, 0)
        puzzles = self.offered(carry, inputs, labels, puzzle_identifiers)
        inference = self.inference if inference is None else inference
        return model._segment(carry, puzzles, noise, starts, puzzle_vectors, inference)

    def _segment(
        self,
        carry: Carry,
        puzzles: Puzzles,
        noise: Float[Array, "batch iterations calls positions width"] | None,
        starts: Any,
        vectors: Float[Array, "batch numbers"] | None,
        inference: bool,
    ) -> tuple[Carry, Segment]:
        key, start_key, noise_key, halt_key = jr.split(carry.key, 4)
        begins = carry.halted
        fresh = self._fresh(answer(carry.state).shape, start_key, starts)
        if starts is None:
            fresh = replaced(carry.steps == 0, carry.state, fresh)
        state = stop_gradient(replaced(begins, fresh, carry.state))
        damping = replaced(begins, jax.vmap(self.schedule.remember)(state), carry.damping)
        steps = jnp.where(begins, 0, carry.steps) + 1
        if vectors is None:
            vectors = self.puzzle_vectors(puzzles.puzzle_identifiers)
        run = jax.vmap(functools.partial(self._run, inference))
        keys = jr.split(noise_key, len(steps))
        state, damping, each, logits, q = run(state, damping, puzzles.inputs, vectors, noise, keys)
        state, damping = stop_gradient((state, damping))
        q_halt, q_continue = q[:, 0], q[:, 1]
        rows = Row(steps, *stop_gradient((q_halt, q_continue)), damping)
        target = None
        most = getattr(self.halting, "most", 1)
        if self.bootstrap and not inference and most > 1:
            frozen = stop_gradient(self)
            later = jax.vmap(functools.partial(frozen._run, inference))(
                state, damping, puzzles.inputs, stop_gradient(vectors), None, keys
            )
            target = continue_target(later[-1][:, 0], later[-1][:, 1], steps >= most)
        carry = Carry(
            state=state,
            damping=damping,
            steps=steps,
            halted=self.halting(rows, halt_key, inference=inference),
            current=puzzles,
            key=key,
        )
        each = jax.tree.map(lambda leaf: leaf.T, each)
        losses = self._losses(logits, q_halt, q_continue, puzzles.labels, target)
        return carry, Segment(
            logits, q_halt, q_continue, *losses, target, carry.halted, steps, each
        )

    def _run(
        self,
        inference: bool,
        z: State,
        damping: Damping | None,
        inputs: Int[Array, " cells"],
        vector: Float[Array, " numbers"] | None,
        noise: Float[Array, "iterations calls positions width"] | None,
        key: PRNGKeyArray,
    ) -> tuple[State, Damping | None, Damping | None, Array, Array]:
        """One row: its next state and what the heads read there."""
        x = self.loop.inject(self.embed(inputs, vector), noise, key)
        z, damping, each = self.schedule(self.loop, z, x, damping, inference=inference)
        return z, damping, each, *self.read(z)

    def read(
        self, z: State
    ) -> tuple[Float[Array, "*batch cells classes"], Float[Array, "*batch 2"]]:
        """Return the class scores of the cells, and `q_halt` and `q_continue`, for a state."""
        positions = answer(z)
        cells, first = positions[..., self.embed.extra :, :], positions[..., 0, :]
        return self.lm_head(cells), self.q_head(first)

    def _losses(
        self,
        logits: Float[Array, "batch cells classes"],
        q_halt: Float[Array, " batch"],
        q_continue: Float[Array, " batch"],
        labels: Int[Array, "batch cells"],
        target: Float[Array, " batch"] | None,
    ) -> tuple[Array, Array, Array, Array | None]:
        """`loss`, `lm_loss`, `q_halt_loss` and `q_continue_loss` of a `Segment`."""
        binary = optax.sigmoid_binary_cross_entropy
        lm_loss = jnp.sum(jax.vmap(stablemax_cross_entropy)(logits, labels))
        likeliest = jnp.argmax(logits, axis=-1).astype(labels.dtype)
        is_right = jnp.all((likeliest == labels) | (labels == IGNORED), axis=-1)
        q_halt_loss = jnp.sum(binary(q_halt, is_right.astype(q_halt.dtype)))
        if target is None:
            return lm_loss + self.q_weight * q_halt_loss, lm_loss, q_halt_loss, None
        q_continue_loss = jnp.sum(binary(q_continue, target))
        loss = lm_loss + self.q_weight * (q_halt_loss + q_continue_loss)
        return loss, lm_loss, q_halt_loss, q_continue_loss
