"""How fast are a training step and an iteration of the loop on a CPU, beside PyTorch?

    python -m venv .torch && .torch/bin/pip install -e . -r benchmarks/requirements.txt
    .torch/bin/python benchmarks/step.py                        # one training step
    .torch/bin/python benchmarks/step.py --evaluate             # one iteration without gradient
    python benchmarks/step.py --progressive                     # what skipped iterations cost
    python benchmarks/step.py --quick                           # a step of the quick presets

**Question:** One training step (forward, backward, clipping, AdamW; width 256, 81 cells, batch 32,
8 iterations, internal recall, outer normalisation, float32): is it at least as fast as PyTorch's
(aim: 1.3 times)? One iteration at evaluation: at least 1.2 times as fast? The PyTorch model
(`torch_port.py`) is timed eager and compiled, with PyTorch's attention and an explicit one; the
fastest counts. Logits and gradients of all are compared first.

Every contender is a process of its own, and they run in turn, one at a time (A B C A B C ...): no
two thread pools compete, and a change of the machine's speed hits all alike. Medians of wall
time; `cpu` is the user and system time of all threads, which a busy machine disturbs less.

Commands set malloc so that freed memory stays with the process (`eqloop/cli/_malloc.py`); to time
all contenders with these settings, put them into the environment:
`MALLOC_ARENA_MAX=1 MALLOC_MMAP_THRESHOLD_=2147483647 MALLOC_TRIM_THRESHOLD_=2147483647`.

**Machine:** 2 cores of an AMD EPYC (Zen 4), jax 0.10.2, torch 2.13.0+cpu, 2026-11-28.

**Last numbers:** training step, medians of 9 rounds in milliseconds, nothing else running, first
without and then with these settings: eqloop 1120, 1092; products kept 1021, 902; PyTorch eager with
explicit attention 1032, 918; compiled with explicit attention, the fastest, 928, 849. So a training
by `eqloop train` with `solver.gradient_keep = "products"` takes 0.97 times as long as PyTorch as it
is installed, and 1.06 times as long as PyTorch with the same malloc; with the default, 1.18 and
1.29 times. The aim of 1.3 times as fast is missed. Folded, on 2026-11-22: 1459, in place of 1123.
`--evaluate`, medians of 11 rounds, machine nearly idle, 2026-11-24, milliseconds per iteration:
eqloop 12.8, folded 12.6; PyTorch eager 34.9, with explicit attention 41.1, compiled 25.1, compiled
with explicit attention 24.7: eqloop is 1.9 times as fast; on the machine of 2026-11-28 31.5 and
34.5, 1.1 times (the version of 2026-11-24 takes as long there). `--progressive` and `--quick` have
no numbers from an idle machine yet.
"""

# pyright: reportMissingImports=false, reportCallIssue=false, reportArgumentType=false
# PyTorch is not a dependency of the package: see benchmarks/requirements.txt.

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from _timing import Run, drive, serve
from rich.console import Console
from rich.table import Table

GRID, CHANNELS, CLASSES, WIDTH, BATCH, STEPS = (9, 9), 10, 10, 256, 32, 8
EVALUATED = 16
"""Iterations of one evaluation."""
LR, WEIGHT_DECAY, CLIP = 1e-3, 0.01, 1.0


def problem(folder: Path) -> dict[str, np.ndarray]:
    """Return weights, inputs and targets, the same for all contenders."""
    return dict(np.load(folder / "problem.npz"))


def make_problem(folder: Path) -> None:
    import jax

    import eqloop

    model = eqloop.LoopedTransformer(GRID, CHANNELS, CLASSES, WIDTH, key=jax.random.key(0))
    rng = np.random.default_rng(0)
    np.savez(
        folder / "problem.npz",
        inputs=np.eye(CHANNELS, dtype=np.float32)[rng.integers(0, CHANNELS, (BATCH, *GRID))],
        targets=rng.integers(0, CLASSES, (BATCH, *GRID)),
        **eqloop.interop.to_paper_state_dict(model),  # pyright: ignore[reportArgumentType]
    )


# ------------------------------------------------------------------------------------- eqloop


def load_eqloop(folder: Path):
    import jax.numpy as jnp

    import eqloop

    arrays = problem(folder)
    inputs, targets = jnp.asarray(arrays.pop("inputs")), jnp.asarray(arrays.pop("targets"))
    model = eqloop.interop.from_paper_state_dict(
        arrays, recall="internal", norm="post", spatial_dims=2
    )
    return model, inputs, targets.astype(jnp.int32)


def eqloop_loss(model, x, y, solver, gradient, fold):
    import jax
    import jax.numpy as jnp
    import optax

    def one(x):
        return model(x, solver=solver, gradient=gradient, fold=fold).logits

    logits = jax.vmap(one)(x)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y)), logits


def eqloop_train(folder: Path, fold: bool = False, keep: str = "marked") -> tuple[Run, Run]:
    import equinox as eqx
    import jax
    import optax

    import eqloop

    model, x, y = load_eqloop(folder)
    solver, gradient = eqloop.Unroll(STEPS), eqloop.Backprop(keep=keep)
    optimiser = optax.chain(
        optax.clip_by_global_norm(CLIP),
        optax.adamw(
            LR, weight_decay=WEIGHT_DECAY, mask=partial(jax.tree.map, lambda a: a.ndim > 1)
        ),
    )
    state = optimiser.init(eqx.filter(model, eqx.is_array))
    differentiate = eqx.filter_value_and_grad(eqloop_loss, has_aux=True)

    @eqx.filter_jit(donate="all-except-first")
    def step(data, model, state):
        (loss, _), grads = differentiate(model, *data, solver, gradient, fold)
        updates, state = optimiser.update(grads, state, eqx.filter(model, eqx.is_array))
        return loss, eqx.apply_updates(model, updates), state

    def check():
        (_, logits), grads = eqx.filter_jit(differentiate)(model, x, y, solver, gradient, fold)
        weights = eqloop.interop.to_paper_state_dict(grads)
        return {"logits": logits.reshape(BATCH, -1, CLASSES), **weights}

    carried = [jax.tree.map(lambda a: a.copy() if eqx.is_array(a) else a, model), state]

    def run():
        loss, *carried[:] = step((x, y), *carried)
        return jax.block_until_ready((loss, carried))

    return check, run


def eqloop_evaluate(folder: Path, fold: bool) -> tuple[Run, Run]:
    import equinox as eqx
    import jax

    import eqloop

    model, x, _ = load_eqloop(folder)
    solver = eqloop.Unroll(EVALUATED)

    @eqx.filter_jit
    def logits(model, x):
        return jax.vmap(lambda x: model(x, solver=solver, fold=fold).logits)(x)

    def check():
        return {"logits": logits(model, x).reshape(BATCH, -1, CLASSES)}

    return check, lambda: jax.block_until_ready(logits(model, x))


# ------------------------------------------------------------------------------------ PyTorch


def load_torch(folder: Path, explicit: bool):
    import torch
    from torch_port import LoopedTransformer

    torch.set_num_threads(len(__import__("os").sched_getaffinity(0)))
    arrays = problem(folder)
    x = torch.tensor(arrays.pop("inputs")).flatten(1, -2)
    y = torch.tensor(arrays.pop("targets")).flatten(1)
    model = LoopedTransformer(GRID, CHANNELS, CLASSES, WIDTH, explicit=explicit)
    model.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
    return model, x, y


def torch_optimiser(parameters):
    import torch

    decayed = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim < 2]
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": WEIGHT_DECAY},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=LR,
        fused=True,
    )


def torch_train(folder: Path, explicit: bool, compiled: bool) -> tuple[Run, Run]:
    import torch
    import torch.nn.functional as F

    model, x, y = load_torch(folder, explicit)
    forward = torch.compile(model) if compiled else model
    parameters = list(model.parameters())
    optimiser = torch_optimiser(parameters)

    def differentiate():
        optimiser.zero_grad(set_to_none=True)
        logits = forward(x, STEPS)
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
        loss.backward()
        return logits, loss

    def check():
        logits, _ = differentiate()
        grads = {name: p.grad for name, p in model.named_parameters()}
        return {name: a.detach().numpy() for name, a in {"logits": logits, **grads}.items()}

    def run():
        _, loss = differentiate()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP, foreach=True)
        optimiser.step()
        return loss.item()

    return check, run


def torch_evaluate(folder: Path, explicit: bool, compiled: bool) -> tuple[Run, Run]:
    import torch

    model, x, _ = load_torch(folder, explicit)
    forward = torch.compile(model) if compiled else model

    @torch.no_grad()
    def run():
        return forward(x, EVALUATED)

    return lambda: {"logits": run().numpy()}, run


# ------------------------------------------------------------------------- only within eqloop


def progressive(folder: Path, draw: str) -> tuple[Run, Run]:
    """`draw`: "n,k,bound", traced, or "n,k,static"."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    import eqloop

    model, x, y = load_eqloop(folder)
    n, k, bound = (int(word) if word != "static" else None for word in draw.split(","))
    assert n is not None
    assert k is not None
    compilations = []

    @eqx.filter_jit
    def grads(model, x, y, n, k):
        compilations.append(1)
        solver = eqloop.Unroll(n + k, max_steps=bound)
        gradient = eqloop.Truncated(k, max_steps=bound)
        return eqx.filter_grad(eqloop_loss, has_aux=True)(model, x, y, solver, gradient, False)[0]

    if bound is not None:
        jax.block_until_ready(grads(model, x, y, jnp.asarray(1), jnp.asarray(2)))
        n, k = jnp.asarray(n), jnp.asarray(k)

    def run():
        jax.block_until_ready(grads(model, x, y, n, k))
        assert len(compilations) == 1, "a new (n, k) must not compile anew"

    return lambda: {}, run


def quick(folder: Path, task_name: str) -> tuple[Run, Run]:
    """One step of the quick preset, with its data, as `eqloop train` makes it."""
    import jax

    from eqloop.run import resolve
    from eqloop.tasks import make_task
    from eqloop.train import init_state, make_step
    from eqloop.train._step import Order, put

    # Without the burn-in, whose random length would be the largest difference between two steps.
    spec = resolve(task_name, "quick", ["task.rows=2000", "train.burn_in=0"], make_task=make_task)
    task = make_task(spec.task_name, spec.task_fields)
    data = put(task.load().splits["train"])
    step = make_step(spec, task)
    order = Order(0, len(data.inputs), spec.train.batch)
    state = [init_state(spec), 0]

    def run():
        state[0], metrics = step(data, state[0], order(state[1]))
        state[1] += 1
        return jax.block_until_ready(metrics)

    return lambda: {}, run


TRAIN = {
    "eqloop": eqloop_train,
    "eqloop, products kept": partial(eqloop_train, keep="products"),
    "eqloop, folded": partial(eqloop_train, fold=True),
    "torch eager": partial(torch_train, explicit=False, compiled=False),
    "torch eager, explicit attention": partial(torch_train, explicit=True, compiled=False),
    "torch.compile": partial(torch_train, explicit=False, compiled=True),
    "torch.compile, explicit attention": partial(torch_train, explicit=True, compiled=True),
}
EVALUATE = {
    "eqloop": partial(eqloop_evaluate, fold=False),
    "eqloop, folded": partial(eqloop_evaluate, fold=True),
    "torch eager": partial(torch_evaluate, explicit=False, compiled=False),
    "torch eager, explicit attention": partial(torch_evaluate, explicit=True, compiled=False),
    "torch.compile": partial(torch_evaluate, explicit=False, compiled=True),
    "torch.compile, explicit attention": partial(torch_evaluate, explicit=True, compiled=True),
}
PROGRESSIVE = {
    f"n, k, slots = {draw}": partial(progressive, draw=draw)
    for draw in ("0,2,static", "0,2,2", "0,2,30", "16,2,30", "0,8,static", "0,8,30", "14,8,30")
}
QUICK = {name: partial(quick, task_name=name) for name in ("prefix-sums", "sudoku", "chess")}
SETS = {"train": TRAIN, "evaluate": EVALUATE, "progressive": PROGRESSIVE, "quick": QUICK}


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        kind, name, folder = *sys.argv[2:4], Path(sys.argv[4])
        serve(*SETS[kind][name](folder), folder / f"{name}.npz")
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # pyright: ignore
    for kind in ("evaluate", "progressive", "quick"):
        parser.add_argument(f"--{kind}", dest="kind", action="store_const", const=kind)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--only", action="append", help="a contender by name; repeat for more")
    arguments = parser.parse_args()
    kind = arguments.kind or "train"
    names = arguments.only or list(SETS[kind])
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_problem(folder)
        times = drive(__file__, kind, names, folder, arguments.rounds, console.print)
    per, unit = (EVALUATED, "iteration") if kind == "evaluate" else (1, "step")
    table = Table(title=f"milliseconds per {unit}, {arguments.rounds} rounds in turn")
    for heading in ("", "median", "least", "cpu median", "times the first"):
        table.add_column(heading, justify="left" if not heading else "right")
    first = times[names[0]]
    for name, rows in times.items():
        wall, cpu = rows.T * 1e3 / per
        ratio = np.median(rows[:, 0] / first[:, 0])
        table.add_row(
            name,
            *(f"{x:.1f}" for x in (np.median(wall), wall.min(), np.median(cpu))),
            f"{ratio:.2f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
