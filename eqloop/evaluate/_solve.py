"""Test-time compute: iterate each example as long as it needs, from one or several starts."""

import time
from typing import get_args

import jax.random as jr
import numpy as np
from equinox import filter_jit
from jaxtyping import Bool, Float, Int, PRNGKeyArray, Shaped

from .._errors import InputError
from .._model import AbstractLoopedModel
from .._scores import EXACT
from .._solver import AbstractSolver, FixedPoint
from .._task import Progress, Split, Task
from ..run import Cost, Select, Solved
from ._batching import Stream
from ._curves import make_loop, mean


def solve(
    model: AbstractLoopedModel,
    task: Task,
    split: Split,
    *,
    budget: int = 512,
    solver: AbstractSolver | None = None,
    restarts: int = 1,
    select: Select = "residual",
    noise: float = 0.1,
    batch_size: int = 250,
    fold: bool = True,
    key: PRNGKeyArray | None = None,
    progress: Progress | None = None,
) -> Solved:
    """Solve the loop for each example, and stop each example when it has converged.

    Continuous batching keeps the batch full; see `Stream`. The result of an example does not depend
    on the rest of the batch, up to rounding. The answer is read from the iterate with the lowest
    residual. When not to use it: for the accuracy at given numbers of iterations, which `evaluate`
    measures.

    **Arguments:**

    - `model`, `task`: the model, and the task that encodes puzzles and scores predictions.
    - `split`: the examples. Those without an answer are solved, too; their scores are NaN.
    - `budget`: maximum number of evaluations of f per start; a solver whose step takes several
        evaluations may exceed it by less than one step.
    - `solver`: any `AbstractSolver` with its own tolerance; `FixedPoint(rtol=1e-3)` by default.
    - `restarts`: number of starts per example: the model's own start, then noisy ones.
    - `select`: which start gives the answer: `"residual"`, the start with the lowest residual, or
        `"vote"`, the start with the lowest residual among those with the most frequent answer.
    - `noise`: size of the noise of a start, relative to the root mean square of the model's own
        start. Large noise can lead to other fixed points, with wrong answers and residuals that
        are no larger; see benchmarks/LOG.md.
    - `batch_size`: number of starts iterated at once.
    - `fold`: fold internal recall into the weights: same function, fewer operations.
    - `key`: random key of the noise; `jax.random.key(0)` by default.
    - `progress`: called with the number of solved examples and of all examples.

    **Returns** a `Solved`.

    **Raises** `InputError` for an empty split, for an argument out of range, and for puzzles that
    are too small for the model; `ValueError` for a solver that does not stop by itself.

    ```python
    >>> import eqloop, jax.random as jr
    >>> task = eqloop.tasks.make_task("prefix-sums", {"length": 8, "rows": 20, "test_rows": 4})
    >>> test = task.load().splits["test"]
    >>> model = eqloop.LoopedTransformer((8,), 1, 2, 8, 2, key=jr.key(0))  # untrained
    >>> result = eqloop.evaluate.solve(model, task, test, budget=64, restarts=2)
    >>> result.predictions.shape, result.steps.shape, result.overall.converged
    ((4, 8), (4, 2), 1.0)

    ```
    """
    began = time.perf_counter()
    if not len(split):
        raise InputError("there are no examples to solve: the split is empty")
    for name, value in (("budget", budget), ("restarts", restarts), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    model.check_grid(split.inputs.shape[1:])
    if select not in get_args(Select):
        raise InputError(f"select must be residual or vote, got {select!r}")
    solver = FixedPoint() if solver is None else solver
    if not isinstance(solver, AbstractSolver):
        raise ValueError(f"solver = {solver!r} does not stop by itself: see eqloop.AbstractSolver")
    count = len(split)
    stream = Stream(
        model,
        filter_jit(make_loop)(model, fold),
        task,
        split,
        solver,
        examples=np.repeat(np.arange(count), restarts),
        numbers=np.tile(np.arange(restarts), count),
        noise=noise,
        key=jr.key(0) if key is None else key,
        batch_size=batch_size,
    )

    def report(starts: int) -> None:
        if progress is not None:
            progress(starts // restarts, count)

    ends = stream.run(budget, report)

    def by_example(starts: np.ndarray) -> np.ndarray:
        return starts.reshape(count, restarts, *starts.shape[1:])

    answers, residual = by_example(ends.predictions), by_example(ends.residual)
    votes = count_votes(answers)
    chosen = choose_start(residual, votes if select == "vote" else None)
    row = np.arange(count)
    unknown = np.float32(np.nan)
    scores = {
        name: np.where(split.answered, by_example(score)[row, chosen], unknown)
        for name, score in ends.scores.items()
    }
    predictions = answers[row, chosen]
    evaluations, converged = by_example(ends.evaluations), by_example(ends.converged)
    seconds = time.perf_counter() - began

    def cost(mask: Bool[np.ndarray, " examples"]) -> Cost:
        spent, solved = int(evaluations[mask].sum()), float(scores[EXACT][mask].sum())
        per_solved = spent / solved if solved else float("nan")
        return Cost(
            examples=int(mask.sum()),
            solved=float(scores[EXACT][mask].mean()),
            converged=float(converged[row, chosen][mask].mean()),
            evaluations=spent / int(mask.sum()),
            evaluations_per_solved=per_solved,
            seconds_per_solved=per_solved * seconds / int(evaluations.sum()),
        )

    return Solved(
        predictions=predictions,
        scores=scores,
        judged={name: mean(values) for name, values in task.judge(split, predictions).items()},
        chosen=chosen,
        votes=votes,
        steps=by_example(ends.steps),
        evaluations=evaluations,
        residual=residual,
        converged=converged,
        spent=by_example(ends.spent),
        overall=cost(np.ones(count, bool)),
        bands={name: cost(mask) for name, mask in task.bands(split).items() if mask.any()},
        slot_steps=stream.slot_steps,
        seconds=seconds,
    )


def count_votes(
    answers: Shaped[np.ndarray, "examples starts *grid"],
) -> Int[np.ndarray, "examples starts"]:
    """For each start the number of starts of its example that gave the same whole answer."""
    flat = answers.reshape(*answers.shape[:2], -1)
    # A loop over the starts: comparing all pairs at once takes memory for starts^2 answers.
    return np.stack([(flat == flat[:, [k]]).all(-1).sum(-1) for k in range(flat.shape[1])], axis=1)


def choose_start(
    residual: Float[np.ndarray, "examples starts"],
    votes: Int[np.ndarray, "examples starts"] | None = None,
) -> Int[np.ndarray, " examples"]:
    """The start with the lowest residual, among those with the most votes if `votes` is given. Of
    equal starts the first is chosen."""
    if votes is None:
        return np.argmin(residual, axis=1)
    most = votes == votes.max(axis=1, keepdims=True)
    # The residual of a start that never was finite is inf; all residuals may be inf.
    return np.lexsort((residual, ~most))[:, 0]
