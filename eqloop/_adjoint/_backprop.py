"""Back-propagation through every step of the loop."""

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .._iteration import Count, advance, unroll
from .._remat import Keep, rematerialised
from .._solution import Equilibrium
from .._solver import AbstractSolver, ForwardResult, Unroll, forward_result
from ._base import AbstractGradient
from ._make_equilibrium import make_equilibrium
from ._tail import check_checkpoints


class Backprop(AbstractGradient):
    """Back-propagation through every step of the loop, including those of an accelerated solver.

    The gradient is exact for the state that was computed, converged or not, as are derivatives of
    any order and in both modes. Memory is one state per iteration of `Unroll`. For any other
    solver it is the solver's whole state (`2 memory` states for `Anderson`) in each of `max_steps`
    slots; slots in which every example is done are skipped. When not to use it: with a solver that
    stops at a tolerance, where `Implicit` needs less memory.

    **Arguments:**

    - `keep`: what the forward pass stores, "marked" or "products". The second is 10% faster on a
        CPU (more if matrix products are slow relative to memory) and needs four times the memory.
    - `checkpoints`: number of states of an `Unroll` that are stored; the others are recomputed
        from them. Memory is about `checkpoints + steps / checkpoints` states, at the cost of one
        more evaluation per step.

    **Raises** `ValueError` for `NewtonKrylov` and `Chord` (their derivative is that of `Implicit`),
    for the solvers of Optimistix, and for a number of checkpoints below 1.

    ```python
    >>> import eqloop, jax, jax.numpy as jnp
    >>> def state(x):
    ...     f, z0 = lambda z, x: 0.5 * z + x, jnp.zeros(())
    ...     solver, gradient = eqloop.Unroll(3), eqloop.Backprop()
    ...     return eqloop.equilibrium(f, z0, x, solver=solver, gradient=gradient).state
    >>> print(jax.grad(state)(1.0))         # 1 + 0.5 + 0.25
    1.75

    ```
    """

    keep: Keep = eqx.field(default="marked", static=True)
    checkpoints: int | None = eqx.field(default=None, static=True)

    def __check_init__(self):
        check_checkpoints(self)

    def run(self, f, z0, x, solver, *, max_steps, probe) -> Equilibrium:
        del probe
        if isinstance(solver, Unroll):
            z, state = unroll(f, z0, x, solver.count, solver.max_steps, self.keep, self.checkpoints)
            zero = jnp.zeros((), jnp.int32)
            forward = ForwardResult(None, zero, zero, None, None)
            return make_equilibrium(state, z, state, solver, forward, solver.count)
        if not (isinstance(solver, AbstractSolver) and solver.followed):
            raise ValueError(
                f"Backprop cannot follow the steps of {type(solver).__name__}: use Implicit, "
                "Neumann, Phantom, Truncated or OneStep"
            )
        forward = _solve_in_slots(f, z0, x, solver, max_steps, self.keep)
        z = forward.state
        return make_equilibrium(advance(f, z, x, 1), z, z, solver, forward, 1)


def _solve_in_slots(
    f, z0: PyTree, x: PyTree, solver: AbstractSolver, max_steps: Count, keep: Keep
) -> ForwardResult:
    """Run the solver as `solve_forward` does, in `max_steps` slots, which can be back-propagated
    through."""
    if not isinstance(max_steps, int):
        raise ValueError("Backprop through a solver needs a static number of max_steps")

    def evaluate(z):
        return f(z, x)

    solve, static = eqx.partition(solver.begin(evaluate, z0), eqx.is_array)

    def step(carry):
        z, solve = carry
        z, solve = solver.advance(evaluate, z, eqx.combine(solve, static))
        return z, eqx.filter(solve, eqx.is_array)

    rematerialised_step = rematerialised(step, keep)

    def slot(carry, _):
        live = eqxi.unvmap_any(jnp.logical_not(carry[1].done))
        return jax.lax.cond(live, rematerialised_step, lambda carry: carry, carry), None

    (_, solve), _ = jax.lax.scan(slot, (z0, solve), length=max_steps)
    return forward_result(solver, eqx.combine(solve, static))
