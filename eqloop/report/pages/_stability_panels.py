"""The figures of the page in their order: what each is, how to read it, and what it says in words
to those who cannot see it."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..._numbers import typeset_number, typeset_percent
from ..figures import _stability_figures as figures
from ..figures._stability_figures import Tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Panel:
    """**Attributes:**

    - `name`: of its PNG file, and of its place on the page.
    - `formula`, `reading`: HTML.
    - `alt`: text, from the report.
    """

    name: str
    title: str
    draw: "Callable[[Tables], Figure]"
    formula: str
    reading: str
    alt: Callable[[Tables], str]


def _residual(report: Tables) -> str:
    part = report["reachability"]
    median, done = part["residual"]["median"] or [None], part["shares"]["converged"]
    return (
        f"Relative residual against iterations: the median goes from {typeset_number(median[0])} "
        f"to {typeset_number(median[-1])}; {done['hits']} of {done['count']} examples converged to "
        f"{typeset_number(part['tolerance'])}."
    )


def _solved(report: Tables) -> str:
    part = report["reachability"].get("accuracy")
    if not part:
        return "Empty: there is no task to solve."
    last = ", ".join(
        f"{name} {typeset_percent(shares[-1])}" for name, shares in part["splits"].items()
    )
    trained = part.get("trained")
    seen = f", training with {trained[0]} to {trained[1]}" if trained else ""
    return f"Share solved against iterations: after {part['iterations'][-1]}, {last}{seen}."


def _eigenvalues(report: Tables) -> str:
    radius = report["spectrum"]["radius"]
    return (
        "Leading eigenvalues of the Jacobian in the complex plane: the largest modulus is "
        f"{typeset_number(radius['mean'])} on average over {radius['count']} examples."
    )


def _sensitivity(report: Tables) -> str:
    part = report["input_dependence"]
    median = part["sensitivity"]["median"] or [None]
    return (
        f"Sensitivity of the state to the input against iterations: the median ends at "
        f"{typeset_number(median[-1])}; the implicit value is "
        f"{typeset_number(part['implicit']['mean'])} on average."
    )


def _distinct(report: Tables) -> str:
    part = report["input_dependence"]
    pairs = zip(part["inputs"], part["clusters"], strict=True)
    told = ", ".join(f"{typeset_number(found)} of {inputs} inputs" for inputs, found in pairs)
    return f"Distinct fixed points against inputs: {told or 'none'}."


def _points(report: Tables) -> str:
    part = report["input_dependence"]
    there = sum(point is not None for point in part["points"])
    return (
        f"{there} fixed points in the plane of their two main directions, which holds "
        f"{typeset_percent(part['plane'])} of their variance."
    )


def _gradient(report: Tables) -> str:
    median = report["geometry"]["gradient_norm"]["median"] or [None]
    return (
        "Norm of the gradient that arrives at iteration t, relative to the last: the median at the "
        f"first is {typeset_number(median[0])}."
    )


PANELS = (
    Panel(
        "residual",
        "Reachability: the residual",
        figures.residual_figure,
        "r<sub>t</sub> = |f(z<sub>t</sub>, x) − z<sub>t</sub>| / |f(z<sub>t</sub>, x)|",
        "A line that bends down to the tolerance, more and more steeply, is a loop that settles at "
        "a constant rate. One that stays above it cycles, wanders or is only slow.",
        _residual,
    ),
    Panel(
        "solved",
        "Reachability: what more iterations bring",
        figures.solved_figure,
        "share of examples whose whole answer is right after t iterations",
        "To the right of the shaded range the loop runs for longer than in training. There a loop "
        "that has settled stays level, and one that drifts gets worse.",
        _solved,
    ),
    Panel(
        "eigenvalues",
        "Reachability: eigenvalues of the Jacobian",
        figures.eigenvalue_figure,
        "J v = λ v, J = ∂f/∂z where the loop ended; ρ(J) = max |λ|",
        "Inside the unit circle a small disturbance dies out, by |λ| each iteration; outside it "
        "grows. Crosses are values that the eigenvalue solver did not settle on.",
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
        "Input-dependence: where the fixed points lie",
        figures.fixed_points_figure,
        "z* = f(z*, x), projected on the two main directions of all z*",
        "One point for each input that converged. Points on top of each other are darker.",
        _points,
    ),
    Panel(
        "gradient-norm",
        "Geometry: the gradient on its way back",
        figures.gradient_norm_figure,
        "dL/dz<sub>t</sub> = J<sub>t</sub><sup>T</sup> ⋯ J<sub>T−1</sub><sup>T</sup> "
        "dL/dz<sub>T</sub>",
        "Read it from right to left. A gradient that fades needs only the last iterations; one "
        "that grows makes full back-propagation unstable.",
        _gradient,
    ),
)
