"""The steady state of a differential equation, by Diffrax."""

from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, PyTree

from .._iteration import stop_gradient
from .._norms import two_norm
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
    equations and any step size controller will do. Euler's method with a constant step of 1 is
    plain iteration, step by step. The flow reaches fixed points whose Jacobian has its
    eigenvalues to the left of Re = 1, also beyond the unit circle (a rotation that spirals
    outwards under iteration). When not to use it: where plain iteration converges, it is cheaper.

    **Arguments:**

    - `solver`: by default Heun's method.
    - `controller`: by default a PID controller with `rtol = 1e-3`, `atol = 1e-6` and steps up to 1,
        at which Heun's method is stable for every f that contracts. Beyond that the controller's
        noise must stay below `rtol`, or the flow never comes to rest.
    - `dt0`: the first step.

    and those of `AbstractSolver`. `steps` counts rejected steps too; `evaluations`, the stages of
    a Runge-Kutta method.
    """

    rtol: float = setting(1e-3)
    atol: float = setting(0.0)
    solver: diffrax.AbstractSolver = diffrax.Heun()
    controller: diffrax.AbstractStepSizeController = diffrax.PIDController(
        rtol=1e-3, atol=1e-6, dtmax=1.0
    )
    dt0: float = setting(1.0)
    norm: Norm = eqx.field(default=two_norm, static=True)
    curve: int = eqx.field(default=0, static=True)

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
        controller = self.controller.wrap(1)
        until, controller_state = controller.init(
            terms,
            zero,
            end,
            z,
            jnp.asarray(self.dt0, time),
            None,
            self.solver.func,
            self._order(terms),
        )
        until = jnp.asarray(until, time)
        return _Memory(
            now=zero,
            until=until,
            made_jump=jnp.zeros((), bool),
            solver=self.solver.init(terms, zero, until, z, None),
            controller=controller_state,
        )

    def _order(self, terms: diffrax.ODETerm) -> Any:
        return self.solver.error_order(terms)

    def propose(self, f, at: Evaluation, memory: _Memory) -> Proposal:
        terms = self._terms(f)
        z, error, _, solver_state, _ = self.solver.step(
            terms, memory.now, memory.until, at.z, None, memory.solver, memory.made_jump
        )
        # The size of a step is no part of what `Backprop` follows: near the steady state it hangs
        # on an error that vanishes, and its derivative grows without bound.
        fixed = stop_gradient((at.z, z, error))
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
        stages = getattr(getattr(self.solver, "tableau", None), "num_stages", 1)
        # The first stage is f(z), which is known already.
        return Proposal(choose(keep, z, at.z), kept, max(stages - 1, 0))
