"""Anderson acceleration."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from .._norms import scale_of, two_norm
from ._iterative import AbstractSolver, Evaluation, Norm, Proposal
from ._setting import setting


class History(NamedTuple):
    """The last differences of values and of residuals `f(z) - z`, as a ring of rows, both divided
    by the size of the latter, or products of small rows would underflow.

    `used` counts the newest rows that hold (a restart sets it to zero).
    """

    value: Float[Array, " n"]
    residual: Float[Array, " n"]
    values: Float[Array, "memory n"]
    residuals: Float[Array, "memory n"]
    products: Float[Array, "memory memory"]
    used: Int[Array, ""]


def newest(slot: Int[Array, ""], memory: int, used: Int[Array, ""]) -> Bool[Array, " memory"]:
    """Which rows of a ring hold, where `slot` is the newest."""
    return (slot - jnp.arange(memory, dtype=slot.dtype)) % memory < used


class Anderson(AbstractSolver):
    """Anderson acceleration, type II: the residuals of the last steps are combined to be least.

    With differences `dF_j` of the last `memory` values `f(z)` and `dR_j` of the residuals `r = f(z)
    - z`,

    ```
    c = argmin |r - sum_j c_j dR_j|^2 + ridge |c|^2        (dR_j scaled to norm 1)
    z <- f(z) - sum_j c_j dF_j  -  damping (r - sum_j c_j dR_j)
    ```

    One evaluation per step; on linear problems it is GMRES. Where a value or a proposal is not
    finite it forgets its history and goes on from the last plain iterate; without one, at the
    first step, the solve ends. (Walker and Ni 2011,
    doi:10.1137/10078356X.) Converges on many maps on which `FixedPoint` does not. When not to use
    it: where memory for `2 memory` states is short, or where the fixed point is far: it may wander.

    **Arguments:**

    - `memory`: differences kept.
    - `ridge`: relative to the squared norm of a difference.
    - `damping`: in [0, 1).

    and those of `AbstractSolver`. **Raises** `ValueError` for an argument out of range.
    """

    rtol: float = setting(1e-3)
    atol: float = setting(0.0)
    ridge: float = setting(1e-8)
    memory: int = eqx.field(default=5, static=True)
    damping: float = eqx.field(default=0.0, static=True)
    norm: Norm = eqx.field(default=two_norm, static=True)
    curve: int = eqx.field(default=0, static=True)

    def __check_init__(self):
        if self.memory < 1:
            raise ValueError(f"Anderson: memory = {self.memory} must be at least 1")
        if not 0 <= self.damping < 1:
            raise ValueError(f"Anderson: damping = {self.damping} must be in [0, 1)")

    def start(self, f, z) -> History:
        flat, _ = ravel_pytree(z)
        none, m = jnp.zeros_like(flat), self.memory
        rows = jnp.zeros((m, flat.size), flat.dtype)
        return History(
            none, none, rows, rows, jnp.zeros((m, m), flat.dtype), jnp.zeros((), jnp.int32)
        )

    def propose(self, f, at: Evaluation, memory: History) -> Proposal:
        z, unravel = ravel_pytree(at.z)
        value, _ = ravel_pytree(at.value)
        residual = value - z
        # One sum says whether all of it is finite. What is not never gets into the history, where
        # a coefficient of zero would not silence it.
        sound = jnp.isfinite(jax.lax.stop_gradient(jnp.sum(residual)))
        slot = at.count % self.memory
        # Nothing comes before the first value, so its differences do not count.
        used = jnp.minimum(memory.used + jnp.where(at.steps > 0, 1, 0), self.memory)
        change = jnp.where(sound, residual - memory.residual, 0)
        scale = scale_of(change)
        change = change / scale
        values = memory.values.at[slot].set(jnp.where(sound, value - memory.value, 0) / scale)
        residuals = memory.residuals.at[slot].set(change)
        scale = scale_of(residual)
        row, against = residuals @ change, residuals @ (residual / scale)
        products = memory.products.at[slot].set(row).at[:, slot].set(row)

        holds = newest(slot, self.memory, used)
        square = jnp.diagonal(products)
        size = jnp.sqrt(jnp.where(holds & (square > 0), square, 1))
        both = holds[:, None] & holds[None, :]
        unit = jnp.eye(self.memory, dtype=z.dtype)
        scaled = jnp.where(both, products / (size[:, None] * size[None, :]), unit)
        ridge = jnp.asarray(self.ridge, z.dtype) + jnp.finfo(z.dtype).eps
        c = _solve(scaled + ridge * unit, jnp.where(holds, against / size, 0)) / size
        c = scale * jnp.where(holds, c, 0)
        mixed = value - c @ values
        if self.damping:
            mixed = mixed - self.damping * (residual - c @ residuals)

        good = sound & jnp.isfinite(jax.lax.stop_gradient(jnp.sum(mixed)))
        # Without a value there is nothing but the one before; it counts as that of a plain step.
        last = jnp.where(sound, value, memory.value)
        plain = jnp.where(at.steps > 0, last, value)
        history = History(
            value=last,
            residual=jnp.where(sound, residual, memory.residual),
            values=values,
            residuals=residuals,
            products=products,
            used=jnp.where(good, used, 0),
        )
        return Proposal(unravel(jnp.where(good, mixed, plain)), history, 0)


def _solve(a: Float[Array, "m m"], b: Float[Array, " m"]) -> Float[Array, " m"]:
    """By Cholesky; nan where `a` is not positive definite."""
    return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(a), b)
