"""Whether what a function computes depends on its first argument, without computing it."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
from jax.extend.core import Jaxpr, Literal


def depends_on_first(f: Callable, *arguments: Any) -> bool:
    """Whether any array that `f(*arguments)` returns is computed from `arguments[0]`, an array.

    `f` is traced and not run: arrays may be given as `jax.ShapeDtypeStruct`. The values of a loop,
    a branch or a function with a derivative of its own count as computed from all that it is given.
    """
    jaxpr = eqx.filter_make_jaxpr(f)(*arguments)[0].jaxpr
    return any(_depend(jaxpr, [number == 0 for number in range(len(jaxpr.invars))]))


def _depend(jaxpr: Jaxpr, inputs: list[bool]) -> list[bool]:
    """Of each result, whether it is computed from the marked inputs."""
    marked = {var for var, is_marked in zip(jaxpr.invars, inputs, strict=True) if is_marked}

    def are_marked(atoms: Any) -> list[bool]:
        return [not isinstance(atom, Literal) and atom in marked for atom in atoms]

    for eqn in jaxpr.eqns:
        given = are_marked(eqn.invars)
        if not any(given):
            continue
        results = [True] * len(eqn.outvars)
        if eqn.primitive.name == "jit":  # takes all its arguments, and may use some of them
            results = _depend(eqn.params["jaxpr"].jaxpr, given)
        marked |= {var for var, is_marked in zip(eqn.outvars, results, strict=True) if is_marked}
    return are_marked(jaxpr.outvars)
