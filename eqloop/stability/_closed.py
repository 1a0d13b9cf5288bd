"""A function with the arrays that it closes over as leaves, so that compiled programs take them as
arguments."""

import hashlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.extend.core as jax_core
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, PyTree


class _Code:
    """The program of a function, without the arrays that it closes over. Compared by identity:
    `_known` holds one per program text."""

    def __init__(self, jaxpr: Any, result: Any):
        self.jaxpr, self.result = jaxpr, result


_known: dict[tuple[Any, ...], _Code] = {}


class Closed(eqx.Module):
    """A function made by `closed`: value and derivatives of f, for arguments of these shapes."""

    code: _Code = eqx.field(static=True)
    arrays: list[Array]

    def __call__(self, *arguments: PyTree) -> PyTree:
        leaves = jtu.tree_leaves(arguments)
        program = jax_core.ClosedJaxpr(self.code.jaxpr, self.arrays)
        values = jax_core.jaxpr_as_fun(program)(*leaves)
        return jtu.tree_unflatten(self.code.result, values)


def closed(f: Callable, *arguments: PyTree, derivative: bool = True) -> Callable:
    """Return `f` with the *current* arrays that it holds or closes over: those of an Equinox
    module, variables and attributes of a function or an object, modules of other libraries that
    are trained in place.

    `jax.jit` keys its programs by the function, whose closure becomes constants: after training,
    a program of f itself would still use the weights of the first call. Here they are arguments.
    Functions whose lowered programs of value and derivative have the same text share compiled
    programs, so that a new function with other weights does not recompile. (The lowered text
    distinguishes functions that JAX prints alike: arrays inside an inner `jit`, custom rules.) An
    Equinox module that holds no function has no closure and is returned unchanged.

    **Arguments:**

    - `f`: any function.
    - `arguments`: the arguments for one example; only shapes and dtypes are used.
    - `derivative`: whether f will be differentiated.
    """
    call: Any = f
    if isinstance(f, eqx.Module) and not any(map(callable, jtu.tree_leaves(f))):
        return call
    shapes = jax.eval_shape(lambda: arguments)
    # A new function for each call: JAX caches the trace of f itself, with its old arrays.
    jaxpr, value = jax.make_jaxpr(lambda *args: call(*args), return_shape=True)(*shapes)
    arrays = [jnp.asarray(c) if isinstance(c, np.ndarray) else c for c in jaxpr.consts]
    code = _Code(jaxpr.jaxpr, jtu.tree_structure(value))

    def program(arrays, arguments):
        floats, rest = eqx.partition(arguments, eqx.is_inexact_array)
        value = lambda floats: Closed(code, arrays)(*eqx.combine(floats, rest))  # noqa: E731
        return jax.jvp(value, (floats,), (floats,)) if derivative else value(floats)

    # Keep unused arguments: the arrays of a later call are passed by position.
    text = jax.jit(program, keep_unused=True).lower(arrays, shapes).as_text()
    digest = hashlib.sha256(text.encode()).digest()
    key = (digest, code.result, jtu.tree_structure(arguments))
    return Closed(_known.setdefault(key, code), arrays)
