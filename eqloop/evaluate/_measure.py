"""`evaluate` on a split of a run, saved in the run's folder."""

from .._model import LoopedTransformer
from .._task import Progress, Split, Task
from ..run import (
    Evaluation,
    EvaluationRecord,
    Run,
    Sample,
    save_evaluation,
    trained_iterations,
)
from ._curves import evaluate


def at_most(split: Split, rows: int) -> Split:
    """At most `rows` evenly spread examples of a split; the split itself if `rows` is 0."""
    return split.evenly(rows) if 0 < rows < len(split) else split


def measure(
    run: Run,
    step: int,
    model: LoopedTransformer,
    task: Task,
    name: str,
    split: Split,
    *,
    iterations: int,
    rows: int = 0,
    work: float | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Call `evaluate` on a split of a run, and save the result in the run's folder.

    **Arguments:**

    - `run`: the run, whose folder receives `eval/NAME.json`.
    - `step`: step of the checkpoint that `model` was read from.
    - `model`, `task`: the model of that checkpoint, and its task.
    - `name`, `split`: the split.
    - `rows`: maximum number of examples, evenly spread; 0 for all.
    - `iterations`, `work`, `progress`: see `evaluate`.

    **Returns** the `Evaluation`. **Raises** `InputError` as `evaluate`, and if the file cannot be
    written.
    """
    sample = at_most(split, rows)
    evaluation = evaluate(model, task, sample, iterations=iterations, work=work, progress=progress)
    rows = evaluation.overall.examples
    record = EvaluationRecord(
        sample=Sample(task=task.name, split=name, step=step, rows=rows, rows_of_split=len(split)),
        trained_iterations=trained_iterations(run.spec),
        evaluation=evaluation,
    )
    save_evaluation(run.path, name, record)
    return evaluation
