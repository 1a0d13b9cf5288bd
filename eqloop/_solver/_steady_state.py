"""The steady state of a differential equation, by Diffrax."""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, PyTree

from .._iteration import Scalar, stop_gradient
from .._norms import two_norm
from ._displacement import DisplacementController
from ._iterative import AbstractSolver, Iterate, Norm, Proposal, choose
from ._traced import traced_float


class _FlowState(NamedTuple):
    now: Float[Array, ""]
    until: Float[Array, ""]
    made_jump: Bool[Array, ""]
    solver: PyTree
    controller: PyTree


class SteadyState(AbstractSolver):
    """Integrate `dz/dt = f(z, x) - z` to its steady state: a loop of continuous depth.

    The integration ends when the tolerance of `AbstractSolver` is met, tested at each step, that
    is `|dz/dt| <= atol + rtol |f(z)|`. Any Diffrax solver for ordinary differential equations (of
    the implicit ones, those for a single term) and any step size controller works. Euler's method
    with a constant step of 1 is plain iteration, step by step. The flow reaches fixed points whose
    Jacobian has its eigenvalues to the left of Re = 1, including those outside the unit circle (a
    rotation that spirals outwards under iteration); the number of steps grows with `|J - I|` over
    the slowest rate. When not to use it: if plain iteration converges, which is cheaper.

    **Arguments:**

    - `rtol`, `atol`, `norm`, `curve`, `min_steps`: see `AbstractSolver`.
    - `solver`: a Diffrax solver; by default Bosh3, of third order.
    - `controller`: a Diffrax step size controller. The default bounds the error by a share of each
        step, with steps up to 1, at which Bosh3 is stable for every f that contracts (see
        `DisplacementController`). The controllers of Diffrax bound the error by a share of the
        state: give them a tolerance below `rtol` over `|J - I|`, or the flow never comes to rest.
    - `dt0`: length of the first step, in units of the flow's time.

    The `steps` of the solve include rejected steps. Its `evaluations` are the stages of the
    Runge-Kutta method; for an implicit one, the iterations of its root finder are not counted.

    **Raises** `ValueError` for an argument out of range, for a solver of stochastic or split
    equations, and for an implicit solver if neither the controller nor the root finder has a
    tolerance.

    **Source:** continuous deep equilibrium models, Pal et al. 2022, arXiv 2201.12240.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> f = lambda z, x: jnp.cos(z) + x
    >>> solver = eqloop.SteadyState(rtol=1e-4)
    >>> eq = eqloop.equilibrium(f, jnp.zeros(()), jnp.zeros(()), solver=solver)
    >>> print(f"{eq.state:.3f}, {bool(eq.result == eqloop.RESULTS.successful)}")
    0.739, True

    ```
    """

    rtol: Scalar = traced_float(1e-3)
    atol: Scalar = traced_float(0.0)
    solver: diffrax.AbstractSolver = diffrax.Bosh3()
    controller: diffrax.AbstractStepSizeController = DisplacementController()
    dt0: Scalar = traced_float(1.0)
    norm: Norm = eqx.field(default=two_norm, static=True)
    curve: int = eqx.field(default=0, static=True)

    def __check_init__(self):
        name, structure = type(self.solver).__name__, self.solver.term_structure
        if not (isinstance(structure, type) and issubclass(diffrax.ODETerm, structure)):
            raise ValueError(
                f"SteadyState: solver = {name} is not for an ordinary differential equation of one "
                "term: use diffrax.Bosh3(), Heun() or Kvaerno3(), say"
            )
        if _unset(self.solver) and not hasattr(self.controller, "rtol"):
            raise ValueError(
                f"SteadyState: the root finder of solver = {name} has no tolerance: give "
                "controller = diffrax.PIDController(rtol=1e-4, atol=1e-7), say, or the root finder "
                "its own"
            )

    def _integrator(self) -> diffrax.AbstractSolver:
        """The solver, with the tolerances that `diffeqsolve` would pass to its root finder."""
        names = _unset(self.solver)
        if not names:
            return self.solver
        return eqx.tree_at(
            lambda solver: [getattr(_innermost(solver).root_finder, name) for name in names],
            self.solver,
            [getattr(self.controller, name) for name in names],
        )

    def _terms(self, f) -> diffrax.ODETerm:
        def field(t, z, args):
            del t, args
            return jtu.tree_map(lambda a, b: a - b, f(z), z)

        return diffrax.ODETerm(field)

    def _clock(self, z: PyTree) -> Any:
        return jnp.result_type(*jtu.tree_leaves(z))

    def start(self, f: Callable, z: PyTree) -> _FlowState:
        terms, time = self._terms(f), self._clock(z)
        zero, end = jnp.zeros((), time), jnp.full((), jnp.inf, time)
        controller, solver = self.controller.wrap(1), self._integrator()
        until, controller_state = controller.init(
            terms,
            zero,
            end,
            z,
            jnp.asarray(self.dt0, time),
            None,
            solver.func,
            self._order(terms),
        )
        until = jnp.asarray(until, time)
        return _FlowState(
            now=zero,
            until=until,
            made_jump=jnp.zeros((), bool),
            solver=solver.init(terms, zero, until, z, None),
            controller=controller_state,
        )

    def _order(self, terms: diffrax.ODETerm) -> Any:
        return self.solver.error_order(terms)

    def propose(self, f: Callable, at: Iterate, state: _FlowState) -> Proposal:
        terms = self._terms(f)
        z, error, _, solver_state, result = self._integrator().step(
            terms, state.now, state.until, at.z, None, state.solver, state.made_jump
        )
        # `Backprop` does not differentiate the step size: near the steady state it depends on an
        # error that vanishes, and its derivative grows without bound.
        z_before, z_after, z_error = stop_gradient((at.z, z, _or_infinite(error, result)))
        accepted, now, until, made_jump, controller_state, _ = self.controller.wrap(
            1
        ).adapt_step_size(
            state.now,
            state.until,
            z_before,
            z_after,
            None,
            z_error,
            self._order(terms),
            state.controller,
        )
        accepted = jnp.asarray(accepted, bool)
        next_state = _FlowState(
            now=jnp.asarray(now, state.now.dtype),
            until=jnp.asarray(until, state.now.dtype),
            made_jump=jnp.asarray(made_jump, bool),
            solver=choose(accepted, solver_state, state.solver),
            controller=controller_state,
        )
        # A method of one stage evaluates f(z) alone, which is `at.value`. A method of several
        # stages evaluates all of them in its own loop, f(z) again included.
        one_stage = (diffrax.Euler, diffrax.LeapfrogMidpoint)
        evaluations = 0 if type(self.solver) in one_stage else _evaluations(self.solver)
        return Proposal(choose(accepted, z, at.z), next_state, evaluations)


def _innermost(solver: Any) -> Any:
    return _innermost(solver.solver) if hasattr(solver, "solver") else solver


def _unset(solver: diffrax.AbstractSolver) -> list[str]:
    """The names of the root finder's tolerances that are not set."""
    root_finder = getattr(_innermost(solver), "root_finder", None)
    values = {name: getattr(root_finder, name, None) for name in ("rtol", "atol", "norm")}
    # Diffrax' placeholder has no public name; it is the only value that is neither a number nor a
    # function.
    return [n for n, v in values.items() if not (v is None or callable(v) or eqx.is_array_like(v))]


def _or_infinite(error: PyTree | None, result: diffrax.RESULTS) -> PyTree | None:
    """The error estimate, infinite if it is not finite or if the root finder failed, so that the
    controller rejects the step. (`diffeqsolve` rejects only the former.)"""
    succeeded = diffrax.is_okay(result)
    return jtu.tree_map(lambda e: jnp.where(jnp.isfinite(e) & succeeded, e, jnp.inf), error)


def _evaluations(solver: Any) -> int:
    """The number of evaluations of the vector field in one step."""
    if isinstance(solver, diffrax.HalfSolver):
        return 3 * _evaluations(solver.solver)
    tableau = getattr(solver, "tableau", None)
    return 1 if tableau is None else tableau.num_stages - bool(tableau.fsal)
