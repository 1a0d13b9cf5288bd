"""A model on examples of a task, as what stability is measured of: a map, inputs and a loss."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from .._cross_entropy import cross_entropy
from .._model import Coda, LoopedTransformer
from .._task import Split, Task
from ..nn import Loop


class RecurrentMap(eqx.Module):
    """`f(z, e)`: one iteration as a function of the state and of the embedding of the input."""

    loop: Loop

    def __call__(
        self, z: Float[Array, "*grid width"], e: Float[Array, "*grid width"]
    ) -> Float[Array, "*grid width"]:
        return self.loop(z, self.loop.inject(e))


def own_start(e: Float[Array, "*grid width"]) -> Float[Array, "*grid width"]:
    """`z_0 = e`."""
    return e


class ReadOut(eqx.Module):
    """The cross-entropy of the answer that is read off a state."""

    coda: Coda

    def __call__(self, z: Float[Array, "*grid width"], target: UInt8[Array, "*grid"]) -> Array:
        return cross_entropy(self.coda(z), target)


@dataclasses.dataclass(frozen=True)
class Problem:
    """The arguments of `eqloop.stability.analyse`: `f`, `start` (for `z0s`), `inputs` (for `xs`),
    `loss` and `targets`."""

    f: RecurrentMap
    start: Callable[[Any], Any]
    inputs: Float[Array, "examples *grid width"]
    loss: ReadOut
    targets: UInt8[Array, "examples *grid"]


def make_problem(model: LoopedTransformer, task: Task, split: Split) -> Problem:
    """The loop of a model on the examples of a split, as a function of their embeddings."""
    return Problem(
        f=RecurrentMap(model.loop()),
        start=own_start,
        inputs=_embed(model, task, jnp.asarray(split.inputs)),
        loss=ReadOut(model.coda),
        targets=jnp.asarray(split.targets),
    )


@eqx.filter_jit
def _embed(model: LoopedTransformer, task: Task, tokens: Array) -> Array:
    return jax.vmap(lambda each: model.embed(task.encode(each)))(tokens)
