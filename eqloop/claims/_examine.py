"""A whole report on a model and its task."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import jax.random as jr
from jaxtyping import PRNGKeyArray

from .._model import AbstractLoopedModel, LoopedTransformer
from .._task import Split, Task
from ..evaluate import at_most
from ..run import Spec
from ..stability import StabilityReport
from ._census import CensusLevel
from ._four_tests import four_tests
from ._parts import Parts
from ._plan import planned
from ._progress import Progress, SharedProgress
from ._task_measurements import AUDITED
from ._theory import compare, predict
from ._weights import entropy_figures, weight_figures

A = TypeVar("A")


def examine(
    model: AbstractLoopedModel,
    task: Task,
    splits: Mapping[str, Split],
    spec: Spec,
    *,
    split: str,
    examples: int = 64,
    iterations: int = 512,
    rtol: float = 1e-4,
    detail: int = 16,
    census: CensusLevel = "quick",
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
    - `census`: "quick" for a census of the examined loops with 2 restarts each, and, for 2
        examples, Newton searches for unstable fixed points, the growth by part of the block and
        exponents in float64; "full" for a census of all examples of the split with 8 restarts, and,
        for all examples that are measured in detail, the same with thorough searches, edge states,
        basins and exact modes of the norms; or "off". See `census`, `growth_by_part`, `norm_modes`,
        and `points`, `edge_state`, `basins` and `precision_check` in `eqloop.stability`.
    - `progress`: called with the name of the part that reports, the work done and the total work,
        both in evaluations of the loop (see `planned`).
    - `concurrent`: measure the task while `analyse` runs in a second thread. On a small model most
        of the time is compilation, which uses one core; the numbers are the same. Both threads
        then call `progress`, and settings of JAX that hold in the calling thread alone, such as
        `with jax.enable_x64():`, do not reach `analyse`.

    **Returns:**

    A `StabilityReport` with the parts for a model on a task: `reachability.accuracy`,
    `geometry.audit`, `geometry.weight_noise`, `spectrum.weights` and what follows it, `computes`
    and what follows it, and in `predicted` what the paper claims for this recall and placement, and
    whether the measurement agrees. For a model that is not a `LoopedTransformer` the paper claims
    nothing: `predicted` is None, and so are the parts that are about its block (growth by part,
    modes of the norms, weights and attention).

    **Raises** `KeyError` if `split` is not in `splits`, `InputError` as `eqloop.evaluate.evaluate`,
    and `ValueError` as `eqloop.stability.analyse`.
    """
    began = time.perf_counter()
    key = jr.key(0) if key is None else key
    chosen = {name: at_most(members, examples) for name, members in splits.items()}
    sizes = {name: len(members) for name, members in chosen.items()}
    plan = planned(sizes, split, detail, iterations, census=census, available=len(splits[split]))
    work = SharedProgress(plan, progress)
    parts = Parts(
        model,
        task,
        spec,
        chosen,
        split,
        splits[split],
        iterations=iterations,
        rtol=rtol,
        detail=detail,
        census=census,
        key=key,
        work=work,
    )
    with ThreadPoolExecutor(max_workers=1) as pool:
        run = pool.submit if concurrent else _at_once
        try:
            followed = run(parts.follow)
            analysed = run(lambda: parts.analyse(followed.result()))
            around = run(lambda: parts.measure_basins(followed.result()))
            attributed = run(lambda: parts.attribute(followed.result()))
            measured = parts.measure_task()
            orbits = followed.result()
            more = parts.take_census(orbits) | parts.search(orbits)
            report = analysed.result()
            more |= {"basins": around.result()}
            spectrum = dataclasses.replace(report.spectrum, **attributed.result())
        except BaseException:
            work.stop()  # tells the other thread to end
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    weights, agreement = weight_figures(model), None
    if isinstance(model, LoopedTransformer):
        claims = predict(
            spec.model.recall, spec.model.norm, spec.model.residual, weights.get("rho_w_x")
        )
        agreement = compare(claims, report.verdict)
        weights |= entropy_figures(model, orbits.xs[:AUDITED], iterations)
    return dataclasses.replace(
        report,
        reachability=dataclasses.replace(report.reachability, accuracy=measured.accuracy),
        geometry=dataclasses.replace(
            report.geometry, weight_noise=measured.weight_noise, audit=measured.audit
        ),
        spectrum=dataclasses.replace(spectrum, weights=weights),
        predicted=agreement,
        settings={
            **report.settings,
            "split": split,
            "census": census,
            "model": spec.model.effective,
            "seconds": time.perf_counter() - began,
        },
        computes=four_tests(measured.followed, split, measured.stays, report.reachability.starts),
        **more,
    )


def _at_once(call: Callable[[], A]) -> "Future[A]":
    """As `submit` of an executor, in this thread."""
    future: Future[A] = Future()
    future.set_result(call())
    return future
