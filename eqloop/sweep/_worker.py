"""One process of a sweep: takes a cell that nobody works at, trains and evaluates it, takes the
next."""

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


def work(sweep: Sweep, *, make_task: MakeTask, ending: Ending | None = None) -> bool:
    """Do the cells of a sweep that have not ended, one after the other, but for those that other
    processes work at. Any number of processes, on any machines that see the folder, may do so.

    A cell that fails does not stop the others: the reason is kept, the traceback beside it.
    SIGINT and SIGTERM end the training step under way, save, and return.

    **Returns** False if it was stopped by a signal.
    """
    shape = None
    for cell in sweep.grid.cells:
        if sweep.ended(cell) is not None:
            continue
        with sweep.claim(cell) as ours:
            # It may have ended between the look and the claim.
            if not ours or sweep.ended(cell) is not None:
                continue
            if cell.spec.model != shape:
                jax.clear_caches()  # or the programs of all shapes add up to gigabytes
                shape = cell.spec.model
            sweep.forget(cell)  # what is still said of a run that is gone
            ended = _attempt(sweep, cell, make_task)
            if ended is None:
                return False
            sweep.end(cell, ended)
        if ending is not None:
            ending(cell, ended)
    return True


def _attempt(sweep: Sweep, cell: Cell, make_task: MakeTask) -> CellResult | None:
    """None where a signal stopped it."""
    try:
        return run_cell(sweep, cell, make_task(cell.spec.task_name, cell.spec.task_fields))
    except (InputError, Diverged) as error:
        return CellResult("failed", str(error))
    except Exception as error:
        # Whatever it was, the other cells are not to blame; nothing of it is lost.
        (sweep.path / STATE / f"{cell.name}.txt").write_text(traceback.format_exc())
        return CellResult("failed", f"{type(error).__name__}: {error}".splitlines()[0])


def run_cell(sweep: Sweep, cell: Cell, task: Task) -> CellResult | None:
    """Train one cell, or go on with its run, and evaluate it. None where a signal stopped it."""
    path, wanted = sweep.run(cell), cell.evaluate
    splits = task.load().splits
    for name in wanted.splits:
        if name not in splits:
            raise InputError(f"evaluate.splits: the task has no {name}, only {', '.join(splits)}")
    splits = {name: splits[name] for name in wanted.splits}  # training has its own of the others
    resume = sweep.opened(cell) is not None
    if train(cell.spec, task, path, resume=resume, **cell.objects).status == "interrupted":
        return None
    began = time.perf_counter()
    run = open_run(path)
    model, step = restore(run, wanted.checkpoint)
    cost, flops = count(cell.spec.model), 0.0
    for name, split in splits.items():
        found = measure(
            run, step, model, task, name, split, iterations=wanted.iterations, rows=wanted.rows
        )
        examples = found.overall.examples
        flops += cost.evaluation(examples, found.iterations_run / examples, len(found.iterations))
    return CellResult(
        "finished",
        seconds={
            "train": trained_seconds(run.metrics) or 0.0,
            "evaluate": time.perf_counter() - began,
        },
        flops={"train": cost.training(cell.spec), "evaluate": flops},
        evaluated=dataclasses.asdict(wanted),
        parameters=cost.parameters,
        rho_w_x=weight_figures(model).get("rho_w_x"),
    )
