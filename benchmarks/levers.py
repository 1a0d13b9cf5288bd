"""What did a lever of training by fixed points do? One line for each lever of a sweep.

    eqloop sweep benchmarks/full/equilibrium-prefix-sums.toml
    python benchmarks/levers.py sweeps/equilibrium-prefix-sums

**Question:** How many seeds of a lever solve the task, when do they rise, and do the loops converge
and the gradients come from fixed points at the end? A mean and the smallest and largest value over
the seeds that have ended; the other figures are of the last third of the training. The step of the
rise is the first whose batch has 95 % of the cells right; seeds without one are left out of it.

**Last numbers:** benchmarks/LOG.md, "Which lever carries it".
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eqloop.run import (
    METRICS,
    RUNS,
    is_sweep,
    read_cell_result,
    read_metrics,
    read_run,
    read_sweep,
)

RISEN = 0.95
"""Share of the cells of a batch that a run has right after its rise."""
LAST = 1 / 3
"""Share of the training whose loops and gradients are counted."""


def figures(lines: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, float]:
    """The figures of one run from the lines of its training steps.

    - `lines`: the lines with the kind `train`, in order.
    - `seconds`: wall time of the training, over all the processes that worked on the run.

    **Returns** name -> number: `rise` is NaN where no batch reaches `RISEN`.
    """
    last = lines[-max(round(len(lines) * LAST), 1) :]

    def mean(name: str) -> float:
        return sum(line[name] for line in last) / len(last)

    return {
        "rise": next((line["step"] for line in lines if line["cells"] >= RISEN), math.nan),
        "converged %": 100 * mean("converged"),
        "fallback %": 100 * mean("fallback"),
        "iterations": mean("iterations"),
        "seconds": seconds,
    }


def spread(values: Sequence[float]) -> str:
    """The mean, smallest and largest of the values that are not NaN, as text."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "never"
    return f"{sum(known) / len(known):.1f} ({min(known):.1f}-{max(known):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sweep", type=Path)
    options = parser.parse_args()
    if not is_sweep(options.sweep):
        parser.error(f"{options.sweep} is not a sweep: make it with eqloop sweep")

    runs: dict[str, list[dict[str, float]]] = defaultdict(list)
    for name, cell in read_sweep(options.sweep).cells.items():
        run = options.sweep / RUNS / name
        ended = read_cell_result(options.sweep, name)
        if ended is None or ended.error is not None:
            continue
        lines = [line for line in read_metrics(run / METRICS) if line["kind"] == "train"]
        scores = {
            f"{split} %": 100 * record.evaluation.overall.scores["exact"][-1]
            for split, record in read_run(run).splits.items()
        }
        runs[str(cell["lever"])].append(scores | figures(lines, ended.seconds["train"]))
    names = ["test %", "hard %", "rise", "converged %", "fallback %", "iterations", "seconds"]
    print(f"| lever | seeds | {' | '.join(names)} |")
    print("|---" * (len(names) + 2) + "|")
    for lever, seeds in runs.items():
        cells = [spread([seed[name] for seed in seeds]) for name in names]
        print(f"| {lever} | {len(seeds)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
