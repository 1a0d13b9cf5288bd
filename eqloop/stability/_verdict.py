"""From numbers to three statements, each with what it rests on. There is no score."""

from ._report import Geometry, InputDependence, Reachability, Spectrum, Statement
from ._statistics import Share, Summary

MOST, FEW = 0.9, 0.1
"""Shares of the examples from which a thing holds for (nearly) all, or for hardly any."""
EXPLODES = 1e2
"""Of `|dL/dz_t| / |dL/dz_T|`. That it falls to nothing is no defect: so it must where a loop
forgets its start."""
CONDITION = 1e3
"""Of I - J, from which float32 has fewer than four digits of the implicit gradient."""
CONSTANT = 1e-3
"""A sensitivity below this part of that of the start is none."""
NONE = "not measurable"


def judge(
    reach: Reachability, depend: InputDependence, shape: Geometry, spectrum: Spectrum
) -> dict[str, Statement]:
    """One statement for each axis; see `Statement`."""
    return {
        "reachability": judge_reachability(reach),
        "input_dependence": judge_input_dependence(reach, depend),
        "geometry": judge_geometry(reach, shape, spectrum),
    }


def judge_reachability(reach: Reachability) -> Statement:
    """ "reached from every start", "reached from its own start", "reached in part", "not
    reached"."""
    own, gaussian = reach.shares["converged"], reach.starts["gaussian"]
    other = reach.starts["other"]
    numbers = {
        "reachability.shares.converged": own.share,
        "reachability.starts.gaussian.converged": gaussian.converged.share,
        "reachability.starts.gaussian.same": gaussian.same.share,
        "reachability.settle_step": reach.settle_step.median,
        "reachability.rate": reach.rate.median,
    }
    because = f"{_of(own)} settled below a residual of {reach.tolerance:g}"
    if own.hits:
        because += f", at iteration {reach.settle_step.median:.0f} (median)"
        because += (
            f"; from Gaussian starts {_of(gaussian.converged)} did, {_of(gaussian.same)} of these "
            f"at the same point, and from other fixed points {_of(other.converged)}, "
            f"{_of(other.same)} at the same"
        )
    rest = {name: each for name, each in reach.shares.items() if name != "converged" and each.hits}
    if rest:
        because += f"; the others within {reach.iterations[-1]} iterations: " + ", ".join(
            f"{s.hits} {name}" for name, s in rest.items()
        )
    # Those from other fixed points cannot be asked where there are none.
    starts = (gaussian.converged, gaussian.same, other.converged, other.same)
    if own.share < FEW:
        verdict = "not reached"
    elif own.share < MOST:
        verdict = "reached in part"
    elif all(each.count == 0 or each.share >= MOST for each in starts):
        verdict = "reached from every start"
    else:
        verdict = "reached from its own start"
    return Statement(verdict, because + ".", numbers)


def judge_input_dependence(reach: Reachability, depend: InputDependence) -> Statement:
    """ "smooth in the input", "differs, not smoothly", "differs, smoothness not measurable", "few
    fixed points", "one fixed point, whatever the input"."""
    converged = reach.shares["converged"].hits
    if converged < 2:
        return Statement(
            NONE,
            f"{converged} of {reach.shares['converged'].count} examples reached a fixed "
            "point; it takes two to compare.",
            {},
        )
    count, of = depend.clusters[-1], depend.inputs[-1]
    first, last = depend.sensitivity.median[0], depend.sensitivity.median[-1]
    numbers = {
        "input_dependence.distinct": depend.distinct,
        "input_dependence.spread": depend.spread,
        "input_dependence.sensitivity.first": first,
        "input_dependence.sensitivity.last": last,
        "input_dependence.implicit": depend.implicit.median,
        "input_dependence.agreement": depend.agreement.median,
        "input_dependence.smoothness": depend.smoothness.median,
    }
    because = (
        f"{count:.0f} distinct fixed points for {of} inputs; |dz_t/dx| is {first:.2g} after one "
        f"iteration and {last:.2g} after the last"
    )
    if _known(depend.agreement):
        because += f", {depend.agreement.median:.2g} times |(I-J)⁻¹ df/dx|"
    if _known(depend.smoothness):
        because += (
            f"; a small change of x moves z* by {depend.smoothness.median:.2g} of what that says"
        )
    if count <= 1:
        verdict = "one fixed point, whatever the input"
    elif depend.distinct < 0.5:
        verdict = "few fixed points"
    elif last <= CONSTANT * first or depend.implicit.median == 0:
        verdict = "differs, not smoothly"
    elif not _known(depend.smoothness):
        verdict = "differs, smoothness " + NONE
    elif not _within(depend.smoothness, 0.5, 2):
        verdict = "differs, not smoothly"
    else:
        verdict = "smooth in the input"
    return Statement(verdict, because + ".", numbers)


def judge_geometry(reach: Reachability, shape: Geometry, spectrum: Spectrum) -> Statement:
    """ "stable", "stable, conditioning not measurable", "exploding" or "ill-conditioned"."""
    back = shape.gradient_norm.median[0]
    largest = max((v for v in shape.gradient_norm.high if v == v), default=float("nan"))
    numbers = {
        "geometry.gradient_norm.first": back,
        "geometry.gradient_norm.largest": largest,
        "geometry.condition": shape.condition.median,
        "geometry.solved": shape.solved.share,
        "spectrum.radius": spectrum.radius.median,
        "spectrum.lyapunov": spectrum.lyapunov[0].median,
    }
    if back != back:
        return Statement(NONE, "the gradient is not finite after the first iterations.", {})
    because = (
        f"over {shape.iterations[-1]} iterations backwards the gradient becomes {back:.2g} times "
        f"as large (largest on the way {largest:.2g})"
    )
    if _known(spectrum.lyapunov[0]):
        because += (
            f"; the leading Lyapunov exponent is {spectrum.lyapunov[0].median:.2f} per iteration"
        )
    if not shape.solved.count:
        what = "none looked at here" if reach.shares["converged"].hits else "nothing"
        because += f"; {what} converged, so that there is no implicit gradient to condition"
    else:
        because += (
            f"; at the fixed points the spectral radius is {_figure(spectrum.radius, '.2f')}, "
            f"I - J has condition {_figure(shape.condition, '.2g')}, and {_of(shape.solved)} "
            "backward solves reached their tolerance"
        )
    if not largest <= EXPLODES:
        verdict = "exploding"
    elif shape.solved.count and (shape.solved.share < MOST or shape.condition.median > CONDITION):
        verdict = "ill-conditioned"
    elif 2 * shape.condition.count < shape.solved.count:
        # Those that could not be measured are the worst conditioned: the median is unknown.
        verdict = "stable, conditioning " + NONE
    else:
        verdict = "stable"
    return Statement(verdict, because + ".", numbers)


def _of(share: Share) -> str:
    return f"{share.hits} of {share.count}"


def _known(summary: Summary) -> bool:
    return summary.count > 0


def _figure(summary: Summary, form: str) -> str:
    return f"{summary.median:{form}}" if _known(summary) else NONE


def _within(summary: Summary, low: float, high: float) -> bool:
    return _known(summary) and low <= summary.median <= high
