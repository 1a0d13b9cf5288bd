"""Everything at once."""

import time
from collections.abc import Mapping
from typing import Any

import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from .._iteration import Map
from ._geometry import Loss, geometry
from ._input_dependence import input_dependence
from ._limits import Progress, find_limits
from ._reachability import reachability
from ._report import FORMAT, StabilityReport
from ._spectrum import jacobian_eigenvalues, spectrum
from ._verdict import judge
from ._work import Work, planned


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
    predicted: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> StabilityReport:
    """Reachability, input-dependence, geometry and spectrum of the loop `z <- f(z, x)`.

    Any map will do: a function, an Equinox module, or a module of another library with its weights
    closed over. The report is of the weights that f has when this is called, however they changed
    since an earlier call; functions of the same code and shapes share what is compiled. Nothing
    here builds a matrix as large as the state.

    ```python
    report = eqloop.stability.analyse(lambda z, x: jnp.tanh(w @ z + x), z0s, xs, key=jr.key(0))
    print(report.verdict["reachability"].because)
    ```

    When not to use it: for maps that are not deterministic, or not differentiable.

    **Arguments:**

    - `f`: of a state and an input, for one example; both pytrees of arrays.
    - `z0s`, `xs`: starts and inputs, stacked along a first axis; or for `z0s` a function from the
        input of one example to its start: then `|dz_T/dx|` counts what goes through the start.
    - `iterations`, `rtol`: how far each orbit is followed, and the relative residual at which one
        has settled; in float32 a tolerance below 1e-6 is hardly reached.
    - `detail`: examples, evenly spread, for what takes many products with the Jacobian: input
        sensitivity, basins, gradients, spectrum.
    - `loss`, `targets`: see `geometry`.
    - `predicted`: what a theory says of this map; goes into the report as it is.
    - `progress`: called with the work done and its whole, in evaluations of f; see `planned`.

    **Raises** `ValueError` for arguments out of range.
    """
    began = time.perf_counter()
    if detail < 1:
        raise ValueError(f"detail = {detail} must be at least 1")
    count = len(jtu.tree_leaves(xs if callable(z0s) else z0s)[0])
    work = Work(planned(count, min(detail, count), iterations), progress)
    keys = dict(
        zip(("eigen", "spectrum", "reach", "depend", "shape"), jr.split(key, 5), strict=True)
    )
    limits = find_limits(
        f,
        z0s,
        xs,
        iterations=iterations,
        rtol=rtol,
        progress=work.part("orbits"),
    )
    work.tick("orbits")
    index = np.unique(np.arange(min(detail, len(limits))) * len(limits) // min(detail, len(limits)))
    some = limits.take(index)
    if targets is not None:
        targets = jtu.tree_map(lambda leaf: leaf[index], targets)
    leading = jacobian_eigenvalues(some, key=keys["eigen"])
    work.tick("eigenvalues")
    spectral = spectrum(some, key=keys["spectrum"], leading=leading, tick=work.tick)
    depend = input_dependence(limits, key=keys["depend"], detail=some, tick=work.tick)
    shape = geometry(
        some, key=keys["shape"], loss=loss, targets=targets, leading=leading, tick=work.tick
    )
    reach = reachability(
        limits,
        key=keys["reach"],
        detail=some,
        predicted_rate=np.array(spectral.radius.values),
        tick=work.tick,
    )
    return StabilityReport(
        reachability=reach,
        input_dependence=depend,
        geometry=shape,
        spectrum=spectral,
        verdict=judge(reach, depend, shape, spectral),
        predicted=predicted,
        settings={
            "format": FORMAT,
            "examples": len(limits),
            "detail": index.tolist(),
            "iterations": iterations,
            "rtol": rtol,
            "seconds": time.perf_counter() - began,
        },
    )
