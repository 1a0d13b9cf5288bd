"""`eqloop stability --check`: check one claim of the paper on models."""

from pathlib import Path
from typing import TYPE_CHECKING

from .. import InputError
from .._numbers import format_number, format_percent
from ._output import console, emit, table
from ._plot import save_plot
from ._run import open_checkpoint

if TYPE_CHECKING:
    from ..claims import Check, Subject


def check_claim(
    name: str,
    paths: list[Path],
    checkpoint: str,
    split: str,
    task_data: Path | None,
    task_class: str | None,
    examples: int,
    iterations: int,
    seed: int,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Check one claim of the paper on the models at `paths`, or on untrained models, and print the
    result."""
    import jax.random as jr

    from ..claims import CHECKS, random_subjects

    if name == "scalar":
        if paths:
            raise InputError("--check scalar uses no checkpoint: leave out CKPT")
        _scalar(seed, plot, as_json)
        return
    if name not in CHECKS:
        raise InputError(f"--check {name}: must be one of {', '.join(CHECKS)}, scalar")
    if not (paths or examples):
        raise InputError("--examples 0 takes a whole split: name CKPT, or give a number")
    model_key, check_key = jr.split(jr.key(seed))
    subjects = [
        _subject(path, checkpoint, split, task_data, task_class, examples) for path in paths
    ]
    subjects = subjects or random_subjects(key=model_key, examples=examples)
    check = CHECKS[name](subjects, key=check_key, iterations=iterations)
    if plot is not None:
        from ..report import check_figure

        save_plot(check_figure(check.tables()), plot)
    if as_json:
        emit({"check": name, "seed": seed, **check.tables()})
        return
    _print_check(check)


def _subject(
    path: Path,
    checkpoint: str,
    split: str,
    task_data: Path | None,
    task_class: str | None,
    examples: int,
) -> "Subject":
    from ..claims import Subject, make_problem
    from ..evaluate import at_most

    model, task, opened, step, splits = open_checkpoint(
        path, checkpoint, split, task_data, task_class
    )
    spec = opened.spec.model
    problem = make_problem(model, task, at_most(splits[split], examples))
    name = f"{spec.recall}, {spec.norm}, {opened.path.name} step {step}"
    return Subject(name, model, problem.inputs)


def _print_check(check: "Check") -> None:
    out = console()
    rows = [tuple(map(_format_cell, row)) for row in check.rows]
    out.print(table(check.columns, rows))
    outcomes = {True: "holds here", False: "does not hold here", None: "could not be measured"}
    out.print(f"\n{check.claim}: {outcomes[check.holds]}.", markup=False, soft_wrap=True)
    out.print(check.outcome, markup=False, soft_wrap=True)


def _format_cell(value: str | int | float) -> str:
    return format_number(value) if isinstance(value, float) else str(value)


def _scalar(seed: int, plot: Path | None, as_json: bool) -> None:
    from ..stability import scalar_experiment

    scalar = scalar_experiment(seed=seed)
    if plot is not None:
        from ..report import scalar_figure

        save_plot(scalar_figure(scalar.tables()), plot)
    if as_json:
        emit({"check": "scalar", **scalar.tables()})
        return
    rows = []
    for sigma, cases in scalar.cases.items():
        for recall, case in cases.items():
            medians = (case.median, case.low, case.high, case.finite["0.5"])
            rows.append(
                (
                    f"{recall}, sigma {sigma}",
                    *(format_percent(part.share) for part in (case.stable, case.infinite)),
                    *(f"{median:.2f}" for median in medians),
                )
            )
    columns = ("recall", "stable %", "infinite %", "median", "low", "high", "of the finite")
    out = console()
    out.print(
        table(columns, rows, title=f"anisotropy |log(|x|/|y|)|, {scalar.settings['n']} draws")
    )
    out.print(
        "\nExternal recall is stable iff |(1 + y) x| <= 1, internal iff -2 <= xy <= 0. stable: "
        "draws that are stable themselves; the others are moved to the nearest stable point. "
        "infinite: draws that end on an axis. With internal recall these are half of all draws, so "
        "that the median lies at the edge of the finite values, by chance.",
        soft_wrap=True,
    )
