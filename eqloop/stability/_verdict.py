"""From numbers to three statements, each with what it rests on. There is no score."""

from .._numbers import format_number
from ._orbits import NEAR
from ._report import Geometry, InputDependence, Reachability, Spectrum, Statement
from ._statistics import Share, Summary
from ._words import Verdict

MOST, FEW = 0.9, 0.1
"""Shares of the examples from which a thing holds for (nearly) all, or for hardly any."""
EXPLODES = 1e2
"""Of `|dL/dz_t| / |dL/dz_T|`. That it falls to nothing is no defect: so it must where a loop
forgets its start."""
CONDITION = 1e3
"""Of I - J, from which float32 has fewer than four digits of the implicit gradient."""
CONSTANT = 1e-3
"""A sensitivity of the end below this part of that after one iteration is none."""


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
    reached"; or not measurable, where it depends on orbits that are too slow to tell."""
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
    unresolved = reach.shares["unresolved"]
    if unresolved.hits:
        because += (
            f"; {_of(unresolved)} have such a residual too, but their steps became smaller so "
            f"slowly that by |f(z) - z| / (1 - rate) they are more than {100 * NEAR:g} % from "
            "where they go, if they go anywhere: more iterations would tell"
        )
    named = {"converged", "unresolved"}
    rest = {name: each for name, each in reach.shares.items() if name not in named and each.hits}
    if rest:
        because += f"; the others within {reach.iterations[-1]} iterations: " + ", ".join(
            f"{s.hits} {name}" for name, s in rest.items()
        )
    # Those from other fixed points cannot be asked where there are none.
    starts = (gaussian.converged, gaussian.same, other.converged, other.same)
    if own.share < MOST and own.share + unresolved.share >= FEW and unresolved.hits:
        verdict = Verdict.NOT_MEASURABLE
    elif own.share < FEW:
        verdict = Verdict.NOT_REACHED
    elif own.share < MOST:
        verdict = Verdict.REACHED_IN_PART
    elif all(each.count == 0 or each.share >= MOST for each in starts):
        verdict = Verdict.REACHED_FROM_EVERY_START
    else:
        verdict = Verdict.REACHED_FROM_OWN_START
    return Statement(verdict, because + ".", numbers)


def judge_input_dependence(reach: Reachability, depend: InputDependence) -> Statement:
    """ "smooth in the input", "differs, not smoothly", "differs, smoothness not measurable", "few
    fixed points", "one fixed point, whatever the input".

    Where z* owes to the start what it owes to the input (all of it, where f does not see x), it is
    judged by runs that begin anew at the start of another input, else by `(I - J)^-1 df/dx`.
    """
    converged = reach.shares["converged"].hits
    if converged < 2:
        return Statement(
            Verdict.NOT_MEASURABLE,
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
        "input_dependence.kept": depend.kept.median,
        "input_dependence.implicit": depend.implicit.median,
        "input_dependence.agreement": depend.agreement.median,
        "input_dependence.smoothness": depend.smoothness.median,
        "input_dependence.through_start": depend.through_start.median,
    }
    because = (
        f"{_distinct(count)} for {of} inputs; |dz_t/dx| is {first:.2g} after one iteration "
        f"and {last:.2g} after the last"
    )
    # Of what the starts do to z* nothing is known where they are the same for every x.
    through = _known(depend.through_start) and not _within(depend.agreement, 0.5, 2)
    if not depend.recall:
        because += "; the map does not see x, which acts through the start alone"
    elif _known(depend.agreement):
        because += f", {depend.agreement.median:.2g} times |(I-J)⁻¹ df/dx|"
        because += ", which does not explain it" if through else ""
    smooth = depend.through_start if through else depend.smoothness
    still = depend.kept.median <= CONSTANT
    if _known(smooth) and not still:
        because += f"; a small change of x moves z* by {smooth.median:.2g} of what that says"
    if count <= 1:
        verdict = Verdict.ONE_FIXED_POINT
    elif depend.distinct < 0.5:
        verdict = Verdict.FEW_FIXED_POINTS
    elif not depend.recall and not first > 0:
        verdict, because = (
            Verdict.NOT_MEASURABLE,
            f"{_distinct(count)} for {of} inputs, but the map does not see x, and "
            "the starts were given as arrays: pass z0s as a function of x",
        )
    elif still or (depend.implicit.median == 0 and not through):
        verdict = Verdict.NOT_SMOOTH
    elif not _known(smooth):
        verdict = Verdict.SMOOTHNESS_UNKNOWN
    elif not _within(smooth, 0.5, 2):
        verdict = Verdict.NOT_SMOOTH
    else:
        verdict = Verdict.SMOOTH
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
        "spectrum.radius_at_fixed_points": spectrum.radius_at_fixed_points.median,
        "spectrum.lyapunov": spectrum.lyapunov[0].median,
    }
    if back != back:
        return Statement(
            Verdict.NOT_MEASURABLE, "the gradient is not finite after the first iterations.", {}
        )
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
        condition = format_number(shape.condition.median, ".2g", missing=Verdict.NOT_MEASURABLE)
        because += (
            f"; at the {_fixed_points(shape.solved.count)} the spectral radius is "
            f"{_radius(spectrum)}, I - J has condition {condition}, and "
            f"{_of(shape.solved)} backward solves reached their tolerance"
        )
    if not largest <= EXPLODES:
        verdict = Verdict.EXPLODING
    elif shape.solved.count and (shape.solved.share < MOST or shape.condition.median > CONDITION):
        verdict = Verdict.ILL_CONDITIONED
    elif 2 * shape.condition.count < shape.solved.count:
        # Those that could not be measured are the worst conditioned: the median is unknown.
        verdict = Verdict.CONDITIONING_UNKNOWN
    else:
        verdict = Verdict.STABLE
    return Statement(verdict, because + ".", numbers)


def _distinct(count: float) -> str:
    return "1 distinct fixed point" if count == 1 else f"{count:.0f} distinct fixed points"


def _fixed_points(count: int) -> str:
    return "one fixed point" if count == 1 else f"{count} fixed points"


def _radius(spectrum: Spectrum) -> str:
    """Of the Jacobian at fixed points, and why it is not known where it is not."""
    if _known(spectrum.radius_at_fixed_points):
        return f"{spectrum.radius_at_fixed_points.median:.2f}"
    errors = [
        error
        for error, there in zip(spectrum.radius_error.values, spectrum.at_fixed_point, strict=True)
        if there and error == error
    ]
    return Verdict.NOT_MEASURABLE + (
        f" (J is too far from normal: to ± {max(errors):.1g})" if errors else ""
    )


def _of(share: Share) -> str:
    return f"{share.hits} of {share.count}"


def _known(summary: Summary) -> bool:
    return summary.count > 0


def _within(summary: Summary, low: float, high: float) -> bool:
    return _known(summary) and low <= summary.median <= high
