"""How fast are sudokus made, moved about and read?

    python benchmarks/data_sudoku.py [FILE.csv.gz]

**Question:** Does the built-in generator make at least 1,000 9x9 puzzles/s on one core, does the
augmentation move at least 300,000 boards/s on 2 cores, and is a file read faster than it takes to
notice? The best of several rounds counts, for the machine is shared; compiling is not counted.

**Machine:** 2 cores of an AMD EPYC, Python 3.11, jax 0.10.2, numba 0.68.1; other work was
running on it (load average 5), so these are lower bounds.

**Last numbers** (per second): puzzles made 4,164 with 32 givens, 2,586 with 28, 1,303 with 25, 831
with 24; boards augmented 868,646 in batches of 500 and 1,017,526 in batches of 4,096; rows read
75,238 of the Sudoku Exchange file, proven unique 34,802. One round each at load average
1.4: 5,312 puzzles with 28 givens, 135,503 rows read. By CPU time, on a machine that eight shared:
70,115 rows/s told from symmetric copies; of 298,580 real puzzles one shares its orbit's number with
an earlier one, of which it is no copy.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from eqloop._task import refuse
from eqloop.tasks._sudoku_generator import make, solve
from eqloop.tasks._sudoku_orbits import orbits
from eqloop.tasks.sudoku import Sudoku

REAL = Path(__file__).resolve().parents[2] / "shared/data/sudoku/sudoku_exchange_se_2.5_4.8.csv.gz"


def best(function: Callable[[], int], rounds: int = 5) -> float:
    """Return the units per second of the fastest round; `function` returns its number of units."""
    function()
    rates = []
    for _ in range(rounds):
        start = time.perf_counter()
        units = function()
        rates.append(units / (time.perf_counter() - start))
    return max(rates)


def generation(givens: int) -> float:
    """Return puzzles with exactly `givens` givens per second; failed attempts cost time too."""
    starts = iter(range(0, 10**9, 1000))
    return best(lambda: len(make(1, next(starts), 1000, 3, givens)[0]))


def augmentation(batch: int) -> float:
    """Return boards (puzzle and answer) per second; the keys are made inside."""
    task = Sudoku()
    split = task.generate(256, 0)
    tokens, targets = (
        jnp.asarray(np.resize(cells, (batch, 9, 9))) for cells in (split.inputs, split.targets)
    )

    @jax.jit
    def move(key, tokens, targets):
        return jax.vmap(task.transform)(jax.random.split(key, batch), tokens, targets)

    def rounds() -> int:
        for seed in range(20):
            jax.block_until_ready(move(jax.random.key(seed), tokens, targets))
        return 20 * batch

    return best(rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, default=REAL)
    path = parser.parse_args().file
    table = Table("what", "per second", "wanted", title=f"{os.cpu_count()} cores")
    for givens in (32, 28, 25, 24):
        expected = "1,000" if givens == 28 else ""
        table.add_row(f"puzzles made, {givens} givens", f"{generation(givens):,.0f}", expected)
    for batch in (500, 4096):
        rate = augmentation(batch)
        table.add_row(f"boards augmented, batch {batch}", f"{rate:,.0f}", "300,000")
    if path.is_file():
        task = Sudoku()
        split = task.read(path, on_bad=refuse)
        rows = split.inputs.reshape(len(split), -1)[:20_000]
        table.add_row(
            f"rows read of {path.name}",
            f"{best(lambda: len(task.read(path, on_bad=refuse)), 3):,.0f}",
        )
        table.add_row(
            "  of these proven unique",
            f"{best(lambda: len(solve(rows, 3)[0]), 3):,.0f}",
        )
        table.add_row(
            "  of these told from symmetric copies",
            f"{best(lambda: len(orbits(rows, 3)), 3):,.0f}",
        )
        shared = len(split) - len(np.unique(orbits(split.inputs, 3)))
        table.add_row("rows whose orbit an earlier row has", f"{shared:,} of {len(split):,}")
    Console().print(table)


if __name__ == "__main__":
    main()
