"""Estimate the time of a run before it begins: counted operations, and the speed of this machine,
measured on a few iterations of its loop."""

import statistics
import time

import equinox as eqx
import jax
import numpy as np

from .._build import make_model
from ..run import Spec
from ..train import check_memory
from ._cost import count
from ._grid import Cell

TRAINING = 0.77
"""Speed of training steps relative to that of iterations without gradient, in operations as `Cost`
counts them: from 0.55 to 0.96 for the quick presets and at twice their width, on two cores."""
EXAMPLES = 64
SECONDS = 0.2
LEAST = 5
"""Repetitions of the iteration, also where they take longer than `SECONDS`."""


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


def measure_rate(spec: Spec) -> float:
    """Estimate the speed of this machine in training steps of a run.

    One iteration of its loop is compiled, without gradient, and timed for a fifth of a second on up
    to 64 examples. Training is slower by a factor that was measured once, so that the estimate may
    be wrong by a factor of 1.5. A training step itself would take ten times as long to compile.

    **Arguments:**

    - `spec`: the spec of the run.

    **Returns** floating-point operations per second, as `Cost` counts them.

    **Raises** `InputError` if the run does not fit into memory.

    ```python
    >>> import eqloop
    >>> model = eqloop.run.ModelSpec(
    ...     width=8, heads=2, attention="full", grid=(8,), channels=1, classes=2
    ... )
    >>> spec = eqloop.run.Spec({"name": "prefix-sums"}, model)
    >>> eqloop.sweep.measure_rate(spec) > 0
    True

    ```
    """
    check_memory(spec)
    examples = min(spec.train.batch, EXAMPLES)
    shapes = eqx.filter_eval_shape(make_model, spec.model, jax.random.key(0))
    x = jax.ShapeDtypeStruct((*spec.model.grid, spec.model.channels), np.float32)

    def begin(model, x):
        e = model.embed(x)
        return model.first_state(e), model.loop().inject(e)

    one = eqx.filter_eval_shape(begin, shapes, x)
    # The values do not matter for the time.
    model = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype) if _is_shape(a) else a, shapes)
    z, r = jax.tree.map(lambda a: np.zeros((examples, *a.shape), a.dtype), one)

    @eqx.filter_jit
    def iterate(model, z, r):
        return jax.vmap(model.loop())(z, r)

    model, z, r = jax.block_until_ready(eqx.filter_jit(lambda *trees: trees)(model, z, r))
    jax.block_until_ready(iterate(model, z, r))
    laps, began = [], time.perf_counter()
    while len(laps) < LEAST or time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        jax.block_until_ready(iterate(model, z, r))
        laps.append(time.perf_counter() - start)
    return TRAINING * examples * count(spec.model).iteration / statistics.median(laps)


def _is_shape(leaf: object) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)
