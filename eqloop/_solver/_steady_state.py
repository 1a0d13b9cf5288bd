"""The steady state of a differential equation, by Diffrax."""

from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, PyTree

from .._iteration import stop_gradient
from .._norms import two_norm
from ._displacement import DisplacementController
from ._iterative import AbstractSolver, Evaluation, Norm, Proposal, choose
from ._setting import setting


class _Memory(NamedTuple):
    now: Float[Array, ""]
    until: Float[Array, ""]
    made_jump: Bool[Array, ""]
    solver: PyTree
    controller: PyTree


class SteadyState(AbstractSolver):
    """Integrate `dz/dt = f(z, x) - z` until it stands still: a loop of continuous depth.

    The event that ends the integration is the tolerance of `AbstractSolver`, asked at each step,
    that is `|dz/dt| <= atol + rtol |f(z)|`. Any solver of Diffrax for ordinary differential
    equations and any step size controller will do; of the implicit ones those for a single term.
    Euler's method with a constant step of 1 is plain iteration, step by step. The flow reaches
    fixed points whose Jacobian has its eigenvalues to the left of Re = 1, also beyond the unit
    circle (a rotation that spirals outwards under iteration), in a number of steps that grows with
    `|J - I|` over the slowest rate. When not to use it: where plain iteration converges, it is
    cheaper.

    **Arguments:**

    - `solver`: by default Bosh3, of third order.
    - `controller`: by default one whose errors are a share of each step, with steps up to 1, at
        which Bosh3 is stable for every f that contracts (see `DisplacementController`). Those of
        Diffrax, whose errors are a share of the state, must be told a tolerance below `rtol` over
        `|J - I|`, or the flow never comes to rest.
    - `dt0`: the first step.

    and those of `AbstractSolver`. `steps` counts rejected steps too; `evaluations`, the stages of
    a Runge-Kutta method (an implicit one: without the iterations of its root finder).

    **Raises** `ValueError` for an argument out of range, for a solver of stochastic or split
    equations, and for an implicit solver of which neither the controller nor the root finder has a
    tolerance.
    """

    rtol: float = setting(1e-3)
    atol: float = setting(0.0)
    solver: diffrax.AbstractSolver = diffrax.Bosh3()
    controller: diffrax.AbstractStepSizeController = DisplacementController()
    dt0: float = setting(1.0)
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
        """The solver, its root finder with the tolerances that `diffeqsolve` would hand it."""
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

    def start(self, f, z) -> _Memory:
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
        return _Memory(
            now=zero,
            until=until,
            made_jump=jnp.zeros((), bool),
            solver=solver.init(terms, zero, until, z, None),
            controller=controller_state,
        )

    def _order(self, terms: diffrax.ODETerm) -> Any:
        return self.solver.error_order(terms)

    def propose(self, f, at: Evaluation, memory: _Memory) -> Proposal:
        terms = self._terms(f)
        z, error, _, solver_state, ended = self._integrator().step(
            terms, memory.now, memory.until, at.z, None, memory.solver, memory.made_jump
        )
        # The size of a step is no part of what `Backprop` follows: near the steady state it hangs
        # on an error that vanishes, and its derivative grows without bound.
        fixed = stop_gradient((at.z, z, _or_infinite(error, ended)))
        keep, now, until, made_jump, controller_state, _ = self.controller.wrap(1).adapt_step_size(
            memory.now,
            memory.until,
            fixed[0],
            fixed[1],
            None,
            fixed[2],
            self._order(terms),
            memory.controller,
        )
        keep = jnp.asarray(keep, bool)
        kept = _Memory(
            now=jnp.asarray(now, memory.now.dtype),
            until=jnp.asarray(until, memory.now.dtype),
            made_jump=jnp.asarray(made_jump, bool),
            solver=choose(keep, solver_state, memory.solver),
            controller=controller_state,
        )
        # A single stage is f(z), which is known already; more than one are made in a loop of their
        # own, where nothing is known.
        single = (diffrax.Euler, diffrax.LeapfrogMidpoint)
        evaluations = 0 if type(self.solver) in single else _evaluations(self.solver)
        return Proposal(choose(keep, z, at.z), kept, evaluations)


def _innermost(solver: Any) -> Any:
    return _innermost(solver.solver) if hasattr(solver, "solver") else solver


def _unset(solver: diffrax.AbstractSolver) -> list[str]:
    """The tolerances that a root finder waits for."""
    root_finder = getattr(_innermost(solver), "root_finder", None)
    values = {name: getattr(root_finder, name, None) for name in ("rtol", "atol", "norm")}
    # Diffrax' placeholder has no public name, but neither is it a number, nor a function.
    return [n for n, v in values.items() if not (v is None or callable(v) or eqx.is_array_like(v))]


def _or_infinite(error: PyTree | None, ended: diffrax.RESULTS) -> PyTree | None:
    """As `diffeqsolve` has it, a step without a value is rejected; here also one whose root was not
    found."""
    good = diffrax.is_okay(ended)
    return jtu.tree_map(lambda e: jnp.where(jnp.isfinite(e) & good, e, jnp.inf), error)


def _evaluations(solver: Any) -> int:
    """How often a step evaluates the field."""
    if isinstance(solver, diffrax.HalfSolver):
        return 3 * _evaluations(solver.solver)
    tableau = getattr(solver, "tableau", None)
    return 1 if tableau is None else tableau.num_stages - bool(tableau.fsal)
