"""How long does a whole stability report take?

A model of width 256 on sudokus of 9x9 cells, as initialised (its loops do not converge, so that
none ends early), 64 examples, 256 iterations: everything that `eqloop stability` measures,
compiling included; without drawing the page.

    python benchmarks/stability.py

Last numbers (2 cores of an AMD EPYC, else idle, jax 0.10.2): 108 s in all; stability 49, accuracy
17, weight noise 30, gradients 12.
"""

import time

import jax.random as jr

import eqloop
from eqloop.claims import examine
from eqloop.run import resolve
from eqloop.tasks import make_task


def main() -> None:
    task = make_task("sudoku", {"rows": 400})
    splits = {name: task.load().splits[name] for name in ("test", "hard")}
    spec = resolve("sudoku", "quick", ["model.width=256", "model.heads=8"], make_task=make_task)
    model = eqloop.LoopedTransformer(task.grid, task.channels, task.classes, 256, 8, key=jr.key(0))
    part, start = "", time.perf_counter()

    def show(name: str, done: int, total: int | None) -> None:
        nonlocal part
        if name != part:
            print(f"{time.perf_counter() - start:6.1f} s  {name}", flush=True)
            part = name

    report = examine(
        model, task, splits, spec, split="hard", examples=64, iterations=256, progress=show
    )
    print(f"{time.perf_counter() - start:6.1f} s  done")
    for axis, statement in report.verdict.items():
        print(f"{axis}: {statement.verdict}")


if __name__ == "__main__":
    main()
