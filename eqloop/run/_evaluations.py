"""`eval/NAME.json` and `eval/NAME-cost.json`: what was measured on examples.

`eqloop.evaluate` makes these objects; their fields are the keys of the files.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from .._schema import FLAT, NOT_STORED, OPTIONAL, Array, empty_array, from_table, to_table
from .._scores import EXACT
from ._record import read_record, write_record
from ._values import share

EVAL = "eval"
"""The folder of the evaluations in the folder of a run."""
SPLITS = ("test", "hard")
"""The splits that an evaluation measures by default."""

Select = Literal["residual", "vote"]
"""How the answer is chosen among several starts."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """The scores of a set of examples at each point of the grid of iterations.

    **Attributes:**

    - `examples`: number of examples.
    - `scores`: name (`exact`, `cells`, ...) -> mean score at each point of the grid, in [0, 1].
    - `residual_mean`: mean relative residual `|z_t - z_{t-1}| / |z_t|` at each point.
    - `residual_median`: median relative residual at each point.
    - `converged`: share of examples whose residual is below the tolerance, at each point.
    - `settled`: share of examples whose residual was below the tolerance at any iteration.
    - `settled_median`: median of the first such iterations; NaN if there is none.
    - `overthinking`: name of a score -> `{"best", "iterations", "last", "penalty"}`: the best mean
        on the grid, the iterations of it, the last mean, and best - last.
    - `known_depth`: median number of iterations that the examples need by a law of the task (see
        `Task.known_depth`), each iteration attending once per block; NaN without a law.

    ```python
    >>> import eqloop, math
    >>> curve = eqloop.run.Curve(
    ...     examples=2, scores={"exact": [0.5, 1.0, 0.5]}, residual_mean=[0.5, 0.3, 0.2],
    ...     residual_median=[0.5, 0.3, 0.2], converged=[0.0, 0.0, 0.0], settled=0.0,
    ...     settled_median=math.nan, overthinking={},
    ... )
    >>> curve.best, curve.last, curve.lost
    (1.0, 0.5, 0.5)

    ```
    """

    examples: int
    scores: dict[str, list[float]]
    residual_mean: list[float]
    residual_median: list[float]
    converged: list[float]
    settled: float
    settled_median: float
    overthinking: dict[str, dict[str, float]]
    known_depth: float = dataclasses.field(default=math.nan, metadata=OPTIONAL)

    @property
    def exact(self) -> list[float]:
        """Share of the examples whose whole answer is right, at each point of the grid."""
        return self.scores[EXACT]

    @property
    def last(self) -> float:
        """`exact` after the last iteration."""
        return self.exact[-1]

    @property
    def best(self) -> float:
        """The largest `exact`."""
        return max(self.exact)

    @property
    def lost(self) -> float:
        """What further iterations cost (overthinking): best - last."""
        return self.best - self.last


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of `eqloop.evaluate.evaluate`.

    **Attributes:**

    - `iterations`: the grid of iteration counts.
    - `tolerance`: relative residual below which an example counts as converged.
    - `overall`: the curve of all examples.
    - `bands`: name of a difficulty band -> the curve of its examples; empty bands are left out.
    - `settled`: for each example the first iteration whose residual is below `tolerance`; 0 if
        there is none. Shape (examples,).
    - `judged`: name -> mean of a score that the task computes on the host from the last prediction.
    - `predictions`: the last prediction of each measured example, of shape (examples, *grid). The
        file does not hold it.
    - `iterations_run`: number of iterations of single examples that were computed.
    - `iterations_asked`: number of iterations without early exit.
    - `seconds`: wall time, compilation included.

    ```python
    >>> import eqloop, jax.random as jr
    >>> task = eqloop.tasks.make_task("prefix-sums", {"length": 8, "rows": 20, "test_rows": 4})
    >>> model = eqloop.LoopedTransformer((8,), 1, 2, 8, 2, key=jr.key(0))  # untrained
    >>> result = eqloop.evaluate.evaluate(model, task, task.load().splits["test"], iterations=8)
    >>> result.iterations_asked, result.settled.shape, sorted(result.overall.scores)
    (32, (4,), ['cells', 'exact'])

    ```
    """

    iterations: list[int]
    tolerance: float
    overall: Curve
    bands: dict[str, Curve]
    settled: Array
    judged: dict[str, float]
    predictions: Array = dataclasses.field(default_factory=empty_array, metadata=NOT_STORED)
    iterations_run: int
    iterations_asked: int
    seconds: float

    @property
    def best_at(self) -> int:
        """The first of the iterations after which most examples are solved."""
        return self.iterations[self.overall.exact.index(self.overall.best)]

    def tables(self) -> dict[str, Any]:
        """The attributes as plain values, NaN as None, without the predictions."""
        return to_table(self)


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of solving a set of examples.

    **Attributes:**

    - `examples`: number of examples.
    - `solved`: share of examples whose whole answer is right; NaN if an answer is unknown.
    - `converged`: share of examples whose chosen start reached the tolerance.
    - `evaluations`: mean number of evaluations of f per example, summed over its starts.
    - `evaluations_per_solved`: evaluations of the whole set per solved example; NaN if none is
        solved.
    - `seconds_per_solved`: the same for seconds; the wall time of the call is divided among the
        examples in proportion to their evaluations.

    ```python
    >>> import eqloop
    >>> cost = eqloop.run.Cost(
    ...     examples=4, solved=0.5, converged=1.0, evaluations=30.0, evaluations_per_solved=60.0,
    ...     seconds_per_solved=0.1,
    ... )
    >>> cost.evaluations_per_solved == cost.evaluations / cost.solved
    True

    ```
    """

    examples: int
    solved: float
    converged: float
    evaluations: float
    evaluations_per_solved: float
    seconds_per_solved: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solved:
    """The result of `eqloop.evaluate.solve`.

    Arrays have the shape (examples,) or, where they are about each start, (examples, starts).

    **Attributes:**

    - `predictions`: the answer of the chosen start of each example, of shape (examples, *grid). The
        file does not hold it.
    - `scores`: name -> score of each example; NaN where its answer is unknown.
    - `judged`: name -> mean of a score that the task computes on the host.
    - `chosen`: number of the chosen start of each example.
    - `votes`: for each start the number of starts of its example that gave the same answer.
    - `steps`: number of solver steps of each start.
    - `evaluations`: number of evaluations of f of each start.
    - `residual`: lowest relative residual of each start.
    - `converged`: whether the start reached the tolerance.
    - `spent`: whether the start used up its budget. (If a start neither converged nor used up its
        budget, its state was not finite.)
    - `overall`: the cost of all examples.
    - `bands`: name of a difficulty band -> its cost; empty bands are left out.
    - `slot_steps`: number of computed steps times slots, idle slots included.
    - `seconds`: wall time, compilation included.

    ```python
    >>> import eqloop, jax.random as jr
    >>> task = eqloop.tasks.make_task("prefix-sums", {"length": 8, "rows": 20, "test_rows": 4})
    >>> model = eqloop.LoopedTransformer((8,), 1, 2, 8, 2, key=jr.key(0))  # untrained
    >>> test = task.load().splits["test"]
    >>> result = eqloop.evaluate.solve(model, task, test, budget=2, restarts=2)
    >>> result.evaluations.tolist(), result.converged.any().item()
    ([[2, 2], [2, 2], [2, 2], [2, 2]], False)

    ```
    """

    predictions: Array = dataclasses.field(default_factory=empty_array, metadata=NOT_STORED)
    scores: dict[str, Array]
    judged: dict[str, float]
    chosen: Array
    votes: Array
    steps: Array
    evaluations: Array
    residual: Array
    converged: Array
    spent: Array
    overall: Cost
    bands: dict[str, Cost]
    slot_steps: int
    seconds: float

    def tables(self) -> dict[str, Any]:
        """The attributes as plain values, NaN as None, without the predictions."""
        return to_table(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSource:
    """Where examples come from that are no split of the data of the run.

    **Attributes:**

    - `path`: the file or folder.
    - `sha256`: SHA-256 of the arrays of the examples, as `data.json` has it of each split.

    ```python
    >>> import eqloop
    >>> source = eqloop.run.DataSource(path="/data/test.csv", sha256="1f" * 32)
    >>> eqloop.run.Sample(task="sudoku", split="test", source=source, rows=10).name
    'test.1f1f1f1f'

    ```
    """

    path: str
    sha256: str

    @property
    def suffix(self) -> str:
        """What the names of its results in a run folder end in: no split and no cost ends so."""
        return f".{self.sha256[:8]}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """The examples that something was measured on.

    **Attributes:**

    - `task`: name of the task.
    - `split`: name of the split; for all rows of a file, the name of the file without its suffix.
    - `source`: where the examples come from; None for those of the run.
    - `step`: step of the checkpoint.
    - `rows`: number of measured examples.
    - `rows_of_split`: number of examples of the split.

    None stands for what files of earlier versions do not say.

    ```python
    >>> import eqloop
    >>> sample = eqloop.run.Sample(task="sudoku", split="test", rows=10, rows_of_split=1000)
    >>> f"{sample.rows} of {sample.rows_of_split} examples of {sample.split}"
    '10 of 1000 examples of test'

    ```
    """

    task: str
    split: str | None = None
    source: DataSource | None = dataclasses.field(default=None, metadata=OPTIONAL)
    step: int | None = None
    rows: int
    rows_of_split: int | None = None

    @property
    def name(self) -> str:
        """The name of its files: the split, or for other data `SPLIT.HASH`; "" in files of earlier
        versions that do not say the split."""
        return (self.split or "") + ("" if self.source is None else self.source.suffix)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """The content of `eval/SPLIT.json`; see `save_evaluation`.

    **Attributes:**

    - `sample`: the measured examples.
    - `trained_iterations`: the fewest and most iterations in training; None in files of earlier
        versions.
    - `evaluation`: the result.
    """

    sample: Sample = dataclasses.field(metadata=FLAT)
    trained_iterations: tuple[int, int] | None = None
    evaluation: Evaluation = dataclasses.field(metadata=FLAT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CostRecord:
    """The content of `eval/SPLIT-cost.json`; see `save_cost`.

    **Attributes:**

    - `sample`: the examples.
    - `solver`, `rtol`: the solver by its name, and its relative tolerance.
    - `budget`, `restarts`, `select`: the arguments of `eqloop.evaluate.solve`.
    - `solved`: the result.
    """

    sample: Sample = dataclasses.field(metadata=FLAT)
    solver: str
    rtol: float
    budget: int
    restarts: int
    select: Select
    solved: Solved = dataclasses.field(metadata=FLAT)


def evaluation_path(run: Path, split: str) -> Path:
    """The path of an evaluation, `eval/SPLIT.json`.

    **Arguments:**

    - `run`: the run folder.
    - `split`: name of the split.

    **Returns** the path; the file may be missing.

    ```python
    >>> import eqloop, pathlib
    >>> eqloop.run.evaluation_path(pathlib.Path("runs/mine"), "test").as_posix()
    'runs/mine/eval/test.json'

    ```
    """
    return run / EVAL / f"{split}.json"


def cost_path(run: Path, split: str) -> Path:
    """`eval/SPLIT-cost.json`."""
    return run / EVAL / f"{split}-cost.json"


def save_evaluation(run: Path, split: str, record: EvaluationRecord) -> None:
    """Write `eval/SPLIT.json`, in place of an older file.

    **Arguments:**

    - `run`: the run folder, which must exist.
    - `split`: name of the split; for data that are not of the run, the `name` of the sample.
    - `record`: the content.

    **Raises** `InputError` if it cannot be written.

    ```python
    >>> import eqloop, jax.random as jr, pathlib, tempfile
    >>> task = eqloop.tasks.make_task("prefix-sums", {"length": 8, "rows": 20, "test_rows": 4})
    >>> model = eqloop.LoopedTransformer((8,), 1, 2, 8, 2, key=jr.key(0))  # untrained
    >>> result = eqloop.evaluate.evaluate(model, task, task.load().splits["test"], iterations=8)
    >>> sample = eqloop.run.Sample(task=task.name, split="test", rows=4)
    >>> record = eqloop.run.EvaluationRecord(sample=sample, evaluation=result)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     eqloop.run.save_evaluation(pathlib.Path(folder), "test", record)
    ...     stored = eqloop.run.read_evaluation(pathlib.Path(folder), "test")
    >>> stored.evaluation.overall.exact == result.overall.exact, stored.evaluation.predictions.size
    (True, 0)

    ```
    """
    write_record(evaluation_path(run, split), record)


def save_cost(run: Path, split: str, record: CostRecord) -> None:
    """Write `eval/SPLIT-cost.json`, in place of an older file.

    **Arguments:**

    - `run`: the run folder, which must exist.
    - `split`: name of the split; for data that are not of the run, the `name` of the sample.
    - `record`: the content.

    **Raises** `InputError` if it cannot be written.

    ```python
    >>> import eqloop, jax.random as jr, pathlib, tempfile
    >>> task = eqloop.tasks.make_task("prefix-sums", {"length": 8, "rows": 20, "test_rows": 4})
    >>> model = eqloop.LoopedTransformer((8,), 1, 2, 8, 2, key=jr.key(0))  # untrained
    >>> test = task.load().splits["test"]
    >>> result = eqloop.evaluate.solve(model, task, test, budget=2, restarts=2)
    >>> record = eqloop.run.CostRecord(
    ...     sample=eqloop.run.Sample(task=task.name, split="test", rows=4), solver="fixed-point",
    ...     rtol=1e-3, budget=2, restarts=2, select="residual", solved=result,
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     eqloop.run.save_cost(pathlib.Path(folder), "test", record)
    ...     stored = eqloop.run.read_cost(pathlib.Path(folder), "test")
    >>> stored.budget, stored.solved.evaluations.tolist()
    (2, [[2, 2], [2, 2], [2, 2], [2, 2]])

    ```
    """
    write_record(cost_path(run, split), record)


def read_evaluation(run: Path, split: str) -> EvaluationRecord | None:
    """Read `eval/SPLIT.json`.

    **Arguments:**

    - `run`: the run folder.
    - `split`: name of the split; for data that are not of the run, the `name` of the sample.

    **Returns** the record, without predictions; None if there is no such file.

    **Raises** `InputError` if the file is damaged, of another split or of other data.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     eqloop.run.read_evaluation(pathlib.Path(folder), "test") is None  # not evaluated yet
    True

    ```
    """

    def checked(table: Mapping[str, Any]) -> EvaluationRecord:
        record = from_table(EvaluationRecord, table)
        _check_name(record.sample, split)
        _check(record.evaluation)
        return record

    path = evaluation_path(run, split)
    return read_record(path, checked, _again(run)) if path.exists() else None


def read_cost(run: Path, split: str) -> CostRecord | None:
    """Read `eval/SPLIT-cost.json`.

    **Arguments:**

    - `run`: the run folder.
    - `split`: name of the split; for data that are not of the run, the `name` of the sample.

    **Returns** the record, without predictions; None if there is no such file.

    **Raises** `InputError` if the file is damaged, of another split or of other data.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     eqloop.run.read_cost(pathlib.Path(folder), "test") is None  # not solved yet
    True

    ```
    """

    def checked(table: Mapping[str, Any]) -> CostRecord:
        record = from_table(CostRecord, table)
        _check_name(record.sample, split)
        return record

    path = cost_path(run, split)
    return read_record(path, checked, _again(run)) if path.exists() else None


def _check_name(sample: Sample, name: str) -> None:
    """**Raises** `ValueError` if the file of this name is of other examples."""
    if sample.name not in ("", name):
        raise ValueError(f"it is of {sample.name!r}")


def _check(evaluation: Evaluation) -> None:
    """**Raises** `ValueError` for a grid of iterations or a share that none can be."""
    grid = evaluation.iterations
    if not grid or min(grid) < 1:
        raise ValueError("no iterations")
    for curve in (evaluation.overall, *evaluation.bands.values()):
        if len(list(map(share, curve.exact))) != len(grid):
            raise ValueError("as many scores as iterations are needed")


def _again(run: Path) -> str:
    return f"measure it again: eqloop eval {run}"
