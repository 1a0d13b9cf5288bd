"""A whole report on a model and its task."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

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
) -> StabilityReport:
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

    A `StabilityReport` with the parts for a model on a task: `reachability.accuracy`,
    `geometry.audit`, `geometry.weight_noise`, `spectrum.weights`, `computes`, and in `predicted`
    what the paper claims for this recall and placement, and whether the measurement agrees.

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
        report, measured = _in_two_threads(analyse_map, measure_task, stop=work.stop)
    else:
        report, measured = analyse_map(), measure_task()
    weights = weight_figures(model)
    claims = predict(
        spec.model.recall, spec.model.norm, spec.model.residual, weights.get("rho_w_x")
    )
    entropy = entropy_figures(model, problem.inputs[:AUDITED], iterations)
    return dataclasses.replace(
        report,
        reachability=dataclasses.replace(report.reachability, accuracy=measured.accuracy),
        geometry=dataclasses.replace(
            report.geometry, weight_noise=measured.weight_noise, audit=measured.audit
        ),
        spectrum=dataclasses.replace(report.spectrum, weights=weights | entropy),
        predicted=compare(claims, report.verdict),
        settings={
            **report.settings,
            "split": split,
            "model": dataclasses.asdict(spec.model),
            "seconds": time.perf_counter() - began,
        },
        computes=four_tests(measured.followed, split, measured.stays, report.reachability.starts),
    )


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
