"""How near to what a GPU can do are training, solvers and evaluation, and how fast is PyTorch?

    python -m venv .gpu && .gpu/bin/pip install -e '.[cuda12]' torch
    .gpu/bin/python benchmarks/gpu.py                           # all of it, within 9 minutes
    .gpu/bin/python benchmarks/gpu.py --torch-python .torch/bin/python    # PyTorch from elsewhere
    .gpu/bin/python benchmarks/gpu.py --parts train-512,solvers --budget 200
    python benchmarks/gpu.py --small                            # every part at toy size, on a CPU

**Question:** The paper's sudoku run (preset `paper`: batch 500, bfloat16, progressive loss) at
width 256, 512 and 1024: is it 1.3 times as fast as a compiled PyTorch port? Does it reach 35 % of
the GPU's bfloat16 operations per second at width 512? What do other solvers and gradients cost,
and what does early exit save in evaluation to 500 iterations?

Each part is a process of its own, one after another, so that each has the memory of the GPU to
itself. Both frameworks make the same steps: the same weights, batches and draws of n and k, the
batch gathered and encoded on the device, float32 residual stream and weights, AdamW with clipping;
the first loss of both is printed. The port (`torch_port.py`) has its block, that is one iteration,
compiled, and PyTorch's fused attention; where k iterations do not fit into memory it computes them
again going backwards (`again`). Times are medians of rounds of `steps` steps, of which only the
last is waited for. `first s` is the first step, compilation included.

`of peak`: operations that the step needs (`eqloop.sweep.count`: three passes for an iteration with
gradient, one without; what is computed again is not counted) per second, of what the maker
promises for dense bfloat16 (`PEAKS`; for another GPU, of a large product measured here). `of
bound`: the least time that memory traffic takes, over the time taken. Its bytes: every product
with weights and every attention is one kernel that reads its inputs once and writes its output
once, all elementwise work done inside of them; the state float32, all else bfloat16
(`iteration_bytes`); passes as above. What products and copies reach on the machine is printed
above the tables.

Solvers: weights that contract (`solvers.py`), left as they are (learning rate 1e-12), loss after
the last iteration, tolerances 1e-2; the table says how many iterations that took and in how many
gradients the backward solve missed its tolerance.

**Machine and last numbers:** `train-256` alone, in `results/gpu-h200`.
"""

# pyright: reportMissingImports=false, reportCallIssue=false, reportArgumentType=false
# PyTorch is not a dependency of the package: see benchmarks/requirements.txt.

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _timing import timed
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
FASTER, SHARE = 1.3, 0.35
"""Aims: times the port's speed; share of the peak at width 512."""
PEAKS = (
    ("B200", 2250e12, 8.0e12),
    ("GH200", 989e12, 4.0e12),
    ("H200", 989e12, 4.8e12),
    ("H100 PCIe", 756e12, 2.0e12),
    ("H100 NVL", 835e12, 3.9e12),
    ("H100", 989e12, 3.35e12),
    ("A100-SXM4-80GB", 312e12, 2.04e12),
    ("A100 80GB PCIe", 312e12, 1.94e12),
    ("A100", 312e12, 1.56e12),
    ("A10G", 70e12, 0.6e12),
    ("L40S", 362e12, 0.864e12),
    ("L4", 121e12, 0.3e12),
    ("RTX 4090", 165e12, 1.01e12),
    ("RTX 3090", 71e12, 0.936e12),
)
"""Part of a name, dense bfloat16 operations per second, bytes per second: the first that fits."""


@dataclasses.dataclass(frozen=True)
class Size:
    """A round has `steps` training steps; `examples` are evaluated for `iterations`."""

    widths: tuple[int, ...] = (256, 512, 1024)
    batch: int = 500
    rows: int = 4000
    steps: int = 16
    rounds: int = 3
    examples: int = 5000
    iterations: int = 500
    loop: int = 30
    product: int = 8192
    copied: int = 2**31

    def settings(self, width: int) -> list[str]:
        heads = max(1, width // 32)  # of size 32, as in the paper
        settings = {"model.width": width, "model.heads": heads, "train.batch": self.batch}
        settings |= {"solver.steps": self.loop, "task.rows": self.rows}
        return [f"{name}={value}" for name, value in settings.items()]


SMALL = Size((32,), 4, 16, 2, 1, 16, 300, 4, 256, 2**20)


def peak(device: str) -> list[float] | None:
    """Return the bfloat16 operations and the bytes per second of a device, by its name."""
    return next((rates for name, *rates in PEAKS if name in device), None)


def iteration_bytes(cells: int, width: int, mlp_ratio: int, batch: int) -> float:
    """The fewest bytes of one iteration of one example: see `of bound` at the top.

    Per cell and channel: recall, twice, reads the state (4) and r (2) and writes c (2); query, key
    and value read c (2) and write 6; attention reads 6 and writes 2; its output (2) joins the
    state, which is read and written (8); the MLP reads c (2), writes and reads the hidden layer
    (4 `mlp_ratio`), and joins the state (8). The weights, 6 + 2 `mlp_ratio` squares, are read once
    for a batch.
    """
    per_channel = 2 * 8 + 8 + 8 + 10 + 2 + 4 * mlp_ratio + 8
    squares = 2 + 4 + 2 * mlp_ratio
    return cells * width * per_channel + 2 * squares * width**2 / batch


def training_passes(draws: np.ndarray) -> float:
    """Return the mean passes through the block per step: an iteration counts one without gradient,
    three with it."""
    return float(np.mean(draws @ np.array([1, 3])))


# ------------------------------------------------------------------------------------ the work


def spec_and_task(size: Size, width: int, *more: str):
    from eqloop.run import resolve
    from eqloop.tasks import make_task

    spec = resolve("sudoku", "paper", [*size.settings(width), *more], make_task=make_task)
    return spec, make_task(spec.task_name, spec.task_fields)


def make_problem(folder: Path, size: Size, width: int) -> dict[str, Any]:
    """Write weights, puzzles and the draws of n and k for both frameworks; return what a step
    needs."""
    import jax

    import eqloop
    from eqloop.sweep import count
    from eqloop.train import init_state
    from eqloop.train._loss import draw
    from eqloop.train._state import training_key

    spec, _ = spec_and_task(size, width)
    rng = np.random.default_rng(0)
    keys = [jax.random.fold_in(training_key(spec.train.seed), s) for s in range(size.steps)]
    draws = np.array([draw(spec.solver.steps, jax.random.split(key)[1]) for key in keys])
    np.savez(
        folder / "problem.npz",
        tokens=rng.integers(0, 10, (size.rows, 9, 9), dtype=np.uint8),
        answers=rng.integers(1, 10, (size.rows, 9, 9), dtype=np.uint8),
        index=rng.integers(0, size.rows, (size.steps, size.batch), dtype=np.int32),
        draws=draws,
        **eqloop.interop.to_paper_state_dict(init_state(spec).model),
    )
    cost, passes = count(spec.model), training_passes(draws)
    moved = iteration_bytes(81, width, spec.model.mlp_ratio, size.batch)
    return {
        "n": float(draws[:, 0].mean()),
        "k": float(draws[:, 1].mean()),
        "operations": size.batch * (passes * cost.iteration + 3 * cost.ends),
        "bytes": size.batch * passes * moved,
    }


def ceilings(folder: Path, size: Size, width: int) -> dict[str, Any]:
    """Describe this device, and measure the speed of a large product and a large copy on it."""
    del folder, width
    import jax
    import jax.numpy as jnp

    a, b = jax.random.normal(jax.random.key(0), (2, size.product, size.product), jnp.bfloat16)
    x = jax.random.normal(jax.random.key(1), (size.copied // 4,))
    multiply, copy = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1)

    def seconds(f, *arguments):
        jax.block_until_ready(f(*arguments))
        several = [timed(lambda: jax.block_until_ready(f(*arguments)))[0] for _ in range(10)]
        return float(np.median(several))

    return {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "product": 2 * size.product**3 / seconds(multiply, a, b),
        "copy": 2 * size.copied / seconds(copy, x),
    }


def median(run, rounds: int) -> float:
    return float(np.median([timed(run)[0] for _ in range(rounds)]))


def peak_memory() -> int | None:
    import jax

    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def eqloop_steps(arrays: dict[str, np.ndarray], size: Size, spec, task, state) -> dict[str, Any]:
    """Time rounds of training steps as `eqloop train` makes them, each from step 0."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    from eqloop.train import make_step
    from eqloop.train._step import Data

    data = Data(jnp.asarray(arrays["tokens"]), jnp.asarray(arrays["answers"]))
    step, carried = make_step(spec, task), [state, None]

    def run(steps=size.steps):
        state = eqx.tree_at(lambda s: s.step, carried[0], jnp.zeros((), jnp.int32))
        for index in arrays["index"][:steps]:
            state, metrics = step(data, state, index)
            carried[:] = state, metrics
        jax.block_until_ready(carried)

    first = timed(lambda: run(1))[0]
    loss = float(carried[1]["loss"])
    run()
    wall = median(run, size.rounds) / size.steps
    metrics = {name: float(value) for name, value in carried[1].items()}
    record = {"loss": loss, "first": first, "step": wall, "memory": peak_memory()}
    return record | {"metrics": metrics}


def eqloop_train(folder: Path, size: Size, width: int) -> dict[str, Any]:
    from eqloop.train import init_state

    spec, task = spec_and_task(size, width)
    return eqloop_steps(dict(np.load(folder / "problem.npz")), size, spec, task, init_state(spec))


def torch_train(folder: Path, size: Size, width: int) -> dict[str, Any]:
    import torch
    import torch.nn.functional as F
    from step import CLIP, torch_optimiser
    from torch.utils.checkpoint import checkpoint
    from torch_port import LoopedTransformer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")  # as JAX does: TF32 for float32 products
    arrays = dict(np.load(folder / "problem.npz"))
    taken = [arrays.pop(name) for name in ("tokens", "answers", "index", "draws")]
    tokens, answers, index = (torch.tensor(a).to(device).long() for a in taken[:3])
    draws = taken[3].tolist()
    model = LoopedTransformer((9, 9), 10, 10, width, max(1, width // 32))
    model.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
    model.to(device)
    parameters = list(model.parameters())
    optimiser = torch_optimiser(parameters)
    iterate, head = torch.compile(model.recur_blocks[0]), torch.compile(model.head)

    def narrow():  # disable the cache, which would keep weights cast without gradient
        return torch.autocast(device, torch.bfloat16, cache_enabled=False)

    def one_step(rows, n, k, remat):
        x = F.one_hot(tokens[rows].flatten(1), 10).float()
        z = e = model.projection(x)
        with narrow():
            r = model.recur_blocks[0].inject(e)
        with torch.no_grad(), narrow():
            for _ in range(n):
                z = iterate(z, r)
        z = z.detach()
        with narrow():
            for _ in range(k):
                z = checkpoint(iterate, z, r, use_reentrant=False) if remat else iterate(z, r)
        logits = head(z)
        loss = F.cross_entropy(logits.flatten(0, 1), answers[rows].flatten())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP, foreach=True)
        optimiser.step()
        return loss.detach()

    def run(remat, steps=size.steps):
        loss = torch.zeros(())
        for rows, (n, k) in zip(index[:steps], draws[:steps], strict=True):
            loss = one_step(rows, n, k, remat)
        return loss.item()

    remat = False
    start = time.perf_counter()
    loss = run(remat, 1)
    first = time.perf_counter() - start
    try:
        run(remat)
    except torch.OutOfMemoryError:
        remat = True
    if remat:  # outside the handler, which holds a reference to the memory
        optimiser.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        run(remat)
    return {
        "torch": torch.__version__,
        "loss": loss,
        "first": first,
        "step": median(lambda: run(remat), size.rounds) / size.steps,
        "memory": torch.cuda.max_memory_allocated() if device == "cuda" else None,
        "again": remat,
    }


SOLVERS = {
    "unroll, backprop": ("unroll", "backprop"),
    "fixed-point, implicit": ("fixed-point", "implicit"),
    "anderson, implicit": ("anderson", "implicit"),
    "fixed-point, phantom": ("fixed-point", "phantom"),
    "fixed-point, one-step": ("fixed-point", "one-step"),
}


def contracting(model, folder: Path, width: int):
    """`model` with weights whose plain iteration converges."""
    import jax
    import solvers

    import eqloop

    heads = max(1, width // 32)
    solvers.make_problem(folder, width, heads)
    arrays = dict(np.load(folder / "problem.npz"))
    weights = {name: a for name, a in arrays.items() if name not in ("inputs", "targets")}
    loaded = eqloop.interop.from_paper_state_dict(
        weights, recall="internal", norm="post", spatial_dims=2, heads=heads
    )
    return jax.tree.unflatten(jax.tree.structure(model), jax.tree.leaves(loaded))


def solver_costs(folder: Path, size: Size, width: int) -> dict[str, Any]:
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    from eqloop.train import init_state

    arrays = dict(np.load(folder / "problem.npz"))  # contracting() writes another version
    same = ("train.loss=last", "train.lr=1e-12", "solver.rtol=1e-2", "solver.gradient_rtol=1e-2")
    same += ("solver.gradient_solver=anderson", f"solver.gradient_steps={min(6, size.loop)}")
    results, model = {}, None
    for name, (solver, gradient) in SOLVERS.items():
        more = (f"solver.name={solver}", f"solver.gradient={gradient}")
        spec, task = spec_and_task(size, width, *same, *more)
        state = init_state(spec)
        if model is None:
            model = contracting(state.model, folder, width)
        state = eqx.tree_at(lambda s: s.model, state, jax.tree.map(jnp.array, model))
        results[name] = eqloop_steps(arrays, size, spec, task, state)
    return results


def evaluation(folder: Path, size: Size, width: int) -> dict[str, Any]:
    from eqloop._task import Split
    from eqloop.evaluate import evaluate
    from eqloop.train import init_state

    arrays = dict(np.load(folder / "problem.npz"))
    rows = np.arange(size.examples) % size.rows
    split = Split(
        arrays["tokens"][rows],
        arrays["answers"][rows],
        np.zeros(size.examples, np.float32),
        np.full(size.examples, b""),
        {"scale": np.full(size.examples, b"eqloop")},
    )
    results, predictions = {}, {}
    for precision in ("float32", "bfloat16"):
        spec, task = spec_and_task(size, width, f"model.precision={precision}")
        model = contracting(init_state(spec).model, folder, width)
        for early in (False, True):

            def once(model=model, task=task, early=early):
                return evaluate(
                    model,
                    task,
                    split,
                    iterations=size.iterations,
                    batch_size=size.batch,
                    early_exit=early,
                )

            once()
            measured = once()
            predictions[early] = measured.predictions
            results[f"{precision}, {'early exit' if early else 'all iterations'}"] = {
                "seconds": measured.seconds,
                "run": measured.iterations_run / measured.iterations_asked,
                "residual": measured.overall.residual_median[-1],
            }
        agree = float(np.mean(predictions[True] == predictions[False]))
        results[f"{precision}, early exit"]["agree"] = agree
    return results


WORK = {
    "problem": make_problem,
    "ceilings": ceilings,
    "eqloop": eqloop_train,
    "torch": torch_train,
    "solvers": solver_costs,
    "evaluation": evaluation,
}
ON_CPU = ("problem", "torch")
"""Workers in which JAX must leave the GPU alone."""


# ------------------------------------------------------------------------------------- driver


class Driver:
    """Runs workers one after another while the budget lasts; a failure becomes a line of text."""

    def __init__(self, size: Size, budget: float, torch_python: str, console: Console):
        self.size, self.torch_python, self.console = size, torch_python, console
        self.until = time.monotonic() + budget

    def work(self, kind: str, folder: str, width: int, limit: float) -> dict[str, Any]:
        left = min(limit, self.until - time.monotonic())
        if left < 5:
            return {"error": "left out: the budget is spent"}
        self.console.print(f"[dim]{kind}, width {width}, up to {left:.0f} s")
        python = self.torch_python if kind == "torch" else sys.executable
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        env = os.environ | {"PYTHONPATH": path}
        if kind in ON_CPU:
            env["JAX_PLATFORMS"] = "cpu"
        size = json.dumps(dataclasses.asdict(self.size))
        command = [python, __file__, "--worker", kind, folder, size, str(width)]
        start = time.monotonic()
        try:
            completed = subprocess.run(
                command, env=env, capture_output=True, text=True, timeout=left
            )
        except subprocess.TimeoutExpired:
            return {"error": f"stopped after {left:.0f} s"}
        except OSError as error:
            return {"error": str(error)}
        if completed.returncode:
            lines = completed.stderr.strip().splitlines() or ["no message"]
            errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit)\b", line)]
            return {"error": (errors or lines)[-1][:200]}
        return json.loads(completed.stdout) | {"worker_seconds": time.monotonic() - start}

    def train(self, width: int) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            results = {"needs": self.work("problem", folder, width, 90)}
            if "error" not in results["needs"]:
                results["eqloop"] = self.work("eqloop", folder, width, 180)
                results["torch"] = self.work("torch", folder, width, 180)
        return results

    def other(self, kind: str, width: int) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            needs = self.work("problem", folder, width, 90)
            return needs if "error" in needs else self.work(kind, folder, width, 200)


def parts(size: Size) -> list[str]:
    """Order the parts by their value, since the budget may end before the last of them."""
    first, *others = [f"train-{width}" for width in size.widths]
    return [first, *others[:1], "solvers", "evaluation", *others[1:]]


def train_table(results: dict[int, dict[str, Any]], rates: list[float], size: Size) -> Table:
    titles = ("width", "", "examples/s", "ms/step", "of peak", "of bound", "GiB", "first s", "loss")
    table = Table(*titles, "times torch", title=f"training, batch {size.batch}, bfloat16")
    for width, entry in results.items():
        for name in ("eqloop", "torch"):
            result = entry.get(name, entry["needs"])
            if "error" in result:
                table.add_row(str(width), name, result["error"])
                continue
            step, needs, memory = result["step"], entry["needs"], result["memory"]
            table.add_row(
                str(width),
                name + (", again" if result.get("again") else ""),
                f"{size.batch / step:,.0f}",
                f"{1e3 * step:.1f}",
                f"{needs['operations'] / step / rates[0]:.1%}",
                f"{needs['bytes'] / step / rates[1]:.1%}",
                "-" if memory is None else f"{memory / 2**30:.1f}",
                f"{result['first']:.0f}",
                f"{result['loss']:.4f}",
                ratio(entry) if name == "eqloop" else "",
            )
    return table


def ratio(entry: dict[str, Any]) -> str:
    steps = [entry.get(name, {}).get("step") for name in ("torch", "eqloop")]
    return f"{steps[0] / steps[1]:.2f}" if all(steps) else "-"


def solver_table(results: dict[str, Any], width: int) -> Table:
    table = Table(
        "solver, gradient",
        *("ms/step", "iterations", "converged", "fallback"),
        title=f"solvers and gradients, width {width}",
    )
    if "error" in results:
        table.add_row(results["error"])
        return table
    for name in SOLVERS:
        result = results[name]
        metrics = result["metrics"]
        table.add_row(
            name,
            f"{1e3 * result['step']:.1f}",
            f"{metrics['iterations']:.1f}",
            f"{metrics['converged']:.0%}",
            f"{metrics['fallback']:.0%}",
        )
    return table


def evaluation_table(results: dict[str, Any], size: Size) -> Table:
    title = f"{size.examples} examples, {size.iterations} iterations, width {size.widths[0]}"
    table = Table("evaluation", "seconds", "iterations run", "residual", "cells agree", title=title)
    if "error" in results:
        table.add_row(results["error"])
        return table
    for name, result in results.items():
        if isinstance(result, dict):
            agree = f"{result['agree']:.2%}" if "agree" in result else ""
            cells = (
                f"{result['seconds']:.1f}",
                f"{result['run']:.1%}",
                f"{result['residual']:.1e}",
                agree,
            )
            table.add_row(name, *cells)
    return table


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        kind, folder, size, width = sys.argv[2:]
        out, sys.stdout = sys.stdout, sys.stderr  # only the answer may reach the driver
        answer = WORK[kind](Path(folder), Size(**json.loads(size)), int(width))
        print(json.dumps(answer), file=out)
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="toy sizes, for a CPU")
    parser.add_argument("--parts", help="train-WIDTH, solvers, evaluation; with commas")
    parser.add_argument("--budget", type=float, default=540, help="seconds for all parts")
    parser.add_argument("--torch-python", default=sys.executable, help="that has PyTorch")
    parser.add_argument("--out", type=Path, help="folder of the JSON; default benchmarks/results")
    options = parser.parse_args()
    size = SMALL if options.small else Size()
    chosen = options.parts.split(",") if options.parts else parts(size)
    if unknown := set(chosen) - set(parts(size)):
        parser.error(f"--parts: {', '.join(sorted(unknown))}: known are {', '.join(parts(size))}")
    console = Console(width=120)
    driver = Driver(size, options.budget, options.torch_python, console)
    machine = driver.work("ceilings", "-", size.widths[0], 90)
    if "error" in machine:
        raise SystemExit(f"no device could be measured: {machine['error']}")
    rates = peak(machine["device"]) or [machine["product"], machine["copy"]]
    results: dict[str, Any] = {"machine": machine, "size": dataclasses.asdict(size), "rates": rates}
    name = re.sub(r"\W+", "-", machine["device"].lower()).strip("-")
    out = options.out or Path(__file__).parent / "results"
    for part in chosen:
        kind, _, width = part.partition("-")
        results[part] = driver.train(int(width)) if width else driver.other(kind, size.widths[0])
        if options.out or not options.small:  # after each part: a run may be cut short
            out.mkdir(parents=True, exist_ok=True)
            (out / f"gpu-{name}.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")

    console.print(
        f"\n{machine['device']}, jax {machine['jax']}: measured {machine['product'] / 1e12:.1f} "
        f"TFLOP/s (bfloat16 product), {machine['copy'] / 1e12:.2f} TB/s (copy); shares are "
        f"of {rates[0] / 1e12:.1f} TFLOP/s and {rates[1] / 1e12:.2f} TB/s"
    )
    trained = {int(p[6:]): results[p] for p in chosen if p.startswith("train-")}
    if trained:
        console.print(train_table(trained, rates, size))
        console.print(f"aims: {FASTER} times torch; {SHARE:.0%} of peak at width 512")
    if "solvers" in results:
        console.print(solver_table(results["solvers"], size.widths[0]))
    if "evaluation" in results:
        console.print(evaluation_table(results["evaluation"], size))


if __name__ == "__main__":
    main()
