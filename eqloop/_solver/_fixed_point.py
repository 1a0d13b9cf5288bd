"""Fixed-point (Picard) iteration until it converges."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, Int

from .._norms import two_norm
from ._iterative import AbstractSolver, Evaluation, Norm, Proposal
from ._setting import setting


class _Memory(NamedTuple):
    lowest: Float[Array, ""]
    stalled: Int[Array, ""]


class FixedPoint(AbstractSolver):
    """`z <- (1 - damping) f(z, x) + damping z`.

    With a `patience` it begins undamped, and damps once the residual has not fallen below its
    lowest value for so many steps: full speed where the loop contracts, and a chance where it
    cycles. Converges where the spectral radius of `(1 - damping) J + damping I` is below one, at
    that rate. When not to use it: where that radius is close to or above one; see `Anderson`,
    `NewtonKrylov`.

    **Arguments:**

    - `damping`: in [0, 1).
    - `patience`: steps without a new lowest residual before the damping sets in; 0: from the
        first step.

    and those of `AbstractSolver`. **Raises** `ValueError` for an argument out of range.
    """

    rtol: float = setting(1e-3)
    atol: float = setting(0.0)
    damping: float = setting(0.0)
    patience: int = eqx.field(default=0, static=True)
    norm: Norm = eqx.field(default=two_norm, static=True)
    curve: int = eqx.field(default=0, static=True)

    def __check_init__(self):
        if isinstance(self.damping, float) and not 0 <= self.damping < 1:
            raise ValueError(f"FixedPoint: damping = {self.damping} must be in [0, 1)")
        if self.patience < 0:
            raise ValueError(f"FixedPoint: patience = {self.patience} must be at least 0")

    def start(self, f, z) -> _Memory:
        return _Memory(jnp.full((), jnp.inf, two_norm(z).dtype), jnp.zeros((), jnp.int32))

    def propose(self, f, at: Evaluation, memory: _Memory) -> Proposal:
        falls = at.residual < memory.lowest
        # Once it has set in, the damping stays: what stalled undamped would stall again.
        over = memory.stalled >= self.patience
        stalled = jnp.where(falls & jnp.logical_not(over), 0, memory.stalled + 1)
        damps = stalled >= self.patience
        damping = jnp.where(damps, jnp.asarray(self.damping, at.residual.dtype), 0)
        z = jtu.tree_map(lambda a, b: a + damping.astype(a.dtype) * (b - a), at.value, at.z)
        return Proposal(z, _Memory(jnp.fmin(at.residual, memory.lowest), stalled), 0)
