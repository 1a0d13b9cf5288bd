"""How does the cost of training and of evaluation grow with the size of a model and its input?

    export MALLOC_ARENA_MAX=1 MALLOC_MMAP_THRESHOLD_=2147483647 MALLOC_TRIM_THRESHOLD_=2147483647
    taskset -c 0 python benchmarks/scaling.py [--small] [--out scaling.md --picture scaling.svg]

**Question:** time and memory of a training step (forward, backward, AdamW), and time of an
iteration without gradient, over cells (9x9 to 40x40), width (64 to 1,024), iterations and examples
of a batch, one at a time from 81 cells, width 64, 8 iterations, 4 examples; with full attention and
with a neighbourhood of 5x5. Which power of each does the cost grow with?

The exponent is that of a least-squares line through the logarithms at the three largest sizes.
Time is the least CPU time of several calls, with malloc set as the commands set it (the first
line); memory is what XLA reserves for the program besides its arguments. The table goes to `--out`,
the picture to `--picture`.

**Last numbers:** one core of an AMD EPYC (Zen 4), 2026-11-28, the other idle:
`results/scaling.md`; other runs of the same day differ by up to a third. A step grows with power
1.8 of the cells with full attention and 1.2 with 5x5, 1.8 and 1.5 of the width, 0.9 to 1.1 of
iterations and examples. A neighbourhood is faster from about 400 cells on at width 64. Without
the settings of malloc a step on 900 cells takes 3.5 CPU seconds, with them 1.8.
"""

import argparse
import dataclasses
import math
import platform
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import eqloop
from eqloop.report.figures._style import line_style, new_figure, tidy

CLASSES = 10
SECONDS = 1.0
"""A program is called until this time is over, and at least twice."""


@dataclasses.dataclass(frozen=True)
class Size:
    """A model and its input; the cells are a square."""

    cells: int = 81
    width: int = 64
    iterations: int = 8
    examples: int = 4


RANGES: dict[str, Sequence[int]] = {
    "cells": (81, 225, 400, 900, 1600),
    "width": (64, 128, 256, 512, 1024),
    "iterations": (8, 16, 32, 64, 128),
    "examples": (4, 8, 16, 32, 64),
}
SMALL: dict[str, Sequence[int]] = {name: sizes[:2] for name, sizes in RANGES.items()}
ATTENTIONS: dict[str, int | Literal["full"]] = {"full": "full", "5x5": 5}


@dataclasses.dataclass(frozen=True)
class Cost:
    """CPU seconds of a training step and of an iteration for one example, MiB of a step."""

    step: float
    iteration: float
    memory: float


UNITS = {
    "step": ("step, CPU s", 1),
    "iteration": ("iteration of one example, CPU ms", 1e3),
    "memory": ("step, MiB", 1),
}


def least(call: Callable[[], object]) -> float:
    """CPU seconds of the fastest of several calls."""
    times, began = [], time.perf_counter()
    while len(times) < 2 or time.perf_counter() - began < SECONDS:
        cpu = time.process_time()
        jax.block_until_ready(call())
        times.append(time.process_time() - cpu)
    return min(times)


def measure(size: Size, attention: int | Literal["full"]) -> Cost:
    side = math.isqrt(size.cells)
    model: Any = eqloop.LoopedTransformer(
        (side, side), CLASSES, CLASSES, size.width, attention=attention, key=jr.key(0)
    )
    tokens = jr.randint(jr.key(1), (size.examples, side, side), 0, CLASSES)
    x = jax.nn.one_hot(tokens, CLASSES)
    solver, optimiser = eqloop.Unroll(size.iterations), optax.adamw(1e-4)

    def loss(model):
        logits = jax.vmap(lambda x: model(x, solver=solver, gradient=eqloop.Backprop()).logits)(x)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, tokens))

    def step(model: Any, state: optax.OptState) -> tuple[Any, optax.OptState]:
        updates, state = optimiser.update(eqx.filter_grad(loss)(model), state, model)
        return eqx.apply_updates(model, updates), state

    state = optimiser.init(model)
    trained = jax.jit(step).lower(model, state).compile()
    memory = trained.memory_analysis()
    assert memory is not None
    evaluated = jax.jit(loss).lower(model).compile()
    return Cost(
        step=least(lambda: trained(model, state)),
        iteration=least(lambda: evaluated(model)) / size.iterations / size.examples,
        memory=memory.temp_size_in_bytes / 2**20,
    )


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """p of `value ~ size^p`, by least squares of the logarithms at the three largest sizes."""
    slope, _ = np.polyfit(np.log(sizes[-3:]), np.log(values[-3:]), 1)
    return float(slope)


def table(results: dict[tuple[str, str], list[Cost]], ranges: dict[str, Sequence[int]]) -> str:
    sizes = len(next(iter(ranges.values())))
    lines = [
        f"| attention | over | |{' |' * sizes} exponent |",
        f"|---|---|---|{'---|' * (sizes + 1)}",
    ]
    for (attention, axis), costs in results.items():
        sizes = ranges[axis]
        lines.append(
            f"| {attention} | {axis} | | " + " | ".join(f"**{size:,}**" for size in sizes) + " | |"
        )
        for field in dataclasses.fields(Cost):
            values = [getattr(cost, field.name) for cost in costs]
            unit, scale = UNITS[field.name]
            shown = " | ".join(f"{scale * value:.3g}" for value in values)
            lines.append(f"| | | {unit} | {shown} | {exponent(sizes, values):.2f} |")
    return "\n".join(lines)


def draw(
    results: dict[tuple[str, str], list[Cost]], ranges: dict[str, Sequence[int]], path: Path
) -> None:
    figure = new_figure(10, 5.5)
    panels = figure.subplots(2, len(ranges), sharex="col", sharey="row")
    for column, (axis, sizes) in enumerate(ranges.items()):
        for row, name in enumerate(("step", "memory")):
            axes = panels[row, column]
            for number, attention in enumerate(ATTENTIONS):
                costs = results[attention, axis]
                values = [UNITS[name][1] * getattr(cost, name) for cost in costs]
                label = f"{attention}: power {exponent(sizes, values):.1f}"
                axes.loglog(sizes, values, label=label, markersize=4, **line_style(number))
            tidy(axes)
            axes.legend(frameon=False, fontsize=8)
            axes.set_xticks(sizes, [f"{size:,}" for size in sizes], minor=False)
            axes.set_xticks([], minor=True)
        panels[1, column].set_xlabel(axis)
    panels[0, 0].set_ylabel(UNITS["step"][0])
    panels[1, 0].set_ylabel(UNITS["memory"][0])
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore
    parser.add_argument("--small", action="store_true", help="the two smallest sizes of each")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scaling.md"))
    parser.add_argument("--picture", type=Path, default=Path("docs/images/scaling.svg"))
    arguments = parser.parse_args()
    ranges = SMALL if arguments.small else RANGES
    results = {}
    for attention, window in ATTENTIONS.items():
        for axis, sizes in ranges.items():
            costs = [measure(dataclasses.replace(Size(), **{axis: n}), window) for n in sizes]
            results[attention, axis] = costs
            print(attention, axis, *(f"{cost.step:.3f} s" for cost in costs), flush=True)
    text = table(results, ranges)
    print(text)
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text("utf-8"))
    processor = cpu[1] if cpu else platform.machine()
    heading = f"# How the cost grows\n\n`benchmarks/scaling.py`, {processor}, jax {jax.__version__}"
    arguments.out.write_text(f"{heading}\n\n{text}\n", "utf-8")
    draw(results, ranges, arguments.picture)


if __name__ == "__main__":
    main()
