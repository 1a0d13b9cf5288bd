"""Newton's method with Krylov solves, after a few plain iterations."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, Bool, Float, Int, PyTree

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
    whole,
)
from ._setting import setting


class AbstractNewton(AbstractSolver):
    """Solvers whose step is `(I - J)^-1 (f(z) - z)`, after `plain` iterations.

    All fields are here and a subclass adds none, so that there is one place that makes `__init__`.
    """

    rtol: float = setting(1e-3)
    atol: float = setting(0.0)
    plain: int = eqx.field(default=3, converter=whole)
    forcing: float = setting(1e-2)
    restart: int = eqx.field(default=10, static=True)
    cycles: int = eqx.field(default=10, static=True)
    norm: Norm = eqx.field(default=two_norm, static=True)
    curve: int = eqx.field(default=0, static=True)

    # The derivative of the last step is the implicit gradient: there is nothing else to follow.
    followed: ClassVar[bool] = False

    def __check_init__(self):
        for name in ("restart", "cycles"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{type(self).__name__}: {name} = {value} must be at least 1")

    def early(self, at: Evaluation) -> Bool[Array, ""]:
        """Whether this step is still a plain one."""
        return at.steps < self.plain

    def wanted(self, at: Evaluation) -> Bool[Array, ""]:
        """Whether anybody needs a Newton step: one answer for all examples of a `vmap`, so that no
        linear solve is made to be thrown away."""
        return eqxi.unvmap_any(jnp.logical_not(at.converged | self.early(at)))

    def newton(
        self, f: Callable, where: PyTree, at: Evaluation, forcing: Float[Array, ""]
    ) -> tuple[PyTree, lx.RESULTS, Int[Array, ""]]:
        """`at.z + (I - df/dz)^-1 (f(at.z) - at.z)` with the Jacobian at `where`, or the plain
        iterate where that is not finite or it is early; how the linear solve ended; products
        with J, and the evaluation that linearises f."""
        _, product = jax.linearize(f, where)
        solution = solve_identity_minus(
            product,
            jtu.tree_map(lambda a, b: a - b, at.value, at.z),
            rtol=forcing,
            restart=self.restart,
            cycles=self.cycles,
        )
        z = jtu.tree_map(lambda a, b: a + b, at.z, solution.u)
        early = self.early(at)
        return (
            choose(all_finite(z) & jnp.logical_not(early), z, at.value),
            lx.RESULTS.where(early, lx.RESULTS.successful, solution.result),  # pyright: ignore
            jnp.where(early, 0, 1 + solution.products),
        )

    def explain(self, memory: Any) -> RESULTS:
        # A solve that ran out of steps while its linear solves failed: the latter is the reason.
        linear, enough = RESULTS.promote(memory.ended), lx.RESULTS.successful
        out_of_steps = RESULTS.not_converged
        return RESULTS.where(memory.ended == enough, out_of_steps, linear)  # pyright: ignore


class _Memory(NamedTuple):
    ended: lx.RESULTS


class NewtonKrylov(AbstractNewton):
    """`z <- z + d` with `(I - df/dz) d = f(z) - z`, solved inexactly by GMRES (Lineax).

    The linear solve stops at a relative residual of at most `forcing` and at most that of z itself
    (Eisenstat and Walker 1996, doi:10.1137/0917003), but solves no more exactly than `rtol` asks
    for. So it is quadratic near a fixed point as long as GMRES gets there within its cycles, else
    linear. Whether f contracts there does not matter: it reaches fixed points with spectral radius
    above one, which no plain iteration does. From a far start it fails, so `plain` iterations come
    first. The linear solve need not reach its tolerance; a step that is
    not finite is replaced by a plain one. Needs forward-mode derivatives of f. (Knoll and Keyes
    2004, doi:10.1016/j.jcp.2003.08.010.) When not to use it: where plain iteration or `Anderson`
    converges in about as many evaluations as one linear solve takes products.

    **Arguments:**

    - `plain`: plain iterations before the first Newton step.
    - `forcing`: the largest relative residual at which a linear solve stops.
    - `restart`, `cycles`: of GMRES: products per cycle (memory is that many states), cycles.

    and those of `AbstractSolver`. `evaluations` counts linearisations of f, one per Newton step,
    and products with the Jacobian too. **Raises** `ValueError` for an argument out of range.
    """

    def start(self, f, z) -> _Memory:
        return _Memory(lx.RESULTS.successful)

    def propose(self, f, at: Evaluation, memory: _Memory) -> Proposal:
        most, rtol = (jnp.asarray(s, at.residual.dtype) for s in (self.forcing, self.rtol))
        forcing = jnp.minimum(most, jnp.maximum(at.residual, 0.5 * rtol / at.residual))

        def newton(_: None) -> Proposal:
            z, ended, evaluations = self.newton(f, at.z, at, forcing)
            return Proposal(z, _Memory(ended), evaluations)

        def plain(_: None) -> Proposal:
            return Proposal(at.value, memory, jnp.zeros((), jnp.int32))

        return jax.lax.cond(self.wanted(at), newton, plain, None)
