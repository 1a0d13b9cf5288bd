"""A whole report on a model and its task."""

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray

from .. import stability
from .._adjoint import AbstractGradient, Implicit, OneStep, Phantom, Truncated
from .._iteration import advance
from .._model import LoopedTransformer
from .._norms import relative_residual
from .._task import Split, Task
from ..audit import GradientAudit, audit_batch, audited_iterations, gradient_audit
from ..evaluate import at_most, evaluate
from ..run import Spec, trained_iterations
from ..stability import COMPILE, StabilityReport, analyse, share
from ._problem import make_problem
from ._theory import compare, predict
from ._weights import attention_entropy, weight_figures

NOISE = (0.0, 0.01, 0.03, 0.1)
"""Of weights, relative to the root mean square of each array."""
AUDITED = 8
GRADIENTS: dict[str, AbstractGradient] = {
    "one-step": OneStep(),
    "truncated-4": Truncated(4),
    "phantom-8": Phantom(8),
    "implicit": Implicit(),
}
"""One of each kind, since each is compiled; `eqloop gradients` has more."""

Progress = Callable[[str, int, int | None], None]


def examine(
    model: LoopedTransformer,
    task: Task,
    splits: Mapping[str, Split],
    spec: Spec,
    *,
    split: str,
    examples: int = 64,
    iterations: int = 512,
    rtol: float = 1e-4,
    detail: int = 16,
    key: PRNGKeyArray | None = None,
    progress: Progress | None = None,
    concurrent: bool = False,
) -> dict[str, Any]:
    """The tables of a `StabilityReport` on one split, and what takes a task to measure:

    - `reachability.accuracy`: `{"iterations", "splits": split -> share solved, "trained"}`;
    - `geometry.audit`: gradient -> its cosine and ratio to both references, and its seconds (see
      `eqloop.gradient_audit`);
    - `geometry.weight_noise`: `{"levels", "accuracy", "low", "high"}`, the share solved with
      Gaussian noise on all weights, relative to the root mean square of each array;
    - `spectrum.weights`: see `weight_figures`, and the entropy of attention at the start and
      the end of the loop;
    - `predicted`: what the paper says of this recall and placement, and whether it is so.

    **Arguments:**

    - `splits`: by name; `split`: the one whose loops are examined; accuracy is of all.
    - `spec`: of the run: the model's recall and placement, its solver, what it was trained with.
    - `examples`: of each split at most, evenly spread (0: all); the others as for `analyse`.
    - `progress`: called with the name of the part that is being done, and the work done and its
        whole, in evaluations of the loop (see `planned`).
    - `concurrent`: measure what takes the task while `analyse` runs in a thread of its own. Most of
        a report on a small model is compiling, which takes one core; the figures are the same.
        `progress` is then called by both threads, and settings of JAX that hold in the calling
        thread alone, such as `with jax.enable_x64():`, do not reach `analyse`.
    """
    began = time.perf_counter()
    key = jr.key(0) if key is None else key
    analyse_key, noise_key = jr.split(key)

    chosen = {name: at_most(each, examples) for name, each in splits.items()}
    plan = planned({name: len(each) for name, each in chosen.items()}, split, detail, iterations)
    work_done = dict.fromkeys(plan, 0)
    stopped = threading.Event()

    def part(name: str) -> Callable[[int, int | None], None]:
        def report(done: int, total: int | None) -> None:
            if stopped.is_set():
                raise InterruptedError(f"{name}: stopped")
            work_done[name] = plan[name] * done // max(1, total or 1)
            if progress is not None:
                progress(name, sum(work_done.values()), sum(plan.values()))

        return report

    problem = make_problem(model, task, chosen[split])

    def analyse_map() -> StabilityReport:
        return analyse(
            problem.f,
            problem.start,
            problem.inputs,
            key=analyse_key,
            iterations=iterations,
            rtol=rtol,
            detail=detail,
            loss=problem.loss,
            targets=problem.targets,
            progress=part("stability"),
        )

    def measure_task() -> dict[str, Any]:
        accuracy = _accuracy(model, task, chosen, spec, iterations, part("accuracy"))
        part("accuracy")(1, 1)
        noise = weight_noise(
            model,
            task,
            chosen[split],
            key=noise_key,
            iterations=iterations,
            rtol=rtol,
            progress=part("weight noise"),
        )
        part("weight noise")(1, 1)
        audit = gradient_audit(
            model,
            audit_batch(task, chosen[split], min(AUDITED, len(chosen[split]))),
            iterations=audited_iterations(spec.solver),
            gradients={
                name: gradient
                for name, gradient in GRADIENTS.items()
                if getattr(gradient, "steps", 1) < audited_iterations(spec.solver)
            },
            max_steps=iterations,
            repeats=1,
            progress=part("gradients"),
        )
        return {"accuracy": accuracy, "weight_noise": noise, "audit": audit_table(audit)}

    if concurrent:
        with ThreadPoolExecutor(max_workers=1) as pool:
            analysis = pool.submit(analyse_map)
            try:
                of_task, found = measure_task(), analysis.result()
            except BaseException:
                stopped.set()  # so that the other thread ends at its next report of progress
                raise
    else:
        found, of_task = analyse_map(), measure_task()
    weights = weight_figures(model)
    claims = predict(
        spec.model.recall, spec.model.norm, spec.model.residual, weights.get("rho_w_x")
    )
    report = found.tables()
    report["predicted"] = compare(claims, found.verdict)
    report["spectrum"]["weights"] = weights | _entropy(model, problem.inputs, iterations)
    report["reachability"]["accuracy"] = of_task["accuracy"]
    report["geometry"]["weight_noise"] = of_task["weight_noise"]
    report["geometry"]["audit"] = of_task["audit"]
    report["settings"] |= {
        "split": split,
        "model": dataclasses.asdict(spec.model),
        "seconds": time.perf_counter() - began,
    }
    return report


def planned(
    examples: Mapping[str, int], split: str, detail: int, iterations: int
) -> dict[str, int]:
    """Part of `examine` -> about how many evaluations of the loop it takes; see
    `eqloop.stability.planned`. **Arguments:** `examples`: of each split."""
    count, programs = examples[split], len(GRADIENTS) + 2
    return {
        "stability": sum(stability.planned(count, min(detail, count), iterations).values()),
        "accuracy": sum(examples.values()) * iterations + COMPILE,
        "weight noise": len(NOISE) * count * iterations // 2 + COMPILE,
        "gradients": programs * (min(AUDITED, count) * 100 + COMPILE),
    }


def audit_table(audit: GradientAudit) -> dict[str, dict[str, float]]:
    """Of each gradient its likeness to the two references, and its seconds."""
    return {
        name: {
            "cosine_backprop": each.total.backprop.cosine,
            "cosine_implicit": each.total.implicit.cosine,
            "ratio_backprop": each.total.backprop.ratio,
            "ratio_implicit": each.total.implicit.ratio,
            "seconds": each.seconds,
        }
        for name, each in audit.gradients.items()
    }


def weight_noise(
    model: LoopedTransformer,
    task: Task,
    split: Split,
    *,
    key: PRNGKeyArray,
    iterations: int,
    rtol: float = 1e-4,
    progress: Callable[[int, int | None], None] | None = None,
) -> dict[str, list[float]]:
    """The share of examples solved after so many iterations (fewer where all have settled), with
    noise on the weights, drawn once for each level."""
    tokens, targets = jnp.asarray(split.inputs), jnp.asarray(split.targets)
    found = []
    for number, level in enumerate(NOISE):
        if progress is not None:
            progress(number, len(NOISE))
        solved = _solved(
            _noisy(model, jr.fold_in(key, number), jnp.asarray(level)),
            task, tokens, targets, jnp.asarray(iterations), jnp.asarray(rtol),
        )  # fmt: skip
        found.append(share(np.asarray(solved)))
    return {
        "levels": list(NOISE),
        "accuracy": [each.share for each in found],
        "low": [each.low for each in found],
        "high": [each.high for each in found],
    }


def _accuracy(model, task, splits, spec: Spec, iterations: int, report) -> dict[str, Any]:
    curves, grid = {}, []
    for number, (name, each) in enumerate(splits.items()):

        def show(done: int, total: int | None, number: int = number) -> None:
            report(number * (total or 1) + done, len(splits) * (total or 1))

        measured = evaluate(model, task, each, iterations=iterations, progress=show)
        curves[name], grid = measured.overall.scores["exact"], measured.iterations
    return {"iterations": grid, "splits": curves, "trained": list(trained_iterations(spec))}


def _entropy(model: LoopedTransformer, inputs: Array, iterations: int) -> dict[str, float]:
    """Of the attention at the start, and after `iterations` on a few of the examples."""
    few = inputs[:AUDITED]
    ends = _after(model, few, jnp.asarray(iterations, jnp.int32))
    return {
        "attention_entropy_start": float(np.mean(attention_entropy(model, inputs, inputs))),
        "attention_entropy_end": float(np.mean(attention_entropy(model, ends, few))),
    }


@eqx.filter_jit
def _after(model: LoopedTransformer, inputs: Array, iterations: Array) -> Array:
    loop = model.loop(fold=True)
    return jax.vmap(lambda e: advance(loop, e, loop.inject(e), iterations))(inputs)


@eqx.filter_jit
def _noisy(model: LoopedTransformer, key: PRNGKeyArray, level: Array) -> LoopedTransformer:
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
    model: LoopedTransformer,
    task: Task,
    tokens: Array,
    targets: Array,
    iterations: Array,
    rtol: Array,
) -> Bool[Array, " examples"]:
    loop = model.loop(fold=True)
    e = jax.vmap(lambda each: model.embed(task.encode(each)))(tokens)
    r = jax.vmap(loop.inject)(e)

    def going(carry):
        _, count, residual = carry
        return (count < iterations) & jnp.any(residual > rtol)

    def body(carry):
        z, count, _ = carry
        value = jax.vmap(loop)(z, r)
        return value, count + 1, jax.vmap(relative_residual)(value, z)

    begin = (e, jnp.zeros((), jnp.int32), jnp.full(len(e), jnp.inf))
    z, _, _ = jax.lax.while_loop(going, body, begin)

    def right(z, tokens, targets):
        return task.score(task.predict(model.coda(z), tokens), tokens, targets)["exact"].astype(
            bool
        )

    return jax.vmap(right)(z, tokens, targets)
