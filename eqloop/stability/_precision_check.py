"""Lyapunov exponents in the precision of the state against those in float64."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Bool, Float, PRNGKeyArray, PyTree

from .._iteration import Map
from ._spectrum import lyapunov_exponents
from ._trees import head

PARTED = 0.01
"""Difference of two exponents per iteration, beyond their errors, above which they part."""
MOVES = (
    *("broadcast_in_dim", "concatenate", "dynamic_slice", "expand_dims", "gather", "pad"),
    *("reshape", "rev", "select_n", "slice", "squeeze", "transpose"),
)
"""Primitives that round nothing."""


@dataclasses.dataclass(frozen=True)
class PrecisionCheck:
    """Lyapunov exponents in the precision of the state and in float64.

    **Attributes:**

    - `values`, `errors`: the exponents and half of their 95 % intervals in the precision of the
      state, shape `(examples, count)`; see `lyapunov_exponents`.
    - `double`, `double_errors`: those in float64, NaN where not measurable.
    - `parted`: whether they differ by more than 0.01 beyond the sum of their errors, or only one of
      them is finite, shape `(examples, count)`.
    - `warning`: one sentence if any part, or why there is no comparison; None if they agree.
    """

    values: Float[np.ndarray, "examples count"]
    errors: Float[np.ndarray, "examples count"]
    double: Float[np.ndarray, "examples count"]
    double_errors: Float[np.ndarray, "examples count"]
    parted: Bool[np.ndarray, "examples count"]
    warning: str | None


def precision_check(
    f: Map,
    z0s: PyTree,
    xs: PyTree,
    *,
    key: PRNGKeyArray,
    count: int = 2,
    iterations: int = 256,
    driven: bool = False,
) -> PrecisionCheck:
    """Measure Lyapunov exponents in the precision of the state and again in float64.

    The second measurement converts the states, the inputs and, if f is a pytree such as an Equinox
    module, its arrays to float64, and traces f anew: the numbers are the same, and only the
    rounding of the arithmetic differs. If f computes in a fixed precision of its own, there is no
    comparison, and `warning` says so.

    **Arguments:**

    - `f`, `z0s`, `xs`, `key`, `count`, `iterations`, `driven`: see `lyapunov_exponents`.

    **Returns:**

    A `PrecisionCheck`.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> f = lambda z, x: 4 * ((z + x) - x) * (1 - z)
    >>> z, x = jnp.full((1, 1), 0.3), jnp.full((1, 1), 1e8)     # float32 rounds z + x to x
    >>> check = eqloop.stability.precision_check(f, z, x, key=jr.key(0), count=1)
    >>> print(check.values.round(3), check.double.round(1))     # log 4, log 2
    [[1.386]] [[0.7]]
    >>> print(check.warning.split(",")[0])
    exponents in float32 and float64 part for 1 of 1 examples

    ```
    """
    settings: dict[str, Any] = {"count": count, "iterations": iterations, "driven": driven}
    values, errors = lyapunov_exponents(f, z0s, xs, key=key, **settings)
    state = {str(leaf.dtype) for leaf in jtu.tree_leaves(z0s)}
    double = _double(f, z0s, xs, key, settings) if state != {"float64"} else "the state is float64"
    if isinstance(double, str):
        missing = np.full_like(values, math.nan)
        agree = np.zeros(values.shape, bool)
        warning = f"not compared with float64, because {double}"
        return PrecisionCheck(values, errors, missing, missing, agree, warning)
    gap = np.abs(values - double[0])
    parted = ~(gap <= errors + double[1] + PARTED) & ~(np.isnan(values) & np.isnan(double[0]))
    warning = None
    if np.any(parted):
        name = ", ".join(sorted(state))
        count_parted = int(np.any(parted, axis=1).sum())
        warning = (
            f"exponents in {name} and float64 part for {count_parted} of {len(parted)} examples, by"
            f" up to {np.max(np.where(parted, gap, 0)):.2g} per iteration"
        )
    return PrecisionCheck(values, errors, *double, parted, warning)


def _double(
    f: Map, z0s: PyTree, xs: PyTree, key: PRNGKeyArray, settings: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray] | str:
    """Exponents and errors in float64, or why there are none."""
    with jax.enable_x64(True):
        f, z0s, xs = (_widened(tree) for tree in (f, z0s, xs))
        z, x = head((z0s, xs))
        because = _fixed_precision(f, z, head(x) if settings["driven"] else x)
        return because or lyapunov_exponents(f, z0s, xs, key=key, **settings)


def _widened(tree: PyTree) -> PyTree:
    def widen(leaf: Any) -> Any:
        return jnp.asarray(leaf, jnp.float64) if eqx.is_inexact_array(leaf) else leaf

    return jtu.tree_map(widen, tree)


def _fixed_precision(f: Map, z: PyTree, x: PyTree) -> str | None:
    """Why f does not compute in float64 for arguments of float64; None if it does."""
    try:
        jaxpr, returned = jax.make_jaxpr(lambda z, x: f(z, x), return_shape=True)(z, x)
    except (TypeError, ValueError) as error:
        return f"f does not take a state of float64: {str(error).splitlines()[0]}"
    given = [leaf.dtype for leaf in jtu.tree_leaves(z)]
    if [leaf.dtype for leaf in jtu.tree_leaves(returned)] != given:
        return "f does not return float64 for a state of float64"
    narrow = sorted(set(_narrow_results(jaxpr.jaxpr)))
    return f"f computes in {', '.join(narrow)} whatever the state" if narrow else None


def _narrow_results(jaxpr: Any) -> Iterator[str]:
    """The dtypes below float64 in which a program computes."""
    for equation in jaxpr.eqns:
        parameters = jtu.tree_leaves(list(equation.params.values()))
        inner = [getattr(parameter, "jaxpr", parameter) for parameter in parameters]
        inner = [program for program in inner if hasattr(program, "eqns")]
        for program in inner:
            yield from _narrow_results(program)
        name = equation.primitive.name
        copies = name == "convert_element_type" and _is_narrow(equation.invars[0].aval)
        if not (inner or copies or name in MOVES):
            results = [variable.aval for variable in equation.outvars]
            yield from (str(aval.dtype) for aval in results if _is_narrow(aval))


def _is_narrow(aval: Any) -> bool:
    return jnp.issubdtype(aval.dtype, jnp.floating) and jnp.finfo(aval.dtype).bits < 64
