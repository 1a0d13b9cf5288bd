"""`eqloop stability --check`: one claim of the paper, checked on models."""

from pathlib import Path
from typing import TYPE_CHECKING

from .. import InputError
from ._output import console, emit, percent, table
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
    """Check one claim of the paper on the models at `paths`, or on untrained ones, and print it."""
    import jax.random as jr

    from ..claims import CHECKS, random_subjects

    if name == "scalar":
        if paths:
            raise InputError("--check scalar is about no checkpoint: leave out CKPT")
        _scalar(seed, plot, as_json)
        return
    if name not in CHECKS:
        raise InputError(f"--check {name}: there are {', '.join(CHECKS)} and scalar")
    if not (paths or examples):
        raise InputError("--examples 0 is all of a split: name CKPT, or give a number")
    model_key, check_key = jr.split(jr.key(seed))
    subjects = [
        _subject(path, checkpoint, split, task_data, task_class, examples) for path in paths
    ]
    subjects = subjects or random_subjects(key=model_key, examples=examples)
    found = CHECKS[name](subjects, key=check_key, iterations=iterations)
    if plot is not None:
        from ..report import check_figure

        save_plot(check_figure(found.tables()), plot)
    if as_json:
        emit({"check": name, "seed": seed, **found.tables()})
        return
    _tell(found)


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


def _tell(found: "Check") -> None:
    out = console()
    rows = [
        tuple(
            each if isinstance(each, str) else str(each) if isinstance(each, int) else f"{each:.3g}"
            for each in row
        )
        for row in found.rows
    ]
    out.print(table(found.columns, rows))
    said = {True: "holds here", False: "does not hold here", None: "could not be measured"}
    out.print(f"\n{found.claim}: {said[found.holds]}.", markup=False, soft_wrap=True)
    out.print(found.outcome, markup=False, soft_wrap=True)


def _scalar(seed: int, plot: Path | None, as_json: bool) -> None:
    from ..stability import scalar_experiment

    found = scalar_experiment(seed=seed)
    if plot is not None:
        from ..report import scalar_figure

        save_plot(scalar_figure(found.tables()), plot)
    if as_json:
        emit({"check": "scalar", **found.tables()})
        return
    rows = []
    for sigma, cases in found.cases.items():
        for recall, case in cases.items():
            medians = (case.median, case.low, case.high, case.finite["0.5"])
            rows.append(
                (
                    f"{recall}, sigma {sigma}",
                    *(percent(each.share) for each in (case.stable, case.infinite)),
                    *(f"{each:.2f}" for each in medians),
                )
            )
    columns = ("recall", "stable %", "infinite %", "median", "low", "high", "of the finite")
    out = console()
    out.print(table(columns, rows, title=f"anisotropy |log(|x|/|y|)|, {found.settings['n']} draws"))
    out.print(
        "\nExternal recall is stable iff |(1 + y) x| <= 1, internal iff -2 <= xy <= 0. stable: "
        "draws that are so as they come; the others are moved to the nearest stable point. "
        "infinite: those that end on an axis, half of them with internal recall, whose median is "
        "therefore at the edge of the finite values, and by chance there.",
        soft_wrap=True,
    )
