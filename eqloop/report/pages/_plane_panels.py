"""The figure of orbits and points in their planes on the page of a stability report."""

from ..._numbers import typeset_percent
from ..._stability_report import PlaneRecord, StabilityReport, count_kinds
from ..figures import _plane_figures as figures
from ._stability_panels import Panel


def plane_alt(report: StabilityReport, plane: PlaneRecord) -> str:
    """The text alternative of the plane of one example."""
    points = [point for point in report.points or [] if point.example == plane.example]
    located = f"; points: {count_kinds(points)}" if points else ""  # not all are searched
    return (
        f"Orbits of example {plane.example + 1} in their main plane, which holds "
        f"{typeset_percent(plane.variance)} of their variance{located}."
    )


def _planes(report: StabilityReport) -> str:
    planes = " ".join(plane_alt(report, plane) for plane in report.planes or [])
    return planes or "Empty: no state of an orbit is finite after its start."


PLANE_PANELS = (
    Panel(
        "planes",
        "Orbits and points in their main plane",
        figures.planes_figure,
        "z<sub>t</sub> and points z = f(z, x), projected on the two main directions of the orbits "
        "of one example",
        "The percentage is the share of the variance of the orbits in the plane. The lines through "
        "a saddle are its unstable directions: the shorter, the more of them is out of the plane. "
        "Points that coincide here may lie apart.",
        _planes,
    ),
)
