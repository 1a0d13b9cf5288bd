"""Does what the instrument says of a loop go with how the model extrapolates?

The paper's grid, 3 recalls x 4 placements of the norms x 3 seeds, small: prefix sums of 16 bits
(hard: 48) and sudokus of 4x4 cells (hard: fewer givens), width 32, 300 steps each. For every model
the three axes, measured on 32 hard examples over 256 iterations, beside the share of examples that
it solves; and over the models of a task the rank correlation (Spearman's) between each number of
the instrument and the share of hard examples solved, with a 95 % interval by resampling models.

    python benchmarks/grid.py train prefix-sums     (or sudoku: 36 models)
    python benchmarks/grid.py table                 (from benchmarks/results/grid-*.json)

Training goes on where it stopped. Machine and last results: benchmarks/results/grid.md.
"""

import itertools
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import jax.random as jr
import numpy as np
from scipy.stats import spearmanr

from eqloop.examine import make_problem, predict, weight_figures
from eqloop.stability import StabilityReport, analyse
from eqloop.tasks import make_task
from eqloop.train import Diverged, evaluate, open_run, resolve, train

RESULTS = Path(__file__).parent / "results"
RUNS = Path("runs/grid")
RECALLS = ("none", "external", "internal")
PLACEMENTS = {"pre": ("pre", "add"), "peri": ("peri", "add"), "post": ("post", "add")}
PLACEMENTS |= {"gru": ("peri", "gru")}
SEEDS = (0, 1, 2)
COMMON = ["model.width=32", "model.heads=4", "solver.steps=8", "train.batch=64"]
TASKS = {
    "prefix-sums": ["task.length=16", "task.hard_length=48", "task.validation_length=24",
                    "train.burn_in=8"],
    "sudoku": ["task.box=2", "train.validate_every=100"],
}  # fmt: skip
ITERATIONS, EXAMPLES, DETAIL = 256, 32, 8
MEASURES = {
    "converged": lambda r: r.reachability.shares["converged"].share,
    "sensitivity kept": lambda r: _ratio(
        r.input_dependence.sensitivity.median[-1], r.input_dependence.sensitivity.median[0]
    ),
    "Lyapunov exponent": lambda r: r.spectrum.lyapunov[0].median,
    "gradient to the start": lambda r: r.geometry.gradient_norm.median[0],
    "spectral radius": lambda r: r.spectrum.radius.median,
    "non-normality": lambda r: r.spectrum.non_normality.median,
    "distinct": lambda r: r.input_dependence.distinct,
    "condition": lambda r: r.geometry.condition.median,
}


def _ratio(last: float, first: float) -> float:
    return last / first if first else math.nan


def run(task_name: str) -> None:
    path = RESULTS / f"grid-{task_name}.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    done = {(row["recall"], row["placement"], row["seed"]) for row in rows}
    # One seed of every cell before the next seed: what is there is a whole grid, early on.
    cells = [(recall, place, s) for s in SEEDS for recall in RECALLS for place in PLACEMENTS]
    for number, (recall, placement, seed) in enumerate(cells, 1):
        if (recall, placement, seed) in done:
            continue
        began = time.perf_counter()
        rows.append(
            {"recall": recall, "placement": placement, "seed": seed}
            | measure(task_name, recall, placement, seed)
        )
        path.write_text(json.dumps(rows, indent=1) + "\n")
        row = rows[-1]
        print(
            f"{number}/{len(cells)} {recall} {placement} {seed}: test {row['test']:.0%}, hard "
            f"{row['hard']:.0%}, {row['verdict']}, {time.perf_counter() - began:.0f} s",
            flush=True,
        )


def measure(task_name: str, recall: str, placement: str, seed: int) -> dict[str, Any]:
    norm, residual = PLACEMENTS[placement]
    wishes = [*COMMON, *TASKS[task_name], f"model.residual={residual}"]
    spec = resolve(
        task_name, "quick", wishes, make_task=make_task,
        recall=recall, norm=norm, seed=seed, steps=300,
    )  # fmt: skip
    task = make_task(spec.task_name, spec.task_fields)
    path = RUNS / task_name / f"{recall}-{placement}-{seed}"
    try:
        outcome = train(None if path.exists() else spec, task, path, resume=path.exists())
    except Diverged as error:
        return {"test": 0.0, "hard": 0.0, "best_hard": 0.0, "diverged": str(error)}
    if outcome.status == "interrupted":
        sys.exit(1)  # half a model is not measured: the next call goes on with it
    model, _ = open_run(path).restore("best")
    splits = {name: task.load().splits[name] for name in ("test", "hard")}
    solved = {}
    for name, split in splits.items():
        found = evaluate(model, task, split.evenly(500), iterations=ITERATIONS)
        solved[name] = found.overall.overthinking["exact"]
    problem = make_problem(model, task, splits["hard"].evenly(EXAMPLES))
    report: StabilityReport = analyse(
        problem.f, problem.start, problem.inputs, key=jr.key(seed), iterations=ITERATIONS,
        detail=DETAIL, loss=problem.loss, targets=problem.targets,
    )  # fmt: skip
    claims = predict(spec.model.recall, spec.model.norm, spec.model.residual,
                     weight_figures(model).get("rho_w_x"))  # fmt: skip
    return {
        "test": solved["test"]["last"],
        "best_test": solved["test"]["best"],
        "hard": solved["hard"]["last"],
        "best_hard": solved["hard"]["best"],
        "verdict": {axis: each.verdict for axis, each in report.verdict.items()},
        "expected": {axis: each.expects for axis, each in claims.items()},
        "measures": {name: float(of(report)) for name, of in MEASURES.items()},
    }


def table() -> str:
    lines = []
    for task_name in TASKS:
        path = RESULTS / f"grid-{task_name}.json"
        if not path.exists():
            continue
        rows = json.loads(path.read_text())
        lines += [f"\n## {task_name}, {len(rows)} models\n", *grid_lines(rows), ""]
        lines += correlation_lines(rows)
    return "\n".join(lines)


def grid_lines(rows: list[dict[str, Any]]) -> list[str]:
    head = ["recall", "placement", "test", "hard", "best hard", "reachability", "input-dependence",
            "geometry"]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for recall, placement in itertools.product(RECALLS, PLACEMENTS):
        some = [r for r in rows if (r["recall"], r["placement"]) == (recall, placement)]
        if not some:
            continue
        shares = ["/".join(f"{100 * r[name]:.0f}" for r in some)
                  for name in ("test", "hard", "best_hard")]  # fmt: skip
        said = [_said([r.get("verdict", {}).get(axis, "diverged in training") for r in some])
                for axis in ("reachability", "input_dependence", "geometry")]  # fmt: skip
        lines.append("| " + " | ".join([recall, placement, *shares, *said]) + " |")
    return lines


def _said(verdicts: list[str]) -> str:
    counts = {each: verdicts.count(each) for each in dict.fromkeys(verdicts)}
    return ", ".join(v if n == len(verdicts) else f"{v} ({n})" for v, n in counts.items())


def correlation_lines(rows: list[dict[str, Any]]) -> list[str]:
    measured = [r for r in rows if "measures" in r]
    lines = ["| instrument | models | rank correlation with hard | 95 % |", "|---|---|---|---|"]
    for name in MEASURES:
        pairs = [(r["measures"][name], r["hard"]) for r in measured]
        known = np.array([p for p in pairs if math.isfinite(p[0])])
        if len(known) < 5 or len(set(known[:, 0])) < 2:
            lines.append(f"| {name} | {len(known)} | - | too few |")
            continue
        low, high = resampled(known)
        lines.append(
            f"| {name} | {len(known)} | {correlation(known):.2f} | {low:.2f} to {high:.2f} |"
        )
    lines += ["", *agreement_lines(measured)]
    return lines


def correlation(pairs: np.ndarray) -> float:
    return float(np.asarray(spearmanr(pairs[:, 0], pairs[:, 1]))[0])


def resampled(pairs: np.ndarray) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    found = []
    while len(found) < 1000:
        drawn = pairs[rng.integers(0, len(pairs), len(pairs))]
        if min(len(set(drawn[:, 0])), len(set(drawn[:, 1]))) > 1:
            found.append(correlation(drawn))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def agreement_lines(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for axis in ("reachability", "input_dependence", "geometry"):
        claimed = [r for r in rows if r["expected"][axis] is not None
                   and r["verdict"][axis] != "not measurable"]  # fmt: skip
        agree = sum(r["verdict"][axis] in r["expected"][axis] for r in claimed)
        lines.append(f"- {axis}: as the framework predicts in {agree} of {len(claimed)} models")
    return lines


if __name__ == "__main__":
    if sys.argv[1:2] == ["train"] and sys.argv[2] in TASKS:
        run(sys.argv[2])
    elif sys.argv[1:] == ["table"]:
        print(table())
    else:
        sys.exit(__doc__)
