"""The answer of the model after each iteration on one example."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, Shaped, UInt8

from .._model import AbstractLoopedModel
from .._norms import relative_residual
from .._task import Task

_CHUNK = 16


@dataclasses.dataclass(frozen=True)
class Trace:
    """The result of `trace`.

    **Attributes:**

    - `predictions`: the answer after each iteration, of shape (iterations, *grid).
    - `residuals`: the relative residual `|z_t - z_{t-1}| / |z_t|` of each iteration, of shape
        (iterations,).
    - `converged`: whether the last residual is at most the tolerance.

    ```python
    >>> import eqloop, numpy as np
    >>> answers, residuals = np.array([[0, 0], [0, 1], [0, 1]]), np.array([1.0, 0.1, 0.01])
    >>> eqloop.evaluate.Trace(answers, residuals, converged=False).changes()
    [1, 2]

    ```
    """

    predictions: Shaped[np.ndarray, "iterations *grid"]
    residuals: Float[np.ndarray, " iterations"]
    converged: bool

    def changes(self) -> list[int]:
        """The iterations, counted from 1, that change the answer; the first one always does."""
        flat = self.predictions.reshape(len(self.predictions), -1)
        return [1, *(2 + np.flatnonzero((flat[1:] != flat[:-1]).any(1))).tolist()]


def trace(
    model: AbstractLoopedModel,
    task: Task,
    tokens: UInt8[np.ndarray, "*grid"],
    *,
    iterations: int,
    rtol: float,
) -> Trace:
    """Iterate the loop on one example and read the answer after each iteration.

    **Arguments:**

    - `model`, `task`: the model, and the task that encodes the puzzle.
    - `tokens`: the puzzle, as a row of `Split.inputs`.
    - `iterations`: maximum number of iterations.
    - `rtol`: relative residual at which iteration stops.

    **Returns** a `Trace`.

    **Raises** `InputError` if the puzzle is too small for the model, and `ValueError` for
    `iterations` below 1.

    ```python
    >>> import eqloop, jax.random as jr
    >>> task = eqloop.tasks.make_task("prefix-sums", {"length": 8, "rows": 20, "test_rows": 4})
    >>> model = eqloop.LoopedTransformer((8,), 1, 2, 8, 2, key=jr.key(0))  # untrained
    >>> puzzle = task.parse("01100101").inputs[0]
    >>> traced = eqloop.evaluate.trace(model, task, puzzle, iterations=64, rtol=1e-3)
    >>> traced.converged, traced.predictions.shape == (len(traced.residuals), 8)
    (True, True)

    ```
    """
    model.check_grid(tokens.shape)
    on_device = jnp.asarray(tokens)
    z, r = _start(model, task, on_device)
    predictions, residuals = [], []
    for _ in range(math.ceil(iterations / _CHUNK)):
        z, (answers, errors) = _advance(model, task, on_device, z, r)
        predictions.append(np.asarray(answers))
        residuals.append(np.asarray(errors))
        # A residual of NaN ends the trace as well: all later ones are NaN.
        if not np.all(residuals[-1] > rtol):
            break
    residual = np.concatenate(residuals)[:iterations]
    below = np.flatnonzero(~(residual > rtol))
    last = below[0] + 1 if below.size else len(residual)
    return Trace(
        np.concatenate(predictions)[:last], residual[:last], bool(residual[last - 1] <= rtol)
    )


@eqx.filter_jit
def _start(model: AbstractLoopedModel, task: Task, tokens: Array) -> tuple[Array, PyTree]:
    e = model.embed(task.encode(tokens))
    return model.first_state(e), model.loop().inject(e)


@eqx.filter_jit
def _advance(
    model: AbstractLoopedModel, task: Task, tokens: Array, z: Array, r: PyTree
) -> tuple[Array, tuple[Array, Array]]:
    f = model.loop()

    def body(z: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        new = f(z, r)
        return new, (task.predict(model.coda(new), tokens), relative_residual(new, z))

    return jax.lax.scan(body, z, length=_CHUNK)
