"""`evaluate` on a split of a run, kept in its folder."""

from .._model import LoopedTransformer
from .._task import Progress, Split, Task
from ..run import Run, record_of, save_evaluation, trained_iterations
from ._curves import Evaluation, evaluate


def at_most(split: Split, rows: int) -> Split:
    """At most `rows` examples of a split, evenly spread; 0 for all."""
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
    """`evaluate` on the split `name`, at most `rows` examples of it (0: all), saved in the run;
    `step` is that of the checkpoint that `model` is."""
    some = at_most(split, rows)
    found = evaluate(model, task, some, iterations=iterations, work=work, progress=progress)
    record = record_of(task, name, step, found.overall.examples, split)
    record["trained_iterations"] = trained_iterations(run.spec)
    save_evaluation(run, name, record | found.tables())
    return found
