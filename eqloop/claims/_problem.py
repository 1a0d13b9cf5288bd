"""A model on examples of a task as a map, inputs and a loss, whose stability can be measured."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from .._cross_entropy import cross_entropy
from .._model import AbstractLoopedModel
from .._task import Split, Task


class RecurrentMap(eqx.Module):
    """`f(z, e)`: one iteration as a function of the state and the embedding of the input."""

    loop: Any

    def __call__(
        self, z: Float[Array, "*grid width"], e: Float[Array, "*grid width"]
    ) -> Float[Array, "*grid width"]:
        return self.loop(z, self.loop.inject(e))


class ReadOut(eqx.Module):
    """The loss of a state: the cross-entropy of the logits of the coda."""

    coda: Any

    def __call__(self, z: Float[Array, "*grid width"], target: UInt8[Array, "*grid"]) -> Array:
        return cross_entropy(self.coda(z), target)


@dataclasses.dataclass(frozen=True)
class Problem:
    """The arguments of `eqloop.stability.analyse` for a model on a task.

    **Attributes:**

    - `f`: the map; `f(z, e)`.
    - `start`: the function from an embedding to the start of its loop; `z0s`.
    - `inputs`: embeddings of the examples; `xs`.
    - `loss`: the loss of a state and a target.
    - `targets`: the targets of the examples.

    ```python
    >>> import eqloop, jax, jax.random as jr
    >>> task = eqloop.tasks.make_task("prefix-sums", {"length": 8})
    >>> model = eqloop.LoopedTransformer((8,), 1, 2, 8, 2, key=jr.key(0))
    >>> problem = eqloop.claims.make_problem(model, task, task.generate(3, seed=0))
    >>> e = problem.inputs[0]
    >>> jax.eval_shape(problem.f, problem.start(e), e).shape
    (8, 8)

    ```
    """

    f: RecurrentMap
    start: Callable[[Any], Any]
    inputs: Float[Array, "examples *grid width"]
    loss: ReadOut
    targets: UInt8[Array, "examples *grid"]


def make_problem(model: AbstractLoopedModel, task: Task, split: Split) -> Problem:
    """The loop of a model on the examples of a split.

    **Arguments:**

    - `model`, `task`: a model, and the task that encodes its inputs.
    - `split`: the examples.

    **Returns** the arguments of `eqloop.stability.analyse`.

    ```python
    >>> import eqloop, jax.random as jr
    >>> task = eqloop.tasks.make_task("prefix-sums", {"length": 8, "rows": 8, "test_rows": 4})
    >>> model = eqloop.LoopedTransformer((8,), 1, 2, 8, 2, key=jr.key(0))
    >>> problem = eqloop.claims.make_problem(model, task, task.load().splits["test"].evenly(3))
    >>> problem.inputs.shape
    (3, 8, 8)

    ```
    """
    return Problem(
        f=RecurrentMap(model.loop()),
        start=model.first_state,
        inputs=_embed(model, task, jnp.asarray(split.inputs)),
        loss=ReadOut(model.coda),
        targets=jnp.asarray(split.targets),
    )


@eqx.filter_jit
def _embed(model: AbstractLoopedModel, task: Task, tokens: Array) -> Array:
    return jax.vmap(lambda puzzle: model.embed(task.encode(puzzle)))(tokens)
