"""Where a loop goes from its own start: the orbit, followed to its end and classified."""

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

from .._iteration import Map
from .._norms import largest_cell_norm, relative, two_norm
from .._solver import FixedPoint, iterate
from ._closed import closed
from ._report import Outcome
from ._trees import head, subtract, take

Progress = Callable[[int, int | None], None]

CHUNK = 32
LONGEST = 16
"""The longest cycle that is looked for."""
FINEST = 8
"""Of the precision: a relative residual that iteration still reaches in spite of rounding."""
NOISE = 100
"""Of the precision: a relative residual below which steps may be rounding."""
SAME = 1e-2
"""Relative distance below which two fixed points count as one."""
NEAR = SAME / 2
"""Relative distance from its fixed point within which an orbit is at it: of two such orbits that
have one fixed point, the ends count as the same."""
BEND = 3
"""Steps that fall like a power of t leave a longer way than their rate says. Near a double fixed
point (`z - z^2`) it is 2 times as long, near a triple one (`z - z^3`) 3 times."""
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclasses.dataclass(frozen=True)
class Limits:
    """The ends of the orbits of a batch, and how they got there; what every axis begins with.

    **Attributes:**

    - `f`, `start`, `xs`, `z0s`: the map, the function from inputs to starts (or None), the
        inputs and the starts, stacked along a first axis.
    - `iterations`, `rtol`: how far they were followed; the relative residual at which one has
        settled.
    - `state`: the last iterates. Where the loop converged, polished by further iterations to a
        residual that the precision allows.
    - `residuals`, `cells`: `|f(z) - z| / |f(z)|` of each iteration, in the 2-norm and by the
        largest cell; `steps`: `|f(z) - z|`; `sizes`: `|f(z)|`.
    - `rate`: the factor per iteration by which the steps become smaller at the end of the descent;
        NaN where it was over within too few iterations to tell.
    - `remaining`: estimate of `|state - z*| / |z*|`; see `find_limits`. NaN where the residual is
        above `rtol`.
    - `outcomes`, `periods`: see `classify`; and "unresolved" where the residual is at most `rtol`,
        but `remaining` more than half a hundredth.
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

    def __len__(self) -> int:
        return len(self.outcomes)

    @property
    def converged(self) -> Bool[np.ndarray, " examples"]:
        return np.array([outcome == "converged" for outcome in self.outcomes])

    @property
    def eps(self) -> float:
        """Of the precision of the states."""
        return precision(self.z0s)

    @property
    def finest(self) -> float:
        """The least relative residual that can be asked for."""
        return FINEST * self.eps

    def take(self, index: np.ndarray) -> "Limits":
        """Some of the examples."""
        chosen = {
            field.name: take(getattr(self, field.name), index)
            for field in dataclasses.fields(self)
            if field.name not in {"f", "start", "iterations", "rtol", "outcomes"}
        }
        return dataclasses.replace(self, outcomes=[self.outcomes[i] for i in index], **chosen)


def find_limits(
    f: Map,
    z0s: PyTree,
    xs: PyTree,
    *,
    iterations: int = 256,
    rtol: float = 1e-4,
    progress: Progress | None = None,
) -> Limits:
    """Iterate `z <- f(z, x)` from each start and say where it went. Memory does not grow with the
    iterations (but for a few numbers each). The residual is relative, so that a loop which shrinks
    to exactly zero is "slow" until its state underflows.

    A small residual is no small distance: `|z - z*|` is about `|f(z) - z| / |1 - rate|`, a
    thousand times the residual for a rate of 0.999. Where this estimate (the rate being that at
    which the steps became smaller; three times as much where they fell like a power of t) is more
    than half of `SAME`, the orbit is "unresolved": it may be on its way to a fixed point, or turn
    for ever, and what is measured where it stands is not of a fixed point.

    **Arguments:**

    - `f`: any function of a state and an input, both pytrees of arrays, for one example.
    - `z0s`: the starts, stacked along a first axis; or a function that makes the start of one
        example from its input, so that what the limit owes to the start can be told.
    - `xs`: the inputs, stacked.
    - `iterations`: at least 16. `rtol`: relative residual at which a loop has settled.
    - `progress`: called with the iterations done and their number.

    **Raises** `ValueError` for arguments out of range and for starts and inputs of different
    number.
    """
    if iterations < LONGEST:
        raise ValueError(f"iterations = {iterations} must be at least {LONGEST}")
    if not 0 < rtol < 1:
        raise ValueError(f"rtol = {rtol} must be between 0 and 1")
    start = z0s if callable(z0s) else None
    counts = {len(leaf) for leaf in jtu.tree_leaves(xs if start is not None else (z0s, xs))}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"z0s and xs must be stacks of as many examples, not {sorted(counts)}")
    if start is not None:
        start = closed(start, head(xs))
        z0s = starts(start, xs)
    f = closed(f, *head((z0s, xs)))
    z, parts = z0s, []
    for done in range(0, iterations, CHUNK):
        if progress is not None:
            progress(done, iterations)
        z, told = _follow(f, z, xs, min(CHUNK, iterations - done))
        parts.append(jax.device_get(told))
    told = [np.concatenate(each, axis=1).astype(np.float64) for each in zip(*parts, strict=True)]
    residuals, _, steps, sizes = told
    returns = np.asarray(_returns(f, z, xs), np.float64)
    outcomes, periods = classify(residuals, steps, sizes, returns, rtol)
    there = np.array([outcome == "converged" for outcome in outcomes])
    state, polished = _polish(f, z, xs, iterations, there)
    # Rounding goes back and forth; what still moves has come about as far as its steps add up to.
    moving = returns[:, LONGEST - 1] > LONGEST / 2
    rate, remaining = _way_left(residuals, steps, polished, moving, there, precision(z0s))
    for example in np.flatnonzero(remaining > NEAR):
        outcomes[example] = "unresolved"
    return Limits(
        f, start, z0s, xs, iterations, rtol, state, *told,
        rate=rate,
        remaining=remaining,
        outcomes=outcomes,
        periods=periods,
    )  # fmt: skip


def _way_left(
    residuals: Float[np.ndarray, "examples iterations"],
    steps: Float[np.ndarray, "examples iterations"],
    polished: Float[np.ndarray, " examples"],
    moving: Bool[np.ndarray, " examples"],
    there: Bool[np.ndarray, " examples"],
    eps: float,
) -> tuple[Float[np.ndarray, " examples"], Float[np.ndarray, " examples"]]:
    """`rate` and `remaining` of `Limits`, of the examples that are `there` (else NaN).

    The rate is fitted to the last half of the descent, which ends where rounding begins: at a
    hundredfold of the precision, or where the residual stays. An orbit that is still `moving` has
    not come to that, however small its steps.
    """
    rate, remaining = np.full((2, len(residuals)), math.nan)
    for example in np.flatnonzero(there):
        residual = residuals[example]
        stays = 3 * np.median(residual[-len(residual) // 4 :])
        floor = residual <= (-1 if moving[example] else max(NOISE * eps, stays))
        end = int(floor.argmax()) if floor.any() else len(residual)
        logs = np.log(np.maximum(steps[example, end // 2 : end], 1e-300))
        remaining[example] = polished[example]
        if len(logs) < 4:
            continue
        slope = np.polyfit(np.arange(len(logs)), logs, 1)[0]
        rate[example] = math.exp(slope)
        # Also where steps grow: so do those of rounding near a fixed point that repels.
        gap = max(abs(math.expm1(slope)), 1e-300)
        if _geometric(logs) or polished[example] <= FINEST * eps:
            remaining[example] = polished[example] / gap
        else:
            remaining[example] = BEND * residual[-1] / gap
    return rate, remaining


def classify(
    residuals: Float[np.ndarray, "examples iterations"],
    steps: Float[np.ndarray, "examples iterations"],
    sizes: Float[np.ndarray, "examples iterations"],
    returns: Float[np.ndarray, "examples periods"],
    rtol: float,
) -> tuple[list[Outcome], Int[np.ndarray, " examples"]]:
    """How each orbit ended, and the period where that was a cycle (else 0).

    In this order:

    - diverged: not finite; or in the last quarter a quarter larger than in all of the first half,
      by steps that did not become smaller (the relative residual of a drift falls, like `1 / t`),
      or did so less and less, like a power of t, by which the way has no end;
    - converged: the last relative residual is at most `rtol`;
    - slow: the steps still become smaller, over each quarter of the second half, by 2 % in all and
      by more than chance (those of a chaotic orbit become smaller now and then);
    - cycle: back where it was after p iterations, for the least p, to a hundredth of the way that
      it makes in one, three times (a chaotic orbit comes near to where it was now and then);
    - wandering: none of these, bounded: quasi-periodic, chaotic, or a longer cycle.

    **Arguments:** `returns`: the largest `|z_{t+p} - z_t|` over a few t from T on, over the mean
    step there, for p = 1, 2, ...; the others see `Limits`.
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
        falls = _quarters(logs)
        slow = np.all(falls > 0) and falls.sum() > 0.02 and _falls(logs)
        geometric = slow and _geometric(logs)
        period = next((p for p, way in enumerate(back, 1) if way <= 0.01), 0)
        grown = size[-len(size) // 4 :].max() > 1.25 * size[:half].max()
        if grown and falls.sum() < 0.5 and not geometric:
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


def _quarters(logs: Float[np.ndarray, " iterations"]) -> Float[np.ndarray, "3"]:
    """By how much the mean falls from each quarter to the next."""
    return -np.diff([each.mean() for each in np.array_split(logs, 4)])


def _geometric(logs: Float[np.ndarray, " iterations"]) -> bool:
    """Whether it falls evenly; the logarithm of a power of t falls less and less."""
    falls = _quarters(logs)
    return bool(falls.min() > 0.85 * falls.max())


def _falls(logs: Float[np.ndarray, " iterations"]) -> bool:
    """Whether the line through them falls by more than four standard errors."""
    t = np.arange(len(logs)) - (len(logs) - 1) / 2
    slope = t @ logs / (t @ t)
    scatter = logs - logs.mean() - slope * t
    error = math.sqrt(scatter @ scatter / (len(logs) - 2) / (t @ t))
    return bool(-slope > 4 * error)


def precision(states: PyTree[Array]) -> float:
    """The eps of the coarsest leaf."""
    return max(float(jnp.finfo(leaf.dtype).eps) for leaf in jtu.tree_leaves(states))


def settle(
    f: Map,
    zs: PyTree,
    xs: PyTree,
    *,
    rtol: float,
    max_steps: int,
    only: Bool[np.ndarray, " examples"] | None = None,
) -> tuple[PyTree, Bool[np.ndarray, " examples"]]:
    """Plain iteration of each, until its relative residual is `rtol`: the iterates with the lowest
    residual, and whether it got there.

    **Arguments:** `only`: the examples that are iterated; the others stay where they are, and did
    not get there.
    """
    wanted = np.ones(len(jtu.tree_leaves(zs)[0]), bool) if only is None else only
    # Any residual will do for the others: they stop at the first, and the batch waits for none.
    rtols = jnp.where(wanted, rtol, jnp.inf)
    f = closed(f, *head((zs, xs)))
    state, _, converged = _settle(f, zs, xs, rtols, jnp.asarray(max_steps))
    return state, np.asarray(converged) & wanted


def arrive(
    limits: Limits, zs: PyTree, xs: PyTree, rate: Float[np.ndarray, " examples"]
) -> tuple[PyTree, Bool[np.ndarray, " examples"]]:
    """The loop from other starts, as `find_limits` follows it from its own: where each ends, and
    whether it was at a fixed point within the iterations.

    **Arguments:** `rate`: from the own starts (NaN: not known).
    """
    state, converged = settle(limits.f, zs, xs, rtol=limits.rtol, max_steps=limits.iterations)
    state, residual = _polish(limits.f, state, xs, limits.iterations, converged)
    left = residual / np.where(rate < 1, 1 - rate, 1)
    return state, converged & (left <= NEAR)


def settle_steps(limits: Limits) -> Float[np.ndarray, " examples"]:
    """The first iteration, from 1, whose residual is at most the tolerance; NaN where none is, and
    where the orbit did not end in a fixed point."""
    below = limits.residuals <= limits.rtol
    first = np.where(below.any(1), below.argmax(1) + 1.0, math.nan)
    return np.where(limits.converged, first, math.nan)


def distance(a: PyTree, b: PyTree) -> Float[np.ndarray, " examples"]:
    """`|a - b| / |b|` of each example; `|a|` where b is zero, which has no size."""
    return np.asarray(_distance(a, b), np.float64)


def _polish(
    f: Map, zs: PyTree, xs: PyTree, max_steps: int, only: Bool[np.ndarray, " examples"]
) -> tuple[PyTree, Float[np.ndarray, " examples"]]:
    """As close as the precision allows, so that what is measured there is of the fixed point: where
    the residual is below a tolerance, the way that is left may be hundreds of times as long. Also
    the relative residuals there, of the examples that `only` holds."""
    rtols = jnp.where(only, FINEST * precision(zs), jnp.inf)
    state, residual, _ = _settle(f, zs, xs, rtols, jnp.asarray(max_steps))
    return state, np.asarray(residual, np.float64)


@eqx.filter_jit
def starts(start: Callable, xs: PyTree) -> PyTree:
    """Of each input its start."""
    return jax.vmap(start)(xs)


@eqx.filter_jit
def _follow(f: Map, zs: PyTree, xs: PyTree, steps: int) -> tuple[PyTree, tuple[Array, ...]]:
    def one(f, z, x):
        def body(z, _):
            value = f(z, x)
            step, size, residual = relative(value, z)
            cell = relative(value, z, largest_cell_norm)[2]
            return value, (residual, cell, step, size)

        return jax.lax.scan(body, z, length=steps)

    return eqx.filter_vmap(one, in_axes=(None, 0, 0))(f, zs, xs)


@eqx.filter_jit
def _returns(f: Map, zs: PyTree, xs: PyTree) -> Float[Array, "examples periods"]:
    def one(f, start, x):
        def body(carry, _):
            start, z = carry
            value = f(z, x)
            return (start, value), (relative(start, value)[0], relative(value, z)[0])

        def stretch(start, _):
            (_, end), ways = jax.lax.scan(body, (start, start), length=LONGEST)
            return end, ways

        ways, steps = jax.lax.scan(stretch, start, length=3)[1]
        return jnp.max(ways, axis=0) / jnp.mean(steps)

    return eqx.filter_vmap(one, in_axes=(None, 0, 0))(f, zs, xs)


@eqx.filter_jit
def _settle(f: Map, zs: PyTree, xs: PyTree, rtols: Array, max_steps: Array):
    def one(f, z, x, rtol):
        solver = FixedPoint(rtol=rtol)  # pyright: ignore[reportArgumentType]
        _, progress = iterate(lambda z: f(z, x), solver, z, max_steps=max_steps)
        return progress.best, progress.residual, progress.converged

    return eqx.filter_vmap(one, in_axes=(None, 0, 0, 0))(f, zs, xs, rtols)


@eqx.filter_jit
def _distance(a: PyTree, b: PyTree) -> Float[Array, " examples"]:
    def one(a, b):
        size = two_norm(b)
        return two_norm(subtract(a, b)) / jnp.where(size > 0, size, 1)

    return jax.vmap(one)(a, b)
