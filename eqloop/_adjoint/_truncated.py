"""Back-propagation through the last iterations only."""

import equinox as eqx
from jaxtyping import Array, Int

from .._iteration import advance, later, python_int, stop_gradient, unroll
from .._remat import Keep
from .._solution import Equilibrium
from .._solver import Unroll, forward_result, iterate_watched, solve_forward
from ._base import AbstractGradient
from ._follow import Tail, follow, followed
from ._make_equilibrium import make_equilibrium
from ._tail import check_checkpoints, check_steps, tail_steps


class Truncated(AbstractGradient):
    """Back-propagation through the last `steps` iterations; earlier ones get no gradient.

    `Unroll(n + k)` with `Truncated(k)` is progressive training: n iterations without a gradient,
    then k with one. With any other solver, `steps` plain iterations follow the solve; or, with
    `follow`, nothing follows it and the last `steps` steps of the solver that led to its state are
    differentiated, its damping or acceleration included. Derivatives of any order and in both modes
    are those of these iterations from a constant state. When not to use it: if earlier iterations
    matter for the gradient, and if `Implicit` converges.

    **Arguments:**

    - `steps`: number of iterations, an integer or a traced integer scalar; a traced value below 1
        counts as 1.
    - `max_steps`: static upper bound on a traced `steps`, which is clamped to it and to the
        iterations of `Unroll`.
    - `keep`, `checkpoints`: see `Backprop`.
    - `follow`: whether to differentiate the solver's own steps. Then `steps` must be an integer;
        `steps` states of the solver are stored while it runs (for `Anderson` `2 memory` states of
        the loop each), and these steps are made a second time, differentiably. What a solver
        decides by its residual, such as when damping begins, is a constant. `checkpoints` has no
        effect. `Unroll` has no other steps.

    **Raises** `ValueError` if `steps` is an integer below 1 or exceeds those of `Unroll`, and with
    `follow` as `Backprop`.

    **Source:** Williams and Peng 1990, doi:10.1162/neco.1990.2.4.490; progressive training as in
    Bansal et al. 2022, arXiv 2202.05826.

    ```python
    >>> import eqloop, jax, jax.numpy as jnp
    >>> def state(x):
    ...     f, z0 = lambda z, x: 0.5 * z + x, jnp.zeros(())
    ...     solver, gradient = eqloop.Unroll(10), eqloop.Truncated(2)
    ...     return eqloop.equilibrium(f, z0, x, solver=solver, gradient=gradient).state
    >>> print(jax.grad(state)(1.0))         # 1 + 0.5; all ten iterations would give almost 2
    1.5

    ```
    """

    steps: int | Int[Array, ""] = eqx.field(converter=python_int)
    max_steps: int | None = eqx.field(default=None, static=True, converter=python_int)
    keep: Keep = eqx.field(default="marked", static=True)
    checkpoints: int | None = eqx.field(default=None, static=True)
    follow: bool = eqx.field(default=False, static=True)

    def __check_init__(self):
        check_steps(self)
        check_checkpoints(self)

    def run(self, f, z0, x, solver, *, max_steps, probe) -> Equilibrium:
        del probe
        if self.follow and not isinstance(solver, Unroll):
            return self._follow(f, z0, x, solver, max_steps)
        steps, bound = tail_steps(self, solver)
        forward = solve_forward(f, z0, x, solver, reserved_steps=steps, max_steps=max_steps)
        z, state = unroll(
            f, forward.state, later(x, forward.steps), steps, bound, self.keep, self.checkpoints
        )
        return make_equilibrium(state, z, state, solver, forward, steps)

    def _follow(self, f, z0, x, solver, max_steps) -> Equilibrium:
        solver = followed(self, solver)
        if not isinstance(self.steps, int):
            raise ValueError("Truncated: follow needs a static number of steps")
        last = min(self.steps, max_steps) if isinstance(max_steps, int) else self.steps
        constant_f, z0, constant_x = stop_gradient((f, z0, x))

        def evaluate(z):
            return constant_f(z, constant_x)

        begin = solver.begin(evaluate, z0)
        tail = Tail.begin(z0, begin, last)
        _, solve, tail = iterate_watched(
            evaluate, solver, z0, tail, Tail.watch, max_steps=max_steps
        )
        forward, origin = stop_gradient((forward_result(solver, solve), tail.origin))
        # One slot more than steps: it judges the last iterate.
        solve_again, slots, until = origin.resume(begin), last + 1, solve.best_step + 1
        again = follow(f, x, solver, origin.z, solve_again, slots, self.keep, until)
        value = advance(f, forward.state, x, 1)
        return make_equilibrium(value, forward.state, again.best, solver, forward, 1)
