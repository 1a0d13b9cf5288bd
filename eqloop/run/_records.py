"""What a run folder holds of results: evaluations, the validation score, the loop's stability."""

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .._errors import InputError
from .._schema import from_table
from .._stability_report import FORMAT, Census, StabilityReport, Verdict
from .._tables import parse_toml, plain, read_json, read_text
from ._evaluations import SPLITS, DataSource, EvaluationRecord, read_evaluation
from ._folder import Run
from ._history import History
from ._layout import (
    BEST,
    CHECKPOINTS,
    MANIFEST,
    SPEC,
    Best,
    checkpoint_path,
    checkpoint_steps,
    read_best,
    read_metadata,
)
from ._player import Player, read_player_file
from ._record import understood, write_record
from ._spec import GROUPS, SPEC_FORMAT, Spec
from ._values import check_format, finite, share

_LOG = logging.getLogger(__name__)

STABILITY = "stability"
"""The folder of the stability report in the folder of a run."""
REPORT = "report.json"
"""The file of the report in the folder `STABILITY`."""
PLAYER = "player.json"
"""The file of the boards that the player shows, in the folder `STABILITY`."""
STABILITY_AGAIN = "measure it again: eqloop stability RUN"
"""The end of the message about a report that cannot be read."""

SPEC_AXES = {
    "task": "task.name",
    "recall": "model.recall",
    "norm": "model.norm",
    "residual": "model.residual",
    "lr": "train.lr",
    "solver": "solver.name",
    "gradient": "solver.gradient",
    "seed": "train.seed",
}
"""What tells runs apart that are no cells of a sweep, and its field in the spec."""


@dataclasses.dataclass(frozen=True)
class Stability:
    """The part of `stability/report.json` that is compared between runs.

    **Attributes:**

    - `verdict`: axis -> verdict.
    - `agrees`: axis -> whether theory agrees; None if it says nothing.
    - `measures`: name -> number, for the names of `MEASURES`; None if it was not measured.
    - `rho_w_x`: the spectral radius of W_x; None without recall.
    - `step`: the step of the checkpoint; None if the report does not say it.
    """

    verdict: Mapping[str, Verdict]
    agrees: Mapping[str, bool | None]
    measures: Mapping[str, float | None]
    rho_w_x: float | None
    step: int | None


@dataclasses.dataclass(frozen=True)
class RunResults:
    """The results in a run folder; see `read_run`.

    **Attributes:**

    - `splits`: name of an evaluated split -> its record.
    - `best`: the step that was best on validation; None before the first validation.
    - `validation`: shares of examples solved and of cells right at that step.
    - `stability`: the part of the stability report that is compared; None if there is no report.
    """

    splits: Mapping[str, EvaluationRecord]
    best: int | None
    validation: tuple[float, float] | None
    stability: Stability | None


def read_run(run: Path) -> RunResults:
    """Read the results in a run folder.

    **Arguments:**

    - `run`: the run folder.

    **Returns** the results; without files there are none.

    **Raises** `InputError` for a damaged file.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     eqloop.run.read_run(pathlib.Path(folder))
    RunResults(splits={}, best=None, validation=None, stability=None)

    ```
    """
    records = {name: read_evaluation(run, name) for name in SPLITS}
    splits = {name: record for name, record in records.items() if record is not None}
    best, stability = read_best(run), None
    path = run / STABILITY / REPORT
    if path.exists():
        report = read_stability(path.parent)
        again = f"measure it again: eqloop stability {run}"
        stability = understood(path, again, _stability, report)
    return RunResults(
        splits=splits,
        best=None if best is None else best.step,
        validation=understood(run / CHECKPOINTS / BEST, "train it again", _validation, best),
        stability=stability,
    )


def read_spec(run: Path) -> dict[str, Any]:
    """Read the fields of `spec.toml`.

    **Arguments:**

    - `run`: the run folder.

    **Returns** `TABLE.FIELD` -> value, lists as text, and `phases` -> the phases as text if there
    are any. A field that the version of the run did not know has its default.

    **Raises** `InputError` if the file cannot be used, if it lacks one of `SPEC_AXES`, and if the
    last checkpoint was trained with another spec.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> model = eqloop.run.ModelSpec(8, 2, attention="full", grid=(8,), channels=1, classes=2)
    >>> spec = eqloop.run.Spec({"name": "prefix-sums"}, model)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = eqloop.run.create_run(pathlib.Path(folder, "mine"), spec, {})
    ...     fields = eqloop.run.read_spec(run.path)
    >>> fields["model.width"], fields["model.grid"]
    (8, '[8]')

    ```
    """
    path = run / SPEC
    spec = parse_toml(read_text(path), str(path))
    check_format(path, spec.get("format"), SPEC_FORMAT)
    _check_against_checkpoint(run)
    # Not a `Spec`: what another version wrote, and this one cannot train, has results all the same.
    tables = {name: table for name, table in spec.items() if isinstance(table, Mapping)}
    for field in SPEC_AXES.values():
        table, _, name = field.partition(".")
        if name not in tables.get(table, {}):
            raise InputError(f"{path} does not say {field}: it is not the spec of a run")
    defaults = {name: plain(dataclasses.asdict(group())) for name, group in GROUPS.items()}
    fields = {
        f"{table}.{name}": value
        for table, group in tables.items()
        for name, value in (defaults.get(table, {}) | group).items()
    }
    fields |= {"phases": spec["phases"]} if spec.get("phases") else {}
    return {
        field: value if isinstance(value, str | int | float) else str(value)
        for field, value in fields.items()
    }


def _check_against_checkpoint(run: Path) -> None:
    """**Raises** `InputError` where the last checkpoint, if there is one, was trained with another
    spec; see `Run.differences`."""
    steps = checkpoint_steps(run)
    if not steps:
        return
    path = checkpoint_path(run, steps[-1])
    try:
        trained = Spec.from_text(read_metadata(path)["spec"], str(path))
        manifest = read_json(run / MANIFEST, "restore it") if (run / MANIFEST).exists() else {}
        History.of(manifest)  # the differences depend on it
    except (InputError, KeyError, ValueError):
        return  # whoever loads it hears of it
    opened = Run(run, Spec.from_toml(run / SPEC), manifest)
    if changed := opened.differences(trained):
        opened.refuse(path, changed)


def say_steps(run: Path, results: RunResults) -> None:
    """Log a warning if the results in a run folder are not all of one step, the best.

    **Arguments:**

    - `run`: the run folder, for the message.
    - `results`: the results of `read_run`.

    ```python
    >>> import eqloop, pathlib
    >>> results = eqloop.run.RunResults(splits={}, best=900, validation=None, stability=None)
    >>> eqloop.run.say_steps(pathlib.Path("runs/mine"), results)  # one step: no warning

    ```
    """
    steps = {f"eval/{name}.json": record.sample.step for name, record in results.splits.items()}
    if results.stability is not None:
        steps["stability/report.json"] = results.stability.step
    steps["checkpoints/best.json"] = results.best
    known = {name: step for name, step in steps.items() if step is not None}
    if len(set(known.values())) > 1:
        text = ", ".join(f"{name} {step}" for name, step in known.items())
        _LOG.warning("%s: its results are not of one checkpoint; they are of steps: %s", run, text)


def spec_axes(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a run on the axes of `SPEC_AXES`.

    **Arguments:**

    - `fields`: the fields of a spec; see `read_spec`.

    **Returns** axis -> value; None on an axis of which the fields say nothing.

    ```python
    >>> import eqloop
    >>> eqloop.run.spec_axes({"model.recall": "internal"})["recall"]
    'internal'

    ```
    """
    return {axis: fields.get(field) for axis, field in SPEC_AXES.items()}


def _validation(best: Best | None) -> tuple[float, float] | None:
    return None if best is None else (share(best.exact), share(best.cells))


def _sensitivity_kept(report: StabilityReport) -> float:
    median = report.input_dependence.sensitivity.median
    return median[-1] / median[0] if median[0] else math.nan


def _counted(of: Callable[[Census], float]) -> Callable[[StabilityReport], float]:
    return lambda r: math.nan if r.census is None else of(r.census)


MEASURES: Mapping[str, Callable[[StabilityReport], float]] = {
    "converged": lambda r: r.reachability.shares["converged"].share,
    "sensitivity kept": _sensitivity_kept,
    "Lyapunov exponent": lambda r: r.spectrum.lyapunov[0].median,
    "gradient to the start": lambda r: r.geometry.gradient_norm.median[0],
    "spectral radius": lambda r: r.spectrum.radius.median,
    "non-normality": lambda r: r.spectrum.non_normality.median,
    "distinct": lambda r: r.input_dependence.distinct,
    "condition": lambda r: r.geometry.condition.median,
    "settle step": lambda r: r.reachability.settle_step.median,
    "restarts at the same point": lambda r: r.reachability.starts["gaussian"].same.share,
    "backward products": lambda r: r.geometry.products.median,
    "cosine of one-step": lambda r: r.geometry.cosines["one-step"].median,
    "settled but wrong": _counted(lambda c: c.settled_wrong.wrong_of_settled.share),
    "right but not settled": _counted(lambda c: c.settled_wrong.unsettled_of_right.share),
    "AUROC of the residual": _counted(lambda c: c.auroc["residual"].value),
    "AUROC of the agreement": _counted(lambda c: c.auroc["agreement"].value),
    "AUROC of the entropy": _counted(lambda c: c.auroc["entropy"].value),
}
"""Of a stability report: what is held against how a model extrapolates; NaN or an empty list where
it was not measured."""


def _stability(report: StabilityReport) -> Stability:
    return Stability(
        verdict={axis: statement.verdict for axis, statement in report.verdict.items()},
        agrees={axis: claim.agrees for axis, claim in (report.predicted or {}).items()},
        measures={name: _or_none(of, report) for name, of in MEASURES.items()},
        rho_w_x=plain((report.spectrum.weights or {}).get("rho_w_x")),
        step=_step(report.settings),
    )


def _step(settings: Any) -> int | None:
    step = finite(settings.get("step"))
    return None if step is None else int(step)


def _or_none(of: Callable[[StabilityReport], float], report: StabilityReport) -> float | None:
    try:
        return plain(of(report))
    except IndexError:
        return None


def read_stability(folder: Path) -> StabilityReport:
    """Read `report.json` of a stability report.

    **Arguments:**

    - `folder`: the folder `stability` of a run.

    **Returns** the report.

    **Raises** `InputError` if the file is missing, damaged or of another format.

    ```python
    >>> import eqloop, pathlib
    >>> try:
    ...     eqloop.run.read_stability(pathlib.Path("runs/none/stability"))
    ... except eqloop.InputError as error:
    ...     print(str(error).rpartition("; ")[2])
    measure it again: eqloop stability RUN

    ```
    """
    path = folder / REPORT
    table = read_json(path, STABILITY_AGAIN)
    if not isinstance(table.get("settings"), dict):
        raise InputError(f"{path}: not a stability report; {STABILITY_AGAIN}")
    check_format(path, table["settings"].get("format"), FORMAT, STABILITY_AGAIN)
    return understood(
        path, STABILITY_AGAIN, lambda table: from_table(StabilityReport, table), table
    )


def read_player(folder: Path) -> Player:
    """Read `player.json`.

    **Arguments:**

    - `folder`: the folder `stability` of a run.

    **Returns** its content; no examples if there is no such file.

    **Raises** `InputError` if the file is damaged.

    ```python
    >>> import eqloop, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     eqloop.run.read_player(pathlib.Path(folder))
    Player(examples=())

    ```
    """
    return read_player_file(folder / PLAYER, STABILITY_AGAIN)


def save_stability(
    run: Path, report: StabilityReport, player: Player, *, source: DataSource | None = None
) -> Path:
    """Write `report.json` and `player.json` of a run, in place of older files.

    **Arguments:**

    - `run`: the run folder, which must exist.
    - `report`: the report; see `eqloop.claims.examine`.
    - `player`: the examples to step through; see `eqloop.evaluate.player`.
    - `source`: where the examples come from; None for the data of the run.

    **Returns** the folder: `stability`, or `stability.HASH` if there is a `source`, which no other
    command takes for the report of the run.

    **Raises** `InputError` if a file cannot be written.
    """
    folder = run / (STABILITY + ("" if source is None else source.suffix))
    write_record(folder / PLAYER, player)
    write_record(folder / REPORT, report)
    return folder
