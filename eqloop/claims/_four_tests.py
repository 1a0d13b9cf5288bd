"""Does an equilibrium compute its answer, or does the loop only settle? Four tests."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, Shaped

from .._iteration import Map, advance
from .._norms import two_norm
from .._solver import FixedPoint, iterate
from .._stability_report import EquilibriumTest, Share, Start
from ..stability import rank_correlation, share

PUSHED = 8
"""Number of examples that are iterated further, and pushed."""
PUSH = 0.5
"""Size of the push, relative to that of the state."""
LONGER = 4
"""Iterations of a loop that is to stay solved, over those of the report."""
LIMIT = 0.5
"""Value that the tests that are shares must exceed."""

Solved = Callable[[Any, Any, Any], Bool[Array, ""]]
"""`(state, tokens, targets)` of one example -> whether the state is decoded to the answer."""

Examples = tuple[Shaped[Array | np.ndarray, "examples ..."], ...]
"""The inputs of f, and tokens and targets for `Solved`."""


@dataclasses.dataclass(frozen=True)
class Followed:
    """Loops of some examples, from their own start until they settle.

    **Attributes:**

    - `steps`: iterations to the tolerance; NaN if it was not reached.
    - `solved`: whether the answer is right at z_0, after one iteration, and at the end.
    - `difficulty`: that of the examples.
    """

    steps: Float[np.ndarray, " examples"]
    solved: Bool[np.ndarray, "examples 3"]
    difficulty: Float[np.ndarray, " examples"]


def follow(
    f: Map,
    start: Callable[[Any], Any],
    solved: Solved,
    examples: Examples,
    difficulty: Float[np.ndarray, " examples"],
    *,
    iterations: int,
    rtol: float,
) -> Followed:
    """Iterate the loops of examples until they settle, and decode their starts and ends.

    **Arguments:**

    - `f`: the loop `f(z, x)`.
    - `start`: input x -> the state z_0.
    - `solved`: `(state, tokens, targets)` of one example -> whether its answer is right.
    - `examples`: the inputs x of f, tokens and targets, with a leading axis of examples.
    - `difficulty`: that of the examples, in any unit.
    - `iterations`: iterations at most. The end of a loop that does not settle replaces z*.
    - `rtol`: the relative residual `|f(z) - z| / |z|` at which a loop has settled.

    **Returns** what `four_tests` needs to know of these loops.

    ```python
    >>> import eqloop, jax.numpy as jnp, numpy as np
    >>> x = jnp.array([[1.0], [2.0]])
    >>> loops = eqloop.claims.follow(
    ...     lambda z, x: 0.5 * z + x,
    ...     jnp.zeros_like,
    ...     lambda z, x, target: jnp.all(abs(z - target) < 0.1),
    ...     (x, x, 2 * x),
    ...     np.array([1.0, 2.0]),
    ...     iterations=50,
    ...     rtol=1e-3,
    ... )
    >>> loops.solved
    array([[False, False,  True],
           [False, False,  True]])

    ```
    """
    steps, converged, states_solved = _follow(
        f, start, solved, _arrays(examples), jnp.asarray(iterations), jnp.asarray(rtol)
    )
    return Followed(
        np.where(converged, np.asarray(steps, np.float64), math.nan),
        np.asarray(states_solved),
        np.asarray(difficulty, np.float64),
    )


def stays_solved(
    f: Map,
    start: Callable[[Any], Any],
    solved: Solved,
    examples: Examples,
    *,
    key: PRNGKeyArray,
    iterations: int,
) -> Bool[np.ndarray, "examples 3"]:
    """Does the answer of each example stay right when its loop goes on, and after a push?

    **Arguments:**

    - `f`, `start`, `solved`, `examples`: see `follow`.
    - `key`: a random key, for the directions of the pushes.
    - `iterations`: iterations T of the loop.

    **Returns** for each example whether its answer is right after T iterations, after 4 T, and T
    iterations after a push of half of the norm of the state, shape (examples, 3).

    ```python
    >>> import eqloop, jax, jax.numpy as jnp
    >>> x = jnp.array([[1.0], [2.0]])
    >>> eqloop.claims.stays_solved(
    ...     lambda z, x: 0.5 * z + x,
    ...     jnp.zeros_like,
    ...     lambda z, x, target: jnp.all(abs(z - target) < 0.1),
    ...     (x, x, 2 * x),
    ...     key=jax.random.key(0),
    ...     iterations=20,
    ... )
    array([[ True,  True,  True],
           [ True,  True,  True]])

    ```
    """
    keys = jr.split(key, len(examples[0]))
    ends = _stays_solved(f, start, solved, _arrays(examples), keys, jnp.asarray(iterations))
    return np.asarray(ends)


def four_tests(
    followed: Mapping[str, Followed],
    split: str,
    stays: Bool[np.ndarray, "examples 3"],
    starts: Mapping[str, Start],
) -> dict[str, EquilibriumTest]:
    """The four tests: an equilibrium that is its start, or one step from it, passes neither `t1`
    nor `t2`.

    **Arguments:**

    - `followed`: split -> its loops, the results of `follow`. All of them count for `t2`.
    - `split`: the split that `t1` is about.
    - `stays`: the result of `stays_solved`, of shape (examples, 3).
    - `starts`: name -> runs from other starts; see `eqloop.stability.Reachability`.

    **Returns** `t1` to `t4`, by name.

    **Raises** `KeyError` if `split` is not in `followed`.

    ```python
    >>> import eqloop, numpy as np
    >>> solved = np.array([[False, False, True]] * 20)  # at the start, after one iteration, at z*
    >>> followed = eqloop.claims.Followed(np.arange(20.0), solved, difficulty=np.arange(20.0))
    >>> tests = eqloop.claims.four_tests({"test": followed}, "test", ~np.zeros((8, 3), bool), {})
    >>> {name: test.verdict for name, test in tests.items()}
    {'t1': 'passed', 't2': 'passed', 't3': 'not measured', 't4': 'passed'}

    ```
    """
    return {
        "t1": _needs_iterations(followed[split]),
        "t2": _takes_longer(list(followed.values())),
        "t3": _agrees(list(starts.values())),
        "t4": _persists(stays),
    }


def _needs_iterations(followed: Followed) -> EquilibriumTest:
    """If no z* solves its example, the share is 0."""
    at_start, once, solved = followed.solved.T
    part = share(~(at_start | once)[solved])
    if len(solved) and not solved.any():
        part = Share(0, 0, 0.0, 0.0, 0.0)
    names = ("solved_at_start", "solved_after_one", "solved")
    return _of_share(
        "z* solves what the start and one iteration do not",
        "share of the examples that z* solves",
        part,
        {name: _share_of(solved) for name, solved in zip(names, followed.solved.T, strict=True)},
    )


def _takes_longer(followed: list[Followed]) -> EquilibriumTest:
    steps = np.concatenate([group.steps for group in followed])
    difficulty = np.concatenate([group.difficulty for group in followed])
    correlation = rank_correlation(difficulty, steps)
    slope = math.nan
    if math.isfinite(correlation.value):
        known = np.isfinite(steps) & np.isfinite(difficulty)
        slope = float(np.polyfit(difficulty[known], steps[known], 1)[0])
    return _verdict(
        "Harder examples take more iterations",
        "rank correlation of iterations to the tolerance with difficulty",
        (correlation.value, correlation.low, correlation.high),
        0.0,
        correlation.count,
        {"iterations_per_difficulty": slope},
    )


def _agrees(starts: list[Start]) -> EquilibriumTest:
    runs = sum(start.converged.count for start in starts)
    hits = sum(start.same.hits for start in starts)
    return _of_share(
        "Other starts reach the same fixed point",
        "share of the runs from noise and from another example's z*",
        share(np.arange(runs) < hits),
        {},
    )


def _persists(stays: Bool[np.ndarray, "examples 3"]) -> EquilibriumTest:
    solved, longer, back = stays.T
    parts = {"after_longer": longer[solved], "after_push": back[solved]}
    return _of_share(
        f"Solved stays solved at {LONGER} times the iterations, and after a push",
        "share of the solved examples",
        share((longer & back)[solved]),
        {name: _share_of(part) for name, part in parts.items()},
    )


def _share_of(part: Bool[np.ndarray, " examples"]) -> float:
    return float(part.mean()) if part.size else math.nan


def _of_share(claim: str, measure: str, part: Share, numbers: dict[str, float]) -> EquilibriumTest:
    interval = (part.share, part.low, part.high)
    return _verdict(claim, measure, interval, LIMIT, part.count, numbers)


def _verdict(
    claim: str,
    measure: str,
    interval: tuple[float, float, float],
    limit: float,
    count: int,
    numbers: dict[str, float],
) -> EquilibriumTest:
    value, low, high = interval
    if not math.isfinite(value):
        verdict = "not measured"
    elif low > limit:
        verdict = "passed"
    else:
        verdict = "failed" if high <= limit else "undecided"
    return EquilibriumTest(claim, measure, value, low, high, limit, count, verdict, numbers)


def _arrays(examples: Examples) -> tuple[Array, ...]:
    return tuple(jnp.asarray(part) for part in examples)


@eqx.filter_jit
def _follow(f: Map, start: Callable, solved: Solved, examples: Any, iterations: Array, rtol: Array):
    def one(f, solved, example):
        x, tokens, target = example
        z0 = start(x)
        z, solve = iterate(lambda z: f(z, x), FixedPoint(rtol=rtol), z0, max_steps=iterations)
        ends = [solved(state, tokens, target) for state in (z0, f(z0, x), z)]
        return solve.steps, solve.converged, jnp.stack(ends)

    return eqx.filter_vmap(one, in_axes=(None, None, 0))(f, solved, examples)


@eqx.filter_jit
def _stays_solved(
    f: Map, start: Callable, solved: Solved, examples: Any, keys: PRNGKeyArray, iterations: Array
):
    def one(f, solved, example, key):
        x, tokens, target = example
        z = advance(f, start(x), x, iterations)
        push = jr.normal(key, z.shape, z.dtype)
        pushed = z + push * (PUSH * two_norm(z) / two_norm(push)).astype(z.dtype)
        states = (
            z,
            advance(f, z, x, (LONGER - 1) * iterations),
            advance(f, pushed, x, iterations),
        )
        return jnp.stack([solved(state, tokens, target) for state in states])

    return eqx.filter_vmap(one, in_axes=(None, None, 0, 0))(f, solved, examples, keys)
