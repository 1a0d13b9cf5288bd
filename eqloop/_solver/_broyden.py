"""Broyden's method with limited memory."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from .._norms import scale_of, two_norm
from ._anderson import newest
from ._iterative import AbstractSolver, Evaluation, Norm, Proposal
from ._setting import setting


class _Memory(NamedTuple):
    """The inverse Jacobian of `f(z) - z` is `-I + sum_j left_j right_j^T`."""

    value: Float[Array, " n"]
    residual: Float[Array, " n"]
    step: Float[Array, " n"]
    left: Float[Array, "memory n"]
    right: Float[Array, "memory n"]
    used: Int[Array, ""]


class Broyden(AbstractSolver):
    """Broyden's good method on `r(z) = f(z) - z`, started from plain iteration.

    With `B` an approximation of the inverse Jacobian of r, at first `-I`,

    ```
    z <- z - B r
    B <- B + (dz - B dr) (dz^T B) / (dz^T B dr)
    ```

    as `-I` plus at most `memory` terms of rank one, without a matrix of the state's size. When
    the memory is full, or a value or proposal is not finite, it forgets them all and goes on with a
    plain step. (Broyden 1965; limited memory as in deep equilibrium models, arXiv 1909.01377.) When
    not to use it: where `Anderson` converges it is cheaper.

    **Arguments:**

    - `memory`: terms kept; memory is twice so many states.

    and those of `AbstractSolver`. **Raises** `ValueError` for an argument out of range.
    """

    rtol: float = setting(1e-3)
    atol: float = setting(0.0)
    memory: int = eqx.field(default=16, static=True)
    norm: Norm = eqx.field(default=two_norm, static=True)
    curve: int = eqx.field(default=0, static=True)

    def __check_init__(self):
        if self.memory < 1:
            raise ValueError(f"Broyden: memory = {self.memory} must be at least 1")

    def start(self, f, z) -> _Memory:
        flat, _ = ravel_pytree(z)
        none = jnp.zeros_like(flat)
        rows = jnp.zeros((self.memory, flat.size), flat.dtype)
        return _Memory(none, none, none, rows, rows, jnp.zeros((), jnp.int32))

    def propose(self, f, at: Evaluation, memory: _Memory) -> Proposal:
        z, unravel = ravel_pytree(at.z)
        value, _ = ravel_pytree(at.value)
        residual = value - z
        sound = jnp.isfinite(jax.lax.stop_gradient(jnp.sum(residual)))
        slot = at.count % self.memory
        # A full ring would drop terms that the later ones were built on: begin again instead.
        used = jnp.where(memory.used < self.memory, memory.used, 0)
        holds = newest(slot - 1, self.memory, used).astype(z.dtype)

        def inverse(x):
            return (holds * (memory.right @ x)) @ memory.left - x

        # The update does not depend on the size of the last step; its products would underflow.
        scale = scale_of(memory.step)
        before = memory.step / scale
        change = jnp.where(sound, residual - memory.residual, 0) / scale
        image = inverse(change)
        covector = (holds * (memory.left @ before)) @ memory.right - before
        slope = jnp.sum(covector * change)
        known = (at.steps > 0) & sound & (slope != 0)
        term = (before - image) / jnp.where(known, slope, 1)
        fits = known & jnp.isfinite(jax.lax.stop_gradient(jnp.sum(term)))
        term, covector = jnp.where(fits, term, 0), jnp.where(fits, covector, 0)
        # B r with the new term in it.
        step = -(inverse(residual) + term * jnp.sum(covector * residual))
        good = sound & jnp.isfinite(jax.lax.stop_gradient(jnp.sum(step)))
        last = jnp.where(sound, value, memory.value)
        new = jnp.where(good, z + step, jnp.where(at.steps > 0, last, value))
        kept = _Memory(
            value=last,
            residual=jnp.where(sound, residual, memory.residual),
            step=jnp.where(sound, new - z, 0),
            left=memory.left.at[slot].set(term),
            right=memory.right.at[slot].set(covector),
            used=jnp.where(good, used + 1, 0),
        )
        return Proposal(unravel(new), kept, 0)
