"""Three statements from numbers, each with its evidence. There is no score."""

from .._numbers import format_number
from .._stability_report import (
    Geometry,
    InputDependence,
    Reachability,
    Share,
    Spectrum,
    Statement,
    Summary,
    Verdict,
)
from ._orbits import NEAR

MOST, FEW = 0.9, 0.1
"""Shares of the examples above which a property holds for most, or below which for few."""
EXPLODES = 1e2
"""Limit on `|dL/dz_t| / |dL/dz_T|`. A ratio near zero is no defect: it is necessary if a loop
forgets its start."""
CONDITION = 1e3
"""Limit on the condition of I - J; above it float32 has fewer than four digits of the gradient."""
CONSTANT = 1e-3
"""Sensitivity after the last iteration, relative to the first, below which it counts as zero."""


def judge(
    reachability: Reachability,
    input_dependence: InputDependence,
    geometry: Geometry,
    spectrum: Spectrum,
) -> dict[str, Statement]:
    """Judge each axis by its measurements.

    **Arguments:**

    - `reachability`, `input_dependence`, `geometry`, `spectrum`: what the functions of these names
        return for the same orbits.

    **Returns:**

    A dictionary from "reachability", "input_dependence" and "geometry" to their `Statement`.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> f, start = lambda z, x: 0.5 * jnp.tanh(z) + x, lambda x: 0 * x
    >>> xs = jr.normal(jr.key(0), (4, 2))
    >>> report = eqloop.stability.analyse(f, start, xs, key=jr.key(1), iterations=32)
    >>> parts = report.reachability, report.input_dependence, report.geometry, report.spectrum
    >>> for axis, statement in eqloop.stability.judge(*parts).items():
    ...     print(f"{axis}: {statement.verdict}")
    reachability: reached from every start
    input_dependence: smooth in the input
    geometry: stable

    ```
    """
    return {
        "reachability": judge_reachability(reachability),
        "input_dependence": judge_input_dependence(reachability, input_dependence),
        "geometry": judge_geometry(reachability, geometry, spectrum),
    }


def judge_reachability(reach: Reachability) -> Statement:
    """Judge whether the loops reach fixed points: "reached from every start", "reached from its own
    start", "reached in part" or "not reached"; not measurable if orbits that are too slow to
    classify decide."""
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
            f"; {_of(unresolved)} have such a residual too, but their steps shrink so slowly "
            f"that, by |f(z) - z| / (1 - rate), they are more than {100 * NEAR:g} % away from a "
            "limit, if there is one: use more iterations"
        )
    others = {
        name: outcome
        for name, outcome in reach.shares.items()
        if name not in ("converged", "unresolved") and outcome.hits
    }
    if others:
        because += f"; the others within {reach.iterations[-1]} iterations: " + ", ".join(
            f"{outcome.hits} {name}" for name, outcome in others.items()
        )
    # Without other fixed points the shares of starts from them have a count of 0.
    starts = (gaussian.converged, gaussian.same, other.converged, other.same)
    if own.share < MOST and own.share + unresolved.share >= FEW and unresolved.hits:
        verdict = Verdict.NOT_MEASURABLE
    elif own.share < FEW:
        verdict = Verdict.NOT_REACHED
    elif own.share < MOST:
        verdict = Verdict.REACHED_IN_PART
    elif all(start.count == 0 or start.share >= MOST for start in starts):
        verdict = Verdict.REACHED_FROM_EVERY_START
    else:
        verdict = Verdict.REACHED_FROM_OWN_START
    return Statement(verdict, because + ".", numbers)


def judge_input_dependence(reach: Reachability, depend: InputDependence) -> Statement:
    """Judge how the fixed points depend on the input: "smooth in the input", "differs, not
    smoothly", "differs, smoothness not measurable", "few fixed points" or "one fixed point,
    whatever the input".

    If z* depends on the input through the start (entirely so if f does not see x), smoothness is
    measured by loops that restart at the start of another input, otherwise by `(I - J)^-1 df/dx`.
    """
    converged = reach.shares["converged"].hits
    if converged < 2:
        return Statement(
            Verdict.NOT_MEASURABLE,
            f"{converged} of {reach.shares['converged'].count} examples reached a fixed "
            "point; a comparison needs two.",
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
    # The influence of the starts on z* is unknown if they are the same for every x.
    through = _known(depend.through_start) and not _within(depend.agreement, 0.5, 2)
    if not depend.recall:
        because += "; the map does not see x, which acts through the start alone"
    elif _known(depend.agreement):
        because += f", {depend.agreement.median:.2g} times |(I-J)⁻¹ df/dx|"
        because += ", which does not explain it" if through else ""
    smooth = depend.through_start if through else depend.smoothness
    still = depend.kept.median <= CONSTANT
    if _known(smooth) and not still:
        because += f"; a small change of x moves z* by {smooth.median:.2g} of that prediction"
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
    """Judge the backward pass: "stable", "stable, conditioning not measurable", "exploding" or
    "ill-conditioned"."""
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
        loops = "no loop measured here" if reach.shares["converged"].hits else "no loop"
        because += f"; {loops} converged, so there is no implicit gradient to measure"
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
        # Points that could not be measured have the worst conditioning, so the median is unknown.
        verdict = Verdict.CONDITIONING_UNKNOWN
    else:
        verdict = Verdict.STABLE
    return Statement(verdict, because + ".", numbers)


def _distinct(count: float) -> str:
    return "1 distinct fixed point" if count == 1 else f"{count:.0f} distinct fixed points"


def _fixed_points(count: int) -> str:
    return "one fixed point" if count == 1 else f"{count} fixed points"


def _radius(spectrum: Spectrum) -> str:
    """The spectral radius at fixed points as text; if it is unknown, the reason."""
    if _known(spectrum.radius_at_fixed_points):
        return f"{spectrum.radius_at_fixed_points.median:.2f}"
    errors = [
        error
        for error, is_fixed in zip(
            spectrum.radius_error.values, spectrum.at_fixed_point, strict=True
        )
        if is_fixed and error == error
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
