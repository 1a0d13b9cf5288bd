"""Anderson acceleration."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._iteration import Scalar
from .._norms import scale_of, sum_is_finite, two_norm
from ._iterative import AbstractSolver, Iterate, Norm, Proposal, newest
from ._traced import traced_float


class _History(NamedTuple):
    """Ring buffers of the last differences of values and of residuals.

    Row j of `value_changes` and `residual_changes` holds the change of `f(z)` and of `f(z) - z`
    over one step, both divided by the scale of the residual's change, so that their products do
    not underflow. `products` are the inner products of `residual_changes`. `used` is the number of
    newest rows that are valid; a restart sets it to zero.
    """

    value: Float[Array, " n"]
    residual: Float[Array, " n"]
    value_changes: Float[Array, "memory n"]
    residual_changes: Float[Array, "memory n"]
    products: Float[Array, "memory memory"]
    used: Int[Array, ""]


class Anderson(AbstractSolver):
    """Anderson acceleration, type II: chooses the combination of recent residuals of least norm.

    With differences `dF_j` of the last `memory` values `f(z)` and `dR_j` of the residuals `r = f(z)
    - z`,

    ```
    c = argmin |r - sum_j c_j dR_j|^2 + ridge |c|^2        (dR_j scaled to norm 1)
    z <- f(z) - sum_j c_j dF_j  -  damping (r - sum_j c_j dR_j)
    ```

    One evaluation per step; on linear problems it is equivalent to GMRES. If a value or a proposal
    is not finite, it drops its history and continues from the last plain iterate; at the first
    step the solve ends instead. It converges on many maps on which `FixedPoint` does not. When not
    to use it: if memory for `2 memory` states is short, or if the fixed point is far away, where
    the iterates may wander.

    **Arguments:**

    - `rtol`, `atol`, `norm`, `curve`, `min_steps`: see `AbstractSolver`.
    - `ridge`: regularisation of the least-squares problem, relative to the squared norm of a
        difference.
    - `memory`: number of differences kept; uses `2 * memory` copies of the state. More are not
        better: the released prefix-sums run takes 40, 48, 64, 90 evaluations with 2, 3, 5, 8, the
        one of sudoku 65, 66, 77, 78.
    - `damping`: weight of the mixed residual that is subtracted, in [0, 1).

    **Raises** `ValueError` for an argument out of range.

    **Source:** Walker and Ni 2011, doi:10.1137/10078356X.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> f = lambda z, x: jnp.cos(z) + x
    >>> solver = eqloop.Anderson(rtol=1e-5, memory=3)
    >>> eq = eqloop.equilibrium(f, jnp.zeros(()), jnp.zeros(()), solver=solver)
    >>> print(f"{eq.state:.4f}, {bool(eq.result == eqloop.RESULTS.successful)}")
    0.7391, True

    ```
    """

    rtol: Scalar = traced_float(1e-3)
    atol: Scalar = traced_float(0.0)
    ridge: Scalar = traced_float(1e-8)
    memory: int = eqx.field(default=3, static=True)
    damping: float = eqx.field(default=0.0, static=True)
    norm: Norm = eqx.field(default=two_norm, static=True)
    curve: int = eqx.field(default=0, static=True)

    def __check_init__(self):
        if self.memory < 1:
            raise ValueError(f"Anderson: memory = {self.memory} must be at least 1")
        if not 0 <= self.damping < 1:
            raise ValueError(f"Anderson: damping = {self.damping} must be in [0, 1)")

    def start(self, f: Callable, z: PyTree) -> _History:
        del f
        flat, _ = ravel_pytree(z)
        zeros, m = jnp.zeros_like(flat), self.memory
        rows = jnp.zeros((m, flat.size), flat.dtype)
        return _History(
            zeros, zeros, rows, rows, jnp.zeros((m, m), flat.dtype), jnp.zeros((), jnp.int32)
        )

    def propose(self, f: Callable, at: Iterate, state: _History) -> Proposal:
        del f
        z, unravel = ravel_pytree(at.z)
        value, _ = ravel_pytree(at.value)
        residual = value - z
        # A single reduction checks finiteness. NaNs must enter neither the history nor the mixture
        # that is not accepted: `0 * nan` is still `nan`, in derivatives too.
        is_finite = sum_is_finite(residual)
        last_value = jnp.where(is_finite, value, state.value)
        residual = jnp.where(is_finite, residual, state.residual)
        history = self._record(at, state, last_value, residual)
        mixed, is_mixed = self._mix(at, history)
        accepted = is_finite & is_mixed & sum_is_finite(mixed)
        fallback = jnp.where(at.steps > 0, last_value, value)
        history = history._replace(used=jnp.where(accepted, history.used, 0))
        return Proposal(unravel(jnp.where(accepted, mixed, fallback)), history, 0)

    def _record(
        self,
        at: Iterate,
        history: _History,
        value: Float[Array, " n"],
        residual: Float[Array, " n"],
    ) -> _History:
        """Write the last step's differences to the newest row."""
        slot = at.count % self.memory
        change = residual - history.residual
        scale = scale_of(change)
        change = change / scale
        value_change = (value - history.value) / scale
        residual_changes = history.residual_changes.at[slot].set(change)
        row = residual_changes @ change
        return _History(
            value=value,
            residual=residual,
            value_changes=history.value_changes.at[slot].set(value_change),
            residual_changes=residual_changes,
            products=history.products.at[slot].set(row).at[:, slot].set(row),
            # The first step has no predecessor: its differences are not valid.
            used=jnp.minimum(history.used + jnp.where(at.steps > 0, 1, 0), self.memory),
        )

    def _mix(self, at: Iterate, history: _History) -> tuple[Float[Array, " n"], Bool[Array, ""]]:
        """Combine the recorded differences so that the residual has the least norm; False if their
        Gram matrix cannot be factorised."""
        value, residual, dtype = history.value, history.residual, history.value.dtype
        scale = scale_of(residual)
        projections = history.residual_changes @ (residual / scale)
        valid = newest(at.count % self.memory, self.memory, history.used)
        squares = jnp.diagonal(history.products)
        norms = jnp.sqrt(jnp.where(valid & (squares > 0), squares, 1))
        both_valid = valid[:, None] & valid[None, :]
        identity = jnp.eye(self.memory, dtype=dtype)
        gram = jnp.where(both_valid, history.products / (norms[:, None] * norms[None, :]), identity)
        ridge = jnp.asarray(self.ridge, dtype) + jnp.finfo(dtype).eps
        right = jnp.where(valid, projections / norms, 0)
        c, is_solved = _solve(gram + ridge * identity, right)
        c = scale * jnp.where(valid, c / norms, 0)
        mixed = value - c @ history.value_changes
        if self.damping:
            mixed = mixed - self.damping * (residual - c @ history.residual_changes)
        return mixed, is_solved


def _solve(
    a: Float[Array, "m m"], b: Float[Array, " m"]
) -> tuple[Float[Array, " m"], Bool[Array, ""]]:
    """`a^-1 b` by Cholesky factorisation; `b` and False if `a` is not positive definite.

    The derivative is that of the linear system, not of the factorisation: where the factor is NaN,
    so would be its derivative, also where the solution is not used.
    """
    factor, lower = jax.scipy.linalg.cho_factor(jax.lax.stop_gradient(a))
    is_definite = sum_is_finite(factor)
    factor = jnp.where(is_definite, factor, jnp.eye(len(b), dtype=b.dtype))
    a = jnp.where(is_definite, a, jnp.eye(len(b), dtype=b.dtype))
    solution = jax.lax.custom_linear_solve(
        lambda v: a @ v,
        b,
        lambda _, right: jax.scipy.linalg.cho_solve((factor, lower), right),
        symmetric=True,
    )
    return solution, is_definite
