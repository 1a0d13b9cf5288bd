"""A solver in one file: plain iteration, damped by the residual.

eqloop train --solver docs/examples/damped_solver.py:Damped
"""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu

import eqloop


class Damped(eqloop.AbstractSolver):
    """`z <- (1 - d) f(z) + d z`, with d = `most` r / (1 + r) and r the relative residual."""

    rtol: float = 1e-3
    atol: float = 0.0
    most: float = 0.5
    norm: Callable = eqx.field(default=eqloop.two_norm, static=True)
    curve: int = eqx.field(default=0, static=True)

    def start(self, f, z):
        return jnp.zeros(())  # nothing is remembered

    def propose(self, f, at, state):
        damping = self.most * at.residual / (1 + at.residual)
        z = jtu.tree_map(lambda a, b: a + damping.astype(a.dtype) * (b - a), at.value, at.z)
        return eqloop.Proposal(z, state, 0)
