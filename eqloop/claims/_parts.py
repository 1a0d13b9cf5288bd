"""The measurements of a report on a model and its task, one method for each."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from .._model import AbstractLoopedModel, LoopedTransformer
from .._stability_report import Basins, NormModesRecord, PrecisionRecord
from .._task import Split, Task
from ..run import Spec
from ..stability import (
    Orbits,
    StabilityReport,
    analyse_orbits,
    basin_shares,
    follow_orbits,
    precision_check,
    summary,
)
from ._census import RESTARTS, CensusLevel
from ._census import census as census_of
from ._decoder import Decoder
from ._growth import growth_by_part
from ._norm_modes import norm_modes
from ._plan import DISTANCES, SAMPLES, stages_after_orbits
from ._points import EFFORTS, chosen_examples, orbit_planes, plane_records, search
from ._problem import Problem, make_problem
from ._progress import SharedProgress
from ._task_measurements import TaskMeasurements, measure_on_task


class Parts:
    """What is measured, and the measurements.

    **Arguments:**

    - `chosen`: the examples of each split that are measured.
    - `all_examples`: all examples of the split called `split`, for a full census.
    - `work`: is told the progress of each part.
    - all others: see `examine`.
    """

    def __init__(
        self,
        model: AbstractLoopedModel,
        task: Task,
        spec: Spec,
        chosen: Mapping[str, Split],
        split: str,
        all_examples: Split,
        *,
        iterations: int,
        rtol: float,
        detail: int,
        census: CensusLevel,
        key: PRNGKeyArray,
        work: SharedProgress,
    ):
        self.model, self.task, self.spec = model, task, spec
        self.chosen, self.split, self.all_examples = chosen, split, all_examples
        self.iterations, self.rtol, self.detail = iterations, rtol, detail
        self.census: CensusLevel = census
        self.work = work
        self.problem: Problem = make_problem(model, task, chosen[split])
        self.decoder = Decoder(model.coda, task)
        self.analyse_key, self.noise_key = jr.split(key)
        names = ("census", "points", "planes", "basins", "modes", "growth", "precision")
        self.keys = {name: jr.fold_in(key, (1 << 20) + n) for n, name in enumerate(names)}

    def follow(self) -> Orbits:
        """The orbits of all examples, with their answers for a quick census."""
        observed: dict[str, Any] = {}
        if self.census == "quick":
            labels = (jnp.asarray(self.chosen[self.split].inputs), self.problem.targets)
            observed = {"observe": self.decoder.read, "labels": labels}
        return follow_orbits(
            self.problem.f,
            self.problem.start,
            self.problem.inputs,
            iterations=self.iterations,
            rtol=self.rtol,
            **observed,
            progress=self.work.part("orbits"),
        )

    def analyse(self, orbits: Orbits) -> StabilityReport:
        """The report on the map."""
        stages = stages_after_orbits(len(orbits), self.detail, self.iterations)
        return analyse_orbits(
            orbits,
            key=self.analyse_key,
            detail=self.detail,
            loss=self.problem.loss,
            targets=self.problem.targets,
            tick=self.work.stages("stability", stages),
        )

    def measure_task(self) -> TaskMeasurements:
        """What is measured on the task."""
        return measure_on_task(
            self.model,
            self.task,
            self.chosen,
            self.spec,
            split=self.split,
            key=self.noise_key,
            iterations=self.iterations,
            rtol=self.rtol,
            part=self.work.part,
        )

    def take_census(self, orbits: Orbits) -> dict[str, Any]:
        """The census, as a field of the report: of the orbits or of all examples."""
        if self.census == "off":
            return {}
        quick = self.census == "quick"
        sample = self.chosen[self.split] if quick else self.all_examples
        whole = self.problem if quick else make_problem(self.model, self.task, sample)
        counted = census_of(
            whole.f,
            whole.start,
            self.decoder,
            (whole.inputs, sample.inputs, sample.targets),
            sample.difficulty,
            key=self.keys["census"],
            iterations=self.iterations,
            rtol=self.rtol,
            restarts=RESTARTS[self.census],
            orbits=orbits if quick else None,
            progress=self.work.part("census"),
        )
        return {"census": counted}

    def search(self, orbits: Orbits) -> dict[str, Any]:
        """Planes, points and edge states, as fields of the report."""
        if self.census == "off":
            return {}
        part, keys, detail = self.work.part, self.keys, self.detail
        effort = EFFORTS[self.census]
        planes = orbit_planes(orbits, effort, detail, key=keys["planes"], progress=part("planes"))
        points, edges = search(
            orbits, effort, detail, planes, key=keys["points"], progress=part("points")
        )
        return {"points": points, "planes": plane_records(planes), "edges": edges}

    def measure_basins(self, orbits: Orbits) -> Basins | None:
        """The basins around the ends of the detailed examples."""
        if self.census != "full":
            return None
        detail = orbits.take(orbits.evenly(self.detail))
        return basin_shares(
            detail,
            key=self.keys["basins"],
            sizes=DISTANCES,
            samples=SAMPLES,
            progress=self.work.part("basins"),
        )

    def attribute(self, orbits: Orbits) -> dict[str, Any]:
        """Growth by part of the block, exponents in float64, and in a full report exact modes of
        the norms, as fields of the spectrum."""
        if self.census == "off":
            return {}
        full, report = self.census == "full", self.work.part("exponents")
        chosen = chosen_examples(orbits, EFFORTS[self.census].examples, self.detail)
        some, model = orbits.take(np.array(chosen)), self.model
        named, by_part = None, None
        if isinstance(model, LoopedTransformer):
            growth = growth_by_part(
                model, some.xs, key=self.keys["growth"], iterations=self.iterations
            )
            parts = zip(growth.parts, growth.growth.T, strict=True)
            by_part = {name: summary(values) for name, values in parts}
        report(1, 3)
        check = precision_check(
            some.f,
            some.z0s,
            some.xs,
            key=self.keys["precision"],
            count=2 if full else 1,
            iterations=self.iterations,
        )
        report(2, 3)
        if full and isinstance(model, LoopedTransformer):
            modes = norm_modes(model, some.state, some.xs, key=self.keys["modes"])
            named = NormModesRecord(
                zero=modes.zero,
                zero_residual=summary(modes.zero_residual),
                neutral_residual=summary(modes.neutral_residual),
                statement=modes.statement,
            )
        report(3, 3)
        return {
            "norm_modes": named,
            "growth_by_part": by_part,
            "precision": PrecisionRecord(
                values=[summary(values) for values in check.values.T],
                double=[summary(values) for values in check.double.T],
                warning=check.warning,
            ),
        }
