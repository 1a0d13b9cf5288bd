"""How many floating-point operations a run is: counted from its spec, before or after it."""

import dataclasses
import functools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._build import make_model
from .._errors import InputError
from ..run import ModelSpec, Spec, gradient_facts, solver_facts

_BACKWARD = 2
"""A backward pass costs about two forward ones. What is computed again to save memory is left out,
as is usual: it is not what the gradient needs."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """FLOPs of one example (a multiply-add counts as two), and the parameters of the model.

    **Attributes:**

    - `iteration`: one iteration of the loop; `ends`: embedding, injection and readout.
    """

    iteration: float
    ends: float
    parameters: int

    def training(self, spec: Spec) -> float:
        """Of a whole training run, on average over what the loss draws. With a solver that stops
        by itself: an upper bound, as if no solve converged before `solver.max_steps`."""
        total = 0.0
        for stage in spec.stages:
            forward, differentiated, reads = iterations(stage.spec)
            passes = forward + (1 + _BACKWARD) * differentiated
            example = passes * self.iteration + (1 + _BACKWARD) * reads * self.ends
            total += (stage.end - stage.begin) * spec.train.batch * example
        return total

    def evaluation(self, examples: int, iterations: float, reads: int) -> float:
        """Of `examples`, each iterated so often and read out `reads` times."""
        return examples * (iterations * self.iteration + reads * self.ends)


def iterations(spec: Spec) -> tuple[float, float, int]:
    """Of one training example on average: iterations without gradient, with it, and readouts.

    The progressive loss draws `n ~ U{0 .. m-1}` iterations without gradient and then
    `k ~ U{1 .. m-n}` with it, m being `solver.steps`: means `(m - 1) / 2` and `(m + 3) / 4`. A
    start at the solution takes a whole solve before that.
    """
    solver, loss = spec.solver, spec.train.loss
    most = solver.max_steps if solver.converges else solver.steps
    # All laws of a budget have this mean, up to clipping.
    whole = most if solver.budget == "fixed" else (solver.budget_least + most) / 2
    whole *= solver_facts(solver.name).evaluations
    first = whole if solver.start == "solution" else 0
    if loss == "mean":
        return first + spec.train.burn_in / 2, solver.steps, solver.steps
    total = (most - 1) / 2 + (most + 3) / 4 if loss == "progressive" else whole
    gradient = gradient_facts(solver.gradient)
    with_gradient = gradient.differentiated(solver, total)
    if gradient.whole and loss == "progressive":
        with_gradient = (solver.steps + 3) / 4
    # What is not inside the loop comes on top of its iterations.
    forward = total - min(with_gradient, total) * gradient.inside
    # A solve that ends on the way makes one more iteration. Its correction differentiates another
    # one, and reads the state out.
    states = spec.train.correction_states if spec.train.correction else 0
    return first + forward + states, with_gradient + states, 1 + states


@functools.lru_cache(maxsize=64)
def count(model: ModelSpec) -> Cost:
    """As XLA counts the operations of the program for one example, before it is optimised."""
    made = eqx.filter_eval_shape(make_model, model, jax.random.key(0))
    x = jax.ShapeDtypeStruct((*model.grid, model.channels), jnp.float32)

    def ends(model, x):
        e = model.embed(x)
        return model.coda(e), model.loop().inject(e)

    def iteration(model, z, r):
        return model.loop()(z, r)

    e = eqx.filter_eval_shape(lambda model, x: model.embed(x), made, x)
    r = eqx.filter_eval_shape(lambda model, e: model.loop().inject(e), made, e)
    weights = jax.tree.leaves(eqx.filter(made, lambda leaf: hasattr(leaf, "shape")))
    return Cost(
        iteration=_flops(iteration, made, e, r),
        ends=_flops(ends, made, x),
        parameters=sum(math.prod(leaf.shape) for leaf in weights),
    )


def _flops(function, *arguments) -> float:
    dynamic, static = eqx.partition(arguments, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    # JAX counts the operations of a program that is not compiled on a CPU only: on a GPU, whose
    # backend is a plugin, `cost_analysis` returns None.
    with jax.default_device(_cpu()):
        lowered = jax.jit(lambda dynamic: function(*eqx.combine(dynamic, static))).lower(dynamic)
    analysis = lowered.cost_analysis()
    assert analysis is not None
    return float(analysis["flops"])


def _cpu() -> Any:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        raise InputError(
            "JAX has no CPU backend, which counts the operations of a run: let JAX_PLATFORMS name "
            "it too (cuda,cpu), or unset it"
        ) from None
