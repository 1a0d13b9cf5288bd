"""Newton's method with Krylov solves, after a few plain iterations."""

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import PyTree

from .._linear import solve_identity_minus
from .._norms import two_norm
from .._solution import RESULTS
from ._iterative import (
    AbstractSolver,
    Evaluation,
    Norm,
    Proposal,
    all_finite,
    choose,
    setting,
    whole,
)


class _Memory(NamedTuple):
    ended: lx.RESULTS


class NewtonKrylov(AbstractSolver):
    """`z <- z + d` with `(I - df/dz) d = f(z) - z`, solved inexactly by GMRES (Lineax).

    Quadratic near a fixed point, whether f contracts there or not: it reaches fixed points with
    spectral radius above one, which no plain iteration does. From a far start it fails, so
    `plain` iterations come first. The linear solve need not reach its tolerance; a step that is
    not finite is replaced by a plain one. Needs forward-mode derivatives of f. (Knoll and Keyes
    2004, doi:10.1016/j.jcp.2003.08.010.) When not to use it: where plain iteration or `Anderson`
    converges in about as many evaluations as one linear solve takes products.

    **Arguments:**

    - `plain`: plain iterations before the first Newton step.
    - `forcing`: relative residual at which a linear solve stops.
    - `restart`, `cycles`: of GMRES: products per cycle (memory is that many states), cycles.

    and those of `AbstractSolver`. `evaluations` counts products with the Jacobian too. **Raises**
    `ValueError` for an argument out of range.
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
                value = getattr(self, name)
                raise ValueError(f"{type(self).__name__}: {name} = {value} must be at least 1")

    def start(self, f, z) -> _Memory:
        return _Memory(lx.RESULTS.successful)

    def propose(self, f, at: Evaluation, memory: _Memory) -> Proposal:
        early = at.steps < self.plain

        def newton(_: None) -> Proposal:
            z, ended, products = newton_step(self, f, at.z, at)
            kept = lx.RESULTS.where(early, memory.ended, ended)
            return Proposal(
                choose(early, at.value, z), _Memory(kept), jnp.where(early, 0, products)
            )

        def plain(_: None) -> Proposal:
            return Proposal(at.value, memory, jnp.zeros((), jnp.int32))

        # One answer for all examples, so that no linear solve is made to be thrown away.
        wanted = eqxi.unvmap_any(jnp.logical_not(at.converged | early))
        return jax.lax.cond(wanted, newton, plain, None)

    def explain(self, memory: _Memory) -> RESULTS:
        return explain_linear(memory.ended)


def newton_step(
    solver: "NewtonKrylov | eqx.Module", f: Callable, where: PyTree, at: Evaluation
) -> tuple[PyTree, lx.RESULTS, jax.Array]:
    """`at.z + (I - df/dz)^-1 (f(at.z) - at.z)` with the Jacobian at `where`; how the linear solve
    ended; products with J."""
    _, product = jax.linearize(f, where)
    residual = jtu.tree_map(lambda a, b: a - b, at.value, at.z)
    solution = solve_identity_minus(
        product,
        residual,
        rtol=solver.forcing,  # pyright: ignore
        restart=solver.restart,  # pyright: ignore
        cycles=solver.cycles,  # pyright: ignore
    )
    z = jtu.tree_map(lambda a, b: a + b, at.z, solution.u)
    return choose(all_finite(z), z, at.value), solution.result, solution.products


def explain_linear(ended: lx.RESULTS) -> RESULTS:
    """A solve that ran out of steps while its linear solves failed: the latter is the reason."""
    linear = RESULTS.promote(ended)
    enough = ended == lx.RESULTS.successful
    return RESULTS.where(enough, RESULTS.nonlinear_max_steps_reached, linear)  # pyright: ignore
