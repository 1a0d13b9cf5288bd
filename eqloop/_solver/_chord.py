"""The chord method: Newton's method with a Jacobian that is reused."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PyTree

from ._iterative import Iterate, Proposal, choose
from ._newton import AbstractNewton


class _ChordState(NamedTuple):
    anchor: PyTree
    last_residual: Float[Array, ""]
    linear_result: lx.RESULTS


class Chord(AbstractNewton):
    """`z <- z + d` with `(I - df/dz(a)) d = f(z) - z`, the Jacobian of an earlier iterate `a`.

    `a` is the iterate after the `plain` iterations, and moves to the current iterate after a step
    that did not halve the residual. Convergence near a fixed point is linear, where `NewtonKrylov`
    can be quadratic. When not to use it: for speed. Matrix-free, each step costs one more
    evaluation than `NewtonKrylov`, since f is re-linearised at `a`; provided for comparison.

    **Arguments:**

    - `rtol`, `atol`, `norm`, `curve`, `min_steps`: see `AbstractSolver`.
    - `plain`, `restart`, `cycles`: see `NewtonKrylov`.
    - `forcing`: relative residual at which each linear solve stops.

    **Raises** `ValueError` for an argument out of range.

    **Source:** Kelley 1995, "Iterative methods for linear and nonlinear equations", section 5.4,
    doi:10.1137/1.9781611970944.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> f = lambda z, x: jnp.cos(z) + x
    >>> solver = eqloop.Chord(rtol=1e-5)
    >>> eq = eqloop.equilibrium(f, jnp.zeros(()), jnp.zeros(()), solver=solver)
    >>> print(f"{eq.state:.4f}, {bool(eq.result == eqloop.RESULTS.successful)}")
    0.7391, True

    ```
    """

    def start(self, f: Callable, z: PyTree) -> _ChordState:
        del f
        dtype = jax.eval_shape(self.norm, z).dtype
        return _ChordState(z, jnp.full((), jnp.inf, dtype), lx.RESULTS.successful)

    def propose(self, f: Callable, at: Iterate, state: _ChordState) -> Proposal:
        is_slow = jnp.logical_not(at.residual <= 0.5 * state.last_residual)
        anchor = choose((at.steps <= self.plain) | is_slow, at.z, state.anchor)

        def newton_step(_: None) -> Proposal:
            forcing = jnp.asarray(self.forcing, at.residual.dtype)
            z, linear_result, evaluations = self.newton(f, anchor, at, forcing)
            return Proposal(z, _ChordState(anchor, at.residual, linear_result), evaluations)

        def plain_step(_: None) -> Proposal:
            next_state = _ChordState(anchor, at.residual, state.linear_result)
            return Proposal(at.value, next_state, jnp.zeros((), jnp.int32))

        return jax.lax.cond(self.any_newton_step(at), newton_step, plain_step, None)
