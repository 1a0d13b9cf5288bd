"""One process of a sweep: claims a free cell, trains and evaluates it, and takes the next one."""

import dataclasses
import time
import traceback
from collections.abc import Callable

import jax

from .._build import restore
from .._errors import InputError
from .._task import Task
from ..claims import weight_figures
from ..evaluate import measure
from ..run import STATE, CellResult, MakeTask, open_run, trained_seconds
from ..train import Diverged, train
from ._cost import count
from ._folder import Sweep
from ._grid import Cell

Ending = Callable[[Cell, CellResult], None]

MOST_PROGRAMS = 5
"""Settings whose compiled programs a worker holds at a time. Those of one setting took up to 9,000
of the 65,530 memory maps that Linux gives a process, and XLA aborts the process without one."""


def work(sweep: Sweep, *, make_task: MakeTask, ending: Ending | None = None) -> bool:
    """Run the unfinished cells of a sweep one by one, skipping those that other processes have
    claimed. Any number of processes may do so, on all machines that see the folder.

    A cell that fails does not stop the others: the sweep records the reason and the traceback.
    SIGINT and SIGTERM finish the current training step, save, and return.

    **Arguments:**

    - `sweep`: the sweep.
    - `make_task`: see `eqloop.run.resolve`.
    - `ending`: called with each cell that ends here, and its result.

    **Returns** False if it was stopped by a signal.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> make_task = eqloop.tasks.make_task
    >>> settings = ["task.length=8", "task.rows=20", "task.test_rows=4", "train.batch=64"]
    >>> spec = eqloop.run.resolve("prefix-sums", "quick", settings, make_task=make_task)
    >>> cell = eqloop.sweep.Cell("one", {}, spec, eqloop.sweep.EvaluateSpec())
    >>> with tempfile.TemporaryDirectory() as name:
    ...     grid = eqloop.sweep.Grid("one cell", "", (), (cell,), {})
    ...     sweep = eqloop.sweep.create_sweep(pathlib.Path(name, "out"), grid)
    ...     eqloop.sweep.work(sweep, make_task=make_task), sweep.ended(cell).error
    (True, 'train.batch = 64 exceeds the 16 training examples: lower it, or raise task.rows')

    ```
    """
    shape, settings = None, set()
    for cell in sweep.grid.cells:
        if sweep.ended(cell) is not None:
            continue
        with sweep.claim(cell) as ours:
            # It may have ended between the check and the claim.
            if not ours or sweep.ended(cell) is not None:
                continue
            setting = cell.spec.of_all_seeds
            if cell.spec.model != shape or len(settings | {setting}) > MOST_PROGRAMS:
                jax.clear_caches()  # otherwise the programs of all shapes take gigabytes
                shape, settings = cell.spec.model, set()
            settings.add(setting)
            sweep.forget(cell)  # a result may be left of a run that was deleted
            ended = _attempt(sweep, cell, make_task)
            if ended is None:
                return False
            sweep.end(cell, ended)
        if ending is not None:
            ending(cell, ended)
    return True


def _attempt(sweep: Sweep, cell: Cell, make_task: MakeTask) -> CellResult | None:
    """Run a cell; a failure becomes its result. None if a signal stopped it."""
    try:
        return run_cell(sweep, cell, make_task(cell.spec.task_name, cell.spec.task_fields))
    except (InputError, Diverged) as error:
        return CellResult("failed", str(error))
    except Exception as error:
        # An unexpected error must not stop the other cells; its traceback is saved.
        (sweep.path / STATE / f"{cell.name}.txt").write_text(traceback.format_exc())
        return CellResult("failed", f"{type(error).__name__}: {error}".splitlines()[0])


def run_cell(sweep: Sweep, cell: Cell, task: Task) -> CellResult | None:
    """Train one cell, or continue its run, and evaluate it. None if a signal stopped it."""
    path, options = sweep.run(cell), cell.evaluate
    splits = task.load().splits
    for name in options.splits:
        if name not in splits:
            raise InputError(f"evaluate.splits: the task has no {name}, only {', '.join(splits)}")
    splits = {
        name: splits[name] for name in options.splits
    }  # training loads the other splits itself
    resume = sweep.opened(cell) is not None
    if train(cell.spec, task, path, resume=resume, **cell.objects).status == "interrupted":
        return None
    start = time.perf_counter()
    run = open_run(path)
    model, step = restore(run, options.checkpoint)
    cost, flops = count(cell.spec.model), 0.0
    for name, split in splits.items():
        evaluation = measure(
            run, step, model, task, name, split, iterations=options.iterations, rows=options.rows
        )
        examples = evaluation.overall.examples
        flops += cost.evaluation(
            examples, evaluation.iterations_run / examples, len(evaluation.iterations)
        )
    return CellResult(
        "finished",
        seconds={
            "train": trained_seconds(run.metrics) or 0.0,
            "evaluate": time.perf_counter() - start,
        },
        flops={"train": cost.training(cell.spec), "evaluate": flops},
        evaluated=dataclasses.asdict(options),
        parameters=cost.parameters,
        rho_w_x=weight_figures(model).get("rho_w_x"),
    )
