"""`eqloop stability CKPT`: does the loop get there, does it depend on the input, does it train."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import InputError
from ..tasks import named
from ._output import (
    Json,
    console,
    emit,
    finishing,
    notes,
    percent,
    progress_of_work,
    table,
)
from ._plot import check_plot, save_plot, say_nothing_is_drawn
from ._run import Checkpoint, TaskOfRun, load_splits, open_model

if TYPE_CHECKING:
    from rich.table import Table

    from ..claims import Check, Subject

_AXES = {"reachability": "Reachability", "input_dependence": "Input-dependence"}
_AXES |= {"geometry": "Geometry"}
_PLAYED = 4


def stability(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="CKPT", help="Read this run folder, or this checkpoint in one."),
    ] = None,
    task_data: Annotated[
        Path | None,
        typer.Option(help="Read another file of puzzles, split as the run's own file was."),
    ] = None,
    split: Annotated[str, typer.Option(help="Examine loops on examples of this split.")] = "hard",
    examples: Annotated[
        int,
        typer.Option(
            "--examples",
            "--rows",
            min=0,
            help="Examine this number of examples, evenly spread over the split, or all for 0.",
        ),
    ] = 16,
    detail: Annotated[
        int,
        typer.Option(
            min=1,
            help="Differentiate this number of them, and begin them from other starts as well.",
        ),
    ] = 8,
    iterations: Annotated[
        int, typer.Option(min=16, max=10**7, help="Iterate every loop this number of times.")
    ] = 256,
    rtol: Annotated[
        float,
        typer.Option(help="Call a loop settled when its relative residual is below this number."),
    ] = 1e-4,
    seed: Annotated[int, typer.Option(min=0, help="Draw everything random from this seed.")] = 0,
    compare: Annotated[
        bool, typer.Option("--compare", help="Print the reports of several runs side by side.")
    ] = False,
    check: Annotated[
        str | None,
        typer.Option(
            help="Check one claim instead: clusters, sensitivity, return, scan, gradients "
            "or scalar. It is checked on CKPT, or without one on untrained models of "
            "every recall."
        ),
    ] = None,
    scalar: Annotated[
        bool,
        typer.Option("--scalar", help="Examine the paper's scalar model, as --check scalar does."),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Write the picture of --check into this file (.png, .svg or .pdf)."),
    ] = None,
    checkpoint: Checkpoint = "best",
    task_class: TaskOfRun = None,
    as_json: Json = False,
) -> None:
    """Measure where the loops of a model go.

    Three statements, never one score: whether iteration reaches fixed points, whether these depend
    on the input, and what that means for gradients; each with its numbers, and beside what the
    paper's framework predicts for this recall and placement.

    Reads CKPT and its data. Writes RUN/stability/: report.json (all of it, example by example),
    report.html (one page, with a player of the boards), and its figures. With --compare it reads
    these and writes nothing; with --check it writes the picture that --plot names.

    The defaults take about a minute for a small model on two cores. Larger numbers give narrower
    intervals.

    Example: eqloop stability runs/prefix-sums-001 --examples 64 --detail 16 --iterations 512
    """
    given = paths or []
    if not 0 < rtol < 1:
        raise InputError(f"--rtol {rtol:g}: must be between 0 and 1")
    if scalar and check not in (None, "scalar"):
        raise InputError(f"--scalar is --check scalar: leave out --check {check}")
    check = "scalar" if scalar else check
    if plot is not None:
        if check is None:
            raise InputError("--plot goes with --check: the figures of a report are in its folder")
        check_plot(plot)
    if task_class is not None:
        named(task_class)
    if compare:
        _compare(given, as_json)
        return
    if check is not None:
        _check(
            check, given, checkpoint, split, task_data, examples, iterations, seed, plot, as_json
        )
        return
    if len(given) != 1:
        raise InputError("name one run folder or checkpoint (several need --compare)")
    _report(
        given[0], checkpoint, split, task_data, examples, detail, iterations, rtol, seed, as_json
    )


def _report(
    path: Path,
    checkpoint: str,
    split: str,
    task_data: Path | None,
    examples: int,
    detail: int,
    iterations: int,
    rtol: float,
    seed: int,
    as_json: bool,
) -> None:
    import importlib.util

    import jax.random as jr

    from ..claims import examine, planned
    from ..evaluate import player
    from ..report import write_stability
    from ..run import save_stability

    model, task, opened, step, splits = _open(path, checkpoint, split, task_data)
    counts = {name: min(len(each), examples or len(each)) for name, each in splits.items()}
    plan = planned(counts, split, detail, iterations)
    plan["player"] = _PLAYED * iterations
    whole = sum(plan.values())
    notes().print(
        f"measuring {', '.join(plan)}: {counts[split]} of {len(splits[split]):,} examples of "
        f"{split}, {min(detail, counts[split])} of them in detail, {iterations} iterations; "
        f"about the work of {round(whole, -4):,} evaluations of the loop, compiling included",
        markup=False,
        soft_wrap=True,
    )
    with progress_of_work("stability") as bar:

        def show(name: str, done: int, total: int | None) -> None:
            del total
            bar(done, whole, name)

        found = examine(
            model,
            task,
            splits,
            opened.spec,
            split=split,
            examples=examples,
            iterations=iterations,
            rtol=rtol,
            detail=detail,
            key=jr.key(seed),
            progress=show,
            concurrent=True,
        )
        found["settings"] |= {
            "run": str(opened.path),
            "step": step,
            "task": task.name,
            "seed": seed,
        }
        bar(whole - plan["player"], whole, "player")
        shown = splits[split].evenly(_PLAYED)
        names = [f"{split} {n + 1}, difficulty {d:g}" for n, d in enumerate(shown.difficulty)]
        played = player(model, task, shown, names=names, iterations=iterations, rtol=rtol)
    drawn = importlib.util.find_spec("matplotlib") is not None
    with finishing():
        folder = save_stability(opened, found, played)
        written = write_stability(folder) if drawn else []
    if as_json:
        emit({"run": opened.path, **found})
    else:
        _print(opened.path, found)
    wrote = [folder / "report.json", *written[:1]]
    notes().print("wrote " + ", ".join(map(str, wrote)), markup=False, soft_wrap=True)
    if not drawn:
        say_nothing_is_drawn()


def _open(path: Path, checkpoint: str, split: str, task_data: Path | None):
    """The model, the task, the run, the step, and the splits to look at."""
    run = path
    if path.suffix == ".safetensors":
        run, number = path.parent.parent, path.stem.removeprefix("step-")
        if not path.is_file():
            raise InputError(f"{path}: there is no such file")
        if path.parent.name != "checkpoints" or not number.isdecimal():
            raise InputError(f"{path} is not a checkpoint in a run: RUN/checkpoints/step-N...")
        checkpoint = str(int(number))
    fields: dict[str, Any] = {} if task_data is None else {"data": str(task_data)}
    model, task, opened, step = open_model(run, checkpoint, **fields)
    splits = load_splits(opened, task, None, same=task_data is None)
    if split not in splits:
        raise InputError(f"--split {split}: there are {', '.join(splits)}")
    splits = {name: each for name, each in splits.items() if name in {"test", "hard", split}}
    return model, task, opened, step, splits


def _print(run: Path, found: dict[str, Any]) -> None:
    out = console()
    settings = found["settings"]
    out.print(
        f"{run}: {settings['task']}, step {settings['step']}; {settings['examples']} examples of "
        f"{settings['split']}, {settings['iterations']} iterations, {settings['seconds']:.0f} s\n",
        markup=False,
        soft_wrap=True,
    )
    for axis, name in _AXES.items():
        said = found["verdict"][axis]
        out.print(f"{name}: {said['verdict']}", style="bold")
        out.print(f"  {said['because']}", markup=False, soft_wrap=True)
        claim = (found["predicted"] or {}).get(axis)
        if claim is not None:
            agrees = {True: "and so it is", False: "and it is not so", None: "not decided"}
            out.print(
                f"  predicted: {claim['claim']} ({agrees[claim['agrees']]})",
                markup=False,
                soft_wrap=True,
            )
    out.print()
    out.print(numbers_table({str(run.name): found}))


_NUMBERS = {
    "converged": "reachability.shares.converged",
    "settle step": "reachability.settle_step",
    "measured rate": "reachability.rate",
    "spectral radius at fixed points": "spectrum.radius_at_fixed_points",
    "spectral radius at all ends": "spectrum.radius",
    "sigma max": "spectrum.sigma_max",
    "non-normality": "spectrum.non_normality",
    "Lyapunov exponent": "spectrum.lyapunov.0",
    "basin": "reachability.basin",
    "distinct fixed points": "input_dependence",
    "spread": "input_dependence.spread",
    "|(I-J)^-1 df/dx|": "input_dependence.implicit",
    "|dz_T/dx| over that": "input_dependence.agreement",
    "smoothness": "input_dependence.smoothness",
    "input read off z*, R^2": "input_dependence.probe",
    "condition of I-J": "geometry.condition",
    "backward products": "geometry.products",
    "cosine of one-step": "geometry.cosines.one-step",
    "rho(W_x)": "spectrum.weights.rho_w_x",
}


def numbers_table(reports: dict[str, dict[str, Any]]) -> "Table":
    """One line for each number, one column for each run: the mean and its 95 % interval."""
    rows = []
    for name, path in _NUMBERS.items():
        rows.append((name, *(_figure(_at(each, path)) for each in reports.values())))
    return table(("mean [95 % interval]", *reports), rows)


def _at(report: Any, path: str) -> Any:
    for name in path.split("."):
        if isinstance(report, list):
            report = report[int(name)] if int(name) < len(report) else None
        else:
            report = (report or {}).get(name)
    return report


def _figure(value: Any) -> str:
    if isinstance(value, dict) and "clusters" in value:  # has no interval: points are no sample
        count, inputs = value["clusters"], value["inputs"]
        known = count and count[-1] is not None
        return f"{count[-1]:.0f} of {inputs[-1]}" if known else "-"
    if isinstance(value, dict):
        scale, unit = (100, " %") if "share" in value else (1, "")
        mean = value.get("share", value.get("mean"))
        if mean is None or mean != mean:
            return "-"
        low, high = value["low"], value["high"]
        if low is None or low != low:
            return f"{scale * mean:.3g}{unit}"
        return f"{scale * mean:.3g} [{scale * low:.3g}, {scale * high:.3g}]{unit}"
    return "-" if value is None or value != value else f"{value:.3g}"


def _compare(runs: list[Path], as_json: bool) -> None:
    from ..run import read_stability

    if len(runs) < 2:
        raise InputError("--compare needs two runs or more, each with a report: eqloop stability")
    reports = {str(run): read_stability(run / "stability") for run in runs}
    if as_json:
        emit({"runs": reports})
        return
    out = console()
    verdicts = [
        (name, *(each["verdict"][axis]["verdict"] for each in reports.values()))
        for axis, name in _AXES.items()
    ]
    out.print(table(("", *reports), verdicts))
    out.print()
    out.print(numbers_table(reports))


def _check(
    name: str,
    paths: list[Path],
    checkpoint: str,
    split: str,
    task_data: Path | None,
    examples: int,
    iterations: int,
    seed: int,
    plot: Path | None,
    as_json: bool,
) -> None:
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
    subjects = [_subject(path, checkpoint, split, task_data, examples) for path in paths]
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
    path: Path, checkpoint: str, split: str, task_data: Path | None, examples: int
) -> "Subject":
    from ..claims import Subject, make_problem
    from ..evaluate import at_most

    model, task, opened, step, splits = _open(path, checkpoint, split, task_data)
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
