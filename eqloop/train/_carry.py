"""Carried state: rows of a batch continue from the state where the previous step ended."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt32

from ..run import Spec, TrainSpec
from ._q import is_thought_right


class Carry(eqx.Module):
    """The rows of a batch between two optimiser steps.

    Optimiser step n solves the loop of each row from `state`, takes loss and gradient there, and
    hands on the state z_n where the solve ended, detached. A row then has age a + 1, and a new
    example takes its place in step n + 1 if

        a + 1 >= most   or   ((residual < carry_residual or the q head ends it) and a + 1 >= least),

    where the q head ends it by `q_halt > 0` or `q_halt > q_continue` (see `TrainSpec.carry_q`).
    Whether the example is solved does not count: a loop that is trained until it is right, and no
    longer, never learns to stay there. Between two steps with weights theta and theta', the
    distance to a fixed point of a loop that contracts by rho follows
    `e' <= rho^m (e + kappa |theta' - theta|)`, with m iterations per step.

    **Attributes:**

    - `state`: where the last solve of the row ended.
    - `example`: index of its example in the training split.
    - `key`: the data of the random key of its symmetry, which stays the same for its whole life.
    - `age`: optimiser steps that it has been trained for; 0 if a new example takes its place.
    - `least`: the minimum age, drawn when the example began; see `begun`.
    - `most`: the maximum age, drawn likewise.

    **Source:** deep supervision of HRM (arXiv 2506.21734) and TRM (arXiv 2510.04871), which replace
    a row by age and by a q head, with code that draws `least` anew at every step; FPRM
    (github.com/nilskiKonjIzDunava/fprm) replaces it by residual and age.
    """

    state: Float[Array, "batch *grid width"]
    example: Int[Array, " batch"]
    key: UInt32[Array, "batch words"]
    age: Int[Array, " batch"]
    least: Int[Array, " batch"]
    most: Int[Array, " batch"]

    @property
    def is_new(self) -> Bool[Array, " batch"]:
        """The rows that begin in this step."""
        return self.age == 0

    def begun(
        self,
        examples: Int[Array, " batch"],
        symmetries: PRNGKeyArray,
        key: PRNGKeyArray,
        spec: TrainSpec,
    ) -> "Carry":
        """Put the example that is offered at its position into each new row.

        `least` is `carry_least` or, for a share `carry_random` of the rows, drawn from
        U{carry_least + 1 .. carry_steps}. `most` is `carry_steps`; if all rows begin together, row
        i of B has `carry_steps - floor(i carry_steps / B)`, so that they are not all replaced
        together. A row keeps the ages that it began with where a phase changes the spec.

        **Arguments:**

        - `examples`, `symmetries`: the examples that are offered, and the keys of their symmetries.
        - `key`: for the ages that are drawn.
        """
        new, batch, longest = self.is_new, len(self.age), spec.carry_steps
        least = jnp.full(batch, spec.carry_least, jnp.int32)
        if spec.carry_random:
            share_key, age_key = jr.split(key)
            is_drawn = jr.uniform(share_key, (batch,)) < spec.carry_random
            drawn = jr.randint(age_key, (batch,), spec.carry_least + 1, longest + 1)
            least = jnp.where(is_drawn, drawn, least)
        staggered = jnp.asarray(longest - np.arange(batch) * longest // batch, jnp.int32)
        most = jnp.where(jnp.all(new), staggered, jnp.asarray(longest, jnp.int32))
        return dataclasses.replace(
            self,
            example=jnp.where(new, examples, self.example),
            key=jax.vmap(jnp.where)(new, jr.key_data(symmetries), self.key),
            least=jnp.where(new, least, self.least),
            most=jnp.where(new, most, self.most),
        )

    @property
    def symmetries(self) -> PRNGKeyArray:
        """The random keys of the symmetries of the rows."""
        return jr.wrap_key_data(self.key)

    def starts(self, first: Float[Array, "batch *grid width"]) -> Float[Array, "batch *grid width"]:
        """The initial states: those of `first` for new rows, the carried ones for the others."""
        return jax.vmap(jnp.where)(self.is_new, first, self.state)

    @property
    def is_last(self) -> Bool[Array, " batch"]:
        """The rows that end by age after this step."""
        return self.age + 1 >= self.most

    def ended(
        self,
        state: Float[Array, "batch *grid width"],
        residual: Float[Array, " batch"],
        spec: TrainSpec,
        q: Float[Array, "batch 2"] | None = None,
    ) -> "Carry":
        """The rows after a step that ended in `state` with relative `residual`, and with the
        outputs `q` of the q head."""
        age = self.age + 1
        ends_early = (residual < spec.carry_residual) | is_thought_right(q, spec)
        is_done = self.is_last | (ends_early & (age >= self.least))
        return dataclasses.replace(self, state=state, age=jnp.where(is_done, 0, age))


def no_rows(spec: Spec) -> Carry | None:
    """The carry before the first step, with only new rows; None if no phase of the run carries
    states."""
    if not spec.carries:
        return None
    batch = spec.train.batch
    words = jr.key_data(jr.key(0)).size

    def zeros() -> Int[Array, " batch"]:
        return jnp.zeros(batch, jnp.int32)

    return Carry(
        state=jnp.zeros((batch, *spec.model.state_shape), jnp.float32),
        example=zeros(),
        key=jnp.zeros((batch, words), jnp.uint32),
        age=zeros(),
        least=zeros(),
        most=zeros(),
    )
