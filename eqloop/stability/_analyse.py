"""`analyse`: measure everything and judge it."""

import dataclasses
import time
from collections.abc import Mapping

import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from .._iteration import Map
from .._stability_report import FORMAT, Agreement, StabilityReport
from ._geometry import Loss, geometry
from ._input_dependence import input_dependence
from ._orbits import Orbits, Progress, follow_orbits
from ._reachability import reachability
from ._spectrum import jacobian_eigenvalues, spectrum
from ._verdict import judge
from ._work import Tick, Work, planned, silent


def analyse(
    f: Map,
    z0s: PyTree,
    xs: PyTree,
    *,
    key: PRNGKeyArray,
    iterations: int = 256,
    rtol: float = 1e-4,
    detail: int = 16,
    loss: Loss | None = None,
    targets: PyTree = None,
    predicted: Mapping[str, Agreement] | None = None,
    progress: Progress | None = None,
) -> StabilityReport:
    """Measure reachability, input-dependence, geometry and spectrum of the loop `z <- f(z, x)`.

    f can be any map: a function, an Equinox module, or a module of another library with its weights
    closed over. The report describes the weights that f has at the time of the call; functions of
    the same code and shapes share compiled programs. No matrix as large as the state is built.
    When not to use it: for maps that are not deterministic or not differentiable.

    **Arguments:**

    - `f`: the map, of a state and an input of one example, both pytrees of arrays.
    - `z0s`: the starts, stacked along a first axis; or a function from the input of one example to
        its start, and then `|dz_T/dx|` includes the derivative of the start.
    - `xs`: the inputs, stacked along a first axis.
    - `key`: a random key, for probes and other starts.
    - `iterations`: iterations per orbit, at least 16.
    - `rtol`: relative residual below which an orbit has settled; float32 rarely reaches values
        below 1e-6.
    - `detail`: number of examples, evenly spaced, for measurements that need many products with
        the Jacobian: input sensitivity, basins, gradients, spectrum.
    - `loss`, `targets`: see `geometry`.
    - `predicted`: the predictions of a theory for this map, copied into the report.
    - `progress`: called with the work done and the total work, in evaluations of f; see `planned`.

    **Returns:**

    A `StabilityReport`.

    **Raises** `ValueError` for arguments out of range.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> f, start = lambda z, x: 0.5 * jnp.tanh(z) + x, lambda x: 0 * x
    >>> xs = jr.normal(jr.key(0), (4, 2))
    >>> report = eqloop.stability.analyse(f, start, xs, key=jr.key(1), iterations=32)
    >>> print(report.verdict["reachability"].verdict)
    reached from every start
    >>> print(f"{report.spectrum.radius.median:.1f}, {report.geometry.returned.share}")
    0.4, 1.0

    ```
    """
    began = time.perf_counter()
    count = len(jtu.tree_leaves(xs if callable(z0s) else z0s)[0])
    work = Work(planned(count, min(detail, count), iterations), progress)
    orbits = follow_orbits(
        f,
        z0s,
        xs,
        iterations=iterations,
        rtol=rtol,
        progress=work.part("orbits"),
    )
    work.tick("orbits")
    report = analyse_orbits(
        orbits, key=key, detail=detail, loss=loss, targets=targets, tick=work.tick
    )
    seconds = time.perf_counter() - began
    return dataclasses.replace(
        report, predicted=predicted, settings={**report.settings, "seconds": seconds}
    )


def analyse_orbits(
    orbits: Orbits,
    *,
    key: PRNGKeyArray,
    detail: int = 16,
    loss: Loss | None = None,
    targets: PyTree = None,
    tick: Tick = silent,
) -> StabilityReport:
    """Measure what `analyse` measures, from orbits that have been followed.

    **Arguments:**

    - `orbits`: from `follow_orbits`.
    - `key`, `detail`, `loss`, `targets`: see `analyse`.
    - `tick`: called with the name of each stage that is done (see `planned`).

    **Returns:**

    A `StabilityReport`.

    **Raises** `ValueError` if `detail` is below 1.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> f, start = lambda z, x: 0.5 * jnp.tanh(z) + x, lambda x: 0 * x
    >>> xs = jr.normal(jr.key(0), (4, 2))
    >>> orbits = eqloop.stability.follow_orbits(f, start, xs, iterations=32)
    >>> report = eqloop.stability.analyse_orbits(orbits, key=jr.key(1))
    >>> print(report.verdict["reachability"].verdict)
    reached from every start

    ```
    """
    if detail < 1:
        raise ValueError(f"detail = {detail} must be at least 1")
    eigen_key, spectrum_key, reach_key, input_key, geometry_key = jr.split(key, 5)
    index = orbits.evenly(detail)
    detailed = orbits.take(index)
    if targets is not None:
        targets = jtu.tree_map(lambda leaf: leaf[index], targets)
    leading = jacobian_eigenvalues(detailed, key=eigen_key)
    tick("eigenvalues")
    spectrum_part = spectrum(detailed, key=spectrum_key, leading=leading, tick=tick)
    input_part = input_dependence(orbits, key=input_key, detail=detailed, tick=tick)
    geometry_part = geometry(
        detailed, key=geometry_key, loss=loss, targets=targets, leading=leading, tick=tick
    )
    reachability_part = reachability(
        orbits,
        key=reach_key,
        detail=detailed,
        predicted_rate=np.array(spectrum_part.radius.values),
        tick=tick,
    )
    return StabilityReport(
        reachability=reachability_part,
        input_dependence=input_part,
        geometry=geometry_part,
        spectrum=spectrum_part,
        verdict=judge(reachability_part, input_part, geometry_part, spectrum_part),
        predicted=None,
        settings={
            "format": FORMAT,
            "examples": len(orbits),
            "detail": index.tolist(),
            "iterations": orbits.iterations,
            "rtol": orbits.rtol,
        },
    )
