"""Plain iteration `z <- f(z, x)`, with and without a gradient."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Int, PyTree

from ._remat import Keep, rematerialised

Z = TypeVar("Z", bound=PyTree)
Map = Callable[[Any, Any], Any]
Count = int | Int[Array, ""]


def stop_gradient(tree: Z) -> Z:
    """`jax.lax.stop_gradient` on the arrays of any pytree."""
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.lax.stop_gradient(arrays), rest)


@jax.custom_jvp
def with_derivatives_of(state: PyTree[Array], value: PyTree[Array]) -> PyTree[Array]:
    """`value`, with the derivatives of `state`, to any order and in both modes."""
    del state
    return value


@with_derivatives_of.defjvp
def _(primals: tuple[PyTree, PyTree], tangents: tuple[PyTree, PyTree]):
    return with_derivatives_of(*primals), tangents[0]


def python_int(steps: Any) -> Any:
    """A whole number of NumPy as one of Python, which a program is compiled for; all else as it
    is."""
    whole = isinstance(steps, np.ndarray | np.generic) and np.issubdtype(steps.dtype, np.integer)
    return int(steps) if whole and steps.ndim == 0 else steps


def clamp(steps: Count, least: int, most: Count | None = None) -> Count:
    """A number of steps; where it or its bound is traced, so that nothing can be raised, the
    nearest one from `least` to `most`."""
    if isinstance(steps, int) and (most is None or isinstance(most, int)):
        return steps
    steps = jnp.maximum(steps, least)
    return steps if most is None else jnp.minimum(steps, most)


def advance(f: Map, z: Z, x: PyTree, steps: Count) -> Z:
    """`steps` iterations that no gradient passes through; `steps` may be traced."""
    f, z, x = stop_gradient((f, z, x))
    return jax.lax.fori_loop(0, steps, lambda _, z: f(z, x), z)


def unroll(
    f: Map,
    z: Z,
    x: PyTree,
    steps: Count,
    bound: int | None = None,
    keep: Keep = "marked",
    checkpoints: int | None = None,
) -> tuple[Z, Z]:
    """`steps` iterations that can be back-propagated through: the last two iterates `(z', f(z'))`.

    Each iteration is rematerialised: the forward pass keeps the state and what f marks (see
    `rematerialised`), and the backward pass evaluates the rest of f once more: close to 4
    evaluations' worth of work per iteration instead of 3, and on a CPU hardly more time, for
    want of memory traffic.

    A traced `steps` needs a static `bound`. The loop then has `bound` slots, and the slots past
    `steps` are skipped at run time, forwards and backwards, not computed and masked: an empty
    slot costs a copy of the state and, backwards, an addition of zeros to the weights' gradient.
    So one program serves every count up to the bound.

    With `checkpoints` the slots are cut into so many stretches, of which only the first states
    are kept: memory falls to that of `checkpoints` states and of one stretch, for one more
    evaluation of f per iteration.
    """
    evaluate = rematerialised(lambda z: f(z, x), keep)

    def body(carry, slot):
        _, z = carry
        previous = jax.lax.stop_gradient(z)
        if isinstance(steps, int):
            return (previous, evaluate(z)), None
        before = jtu.tree_map(lambda a, b: jnp.where(slot < steps, a, b), previous, carry[0])
        return (before, jax.lax.cond(slot < steps, evaluate, lambda z: z, z)), None

    if isinstance(steps, int):
        bound = steps
    if bound is None:
        raise ValueError("a traced number of steps needs a static bound: max_steps=...")
    carry, slots = (jax.lax.stop_gradient(z), z), jnp.arange(bound)
    if checkpoints is not None and 1 <= checkpoints < bound:

        def stretch(carry, slots):
            return jax.lax.scan(body, carry, slots)[0], None

        length = bound // checkpoints
        whole = slots[: length * checkpoints].reshape(checkpoints, length)
        carry, _ = jax.lax.scan(jax.checkpoint(stretch, prevent_cse=False), carry, whole)
        slots = slots[length * checkpoints :]
    return jax.lax.scan(body, carry, slots)[0]


def trajectory(f: Map, z0: Z, x: PyTree, steps: int) -> Z:
    """All iterates `z_1 ... z_steps`, stacked along a new first axis.

    Differentiable, each iteration rematerialised: the states, and what f marks, are kept.
    """
    evaluate = rematerialised(lambda z: f(z, x))

    def body(z, _):
        z = evaluate(z)
        return z, z

    return jax.lax.scan(body, z0, length=steps)[1]
