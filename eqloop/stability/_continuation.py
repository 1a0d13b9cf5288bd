"""Follow a fixed point along a scalar parameter, around folds, and locate its bifurcations."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, PyTree

from .._iteration import Map
from .._norms import two_norm
from ._arclength import Corrected, Point, inner, shifted
from ._branch import Bifurcation, Branch
from ._closed import closed
from ._crossings import STRAIGHT, Problem, Spot, crossings, fold
from ._parameters import Parameter

FAST = 5
"""Newton steps up to which the next step along the branch may be longer."""
SHORTEST = 1e-5
"""The shortest step along the branch, in units of the longest."""


def continuation(
    f: Map,
    z: PyTree,
    x: PyTree,
    *,
    parameter: Parameter,
    start: float = 0.0,
    stop: float = 1.0,
    rtol: float | None = None,
    step: float = 0.05,
    max_points: int = 200,
    count: int = 6,
) -> Branch:
    """Follow a fixed point of f along a scalar parameter, and locate where its stability changes.

    Pseudo-arclength continuation: a step along the tangent of the branch `(z(h), s(h))`, then
    Newton's method for `f(z, x; s) = z` on the plane normal to the tangent. The branch may turn
    back at a fold, beyond which there is no such fixed point, and unstable fixed points are
    followed as well as stable ones. GMRES solves the linear systems; no matrix as large as the
    state is built.

    At each point the eigenvalues of `df/dz` of largest modulus are measured. If one has crossed the
    unit circle since the last point, the place is located by Brent's method on its modulus; a fold
    is located by that on the parameter's part of the tangent. Two crossings of one step that cancel
    are not seen: use a smaller `step`.

    **Arguments:**

    - `f`: the map, of a state and an input, differentiable.
    - `z`: a state near a fixed point of the map at `start`, a pytree of floating-point arrays.
    - `x`: the input, a pytree of arrays.
    - `parameter`: a function `parameter(f, s)` that returns the map at the value s, itself a
        function of a state and an input: one of `Damping`, `InputScale`, `BetweenInputs`,
        `BetweenMaps` and `Noise`, or your own, such as `lambda f, s: lambda z, x: f(z, s)`.
    - `start`, `stop`: the values of the parameter at which to begin and to end.
    - `rtol`: maximum residual of a fixed point, see `Branch`; by default the machine epsilon of the
        state to the power 3/4.
    - `step`: the longest step, as a share of `|stop - start|` and of the norm of the state.
    - `max_points`: maximum number of points.
    - `count`: number of eigenvalues to measure.

    **Returns:**

    A `Branch`. It has no points if Newton's method does not converge from z.

    **Raises** `ValueError` for an argument out of range, or if the map does not return a state
    like z.

    **Source:** Keller 1977, "Numerical solution of bifurcation and nonlinear eigenvalue problems";
    Kuznetsov 2004, "Elements of applied bifurcation theory", chapters 4 and 10.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> f = lambda z, x: jnp.tanh(2 * z) + x                # two folds, at x = -+ 0.2664
    >>> branch = eqloop.stability.continuation(
    ...     f, -jnp.ones(1), None, parameter=lambda f, s: lambda z, x: f(z, s), start=-1.0)
    >>> for event in branch.bifurcations:
    ...     print(f"{event.kind} at {event.parameter:.3f}")
    fold at 0.266
    fold at -0.266
    >>> print(branch.ended)
    reached stop

    ```
    """
    if not (math.isfinite(start) and math.isfinite(stop) and start != stop):
        raise ValueError(f"start = {start} and stop = {stop} must be finite and differ")
    if not 0 < step <= 1:
        raise ValueError(f"step = {step} must be above 0 and at most 1")
    if rtol is not None and not 0 < rtol < 1:
        raise ValueError(f"rtol = {rtol} must be between 0 and 1")
    for name, value in (("max_points", max_points), ("count", count)):
        if value < 1:
            raise ValueError(f"{name} = {value} must be at least 1")
    z = jtu.tree_map(lambda leaf: jnp.asarray(leaf, jnp.asarray(leaf).dtype), z)  # no weak types
    dtype = functools.reduce(np.promote_types, (leaf.dtype for leaf in jtu.tree_leaves(z)))
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"z: a state of {dtype} must be of floating-point numbers")

    def g(z: PyTree, pair: tuple[PyTree, Array]) -> PyTree:
        x, s = pair
        return parameter(f, s)(z, x)

    pair = (x, jnp.asarray(start, dtype))
    given, returned = (_shapes(value) for value in (z, jax.eval_shape(g, z, pair)))
    if given != returned:
        raise ValueError(f"parameter: the map must return a state like z, {given}, not {returned}")
    g = closed(g, z, pair)
    scale = max(float(two_norm(z)), float(two_norm(g(z, pair))))
    problem = Problem(
        g, x, start, stop, rtol or float(jnp.finfo(dtype).eps) ** 0.75, count, scale or 1.0
    )
    across = (jtu.tree_map(jnp.zeros_like, z), jnp.ones((), dtype))
    problem, first = _first_point(problem, z, across)
    if not first.converged:
        because = f"no convergence: Newton's method ends at a residual of {first.residual:.1e}"
        return _branch(problem, [], [], f"{because} from z at {start:g}")
    return _follow(problem, problem.measure(first), across, step, max_points)


def _shapes(tree: PyTree) -> PyTree:
    return jtu.tree_map(lambda leaf: (str(leaf.dtype), leaf.shape), tree)


def _first_point(problem: Problem, z: PyTree, across: Point) -> tuple[Problem, Corrected]:
    """The fixed point at `start`, and the problem in units of its norm; or, where that is next to
    nothing, of its derivative by the parameter."""
    zero = jnp.zeros_like(across[1])
    first = problem.correct((z, zero), across)
    if not first.converged:
        return problem, first
    steepness = problem.weight * float(two_norm(first.tangent[0])) / float(first.tangent[1])
    size = float(first.size)
    weight = (size if size > 1e-3 * steepness else steepness) or 1.0
    problem = dataclasses.replace(problem, weight=weight)
    return problem, problem.correct((first.point[0], zero), across)


def _follow(problem: Problem, first: Spot, across: Point, step: float, max_points: int) -> Branch:
    spots, events, ended = [first], [], ""
    known, folds = first, []  # the last point where `unstable` is known, and the folds since then
    longest = step * problem.weight
    length = longest
    while not ended:
        last = spots[-1]
        if len(spots) >= max_points:
            ended = f"not at stop after {max_points} points"
            break
        # The step is limited in the parameter and in the state.
        room = max(float(last.at.size) / problem.weight, 1.0)
        sideways = math.sqrt(max(1 - last.slope**2, 0))
        length = min(length, longest / max(abs(last.slope), sideways / room))
        new, ended = _step(problem, last, across, length)
        if new is None:
            length /= 2
            if length < SHORTEST * longest:
                ended = f"no convergence: no next point after {problem.parameter(last.q):.4g}"
            continue
        if int(new.steps) <= FAST:
            length *= 1.5
        spot = problem.measure(new)
        spots.append(spot)
        if (spot.slope > 0) != (last.slope > 0):
            folds.append(fold(problem, last, spot, len(spots) - 2))
        if spot.unstable is not None:
            crossed = crossings(problem, known, spot, len(spots) - 2)
            events += _merge(folds, crossed, known.q < spot.q)
            known, folds = spot, []
    return _branch(problem, spots, events + folds, ended)


def _step(
    problem: Problem, last: Spot, across: Point, length: float
) -> tuple[Corrected | None, str]:
    """The next point, or None if the step is too long; and why the branch ends there, if it
    does."""
    point, tangent = last.at.point, last.at.tangent
    guess = shifted(point, tangent, length)
    new = problem.correct(guess, tangent)
    ended = ""
    q = float(new.point[1])
    if new.converged and not 0 < q < problem.weight:
        # Beyond the range: the point on its edge instead.
        edge = problem.weight if q > 0 else 0.0
        share = (edge - last.q) / (q - last.q)
        z, _ = shifted(point, shifted(new.point, point, -1.0), share)
        guess = (z, jnp.asarray(edge, across[1].dtype))
        new = problem.correct(guess, across)
        if inner(new.tangent, tangent) < 0:
            new = new._replace(tangent=jtu.tree_map(jnp.negative, new.tangent))
        ended = "reached stop" if edge else "left the range"
    off = shifted(new.point, guess, -1.0)
    near = float(inner(off, off)) <= (length / 2) ** 2
    if not (new.converged and near and float(inner(new.tangent, tangent)) >= STRAIGHT):
        return None, ""
    return new, ended


def _merge(
    folds: list[Bifurcation], crossed: list[Bifurcation], forwards: bool
) -> list[Bifurcation]:
    """The events of an interval in order. At a fold an eigenvalue passes through 1, which is no
    event of its own."""
    rest = list(crossed)
    for place in folds:
        twins = [event for event in rest if event.kind == "branch" and place.kind == "fold"]
        if twins:
            rest.remove(min(twins, key=lambda event: abs(event.parameter - place.parameter)))
    if folds:
        return [*folds, *rest]
    return sorted(rest, key=lambda event: event.parameter, reverse=not forwards)


def _branch(problem: Problem, spots: list[Spot], events: list[Bifurcation], ended: str) -> Branch:
    states = [spot.at.point[0] for spot in spots]
    unstable = [math.nan if spot.unstable is None else spot.unstable for spot in spots]
    return Branch(
        parameters=np.array([problem.parameter(spot.q) for spot in spots]),
        states=jtu.tree_map(lambda *zs: np.stack(zs), *states) if states else None,
        norms=np.array([float(spot.at.size) for spot in spots]),
        residuals=np.array([float(spot.at.residual) for spot in spots]),
        eigenvalues=np.reshape([spot.values for spot in spots], (len(spots), problem.count)),
        unstable=np.array(unstable, float),
        bifurcations=events,
        ended=ended,
    )
