"""A whole report on a model and its task."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax.random as jr
from jaxtyping import PRNGKeyArray

from .. import stability
from .._model import LoopedTransformer
from .._task import Split, Task
from ..evaluate import at_most
from ..run import Spec
from ..stability import COMPILE, StabilityReport, analyse
from ._four_tests import LONGER, PUSHED, four_tests
from ._problem import make_problem
from ._progress import Progress, SharedProgress
from ._task_measurements import AUDITED, GRADIENTS, NOISE, TaskMeasurements, measure_on_task
from ._theory import compare, predict
from ._weights import entropy_figures, weight_figures

A = TypeVar("A")
B = TypeVar("B")


def examine(
    model: LoopedTransformer,
    task: Task,
    splits: Mapping[str, Split],
    spec: Spec,
    *,
    split: str,
    examples: int = 64,
    iterations: int = 512,
    rtol: float = 1e-4,
    detail: int = 16,
    key: PRNGKeyArray | None = None,
    progress: Progress | None = None,
    concurrent: bool = False,
) -> dict[str, Any]:
    """Measure the stability of a model on one split, and its behaviour on its task.

    `eqloop stability RUN` does this for a run folder and draws the result.

    **Arguments:**

    - `model`, `task`: the trained model, and the task that it was trained on.
    - `splits`: splits by name; accuracy is measured on all of them.
    - `spec`: the spec of the run: recall and placement of the norms, solver, training.
    - `split`: name of the split whose loops are examined.
    - `examples`: maximum number of examples of a split, evenly spread; 0 for all.
    - `iterations`, `rtol`, `detail`, `key`: see `eqloop.stability.analyse`.
    - `progress`: called with the name of the part that reports, the work done and the total work,
        both in evaluations of the loop (see `planned`).
    - `concurrent`: measure the task while `analyse` runs in a second thread. On a small model most
        of the time is compilation, which uses one core; the numbers are the same. Both threads
        then call `progress`, and settings of JAX that hold in the calling thread alone, such as
        `with jax.enable_x64():`, do not reach `analyse`.

    **Returns:**

    The tables of a `StabilityReport`, with these entries more:

    - `reachability.accuracy`: `{"iterations", "splits": split -> share solved, "trained"}`;
    - `geometry.audit`: gradient -> cosine and ratio of norms to both references, and seconds (see
      `eqloop.gradient_audit`);
    - `geometry.weight_noise`: `{"levels", "accuracy", "low", "high"}`, the share solved with
      Gaussian noise on all weights, relative to the root mean square of each array;
    - `spectrum.weights`: see `weight_figures`, and the entropy of the attention at the start and
      at the end of the loop;
    - `computes`: whether the equilibria compute the answer or the loop only settles: "t1" to "t4",
      the tables of `EquilibriumTest`;
    - `predicted`: what the paper claims for this recall and placement, and whether the
      measurement agrees.

    **Raises** `KeyError` if `split` is not in `splits`, `InputError` as `eqloop.evaluate.evaluate`,
    and `ValueError` as `eqloop.stability.analyse`.
    """
    began = time.perf_counter()
    analyse_key, noise_key = jr.split(jr.key(0) if key is None else key)
    chosen = {name: at_most(members, examples) for name, members in splits.items()}
    sizes = {name: len(members) for name, members in chosen.items()}
    work = SharedProgress(planned(sizes, split, detail, iterations), progress)
    problem = make_problem(model, task, chosen[split])

    def analyse_map() -> StabilityReport:
        return analyse(
            problem.f,
            problem.start,
            problem.inputs,
            key=analyse_key,
            iterations=iterations,
            rtol=rtol,
            detail=detail,
            loss=problem.loss,
            targets=problem.targets,
            progress=work.part("stability"),
        )

    def measure_task() -> TaskMeasurements:
        return measure_on_task(
            model,
            task,
            chosen,
            spec,
            split=split,
            key=noise_key,
            iterations=iterations,
            rtol=rtol,
            part=work.part,
        )

    if concurrent:
        report, measurements = _in_two_threads(analyse_map, measure_task, stop=work.stop)
    else:
        report, measurements = analyse_map(), measure_task()
    weights = weight_figures(model)
    claims = predict(
        spec.model.recall, spec.model.norm, spec.model.residual, weights.get("rho_w_x")
    )
    report = dataclasses.replace(
        report,
        predicted=compare(claims, report.verdict),
        settings={
            **report.settings,
            "split": split,
            "model": dataclasses.asdict(spec.model),
            "seconds": time.perf_counter() - began,
        },
    )
    entropy = entropy_figures(model, problem.inputs[:AUDITED], iterations)
    return report_tables(report, measurements, weights | entropy, split)


def report_tables(
    report: StabilityReport,
    measurements: TaskMeasurements,
    weights: Mapping[str, float],
    split: str,
) -> dict[str, Any]:
    """The tables of `report.json` for a model with a task; see `examine`."""
    tables = report.tables()
    tables["reachability"]["accuracy"] = measurements.accuracy
    tables["geometry"]["weight_noise"] = measurements.weight_noise
    tables["geometry"]["audit"] = measurements.audit
    tables["spectrum"]["weights"] = dict(weights)
    tests = four_tests(measurements.followed, split, measurements.stays, report.reachability.starts)
    tables["computes"] = {name: dataclasses.asdict(test) for name, test in tests.items()}
    return tables


def planned(
    examples: Mapping[str, int], split: str, detail: int, iterations: int
) -> dict[str, int]:
    """The approximate work of `examine`; see `eqloop.stability.planned`.

    **Arguments:**

    - `examples`: number of examples of each split.
    - `split`, `detail`, `iterations`: see `examine`.

    **Returns:**

    Name of a part -> number of evaluations of the loop.

    ```python
    >>> import eqloop
    >>> plan = eqloop.claims.planned({"test": 64, "hard": 64}, "hard", detail=16, iterations=256)
    >>> list(plan)
    ['stability', 'accuracy', 'weight noise', 'gradients', 'four tests']

    ```
    """
    count, programs = examples[split], len(GRADIENTS) + 2
    return {
        "stability": sum(stability.planned(count, min(detail, count), iterations).values()),
        "accuracy": sum(examples.values()) * iterations + COMPILE,
        "weight noise": len(NOISE) * count * iterations // 2 + COMPILE,
        "gradients": programs * (min(AUDITED, count) * 100 + COMPILE),
        "four tests": sum(examples.values()) * iterations // 2
        + min(PUSHED, count) * (LONGER + 1) * iterations
        + (len(examples) + 1) * COMPILE,
    }


def _in_two_threads(
    background: Callable[[], A], foreground: Callable[[], B], *, stop: Callable[[], None]
) -> tuple[A, B]:
    """The results of both calls. If one raises, `stop` tells the other to end."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        future = pool.submit(background)
        try:
            result = foreground()
            return future.result(), result
        except BaseException:
            stop()
            raise
