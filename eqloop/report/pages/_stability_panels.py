"""The figures of the page in order: title, formula, how to read it, and a text alternative."""

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from ..._numbers import typeset_number, typeset_percent
from ..._stability_report import StabilityReport
from ..figures import _stability_figures as figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Panel(Generic[T]):
    """A figure of the page, of a report or of a part of it.

    **Attributes:**

    - `name`: name of its PNG file, and of its anchor on the page.
    - `title`: its heading.
    - `draw`: makes the figure.
    - `formula`: the quantity that it shows, as HTML.
    - `reading`: how to read it, as HTML.
    - `alt`: makes its text alternative.
    """

    name: str
    title: str
    draw: "Callable[[T], Figure]"
    formula: str
    reading: str
    alt: Callable[[T], str]


def _residual(report: StabilityReport) -> str:
    part = report.reachability
    median, converged = part.residual.median or [math.nan], part.shares["converged"]
    return (
        f"Relative residual against iterations: the median goes from {typeset_number(median[0])} "
        f"to {typeset_number(median[-1])}; {converged.hits} of {converged.count} examples "
        f"converged to {typeset_number(part.tolerance)}."
    )


def _solved(report: StabilityReport) -> str:
    part = report.reachability.accuracy
    if not part:
        return "Empty: there is no task to solve."
    last = ", ".join(
        f"{name} {typeset_percent(shares[-1])}" for name, shares in part.splits.items()
    )
    seen = ", training with {} to {}".format(*part.trained) if part.trained else ""
    return f"Share solved against iterations: after {part.iterations[-1]}, {last}{seen}."


def _eigenvalues(report: StabilityReport) -> str:
    radius = report.spectrum.radius
    return (
        "Leading eigenvalues of the Jacobian in the complex plane: the largest modulus is "
        f"{typeset_number(radius.mean)} on average over {radius.count} examples."
    )


def _sensitivity(report: StabilityReport) -> str:
    part = report.input_dependence
    median = part.sensitivity.median or [math.nan]
    return (
        f"Sensitivity of the state to the input against iterations: the median ends at "
        f"{typeset_number(median[-1])}; the implicit value is "
        f"{typeset_number(part.implicit.mean)} on average."
    )


def _distinct(report: StabilityReport) -> str:
    part = report.input_dependence
    pairs = zip(part.inputs, part.clusters, strict=True)
    counts = ", ".join(f"{typeset_number(count)} of {inputs} inputs" for inputs, count in pairs)
    return f"Distinct fixed points against inputs: {counts or 'none'}."


def _points(report: StabilityReport) -> str:
    part = report.input_dependence
    known = sum(point is not None for point in part.points)
    return (
        f"{known} fixed points in the plane of their two main directions, which holds "
        f"{typeset_percent(part.plane)} of their variance."
    )


def _gradient(report: StabilityReport) -> str:
    median = report.geometry.gradient_norm.median or [math.nan]
    return (
        "Norm of the gradient at iteration t relative to the last iteration: the median at the "
        f"first is {typeset_number(median[0])}."
    )


PANELS = (
    Panel(
        "residual",
        "Reachability: the residual",
        figures.residual_figure,
        "r<sub>t</sub> = |f(z<sub>t</sub>, x) − z<sub>t</sub>| / |f(z<sub>t</sub>, x)|",
        "A loop that settles at a constant rate bends down to the tolerance more and more steeply. "
        "A loop whose line stays above the tolerance cycles, wanders or is slow.",
        _residual,
    ),
    Panel(
        "solved",
        "Reachability: the effect of more iterations",
        figures.solved_figure,
        "share of examples whose whole answer is right after t iterations",
        "To the right of the shaded range the loop runs longer than in training. The line of a "
        "loop that has settled stays level there; the line of a loop that drifts falls.",
        _solved,
    ),
    Panel(
        "eigenvalues",
        "Reachability: eigenvalues of the Jacobian",
        figures.eigenvalue_figure,
        "J v = λ v, J = ∂f/∂z where the loop ended; ρ(J) = max |λ|",
        "Along an eigenvector a small disturbance is multiplied by |λ| per iteration: it dies out "
        "inside the unit circle and grows outside. Crosses are values on which the eigenvalue "
        "solver did not converge.",
        _eigenvalues,
    ),
    Panel(
        "sensitivity",
        "Input-dependence: sensitivity",
        figures.sensitivity_figure,
        "|dz<sub>t</sub>/dx|<sub>F</sub> → |(I − J)<sup>−1</sup> ∂f/∂x|<sub>F</sub>",
        "The curve should end on the dashed line, which is the derivative of the fixed point. A "
        "curve that falls towards 0 belongs to a loop that forgets its input.",
        _sensitivity,
    ),
    Panel(
        "distinct",
        "Input-dependence: distinct fixed points",
        figures.distinct_figure,
        "number of different z*(x<sub>1</sub>), …, z*(x<sub>n</sub>)",
        "On the dashed line every input has its own fixed point. A curve that levels off has a few "
        "fixed points for all inputs.",
        _distinct,
    ),
    Panel(
        "fixed-points",
        "Input-dependence: positions of the fixed points",
        figures.fixed_points_figure,
        "z* = f(z*, x), projected on the two main directions of all z*",
        "One point per input that converged. Points on top of each other are darker.",
        _points,
    ),
    Panel(
        "gradient-norm",
        "Geometry: the gradient through the loop",
        figures.gradient_norm_figure,
        "dL/dz<sub>t</sub> = J<sub>t</sub><sup>T</sup> ⋯ J<sub>T−1</sub><sup>T</sup> "
        "dL/dz<sub>T</sub>",
        "Read it from right to left. If the gradient fades, the last iterations suffice; if it "
        "grows, full back-propagation is unstable.",
        _gradient,
    ),
)
