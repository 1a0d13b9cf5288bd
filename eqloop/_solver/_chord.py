"""The chord method: Newton's with a Jacobian that is kept."""

from typing import ClassVar, NamedTuple

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PyTree

from .._norms import two_norm
from .._solution import RESULTS
from ._iterative import AbstractSolver, Evaluation, Norm, Proposal, choose, setting, whole
from ._newton import explain_linear, newton_step


class _Memory(NamedTuple):
    anchor: PyTree
    last: Float[Array, ""]
    ended: lx.RESULTS


class Chord(AbstractSolver):
    """`z <- z + d` with `(I - df/dz(a)) d = f(z) - z`, the Jacobian that of an earlier iterate `a`.

    `a` is the iterate after the `plain` iterations; it moves to the present one after a step that
    did not halve the residual. Linear near a fixed point, where `NewtonKrylov` is quadratic, and
    matrix-free it is no cheaper per step (it linearises f at `a` at every step, one evaluation
    more): it is here because the theory of chord and modified Newton methods is, and for maps whose
    Jacobian changes erratically. (Kelley 1995, "Iterative methods for linear and nonlinear
    equations", section 5.4.)

    **Arguments:** those of `NewtonKrylov`. **Raises** `ValueError` for an argument out of range.
    """

    rtol: float = eqx.field(default=1e-3, converter=setting)
    atol: float = eqx.field(default=0.0, converter=setting)
    plain: int = eqx.field(default=3, converter=whole)
    forcing: float = eqx.field(default=1e-2, converter=setting)
    restart: int = eqx.field(default=10, static=True)
    cycles: int = eqx.field(default=2, static=True)
    norm: Norm = eqx.field(default=two_norm, static=True)
    curve: int = eqx.field(default=0, static=True)

    # The derivative of its last step is the implicit gradient: there is nothing else to follow.
    followed: ClassVar[bool] = False

    def __check_init__(self):
        for name in ("restart", "cycles"):
            if getattr(self, name) < 1:
                raise ValueError(f"Chord: {name} = {getattr(self, name)} must be at least 1")

    def start(self, f, z) -> _Memory:
        dtype = jax.eval_shape(self.norm, z).dtype
        return _Memory(z, jnp.full((), jnp.inf, dtype), lx.RESULTS.successful)

    def propose(self, f, at: Evaluation, memory: _Memory) -> Proposal:
        slow = jnp.logical_not(at.residual <= 0.5 * memory.last)
        anchor = choose((at.steps <= self.plain) | slow, at.z, memory.anchor)
        early = at.steps < self.plain

        def step(_: None) -> Proposal:
            z, ended, products = newton_step(self, f, anchor, at)
            ended = lx.RESULTS.where(early, memory.ended, ended)
            kept = _Memory(anchor, at.residual, ended)
            return Proposal(choose(early, at.value, z), kept, jnp.where(early, 0, products + 1))

        def plain(_: None) -> Proposal:
            kept = _Memory(anchor, at.residual, memory.ended)
            return Proposal(at.value, kept, jnp.zeros((), jnp.int32))

        wanted = eqxi.unvmap_any(jnp.logical_not(at.converged | early))
        return jax.lax.cond(wanted, step, plain, None)

    def explain(self, memory: _Memory) -> RESULTS:
        return explain_linear(memory.ended)
