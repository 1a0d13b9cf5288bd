"""A whole report on a model and its task."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import PRNGKeyArray

from .. import stability
from .._errors import InputError
from .._model import LoopedTransformer
from .._stability_report import Census, PointRecord
from .._task import Split, Task
from ..evaluate import at_most
from ..run import Spec
from ..stability import COMPILE, Orbits, StabilityReport, analyse_orbits, follow_orbits
from ._census import RESTARTS, CensusLevel
from ._census import census as census_of
from ._decoder import Decoder
from ._four_tests import LONGER, PUSHED, four_tests
from ._points import EFFORTS, point_records
from ._problem import make_problem
from ._progress import Progress, SharedProgress
from ._task_measurements import AUDITED, GRADIENTS, NOISE, TaskMeasurements, measure_on_task
from ._theory import compare, predict
from ._weights import entropy_figures, weight_figures

A = TypeVar("A")


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
    - `census`: "quick" for a census of the examined loops with 2 restarts each, and Newton searches
        for unstable fixed points of 2 examples; "full" for a census of all examples of the split
        with 8, and thorough searches for fixed and slow points of all examples that are measured in
        detail; or "off". See `census` and `eqloop.stability.points`.
    - `progress`: called with the name of the part that reports, the work done and the total work,
        both in evaluations of the loop (see `planned`).
    - `concurrent`: measure the task while `analyse` runs in a second thread. On a small model most
        of the time is compilation, which uses one core; the numbers are the same. Both threads
        then call `progress`, and settings of JAX that hold in the calling thread alone, such as
        `with jax.enable_x64():`, do not reach `analyse`.

    **Returns:**

    A `StabilityReport` with the parts for a model on a task: `reachability.accuracy`,
    `geometry.audit`, `geometry.weight_noise`, `spectrum.weights`, `computes`, `census`, `points`,
    and in `predicted` what the paper claims for this recall and placement, and whether the
    measurement agrees.

    **Raises** `KeyError` if `split` is not in `splits`, `InputError` as `eqloop.evaluate.evaluate`
    and for a model whose `model.family` is not "looped", and `ValueError` as
    `eqloop.stability.analyse`.
    """
    if not isinstance(model, LoopedTransformer):
        raise InputError(
            f"a report on the paper's claims needs a looped transformer, not model.family = "
            f"{spec.model.family!r}: measure the map of eqloop.claims.make_problem by "
            "eqloop.stability.analyse"
        )
    began = time.perf_counter()
    key = jr.key(0) if key is None else key
    analyse_key, noise_key = jr.split(key)
    chosen = {name: at_most(members, examples) for name, members in splits.items()}
    sizes = {name: len(members) for name, members in chosen.items()}
    plan = planned(sizes, split, detail, iterations, census=census, available=len(splits[split]))
    work = SharedProgress(plan, progress)
    problem, decoder = make_problem(model, task, chosen[split]), Decoder(model.coda, task)

    def follow_map() -> Orbits:
        observed: dict[str, Any] = {}
        if census == "quick":
            labels = (jnp.asarray(chosen[split].inputs), problem.targets)
            observed = {"observe": decoder.read, "labels": labels}
        return follow_orbits(
            problem.f,
            problem.start,
            problem.inputs,
            iterations=iterations,
            rtol=rtol,
            **observed,
            progress=work.part("orbits"),
        )

    def analyse_map(orbits: Orbits) -> StabilityReport:
        return analyse_orbits(
            orbits,
            key=analyse_key,
            detail=detail,
            loss=problem.loss,
            targets=problem.targets,
            tick=work.stages("stability", _stages(sizes[split], detail, iterations)),
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

    def take_census(orbits: Orbits) -> Census | None:
        if census == "off":
            return None
        sample = chosen[split] if census == "quick" else splits[split]
        whole = problem if census == "quick" else make_problem(model, task, sample)
        return census_of(
            whole.f,
            whole.start,
            decoder,
            (whole.inputs, sample.inputs, sample.targets),
            sample.difficulty,
            key=jr.fold_in(key, 1 << 20),
            iterations=iterations,
            rtol=rtol,
            restarts=RESTARTS[census],
            orbits=orbits if census == "quick" else None,
            progress=work.part("census"),
        )

    def search_points(orbits: Orbits) -> list[PointRecord] | None:
        if census == "off":
            return None
        return point_records(
            orbits,
            EFFORTS[census],
            detail,
            key=jr.fold_in(key, (1 << 20) + 1),
            progress=work.part("points"),
        )

    with ThreadPoolExecutor(max_workers=1) as pool:
        run = pool.submit if concurrent else _at_once
        try:
            orbits = run(follow_map)
            analysed = run(lambda: analyse_map(orbits.result()))
            measured, counted = measure_task(), take_census(orbits.result())
            points = search_points(orbits.result())
            report = analysed.result()
        except BaseException:
            work.stop()  # tells the other thread to end
            raise
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
            "census": census,
            "model": dataclasses.asdict(spec.model),
            "seconds": time.perf_counter() - began,
        },
        computes=four_tests(measured.followed, split, measured.stays, report.reachability.starts),
        census=counted,
        points=points,
    )


def planned(
    examples: Mapping[str, int],
    split: str,
    detail: int,
    iterations: int,
    *,
    census: CensusLevel = "quick",
    available: int = 0,
) -> dict[str, int]:
    """The approximate work of `examine`; see `eqloop.stability.planned`.

    **Arguments:**

    - `examples`: number of examples of each split.
    - `split`, `detail`, `iterations`, `census`: see `examine`.
    - `available`: number of examples that the split has, for a full census.

    **Returns:**

    Name of a part -> number of evaluations of the loop.

    ```python
    >>> import eqloop
    >>> plan = eqloop.claims.planned({"test": 64, "hard": 64}, "hard", detail=16, iterations=256)
    >>> print(", ".join(plan))
    orbits, stability, accuracy, weight noise, gradients, four tests, census, points

    ```
    """
    count, programs = examples[split], len(GRADIENTS) + 2
    stages = stability.planned(count, min(detail, count), iterations)
    plan = {
        "orbits": stages["orbits"],
        "stability": sum(_stages(count, detail, iterations).values()),
        "accuracy": sum(examples.values()) * iterations + COMPILE,
        "weight noise": len(NOISE) * count * iterations // 2 + COMPILE,
        "gradients": programs * (min(AUDITED, count) * 100 + COMPILE),
        "four tests": sum(examples.values()) * iterations // 2
        + min(PUSHED, count) * (LONGER + 1) * iterations
        + (len(examples) + 1) * COMPILE,
    }
    if census != "off":
        counted = count if census == "quick" else available
        plan["census"] = RESTARTS[census] * counted * iterations // 2 + 3 * COMPILE
        if census == "full":
            plan["census"] += stability.planned(counted, 1, iterations)["orbits"]
        effort = EFFORTS[census]
        searched = min(count, detail, effort.examples or count)
        plan["points"] = effort.work(searched) + 5 * COMPILE
    return plan


def _stages(count: int, detail: int, iterations: int) -> dict[str, int]:
    """The work of `analyse_orbits`."""
    stages = stability.planned(count, min(detail, count), iterations)
    del stages["orbits"]
    return stages


def _at_once(call: Callable[[], A]) -> "Future[A]":
    """As `submit` of an executor, in this thread."""
    future: Future[A] = Future()
    future.set_result(call())
    return future
