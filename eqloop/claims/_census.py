"""Does settling mean being right? A census of how loops end and of what their answers are."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree, Shaped

from .._iteration import Map
from .._stability_report import Bypass, Census, Froze, Outcome, OutcomeCorrect, SettledWrong
from .._task import Progress
from ..stability import (
    Orbits,
    auroc,
    distance,
    follow_orbits,
    gaussian_starts,
    iterate_to_tolerance,
    linear_probe,
    rank_correlation,
    settle_steps,
    share,
    summary,
)
from ._decoder import Decoder
from ._four_tests import Examples

CensusLevel = Literal["off", "quick", "full"]
RESTARTS = {"quick": 2, "full": 8}
"""Number of restarts from noise per example, by the level of the census."""
STILL = 16
"""Number of iterations at the end over which an answer that stopped changing must stay the same:
the longest period that is recognised as a cycle."""
PROBED = 16
"""Number of iterations whose states are probed, after the start."""
_OVERFLOWED = float(np.finfo(np.float32).max)
"""The residual and the rate of a loop that overflowed; JSON has no infinity."""
_BATCH = 64
"""Number of loops that are followed at once."""


@dataclasses.dataclass(frozen=True)
class _Readings:
    """What a census needs to know of each example; arrays have one row for each.

    - `right`: whether the answer is right at z_0, after one iteration, and at the end.
    - `scores`: see `Census`.
    - `froze`: the first iteration from which the answer never changes; NaN if not known.
    - `settled`: the first iteration from which the residual stays at most the tolerance; NaN
        without a fixed point.
    - `steps`: iterations to the tolerance; NaN without a fixed point.
    - `distance`: from z_0 to z*, relative to z*; NaN without a fixed point.
    """

    outcomes: Shaped[np.ndarray, " examples"]
    right: Bool[np.ndarray, "examples 3"]
    scores: dict[str, Float[np.ndarray, " examples"]]
    froze: Float[np.ndarray, " examples"]
    settled: Float[np.ndarray, " examples"]
    steps: Float[np.ndarray, " examples"]
    distance: Float[np.ndarray, " examples"]


def census(
    f: Map,
    start: Callable[[Any], Any],
    decoder: Decoder,
    examples: Examples,
    difficulty: Shaped[np.ndarray, " examples"],
    *,
    key: PRNGKeyArray,
    iterations: int = 256,
    rtol: float = 1e-4,
    restarts: int = RESTARTS["quick"],
    orbits: Orbits | None = None,
    progress: Progress | None = None,
) -> Census:
    """Count how the loops end against whether their answers are right, and measure whether a number
    that is known without the answer could verify it, and what the loop contributes.

    The answer of a loop is decoded from its last state. The scores by which it might be verified:

    - `residual`: minus the last relative residual.
    - `rate`: minus the factor per iteration by which the steps decay at the end of the descent, or
      over the second half of the iterations for a loop that did not settle.
    - `agreement`: share of the cells whose answer is the same from other starts, Gaussian noise
      with the size of the own start; the mean over the restarts.
    - `entropy`: minus the entropy of the softmax of the logits in nats, the mean over the cells.

    Residual and rate count as the largest number of float32 if the loop overflowed.

    **Arguments:**

    - `f`: the loop `f(z, x)`.
    - `start`: input x -> the state z_0.
    - `decoder`: decodes a state to an answer, and scores it.
    - `examples`: the inputs x of f, tokens and targets, with a leading axis of examples.
    - `difficulty`: that of the examples, in any unit.
    - `key`: a random key, for the restarts.
    - `iterations`, `rtol`: see `eqloop.stability.follow_orbits`.
    - `restarts`: number of restarts per example.
    - `orbits`: the orbits of the examples, if they have been followed: by `follow_orbits` with
        `observe=decoder.read` and tokens and targets as labels. The arguments `iterations` and
        `rtol` are then those of the orbits.
    - `progress`: called with the number of examples that are done, and of all.

    **Returns** the `Census`.

    ```python
    >>> import eqloop, jax, jax.numpy as jnp, numpy as np
    >>> task = eqloop.tasks.make_task("prefix-sums", {"length": 5})
    >>> # The state is the difference of the logits: it settles with the sign of the input.
    >>> f = lambda z, x: 0.5 * z + x
    >>> decoder = eqloop.claims.Decoder(lambda z: jnp.stack([-z, z], -1), task)
    >>> targets = np.array([[0, 1, 0, 1, 0], [1, 1, 1, 1, 1]], np.uint8)
    >>> x = np.float32([[-1, 1, -1, 1, -1], [1, -1, 1, 1, 1]])  # right, and wrong in one cell
    >>> counted = eqloop.claims.census(
    ...     f, jnp.zeros_like, decoder, (x, targets, targets), np.ones(2), key=jax.random.key(0)
    ... )
    >>> wrong = counted.settled_wrong.wrong_of_settled
    >>> wrong.hits, wrong.count
    (1, 2)

    ```
    """
    xs, tokens, targets = (jnp.asarray(part) for part in examples)
    count = len(xs)
    order, size = np.arange(count), count
    if orbits is None:
        # A random order, so that the first batch, which is probed, is a sample of all.
        order, size = np.random.default_rng(0).permutation(count), min(_BATCH, count)
    readings, probe = [], None
    for begin in range(0, count, size):
        if progress is not None:
            progress(begin, count)
        # The last batch is filled up with its last example, so that all have one shape.
        rows = order[np.minimum(np.arange(begin, begin + size), count - 1)]
        labels = (tokens[rows], targets[rows])
        batch = orbits or follow_orbits(
            f,
            start,
            xs[rows],
            iterations=iterations,
            rtol=rtol,
            observe=decoder.read,
            labels=labels,
        )
        readings.append(_read(batch, decoder, labels, restarts, jr.fold_in(key, begin)))
        if begin == 0:
            probe = _probe(batch)
    if progress is not None:
        progress(count, count)
    joined = _joined(readings, np.argsort(order))
    return _count(joined, np.asarray(difficulty), restarts, probe)


def _read(
    orbits: Orbits,
    decoder: Decoder,
    labels: tuple[Array, Array],
    restarts: int,
    key: PRNGKeyArray,
) -> _Readings:
    answers, right = orbits.observed
    at_start, right_at_start, _ = map(np.asarray, _read_out(decoder, orbits.z0s, labels))
    answer, right_at_end, entropy = map(np.asarray, _read_out(decoder, orbits.state, labels))
    agreement = np.zeros((restarts, len(orbits)))
    for number in range(restarts):
        zs = gaussian_starts(orbits.z0s, key=jr.fold_in(key, number))
        state, _ = iterate_to_tolerance(
            orbits.f, zs, orbits.xs, rtol=orbits.rtol, max_steps=orbits.iterations
        )
        other, *_ = _read_out(decoder, state, labels)
        agreement[number] = (np.asarray(other) == answer).reshape(len(orbits), -1).mean(axis=1)
    last = orbits.residuals[:, -1]
    nothing = np.full(len(orbits), math.nan)
    known = np.where(orbits.converged, 0, math.nan)
    return _Readings(
        outcomes=np.array(orbits.outcomes),
        right=np.stack([right_at_start, right[:, 0], right_at_end], axis=1),
        scores={
            "residual": -np.where(np.isfinite(last), last, _OVERFLOWED),
            "rate": -_rates(orbits),
            "agreement": agreement.mean(axis=0) if restarts else nothing,
            "entropy": -entropy.astype(np.float64),
        },
        froze=_froze(np.concatenate([at_start[:, None], answers], axis=1)),
        settled=_last(orbits.residuals > orbits.rtol) + 1 + known,
        steps=settle_steps(orbits),
        distance=distance(orbits.z0s, orbits.state) + known,
    )


def _froze(
    answers: Shaped[np.ndarray, "examples times ..."],
) -> Float[np.ndarray, " examples"]:
    """The first iteration from which the answer never changes; NaN if it changes within the last
    `STILL`. The first answer is that of the start."""
    count, length = answers.shape[:2]
    changed = (answers[:, 1:] != answers[:, :-1]).reshape(count, length - 1, -1).any(axis=2)
    first = _last(changed)
    return np.where(first <= length - 1 - STILL, first, math.nan)


def _last(
    happens: Bool[np.ndarray, "examples iterations"],
) -> Float[np.ndarray, " examples"]:
    """The last iteration, counted from 1, at which something happens; 0 if it never does."""
    last = happens.shape[1] - np.argmax(happens[:, ::-1], axis=1)
    return np.where(happens.any(axis=1), last, 0.0)


def _rates(orbits: Orbits) -> Float[np.ndarray, " examples"]:
    """See `census`."""
    rates = orbits.rate.copy()
    for example, outcome in enumerate(orbits.outcomes):
        if outcome in ("converged", "unresolved"):
            continue
        steps = orbits.steps[example, orbits.iterations // 2 :]
        if np.all(np.isfinite(steps)):
            logs = np.log(np.maximum(steps, 1e-300))
            rates[example] = math.exp(np.polyfit(np.arange(len(logs)), logs, 1)[0])
        else:
            rates[example] = _OVERFLOWED
    return rates


def _probe(orbits: Orbits) -> float | None:
    """R^2 of a linear probe from a state to the number of its iteration. It is trained on three
    quarters of the examples, and tested on the others."""
    # Whole examples are held out only if their number is divisible by four.
    count = len(orbits) // 4 * 4
    if count == 0:
        return None
    sample = orbits.take(np.random.default_rng(0).permutation(len(orbits))[:count])
    states = np.asarray(_first_states(sample.f, sample.z0s, sample.xs))
    states = states.reshape(-1, *states.shape[2:])
    times = np.tile(np.arange(PROBED + 1.0), count).reshape(-1, *[1] * (states.ndim - 1))
    return linear_probe(states, np.broadcast_to(times, (*states.shape[:-1], 1)))


def _joined(readings: list[_Readings], places: np.ndarray) -> _Readings:
    """The readings of all batches, in the order of the examples."""

    def join(parts: list[Any]) -> Any:
        if isinstance(parts[0], dict):
            return {name: join([part[name] for part in parts]) for name in parts[0]}
        return np.concatenate(parts)[places]

    names = [field.name for field in dataclasses.fields(_Readings)]
    return _Readings(*(join([getattr(part, name) for part in readings]) for name in names))


def _count(
    readings: _Readings,
    difficulty: Shaped[np.ndarray, " examples"],
    restarts: int,
    iteration_probe: float | None,
) -> Census:
    outcomes = readings.outcomes
    at_start, after_one, right = readings.right.T
    settled = outcomes == "converged"
    lead = readings.settled - readings.froze
    return Census(
        examples=len(outcomes),
        restarts=restarts,
        outcome_correct=OutcomeCorrect(
            outcomes=outcomes.tolist(),
            right=right.tolist(),
            shares={name: share(right[outcomes == name]) for name in get_args(Outcome)},
        ),
        settled_wrong=SettledWrong(
            wrong_of_settled=share(~right[settled]),
            settled_and_wrong=share(settled & ~right),
            unsettled_of_right=share(~settled[right]),
            right_and_unsettled=share(right & ~settled),
        ),
        scores={name: scores.tolist() for name, scores in readings.scores.items()},
        auroc={
            name: auroc(scores, right, groups=("right", "wrong"))
            for name, scores in readings.scores.items()
        },
        froze=Froze(
            answer=summary(readings.froze),
            state=summary(readings.settled),
            difference=summary(lead),
            answer_first=share(lead[~np.isnan(lead)] > 0),
        ),
        bypass=Bypass(
            right_at_start=share(at_start),
            right_after_one=share(after_one),
            right_at_end=share(right),
            distance=summary(readings.distance),
            difficulty=rank_correlation(difficulty, readings.steps),
            iteration_probe=iteration_probe,
        ),
    )


@eqx.filter_jit
def _read_out(decoder: Decoder, zs: Array, labels: tuple[Array, Array]):
    """The answers, whether they are right, and their entropy."""

    def one(decoder, z, label):
        return *decoder.read(z, label), decoder.entropy(z)

    return eqx.filter_vmap(one, in_axes=(None, 0, 0))(decoder, zs, labels)


@eqx.filter_jit
def _first_states(f: Map, z0s: PyTree, xs: PyTree) -> Array:
    def one(f, z0, x):
        def body(z, _):
            return f(z, x), z

        last, states = jax.lax.scan(body, z0, length=PROBED)
        return jnp.concatenate([states, last[None]])

    return eqx.filter_vmap(one, in_axes=(None, 0, 0))(f, z0s, xs)
