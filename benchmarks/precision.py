"""What do bfloat16 products change in a loop's fixed points and answers?

    S="--set task.length=16 --set task.hard_length=64 --set task.validation_length=32"
    S="$S --set solver.steps=8 --set train.burn_in=12 --set train.steps=700"
    S="$S --set model.width=32 --set model.heads=4"
    eqloop train $S --out runs/f32
    eqloop train $S --set model.precision=bfloat16 --out runs/bf16
    python benchmarks/precision.py runs/f32 runs/bf16 [--examples 500] [--iterations 240]

**Question:** Weights of a trained run, iterated with float32 and with bfloat16 products (weights,
norms, softmax, residual stream and state are float32 in both): how far down does the residual of
plain iteration go, how far apart are the fixed points, and how many answers change? Does a run
trained in bfloat16 solve as much?

`floor`: median over examples of the least relative residual of the last 40 iterations. `apart`:
median of |z_bf16 - z_f32| / |z_f32| of the states at the end, both from the run's own start.
`equal`: share of examples with the same answer in every cell. `solved`: float32 / bfloat16, in %.

**Machine:** 2 cores of an AMD EPYC (Zen 4), jax 0.10.2, 2026-11-24.

**Last numbers:** benchmarks/results/precision.md. In short: residuals stop at 1e-3 in place of
1e-7, fixed points are 3e-3 apart, and no more than one answer in 500 changes.
"""

import argparse
import dataclasses
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from eqloop._build import make_model, restore
from eqloop._norms import relative_residual
from eqloop.run import open_run
from eqloop.tasks import make_task

TAIL = 40


@eqx.filter_jit
def run_loop(model, task, tokens, iterations):
    """Return states, answers and the least residual of the last iterations, for a batch."""
    loop = model.loop(fold=True)

    def one(tokens):
        e = model.embed(task.encode(tokens))
        r = loop.inject(e)

        def body(i, carry):
            z, least = carry
            after = loop(z, r)
            residual = relative_residual(after, z)
            late = i >= iterations - TAIL
            return after, jnp.where(late, jnp.minimum(least, residual), least)

        z, least = jax.lax.fori_loop(0, iterations, body, (e, jnp.asarray(jnp.inf)))
        return z, task.predict(model.coda(z), tokens), least

    return jax.vmap(one)(tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--iterations", type=int, default=240)
    options = parser.parse_args()

    print(
        "| run | trained in | split | floor f32 | floor bf16 | apart | equal | solved f32 / bf16 |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for path in options.runs:
        run = open_run(path)
        trained, _ = restore(run, "best")
        task = make_task(run.spec.task_name, run.spec.task_fields)
        splits = task.load().splits
        for name in ("test", "hard"):
            split = splits[name].evenly(options.examples)
            results = []
            for precision in ("float32", "bfloat16"):
                spec = dataclasses.replace(run.spec.model, precision=precision)
                like = eqx.filter_eval_shape(make_model, spec, jax.random.key(0))
                model = jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(trained))
                tokens, count = jnp.asarray(split.inputs), jnp.asarray(options.iterations)
                results.append([np.asarray(a) for a in run_loop(model, task, tokens, count)])
            (z, answer, floor), (low_z, low_answer, low_floor) = results
            flat, low = z.reshape(len(z), -1), low_z.reshape(len(z), -1)
            apart = np.linalg.norm(low - flat, axis=1) / np.linalg.norm(flat, axis=1)
            cells = tuple(range(1, answer.ndim))
            equal = np.mean(np.all(answer == low_answer, axis=cells))
            solved = [
                100 * np.mean(np.all(a == split.targets, axis=cells)) for a in (answer, low_answer)
            ]
            print(
                f"| {path.name} | {run.spec.model.precision} | {name} | {np.median(floor):.1e} "
                f"| {np.median(low_floor):.1e} | {np.median(apart):.1e} | {equal:.1%} "
                f"| {solved[0]:.1f} / {solved[1]:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
