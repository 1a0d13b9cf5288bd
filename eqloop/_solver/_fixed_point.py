"""Fixed-point (Picard) iteration until it converges."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, Int, PyTree

from .._iteration import Scalar
from .._norms import two_norm
from ._iterative import AbstractSolver, Iterate, Norm, Proposal
from ._traced import traced_float


class _Stall(NamedTuple):
    lowest_residual: Float[Array, ""]
    stalled_steps: Int[Array, ""]


class FixedPoint(AbstractSolver):
    """`z <- (1 - damping) f(z, x) + damping z`.

    With `patience`, iteration starts undamped, and the damping sets in once the residual has not
    reached a new minimum for `patience` steps: full speed if the loop contracts, and a chance to
    converge if it cycles. It converges if the spectral radius of `(1 - damping) J + damping I` is
    below one, at that rate. When not to use it: if that radius is close to or above one; see
    `Anderson` and `NewtonKrylov`.

    **Arguments:**

    - `rtol`, `atol`, `norm`, `curve`, `min_steps`: see `AbstractSolver`.
    - `damping`: weight of the old iterate, in [0, 1).
    - `patience`: steps without a new minimum of the residual before the damping sets in; 0 damps
        from the first step.

    **Raises** `ValueError` for an argument out of range.

    **Source:** Mann 1953, doi:10.1090/S0002-9939-1953-0054846-3, for the damping.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> f = lambda z, x: 1 / (1 + z) + x
    >>> solver = eqloop.FixedPoint(rtol=1e-5, damping=0.2)
    >>> eq = eqloop.equilibrium(f, jnp.zeros(()), jnp.zeros(()), solver=solver)
    >>> print(f"{eq.state:.4f}, {bool(eq.result == eqloop.RESULTS.successful)}")
    0.6180, True

    ```
    """

    rtol: Scalar = traced_float(1e-3)
    atol: Scalar = traced_float(0.0)
    damping: Scalar = traced_float(0.0)
    patience: int = eqx.field(default=0, static=True)
    norm: Norm = eqx.field(default=two_norm, static=True)
    curve: int = eqx.field(default=0, static=True)

    def __check_init__(self):
        if isinstance(self.damping, float) and not 0 <= self.damping < 1:
            raise ValueError(f"FixedPoint: damping = {self.damping} must be in [0, 1)")
        if self.patience < 0:
            raise ValueError(f"FixedPoint: patience = {self.patience} must be at least 0")

    def start(self, f: Callable, z: PyTree) -> _Stall:
        del f
        return _Stall(jnp.full((), jnp.inf, two_norm(z).dtype), jnp.zeros((), jnp.int32))

    def propose(self, f: Callable, at: Iterate, state: _Stall) -> Proposal:
        del f
        is_new_minimum = at.residual < state.lowest_residual
        # Once on, the damping stays on: an undamped iteration that stalled would stall again.
        was_damped = state.stalled_steps >= self.patience
        stalled_steps = jnp.where(
            is_new_minimum & jnp.logical_not(was_damped), 0, state.stalled_steps + 1
        )
        is_damped = stalled_steps >= self.patience
        damping = jnp.where(is_damped, jnp.asarray(self.damping, at.residual.dtype), 0)
        z = jtu.tree_map(lambda a, b: a + damping.astype(a.dtype) * (b - a), at.value, at.z)
        lowest_residual = jnp.fmin(at.residual, state.lowest_residual)
        return Proposal(z, _Stall(lowest_residual, stalled_steps), 0)
