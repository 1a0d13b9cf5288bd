"""Estimate the time of a sweep before it runs: counted operations, and the speed of this machine,
measured on a few steps of one cell."""

import dataclasses
import time

import jax

from .._task import Task
from ..train import Objects, check_memory, init_state, make_order, make_step, put
from ._cost import count, iterations
from ._grid import Cell

STEPS = 3


@dataclasses.dataclass(frozen=True)
class Rate:
    """The speed of a machine.

    **Attributes:**

    - `flops`: floating-point operations per second in training steps, as `Cost` counts them.
    - `compiling`: seconds until the first step of a shape is finished.

    ```python
    >>> import eqloop
    >>> rate = eqloop.sweep.Rate(flops=1e9, compiling=5.0)
    >>> rate.compiling + 6e10 / rate.flops  # seconds of a run of 6e10 FLOPs
    65.0

    ```
    """

    flops: float
    compiling: float


def flops(cell: Cell) -> tuple[float, float]:
    """Count the floating-point operations of a cell.

    Examples may stop early, so that the number of the evaluation is an upper bound. If all rows of
    a split are evaluated, they count as 1,000.

    **Arguments:**

    - `cell`: a cell of a grid.

    **Returns** the FLOPs of training, and those of evaluation.

    ```python
    >>> import eqloop
    >>> model = eqloop.run.ModelSpec(
    ...     width=8, heads=2, attention="full", grid=(8,), channels=1, classes=2
    ... )
    >>> spec = eqloop.run.Spec({"name": "prefix-sums"}, model)
    >>> cell = eqloop.sweep.Cell("one", {}, spec, eqloop.sweep.EvaluateSpec(iterations=16, rows=4))
    >>> training, evaluation = eqloop.sweep.flops(cell)
    >>> training > evaluation > 0
    True

    ```
    """
    cost, options = count(cell.spec.model), cell.evaluate
    reads = max(1, 2 * options.iterations.bit_length())
    examples = (options.rows or 1000) * len(options.splits)
    return cost.training(cell.spec), cost.evaluation(examples, options.iterations, reads)


def measure_rate(cell: Cell, task: Task) -> Rate:
    """Measure the speed of this machine: compile and run one step of a cell, then time a few.

    **Arguments:**

    - `cell`: the cell.
    - `task`: its task.

    **Returns** the speed.

    **Raises** `InputError` if the cell does not fit into memory, and if its data cannot be read.

    ```python
    >>> import eqloop
    >>> make_task = eqloop.tasks.make_task
    >>> settings = ["task.length=8", "task.rows=20", "task.test_rows=4", "model.width=8"]
    >>> settings += ["model.heads=2", "solver.steps=2", "train.steps=2", "train.batch=4"]
    >>> spec = eqloop.run.resolve("prefix-sums", "quick", settings, make_task=make_task)
    >>> cell = eqloop.sweep.Cell("one", {}, spec, eqloop.sweep.EvaluateSpec())
    >>> rate = eqloop.sweep.measure_rate(cell, make_task(spec.task_name, spec.task_fields))
    >>> rate.flops > 0
    True

    ```
    """
    check_memory(cell.spec)
    spec, split = cell.spec, task.load().splits["train"]
    data, order = put(split), make_order(spec.train, split)
    method = Objects(**cell.objects).method(spec)
    step, state = make_step(spec, task, method=method), init_state(spec)
    start = time.perf_counter()
    state, metrics = step(data, state, order(0))
    jax.block_until_ready(metrics)
    compiled = time.perf_counter()
    evaluations = 0.0
    for index in range(1, 1 + STEPS):
        state, metrics = step(data, state, order(index))
        evaluations += float(metrics["evaluations"])
    seconds = time.perf_counter() - compiled
    # The loss may draw its number of iterations: correct for the numbers that these steps drew.
    forward, differentiated, _ = iterations(spec)
    drawn_share = evaluations / STEPS / (forward + differentiated)
    per_step = count(spec.model).training(spec) / spec.train.steps
    return Rate(drawn_share * per_step * STEPS / seconds, compiled - start)
