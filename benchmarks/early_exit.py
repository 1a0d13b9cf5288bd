"""What does early exit save in evaluation, and does it change an answer?

    python benchmarks/early_exit.py RUN [--examples 2000] [--iterations 500]

**Question:** A trained run, examples of its test split: is evaluation to 500 iterations with early
exit at least 5 times as fast as without, with the same predictions? The two take turns, twice each
after a short one that compiles; the faster time of each counts.

**Machine:** 2 cores of an AMD EPYC (Zen 4).

**Last numbers** (quick prefix-sums run, seed 0, step 300, 2026-11-24): 2,000 strings of 32 bits,
500 iterations: all of them 45.3 s, with early exit 7.0 s, 7.2 % of the iterations run: 6.5 times as
fast, predictions identical, all of them right.
"""

import argparse
from pathlib import Path

import numpy as np

from eqloop._build import restore
from eqloop.evaluate import evaluate
from eqloop.run import open_run
from eqloop.tasks import make_task


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--iterations", type=int, default=500)
    options = parser.parse_args()

    run = open_run(options.run)
    model, step = restore(run, "best")
    fields = run.spec.task_fields
    if run.spec.task_name == "prefix-sums":  # the run's own test split may be smaller
        fields = {**fields, "test_rows": options.examples}
    task = make_task(run.spec.task_name, fields)
    split = task.load().splits["test"].take(slice(options.examples))
    seconds: dict[bool, list[float]] = {True: [], False: []}
    results = {}
    for early in (True, False):
        evaluate(model, task, split, iterations=16, early_exit=early)
    for early in (True, False, True, False):
        results[early] = evaluate(
            model, task, split, iterations=options.iterations, early_exit=early
        )
        seconds[early].append(results[early].seconds)
    same = np.array_equal(results[True].predictions, results[False].predictions)
    print(f"{options.run}, step {step}: {len(split)} examples, {options.iterations} iterations")
    print(f"exact {results[False].overall.scores['exact'][-1]:.3f}")
    for early, name in ((False, "all iterations"), (True, "early exit")):
        share = results[early].iterations_run / results[early].iterations_asked
        print(f"{name:15} {min(seconds[early]):7.1f} s   {share:6.1%} of the iterations run")
    print(f"ratio           {min(seconds[False]) / min(seconds[True]):7.1f}")
    print(f"predictions {'identical' if same else 'DIFFER'}")


if __name__ == "__main__":
    main()
