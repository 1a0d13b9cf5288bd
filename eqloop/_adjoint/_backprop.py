"""Back-propagation through every step of the loop."""

import equinox as eqx
import jax.numpy as jnp

from .._iteration import advance, unroll
from .._remat import Keep
from .._solution import Equilibrium
from .._solver import ForwardResult, Reversible, Unroll, forward_result
from ._base import AbstractGradient
from ._follow import follow, followed
from ._make_equilibrium import make_equilibrium
from ._reversal import solve_reversibly
from ._tail import check_checkpoints


class Backprop(AbstractGradient):
    """Back-propagation through every step of the loop, including those of an accelerated solver.

    The gradient is exact for the state that was computed, converged or not, as are derivatives of
    any order and in both modes. Memory is one state per iteration of `Unroll`. For any other
    solver it is the solver's whole state (`2 memory` states for `Anderson`) in each of `max_steps`
    slots; slots in which every example is done are skipped. For `Reversible` it is two
    states for as many steps as rounding allows; there are only first derivatives, in reverse mode
    (second ones raise `ValueError`, forward mode raises JAX's `TypeError`), and the `probe` reports
    as `residual` how far the states computed backwards were off. When not to use it: with a solver
    that stops at a tolerance, where `Implicit` needs less memory.

    **Arguments:**

    - `keep`: what the forward pass stores, "marked" or "products". The second takes 9 to
        17 % less time on a CPU at width 256, nothing less at width 64, and four times the memory.
        A single iteration stores what its derivative needs.
    - `checkpoints`: number of states of an `Unroll` that are stored; the others are recomputed
        from them. Memory is about `checkpoints + steps / checkpoints` states, at the cost of one
        more evaluation per step. Other solvers ignore it.

    **Raises** `ValueError` for `NewtonKrylov` and `Chord` (their derivative is that of `Implicit`),
    for the solvers of Optimistix, for a number of checkpoints below 1, and for a `Reversible` whose
    `mix` is so near 1 that no step can be computed backwards.

    **Source:** for `checkpoints`, Chen et al. 2016, arXiv 1604.06174; see also `Reversible`.

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
        if isinstance(solver, Unroll):
            z, state = unroll(f, z0, x, solver.count, solver.max_steps, self.keep, self.checkpoints)
            zero = jnp.zeros((), jnp.int32)
            forward = ForwardResult(None, zero, zero, None, None)
            return make_equilibrium(state, z, state, solver, forward, solver.count)
        solver = followed(self, solver)
        if not isinstance(max_steps, int):
            raise ValueError("Backprop through a solver needs a static number of max_steps")
        if isinstance(solver, Reversible):
            forward, z = solve_reversibly(f, z0, x, solver, max_steps=max_steps, probe=probe)
        else:
            begin = solver.begin(lambda z: f(z, x), z0)
            solve = follow(f, x, solver, z0, begin, max_steps, self.keep)
            forward = forward_result(solver, solve)
            z = forward.state
        return make_equilibrium(advance(f, z, x, 1), z, z, solver, forward, 1)
