"""How one segment runs the map of a model: how many iterations, by which solver and gradient."""

import abc
import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import PyTree

from .._adjoint import AbstractGradient, Truncated
from .._equilibrium import equilibrium
from .._solver import AdaptiveDamping, Damping, Solver
from ._states import State

Run = tuple[State, Damping | None, Damping | None]
"""The last state, what the next segment must know besides, and that of each step."""


class AbstractSchedule(eqx.Module):
    """The iterations of one segment, for one example.

    ```python
    >>> import eqloop
    >>> class Once(eqloop.recursive.AbstractSchedule):
    ...     def remember(self, z):
    ...         return None
    ...     def __call__(self, f, z, x, memory, *, inference):
    ...         return f(z, x), memory, None
    >>> Once()
    Once()

    ```
    """

    @abc.abstractmethod
    def remember(self, z: State) -> Damping | None:
        """Return what is remembered before the first step."""

    @abc.abstractmethod
    def __call__(
        self, f: Callable, z: State, x: PyTree, memory: Damping | None, *, inference: bool
    ) -> Run:
        """Iterate `f(z, x)` from `z`.

        **Returns:**

        The last state; what the next segment must remember; and that after each step, or None.
        """


class Cycles(AbstractSchedule):
    """`eqloop.equilibrium` with a solver and a gradient: that of TRM, HRM and EqR, which iterate F
    a fixed number of times and differentiate the last, is `Unroll(n)` with `Truncated(1)`.

    **Arguments:**

    - `solver`: the solver.
    - `gradient`: the gradient.

    ```python
    >>> import eqloop
    >>> eqloop.recursive.Cycles(eqloop.Unroll(3)).gradient.steps
    1

    ```
    """

    solver: Solver
    gradient: AbstractGradient = Truncated(1)

    def remember(self, z):
        del z
        return None

    def __call__(self, f, z, x, memory, *, inference):
        del memory, inference
        out = equilibrium(f, z, x, solver=self.solver, gradient=self.gradient)
        return out.state, None, None


class DampedSteps(AbstractSchedule):
    """A number of steps of `eqloop.AdaptiveDamping`, all with gradient, as FPRM trains; the step
    size is carried from segment to segment. In evaluation a segment is one step.

    **Arguments:**

    - `solver`: the damping.
    - `steps`: steps of a segment in training.
    - `decay_inference`: the factor `decay` in evaluation; None for the same.

    ```python
    >>> import eqloop
    >>> eqloop.recursive.DampedSteps(eqloop.AdaptiveDamping(0.1), steps=6).steps
    6

    ```
    """

    solver: AdaptiveDamping
    steps: int = eqx.field(static=True)
    decay_inference: float | None = eqx.field(default=None, static=True)

    def remember(self, z):
        return self.solver.start(lambda z: z, z)

    def __call__(self, f, z, x, memory, *, inference):
        solver = self.solver
        if inference and self.decay_inference is not None:
            solver = dataclasses.replace(solver, decay=self.decay_inference)

        def step(carry, _):
            z, memory = carry
            z, memory = solver.damp(z, f(z, x), memory)
            return (z, memory), memory

        steps = 1 if inference else self.steps
        body = jax.checkpoint(step, prevent_cse=False)
        (z, memory), each = jax.lax.scan(body, (z, memory), length=steps)
        return z, memory, each
