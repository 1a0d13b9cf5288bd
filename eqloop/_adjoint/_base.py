"""The interface of a gradient."""

import abc
from typing import Any

import equinox as eqx
from jaxtyping import PyTree

from .._iteration import Count
from .._solution import BackwardReport, Equilibrium
from .._solver import Solver


class AbstractGradient(eqx.Module):
    """How a loop is differentiated, chosen independently of the solver. A new gradient is one file
    with one method, `run`.

    ```python
    >>> import eqloop, jax, jax.numpy as jnp
    >>> class LastTwo(eqloop.AbstractGradient):
    ...     def run(self, f, z0, x, solver, *, max_steps, probe):
    ...         last = eqloop.Truncated(2)
    ...         return last.run(f, z0, x, solver, max_steps=max_steps, probe=probe)
    >>> def state(x):
    ...     f, z0 = lambda z, x: 0.5 * z + x, jnp.zeros(())
    ...     solver, gradient = eqloop.Unroll(10), LastTwo()
    ...     return eqloop.equilibrium(f, z0, x, solver=solver, gradient=gradient).state
    >>> print(jax.grad(state)(1.0))         # 1 + 0.5
    1.5

    ```
    """

    @abc.abstractmethod
    def run(
        self,
        f: Any,
        z0: PyTree,
        x: PyTree,
        solver: Solver,
        *,
        max_steps: Count,
        probe: BackwardReport | None,
    ) -> Equilibrium:
        """Run the solver and make its result differentiable: differentiating the returned state
        gives this gradient.

        **Arguments:**

        - `f`: the map of a state and an input; a pytree whose arrays are to have gradients too.
        - `z0`, `x`, `solver`, `max_steps`, `probe`: see `eqloop.equilibrium`.

        **Returns:**

        The `Equilibrium`. **Raises** `ValueError` for a solver that it cannot differentiate.
        """
