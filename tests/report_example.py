"""Run folders and a sweep as training and evaluation leave them, written without running either."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from stability_example import report_tables

from eqloop._schema import to_table
from eqloop.run import Curve, Evaluation, EvaluationRecord, Sample

GRID = [1, 2, 4, 8, 16, 32, 64]
TRAINED = (1, 10)

Axes = Mapping[str, Any]


def an_evaluation(
    exact: Sequence[float], bands: Mapping[str, Sequence[float]] | None = None, **changed: Any
) -> dict[str, Any]:
    """The content of `eval/SPLIT.json`; the residuals and the numbers that follow from them are
    invented."""

    def curve(values: Sequence[float], examples: int) -> Curve:
        nothing = [math.nan] * len(values)
        return Curve(
            examples=examples,
            scores={"exact": list(values), "cells": list(values)},
            residual_mean=nothing,
            residual_median=nothing,
            converged=nothing,
            settled=0.0,
            settled_median=math.nan,
            overthinking={},
        )

    every = bands or {"all alike": exact}
    record = EvaluationRecord(
        sample=Sample(task="prefix-sums", rows=500),
        trained_iterations=TRAINED,
        evaluation=Evaluation(
            iterations=GRID[-len(exact) :],
            tolerance=1e-3,
            overall=curve(exact, 500),
            bands={name: curve(values, 100) for name, values in every.items()},
            settled=np.zeros(500, int),
            judged={},
            iterations_run=500,
            iterations_asked=500,
            seconds=2.5,
        ),
    )
    return to_table(record) | changed


def rising(last: float, best: float | None = None) -> list[float]:
    """A curve over `GRID` whose last value is `last` and whose earlier maximum is `best`."""
    best = last if best is None else best
    return [0.0, 0.0, 0.1 * best, 0.5 * best, 0.9 * best, best, last]


def a_stability_report(exponent: float, *, converged: float = 1.0) -> dict[str, Any]:
    """The content of `stability/report.json`."""
    report = report_tables()
    report["spectrum"]["lyapunov"][0]["quantiles"]["0.5"] = exponent
    report["reachability"]["shares"]["converged"]["share"] = converged
    report["spectrum"]["weights"] = {"rho_w_x": 0.5}
    verdict = "passed" if converged > 0.5 else "undecided"
    test = {"claim": "Harder examples take longer", "verdict": verdict, "value": converged}
    report["computes"] = {"t2": report["computes"]["t2"] | test}
    return report


def write_json(path: Path, table: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table))


def write_run(
    run: Path,
    *,
    test: Mapping[str, Any] | None = None,
    hard: Mapping[str, Any] | None = None,
    validation: tuple[float, float] = (0.9, 0.99),
    stability: Mapping[str, Any] | None = None,
    width: int = 64,
    **spec: Any,
) -> Path:
    """Write a run folder; `spec` may set task, recall, norm, residual, lr, solver, gradient and
    seed."""
    settings = {
        "task": "prefix-sums",
        "recall": "internal",
        "norm": "post",
        "residual": "add",
        "lr": 1e-3,
        "solver": "unroll",
        "gradient": "backprop",
        "seed": 0,
    } | spec
    run.mkdir(parents=True)
    tables = {
        "format": 1,
        "task": {"name": settings["task"]},
        "model": {name: settings[name] for name in ("recall", "norm", "residual")}
        | {"width": width},
        "solver": {"name": settings["solver"], "gradient": settings["gradient"]},
        "train": {"lr": settings["lr"], "seed": settings["seed"]},
    }
    (run / "spec.toml").write_text(tomli_w.dumps(tables))
    seconds = (3.0, 10.0, 2.0, 5.0)  # the run was resumed after 10 seconds
    lines = [{"kind": "train", "step": n, "seconds": s} for n, s in enumerate(seconds)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    best = {"exact": validation[0], "cells": validation[1], "step": 3}
    write_json(run / "checkpoints" / "best.json", best)
    for name, evaluation in {"test": test, "hard": hard}.items():
        if evaluation is not None:
            write_json(run / "eval" / f"{name}.json", evaluation)
    if stability is not None:
        write_json(run / "stability" / "report.json", stability)
    return run


def write_sweep(sweep: Path, name: str, axes: Sequence[str], cells: Sequence[Axes]) -> Path:
    """Write a sweep in which no cell has ended; each cell is named after its axes."""
    listed = [{"name": cell_name(cell), "axes": dict(cell)} for cell in cells]
    table = {"format": 1, "name": name, "axes": list(axes), "cells": listed}
    write_json(sweep / "cells.json", table)
    return sweep


def cell_name(axes: Axes) -> str:
    return "_".join(f"{axis}-{value}" for axis, value in axes.items())


def end_cell(sweep: Path, axes: Axes, *, rho: float | None = None, **run: Any) -> None:
    """Finish a cell: write its state, and its run folder with `write_run`."""
    spec = {name: value for name, value in axes.items() if name in {"recall", "norm", "lr", "seed"}}
    write_run(sweep / "runs" / cell_name(axes), **(spec | run))
    state = {
        "format": 1,
        "status": "finished",
        "error": None,
        "seconds": {"train": 10.0, "evaluate": 5.0},
        "flops": {"train": 2e12, "evaluate": 5e12},
        "parameters": 12345,
        "rho_w_x": rho,
    }
    write_json(sweep / "state" / f"{cell_name(axes)}.json", state)


def fail_cell(sweep: Path, axes: Axes, error: str) -> None:
    state = {"format": 1, "status": "failed", "error": error, "seconds": {"train": 1.0}}
    write_json(sweep / "state" / f"{cell_name(axes)}.json", state)
