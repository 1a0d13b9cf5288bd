"""What a sweep will take, before it is run: operations counted, the rate of this machine measured
on a few steps of one of its cells."""

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
    """**Attributes:**

    - `flops`: per second, in training steps, as `Cost` counts them.
    - `compiling`: seconds until the first step of a shape is done.
    """

    flops: float
    compiling: float


def flops(cell: Cell) -> tuple[float, float]:
    """Of training and of evaluating a cell; of the latter at most: examples may stop early. A
    split of which all rows are wanted counts as 1,000."""
    cost, wanted = count(cell.spec.model), cell.evaluate
    reads = max(1, 2 * wanted.iterations.bit_length())
    examples = (wanted.rows or 1000) * len(wanted.splits)
    return cost.training(cell.spec), cost.evaluation(examples, wanted.iterations, reads)


def measure_rate(cell: Cell, task: Task) -> Rate:
    """Of this machine, as it is now: one step of a cell to compile, and a few to time. **Raises**
    `InputError` where it has not the memory for the cell."""
    check_memory(cell.spec)
    spec, split = cell.spec, task.load().splits["train"]
    data, order = put(split), make_order(spec.train, split)
    method = Objects(**cell.objects).method(spec)
    step, state = make_step(spec, task, method=method), init_state(spec)
    began = time.perf_counter()
    state, metrics = step(data, state, order(0))
    jax.block_until_ready(metrics)
    compiled = time.perf_counter()
    seen = 0.0
    for index in range(1, 1 + STEPS):
        state, metrics = step(data, state, order(index))
        seen += float(metrics["evaluations"])
    seconds = time.perf_counter() - compiled
    # The loss may draw how often it iterates: what these few steps drew, not what it draws on
    # average.
    forward, differentiated, _ = iterations(spec)
    drawn = seen / STEPS / (forward + differentiated)
    per_step = count(spec.model).training(spec) / spec.train.steps
    return Rate(drawn * per_step * STEPS / seconds, compiled - began)
