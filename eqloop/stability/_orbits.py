"""The orbit of a loop from its own start, followed to its end and classified."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._evenly import evenly
from .._iteration import Map
from .._norms import largest_cell_norm, relative, two_norm
from .._solver import FixedPoint, iterate
from .._stability_report import Outcome
from ._closed import closed
from ._trees import head, subtract, take

Progress = Callable[[int, int | None], None]

CHUNK = 32
MAX_PERIOD = 16
"""The longest period that is recognised as a cycle."""
MIN_RESIDUAL_ULPS = 8
"""In units of machine epsilon: the smallest relative residual that iteration can be expected to
reach."""
ROUNDING_ULPS = 100
"""In units of machine epsilon: the relative residual below which steps may be rounding errors."""
SAME = 1e-2
"""Relative distance below which two fixed points count as one."""
NEAR = SAME / 2
"""Relative distance to the fixed point below which an orbit has arrived: the ends of two such
orbits with the same fixed point are closer than `SAME`."""
POWER_LAW_FACTOR = 3
"""If steps decay like a power of t, the remaining distance exceeds the estimate from their rate: by
a factor of 2 near a double fixed point (`z - z^2`), of 3 near a triple one (`z - z^3`)."""
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclasses.dataclass(frozen=True)
class Orbits:
    """The orbits of a batch: their residuals, ends and outcomes. Every axis starts from it.

    An array of residuals, steps or sizes has shape `(examples, iterations)`, any other array and
    list has one entry for each example.

    **Attributes:**

    - `f`: the map.
    - `start`: the function from the input of one example to its start, or None.
    - `z0s`, `xs`: the starts and the inputs, stacked along a first axis.
    - `iterations`: iterations per orbit.
    - `rtol`: relative residual below which an orbit has settled.
    - `state`: the last iterates, stacked. Those of loops that converged were iterated further, to
        the smallest residual that the precision allows.
    - `residuals`: `|f(z) - z| / |f(z)|` of each iteration, in the 2-norm.
    - `cells`: the same by the largest cell (see `largest_cell_norm`).
    - `steps`: `|f(z) - z|` of each iteration.
    - `sizes`: `|f(z)|` of each iteration.
    - `rate`: factor per iteration by which the steps decay at the end of the descent; NaN if the
        descent has too few iterations to fit it.
    - `remaining`: estimate of `|state - z*| / |z*|`; see `follow_orbits`. NaN if the residual is
        above `rtol`.
    - `outcomes`: see `classify`; "unresolved" if the residual is at most `rtol` but `remaining`
        exceeds 0.005.
    - `periods`: period of each cycle, 0 for other outcomes.
    - `observed`: what `observe` returned after each iteration, arrays of shape `(examples,
        iterations, ...)`; None without `observe`.
    """

    f: Map
    start: Callable[[Any], Any] | None
    z0s: PyTree
    xs: PyTree
    iterations: int
    rtol: float
    state: PyTree
    residuals: Float[np.ndarray, "examples iterations"]
    cells: Float[np.ndarray, "examples iterations"]
    steps: Float[np.ndarray, "examples iterations"]
    sizes: Float[np.ndarray, "examples iterations"]
    rate: Float[np.ndarray, " examples"]
    remaining: Float[np.ndarray, " examples"]
    outcomes: list[Outcome]
    periods: Int[np.ndarray, " examples"]
    observed: PyTree = None

    def __len__(self) -> int:
        return len(self.outcomes)

    @property
    def converged(self) -> Bool[np.ndarray, " examples"]:
        """A mask of the examples that reached a fixed point."""
        return np.array([outcome == "converged" for outcome in self.outcomes])

    @property
    def eps(self) -> float:
        """The machine epsilon of the states."""
        return precision(self.z0s)

    @property
    def min_residual(self) -> float:
        """The smallest relative residual that iteration can be expected to reach."""
        return MIN_RESIDUAL_ULPS * self.eps

    def evenly(self, most: int) -> Int[np.ndarray, " some"]:
        """Indices of at most `most` examples, evenly spread."""
        return evenly(len(self), most)

    def take(self, index: np.ndarray) -> "Orbits":
        """Return the examples at the indices `index`, an integer array."""
        chosen = {
            field.name: take(getattr(self, field.name), index)
            for field in dataclasses.fields(self)
            if field.name not in {"f", "start", "iterations", "rtol", "outcomes"}
        }
        return dataclasses.replace(self, outcomes=[self.outcomes[i] for i in index], **chosen)


def follow_orbits(
    f: Map,
    z0s: PyTree,
    xs: PyTree,
    *,
    iterations: int = 256,
    rtol: float = 1e-4,
    observe: Callable[[Any, Any], Any] | None = None,
    labels: PyTree = None,
    progress: Progress | None = None,
) -> Orbits:
    """Iterate `z <- f(z, x)` from each start and classify where it ends.

    Memory does not grow with the iterations, except for four numbers per iteration. The residual is
    relative, so a loop that shrinks to exactly zero is "slow" until its state underflows.

    A small residual does not bound the distance to the fixed point, which is about
    `|f(z) - z| / |1 - rate|`: a thousand times the residual for a rate of 0.999. The rate is that
    at which the steps decay; if they decay like a power of t, the estimate is multiplied by 3. If
    it exceeds half of `SAME`, the orbit is "unresolved": it may converge or rotate forever, and
    measurements at its last iterate do not describe a fixed point.

    **Arguments:**

    - `f`: the map, of a state and an input of one example, both pytrees of arrays.
    - `z0s`: the starts, stacked along a first axis; or a function from the input of one example to
        its start, so that the influence of the start can be measured.
    - `xs`: the inputs, stacked along a first axis.
    - `iterations`: iterations per orbit, at least 16.
    - `rtol`: relative residual below which a loop has settled, in (0, 1).
    - `observe`: a function of the state and the label of one example, called after each iteration;
        it returns a pytree of arrays, for `Orbits.observed`.
    - `labels`: the labels, stacked along a first axis.
    - `progress`: called with the iterations done and their total.

    **Returns:**

    The `Orbits`.

    **Raises** `ValueError` for arguments out of range, and if the numbers of starts and inputs
    differ.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> f, start = lambda z, x: 0.5 * jnp.tanh(z) + x, lambda x: 0 * x
    >>> xs = jr.normal(jr.key(0), (4, 2))
    >>> orbits = eqloop.stability.follow_orbits(f, start, xs, iterations=32)
    >>> print(orbits.outcomes, orbits.residuals.shape)
    ['converged', 'converged', 'converged', 'converged'] (4, 32)

    ```
    """
    if iterations < MAX_PERIOD:
        raise ValueError(f"iterations = {iterations} must be at least {MAX_PERIOD}")
    if not 0 < rtol < 1:
        raise ValueError(f"rtol = {rtol} must be between 0 and 1")
    f, start, z0s = closed_problem(f, z0s, xs)
    if observe is not None:
        observe = closed(observe, *head((z0s, labels)), derivative=False)
    z, chunks, views = z0s, [], []
    for done in range(0, iterations, CHUNK):
        if progress is not None:
            progress(done, iterations)
        z, chunk, view = _iterate_chunk(f, observe, z, xs, labels, min(CHUNK, iterations - done))
        chunks.append(jax.device_get(chunk))
        views.append(jax.device_get(view))
    if progress is not None:
        progress(iterations, iterations)
    curves = [np.concatenate(c, axis=1).astype(np.float64) for c in zip(*chunks, strict=True)]
    residuals, _, steps, sizes = curves
    returns = np.asarray(_returns(f, z, xs), np.float64)
    outcomes, periods = classify(residuals, steps, sizes, returns, rtol)
    converged = np.array([outcome == "converged" for outcome in outcomes])
    state, polished = _polish(f, z, xs, iterations, converged)
    # Rounding errors cancel over several steps; an orbit that still moves travels about as far as
    # the sum of its step lengths.
    moving = returns[:, MAX_PERIOD - 1] > MAX_PERIOD / 2
    rate, remaining = _remaining_distance(
        residuals, steps, polished, moving, converged, precision(z0s)
    )
    for example in np.flatnonzero(remaining > NEAR):
        outcomes[example] = "unresolved"
    return Orbits(
        f, start, z0s, xs, iterations, rtol, state, *curves,
        rate=rate,
        remaining=remaining,
        outcomes=outcomes,
        periods=periods,
        observed=jtu.tree_map(lambda *parts: np.concatenate(parts, axis=1), *views),
    )  # fmt: skip


def closed_problem(
    f: Map, z0s: PyTree, xs: PyTree
) -> tuple[Map, Callable[[Any], Any] | None, PyTree]:
    """`closed` f and start (None if `z0s` are arrays), and the starts as arrays, of the arguments
    of `follow_orbits`."""
    start = z0s if callable(z0s) else None
    counts = {len(leaf) for leaf in jtu.tree_leaves(xs if start is not None else (z0s, xs))}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"z0s and xs must be stacks of as many examples, not {sorted(counts)}")
    if start is not None:
        start = closed(start, head(xs))
        z0s = starts(start, xs)
    return closed(f, *head((z0s, xs))), start, z0s


def _remaining_distance(
    residuals: Float[np.ndarray, "examples iterations"],
    steps: Float[np.ndarray, "examples iterations"],
    polished: Float[np.ndarray, " examples"],
    moving: Bool[np.ndarray, " examples"],
    converged: Bool[np.ndarray, " examples"],
    eps: float,
) -> tuple[Float[np.ndarray, " examples"], Float[np.ndarray, " examples"]]:
    """`rate` and `remaining` of `Orbits`, of the examples that converged (else NaN).

    The rate is fitted to the second half of the descent, which ends when rounding dominates: at 100
    times machine epsilon, or when the residual stays constant. An orbit that is still `moving` has
    not reached that point, however small its steps.
    """
    rate, remaining = np.full((2, len(residuals)), math.nan)
    for example in np.flatnonzero(converged):
        residual = residuals[example]
        plateau = 3 * np.median(residual[-len(residual) // 4 :])
        at_floor = residual <= (-1 if moving[example] else max(ROUNDING_ULPS * eps, plateau))
        end = int(at_floor.argmax()) if at_floor.any() else len(residual)
        logs = np.log(np.maximum(steps[example, end // 2 : end], 1e-300))
        remaining[example] = polished[example]
        if len(logs) < 4:
            continue
        slope = np.polyfit(np.arange(len(logs)), logs, 1)[0]
        rate[example] = math.exp(slope)
        # The absolute value covers growing steps: rounding errors grow near a repelling fixed
        # point.
        gap = max(abs(math.expm1(slope)), 1e-300)
        if _is_geometric(logs) or polished[example] <= MIN_RESIDUAL_ULPS * eps:
            remaining[example] = polished[example] / gap
        else:
            remaining[example] = POWER_LAW_FACTOR * residual[-1] / gap
    return rate, remaining


def classify(
    residuals: Float[np.ndarray, "examples iterations"],
    steps: Float[np.ndarray, "examples iterations"],
    sizes: Float[np.ndarray, "examples iterations"],
    returns: Float[np.ndarray, "examples periods"],
    rtol: float,
) -> tuple[list[Outcome], Int[np.ndarray, " examples"]]:
    """Classify how each orbit ended. The first outcome that applies is:

    - diverged: not finite, or the norm in the last quarter exceeds 1.25 times its maximum over the
      first half while the step sizes do not decay geometrically (a linear drift has a *relative*
      residual of 1/t, which alone would look like convergence);
    - converged: the last relative residual is at most `rtol`;
    - slow: the steps decay over each quarter of the second half, by 2 % in total and by more than
      chance (the steps of a chaotic orbit decay now and then);
    - cycle: after p iterations, for the least such p, the orbit returns to within 1 % of a step
      length, three times in a row (a chaotic orbit nearly returns now and then);
    - wandering: bounded and none of these: quasi-periodic, chaotic, or a longer cycle.

    **Arguments:**

    - `residuals`, `steps`, `sizes`, `rtol`: see `Orbits`.
    - `returns`: the largest `|z_{t+p} - z_t|` over three t after the last iteration, over the mean
        step there, for p = 1, 2, ....

    **Returns:**

    The outcomes, and the period of each cycle (0 for other outcomes).

    ```python
    >>> import eqloop, numpy as np
    >>> steps = np.stack([0.5 ** np.arange(32), np.ones(32)])
    >>> returns = np.ones((2, 16))
    >>> returns[1, 1] = 0                   # the second orbit returns after 2 iterations
    >>> eqloop.stability.classify(steps, steps, np.ones((2, 32)), returns, rtol=1e-4)
    (['converged', 'cycle'], array([0, 2]))

    ```
    """
    outcomes: list[Outcome] = []
    periods = np.zeros(len(residuals), np.int64)
    half = residuals.shape[1] // 2
    for example, (residual, step, size, back) in enumerate(
        zip(residuals, steps, sizes, returns, strict=True)
    ):
        if not np.all(np.isfinite(size)):
            outcomes.append("diverged")
            continue
        logs = np.log(np.maximum(step[half:], 1e-300))
        decrease = _decrease_by_quarter(logs)
        slow = np.all(decrease > 0) and decrease.sum() > 0.02 and _decreases(logs)
        geometric = slow and _is_geometric(logs)
        period = next((p for p, distance in enumerate(back, 1) if distance <= 0.01), 0)
        grown = size[-len(size) // 4 :].max() > 1.25 * size[:half].max()
        if grown and decrease.sum() < 0.5 and not geometric:
            outcomes.append("diverged")
        elif residual[-1] <= rtol:
            outcomes.append("converged")
        elif slow:
            outcomes.append("slow")
        elif period:
            outcomes.append("cycle")
            periods[example] = period
        else:
            outcomes.append("wandering")
    return outcomes, periods


def _decrease_by_quarter(logs: Float[np.ndarray, " iterations"]) -> Float[np.ndarray, "3"]:
    """The decrease of the mean from each quarter to the next."""
    return -np.diff([quarter.mean() for quarter in np.array_split(logs, 4)])


def _is_geometric(logs: Float[np.ndarray, " iterations"]) -> bool:
    """Whether the logarithms decrease evenly; those of a power of t decrease ever more slowly."""
    decrease = _decrease_by_quarter(logs)
    return bool(decrease.min() > 0.85 * decrease.max())


def _decreases(logs: Float[np.ndarray, " iterations"]) -> bool:
    """Whether the slope of a linear fit is negative by more than four standard errors."""
    t = np.arange(len(logs)) - (len(logs) - 1) / 2
    slope = t @ logs / (t @ t)
    scatter = logs - logs.mean() - slope * t
    error = math.sqrt(scatter @ scatter / (len(logs) - 2) / (t @ t))
    return bool(-slope > 4 * error)


def precision(states: PyTree[Array]) -> float:
    """The machine epsilon of the coarsest leaf."""
    return max(float(jnp.finfo(leaf.dtype).eps) for leaf in jtu.tree_leaves(states))


def iterate_to_tolerance(
    f: Map,
    zs: PyTree,
    xs: PyTree,
    *,
    rtol: float,
    max_steps: int,
    only: Bool[np.ndarray, " examples"] | None = None,
) -> tuple[PyTree, Bool[np.ndarray, " examples"]]:
    """Iterate each example until its relative residual is at most `rtol`.

    **Arguments:**

    - `f`: the map, of a state and an input of one example.
    - `zs`, `xs`: the starts and the inputs, stacked along a first axis.
    - `rtol`: relative residual at which an example stops.
    - `max_steps`: maximum number of iterations.
    - `only`: mask of the examples to iterate; by default all. The others stay at their start.

    **Returns:**

    The iterates of lowest residual, and a mask of the examples that were iterated and reached
    `rtol`.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> f, xs = lambda z, x: 0.5 * jnp.tanh(z) + x, jr.normal(jr.key(0), (4, 2))
    >>> z, reached = eqloop.stability.iterate_to_tolerance(f, 0 * xs, xs, rtol=1e-6, max_steps=32)
    >>> print(reached.mean(), jnp.abs(f(z, xs) - z).max() < 1e-5)
    1.0 True

    ```
    """
    active = np.ones(len(jtu.tree_leaves(zs)[0]), bool) if only is None else only
    # An infinite tolerance stops the others at once, so that the batch does not wait for them.
    rtols = jnp.where(active, rtol, jnp.inf)
    f = closed(f, *head((zs, xs)))
    state, _, converged = _iterate_to_tolerance(f, zs, xs, rtols, jnp.asarray(max_steps))
    return state, np.asarray(converged) & active


def converge_from(
    orbits: Orbits, zs: PyTree, xs: PyTree, rate: Float[np.ndarray, " examples"]
) -> tuple[PyTree, Bool[np.ndarray, " examples"]]:
    """Run the loop from other starts, by the criteria of `follow_orbits`.

    **Arguments:**

    - `orbits`: the orbits from the own starts.
    - `zs`, `xs`: the other starts and their inputs, stacked along a first axis.
    - `rate`: the rate from the own starts; NaN if unknown.

    **Returns:**

    The states, and a mask of the examples that reached a fixed point within the iterations.
    """
    state, converged = iterate_to_tolerance(
        orbits.f, zs, xs, rtol=orbits.rtol, max_steps=orbits.iterations
    )
    state, residual = _polish(orbits.f, state, xs, orbits.iterations, converged)
    remaining = residual / np.where(rate < 1, 1 - rate, 1)
    return state, converged & (remaining <= NEAR)


def settle_steps(orbits: Orbits) -> Float[np.ndarray, " examples"]:
    """The first iteration, counted from 1, whose residual is at most the tolerance.

    **Arguments:**

    - `orbits`: from `follow_orbits`.

    **Returns:**

    An array of shape `(examples,)`; NaN if the orbit did not end at a fixed point.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> f, z0s = lambda z, x: x * z + 1, jnp.zeros((2, 1))
    >>> xs = jnp.array([[0.5], [0.25]])
    >>> orbits = eqloop.stability.follow_orbits(f, z0s, xs, iterations=32)
    >>> eqloop.stability.settle_steps(orbits)       # the residual is x^(t - 1) or less
    array([14.,  8.])

    ```
    """
    below = orbits.residuals <= orbits.rtol
    first = np.where(below.any(1), below.argmax(1) + 1.0, math.nan)
    return np.where(orbits.converged, first, math.nan)


def distance(a: PyTree, b: PyTree) -> Float[np.ndarray, " examples"]:
    """The relative distance `|a - b| / |b|` of each example, `|a|` if b is zero, in the 2-norm.

    **Arguments:**

    - `a`, `b`: states, stacked along a first axis.

    **Returns:**

    An array of shape `(examples,)`.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> eqloop.stability.distance(jnp.array([[3.0], [3.0]]), jnp.array([[2.0], [0.0]]))
    array([0.5, 3. ])

    ```
    """
    return np.asarray(_distance(a, b), np.float64)


def _polish(
    f: Map, zs: PyTree, xs: PyTree, max_steps: int, only: Bool[np.ndarray, " examples"]
) -> tuple[PyTree, Float[np.ndarray, " examples"]]:
    """Iterate to the smallest residual that the precision allows, so that later measurements
    describe the fixed point: a small residual does not bound the distance to the fixed point, which
    is about residual / (1 - rate).

    **Returns:**

    The states, and the relative residuals of the examples in `only`.
    """
    rtols = jnp.where(only, MIN_RESIDUAL_ULPS * precision(zs), jnp.inf)
    state, residual, _ = _iterate_to_tolerance(f, zs, xs, rtols, jnp.asarray(max_steps))
    return state, np.asarray(residual, np.float64)


@eqx.filter_jit
def starts(start: Callable, xs: PyTree) -> PyTree:
    """The start of each input."""
    return jax.vmap(start)(xs)


@eqx.filter_jit
def _iterate_chunk(
    f: Map, observe: Callable | None, zs: PyTree, xs: PyTree, labels: PyTree, steps: int
) -> tuple[PyTree, tuple[Array, ...], PyTree]:
    def one(f, observe, z, x, label):
        def body(z, _):
            value = f(z, x)
            step, size, residual = relative(value, z)
            cell = relative(value, z, largest_cell_norm)[2]
            view = None if observe is None else observe(value, label)
            return value, ((residual, cell, step, size), view)

        z, (curves, views) = jax.lax.scan(body, z, length=steps)
        return z, curves, views

    return eqx.filter_vmap(one, in_axes=(None, None, 0, 0, 0))(f, observe, zs, xs, labels)


@eqx.filter_jit
def _returns(f: Map, zs: PyTree, xs: PyTree) -> Float[Array, "examples periods"]:
    def one(f, start, x):
        def body(carry, _):
            start, z = carry
            value = f(z, x)
            return (start, value), (relative(start, value)[0], relative(value, z)[0])

        def window(start, _):
            (_, end), distances = jax.lax.scan(body, (start, start), length=MAX_PERIOD)
            return end, distances

        distances, steps = jax.lax.scan(window, start, length=3)[1]
        return jnp.max(distances, axis=0) / jnp.mean(steps)

    return eqx.filter_vmap(one, in_axes=(None, 0, 0))(f, zs, xs)


def states_of_cycle(f: Map, z: PyTree, x: PyTree) -> PyTree:
    """z and the states that follow it, as many as the longest period, along a first axis: if z is
    on a cycle, all states of the cycle."""
    return jax.lax.scan(lambda z, _: (f(z, x), z), z, length=MAX_PERIOD)[1]


@eqx.filter_jit
def _iterate_to_tolerance(f: Map, zs: PyTree, xs: PyTree, rtols: Array, max_steps: Array):
    def one(f, z, x, rtol):
        solver = FixedPoint(rtol=rtol)
        _, solve = iterate(lambda z: f(z, x), solver, z, max_steps=max_steps)
        return solve.best, solve.residual, solve.converged

    return eqx.filter_vmap(one, in_axes=(None, 0, 0, 0))(f, zs, xs, rtols)


@eqx.filter_jit
def _distance(a: PyTree, b: PyTree) -> Float[Array, " examples"]:
    def one(a, b):
        size = two_norm(b)
        return two_norm(subtract(a, b)) / jnp.where(size > 0, size, 1)

    return jax.vmap(one)(a, b)
