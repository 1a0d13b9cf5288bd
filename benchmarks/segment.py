"""How fast is a segment of TRM as published for sudoku on a CPU, beside PyTorch?

    python -m venv .torch && .torch/bin/pip install -e . -r benchmarks/requirements.txt
    taskset -c 1 .torch/bin/python benchmarks/segment.py                # training, one core
    taskset -c 1 .torch/bin/python benchmarks/segment.py --inference
    .torch/bin/python benchmarks/segment.py                             # training, all cores

**Question:** One segment of the published TRM for Sudoku-Extreme (hidden 512, two blocks with an
MLP over cells, 81 cells and 16 positions before them, three cycles of six low steps and a high one,
stablemax and q head; batch 4, float32): how long does it take beside PyTorch in the layout of its
authors (`torch_trm.py`), eager and as they run it, the whole model with its loss by
`torch.compile`? Training is forward, with gradient through the last cycle alone, loss and backward;
no side has the optimiser step. Inference is the forward part and the loss. States, class scores,
loss and gradients of all are compared before they are timed.

The contenders are processes of their own and run in turn, as in `step.py`. On a busy machine a
process waits for its core: there CPU seconds count, and of these the least. The products of the net
are 35 of its calls in training and 21 in inference; `GFLOP per cpu s` is their number over the
least CPU time, and the rate of a product alone, 88 to 94, is the ceiling.

**Machine:** 2 cores of an AMD EPYC (Zen 4), nearly idle, jax 0.10.2, torch 2.13.0, 2026-11-28.

**Last numbers:** least of 7 rounds (median), seconds: of CPU on one core, of wall time on two.

                     training            inference           training, 2 cores   inference, 2 cores
    eqloop           2.22 (2.23)         1.09 (1.15)         1.34 (1.38)         0.59 (0.61)
    torch eager      2.11 (2.16)         1.70 (1.80)         1.16 (1.31)         0.94 (1.10)
    torch.compile    2.09 (2.11)         1.27 (1.41)         1.09 (1.30)         0.66 (0.75)

So training takes 1.06 times as long as the fastest PyTorch on one core and 1.23 times on two (1.06
by the medians), inference 0.86 and 0.89 times. Where the time goes: LOG.md.
"""

# pyright: reportMissingImports=false, reportCallIssue=false, reportArgumentType=false
# PyTorch is not a dependency of the package: see benchmarks/requirements.txt.

import argparse
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from _timing import Run, drive, serve
from rich.console import Console
from rich.table import Table

CELLS, VOCABULARY, WIDTH, EXTRA, LAYERS, HIGH_CYCLES, LOW_CYCLES = 81, 11, 512, 16, 2, 3, 6
CONFIG = {
    "seq_len": CELLS,
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_heads": 8,
    "expansion": 4,
    "L_layers": LAYERS,
    "H_cycles": HIGH_CYCLES,
    "L_cycles": LOW_CYCLES,
    "mlp_t": True,
    "pos_encodings": "none",
    "puzzle_emb_ndim": WIDTH,
    "puzzle_emb_len": EXTRA,
    "num_puzzle_identifiers": 1,
    "halt_max_steps": 16,
}


def products(batch: int, *, gradient: bool) -> float:
    """Floating-point operations of the products of a segment: those of the net, three times as
    many for a call with gradient."""
    from eqloop.nn import swiglu_width

    positions = EXTRA + CELLS
    block = 6 * positions * WIDTH * (swiglu_width(positions, 4) + swiglu_width(WIDTH, 4))
    calls = LOW_CYCLES + 1
    return batch * LAYERS * block * calls * (HIGH_CYCLES + 2 * gradient)


def make_problem(folder: Path, batch: int) -> None:
    import jax

    import eqloop

    model = eqloop.recursive.make_model("trm", CONFIG, key=jax.random.key(0))
    params, buffers = eqloop.interop.to_sibling_state_dict(model)
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    # The authors begin with zeros here, which would hide mistakes.
    buffers["puzzle_emb.weights"] = normal(1, WIDTH) / WIDTH**0.5
    params["q_head.weight"] = normal(2, WIDTH) / WIDTH**0.5
    states = {name: normal(batch, EXTRA + CELLS, WIDTH) for name in ("z_H", "z_L")}
    tokens = {name: rng.integers(1, VOCABULARY, (batch, CELLS)) for name in ("inputs", "labels")}
    np.savez(folder / "problem.npz", **params, **buffers, **states, **tokens)


def problem(folder: Path) -> tuple[dict[str, np.ndarray], ...]:
    """Return weights, vectors of the initial state, states and tokens, the same for all."""
    arrays = dict(np.load(folder / "problem.npz"))
    groups = ("H_init", "L_init"), ("z_H", "z_L"), ("inputs", "labels")
    taken = [{name: arrays.pop(name) for name in names} for names in groups]
    return arrays, *taken


def eqloop_segment(folder: Path, kind: str) -> tuple[Run, Run]:
    import equinox as eqx
    import jax

    import eqloop

    weights, begin, states, tokens = problem(folder)
    model = eqloop.interop.from_sibling_state_dict("trm", weights, buffers=begin, config=CONFIG)
    puzzles = tokens["inputs"], tokens["labels"], np.zeros(len(tokens["inputs"]), np.int32)
    carry = model.start(tokens["inputs"], puzzles[-1], states)

    def segment(model, carry, puzzles):
        # The states are an argument, not the vectors at which new rows begin.
        carry, out = model.segment(carry, *puzzles, inference=kind == "inference")
        return out.loss, (carry.state, out.logits)

    train = eqx.filter_jit(eqx.filter_value_and_grad(segment, has_aux=True))
    call = train if kind == "train" else eqx.filter_jit(segment)
    arguments = model, carry, jax.tree.map(jax.numpy.asarray, puzzles)

    def run():
        return jax.block_until_ready(call(*arguments))

    def check():
        returned = run()
        ((loss, (state, logits)), grads) = returned if kind == "train" else (returned, None)
        named = {"loss": loss, "logits": logits, "z_H": state.z_H, "z_L": state.z_L}
        if grads is not None:
            trained, buffers = eqloop.interop.to_sibling_state_dict(grads)
            named |= trained | {"puzzle_emb.weights": buffers["puzzle_emb.weights"]}
        return named

    return check, run


def torch_segment(folder: Path, kind: str, compiled: bool) -> tuple[Run, Run]:
    import torch
    from torch_trm import TRM

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    weights, _, states, tokens = problem(folder)
    model = TRM(CELLS, VOCABULARY, WIDTH, EXTRA, LAYERS, HIGH_CYCLES, LOW_CYCLES)
    model.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    arguments = [torch.tensor(array) for array in (*states.values(), *tokens.values())]
    forward = torch.compile(model) if compiled else model

    def run():
        model.zero_grad(set_to_none=True)
        with torch.set_grad_enabled(kind == "train"):
            out = forward(*arguments)
        if kind == "train":
            out[-1].backward()
        return out

    def check():
        named = dict(zip(("z_H", "z_L", "logits", "loss"), run(), strict=True))
        if kind == "train":
            named |= {name: p.grad for name, p in model.named_parameters()}
        return {name: array.detach().numpy() for name, array in named.items()}

    return check, run


CONTENDERS = {
    "eqloop": eqloop_segment,
    "torch eager": partial(torch_segment, compiled=False),
    "torch.compile": partial(torch_segment, compiled=True),
}


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        kind, name, folder = *sys.argv[2:4], Path(sys.argv[4])
        serve(*CONTENDERS[name](folder, kind), folder / f"{name}.npz")
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore
    parser.add_argument("--inference", action="store_true", help="without gradient")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", action="append", help="a contender by name; repeat for more")
    options = parser.parse_args()
    kind = "inference" if options.inference else "train"
    names = options.only or list(CONTENDERS)
    console = Console(width=100)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_problem(folder, options.batch)
        times = drive(__file__, kind, names, folder, options.rounds, console.print)
    work = products(options.batch, gradient=kind == "train") / 1e9
    cores = len(os.sched_getaffinity(0))
    table = Table(title=f"{kind}, {work:.0f} GFLOP of products, cores: {cores}, seconds")
    headings = "median", "least", "cpu median", "cpu least", "GFLOP per cpu s", "times the first"
    for heading in ("", *headings):
        table.add_column(heading, justify="right" if heading else "left")
    first = times[names[0]][:, 1].min()
    for name, rows in times.items():
        wall, cpu = rows.T
        columns = np.median(wall), wall.min(), np.median(cpu), cpu.min()
        rate, ratio = work / cpu.min(), cpu.min() / first
        table.add_row(name, *(f"{x:.3f}" for x in columns), f"{rate:.0f}", f"{ratio:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
