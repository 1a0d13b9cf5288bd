"""Back-propagation through every step of the loop."""

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .._iteration import Count, advance, unroll
from .._remat import Keep, rematerialised
from .._solution import Equilibrium
from .._solver import AbstractSolver, Approach, Unroll
from ._base import AbstractGradient
from ._finish import finish
from ._truncated import check_checkpoints


class Backprop(AbstractGradient):
    """Back-propagation through all the steps of the loop, those of an accelerated solver included.

    Exact for what was computed, converged or not. Memory: one state per iteration of `Unroll`; for
    another solver all that it remembers (`Anderson`: `2 memory` states), per step, in `max_steps`
    slots: prefer `Implicit` there. Slots in which every example is done are skipped.
    Derivatives of any order and in both modes are those of what was computed.

    **Arguments:**

    - `keep`: "marked" or "products". The second is faster by a tenth on a CPU (more where
        products are slow against memory) and needs four times the memory: see
        `rematerialised`.
    - `checkpoints`: keep so many states of an `Unroll` only, and compute the others again from
        them: about `checkpoints + steps / checkpoints` states, for one more evaluation per step.

    **Raises** `ValueError` for `NewtonKrylov`, `Chord` (their derivative is that of `Implicit`) and
    the solvers of Optimistix, and for a number of checkpoints below 1.
    """

    keep: Keep = eqx.field(default="marked", static=True)
    checkpoints: int | None = eqx.field(default=None, static=True)

    def __check_init__(self):
        check_checkpoints(self)

    def run(self, f, z0, x, solver, *, max_steps, probe) -> Equilibrium:
        del probe
        if isinstance(solver, Unroll):
            z, state = unroll(f, z0, x, solver.count, solver.max_steps, self.keep, self.checkpoints)
            none = jnp.zeros((), jnp.int32)
            reached = Approach(None, none, none, None, None)
            return finish(state, z, state, solver, reached, solver.count)
        if not (isinstance(solver, AbstractSolver) and solver.followed):
            raise ValueError(
                f"Backprop cannot follow the steps of {type(solver).__name__}: use Implicit, "
                "Neumann, Phantom, Truncated or OneStep"
            )
        reached = _followed(f, z0, x, solver, max_steps, self.keep)
        z = reached.state
        return finish(advance(f, z, x, 1), z, z, solver, reached, 1)


def _followed(
    f, z0: PyTree, x: PyTree, solver: AbstractSolver, max_steps: Count, keep: Keep
) -> Approach:
    """What `approach` does, in slots that can be gone back through."""
    if not isinstance(max_steps, int):
        raise ValueError("Backprop through a solver needs a static number of max_steps")

    def evaluate(z):
        return f(z, x)

    progress, static = eqx.partition(solver.begin(evaluate, z0), eqx.is_array)

    def step(carry):
        z, progress = carry
        z, progress = solver.advance(evaluate, z, eqx.combine(progress, static))
        return z, eqx.filter(progress, eqx.is_array)

    kept = rematerialised(step, keep)

    def slot(carry, _):
        live = eqxi.unvmap_any(jnp.logical_not(carry[1].done))
        return jax.lax.cond(live, kept, lambda carry: carry, carry), None

    (_, progress), _ = jax.lax.scan(slot, (z0, progress), length=max_steps)
    progress = eqx.combine(progress, static)
    return Approach(
        progress.best,
        progress.steps,
        progress.evaluations,
        solver.result(progress),
        progress.curve if solver.curve else None,
    )
