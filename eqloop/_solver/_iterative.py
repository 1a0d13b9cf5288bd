"""What all solvers that converge share: tolerance, best iterate, report, and when they stop."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import optimistix as optx
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._iteration import Count
from .._norms import relative, two_norm
from .._solution import RESULTS
from ._setting import check_not_negative

Norm = Callable[[PyTree], Float[Array, ""]]


def whole(value: Any) -> Any:
    """A whole number that a compiled program takes as an argument."""
    return np.int32(value) if isinstance(value, int) else value


class Evaluation(eqx.Module):
    """One evaluation of the map, as a solver sees it.

    `steps` is the number of steps before it. `count` only goes up by one at each step, and is the
    same for all examples of a `vmap`, since they go in step: a solver can write to place `count`
    of a ring without a scatter. Where one example takes the place of another in a batch that goes
    on, it begins at `steps = 0` with any `count`.
    """

    z: PyTree
    value: PyTree
    residual: Float[Array, ""]
    steps: Int[Array, ""]
    count: Int[Array, ""]
    converged: Bool[Array, ""]


class Proposal(eqx.Module):
    """The next iterate, what to remember, and how many further evaluations of f (or products with
    its Jacobian) that took."""

    z: PyTree
    memory: PyTree
    evaluations: Count


class Progress(eqx.Module):
    """The state of a solve.

    `best` is the iterate that met the tolerance, until then the one with the lowest relative
    residual so far, and `residual` its relative residual.
    """

    memory: PyTree
    best: PyTree
    residual: Float[Array, ""]
    steps: Int[Array, ""]
    evaluations: Int[Array, ""]
    curve: Float[Array, " curve"]
    converged: Bool[Array, ""]
    done: Bool[Array, ""]
    count: Int[Array, ""]


class AbstractSolver(optx.AbstractFixedPointSolver):
    """A solver of `z = f(z, x)` that stops by itself; a new one is a file with two methods.

    It has converged where `|f(z) - z| <= atol + rtol |f(z)|`, and returns that iterate; when it
    fails, the one with the lowest relative residual. Under `vmap` the examples go in
    step until the last of them is done; an example that is done no longer changes, so that its
    answer does not depend on its batch mates.

    Also of use in `optimistix.fixed_point`, where `stats` holds `evaluations`, `residual` and
    `curve`.

    **Attributes:**

    - `rtol`, `atol`: the tolerance. In float32 an `rtol` below 1e-6 is hardly reached. Another
        value does not compile anew.
    - `norm`: of a state: `two_norm` or `largest_cell_norm`, or any function of a pytree.
    - `curve`: keep the relative residuals of so many first steps (a buffer of fixed size, NaN
        where there was no step).
    """

    rtol: eqx.AbstractVar[float]
    atol: eqx.AbstractVar[float]
    norm: eqx.AbstractVar[Norm]
    curve: eqx.AbstractVar[int]

    def __check_init__(self):
        check_not_negative(self, "rtol", "atol")

    followed: ClassVar[bool] = True
    """Whether `Backprop` can go back through its steps."""

    @abc.abstractmethod
    def start(self, f: Callable, z: PyTree) -> PyTree:
        """What is remembered before the first step: a pytree of arrays."""

    @abc.abstractmethod
    def propose(self, f: Callable, at: Evaluation, memory: PyTree) -> Proposal:
        """The next iterate after `at.value = f(at.z)`. An iterate that is not finite ends the
        solve."""

    def explain(self, memory: PyTree) -> RESULTS:
        """Why `max_steps` were not enough."""
        del memory
        return RESULTS.not_converged  # pyright: ignore[reportReturnType]

    def begin(self, f: Callable, z: PyTree) -> Progress:
        size = jax.eval_shape(self.norm, z)
        zero, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        return Progress(
            memory=self.start(f, z),
            best=z,
            residual=jnp.full((), jnp.inf, size.dtype),
            steps=zero,
            evaluations=zero,
            # By NumPy, for `jax_debug_nans` objects to an operation that makes one.
            curve=jnp.asarray(np.full((self.curve,), np.nan, size.dtype)),
            converged=no,
            done=no,
            count=zero,
        )

    def advance(self, f: Callable, z: PyTree, progress: Progress) -> tuple[PyTree, Progress]:
        """One step: evaluate f at z, note the residual, go to the proposed iterate."""
        value = f(z)
        fixed = jax.lax.stop_gradient((value, z))
        error, size, residual = relative(*fixed, self.norm)
        rtol, atol = (jnp.asarray(each, error.dtype) for each in (self.rtol, self.atol))
        converged = (error <= atol + rtol * size) & jnp.isfinite(residual)
        proposal = self.propose(
            f,
            Evaluation(
                z, value, residual, progress.steps, progress.count, progress.done | converged
            ),
            progress.memory,
        )
        live = jnp.logical_not(progress.done)
        # A residual that is not a number is no record. With an absolute tolerance the iterate that
        # meets it need not have the lowest relative residual.
        better = live & (converged | (residual < progress.residual))
        finite = jnp.isfinite(self.norm(jax.lax.stop_gradient(proposal.z)))
        stops = converged | jnp.logical_not(finite)
        # A proposal that is not taken costs nothing, or the count would depend on the batch mates:
        # where all have converged, solvers leave out what is dear.
        further = jnp.where(converged, 0, jnp.asarray(proposal.evaluations, jnp.int32))
        here = live & (jnp.arange(self.curve, dtype=jnp.int32) == progress.steps)
        return choose(live & jnp.logical_not(stops), proposal.z, z), Progress(
            memory=proposal.memory,
            best=choose(better, z, progress.best),
            residual=jnp.where(better, residual, progress.residual),
            steps=progress.steps + live.astype(jnp.int32),
            evaluations=progress.evaluations + jnp.where(live, 1 + further, 0),
            curve=jnp.where(here, residual, progress.curve),
            converged=progress.converged | (live & converged),
            done=progress.done | stops,
            count=progress.count + 1,
        )

    def result(self, progress: Progress) -> RESULTS:
        failed = RESULTS.where(progress.done, RESULTS.nonfinite, self.explain(progress.memory))  # pyright: ignore
        return RESULTS.where(progress.converged, RESULTS.successful, failed)  # pyright: ignore

    # --- the interface of Optimistix

    def init(self, fn, y, args, options, f_struct, aux_struct, tags) -> Progress:
        return self.begin(lambda z: fn(z, args)[0], y)

    def step(self, fn, y, args, options, state, tags) -> tuple[PyTree, Progress, Any]:
        y_next, state = self.advance(lambda z: fn(z, args)[0], y, state)
        return y_next, state, fn(y, args)[1]

    def terminate(self, fn, y, args, options, state, tags) -> tuple[Bool[Array, ""], optx.RESULTS]:
        # Optimistix itself looks for inf and nan.
        return state.done, optx.RESULTS.successful

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        told = {name: getattr(state, name) for name in ("evaluations", "residual", "curve")}
        return state.best, aux, told


def choose(condition: Bool[Array, ""], a: PyTree, b: PyTree) -> PyTree:
    """`a` where the condition holds, else `b`."""
    return jtu.tree_map(lambda x, y: jnp.where(condition, x, y), a, b)


def iterate(
    f: Callable, solver: AbstractSolver, z: PyTree, *, max_steps: Count
) -> tuple[PyTree, Progress]:
    """Advance until every example is done, or `max_steps` (which may be traced) are.

    Optimistix' own loop asks each example whether to go on; `vmap` then copies the whole state of
    the solve, history included, at each step. Here one answer serves all, and what is done
    freezes itself (see `AbstractSolver.advance`).
    """
    progress, static = eqx.partition(solver.begin(f, z), eqx.is_array)

    def going(carry):
        _, progress = carry
        return eqxi.unvmap_any(jnp.logical_not(progress.done)) & (progress.count < max_steps)

    def body(carry):
        z, progress = carry
        z, progress = solver.advance(f, z, eqx.combine(progress, static))
        return z, eqx.filter(progress, eqx.is_array)

    z, progress = jax.lax.while_loop(going, body, (z, progress))
    return z, eqx.combine(progress, static)


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether no leaf holds an inf or a nan: asked of the norm, one number."""
    return jnp.isfinite(two_norm(tree))
