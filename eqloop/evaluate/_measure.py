"""`evaluate` on a split of a run, saved in the run's folder."""

from .._model import AbstractLoopedModel
from .._task import Progress, Split, Task
from ..run import (
    DataSource,
    Evaluation,
    EvaluationRecord,
    Run,
    Sample,
    save_evaluation,
    trained_iterations,
)
from ._curves import evaluate


def at_most(split: Split, rows: int) -> Split:
    """Take at most `rows` evenly spread examples of a split.

    **Arguments:**

    - `split`: the examples.
    - `rows`: maximum number of examples; 0 for all.

    **Returns** the examples; the split itself if it has no more than `rows`.

    ```python
    >>> import eqloop
    >>> split = eqloop.Split.of([[0], [1], [2], [3]], [[0], [1], [2], [3]])
    >>> eqloop.evaluate.at_most(split, 2).inputs.tolist(), len(eqloop.evaluate.at_most(split, 0))
    ([[0], [2]], 4)

    ```
    """
    return split.evenly(rows) if 0 < rows < len(split) else split


def measure(
    run: Run,
    step: int,
    model: AbstractLoopedModel,
    task: Task,
    name: str,
    split: Split,
    *,
    iterations: int,
    rows: int = 0,
    work: float | None = None,
    source: DataSource | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Call `evaluate` on a split of a run, and save the result in the run's folder.

    **Arguments:**

    - `run`: the run, whose folder receives `eval/NAME.json`, or `eval/NAME.HASH.json` if there is a
        `source`.
    - `step`: step of the checkpoint that `model` was read from.
    - `model`, `task`: the model of that checkpoint, and its task.
    - `name`, `split`: the name of the split and its examples.
    - `rows`: maximum number of examples, evenly spread; 0 for all.
    - `source`: where the examples come from; None for the data of the run.
    - `iterations`, `work`, `progress`: see `evaluate`.

    **Returns** the `Evaluation`.

    **Raises** `InputError` as `evaluate`, and if the file cannot be written.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> fields = {"length": 8, "rows": 20, "test_rows": 4}
    >>> task = eqloop.tasks.make_task("prefix-sums", fields)
    >>> data = task.load()
    >>> table = eqloop.run.ModelSpec(8, 2, attention="full", grid=(8,), channels=1, classes=2)
    >>> spec = eqloop.run.Spec({"name": task.name, **fields}, table)
    >>> model = eqloop.train.init_state(spec).model  # untrained
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = eqloop.run.create_run(pathlib.Path(folder, "mine"), spec, data.manifest)
    ...     _ = eqloop.evaluate.measure(
    ...         run, 0, model, task, "test", data.splits["test"], iterations=2, rows=3
    ...     )
    ...     record = eqloop.run.read_evaluation(run.path, "test")
    >>> record.sample.rows, record.sample.rows_of_split, record.evaluation.iterations
    (3, 4, [1, 2])

    ```
    """
    sample = at_most(split, rows)
    evaluation = evaluate(model, task, sample, iterations=iterations, work=work, progress=progress)
    rows = evaluation.overall.examples
    measured = Sample(
        task=task.name, split=name, source=source, step=step, rows=rows, rows_of_split=len(split)
    )
    record = EvaluationRecord(
        sample=measured,
        trained_iterations=trained_iterations(run.spec),
        evaluation=evaluation,
    )
    save_evaluation(run.path, measured.name, record)
    return evaluation
