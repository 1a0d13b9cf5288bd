"""What is measured of a model on its task: accuracy over iterations, weight noise, gradients, and
whether its equilibria compute the answer."""

import dataclasses
from collections.abc import Callable, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray

from .._adjoint import AbstractGradient, Implicit, OneStep, Phantom, Truncated
from .._model import AbstractLoopedModel
from .._norms import relative_residual
from .._stability_report import Accuracy, ComparedGradient, WeightNoise
from .._task import Progress, Split, Task
from ..audit import audit_batch, audited_iterations, gradient_audit
from ..evaluate import evaluate
from ..run import Spec, trained_iterations
from ..stability import share
from ._decoder import Decoder
from ._four_tests import PUSHED, Followed, follow, stays_solved
from ._problem import make_problem

NOISE = (0.0, 0.01, 0.03, 0.1)
"""Levels of the noise on the weights, relative to the root mean square of each array."""
AUDITED = 8
"""Number of examples in the batch whose gradients are compared."""
GRADIENTS: dict[str, AbstractGradient] = {
    "one-step": OneStep(),
    "truncated-4": Truncated(4),
    "phantom-8": Phantom(8),
    "implicit": Implicit(),
}
"""One gradient of each kind, because each is compiled; `eqloop gradients` compares more."""


@dataclasses.dataclass(frozen=True)
class TaskMeasurements:
    """**Attributes:**

    - `accuracy`, `weight_noise`, `audit`: parts of the report.
    - `followed`, `stays`: see `four_tests`.
    """

    accuracy: Accuracy
    weight_noise: WeightNoise
    audit: dict[str, ComparedGradient]
    followed: dict[str, Followed]
    stays: Bool[np.ndarray, "examples 3"]


def measure_on_task(
    model: AbstractLoopedModel,
    task: Task,
    splits: Mapping[str, Split],
    spec: Spec,
    *,
    split: str,
    key: PRNGKeyArray,
    iterations: int,
    rtol: float,
    part: Callable[[str], Progress],
) -> TaskMeasurements:
    """Measure the accuracy on all `splits`, weight noise and gradients on the one called `split`,
    and what `four_tests` needs.

    `part` gives the callback for the progress of a part: "accuracy", "weight noise", "gradients",
    "four tests".
    """
    noise_key, push_key = key, jr.fold_in(key, 1 << 20)
    followed, stays = _equilibria(
        model, task, splits, split, push_key, iterations, rtol, part("four tests")
    )
    return TaskMeasurements(
        followed=followed,
        stays=stays,
        accuracy=_accuracy(model, task, splits, spec, iterations, part("accuracy")),
        weight_noise=weight_noise(
            model,
            task,
            splits[split],
            key=noise_key,
            iterations=iterations,
            rtol=rtol,
            progress=part("weight noise"),
        ),
        audit=_audit(model, task, splits[split], spec, iterations, part("gradients")),
    )


def weight_noise(
    model: AbstractLoopedModel,
    task: Task,
    split: Split,
    *,
    key: PRNGKeyArray,
    iterations: int,
    rtol: float = 1e-4,
    progress: Progress | None = None,
) -> WeightNoise:
    """The share of examples solved with Gaussian noise added to all weights.

    The noise of a weight is relative to the root mean square of its array and is drawn once per
    level. The loop runs for `iterations` iterations, or until all residuals are at most `rtol`.
    """
    tokens, targets = jnp.asarray(split.inputs), jnp.asarray(split.targets)
    shares = []
    for number, level in enumerate(NOISE):
        solved = _solved(
            _noisy(model, jr.fold_in(key, number), jnp.asarray(level)),
            task, tokens, targets, jnp.asarray(iterations), jnp.asarray(rtol),
        )  # fmt: skip
        shares.append(share(np.asarray(solved)))
        if progress is not None:
            progress(number + 1, len(NOISE))
    return WeightNoise(
        levels=list(NOISE),
        accuracy=[solved.share for solved in shares],
        low=[solved.low for solved in shares],
        high=[solved.high for solved in shares],
    )


def _accuracy(
    model: AbstractLoopedModel,
    task: Task,
    splits: Mapping[str, Split],
    spec: Spec,
    iterations: int,
    progress: Progress,
) -> Accuracy:
    curves, counts = {}, []
    for number, (name, split) in enumerate(splits.items()):

        def report(done: int, total: int | None, number: int = number) -> None:
            progress(number * (total or 1) + done, len(splits) * (total or 1))

        evaluation = evaluate(model, task, split, iterations=iterations, progress=report)
        curves[name], counts = evaluation.overall.exact, evaluation.iterations
    progress(1, 1)
    return Accuracy(counts, curves, trained_iterations(spec))


def _audit(
    model: AbstractLoopedModel,
    task: Task,
    split: Split,
    spec: Spec,
    max_steps: int,
    progress: Progress,
) -> dict[str, ComparedGradient]:
    iterations = audited_iterations(spec.solver)
    audit = gradient_audit(
        model,
        audit_batch(task, split, min(AUDITED, len(split))),
        iterations=iterations,
        gradients={
            name: gradient
            for name, gradient in GRADIENTS.items()
            if getattr(gradient, "steps", 1) < iterations
        },
        max_steps=max_steps,
        repeats=1,
        progress=progress,
    )
    return {
        name: ComparedGradient(
            cosine_backprop=gradient.total.backprop.cosine,
            cosine_implicit=gradient.total.implicit.cosine,
            ratio_backprop=gradient.total.backprop.ratio,
            ratio_implicit=gradient.total.implicit.ratio,
            seconds=gradient.seconds,
        )
        for name, gradient in audit.gradients.items()
    }


def _equilibria(
    model: AbstractLoopedModel,
    task: Task,
    splits: Mapping[str, Split],
    split: str,
    key: PRNGKeyArray,
    iterations: int,
    rtol: float,
    progress: Progress,
) -> tuple[dict[str, Followed], Bool[np.ndarray, "examples 3"]]:
    solved, followed = Decoder(model.coda, task).solved, {}
    for number, (name, sample) in enumerate(splits.items(), 1):
        problem = make_problem(model, task, sample)
        followed[name] = follow(
            problem.f,
            problem.start,
            solved,
            (problem.inputs, sample.inputs, sample.targets),
            sample.difficulty,
            iterations=iterations,
            rtol=rtol,
        )
        progress(number, len(splits) + 1)
    sample = splits[split].evenly(PUSHED)
    problem = make_problem(model, task, sample)
    stays = stays_solved(
        problem.f,
        problem.start,
        solved,
        (problem.inputs, sample.inputs, sample.targets),
        key=key,
        iterations=iterations,
    )
    progress(1, 1)
    return followed, stays


@eqx.filter_jit
def _noisy(model: AbstractLoopedModel, key: PRNGKeyArray, level: Array) -> AbstractLoopedModel:
    leaves, structure = jax.tree.flatten(model)
    # One draw for all weights: a program with a generator for each array takes seconds to compile.
    draws = jr.normal(key, (sum(leaf.size for leaf in leaves),))
    noisy, begin = [], 0
    for leaf in leaves:
        draw = draws[begin : begin + leaf.size].reshape(leaf.shape)
        noisy.append(leaf + level * jnp.sqrt(jnp.mean(jnp.square(leaf))) * draw)
        begin += leaf.size
    return jax.tree.unflatten(structure, noisy)


@eqx.filter_jit
def _solved(
    model: AbstractLoopedModel,
    task: Task,
    tokens: Array,
    targets: Array,
    iterations: Array,
    rtol: Array,
) -> Bool[Array, " examples"]:
    loop = model.loop(fold=True)
    e = jax.vmap(lambda puzzle: model.embed(task.encode(puzzle)))(tokens)
    r = jax.vmap(loop.inject)(e)

    def unfinished(carry):
        _, count, residual = carry
        return (count < iterations) & jnp.any(residual > rtol)

    def body(carry):
        z, count, _ = carry
        value = jax.vmap(loop)(z, r)
        return value, count + 1, jax.vmap(relative_residual)(value, z)

    begin = (jax.vmap(model.first_state)(e), jnp.zeros((), jnp.int32), jnp.full(len(e), jnp.inf))
    z, _, _ = jax.lax.while_loop(unfinished, body, begin)
    return jax.vmap(Decoder(model.coda, task).solved)(z, tokens, targets)
