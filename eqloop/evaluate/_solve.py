"""Test-time compute: each example is iterated as long as it needs, from one or several states."""

import dataclasses
import time
from typing import Any, Literal, get_args

import jax
import jax.random as jr
import numpy as np
from equinox import filter_jit
from jaxtyping import Bool, Float, Int, PRNGKeyArray, Shaped

from .._errors import InputError
from .._model import LoopedTransformer
from .._solver import AbstractSolver, FixedPoint
from .._tables import plain
from .._task import Progress, Split, Task
from ._batching import Stream
from ._curves import check_grid, make_loop, mean

Select = Literal["residual", "vote"]


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a set of examples cost.

    **Attributes:**

    - `examples`: how many; `solved`: share whose whole answer is right; `converged`: share whose
      chosen start reached the tolerance.
    - `evaluations`: mean evaluations of f per example, over all of its starts.
    - `evaluations_per_solved`, `seconds_per_solved`: those of the whole set, the unsolved examples
      included, per solved one; NaN where none is. The wall time of the call is divided among the
      examples by their evaluations.
    """

    examples: int
    solved: float
    converged: float
    evaluations: float
    evaluations_per_solved: float
    seconds_per_solved: float


@dataclasses.dataclass(frozen=True)
class Solved:
    """What `solve` found.

    **Attributes:**

    - `predictions`: the answer of each example, that of the chosen start.
    - `scores`: name -> score of each example; `judged`: means of the host-side scores.
    - `chosen`: the number of that start.
    - `votes`: how many starts of the example gave the answer of this one.
    - `steps`, `evaluations`, `residual`, `converged`, `spent`: of each start; see `Ends`.
    - `overall`, `bands`: the cost of all examples, and of each band that has any.
    - `slot_steps`: steps times slots that were computed: the sum of `steps`, and what waited.
    - `seconds`: wall time, compilation included.
    """

    predictions: Shaped[np.ndarray, "examples *grid"]
    scores: dict[str, Float[np.ndarray, " examples"]]
    judged: dict[str, float]
    chosen: Int[np.ndarray, " examples"]
    votes: Int[np.ndarray, "examples starts"]
    steps: Int[np.ndarray, "examples starts"]
    evaluations: Int[np.ndarray, "examples starts"]
    residual: Float[np.ndarray, "examples starts"]
    converged: Bool[np.ndarray, "examples starts"]
    spent: Bool[np.ndarray, "examples starts"]
    overall: Cost
    bands: dict[str, Cost]
    slot_steps: int
    seconds: float

    def tables(self) -> dict[str, Any]:
        """JSON-ready, NaN as null; without the predictions."""
        found = dataclasses.asdict(self)
        del found["predictions"]
        return plain(jax.tree.map(lambda x: x.tolist() if hasattr(x, "tolist") else x, found))


def solve(
    model: LoopedTransformer,
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
    """Solve the loop for each example, and stop each when it has converged.

    The batch stays full: see `Stream`. What an example gets does not depend on its batch mates
    (up to rounding, which may differ with the size of the batch). The answer is read off the
    iterate with the lowest residual, which is what a solver returns.

    **Arguments:**

    - `budget`: evaluations of f that each start may take. A solver whose step takes several
      exceeds it by less than one step.
    - `solver`: `FixedPoint(rtol=1e-3)` by default; any `AbstractSolver`, with its own tolerance.
    - `restarts`: starts of each example, the model's own and then noisy ones.
    - `select`: the start whose answer counts: `"residual"`, the one with the lowest residual, or
      `"vote"`, of those with the most frequent whole answer the one with the lowest residual
      (which also decides between equally frequent answers).
    - `noise`: of a noisy start, relative to the root mean square of the model's own. Much noise may
      lead to other fixed points, with wrong answers and no larger a residual; see
      benchmarks/LOG.md.
    - `batch_size`: starts iterated at once.
    - `fold`: fold internal recall into the weights: same function, fewer operations.
    - `key`: of the noise; `jax.random.key(0)` by default.
    - `progress`: called with the examples done and their number.

    When not to use it: for accuracy at given numbers of iterations, which `evaluate` measures.

    **Raises** `InputError` for an empty split or an argument out of range, `ValueError` for a
    solver that does not stop by itself.
    """
    began = time.perf_counter()
    if not len(split):
        raise InputError("there are no examples to solve: the split is empty")
    for name, value in (("budget", budget), ("restarts", restarts), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    check_grid(model, split.inputs.shape[1:])
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
    scores = {name: by_example(each)[row, chosen] for name, each in ends.scores.items()}
    predictions = answers[row, chosen]
    evaluations, converged = by_example(ends.evaluations), by_example(ends.converged)
    seconds = time.perf_counter() - began

    def cost(mask: Bool[np.ndarray, " examples"]) -> Cost:
        spent, solved = int(evaluations[mask].sum()), int(scores["exact"][mask].sum())
        per_solved = spent / solved if solved else float("nan")
        return Cost(
            examples=int(mask.sum()),
            solved=float(scores["exact"][mask].mean()),
            converged=float(converged[row, chosen][mask].mean()),
            evaluations=spent / int(mask.sum()),
            evaluations_per_solved=per_solved,
            seconds_per_solved=per_solved * seconds / int(evaluations.sum()),
        )

    return Solved(
        predictions=predictions,
        scores=scores,
        judged={name: mean(each) for name, each in task.judge(split, predictions).items()},
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
    """For each start, how many of its example's starts gave the same whole answer."""
    flat = answers.reshape(*answers.shape[:2], -1)
    # One start against all at a time: all against all would take starts^2 answers of memory.
    return np.stack([(flat == flat[:, [k]]).all(-1).sum(-1) for k in range(flat.shape[1])], axis=1)


def choose_start(
    residual: Float[np.ndarray, "examples starts"],
    votes: Int[np.ndarray, "examples starts"] | None = None,
) -> Int[np.ndarray, " examples"]:
    """The start with the lowest residual, of those with the most votes where there are any; the
    first of equals."""
    if votes is None:
        return np.argmin(residual, axis=1)
    most = votes == votes.max(axis=1, keepdims=True)
    # inf is the residual of a start that never was finite, and may be all there is.
    return np.lexsort((residual, ~most))[:, 0]
