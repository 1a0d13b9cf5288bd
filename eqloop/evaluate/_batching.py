"""Continuous batching: finished starts are replaced from a queue, so that the batch stays full."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from .._model import AbstractLoopedModel
from .._solver import AbstractSolver, SolveState
from .._task import Split, Task

CHUNK = 8
"""Number of steps between two checks for finished starts; a finished start waits for the next."""
GROUP = 8
"""An eighth of the batch is emptied and refilled at a time: few calls, and little idle time."""
SMALL = 64
"""Smaller batches are not shrunk at the end: compiling costs more than it saves."""


class Ends(NamedTuple):
    """The results of the starts, one row per start.

    **Attributes:**

    - `predictions`: the answers.
    - `scores`: name -> scores of the answers.
    - `steps`: number of solver steps.
    - `evaluations`: number of evaluations of f.
    - `residual`: the lowest relative residual.
    - `converged`: whether the start reached the tolerance.
    - `spent`: whether the start used up its budget. If neither holds, its state was not finite.
    """

    predictions: Any
    scores: dict[str, Any]
    steps: Any
    evaluations: Any
    residual: Any
    converged: Any
    spent: Any


class _Problem(eqx.Module):
    """The arguments that all starts share."""

    model: AbstractLoopedModel
    loop: Any
    task: Task
    solver: AbstractSolver
    noise: Float[Array, ""]
    key: PRNGKeyArray


class _Starts(eqx.Module):
    """Starts: the tokens and targets of the example, its index in the split, the number of the
    start."""

    tokens: Shaped[Array, "slots *grid"]
    targets: Shaped[Array, "slots *grid"]
    example: Int[Array, " slots"]
    number: Int[Array, " slots"]


class _Slots(eqx.Module):
    """The starts that are being solved, one per slot."""

    start: _Starts
    z: Float[Array, "slots *grid width"]
    r: PyTree
    progress: SolveState
    spent: Bool[Array, " slots"]


class Stream:
    """Solve a queue of starts with a batch of fixed size.

    `batch_size` slots take `CHUNK` steps together. A start that has converged or used up its budget
    is read out, and its slot is refilled from the queue, so that hard examples get more steps. When
    the queue is empty and an eighth of the slots can hold all remaining starts, these continue in a
    smaller batch. So there are at most two shapes, and another queue, budget, tolerance or number
    of a start does not recompile.

    Start k > 0 of an example begins at `z_0 + noise rms(z_0) g`, where z_0 is the model's own
    first state and g is Gaussian, drawn from `fold_in(fold_in(key, example), k)`. Start 0 begins
    at z_0.

    **Arguments:**

    - `model`, `task`, `split`, `solver`, `noise`, `key`, `batch_size`: see `solve`.
    - `loop`: the loop of the model.
    - `examples`: index in the split of the example of each start.
    - `numbers`: the number k of each start.
    """

    def __init__(
        self,
        model: AbstractLoopedModel,
        loop: Any,
        task: Task,
        split: Split,
        solver: AbstractSolver,
        *,
        examples: Int[np.ndarray, " starts"],
        numbers: Int[np.ndarray, " starts"],
        noise: float,
        key: PRNGKeyArray,
        batch_size: int,
    ):
        self.problem = _Problem(model, loop, task, solver, jnp.asarray(noise, jnp.float32), key)
        self.split, self.examples, self.numbers = split, examples, numbers
        self.size = min(batch_size, len(examples))
        self.group = max(1, self.size // GROUP)
        self.slot_steps = 0
        """Number of computed steps times slots, finished and empty slots included."""

    def run(self, budget: int, progress: Callable[[int], None]) -> Ends:
        """Solve all starts; `progress` is called with the number of finished starts."""
        # The start in each slot (-1 for an empty slot), and the first start in the queue.
        owner, first = np.arange(self.size), self.size
        slots, ends = _begin(self.problem, self._starts(owner)), None
        while (owner >= 0).any():
            slots, steps = _advance(self.problem, slots, jnp.asarray(budget, jnp.int32))
            self.slot_steps += len(owner) * int(steps)
            done = np.asarray(slots.progress.done) & (owner >= 0)
            live = int(np.count_nonzero((owner >= 0) & ~done))
            shrinks = first == len(self.examples) and live <= self.group < len(owner) >= SMALL
            if live and np.count_nonzero(done) < self.group and not shrinks:
                continue
            for emptied in cut(np.flatnonzero(done), self.group):
                ends = self._read(slots, emptied, owner[emptied], ends)
                owner[emptied] = -1
                new = np.arange(first, min(first + len(emptied), len(self.examples)))
                if len(new):
                    slots = self._refill(slots, emptied[: len(new)], new)
                    owner[emptied[: len(new)]] = new
                    first += len(new)
            progress(first - int(np.count_nonzero(owner >= 0)))
            if shrinks and live:
                keep = np.flatnonzero(owner >= 0)
                slots = _take(slots, jnp.asarray(self._pad(keep)))
                owner = np.pad(owner[keep], (0, self.group - live), constant_values=-1)
        assert ends is not None
        return ends

    def _pad(self, index: Int[np.ndarray, " some"]) -> Int[np.ndarray, " group"]:
        return np.pad(index, (0, self.group - len(index)), mode="edge")

    def _starts(self, which: Int[np.ndarray, " slots"]) -> _Starts:
        example = self.examples[which]
        return _Starts(
            jnp.asarray(self.split.inputs[example]),
            jnp.asarray(self.split.targets[example]),
            jnp.asarray(example, jnp.int32),
            jnp.asarray(self.numbers[which], jnp.int32),
        )

    def _refill(self, slots: _Slots, where: np.ndarray, which: np.ndarray) -> _Slots:
        # Padding repeats a slot and its start, which writes the same values twice.
        starts = self._starts(self._pad(which))
        return _refill(self.problem, slots, jnp.asarray(self._pad(where)), starts)

    def _read(self, slots: _Slots, where: np.ndarray, which: np.ndarray, ends: Ends | None) -> Ends:
        """Write the results of the starts `which`, which are in the slots `where`, to `ends`."""
        results = jax.device_get(_read(self.problem, slots, jnp.asarray(self._pad(where))))
        if ends is None:
            shape = lambda leaf: (len(self.examples), *leaf.shape[1:])  # noqa: E731
            ends = jax.tree.map(lambda leaf: np.zeros(shape(leaf), leaf.dtype), results)
        for all_starts, rows in zip(jax.tree.leaves(ends), jax.tree.leaves(results), strict=True):
            all_starts[which] = rows[: len(which)]
        return ends  # pyright: ignore[reportReturnType] (a tree of the type of `results`)


def cut(index: np.ndarray, size: int) -> list[np.ndarray]:
    """`index` in pieces of at most `size`."""
    return [index[place : place + size] for place in range(0, len(index), size)]


def _fresh(problem: _Problem, starts: _Starts) -> _Slots:
    def one(start):
        e = problem.model.embed(problem.task.encode(start.tokens))
        r = problem.loop.inject(e)
        key = jr.fold_in(jr.fold_in(problem.key, start.example), start.number)
        z = problem.model.first_state(e)
        size = problem.noise.astype(z.dtype) * jnp.sqrt(jnp.mean(jnp.square(z)))
        z += jnp.where(start.number > 0, size, 0) * jr.normal(key, z.shape, z.dtype)
        solving = problem.solver.begin(lambda z: problem.loop(z, r), z)
        return _Slots(start, z, r, solving, jnp.zeros((), bool))

    return eqx.filter_vmap(one)(starts)


_begin = eqx.filter_jit(_fresh)


@eqx.filter_jit
def _refill(
    problem: _Problem, slots: _Slots, where: Int[Array, " some"], starts: _Starts
) -> _Slots:
    """Put fresh starts into the slots `where`."""

    def put(old, new):
        return old.at[where].set(new) if eqx.is_array(old) else old

    return jax.tree.map(put, slots, _fresh(problem, starts))


@eqx.filter_jit
def _advance(
    problem: _Problem, slots: _Slots, budget: Int[Array, ""]
) -> tuple[_Slots, Int[Array, ""]]:
    """Take up to `CHUNK` steps; also returns the number of steps taken."""
    progress, static = eqx.partition(slots.progress, eqx.is_array)
    # All slots must share the count of a solver (see `Iterate`); fresh starts have a smaller one.
    began = jnp.max(progress.count)

    def unfinished(carry):
        _, progress, _, count = carry
        return (count < began + CHUNK) & jnp.any(jnp.logical_not(progress.done))

    def body(carry):
        *state, count = carry

        def one(z, progress, spent, r):
            solving = eqx.tree_at(lambda p: p.count, eqx.combine(progress, static), count)
            z, solving = problem.solver.advance(lambda z: problem.loop(z, r), z, solving)
            ran_out = jnp.logical_not(solving.done) & (solving.evaluations >= budget)
            solving = eqx.tree_at(lambda p: p.done, solving, solving.done | ran_out)
            return z, eqx.filter(solving, eqx.is_array), spent | ran_out

        z, progress, spent = state
        return *jax.vmap(one)(z, progress, spent, slots.r), count + 1

    z, progress, spent, count = jax.lax.while_loop(
        unfinished, body, (slots.z, progress, slots.spent, began)
    )
    slots = _Slots(slots.start, z, slots.r, eqx.combine(progress, static), spent)
    return slots, count - began


@eqx.filter_jit
def _take(slots: _Slots, where: Int[Array, " some"]) -> _Slots:
    return jax.tree.map(lambda leaf: leaf[where] if eqx.is_array(leaf) else leaf, slots)


@eqx.filter_jit
def _read(problem: _Problem, slots: _Slots, where: Int[Array, " some"]) -> Ends:
    task, ended = problem.task, _take(slots, where)

    def one(best, start):
        prediction = task.predict(problem.model.coda(best), start.tokens)
        scores = task.score(prediction, start.tokens, start.targets)
        return prediction, {name: jnp.asarray(s, jnp.float32) for name, s in scores.items()}

    solving = ended.progress
    predictions, scores = jax.vmap(one)(solving.best, ended.start)
    return Ends(
        predictions,
        scores,
        solving.steps,
        solving.evaluations,
        solving.residual,
        solving.converged,
        ended.spent,
    )
