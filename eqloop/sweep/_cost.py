"""Count the floating-point operations of a run from its spec."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxpr_as_fun, jaxprs_in_params
from jax.extend.core.primitives import scan_p

from .._build import make_model
from .._errors import InputError
from ..run import PENALTIES, ModelSpec, Spec, gradient_facts, solver_facts

_BACKWARD = 2
"""Cost of a backward pass in forward passes. As usual, recomputation that saves memory does not
count."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """FLOPs of one example (a multiply-add counts as two), and the parameters of the model.

    **Attributes:**

    - `iteration`: FLOPs of one iteration of the loop.
    - `ends`: FLOPs of embedding, injection and readout.
    - `parameters`: number of parameters.

    ```python
    >>> import eqloop
    >>> cost = eqloop.sweep.Cost(iteration=1000.0, ends=100.0, parameters=64)
    >>> cost.evaluation(examples=2, iterations=30, reads=1)
    60200.0

    ```
    """

    iteration: float
    ends: float
    parameters: int

    def training(self, spec: Spec) -> float:
        """FLOPs of a whole training run, averaged over the random numbers of the loss. For a solver
        that stops by itself this is an upper bound: `solver.max_steps` steps per solve.

        **Arguments:**

        - `spec`: the spec of the run.

        **Returns** the number of FLOPs.
        """
        total = 0.0
        for stage in spec.stages:
            forward, differentiated, reads = iterations(stage.spec)
            passes = forward + (1 + _BACKWARD) * differentiated
            example = passes * self.iteration + (1 + _BACKWARD) * reads * self.ends
            total += (stage.end - stage.begin) * spec.train.batch * example
        return total

    def evaluation(self, examples: int, iterations: float, reads: int) -> float:
        """FLOPs of an evaluation.

        **Arguments:**

        - `examples`: number of examples.
        - `iterations`: number of iterations per example.
        - `reads`: number of readouts per example.

        **Returns** the number of FLOPs.
        """
        return examples * (iterations * self.iteration + reads * self.ends)


def iterations(spec: Spec) -> tuple[float, float, float]:
    """Mean numbers for one training example: iterations without and with gradient, and readouts.

    The progressive loss draws `n ~ U{0 .. m-1}` iterations without gradient and then
    `k ~ U{1 .. m-n}` with it, m being `solver.steps`: means `(m - 1) / 2` and `(m + 3) / 4`. A
    start at the solution needs a whole solve before that, and the target of `q_continue` one after
    it. Penalties and corrections are those of a share of the steps.
    """
    solver, train, loss = spec.solver, spec.train, spec.train.loss
    max_steps = solver.max_steps if solver.converges else solver.steps
    # All laws of a budget have this mean, up to clipping.
    mean_steps = max_steps if solver.budget == "fixed" else (solver.budget_least + max_steps) / 2
    mean_steps *= solver_facts(solver.name).evaluations
    # A solve that converges makes one more iteration after its last step.
    solves = (solver.start == "solution") + (train.carry_q == "compare")
    without = solves * (mean_steps + solver.converges)
    if loss == "mean":
        return without + train.burn_in / 2, solver.steps, solver.steps
    total = (max_steps - 1) / 2 + (max_steps + 3) / 4 if loss == "progressive" else mean_steps
    gradient = gradient_facts(solver.gradient)
    with_gradient = gradient.differentiated(solver, total)
    if gradient.whole and loss == "progressive":
        with_gradient = (solver.steps + 3) / 4
    # A gradient outside the loop adds its iterations to those of the loop.
    forward = total - min(with_gradient, total) * gradient.inside
    penalties = [facts for name, facts in PENALTIES.items() if getattr(train, name)]
    # A solve that ends on the way makes one more iteration. Its correction differentiates another
    # iteration, and decodes the state.
    states = train.correction_states if train.correction else 0
    terms = states + sum(facts.differentiated for facts in penalties)
    share = train.penalty_share
    return without + forward + states, with_gradient + share * terms, 1 + share * states


@functools.lru_cache(maxsize=64)
def count(model: ModelSpec) -> Cost:
    """Count the operations of the program for one example, as XLA counts them before optimisation.

    **Arguments:**

    - `model`: the table `[model]` of a spec, with `grid`, `channels` and `classes`.

    **Returns** the cost of one example.

    **Raises** `InputError` if JAX has no CPU backend.

    ```python
    >>> import eqloop
    >>> model = eqloop.run.ModelSpec(
    ...     width=8, heads=2, attention="full", grid=(8,), channels=1, classes=2
    ... )
    >>> cost = eqloop.sweep.count(model)
    >>> cost.parameters, cost.iteration > cost.ends > 0
    (1114, True)

    ```
    """
    shapes = eqx.filter_eval_shape(make_model, model, jax.random.key(0))
    x = jax.ShapeDtypeStruct((*model.grid, model.channels), jnp.float32)

    def ends(model, x):
        e = model.embed(x)
        return model.coda(model.first_state(e)), model.loop().inject(e)

    def iteration(model, z, r):
        return model.loop()(z, r)

    e = eqx.filter_eval_shape(lambda model, x: model.embed(x), shapes, x)
    z = eqx.filter_eval_shape(lambda model, e: model.first_state(e), shapes, e)
    r = eqx.filter_eval_shape(lambda model, e: model.loop().inject(e), shapes, e)
    weights = jax.tree.leaves(eqx.filter(shapes, lambda leaf: hasattr(leaf, "shape")))
    return Cost(
        iteration=_flops(iteration, shapes, z, r),
        ends=_flops(ends, shapes, x),
        parameters=sum(math.prod(leaf.shape) for leaf in weights),
    )


def _flops(function, *arguments) -> float:
    dynamic, static = eqx.partition(arguments, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    program = jax.make_jaxpr(lambda dynamic: function(*eqx.combine(dynamic, static)))(dynamic)
    return _counted(program) + _uncounted(program.jaxpr)


def _uncounted(jaxpr: Jaxpr) -> float:
    """The operations of the steps of scans but their first: XLA counts the body of a scan once."""
    total = 0.0
    for scan in _scans(jaxpr):
        length, body = scan.params["length"], scan.params["jaxpr"]
        total += (length - 1) * _counted(body) + length * _uncounted(body.jaxpr)
    return total


def _scans(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """The scans of a program that are not inside of another scan."""
    for equation in jaxpr.eqns:
        if equation.primitive is scan_p:
            yield equation
        else:
            for inner in jaxprs_in_params(equation.params):
                yield from _scans(inner)


def _counted(program: ClosedJaxpr) -> float:
    # JAX counts the operations of a program that is not compiled on a CPU only: on a GPU, whose
    # backend is a plugin, `cost_analysis` returns None.
    with jax.default_device(_cpu()):
        analysis = jax.jit(jaxpr_as_fun(program)).lower(*program.in_avals).cost_analysis()
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
