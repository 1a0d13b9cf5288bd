"""The audit of gradients of a run: on which examples, over how many iterations, and over time."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._adjoint import AbstractGradient, Implicit, Neumann, OneStep
from .._build import make_gradient
from .._task import Split, Task
from ..run import GradientsLine, SolverSpec, gradient_facts
from ._audit import GradientAudit, GradientAuditor

AUDITED = 16
"""Examples of an audit, where no other number is asked for."""


def audited_iterations(spec: SolverSpec) -> int:
    """Iterations of the loop whose gradients are compared: those that training goes back through,
    or the most that its solver may take."""
    return spec.max_steps if spec.converges else spec.steps


def audit_batch(task: Task, split: Split, examples: int) -> tuple[Array, Array]:
    """The encoded inputs and the targets of `examples` evenly spaced examples of a split."""
    chosen = split.evenly(examples)
    return jax.vmap(task.encode)(jnp.asarray(chosen.inputs)), jnp.asarray(chosen.targets)


def watched(
    spec: SolverSpec, gradient: AbstractGradient | None = None
) -> dict[str, AbstractGradient]:
    """The gradients that an audit during training measures: a cheap one of each kind, and the one
    of training, which is `gradient` if it is from outside the package. There are fewer of them
    than in `default_gradients`, since each is compiled."""
    gradients = {"one-step": OneStep(), "neumann-4": Neumann(4), "implicit": Implicit()}
    if gradient is not None:
        return gradients | {type(gradient).__name__: gradient}
    if not gradient_facts(spec.gradient).whole:
        most = audited_iterations(spec)
        own = dataclasses.replace(spec, gradient_steps=min(spec.gradient_steps, most))
        gradients[spec.gradient] = make_gradient(own)
    return gradients


def make_auditor(spec: SolverSpec, gradient: AbstractGradient | None = None) -> GradientAuditor:
    """The auditor of a run in training; `gradient` is the gradient of training if that is an object
    from outside the package."""
    return GradientAuditor(iterations=audited_iterations(spec), gradients=watched(spec, gradient))


def audit_line(step: int, audit: GradientAudit) -> GradientsLine:
    """The line of the log after the optimiser step `step`."""
    totals = {name: gradient.total for name, gradient in audit.gradients.items()}
    return GradientsLine(
        step=step,
        examples=audit.examples,
        iterations=audit.iterations,
        share=audit.share,
        cosine_to_backprop={name: total.backprop.cosine for name, total in totals.items()},
        ratio_to_backprop={name: total.backprop.ratio for name, total in totals.items()},
        cosine_to_implicit={name: total.implicit.cosine for name, total in totals.items()},
        ratio_to_implicit={name: total.implicit.ratio for name, total in totals.items()},
    )
