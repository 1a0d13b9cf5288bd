"""One example, iteration by iteration: what the model would answer if the loop ended there."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, Shaped, UInt8

from .._model import LoopedTransformer
from .._norms import relative_residual
from .._task import Task
from ._curves import check_grid

_CHUNK = 16


@dataclasses.dataclass(frozen=True)
class Trace:
    """**Attributes:**

    - `predictions`: the answer after each iteration, from the first.
    - `residuals`: `|z_t - z_{t-1}| / |z_t|` of each iteration.
    - `converged`: whether the last residual reached the tolerance.
    """

    predictions: Shaped[np.ndarray, "iterations *grid"]
    residuals: Float[np.ndarray, " iterations"]
    converged: bool

    def changes(self) -> list[int]:
        """The iterations, from 1, after which the answer was not what it was before."""
        flat = self.predictions.reshape(len(self.predictions), -1)
        return [1, *(2 + np.flatnonzero((flat[1:] != flat[:-1]).any(1))).tolist()]


def trace(
    model: LoopedTransformer,
    task: Task,
    tokens: UInt8[np.ndarray, "*grid"],
    *,
    iterations: int,
    rtol: float,
) -> Trace:
    """Plain iterations on one example, until the relative residual is at most `rtol`, and at most
    `iterations` of them. **Raises** `InputError` where the puzzle is too small for the model."""
    check_grid(model, tokens.shape)
    on_device = jnp.asarray(tokens)
    z, r = _start(model, task, on_device)
    predictions, residuals = [], []
    for _ in range(math.ceil(iterations / _CHUNK)):
        z, (some, errors) = _advance(model, task, on_device, z, r)
        predictions.append(np.asarray(some))
        residuals.append(np.asarray(errors))
        # A NaN is no fixed point, but it stays one: nothing is gained by going on.
        if not np.all(residuals[-1] > rtol):
            break
    residual = np.concatenate(residuals)[:iterations]
    below = np.flatnonzero(~(residual > rtol))
    last = below[0] + 1 if below.size else len(residual)
    return Trace(
        np.concatenate(predictions)[:last], residual[:last], bool(residual[last - 1] <= rtol)
    )


@eqx.filter_jit
def _start(model: LoopedTransformer, task: Task, tokens: Array) -> tuple[Array, PyTree]:
    e = model.embed(task.encode(tokens))
    return e, model.loop().inject(e)


@eqx.filter_jit
def _advance(
    model: LoopedTransformer, task: Task, tokens: Array, z: Array, r: PyTree
) -> tuple[Array, tuple[Array, Array]]:
    f = model.loop()

    def body(z: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        new = f(z, r)
        return new, (task.predict(model.coda(new), tokens), relative_residual(new, z))

    return jax.lax.scan(body, z, length=_CHUNK)
