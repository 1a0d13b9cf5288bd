"""What does it save to refill the batch, when examples need different numbers of iterations?

    python benchmarks/test_time.py RUN [--split test] [--examples 1000] [--budget 512] [--batch 125]
        [--noise 1.0]

**Question:** A trained run, examples of a split, plain iteration to a residual of 1e-3. Fixed
batches that go on until their last example has converged (`jax.vmap` of the model) against
`eqloop.evaluate.solve`, which refills the batch: seconds, and iterations computed (those of
examples that wait included). The two take turns, twice each after a first one that compiles; the
faster time of each counts. Then the cost of restarts.

**Machine:** 2 cores of an AMD EPYC (Zen 4), shared with other work.

**Last numbers:** a run of `eqloop train` with these `--set`s: train.steps=2000, train.batch=32,
train.burn_in=10, model.heads=2, model.attention=9, solver.steps=8. 1,000 test strings of 32 bits,
budget 512, batches of 125. Steps needed: median 22, a tenth above 26, 0.7 % never converge. Load
of the machine 6 on its 2 cores.

    fixed        24.7 s   236,000 iterations, 11 % of them needed
    refilled      3.9 s    36,080 iterations, 73 % of them needed

6.3 times as fast, and the same prediction for 99.5 % (the model's own call goes on for one
iteration after the solver). Restarts, with noise as large as e: 98.0 % solved from one start (26.9
evaluations and 3.9 ms per solved string), 92.3 % from five by residual (141.7; 18.1 ms), 97.6 %
from five by vote (134.0; 16.3 ms).
"""

import argparse
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import eqloop
from eqloop._build import restore
from eqloop.evaluate import Solved, solve
from eqloop.run import open_run
from eqloop.tasks import make_task

SOLVER = eqloop.FixedPoint(rtol=1e-3)


@eqx.filter_jit
def whole_batch(model, task, tokens, budget):
    def one(tokens):
        out = model(task.encode(tokens), solver=SOLVER, max_steps=budget, fold=True)
        return task.predict(out.logits, tokens), out.steps

    return jax.vmap(one)(tokens)


def fixed(model, task, split, batch: int, budget: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return predictions, steps of each example, and steps times examples computed."""
    predictions, steps, computed = [], [], 0
    for start in range(0, len(split), batch):
        tokens = jnp.asarray(split.inputs[start : start + batch])
        outputs, iterations = jax.device_get(whole_batch(model, task, tokens, jnp.asarray(budget)))
        predictions.append(outputs)
        steps.append(iterations)
        computed += len(iterations) * int(iterations.max())
    return np.concatenate(predictions), np.concatenate(steps), computed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--budget", type=int, default=512)
    parser.add_argument("--batch", type=int, default=125)
    parser.add_argument("--noise", type=float, default=1.0)
    arguments = parser.parse_args()

    run = open_run(arguments.run)
    model, step = restore(run, "best")
    task = make_task(run.spec.task_name, run.spec.task_fields)
    split = task.load().splits[arguments.split].take(slice(arguments.examples))
    split = split.take(slice(len(split) // arguments.batch * arguments.batch))
    print(
        f"{arguments.run}, step {step}: {len(split)} examples of {arguments.split}, "
        f"batch {arguments.batch}"
    )

    def refilled(**options) -> Solved:
        options = {"budget": arguments.budget, "batch_size": arguments.batch, **options}
        return solve(model, task, split, solver=SOLVER, **options)

    seconds = {"fixed": [], "refilled": []}
    batchwise = fixed(model, task, split, arguments.batch, arguments.budget)
    answers = refilled()
    for _ in range(2):
        began = time.perf_counter()
        batchwise = fixed(model, task, split, arguments.batch, arguments.budget)
        seconds["fixed"].append(time.perf_counter() - began)
        answers = refilled()
        seconds["refilled"].append(answers.seconds)
    evaluations = int(answers.evaluations.sum())
    spread = np.percentile(answers.steps, [0, 10, 50, 90, 100]).astype(int)
    print(f"steps 0/10/50/90/100 %: {spread.tolist()}, converged {answers.overall.converged:.3f}")
    for name, computed in (("fixed", batchwise[2]), ("refilled", answers.slot_steps)):
        best = min(seconds[name])
        share = evaluations / computed
        print(f"{name:9} {best:7.2f} s  {computed:9,} iterations, {share:5.1%} of them needed")
    print(f"ratio     {min(seconds['fixed']) / min(seconds['refilled']):7.2f}")
    # The model goes on for one iteration after the solver; that may change an undecided answer.
    print(f"same predictions: {(batchwise[0] == answers.predictions).all(axis=1).mean():.1%}")
    for restarts, select in ((1, "residual"), (5, "residual"), (5, "vote")):
        cost = refilled(restarts=restarts, select=select, noise=arguments.noise).overall
        print(
            f"{restarts} starts, {select:8}: solved {cost.solved:.3f}, "
            f"{cost.evaluations_per_solved:.1f} evaluations and "
            f"{1e3 * cost.seconds_per_solved:.2f} ms per solved"
        )


if __name__ == "__main__":
    main()
