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
    """

    flops: float
    compiling: float


def flops(cell: Cell) -> tuple[float, float]:
    """Floating-point operations of training a cell, and an upper bound for its evaluation, since
    examples may stop early. If all rows of a split are evaluated, they count as 1,000."""
    cost, options = count(cell.spec.model), cell.evaluate
    reads = max(1, 2 * options.iterations.bit_length())
    examples = (options.rows or 1000) * len(options.splits)
    return cost.training(cell.spec), cost.evaluation(examples, options.iterations, reads)


def measure_rate(cell: Cell, task: Task) -> Rate:
    """Measure the speed of this machine: compile and run one step of a cell, then time a few.
    **Raises** `InputError` if the cell does not fit into memory."""
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
