"""`eqloop gradients RUN`: can the gradient be trusted, and what does it cost."""

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
            help="Iterate the loop this number of times. The default is the number in training.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Take examples of this split. The default is the one that chooses the "
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
            help="Give the converged implicit gradient at most this number of iterations.",
        ),
    ] = 256,
    chosen: Annotated[
        list[str] | None,
        typer.Option(
            "--gradient",
            metavar="GRADIENT",
            help="Measure this gradient beside the two references: a line of the whole table, as "
            "neumann-4; the name of a gradient, with the settings of RUN; path/to/file.py:CLASS; "
            "or a name of the entry points eqloop.gradients. The option can be repeated. Without "
            "it, all gradients of eqloop are compared.",
        ),
    ] = None,
    layers: Annotated[
        str | None, typer.Option(metavar="GRADIENT", help="Show this gradient layer by layer, too.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw cosine against seconds: .png, .svg or .pdf.")
    ] = None,
    checkpoint: Checkpoint = "best",
    task_class: TaskOfRun = None,
    as_json: Json = False,
) -> None:
    """Compare gradients of the same weights on the same batch.

    Each one's cosine and norm against full backpropagation and against the converged implicit
    gradient, with its cost: seconds, evaluations of the block, memory. Says in how many examples
    the loop has a fixed point at all; where it has none, nothing is compared with it.

    Reads RUN and its data. Writes RUN/gradients.json (every gradient of the table, layer by layer;
    a class of a file with the hash of that file), and the picture that --plot names. While
    training, --set train.audit_every=N logs some of it.

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
    known = [*REFERENCES, *compared]
    if layers is not None and layers not in known:
        raise InputError(f"--layers {layers}: there are {', '.join(known)}")
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
    objects = {name: described(made) for name, made in compared.items()}
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
        "bp: against full backpropagation. fix: against the converged implicit gradient. cos: "
        "cosine; size: quotient of norms. f: evaluations of the block forwards; again: once more, "
        "going backwards; vjp: products with its transposed Jacobian. MiB: scratch memory. left: "
        "relative residual of the backward solve; fell back: share of examples in % whose solution "
        "was not used, but its best iterate or a damped series.",
        soft_wrap=True,
    )


def _compared(
    spec: "SolverSpec", iterations: int, chosen: list[str] | None
) -> "dict[str, AbstractGradient]":
    """The gradients to hold against the references, by name: those that --gradient chooses."""
    from .. import default_gradients
    from .._build import named_gradient
    from ..audit import REFERENCES
    from ..run import gradient_facts

    whole = default_gradients(iterations)
    if not chosen:
        return whole
    compared = {}
    for name in (each for each in chosen if each not in REFERENCES):
        called, made = (name, whole[name]) if name in whole else named_gradient(spec, name)
        if called in compared or called in REFERENCES:
            raise InputError(f"--gradient {name}: two gradients cannot both be called {called}")
        cuts = name not in whole and called == name and gradient_facts(name).cuts
        if cuts and spec.gradient_steps > iterations:
            raise InputError(
                f"--gradient {name}: solver.gradient_steps = {spec.gradient_steps} iterations "
                f"cannot be differentiated out of --iterations {iterations}"
            )
        compared[called] = made
    return compared


def audit_table(audit: "GradientAudit") -> "Table":
    """One line for each gradient."""
    rows = []
    for name, each in audit.gradients.items():
        solved = each.backward_residual is not None
        rows.append(
            (
                name,
                *_likenesses(each.total),
                f"{each.seconds:.3f}",
                f"{each.compile_seconds:.1f}",
                *(f"{count:.0f}" for count in (each.evaluations, each.repeated, each.products)),
                "-" if each.memory is None else f"{each.memory / 2**20:.0f}",
                f"{each.backward_residual:.0e}" if solved else "-",
                format_percent(each.fallback) if solved else "-",
            )
        )
    columns = ("gradient", *_COLUMNS, "seconds", "compile", "f", "again", "vjp", "MiB")
    return table((*columns, "left", "fell back"), rows)


def layer_table(audit: "GradientAudit", name: str) -> "Table":
    """One line for each layer, with its share of the squared norm."""
    each = audit.gradients[name]
    whole = each.total.norm**2 or 1.0
    rows = [
        (layer, format_percent(part.norm**2 / whole), *_likenesses(part))
        for layer, part in each.layers.items()
    ]
    return table(("layer", "% of norm²", *_COLUMNS), rows, title=name)


_COLUMNS = ("bp cos", "size", "fix cos", "size")


def _likenesses(part: "Comparison") -> list[str]:
    values = ((like.cosine, like.ratio) for like in (part.backprop, part.implicit))
    return [
        text
        for cosine, ratio in values
        for text in (format_number(cosine, ".4f"), format_number(ratio, ".3f"))
    ]


def _reference(audit: "GradientAudit") -> str:
    """Whether the converged implicit gradient is what it is called."""
    held = round(audit.share * audit.examples)
    if held == audit.examples:
        return f"Every example converged (rtol {audit.rtol:g}): implicit-converged is a reference."
    said = (
        f"{held} of {audit.examples} examples converged within {audit.max_steps} iterations and "
        f"backwards (rtol {audit.rtol:g})"
    )
    if held:
        return f"{said}: implicit-converged is no gradient of a fixed point for the others."
    return (
        f"{said}: there is no converged implicit gradient to compare with. Try a larger "
        "--max-steps or --rtol; the loop may have no fixed point."
    )
