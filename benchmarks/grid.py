"""Does what the instrument says of a loop go with how the model extrapolates?

The paper's grid, small: 3 recalls x 4 placements of the norms x 3 seeds, of each the learning rate
that is best on validation. For every such run of a sweep this measures the three axes, and takes
the census of how loops end and whether their answers are right, on 32 hard examples over 256
iterations, as `eqloop stability` does; `eqloop report` then puts them beside the
share of examples solved, with the rank correlation (Spearman's) over the runs and its 95 %
interval. The baseline of fixed depth has no loop to examine.

    eqloop sweep paper-small/prefix-sums --jobs 2        (and sudoku, chess)
    python benchmarks/grid.py sweeps/paper-small-prefix-sums
    eqloop report sweeps/paper-small-prefix-sums

Each goes on where it stopped. Machine and last results: benchmarks/results/.
"""

import dataclasses
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr

from eqloop._build import restore
from eqloop.claims import Decoder, census, compare, make_problem, predict, weight_figures
from eqloop.report import read_results
from eqloop.run import Player, open_run, save_stability
from eqloop.stability import StabilityReport, analyse_orbits, follow_orbits
from eqloop.tasks import make_task

ITERATIONS, EXAMPLES, DETAIL, RTOL = 256, 32, 8, 1e-4


def runs(sweep: Path) -> list[Path]:
    """Return the seeds of one shape together, so that they share compiled programs."""
    cells = [cell for group in read_results([sweep]).shown for cell in group.cells]
    return [sweep / "runs" / cell.name for cell in cells if cell.axes.get("recall") != "fixed"]


def measure(path: Path) -> StabilityReport:
    """Measure as `eqloop.claims.examine` does, without the parts for the page of one model."""
    run = open_run(path)
    model, step = restore(run, "best")
    task = make_task(run.spec.task_name, run.spec.task_fields)
    split = task.load().splits["hard"].evenly(EXAMPLES)
    problem, decoder = make_problem(model, task, split), Decoder(model.coda, task)
    orbits = follow_orbits(
        problem.f, problem.start, problem.inputs, iterations=ITERATIONS, rtol=RTOL,
        observe=decoder.read, labels=(jnp.asarray(split.inputs), problem.targets),
    )  # fmt: skip
    report = analyse_orbits(
        orbits, key=jr.key(0), detail=DETAIL, loss=problem.loss, targets=problem.targets
    )
    counted = census(
        problem.f, problem.start, decoder, (problem.inputs, split.inputs, split.targets),
        split.difficulty, key=jr.key(1), iterations=ITERATIONS, rtol=RTOL, orbits=orbits,
    )  # fmt: skip
    weights, spec = weight_figures(model), run.spec.model
    claims = predict(spec.recall, spec.norm, spec.residual, weights.get("rho_w_x"))
    source = {"run": str(path), "step": step, "task": task.name, "split": "hard"}
    report = dataclasses.replace(
        report,
        spectrum=dataclasses.replace(report.spectrum, weights=weights),
        predicted=compare(claims, report.verdict),
        census=counted,
        settings=report.settings | source,
    )
    save_stability(run.path, report, Player())
    return report


def main(sweep: Path) -> None:
    todo, shape = runs(sweep), None
    for number, path in enumerate(todo, 1):
        if (path / "stability" / "report.json").exists():
            continue
        start = time.perf_counter()
        if (spec := open_run(path).spec.model) != shape:
            jax.clear_caches()  # otherwise the programs of all shapes add up to gigabytes
            shape = spec
        verdict = measure(path).verdict
        print(
            f"{number}/{len(todo)} {path.name}: "
            + ", ".join(statement.verdict for statement in verdict.values())
            + f", {time.perf_counter() - start:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
