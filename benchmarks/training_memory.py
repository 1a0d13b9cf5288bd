"""Is the memory of a training step by fixed points constant, and what does the step cost?

    python benchmarks/training_memory.py [--tasks prefix-sums sudoku] [--steps 16 64 256]

**Question:** One optimiser step at the settings of the preset `equilibrium` (its last phase), with
a solver that makes 16, 64 and 256 steps: does its memory stay within 5 %? What does `unroll` with
full backpropagation take at the same numbers, and what does a step of the preset `quick` take?

Memory is what XLA reserves for the compiled step besides its arguments (`temp_size_in_bytes`).
Time is the CPU seconds (all threads) of the fastest of three steps, from random weights and at a
tolerance that no loop reaches, so that every loop makes all of its steps.

**Machine:** 2 cores of an AMD EPYC (Zen 4), jax 0.10.2, nothing else running, 2026-11-28.

**Last numbers:** MiB and CPU seconds of a step after 16, 64 and 256 steps. Prefix sums (32 cells,
batch 32): fixed-point + implicit 49.1, 49.1, 49.1 MiB and 0.15, 0.29, 0.90 s; unroll + backprop
26.5, 62.5, 206.5 MiB and 0.34, 0.80, 3.22 s. Preset `equilibrium` 49.1 MiB and 0.27 to 0.34 s (59
iterations), preset `quick` 50.2 MiB and 0.31 to 0.38 s (batch 64, 22 iterations). Sudoku (81 cells,
batch 16): fixed-point + implicit 52.9, 52.9, 52.9 MiB and 0.15, 0.34, 1.08 s; unroll + backprop
29.3, 74.9, 257.1 MiB and 0.24, 0.88, 3.95 s. Preset `equilibrium` 52.9 MiB and 0.21 s (35
iterations), preset `quick` 25.3 MiB and 0.15 s (12 iterations). Without folded recall fixed-point +
implicit take 46.0 and 51.6 MiB, and 64 steps 1 % less and 2 % more time (9 rounds in turn).
"""

import argparse
import dataclasses
import time
from collections.abc import Sequence

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from eqloop.run import Spec, resolve
from eqloop.tasks import make_task
from eqloop.train import init_state
from eqloop.train._method import make_method
from eqloop.train._state import training_key
from eqloop.train._step import _Fixed, _program, put

TIMED = 3
UNREACHED = 1e-9
"""A relative tolerance that float32 never meets."""


def spec_of(task: str, preset: str, *settings: str) -> Spec:
    """Return the last phase of a preset."""
    return dataclasses.replace(resolve(task, preset, settings, make_task=make_task), phases=())


def measured(spec: Spec) -> tuple[float, float, float]:
    """Return the MiB of a compiled step, the CPU seconds of a step, and the iterations of its
    loops."""
    task = make_task(spec.task_name, spec.task_fields)
    batch = spec.train.batch
    rows = np.arange(batch, dtype=np.int32)
    split = task.generate(batch, 0)
    key, lr = training_key(spec.train.seed), jax.numpy.float32(spec.train.lr)
    fixed = _Fixed(put(split), jax.numpy.asarray(rows), key, lr, jax.numpy.int32(0))
    state = init_state(spec)
    step = _program(spec, task, None, make_method(spec)).lower(fixed, state).compile()
    analysis, seconds, iterations = step.compiled.memory_analysis(), [], 0.0
    for _ in range(TIMED):
        began = time.process_time()
        state, metrics = step(fixed, state)
        iterations = float(metrics["iterations"])
        seconds.append(time.process_time() - began)
    return analysis.temp_size_in_bytes / 2**20, min(seconds), iterations


def contenders(task: str, steps: Sequence[int]) -> dict[str, Spec]:
    unrolled = ("solver.name=unroll", "solver.gradient=backprop", "train.residual_penalty=0")
    specs = {}
    for n in steps:
        tolerance = (f"solver.max_steps={n}", f"solver.rtol={UNREACHED}")
        specs[f"fixed-point, implicit, {n}"] = spec_of(task, "equilibrium", *tolerance)
        specs[f"unroll, backprop, {n}"] = spec_of(
            task, "equilibrium", *unrolled, f"solver.steps={n}"
        )
    specs["preset equilibrium"] = spec_of(task, "equilibrium")
    specs["preset quick"] = spec_of(task, "quick")
    return specs


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tasks", nargs="+", default=["prefix-sums", "sudoku"])
    parser.add_argument("--steps", nargs="+", type=int, default=[16, 64, 256])
    chosen = parser.parse_args()
    console = Console()
    for task in chosen.tasks:
        table = Table("step", "batch", "MiB", "CPU s", "iterations", title=task)
        for name, spec in contenders(task, chosen.steps).items():
            memory, seconds, iterations = measured(spec)
            row = (f"{memory:.1f}", f"{seconds:.3f}", f"{iterations:.1f}")
            table.add_row(name, str(spec.train.batch), *row)
            print(task, name, spec.train.batch, *row, flush=True)
        console.print(table)


if __name__ == "__main__":
    main()
