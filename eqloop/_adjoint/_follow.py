"""Differentiable steps of a solver that stops at a tolerance."""

import dataclasses
from typing import Any

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Int, PyTree

from .._iteration import stop_gradient
from .._remat import Keep, rematerialised
from .._solver import AbstractSolver, Solver, SolveState, choose


def followed(gradient: Any, solver: Solver) -> AbstractSolver:
    """The solver. **Raises** `ValueError` if its steps cannot be differentiated."""
    if not (isinstance(solver, AbstractSolver) and solver.followed):
        raise ValueError(
            f"{type(gradient).__name__} cannot follow the steps of {type(solver).__name__}: use "
            "Implicit, Neumann, Phantom, Truncated or OneStep"
        )
    return solver


def follow(
    f: Any,
    x: PyTree,
    solver: AbstractSolver,
    z: PyTree,
    solve: SolveState,
    slots: int,
    keep: Keep,
    until: Int[Array, ""] | None = None,
) -> SolveState:
    """Make at most `slots` further steps of a solve, from the iterate z, as `iterate` does.

    The `best` iterate of the state that is returned has derivatives of any order, in both modes.
    Slots in which every example is done are skipped; an example is also done after its step number
    `until`.
    """

    def evaluate(z):
        return f(z, x)

    solve, static = eqx.partition(solve, eqx.is_array)

    def step(carry):
        z, solve = carry
        z, solve = solver.advance(evaluate, z, eqx.combine(solve, static))
        if until is not None:
            solve = dataclasses.replace(solve, done=solve.done | (solve.steps >= until))
        return z, eqx.filter(solve, eqx.is_array)

    rematerialised_step = rematerialised(step, keep)

    def slot(carry, _):
        live = eqxi.unvmap_any(jnp.logical_not(carry[1].done))
        return jax.lax.cond(live, rematerialised_step, lambda carry: carry, carry), None

    (_, solve), _ = jax.lax.scan(slot, (z, solve), length=slots)
    return eqx.combine(solve, static)


class Snapshot(eqx.Module):
    """An iterate, the arrays of the solver's state there, and the counters of the solve."""

    z: PyTree
    state: PyTree
    steps: Int[Array, ""]
    count: Int[Array, ""]

    @classmethod
    def of(cls, z: PyTree, solve: SolveState) -> "Snapshot":
        return cls(z, eqx.filter(solve.state, eqx.is_array), solve.steps, solve.count)

    def resume(self, solve: SolveState) -> SolveState:
        """`solve`, which has not begun, at this iterate."""
        state = eqx.combine(self.state, solve.state)
        steps, count = self.steps, self.count
        return dataclasses.replace(solve, state=state, best=self.z, steps=steps, count=count)


class Tail(eqx.Module):
    """`origin` is the snapshot `last` steps before the best iterate, or the start if that is later.
    `ring` has the snapshots of the last `last` steps."""

    origin: Snapshot
    ring: Snapshot

    @classmethod
    def begin(cls, z: PyTree, solve: SolveState, last: int) -> "Tail":
        start = stop_gradient(Snapshot.of(z, solve))
        ring = jtu.tree_map(lambda leaf: jnp.broadcast_to(leaf, (last, *leaf.shape)), start)
        return cls(start, ring)

    def watch(self, z: PyTree, before: SolveState, after: SolveState) -> "Tail":
        """To be called at each step; see `iterate_watched`."""
        here, ring = Snapshot.of(z, before), self.ring
        oldest, last = here, len(ring.steps)
        if last:
            slot = before.count % last
            oldest = jtu.tree_map(lambda leaf: leaf[slot], ring)
            ring = jtu.tree_map(lambda leaf, new: leaf.at[slot].set(new), ring, here)
        # False for an example that is done: its best iterate lies before its last step.
        is_best = after.best_step == before.steps
        return Tail(choose(is_best, oldest, self.origin), ring)
