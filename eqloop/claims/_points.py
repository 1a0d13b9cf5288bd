"""What a report holds of points that orbits do not find, of edge states, and of their planes."""

import dataclasses
import math
from collections.abc import Mapping

import jax.random as jr
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from .._stability_report import EdgeRecord, PlaneRecord, PointRecord
from .._task import Progress
from ..stability import MainPlane, OrbitPlane, Orbits, Point, edge_state, orbit_plane, points

EDGES = 2
"""Maximum number of edge states of an example that are searched for."""
DIRECTIONS = 4
"""Maximum number of unstable directions of a point in a report."""
DIGITS = 5
"""Significant digits of a coordinate in a plane."""


@dataclasses.dataclass(frozen=True)
class Effort:
    """How a report searches for points.

    **Attributes:**

    - `examples`: maximum number of examples; None for all examples that are measured in detail.
    - `planes`: the same for the examples whose orbits are recorded in their main planes.
    - `candidates`, `steps`, `slow`: see `eqloop.stability.points`.
    - `edges`: whether to search for edge states between stable points.
    """

    examples: int | None = None
    planes: int | None = None
    candidates: int = 32
    steps: int = 100
    slow: bool = True
    edges: bool = True

    def work(self, examples: int) -> int:
        """The work of searches for the points of this number of examples, in evaluations of the
        loop. A step of Newton's method counts as 30, one of the minimisation as 90: as measured on
        the released prefix-sums run."""
        return examples * self.candidates * self.steps * (120 if self.slow else 30)


EFFORTS = {
    "quick": Effort(examples=2, planes=4, candidates=4, steps=20, slow=False, edges=False),
    "full": Effort(),
}
"""By the level of the census."""


def chosen_examples(orbits: Orbits, most: int | None, detail: int) -> list[int]:
    """At most `most` of the detailed examples, evenly spread; None for all."""
    detailed = orbits.evenly(detail)
    chosen = orbits.take(detailed).evenly(detail if most is None else most)
    return detailed[chosen].tolist()


def orbit_planes(
    orbits: Orbits, effort: Effort, detail: int, *, key: PRNGKeyArray, progress: Progress
) -> dict[int, OrbitPlane]:
    """`eqloop.stability.orbit_plane` of the examples that have one, by their indices.

    **Arguments:** see `search`.
    """
    examples = chosen_examples(orbits, effort.planes, detail)
    planes = {}
    for done, example in enumerate(examples):
        progress(done, len(examples))
        plane = orbit_plane(orbits, example, key=jr.fold_in(key, example))
        if plane is not None:
            planes[example] = plane
    progress(len(examples), len(examples))
    return planes


def plane_records(planes: Mapping[int, OrbitPlane]) -> list[PlaneRecord]:
    """What a report holds of the planes."""
    return [
        PlaneRecord(
            example=example,
            variance=drawn.plane.variance,
            iterations=drawn.iterations,
            own=_coordinates(drawn.own),
            others=[_coordinates(orbit) for orbit in drawn.others],
        )
        for example, drawn in planes.items()
    ]


def search(
    orbits: Orbits,
    effort: Effort,
    detail: int,
    planes: Mapping[int, OrbitPlane],
    *,
    key: PRNGKeyArray,
    progress: Progress,
) -> tuple[list[PointRecord], list[EdgeRecord] | None]:
    """Search for points of some of the examples, see `Effort`, and for edge states between them.

    **Arguments:**

    - `orbits`: the orbits of the examples of the report.
    - `effort`: how to search.
    - `detail`: number of examples that are measured in detail; those that are chosen are evenly
        spread over them.
    - `planes`: by the index of an example.
    - `key`: a random key.
    - `progress`: called with the number of examples that are done, and of all.

    **Returns** the points; and the edge states, None if they were not searched for.
    """
    examples = chosen_examples(orbits, effort.examples, detail)
    records, edges = [], []
    for done, example in enumerate(examples):
        progress(done, len(examples))
        one, plane = orbits.take(np.array([example])), None
        if example in planes:
            plane = planes[example].plane
        point_key = jr.fold_in(key, example)
        located = points(
            one,
            key=point_key,
            candidates=effort.candidates,
            steps=effort.steps,
            slow=effort.slow,
        )
        records += [_record(point, example, plane) for point in located]
        if effort.edges:
            edges += _edges(one, example, located, plane, jr.fold_in(point_key, 1))
    progress(len(examples), len(examples))
    return records, edges if effort.edges else None


def _edges(
    one: Orbits, example: int, located: list[Point], plane: MainPlane | None, key: PRNGKeyArray
) -> list[EdgeRecord]:
    """The edge states between the first stable point of an example and the next ones."""
    stable = [point for point in located if point.kind == "stable"]
    if len(stable) < 2:
        number = "one stable point was" if stable else "no stable point was"
        because = f"not measurable, because {number} located, and an edge state lies between two"
        return [EdgeRecord(example, because, math.nan, None)]
    edges = []
    for number, other in enumerate(stable[1 : 1 + EDGES]):
        edge = edge_state(
            one.f,
            stable[0].z,
            other.z,
            stable[0].x,
            key=jr.fold_in(key, number),
            iterations=one.iterations,
        )
        point = None if edge.point is None else _record(edge.point, example, plane)
        edges.append(EdgeRecord(example, edge.because, edge.gap, point))
    return edges


def _record(point: Point, example: int, plane: MainPlane | None) -> PointRecord:
    place = directions = None
    if plane is not None:
        [place] = _coordinates(plane.place(np.asarray(point.z)[None]))
        directions = _coordinates(plane.along(point.directions[:DIRECTIONS]))
    return PointRecord(
        kind=point.kind,
        because=point.because,
        example=example,
        unstable=point.unstable,
        eigenvalues=[[value.real, value.imag] for value in point.eigenvalues.tolist()],
        residual=point.residual,
        candidates=point.candidates,
        place=place,
        directions=directions,
    )


def _coordinates(places: Float[np.ndarray, "places 2"]) -> list[list[float]]:
    return [[float(f"{number:.{DIGITS}g}") for number in place] for place in places]
