"""The chord method: Newton's with a Jacobian that is kept."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PyTree

from ._iterative import Evaluation, Proposal, choose
from ._newton import AbstractNewton


class _Memory(NamedTuple):
    anchor: PyTree
    last: Float[Array, ""]
    ended: lx.RESULTS


class Chord(AbstractNewton):
    """`z <- z + d` with `(I - df/dz(a)) d = f(z) - z`, the Jacobian that of an earlier iterate `a`.

    `a` is the iterate after the `plain` iterations; it moves to the present one after a step that
    did not halve the residual. Linear near a fixed point, where `NewtonKrylov` can be quadratic
    (Kelley 1995, "Iterative methods for linear and nonlinear equations", section 5.4). When not to
    use it: for speed. Matrix-free, a step is no cheaper than one of `NewtonKrylov`, for f is
    linearised at `a` each time; it is here to compare with.

    **Arguments:** those of `NewtonKrylov`; each linear solve stops at `forcing`. **Raises**
    `ValueError` for an argument out of range.
    """

    def start(self, f, z) -> _Memory:
        dtype = jax.eval_shape(self.norm, z).dtype
        return _Memory(z, jnp.full((), jnp.inf, dtype), lx.RESULTS.successful)

    def propose(self, f, at: Evaluation, memory: _Memory) -> Proposal:
        slow = jnp.logical_not(at.residual <= 0.5 * memory.last)
        anchor = choose((at.steps <= self.plain) | slow, at.z, memory.anchor)

        def step(_: None) -> Proposal:
            forcing = jnp.asarray(self.forcing, at.residual.dtype)
            z, ended, evaluations = self.newton(f, anchor, at, forcing)
            return Proposal(z, _Memory(anchor, at.residual, ended), evaluations)

        def plain(_: None) -> Proposal:
            kept = _Memory(anchor, at.residual, memory.ended)
            return Proposal(at.value, kept, jnp.zeros((), jnp.int32))

        return jax.lax.cond(self.wanted(at), step, plain, None)
