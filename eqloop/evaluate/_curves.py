"""Accuracy and convergence over test-time iterations."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from .._errors import InputError
from .._model import AbstractLoopedModel
from .._norms import relative_residual
from .._scores import EXACT
from .._task import Progress, Split, Task, refuse_unanswered
from ..run import Curve, Evaluation

CHECK = 8
"""Number of iterations between two checks whether an example has stopped changing."""
QUIET = 1e-4
"""An example may stop early only if its relative residual is at most this."""
REACH = 32.0
"""Safety factor: an example may stop only if its prediction survives a perturbation this many times
the last movement of its logits over `CHECK` iterations."""
SMALL = 64
"""Smaller batches are not shrunk: compiling for a new size costs more than it saves."""
SMALLEST = 16
"""Minimum number of examples in a batch if `work` limits their number."""
NOISE = 16 * float(np.finfo(np.float32).eps)
"""A relative residual that rounding errors alone can cause."""


def geometric(iterations: int) -> list[int]:
    """A geometric grid of iteration counts: 1, 2, 3, 4, 6, 8, 12, ... up to `iterations` itself.

    **Arguments:**

    - `iterations`: the largest number of iterations.

    **Returns** the counts in ascending order; none for `iterations` below 1.

    ```python
    >>> import eqloop
    >>> eqloop.evaluate.geometric(10)
    [1, 2, 3, 4, 6, 8, 10]

    ```
    """
    powers = [2**k for k in range(iterations.bit_length())]
    grid = {count for power in powers for count in (power, power * 3 // 2)}
    return sorted(count for count in grid | {iterations} if 1 <= count <= iterations)


class _Active(eqx.Module):
    """The examples of a batch that are still iterated, as arrays on the device."""

    z: Float[Array, "batch *grid width"]
    r: PyTree
    tokens: Shaped[Array, "batch *grid"]
    targets: Shaped[Array, "batch *grid"]
    residual: Float[Array, " batch"]
    settled: Int[Array, " batch"]
    # The logits at the last check, and their largest change since the check before.
    logits: Float[Array, "batch *grid classes"]
    moved: Float[Array, " batch"]


@eqx.filter_jit
def _start(
    model: AbstractLoopedModel, loop: Any, task: Task, tokens: Array, targets: Array
) -> _Active:
    def one(tokens):
        e = model.embed(task.encode(tokens))
        z = model.first_state(e)
        return z, loop.inject(e), jnp.zeros_like(model.coda(z))

    z, r, logits = jax.vmap(one)(tokens)
    size = (len(tokens),)
    # With the dtypes of what replaces them: a weakly typed start compiles `_advance` once more.
    residual = jax.eval_shape(jax.vmap(relative_residual), z, z)
    return _Active(
        z=z,
        r=r,
        tokens=tokens,
        targets=targets,
        residual=jnp.full(size, jnp.inf, residual.dtype),
        settled=jnp.zeros(size, jnp.int32),
        logits=logits,
        moved=jnp.full(size, jnp.inf, logits.dtype),
    )


@eqx.filter_jit
def _advance(
    loop: Any, active: _Active, done: Int[Array, ""], count: Int[Array, ""], tolerance: Array
) -> _Active:
    """Compute `count` iterations after the first `done`; both are traced."""

    def body(i, carry):
        z, _, settled = carry
        after = jax.vmap(loop)(z, active.r)
        residual = jax.vmap(relative_residual)(after, z)
        new = (settled == 0) & (residual < tolerance)
        return after, residual, jnp.where(new, done + i + 1, settled)

    z, residual, settled = jax.lax.fori_loop(
        0, count, body, (active.z, active.residual, active.settled)
    )
    return eqx.tree_at(lambda a: (a.z, a.residual, a.settled), active, (z, residual, settled))


@eqx.filter_jit
def _read(
    model: AbstractLoopedModel, task: Task, active: _Active
) -> tuple[Array, dict[str, Array]]:
    """The prediction of each example and its scores."""

    def one(z, tokens, targets):
        prediction = task.predict(model.coda(z), tokens)
        scores = task.score(prediction, tokens, targets)
        return prediction, {name: jnp.asarray(s, jnp.float32) for name, s in scores.items()}

    return jax.vmap(one)(active.z, active.tokens, active.targets)


@eqx.filter_jit
def _check(
    model: AbstractLoopedModel, task: Task, active: _Active, quiet: float
) -> tuple[_Active, Bool[Array, " batch"]]:
    """Which examples may stop; see `evaluate`."""

    def one(z, tokens, residual, before, moved_before):
        logits = model.coda(z)
        moved = jnp.max(jnp.abs(logits - before))
        prediction = task.predict(logits, tokens)
        # The worst perturbation of this size lowers the chosen class against all others.
        chosen = jax.nn.one_hot(prediction, logits.shape[-1], dtype=logits.dtype)
        pushed = task.predict(logits - 2 * REACH * moved * chosen, tokens)
        stable = jnp.all(pushed == prediction)
        shrinks = (moved <= 0.9 * moved_before) | (residual <= NOISE)
        return logits, moved, (residual <= quiet) & shrinks & stable

    logits, moved, stop = jax.vmap(one)(
        active.z, active.tokens, active.residual, active.logits, active.moved
    )
    return eqx.tree_at(lambda a: (a.logits, a.moved), active, (logits, moved)), stop


@eqx.filter_jit
def _take(active: _Active, index: Int[Array, " batch"]) -> _Active:
    return jax.tree.map(lambda leaf: leaf[index], active)


def evaluate(
    model: AbstractLoopedModel,
    task: Task,
    split: Split,
    *,
    iterations: int = 512,
    grid: Sequence[int] | None = None,
    tolerance: float = 1e-3,
    batch_size: int = 250,
    early_exit: bool = True,
    fold: bool = True,
    work: float | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure scores and residuals of plain iteration on a geometric grid up to `iterations`.

    **Early exit.** An example is no longer iterated once its answer cannot change, and keeps that
    answer for the rest of the grid. A check every 8 iterations stops an example if (1) its relative
    residual is at most 1e-4; (2) its logits moved at least a tenth less over these 8 iterations
    than over the 8 before (or the residual is at the level of rounding); and (3) its prediction
    stays the same if the logit of every chosen class is lowered, against all others, by twice 32
    times that movement. Under (2) the iteration contracts; while its slowest mode shrinks by at
    least 1 in 33 per 8 iterations (a spectral radius up to 0.996), all further movement is below 32
    times the last one, so (3) gives the predictions of the full run. An example that oscillates or
    drifts is iterated to the end. The remaining examples are gathered in batches of a quarter of
    the size.

    **Arguments:**

    - `model`, `task`: the model, and the task that encodes puzzles and scores predictions.
    - `split`: the examples.
    - `iterations`: maximum number of iterations.
    - `grid`: iteration counts at which to measure; `geometric(iterations)` by default.
    - `tolerance`: relative residual below which an example counts as converged; if it is below
        1e-4, it also replaces 1e-4 in (1).
    - `batch_size`: number of examples iterated at once.
    - `early_exit`: whether examples may stop early.
    - `fold`: fold internal recall into the weights: same function, fewer operations.
    - `work`: maximum number of iterations of single examples to compute. Once they are used no
        further batch begins, and the results are those of a random sample (always the same one).
        By default all examples are measured.
    - `progress`: called with the work done and an upper bound of the total work, both in iterations
        of single examples.

    **Returns:**

    An `Evaluation`.

    **Raises** `InputError` for an empty split, an example without an answer, `iterations`,
    `batch_size` or a point of `grid` that is not at least 1, an empty `grid`, and puzzles that are
    too small for the model.

    ```python
    >>> import eqloop, jax.random as jr
    >>> task = eqloop.tasks.make_task("prefix-sums", {"length": 8, "rows": 20, "test_rows": 4})
    >>> test = task.load().splits["test"]
    >>> model = eqloop.LoopedTransformer((8,), 1, 2, 8, 2, key=jr.key(0))  # untrained
    >>> result = eqloop.evaluate.evaluate(model, task, test, iterations=8)
    >>> result.iterations, result.overall.examples, result.predictions.shape
    ([1, 2, 3, 4, 6, 8], 4, (4, 8))
    >>> result.overall.residual_median[-1] < result.overall.residual_median[0]
    True

    ```
    """
    began = time.perf_counter()
    if not len(split):
        raise InputError("there are no examples to evaluate: the split is empty")
    for name, value in (("iterations", iterations), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    points = geometric(iterations) if grid is None else _checked(grid)
    refuse_unanswered(split, "", "they cannot be scored")
    model.check_grid(split.inputs.shape[1:])
    loop = eqx.filter_jit(make_loop)(model, fold)
    batch_size = min(batch_size, len(split))
    order = np.arange(len(split))
    all_work = points[-1] * batch_size * -(-len(split) // batch_size)
    limit = float(all_work if work is None else np.clip(work, points[-1], all_work))
    limited = limit < all_work
    if limited:
        order = np.random.RandomState(0).permutation(len(split))
        # At least two batches, or the first one alone could exceed the limit by its whole size.
        batch_size = int(np.clip(limit / points[-1] / 2, min(SMALLEST, batch_size), batch_size))
    parts: list[_Measured] = []
    measured = spent = 0
    while measured < len(split) and spent < limit:
        index = order[measured : measured + batch_size]
        padded = np.pad(index, (0, batch_size - len(index)), mode="edge")
        batch = _Batch(model, loop, task, split, padded, len(index), points, tolerance, early_exit)

        def report(computed: int, reached: int, before: int = spent) -> None:
            if progress is not None:
                progress(int(min(before + (computed if limited else reached), limit)), int(limit))

        parts.append(batch.run(report))
        measured += len(index)
        # Iterations saved by early exit count as done, unless `work` limits the computed ones.
        spent += parts[-1].computed if limited else points[-1] * batch_size
    split = split.take(order[:measured])

    scores = {
        name: np.concatenate([part.scores[name] for part in parts], axis=1)
        for name in sorted(parts[0].scores, key=lambda name: (name != EXACT, name))
    }
    residual = np.concatenate([part.residual for part in parts], axis=1)
    settled = np.concatenate([part.settled for part in parts])
    predictions = np.concatenate([part.predictions for part in parts])
    everything = np.ones(len(split), bool)
    bands = {name: mask for name, mask in task.bands(split).items() if mask.any()}

    depth = task.known_depth(split, model.window)

    def curve(mask: Bool[np.ndarray, " examples"]) -> Curve:
        known = math.nan
        if depth is not None:
            known = float(np.median(depth[mask])) / model.mixings
        return _curve(points, scores, residual, settled, mask, tolerance, known)

    return Evaluation(
        iterations=list(points),
        tolerance=tolerance,
        overall=curve(everything),
        bands={name: curve(mask) for name, mask in bands.items()},
        settled=settled,
        judged={name: mean(values) for name, values in task.judge(split, predictions).items()},
        predictions=predictions,
        iterations_run=sum(part.iterations_run for part in parts),
        iterations_asked=points[-1] * len(split),
        seconds=time.perf_counter() - began,
    )


def _checked(grid: Sequence[int]) -> list[int]:
    """The points of a grid, once each, in ascending order."""
    if not len(grid):
        raise InputError("grid must hold at least one number of iterations: it is empty")
    for point in grid:
        if not isinstance(point, int | np.integer) or point < 1:
            raise InputError(f"grid must hold integers of at least 1, got {point!r}")
    return sorted({int(point) for point in grid})


def make_loop(model: AbstractLoopedModel, fold: bool) -> Any:
    return model.loop(fold=fold)


@dataclasses.dataclass
class _Measured:
    """The measurement of one batch: arrays of shape (grid points, examples), and last values."""

    scores: dict[str, np.ndarray]
    residual: np.ndarray
    settled: np.ndarray
    predictions: np.ndarray
    iterations_run: int
    computed: int
    """`iterations_run` plus the iterations of slots that are padding or stopped."""


class _Batch:
    """Iterate one batch over the grid, and drop the examples that stop."""

    def __init__(self, model, loop, task, split, index, real, points, tolerance, early_exit):
        self.model, self.loop, self.task = model, loop, task
        self.points, self.tolerance, self.early_exit = points, tolerance, early_exit
        self.real = real
        # The row of the batch in each slot on the device, and whether the slot is live: other slots
        # are padding, or hold a stopped example that is not dropped yet.
        self.rows = np.arange(len(index))
        self.live = self.rows < real
        self.active = _start(
            model, loop, task, jnp.asarray(split.inputs[index]), jnp.asarray(split.targets[index])
        )

    def run(self, report: Callable[[int, int], None]) -> _Measured:
        """Call `report` repeatedly with two numbers of iterations of single examples: the computed
        ones, and those that are computed or skipped."""
        points, size = self.points, len(self.rows)
        residual = np.full((len(points), size), np.nan, np.float32)
        settled = np.zeros(size, np.int32)
        scores: dict[str, np.ndarray] = {}
        predictions = np.zeros(0)
        # The values of each example when it was last read.
        last_scores: dict[str, np.ndarray] = {}
        last_residual = np.zeros(size, np.float32)
        now = run = computed = 0
        for place, point in enumerate(points):
            while now < point and self.live.any():
                # Iterate to the next point of the grid or the next check.
                step = min(point, now - now % CHECK + CHECK) if self.early_exit else point
                self.active = _advance(
                    self.loop,
                    self.active,
                    jnp.asarray(now, jnp.int32),
                    jnp.asarray(step - now, jnp.int32),
                    jnp.asarray(self.tolerance, jnp.float32),
                )
                run += (step - now) * int(self.live.sum())
                computed += (step - now) * len(self.rows)
                now = step
                stop = np.zeros(len(self.rows), bool)
                if self.early_exit and now % CHECK == 0:
                    self.active, stopped = _check(
                        self.model, self.task, self.active, min(QUIET, self.tolerance)
                    )
                    stop = np.asarray(stopped) & self.live
                if now == point or stop.any():
                    read = self.live if now == point else stop
                    rows = self.rows[read]
                    last_residual[rows] = np.asarray(self.active.residual)[read]
                    settled[rows] = np.asarray(self.active.settled)[read]
                    predictions = self._record_scores(last_scores, predictions, size, read)
                    self.live &= ~stop
                    self._shrink()
                report(computed, now * size)
            residual[place] = last_residual
            for name, value in last_scores.items():
                scores.setdefault(name, np.full(residual.shape, np.nan, np.float32))
                scores[name][place] = value
        real = slice(0, self.real)
        return _Measured(
            scores={name: values[:, real] for name, values in scores.items()},
            residual=residual[:, real],
            settled=settled[real],
            predictions=predictions[real],
            iterations_run=run,
            computed=computed,
        )

    def _record_scores(self, last, predictions, size, mask) -> np.ndarray:
        """Update `last` and `predictions` from the slots in `mask`; returns the predictions."""
        rows = self.rows[mask]
        current, values = _read(self.model, self.task, self.active)
        current = np.asarray(current)
        if not len(predictions):
            predictions = np.zeros((size, *current.shape[1:]), current.dtype)
        predictions[rows] = current[mask]
        for name, value in values.items():
            value = np.asarray(value)
            last.setdefault(name, np.zeros(size, value.dtype))[rows] = value[mask]
        return predictions

    def _shrink(self) -> None:
        """Gather the live slots if a quarter of the slots can hold them."""
        slots, count = len(self.rows), int(self.live.sum())
        smaller = slots
        while smaller >= SMALL and count <= smaller // 4:
            smaller //= 4
        if count == 0 or smaller == slots:
            return
        padded = np.pad(np.flatnonzero(self.live), (0, smaller - count), mode="edge")
        self.active = _take(self.active, jnp.asarray(padded))
        self.rows = self.rows[padded]
        self.live = np.arange(smaller) < count


def mean(values: np.ndarray) -> float:
    """NaN-ignoring mean; NaN if every value is NaN."""
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def _curve(points, scores, residual, settled, mask, tolerance, depth) -> Curve:
    means = {name: [mean(row[mask]) for row in rows] for name, rows in scores.items()}
    residual, settled = residual[:, mask].astype(np.float64), settled[mask]
    overthinking = {}
    for name, curve in means.items():
        if not np.isnan(curve).all():
            best = int(np.nanargmax(curve))  # the first of equals
            overthinking[name] = {
                "best": curve[best],
                "iterations": points[best],
                "last": curve[-1],
                "penalty": curve[best] - curve[-1],
            }
    return Curve(
        examples=int(mask.sum()),
        scores=means,
        residual_mean=residual.mean(axis=1).tolist(),
        residual_median=np.median(residual, axis=1).tolist(),
        converged=(residual < tolerance).mean(axis=1).tolist(),
        settled=float((settled > 0).mean()),
        settled_median=float(np.median(settled[settled > 0])) if settled.any() else float("nan"),
        overthinking=overthinking,
        known_depth=depth,
    )
