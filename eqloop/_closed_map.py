"""A function as a pytree of its arrays and a static program, hashed by what it computes."""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.core import ShapedArray, Tracer, eval_jaxpr
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var
from jaxtyping import PyTree


class ClosedMap(eqx.Module):
    """A function, such as `f(z, x)`, as a program and the arrays that it uses.

    The arrays that f holds, closes over or reads from a global name are the leaves of this pytree,
    however f is wrapped: they get gradients, and they have their values at the time of the call.
    The program is static and equal to that of any function that computes the same, so that
    `jax.jit` compiles it once.

    **Attributes:**

    - `arrays`: the arrays of f.
    - `returned`: what f returns, with shapes and dtypes instead of arrays.
    """

    arrays: list[Any]
    program: "_Program" = eqx.field(static=True)

    @property
    def returned(self) -> PyTree:
        return eqx.combine(self.program.struct, self.program.rest)

    def __call__(self, *arguments: PyTree) -> PyTree:
        leaves = jtu.tree_leaves(eqx.filter(arguments, eqx.is_array))
        values = eval_jaxpr(self.program.jaxpr, self.arrays, *leaves)
        arrays = jtu.tree_unflatten(jtu.tree_structure(self.program.struct), values)
        return eqx.combine(arrays, self.program.rest)


def close(f: Callable, *arguments: PyTree) -> ClosedMap:
    """Trace `f` for arguments of these shapes. Leaves that are not arrays become constants."""
    closed, struct, rest = eqx.filter_make_jaxpr(f)(*arguments)
    arrays = [as_array(array) for array in closed.consts]
    return ClosedMap(arrays, _Program(closed.jaxpr, struct, rest))


def as_array(leaf: Any) -> Any:
    """Turn a Python float into an array; return any other leaf unchanged.

    A float with respect to which JAX differentiates is a tracer that holds a float: `stop_gradient`
    would return that float, and filters do not count it among the arrays.
    """
    weak = isinstance(leaf, Tracer) and leaf.weak_type
    if isinstance(leaf, float) or (weak and jnp.issubdtype(leaf.dtype, jnp.inexact)):
        return jnp.asarray(leaf) * 1.0
    return leaf


class _Program:
    def __init__(self, jaxpr: Jaxpr, struct: PyTree[jax.ShapeDtypeStruct], rest: PyTree):
        self.jaxpr, self.struct, self.rest = jaxpr, struct, rest

    @functools.cached_property
    def key(self) -> Hashable:
        leaves, tree = jtu.tree_flatten(self.struct)
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        constants, rest_tree = jtu.tree_flatten(self.rest)
        return _key(self.jaxpr), tree, shapes, rest_tree, tuple(map(_key, constants))

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, _Program) and self.key == other.key)


class _Identity:
    """A key that equals only a key of the same object, which it keeps alive."""

    def __init__(self, value: Any):
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value


def _key(value: Any) -> Hashable:
    """A key that is equal for two parts of programs only if they compute the same.

    Variables are numbered, numbers are compared by their bits, and programs in the parameters of
    an operation part by part. Any other object, in particular a function, equals only itself.
    """
    if isinstance(value, Jaxpr):
        return _jaxpr_key(value)
    if isinstance(value, ClosedJaxpr):
        return "closed", _jaxpr_key(value.jaxpr), tuple(map(_key, value.consts))
    if isinstance(value, tuple | list):
        return type(value), tuple(map(_key, value))
    if isinstance(value, dict):
        return dict, tuple((_key(name), _key(value[name])) for name in value)
    if isinstance(value, float | complex | np.ndarray | np.generic):
        array = np.asarray(value)
        return type(value), array.dtype, array.shape, array.tobytes()
    if isinstance(value, bool | int | str | bytes | None | np.dtype | ShapedArray):
        return type(value), value
    return _Identity(value)


def _jaxpr_key(jaxpr: Jaxpr) -> Hashable:
    numbers: dict[Var, int] = {}

    def number(var: Var) -> Hashable:
        return numbers.setdefault(var, len(numbers)), _key(var.aval)

    def atom(atom: Any) -> Hashable:
        if isinstance(atom, Literal):
            return "literal", _key(atom.val), _key(atom.aval)
        return number(atom)

    inputs = tuple(number(var) for var in (*jaxpr.constvars, *jaxpr.invars))
    steps = tuple(
        (
            eqn.primitive,
            tuple(map(atom, eqn.invars)),
            _key(eqn.params),
            tuple(map(number, eqn.outvars)),
            eqn.ctx,
        )
        for eqn in jaxpr.eqns
    )
    return len(jaxpr.constvars), inputs, steps, tuple(map(atom, jaxpr.outvars))
