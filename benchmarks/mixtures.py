"""Do the levers of equilibrium training go with each other?

    python benchmarks/mixtures.py [--mixtures 50] [--steps 20] [--seed 0] [--out DIR]

**Question:** Each mixture draws one choice of every lever (solver, adjoint, bounds, phases, carried
state, starts, noise, budget, curriculum, penalties, corrections) and trains prefix sums of 8 bits
with it, for some steps. A mixture that the spec refuses, with its line, is drawn again and counted;
any other exception is a fault, and so is a loss that is not finite. Half of the mixtures are
stopped in the middle and resumed, and must end with the same weights, bit for bit.

**Last numbers:** see LOG.md.
"""

import argparse
import collections
import dataclasses
import random
import shutil
import tempfile
import traceback
from pathlib import Path
from typing import Any

import jax
import numpy as np

from eqloop import InputError
from eqloop.run import resolve
from eqloop.tasks import make_task
from eqloop.train import init_state, train

SMALL = {
    "task.length": 8,
    "task.validation_length": 0,
    "task.hard_length": 8,
    "task.rows": 200,
    "task.test_rows": 16,
    "task.mark_first": True,
    "model.width": 16,
    "model.heads": 2,
    "train.batch": 8,
    "train.loss": "last",
    "train.validate_every": 1000,
    "train.validation_rows": 8,
    "train.validation_iterations": 8,
    "solver.max_steps": 12,
    "solver.steps": 6,
}
LEVERS: dict[str, list[dict[str, Any]]] = {
    "solver": [
        {"solver.name": name, "solver.gradient": gradient}
        for name in ("unroll", "fixed-point", "anderson", "broyden", "chord", "newton-krylov")
        for gradient in ("implicit", "phantom", "neumann", "backprop", "truncated")
    ],
    "adjoint": [
        {},
        {"solver.gradient_solver": "anderson", "solver.gradient_rtol": 0.1},
        {"solver.gradient_restart": 20, "solver.gradient_cycles": 1},
    ],
    "bounds": [{}, {"solver.gradient_trust": 3e-3, "solver.gradient_largest": 10.0}],
    "tolerance": [{}, {"solver.norm": "largest-cell", "solver.rtol": 0.05}],
    "phases": [
        {},
        {"phases.1.until": 7, "phases.1.solver.name": "unroll", "phases.1.train.lr": 5e-4},
        {"phases.1.until": 7, "phases.1.solver.max_steps": 6, "train.schedule_per_phase": True},
    ],
    "carry": [
        {},
        {"train.carry_steps": 4},
        {"train.carry_steps": 4, "train.carry_residual": 0.1, "train.carry_random": 0.5},
    ],
    "start": [
        {},
        *({"solver.start": law} for law in ("zeros", "normal", "fixed", "solution")),
    ],
    "noise": [{}, {"solver.path_noise": 0.01}],
    "budget": [
        {},
        {"solver.min_steps": 3},
        *({"solver.budget": law} for law in ("uniform", "poisson", "log-normal")),
    ],
    "curriculum": [
        {},
        {"task.shortest": 2},
        {"task.shortest": 2, "train.curriculum_steps": 10},
    ],
    "penalty": [
        {},
        {"train.residual_penalty": 0.1},
        {"train.jacobian_penalty": 0.01, "train.penalty_share": 0.5},
        {"train.correction": 0.8, "train.correction_states": 2},
    ],
    "average": [{}, {"train.ema": 0.9}],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--mixtures", type=int, default=50)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep the runs here")
    chosen = parser.parse_args()
    draw, refusals, faults = random.Random(chosen.seed), collections.Counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(chosen.mixtures):
            spec, mixture = drawn(draw, chosen.steps, refusals)
            name = ", ".join(f"{field}={value}" for field, value in mixture.items())
            try:
                message = trained(spec, (chosen.out or Path(folder)) / str(number), number % 2 == 1)
            except Exception:
                faults += 1
                print(f"{number}: FAULT with {name}\n{traceback.format_exc()}", flush=True)
            else:
                print(f"{number}: {message}: {name}", flush=True)
            jax.clear_caches()
    print(f"{chosen.mixtures} mixtures, {faults} faults; refused before: {refusals.total()}")
    for line, count in refusals.most_common():
        print(f"  {count} x {line}")
    raise SystemExit(bool(faults))


def drawn(draw: random.Random, steps: int, refusals: collections.Counter[str]):
    """Draw mixtures until a spec is accepted; return the spec and the settings that were drawn."""
    while True:
        mixture = {k: v for choices in LEVERS.values() for k, v in draw.choice(choices).items()}
        try:
            return small(mixture, steps), mixture
        except InputError as error:
            refusals[str(error)] += 1


def small(mixture: dict[str, Any], steps: int):
    """Return the spec of a mixture. **Raises** `InputError` if its levers exclude each other."""
    settings = [f"{field}={_toml(value)}" for field, value in (SMALL | mixture).items()]
    return resolve("prefix-sums", "quick", settings, make_task=make_task, steps=steps)


def trained(spec, path: Path, resumes: bool) -> str:
    """Train; with `resumes`, train once more from the checkpoint in the middle."""
    halves = dataclasses.replace(spec.train, checkpoint_every=(spec.train.steps + 1) // 2)
    spec = dataclasses.replace(spec, train=halves)
    task = make_task(spec.task_name, spec.task_fields)
    outcome = train(spec, task, path)
    if outcome.status == "interrupted":
        raise KeyboardInterrupt
    run = outcome.run
    if not resumes:
        return "trained"
    again = shutil.copytree(path, path.with_name(f"{path.name}-again"))
    first, _ = run.load("last", init_state(spec))
    (again / "checkpoints" / f"step-{spec.train.steps:08d}.safetensors").unlink()
    second, _ = train(None, task, again, resume=True).run.load("last", init_state(spec))
    leaves = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    if not all(np.array_equal(one, other, equal_nan=True) for one, other in leaves):
        raise AssertionError("the resumed run ends with other weights")
    return "trained, resumed bit for bit"


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    main()
