"""`eqloop gradients RUN`: compare the accuracy and the cost of gradients."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import InputError
from .._numbers import format_number, format_percent
from ._output import Json, console, emit, progress, table
from ._plot import check_plot, save_plot
from ._run import Checkpoint, TaskOfRun, load_splits, open_model

if TYPE_CHECKING:
    from rich.table import Table

    from .. import AbstractGradient, Comparison, GradientAudit
    from ..run import SolverSpec


def gradients(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Read this run folder.")],
    examples: Annotated[
        int,
        typer.Option(
            min=1, help="Take this number of examples, evenly spread over the split, as one batch."
        ),
    ] = 16,
    iterations: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=2**31 - 1,
            help="Iterate the loop this number of times. The default is the number of "
            "iterations in training.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Take examples of this split. The default is the split that chooses the "
            "best checkpoint."
        ),
    ] = None,
    rtol: Annotated[
        float,
        typer.Option(help="Solve for the converged implicit gradient to this relative tolerance."),
    ] = 1e-5,
    max_steps: Annotated[
        int,
        typer.Option(
            min=1,
            max=2**31 - 1,
            help="Use at most this number of iterations for the converged implicit gradient.",
        ),
    ] = 256,
    chosen: Annotated[
        list[str] | None,
        typer.Option(
            "--gradient",
            metavar="GRADIENT",
            help="Measure this gradient beside the two references: a row of the full table, as "
            "neumann-4; the name of a gradient, with the settings of RUN; path/to/file.py:CLASS; "
            "or a name of the entry points eqloop.gradients. The option can be repeated. Without "
            "it, all gradients of eqloop are compared.",
        ),
    ] = None,
    layers: Annotated[
        str | None, typer.Option(metavar="GRADIENT", help="Show this gradient also layer by layer.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw cosine against seconds: .png, .svg or .pdf.")
    ] = None,
    checkpoint: Checkpoint = "best",
    task_class: TaskOfRun = None,
    as_json: Json = False,
) -> None:
    """Compare gradients of the same weights on the same batch.

    The table gives the cosine and norm of each gradient relative to full backpropagation and to the
    converged implicit gradient, and its cost: seconds, evaluations of the block, memory. The
    command also says for how many examples the loop has a fixed point; without one there is no
    converged implicit gradient to compare with.

    It reads RUN and its data. It writes RUN/gradients.json (every gradient of the table, layer by
    layer; a class of a file with the hash of that file), and the picture that --plot names. The
    setting train.audit_every=N logs a part of this during training.

    Example: eqloop gradients runs/prefix-sums-001 --plot gradients.png
    """
    if not 0 < rtol < 1:
        raise InputError(f"--rtol {rtol:g}: must be between 0 and 1")
    if plot is not None:
        check_plot(plot)

    from .. import gradient_audit
    from .._build import described
    from ..audit import REFERENCES, audit_batch, audited_iterations
    from ..run import GradientsRecord, SolverSpec, save_gradients
    from ..train import check_memory

    model, task, opened, step = open_model(run, checkpoint, task_class)
    spec = opened.spec
    split = split or spec.train.validation_split
    iterations = iterations or audited_iterations(spec.solver)
    compared = _compared(spec.solver, iterations, chosen)
    names = [*REFERENCES, *compared]
    if layers is not None and layers not in names:
        raise InputError(f"--layers {layers}: must be one of {', '.join(names)}")
    rows = load_splits(opened, task, split)[split]
    examples = min(examples, len(rows))
    check_memory(
        dataclasses.replace(
            spec,
            solver=SolverSpec(steps=iterations),
            train=dataclasses.replace(spec.train, loss="last", batch=examples),
        ),
        what=f"backpropagation through {iterations} iterations",
        remedy="lower --iterations or --examples",
    )
    batch = audit_batch(task, rows, examples)
    with progress("gradients") as report:
        audit = gradient_audit(
            model,
            batch,
            iterations=iterations,
            gradients=compared,
            rtol=rtol,
            max_steps=max_steps,
            progress=report,
        )
    objects = {name: described(gradient) for name, gradient in compared.items()}
    record = GradientsRecord(task=task.name, split=split, step=step, audit=audit, objects=objects)
    save_gradients(opened.path, record)
    if plot is not None:
        from ..report import gradients_figure

        title = f"{task.name}, step {step}: {audit.examples} examples, {iterations} iterations"
        save_plot(gradients_figure(audit, title=title), plot)
    if as_json:
        emit({"run": run, **record.tables()})
        return
    out = console()
    out.print(f"{run}: {task.name}, step {step}", markup=False)
    out.print(
        f"{audit.examples} examples of {split}, {iterations} iterations, {audit.seconds:.0f} s\n",
        markup=False,
    )
    out.print(audit_table(audit))
    if layers is not None:
        out.print()
        out.print(layer_table(audit, layers))
    out.print(f"\n{_reference(audit)}", soft_wrap=True)
    out.print(
        "bp: relative to full backpropagation. fix: relative to the converged implicit gradient. "
        "cos: cosine; size: ratio of norms. f: evaluations of the block going forwards; again: "
        "evaluations repeated in the backward pass; vjp: products with its transposed Jacobian. "
        "MiB: scratch memory. left: relative residual of the backward solve; fell back: share of "
        "examples in % for which the best iterate or a damped series replaced the solution.",
        soft_wrap=True,
    )


def _compared(
    spec: "SolverSpec", iterations: int, chosen: list[str] | None
) -> "dict[str, AbstractGradient]":
    """Name -> gradient to compare with the references: those that --gradient chooses, or all."""
    from .. import default_gradients
    from .._build import named_gradient
    from ..audit import REFERENCES
    from ..run import gradient_facts

    table_rows = default_gradients(iterations)
    if not chosen:
        return table_rows
    compared = {}
    for name in (entry for entry in chosen if entry not in REFERENCES):
        label, gradient = (
            (name, table_rows[name]) if name in table_rows else named_gradient(spec, name)
        )
        if label in compared or label in REFERENCES:
            raise InputError(f"--gradient {name}: two gradients cannot have the same name {label}")
        cuts = name not in table_rows and label == name and gradient_facts(name).cuts
        if cuts and spec.gradient_steps > iterations:
            raise InputError(
                f"--gradient {name}: solver.gradient_steps = {spec.gradient_steps} iterations "
                f"cannot be differentiated, since --iterations is {iterations}"
            )
        compared[label] = gradient
    return compared


def audit_table(audit: "GradientAudit") -> "Table":
    """One line for each gradient."""
    rows = []
    for name, gradient in audit.gradients.items():
        solved = gradient.backward_residual is not None
        rows.append(
            (
                name,
                *_similarities(gradient.total),
                f"{gradient.seconds:.3f}",
                f"{gradient.compile_seconds:.1f}",
                *(
                    f"{count:.0f}"
                    for count in (gradient.evaluations, gradient.repeated, gradient.products)
                ),
                "-" if gradient.memory is None else f"{gradient.memory / 2**20:.0f}",
                f"{gradient.backward_residual:.0e}" if solved else "-",
                format_percent(gradient.fallback) if solved else "-",
            )
        )
    columns = ("gradient", *_COLUMNS, "seconds", "compile", "f", "again", "vjp", "MiB")
    return table((*columns, "left", "fell back"), rows)


def layer_table(audit: "GradientAudit", name: str) -> "Table":
    """One line for each layer, with its share of the squared norm."""
    gradient = audit.gradients[name]
    total = gradient.total.norm**2 or 1.0
    rows = [
        (layer, format_percent(part.norm**2 / total), *_similarities(part))
        for layer, part in gradient.layers.items()
    ]
    return table(("layer", "% of norm²", *_COLUMNS), rows, title=name)


_COLUMNS = ("bp cos", "size", "fix cos", "size")


def _similarities(part: "Comparison") -> list[str]:
    values = (
        (similarity.cosine, similarity.ratio) for similarity in (part.backprop, part.implicit)
    )
    return [
        text
        for cosine, ratio in values
        for text in (format_number(cosine, ".4f"), format_number(ratio, ".3f"))
    ]


def _reference(audit: "GradientAudit") -> str:
    """A sentence on whether the converged implicit gradient has converged for all examples."""
    converged = round(audit.share * audit.examples)
    if converged == audit.examples:
        return f"Every example converged (rtol {audit.rtol:g}): implicit-converged is a reference."
    summary = (
        f"{converged} of {audit.examples} examples converged within {audit.max_steps} iterations "
        f"and backwards (rtol {audit.rtol:g})"
    )
    if converged:
        return f"{summary}: for the others implicit-converged is not the gradient of a fixed point."
    return (
        f"{summary}: there is no converged implicit gradient to compare with. Try a larger "
        "--max-steps or --rtol; the loop may have no fixed point."
    )
