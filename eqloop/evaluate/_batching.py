"""A queue of solves through a batch of fixed size: one that is done makes room for the next."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from .._model import LoopedTransformer
from .._solver import AbstractSolver, SolveState
from .._task import Split, Task

CHUNK = 8
"""Steps between two looks at what is done; a start that is done waits for the next look."""
GROUP = 8
"""Slots are emptied and filled an eighth of the batch at a time: few calls, little waiting."""
SMALL = 64
"""Batches below this are not made smaller at the end: compiling costs more than it saves."""


class Ends(NamedTuple):
    """Where starts got to, one row for each.

    **Attributes:**

    - `predictions`, `scores`: the answer and its scores by name, as the task gives them.
    - `steps`, `evaluations`: of the solver; `residual`: the lowest relative residual.
    - `converged`, `spent`: it reached the tolerance, or ran out of its budget; where neither, its
      state was no longer finite.
    """

    predictions: Any
    scores: dict[str, Any]
    steps: Any
    evaluations: Any
    residual: Any
    converged: Any
    spent: Any


class _Problem(eqx.Module):
    """What is the same for all starts."""

    model: LoopedTransformer
    loop: Any
    task: Task
    solver: AbstractSolver
    noise: Float[Array, ""]
    key: PRNGKeyArray


class _Starts(eqx.Module):
    """Where to begin: examples, and for each its place in the split and the number of the start."""

    tokens: Shaped[Array, "slots *grid"]
    targets: Shaped[Array, "slots *grid"]
    example: Int[Array, " slots"]
    number: Int[Array, " slots"]


class _Slots(eqx.Module):
    """The starts that are being solved."""

    start: _Starts
    z: Float[Array, "slots *grid width"]
    r: PyTree
    progress: SolveState
    spent: Bool[Array, " slots"]


class Stream:
    """Solve from each of a queue of starts, a batch at a time.

    `batch_size` slots take `CHUNK` steps together. A start that has converged, or has used up its
    budget, is read out and its slot filled from the queue, so that the work follows the
    difficulty. When the queue is empty and an eighth of the slots is enough, those go on alone.
    Two shapes at most, then, and neither another queue nor another budget, tolerance or number of
    a start compiles anew.

    Start k of an example begins at `e + noise rms(e) g`, with e the model's own z_0 and g Gaussian,
    drawn from `fold_in(fold_in(key, example), k)`; start 0 at e itself.

    **Arguments:**

    - `loop`: that of the model.
    - `examples`, `numbers`: of each start, its example in the split and its k.
    """

    def __init__(
        self,
        model: LoopedTransformer,
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
        """Steps taken, times the slots that took them, also those that were done or empty."""

    def run(self, budget: int, progress: Callable[[int], None]) -> Ends:
        """`progress` is called with the number of starts that are done."""
        # The start in each slot, -1 for none; and the first one that is still in the queue.
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
            for some in cut(np.flatnonzero(done), self.group):
                ends = self._read(slots, some, owner[some], ends)
                owner[some] = -1
                new = np.arange(first, min(first + len(some), len(self.examples)))
                if len(new):
                    slots = self._refill(slots, some[: len(new)], new)
                    owner[some[: len(new)]] = new
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
        # The same start twice in the same slot is the same as once.
        starts = self._starts(self._pad(which))
        return _refill(self.problem, slots, jnp.asarray(self._pad(where)), starts)

    def _read(self, slots: _Slots, where: np.ndarray, which: np.ndarray, ends: Ends | None) -> Ends:
        """`ends`, brought up to date for the starts `which`, that are in the slots `where`."""
        told = jax.device_get(_read(self.problem, slots, jnp.asarray(self._pad(where))))
        if ends is None:
            shape = lambda leaf: (len(self.examples), *leaf.shape[1:])  # noqa: E731
            ends = jax.tree.map(lambda leaf: np.zeros(shape(leaf), leaf.dtype), told)
        for all_starts, some in zip(jax.tree.leaves(ends), jax.tree.leaves(told), strict=True):
            all_starts[which] = some[: len(which)]
        return ends  # pyright: ignore[reportReturnType] (a tree of what `told` is)


def cut(index: np.ndarray, size: int) -> list[np.ndarray]:
    """Pieces of at most `size`."""
    return [index[place : place + size] for place in range(0, len(index), size)]


def _fresh(problem: _Problem, starts: _Starts) -> _Slots:
    def one(start):
        e = problem.model.embed(problem.task.encode(start.tokens))
        r = problem.loop.inject(e)
        key = jr.fold_in(jr.fold_in(problem.key, start.example), start.number)
        size = problem.noise.astype(e.dtype) * jnp.sqrt(jnp.mean(jnp.square(e)))
        z = e + jnp.where(start.number > 0, size, 0) * jr.normal(key, e.shape, e.dtype)
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
    """`CHUNK` more steps, or fewer where all are done before; and how many it were."""
    progress, static = eqx.partition(slots.progress, eqx.is_array)
    # A solver's count must be the same for all (see `Iterate`); that of fresh starts is behind.
    began = jnp.max(progress.count)

    def going(carry):
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
        going, body, (slots.z, progress, slots.spent, began)
    )
    slots = _Slots(slots.start, z, slots.r, eqx.combine(progress, static), spent)
    return slots, count - began


@eqx.filter_jit
def _take(slots: _Slots, where: Int[Array, " some"]) -> _Slots:
    return jax.tree.map(lambda leaf: leaf[where] if eqx.is_array(leaf) else leaf, slots)


@eqx.filter_jit
def _read(problem: _Problem, slots: _Slots, where: Int[Array, " some"]) -> Ends:
    task, some = problem.task, _take(slots, where)

    def one(best, start):
        prediction = task.predict(problem.model.coda(best), start.tokens)
        scores = task.score(prediction, start.tokens, start.targets)
        return prediction, {name: jnp.asarray(s, jnp.float32) for name, s in scores.items()}

    solving = some.progress
    predictions, scores = jax.vmap(one)(solving.best, some.start)
    return Ends(
        predictions,
        scores,
        solving.steps,
        solving.evaluations,
        solving.residual,
        solving.converged,
        some.spent,
    )
