"""Does a GPU compute what a CPU computes? The first part of `gpu_paper.py`, which starts it.

    python benchmarks/gpu_right.py job NAME...     # one line of JSON for each job, as it ends
    python benchmarks/gpu_right.py resume FOLDER begin|resume
    python benchmarks/gpu_right.py device

It ends when its standard input is closed, and so with the process that started it. Jobs:

- `reference:FILE`: states, logits and gradients of a file of reference vectors, which hold those of
  the paper's own code in float64, in three precisions (`PRECISIONS`); relative errors in the
  2-norm.
- `step:SOLVER:GRADIENT`: one training step in float32 on the default device and on the CPU, from
  the same state: relative errors of the loss and of the clipped gradient, which is read from the
  first moment of AdamW. The weights contract (external recall whose state matrix is scaled down),
  so that all solvers converge and small differences of rounding are not amplified.

`resume` trains `STEPS` steps in a process, and goes on from the checkpoint of half of them in
another one: the two last checkpoints must be the same bytes. Products and sums in an order of their
own at each start would break that, hence `DETERMINISTIC` in the environment of both.
"""

import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import sys
import time
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

PRECISIONS = {
    "float32": ("float32", "highest"),
    "float32, products as by default": ("float32", "default"),
    "bfloat16": ("bfloat16", "default"),
}
"""Precision of the model, and of products of float32: by default a GPU rounds their factors to
TF32, 10 bits of mantissa, and a CPU does not."""
TOLERANCES = {
    "float32": {"states": 3e-5, "logits": 6e-5, "gradients": 1e-4},
    "float32, products as by default": {"states": 2e-2, "logits": 6e-2, "gradients": 3e-2},
    "bfloat16": {"states": 4e-2, "logits": 2e-1, "gradients": 6e-2},
}
"""A few times the most that a CPU has over all files: 4e-6, 1.1e-5 and 8e-6 in float32; 1.3e-2,
5.6e-2 (one file; 2.2e-2 in the others) and 2.0e-2 in bfloat16. TF32 has to
be nearer than bfloat16."""
STEP_TOLERANCE = 1e-3
"""Relative, of loss and gradient; solves stop at relative residuals of 1e-5."""
STEPS = 6
DETERMINISTIC = {"XLA_FLAGS": "--xla_gpu_deterministic_ops=true"}


def jobs(reference: Path | None) -> list[str]:
    """List the files in `reference`, then every solver with every gradient that works with it."""
    from eqloop import InputError
    from eqloop.run import GRADIENTS, SOLVERS, SolverSpec

    results = []
    for name, gradient in itertools.product(SOLVERS, GRADIENTS):
        try:
            SolverSpec(name=name, gradient=gradient)
        except InputError:
            continue  # this gradient cannot follow these steps
        results.append(f"step:{name}:{gradient}")
    files = [] if reference is None else sorted(reference.glob("*.npz"))
    return [f"reference:{path}" for path in files] + results


def relative(results: Any, expected: Any) -> float:
    results, expected = np.asarray(results, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(results - expected) / np.linalg.norm(expected))


# ----------------------------------------------------------------------------- reference vectors


def reference(path: Path) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    recall, norm, layout = path.stem.split("_")
    data: Any = dict(np.load(path))
    x, target = jnp.asarray(np.moveaxis(data["input"], 1, -1)), jnp.asarray(data["target"])
    errors, failures = {}, []
    for name, (precision, products) in PRECISIONS.items():
        model = _model(data, recall, norm, layout, precision)
        with jax.default_matmul_precision(products):
            errors[name] = _errors(data, model, x, target)
        failures += [
            f"{name}: {what}"
            for what, error in errors[name].items()
            if not error <= TOLERANCES[name][what]  # true for NaN as well
        ]
    return {"errors": errors, "wrong": failures}


def _model(data: dict[str, Any], recall: str, norm: str, layout: str, precision: str) -> Any:
    """Return a model of that precision with the weights of the file."""
    import equinox as eqx
    import jax

    import eqloop
    from eqloop._build import make_model
    from eqloop.run import ModelSpec

    params = {k[6:]: a.astype(np.float32) for k, a in data.items() if k.startswith("param.")}
    gru, full = norm == "gru", layout == "grid"
    shape: Any = {
        "recall": recall,
        "norm": "peri" if gru else norm,
        "residual": "gru" if gru else "add",
    }
    loaded = eqloop.interop.from_paper_state_dict(
        params,
        spatial_dims=data["input"].ndim - 2,
        attention="full" if full else "neighbourhood",
        **shape,
    )
    spec = ModelSpec(
        width=len(params["projection.bias"]),
        attention="full" if full else 5,
        precision=typing.cast(Any, precision),
        grid=data["input"].shape[2:],
        channels=data["input"].shape[1],
        classes=len(params["head.3.bias"]),
        **shape,
    )
    like = eqx.filter_eval_shape(make_model, spec, jax.random.key(0))
    return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(loaded))


def _errors(data: dict[str, Any], model: Any, x: Any, target: Any) -> dict[str, float]:
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    import eqloop

    def loss(model, solver, gradient):
        logits = jax.vmap(lambda x: model(x, solver=solver, gradient=gradient).logits)(x)
        log_p = jax.nn.log_softmax(logits)
        return -jnp.mean(jnp.take_along_axis(log_p, target[..., None], axis=-1))

    @eqx.filter_jit
    def run(model):
        f, e = model.loop(), jax.vmap(model.embed)(x)
        states = jax.vmap(lambda e: eqloop.trajectory(f, e, f.inject(e), 6))(e)
        gradient = eqx.filter_grad(loss)
        return (
            {
                steps: (states[:, steps - 1], model.coda(states[:, steps - 1]))
                for steps in (1, 2, 6)
            },
            {
                "grad_4.": gradient(model, eqloop.Unroll(4), eqloop.Backprop()),
                "progressive_grad_2_3.": gradient(model, eqloop.Unroll(5), eqloop.Truncated(3)),
            },
        )

    outputs, gradients = run(model)
    results = {"states": 0.0, "logits": 0.0, "gradients": 0.0}
    for steps, (state, logits) in outputs.items():
        expected = np.moveaxis(data[f"logits_{steps}"], 1, -1)
        results["states"] = _larger(results["states"], relative(state, data[f"state_{steps}"]))
        results["logits"] = _larger(results["logits"], relative(logits, expected))
    for prefix, gradient in gradients.items():
        parts = eqloop.interop.to_paper_state_dict(gradient)
        names = [k.removeprefix(prefix) for k in data if k.startswith(prefix)]
        ours = np.concatenate([parts[name].ravel() for name in names])
        theirs = np.concatenate([data[prefix + name].ravel() for name in names])
        results["gradients"] = _larger(results["gradients"], relative(ours, theirs))
    return results


def _larger(a: float, b: float) -> float:
    return b if np.isnan(b) else max(a, b)


# ------------------------------------------------------------------------- steps on two devices


def step(solver: str, gradient: str) -> dict[str, Any]:
    import equinox as eqx
    import jax

    from eqloop.run import resolve
    from eqloop.tasks import make_task
    from eqloop.train import init_state, make_step
    from eqloop.train._step import Data

    spec = resolve("sudoku", "paper", _settings(solver, gradient), make_task=make_task)
    task = make_task(spec.task_name, spec.task_fields)
    rng = np.random.default_rng(0)
    tokens, targets = (rng.integers(low, 5, (8, 4, 4), dtype=np.uint8) for low in (0, 1))
    cpu = jax.devices("cpu")[0]
    with jax.default_device(cpu):
        weight = lambda state: state.model.blocks[0].recall.state.weight  # noqa: E731
        scaled = eqx.tree_at(weight, init_state(spec), replace_fn=lambda w: 0.3 * w)
        scaled = jax.tree.map(lambda x: np.array(x) if eqx.is_array(x) else x, scaled)

    def on(device) -> tuple[dict[str, float], np.ndarray]:
        with jax.default_device(device), jax.default_matmul_precision("highest"):
            # Pass a copy, since the step reuses the memory of its state.
            state = jax.tree.map(
                lambda x: jax.numpy.array(x) if isinstance(x, np.ndarray) else x, scaled
            )
            data = Data(jax.numpy.asarray(tokens), jax.numpy.asarray(targets))
            after, metrics = make_step(spec, task)(data, state, np.arange(8, dtype=np.int32))
            assert metrics["loss"].devices() == {device}, metrics["loss"].devices()
            read = {name: float(value) for name, value in metrics.items()}
            (moments,) = (
                part
                for part in jax.tree.leaves(after.optimiser, is_leaf=lambda x: hasattr(x, "mu"))
                if hasattr(part, "mu")
            )
            return read, np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(moments.mu)])

    (ours, first), (theirs, second) = on(jax.devices()[0]), on(cpu)
    errors = {
        "loss": relative(ours["loss"], theirs["loss"]),
        "gradient": relative(first, second),
    }
    counted = ("iterations", "converged", "fallback", "backward_products")
    return {
        "errors": errors,
        "here": {name: ours[name] for name in counted},
        "cpu": {name: theirs[name] for name in counted},
        "wrong": [what for what, error in errors.items() if not error <= STEP_TOLERANCE],
    }


def _settings(solver: str, gradient: str) -> list[str]:
    """Settings for a model of one thousandth of the paper's operations, and solves that
    converge."""
    converges = solver != "unroll"
    values = {
        "task.box": 2, "model.width": 32, "model.heads": 4, "model.recall": "external",
        "model.precision": "float32", "train.batch": 8, "train.loss": "last",
        "solver.name": solver, "solver.gradient": gradient, "solver.steps": 12,
        "solver.rtol": 1e-5 if converges else 1e-3, "solver.max_steps": 512,
        "solver.gradient_rtol": 1e-5,
    }  # fmt: skip
    return [f"{name}={value}" for name, value in values.items()]


# ------------------------------------------------------------------------------------- resuming


def resume(folder: Path, stage: str) -> dict[str, Any]:
    from eqloop.run import resolve
    from eqloop.tasks import make_task
    from eqloop.train import train

    half, whole, again = STEPS // 2, folder / "whole", folder / "again"
    values = {
        "task.length": 16, "task.hard_length": 16, "task.rows": 80, "task.test_rows": 16,
        "model.width": 64, "train.batch": 32, "train.steps": STEPS, "train.epochs": 2,
        "train.checkpoint_every": half, "train.validate_every": STEPS,
    }  # fmt: skip
    settings = [f"{name}={value}" for name, value in values.items()]
    spec = resolve("prefix-sums", "paper", settings, make_task=make_task)
    task = make_task(spec.task_name, spec.task_fields)
    if stage == "begin":
        run = train(spec, task, whole).run
        return {"steps": run.steps()}
    shutil.copytree(whole, again)
    copied = again / "checkpoints"
    (copied / f"step-{STEPS:08d}.safetensors").unlink()
    run = train(None, task, again, resume=True).run
    same = [
        (path / run.checkpoint(STEPS).relative_to(again)).read_bytes() for path in (whole, again)
    ]
    return {
        "from": half,
        "to": run.steps()[-1],
        "flags": os.environ.get("XLA_FLAGS", ""),
        "wrong": [] if same[0] == same[1] else ["the resumed run ends with another state"],
    }


def device() -> dict[str, Any]:
    import jax

    first = jax.devices()[0]
    return {
        "device": first.device_kind,
        "platform": first.platform,
        "platform_version": first.client.platform_version.replace("\n", ", "),
        "count": jax.device_count(),
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "python": platform.python_version(),
    }


WORK = {"reference": lambda path: reference(Path(path)), "step": step}


def main() -> None:
    out, sys.stdout = sys.stdout, sys.stderr  # only answers may be written there
    from eqloop.sweep import stop_with_parent

    stop_with_parent()
    if sys.argv[1] == "device":
        print(json.dumps(device()), file=out)
    elif sys.argv[1] == "resume":
        print(json.dumps(resume(Path(sys.argv[2]), sys.argv[3])), file=out)
    else:
        run_jobs(sys.argv[2:], out)


def run_jobs(names: Sequence[str], out: IO[str]) -> None:
    for job in names:
        start, (kind, *arguments) = time.perf_counter(), job.split(":")
        try:
            results: dict[str, Any] = WORK[kind](*arguments)
        except Exception as error:  # one job fails; the others still run
            text = (str(error).strip() or "no message").splitlines()[0]
            results = {"wrong": [f"{type(error).__name__}: {text}"[:300]]}
        results["seconds"] = time.perf_counter() - start
        print(json.dumps({"job": job} | results), file=out, flush=True)


if __name__ == "__main__":
    main()
