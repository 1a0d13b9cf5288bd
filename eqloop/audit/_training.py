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
    or the most that its solver may take.

    **Arguments:**

    - `spec`: the table `[solver]` of the run.

    **Returns** the number of iterations.

    ```python
    >>> import eqloop
    >>> eqloop.audit.audited_iterations(eqloop.run.SolverSpec(steps=30))
    30

    ```
    """
    return spec.max_steps if spec.converges else spec.steps


def audit_batch(task: Task, split: Split, examples: int) -> tuple[Array, Array]:
    """Encode evenly spaced examples of a split.

    **Arguments:**

    - `task`: the task, which encodes the examples.
    - `split`: the split.
    - `examples`: maximum number of examples.

    **Returns** the inputs, of shape (examples, *grid, channels), and the targets, of shape
    (examples, *grid).

    ```python
    >>> import eqloop
    >>> task = eqloop.tasks.make_task("prefix-sums", {"length": 8})
    >>> inputs, targets = eqloop.audit.audit_batch(task, task.generate(8, seed=0), 4)
    >>> inputs.shape, targets.shape
    ((4, 8, 1), (4, 8))

    ```
    """
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
    """The auditor of a run in training.

    **Arguments:**

    - `spec`: the table `[solver]` of the run.
    - `gradient`: the gradient of training if that is an object from outside the package.

    **Returns** an auditor of a cheap gradient of each kind and of that of training.

    ```python
    >>> import eqloop
    >>> auditor = eqloop.audit.make_auditor(eqloop.run.SolverSpec(steps=8))
    >>> list(auditor.programs)
    ['backprop', 'implicit-converged', 'one-step', 'neumann-4', 'implicit']

    ```
    """
    return GradientAuditor(iterations=audited_iterations(spec), gradients=watched(spec, gradient))


def audit_line(step: int, audit: GradientAudit) -> GradientsLine:
    """The line of the log. It has no times, since these differ between identical runs.

    **Arguments:**

    - `step`: the optimiser step after which the audit was made.
    - `audit`: the audit.

    **Returns** the line: numbers of examples and iterations, the share of converged loops, and, for
    each of the two references, gradient -> cosine and ratio of norms.

    ```python
    >>> import eqloop
    >>> audit = eqloop.audit.GradientAudit(
    ...     examples=16, iterations=30, rtol=1e-5, max_steps=256, share=0.75, gradients={},
    ...     seconds=2.0,
    ... )
    >>> eqloop.audit.audit_line(100, audit).share
    0.75

    ```
    """
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
