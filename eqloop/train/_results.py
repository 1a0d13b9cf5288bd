"""What is measured of a run and kept in its folder: `eval/SPLIT.json`, `gradients.json`,
`stability/report.json`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._errors import InputError
from .._model import LoopedTransformer
from .._tables import write_json
from .._task import AbstractTask, Progress, Split
from ._config import Spec
from ._evaluate import Evaluation, evaluate
from ._run import Run

EVAL, GRADIENTS, STABILITY = "eval", "gradients.json", "stability"


def at_most(split: Split, rows: int) -> Split:
    """At most `rows` examples of a split, evenly spread; 0 for all."""
    return split.evenly(rows) if 0 < rows < len(split) else split


def measure(
    run: Run,
    step: int,
    model: LoopedTransformer,
    task: AbstractTask,
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


def record_of(
    task: AbstractTask, name: str, step: int, examples: int, split: Split
) -> dict[str, Any]:
    """What the record of a measurement on a number of the examples of a split begins with."""
    return {
        "task": task.name,
        "split": name,
        "step": step,
        "rows": examples,
        "rows_of_split": len(split),
    }


def save_evaluation(run: Run, name: str, table: Mapping[str, Any]) -> Path:
    """Write `eval/NAME.json`, in place of an older one; returns its path."""
    return _save(run.path / EVAL / f"{name}.json", table)


def save_gradients(run: Run, table: Mapping[str, Any]) -> Path:
    """Write `gradients.json`, in place of an older one; returns its path."""
    return _save(run.path / GRADIENTS, table)


def save_stability(run: Run, report: Mapping[str, Any], player: Mapping[str, Any]) -> Path:
    """Write `stability/report.json` and `stability/player.json`, in place of older ones; returns
    their folder."""
    folder = run.path / STABILITY
    _save(folder / "player.json", player)
    _save(folder / "report.json", report)
    return folder


def _save(path: Path, table: Mapping[str, Any]) -> Path:
    try:
        path.parent.mkdir(exist_ok=True)
        write_json(path, table)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
    return path


def trained_iterations(spec: Spec) -> tuple[int, int]:
    """The fewest and the most iterations after which training asks for the answer."""
    solver, loss = spec.solver, spec.train.loss
    if solver.converges:
        return 1, solver.max_steps
    if loss == "last":
        return solver.steps, solver.steps
    return 1, solver.steps + (spec.train.burn_in if loss == "mean" else 0)
