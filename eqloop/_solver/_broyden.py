"""Broyden's method with limited memory."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from .._iteration import Scalar
from .._norms import scale_of, sum_is_finite, two_norm
from ._iterative import AbstractSolver, Iterate, Norm, Proposal, newest
from ._traced import traced_float


class _BroydenState(NamedTuple):
    """The inverse Jacobian of `f(z) - z` is approximated by `-I + sum_j left_j right_j^T`."""

    value: Float[Array, " n"]
    residual: Float[Array, " n"]
    step: Float[Array, " n"]
    left: Float[Array, "memory n"]
    right: Float[Array, "memory n"]
    used: Int[Array, ""]


class Broyden(AbstractSolver):
    """Broyden's good method on `r(z) = f(z) - z`, started from plain iteration.

    With `B` an approximation of the inverse Jacobian of r, initially `-I`,

    ```
    z <- z - B r
    B <- B + (dz - B dr) (dz^T B) / (dz^T B dr)
    ```

    `B` is stored as `-I` plus at most `memory` rank-one terms, never as a matrix. If the memory is
    full, or a value or proposal is not finite, it drops all terms and continues with a plain step.
    When not to use it: if `Anderson` converges, which is cheaper.

    **Arguments:**

    - `rtol`, `atol`, `norm`, `curve`, `min_steps`: see `AbstractSolver`.
    - `memory`: number of rank-one terms; uses `2 * memory` copies of the state.

    **Raises** `ValueError` for an argument out of range.

    **Source:** Broyden 1965, doi:10.1090/S0025-5718-1965-0198670-6; limited memory as in deep
    equilibrium models, arXiv 1909.01377.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> f = lambda z, x: jnp.cos(z) + x
    >>> solver = eqloop.Broyden(rtol=1e-5)
    >>> eq = eqloop.equilibrium(f, jnp.zeros(()), jnp.zeros(()), solver=solver)
    >>> print(f"{eq.state:.4f}, {bool(eq.result == eqloop.RESULTS.successful)}")
    0.7391, True

    ```
    """

    rtol: Scalar = traced_float(1e-3)
    atol: Scalar = traced_float(0.0)
    memory: int = eqx.field(default=16, static=True)
    norm: Norm = eqx.field(default=two_norm, static=True)
    curve: int = eqx.field(default=0, static=True)

    def __check_init__(self):
        if self.memory < 1:
            raise ValueError(f"Broyden: memory = {self.memory} must be at least 1")

    def start(self, f: Callable, z: PyTree) -> _BroydenState:
        del f
        flat, _ = ravel_pytree(z)
        zeros = jnp.zeros_like(flat)
        rows = jnp.zeros((self.memory, flat.size), flat.dtype)
        return _BroydenState(zeros, zeros, zeros, rows, rows, jnp.zeros((), jnp.int32))

    def propose(self, f: Callable, at: Iterate, state: _BroydenState) -> Proposal:
        del f
        z, unravel = ravel_pytree(at.z)
        value, _ = ravel_pytree(at.value)
        residual = value - z
        is_finite = sum_is_finite(residual)
        # NaNs enter neither the state nor the step that is not accepted: `0 * nan` is still `nan`,
        # in derivatives too.
        last_value = jnp.where(is_finite, value, state.value)
        residual = jnp.where(is_finite, residual, state.residual)
        slot = at.count % self.memory
        # Dropping the oldest terms of a full ring would invalidate the later ones, which were
        # computed with them. Restart instead.
        used = jnp.where(state.used < self.memory, state.used, 0)
        valid = newest(slot - 1, self.memory, used).astype(z.dtype)

        def inverse(v):
            return (valid * (state.right @ v)) @ state.left - v

        # The update does not depend on the size of the last step, whose products would underflow.
        scale = scale_of(state.step)
        last_step = state.step / scale
        change = (residual - state.residual) / scale
        image = inverse(change)
        covector = (valid * (state.left @ last_step)) @ state.right - last_step
        slope = jnp.sum(covector * change)
        has_update = (at.steps > 0) & is_finite & (slope != 0)
        term = (last_step - image) / jnp.where(has_update, slope, 1)
        has_update &= sum_is_finite(term)
        term, covector = jnp.where(has_update, term, 0), jnp.where(has_update, covector, 0)
        # -B r, with B including the new term.
        step = -(inverse(residual) + term * jnp.sum(covector * residual))
        accepted = is_finite & sum_is_finite(step)
        fallback = jnp.where(at.steps > 0, last_value, value)
        z_next = jnp.where(accepted, z + step, fallback)
        next_state = _BroydenState(
            value=last_value,
            residual=residual,
            step=jnp.where(is_finite, z_next - z, 0),
            left=state.left.at[slot].set(term),
            right=state.right.at[slot].set(covector),
            used=jnp.where(accepted, used + 1, 0),
        )
        return Proposal(unravel(z_next), next_state, 0)
