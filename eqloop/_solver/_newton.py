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

from .._iteration import Scalar
from .._linear import solve_identity_minus
from .._norms import two_norm
from .._solution import RESULTS, select
from ._iterative import AbstractSolver, Iterate, Norm, Proposal, all_finite, choose
from ._traced import traced_float, traced_int


class AbstractNewton(AbstractSolver):
    """Solvers whose step is `(I - J)^-1 (f(z) - z)`, after `plain` iterations.

    All fields are declared here and subclasses add none, so that only this class has an
    `__init__`.
    """

    rtol: Scalar = traced_float(1e-3)
    atol: Scalar = traced_float(0.0)
    plain: int = eqx.field(default=3, converter=traced_int)
    forcing: Scalar = traced_float(1e-2)
    restart: int = eqx.field(default=10, static=True)
    cycles: int = eqx.field(default=10, static=True)
    norm: Norm = eqx.field(default=two_norm, static=True)
    curve: int = eqx.field(default=0, static=True)

    # The derivative of the last step is the implicit gradient: `Backprop` would add nothing.
    followed: ClassVar[bool] = False

    def __check_init__(self):
        for name in ("restart", "cycles"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{type(self).__name__}: {name} = {value} must be at least 1")

    def is_plain(self, at: Iterate) -> Bool[Array, ""]:
        """Whether this step is one of the `plain` iterations."""
        return at.steps < self.plain

    def any_newton_step(self, at: Iterate) -> Bool[Array, ""]:
        """Whether any example in the batch needs a Newton step. Reduced over `vmap`, so that
        `lax.cond` remains a real branch."""
        return eqxi.unvmap_any(jnp.logical_not(at.converged | self.is_plain(at)))

    def newton(
        self, f: Callable, anchor: PyTree, at: Iterate, forcing: Float[Array, ""]
    ) -> tuple[PyTree, lx.RESULTS, Int[Array, ""]]:
        """`at.z + (I - df/dz)^-1 (f(at.z) - at.z)`, with the Jacobian at `anchor`.

        **Returns:**

        The next iterate, which is the plain one if the Newton step is not finite or this step is
        still plain; the result of the linear solve; the number of products with J, plus one
        evaluation to linearise f.
        """
        _, product = jax.linearize(f, anchor)
        solution = solve_identity_minus(
            product,
            jtu.tree_map(lambda a, b: a - b, at.value, at.z),
            rtol=forcing,
            restart=self.restart,
            cycles=self.cycles,
        )
        z = jtu.tree_map(lambda a, b: a + b, at.z, solution.u)
        is_plain = self.is_plain(at)
        return (
            choose(all_finite(z) & jnp.logical_not(is_plain), z, at.value),
            select(is_plain, lx.RESULTS.successful, solution.result, lx.RESULTS),
            jnp.where(is_plain, 0, 1 + solution.products),
        )

    def explain(self, state: Any) -> RESULTS:
        # If the last linear solve failed, that is the reason why the steps were not enough.
        linear_solved = state.linear_result == lx.RESULTS.successful
        return select(linear_solved, RESULTS.not_converged, RESULTS.promote(state.linear_result))


class _NewtonState(NamedTuple):
    linear_result: lx.RESULTS


class NewtonKrylov(AbstractNewton):
    """`z <- z + d` with `(I - df/dz) d = f(z) - z`, solved inexactly by GMRES.

    Each linear solve stops at a relative residual of `forcing` or of z itself, whichever is
    smaller, but never below what `rtol` requires. Convergence near a fixed point is therefore
    quadratic as long as GMRES reaches that within its cycles, else linear. f need not contract
    there: fixed points with spectral radius above one, which no plain iteration reaches, are
    reached too. Newton's method fails from a distant start, so `plain` iterations come first. A
    linear solve that misses its tolerance is used as it is; a step that is not finite is replaced
    by a plain one. f needs forward-mode derivatives. When not to use it: if plain iteration or
    `Anderson` converges in about as many evaluations as one linear solve makes products.

    **Arguments:**

    - `rtol`, `atol`, `norm`, `curve`, `min_steps`: see `AbstractSolver`.
    - `plain`: number of plain iterations before the first Newton step.
    - `forcing`: upper bound on the relative residual at which a linear solve stops.
    - `restart`: maximum number of products with the Jacobian per GMRES cycle, besides the one that
        judges it; uses this many copies of the state.
    - `cycles`: maximum number of GMRES cycles per step.

    The `evaluations` of the solve include products with the Jacobian and one linearisation of f
    per Newton step.

    **Raises** `ValueError` for an argument out of range.

    **Source:** Knoll and Keyes 2004, doi:10.1016/j.jcp.2003.08.010; forcing terms as in Eisenstat
    and Walker 1996, doi:10.1137/0917003.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> f = lambda z, x: z**2 - 2 + x           # repels from its fixed points, 2 and -1
    >>> solver = eqloop.NewtonKrylov(rtol=1e-5, plain=0)
    >>> eq = eqloop.equilibrium(f, jnp.full((), 3.0), jnp.zeros(()), solver=solver)
    >>> print(f"{eq.state:.4f}, {bool(eq.result == eqloop.RESULTS.successful)}")
    2.0000, True

    ```
    """

    def start(self, f: Callable, z: PyTree) -> _NewtonState:
        del f, z
        return _NewtonState(lx.RESULTS.successful)

    def propose(self, f: Callable, at: Iterate, state: _NewtonState) -> Proposal:
        largest, rtol = (jnp.asarray(s, at.residual.dtype) for s in (self.forcing, self.rtol))
        forcing = jnp.minimum(largest, jnp.maximum(at.residual, 0.5 * rtol / at.residual))

        def newton_step(_: None) -> Proposal:
            z, linear_result, evaluations = self.newton(f, at.z, at, forcing)
            return Proposal(z, _NewtonState(linear_result), evaluations)

        def plain_step(_: None) -> Proposal:
            return Proposal(at.value, state, jnp.zeros((), jnp.int32))

        return jax.lax.cond(self.any_newton_step(at), newton_step, plain_step, None)
