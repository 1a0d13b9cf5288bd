"""The audit of gradients of a run: on which examples, over how many iterations, and over time."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._adjoint import AbstractGradient, Implicit, Neumann, OneStep
from .._build import make_gradient
from .._task import Split, Task
from ..run import SolverSpec, gradient_facts
from ._audit import GradientAudit, GradientAuditor

AUDITED = 16
"""Examples of an audit, where no other number is asked for."""


def audited_iterations(spec: SolverSpec) -> int:
    """Iterations of the loop whose gradients are compared: those that training goes back through,
    or the most that its solver may take."""
    return spec.max_steps if spec.converges else spec.steps


def audit_batch(task: Task, split: Split, examples: int) -> tuple[Array, Array]:
    """Inputs and targets of so many examples, spread evenly over the split."""
    chosen = split.evenly(examples)
    return jax.vmap(task.encode)(jnp.asarray(chosen.inputs)), jnp.asarray(chosen.targets)


def watched(
    spec: SolverSpec, gradient: AbstractGradient | None = None
) -> dict[str, AbstractGradient]:
    """The gradients that training looks at besides the references: a cheap one of each kind, and
    its own, `gradient` where that is from outside the package. Fewer than `default_gradients`,
    since each is compiled."""
    made = {"one-step": OneStep(), "neumann-4": Neumann(4), "implicit": Implicit()}
    if gradient is not None:
        return made | {type(gradient).__name__: gradient}
    if not gradient_facts(spec.gradient).whole:
        most = audited_iterations(spec)
        own = dataclasses.replace(spec, gradient_steps=min(spec.gradient_steps, most))
        made[spec.gradient] = make_gradient(own)
    return made


def make_auditor(spec: SolverSpec, gradient: AbstractGradient | None = None) -> GradientAuditor:
    """The auditor of a run in training; `gradient` is its own where that is an object of the
    user's."""
    return GradientAuditor(iterations=audited_iterations(spec), gradients=watched(spec, gradient))


def audit_line(audit: GradientAudit) -> dict[str, Any]:
    """What goes into the log: no times, since these differ between runs that are the same."""
    line: dict[str, Any] = {
        "examples": audit.examples,
        "iterations": audit.iterations,
        "share": audit.share,
    }
    for reference in ("backprop", "implicit"):
        for measure in ("cosine", "ratio"):
            line[f"{measure}_to_{reference}"] = {
                name: getattr(getattr(each.total, reference), measure)
                for name, each in audit.gradients.items()
            }
    return line
