"""A function with the arrays that it closes over as leaves, so that no program keeps old ones."""

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
    """What a function computes, apart from the arrays that it closes over. Compared by identity:
    `_known` holds one for each text."""

    def __init__(self, jaxpr: Any, result: Any):
        self.jaxpr, self.result = jaxpr, result


_known: dict[tuple[Any, ...], _Code] = {}


class Closed(eqx.Module):
    """`f` of `closed`: the same values and derivatives, for arguments of the same shapes."""

    code: _Code = eqx.field(static=True)
    arrays: list[Array]

    def __call__(self, *arguments: PyTree) -> PyTree:
        leaves = jtu.tree_leaves(arguments)
        program = jax_core.ClosedJaxpr(self.code.jaxpr, self.arrays)
        values = jax_core.jaxpr_as_fun(program)(*leaves)
        return jtu.tree_unflatten(self.code.result, values)


def closed(f: Callable, *arguments: PyTree, derivative: bool = True) -> Callable:
    """`f` with the arrays that it holds or closes over *now*: those of an Equinox module, variables
    and attributes of a function or an object, modules of other libraries that are trained in place.

    `jax.jit` keys its programs by the function, whose closure becomes constants: called again after
    training, a program of f itself would compute with the weights of the first call. Here they are
    arguments. Functions of the same code (by the text of the lowered program of value and
    derivative, which tells apart what JAX prints alike: arrays inside an inner `jit`, custom rules)
    share programs, so that a new function with other weights compiles nothing. An Equinox module
    that holds no function has no closure and is returned as it is.

    **Arguments:**

    - `arguments`: of one example; only shapes and dtypes count.
    - `derivative`: whether f is going to be differentiated.
    """
    call: Any = f
    if isinstance(f, eqx.Module) and not any(map(callable, jtu.tree_leaves(f))):
        return call
    shapes = jax.eval_shape(lambda: arguments)
    # A new function for each call, or JAX answers with what it traced f to before.
    jaxpr, value = jax.make_jaxpr(lambda *each: call(*each), return_shape=True)(*shapes)
    arrays = [jnp.asarray(c) if isinstance(c, np.ndarray) else c for c in jaxpr.consts]
    code = _Code(jaxpr.jaxpr, jtu.tree_structure(value))

    def program(arrays, arguments):
        floats, rest = eqx.partition(arguments, eqx.is_inexact_array)
        value = lambda floats: Closed(code, arrays)(*eqx.combine(floats, rest))  # noqa: E731
        return jax.jvp(value, (floats,), (floats,)) if derivative else value(floats)

    # Unused arguments keep their places, by which the arrays of another call are put in.
    text = jax.jit(program, keep_unused=True).lower(arrays, shapes).as_text()
    digest = hashlib.sha256(text.encode()).digest()
    key = (digest, code.result, jtu.tree_structure(arguments))
    return Closed(_known.setdefault(key, code), arrays)
