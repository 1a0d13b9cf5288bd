"""Plain iteration `z <- f(z, x)`, with and without a gradient."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from ._remat import Keep, rematerialised

Z = TypeVar("Z", bound=PyTree)
X = TypeVar("X", bound=PyTree)
Map = Callable[[Any, Any], Any]
Count = int | Int[Array, ""]
Scalar = float | Float[Array, ""] | Float[np.ndarray, "*batch"]
"""A number that may be traced, or stacked over a batch."""


def stop_gradient(tree: Z) -> Z:
    """`jax.lax.stop_gradient` on the arrays of any pytree."""
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.lax.stop_gradient(arrays), rest)


@jax.custom_jvp
def with_derivatives_of(state: PyTree[Array], value: PyTree[Array]) -> PyTree[Array]:
    """`value`, with the derivatives of `state`, of any order and in both modes."""
    del state
    return value


@with_derivatives_of.defjvp
def _(primals: tuple[PyTree, PyTree], tangents: tuple[PyTree, PyTree]):
    return with_derivatives_of(*primals), tangents[0]


def python_int(steps: Any) -> Any:
    """Field converter: turn a NumPy integer into a Python integer, which is static; return any
    other value unchanged."""
    is_integer = isinstance(steps, np.ndarray | np.generic) and np.issubdtype(
        steps.dtype, np.integer
    )
    return int(steps) if is_integer and steps.ndim == 0 else steps


def clamp(steps: Count, least: int, most: Count | None = None) -> Count:
    """Clamp `steps` to `[least, most]`. Only traced values are clamped; Python ints have already
    been validated."""
    if isinstance(steps, int) and (most is None or isinstance(most, int)):
        return steps
    steps = jnp.maximum(steps, least)
    return steps if most is None else jnp.minimum(steps, most)


class Iteration(eqx.Module):
    """The number of an iteration, as a part of the input x of a map that depends on it.

    Plain iterations of an `Unroll` increase it from one to the next (see `later`). Any other
    solver needs a map that stays the same, and reads the number of the first iteration throughout.

    **Attributes:**

    - `number`: the number.
    - `runs`: whether it increases.
    """

    number: Int[Array, ""]
    runs: bool = eqx.field(static=True, default=True)


def _at_iterations(change: Callable[[Iteration], Iteration], x: PyTree) -> PyTree:
    def is_iteration(node: Any) -> bool:
        return isinstance(node, Iteration)

    return jtu.tree_map(
        lambda node: change(node) if is_iteration(node) else node, x, is_leaf=is_iteration
    )


def later(x: X, steps: Count) -> X:
    """The input x after `steps` more iterations: x itself, unless it has an `Iteration`."""

    def change(at: Iteration) -> Iteration:
        number = at.number + jnp.asarray(steps, at.number.dtype)
        return Iteration(number) if at.runs else at

    return _at_iterations(change, x)


def halted(x: X) -> X:
    """The input x, whose iterations keep their number from now on."""
    return _at_iterations(lambda at: Iteration(at.number, runs=False), x)


def advance(f: Map, z: Z, x: PyTree, steps: Count) -> Z:
    """Make `steps` iterations without a gradient; `steps` may be traced."""
    f, z, x = stop_gradient((f, z, x))
    return jax.lax.fori_loop(0, steps, lambda i, z: f(z, later(x, i)), z)


def unroll(
    f: Map,
    z: Z,
    x: PyTree,
    steps: Count,
    bound: int | None = None,
    keep: Keep = "marked",
    checkpoints: int | None = None,
) -> tuple[Z, Z]:
    """Make `steps` differentiable iterations and return the last two iterates, `(z', f(z'))`.

    Each of several iterations is rematerialised: the forward pass stores the state and the values
    that f marks (see `rematerialised`), and the backward pass recomputes the rest of f. This costs
    about 4 evaluations per iteration instead of 3, but is barely slower on CPU because it moves
    less memory. A single iteration is not: the backward pass begins with it, so that what is
    recomputed would lie in memory at the same time as what is stored.

    A traced `steps` needs a static `bound`. The loop then has `bound` slots, and slots past
    `steps` are skipped at run time in both passes, instead of being computed and masked: an empty
    slot costs a copy of the state and, in the backward pass, an addition of zeros to the weights'
    gradient. One program therefore serves every count up to the bound.

    With `checkpoints=n` the iterations are split into n segments, and only the state at the start
    of each is stored: memory falls to n states plus one segment, at the cost of one more
    evaluation of f per iteration.

    **Arguments:**

    - `f`: the map, of a state and an input.
    - `z`: the initial state; no gradient passes through it.
    - `x`: the input.
    - `steps`: number of iterations, an integer or a traced integer scalar.
    - `bound`: static upper bound on a traced `steps`.
    - `keep`: see `rematerialised`.
    - `checkpoints`: number of segments; by default every state is stored.

    **Raises** `ValueError` for a traced `steps` without a bound.
    """

    def body(carry, slot):
        def evaluate(z):
            return f(z, later(x, slot))

        if bound != 1:
            evaluate = rematerialised(evaluate, keep)
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

        def segment(carry, slots):
            return jax.lax.scan(body, carry, slots)[0], None

        length = bound // checkpoints
        segments = slots[: length * checkpoints].reshape(checkpoints, length)
        carry, _ = jax.lax.scan(jax.checkpoint(segment, prevent_cse=False), carry, segments)
        slots = slots[length * checkpoints :]
    return jax.lax.scan(body, carry, slots)[0]


def trajectory(f: Map, z0: Z, x: PyTree, steps: int, keep: Keep = "marked") -> Z:
    """Return all iterates `z_1 ... z_steps`, stacked along a new first axis.

    Differentiable; each iteration is rematerialised: with `keep="marked"` the states and the values
    that f marks are stored.

    **Arguments:**

    - `f`: the map, of a state and an input.
    - `z0`: the initial state, a pytree of arrays; it is not among the iterates returned.
    - `x`: the input, a pytree.
    - `steps`: number of iterations, a Python integer; with 0 the axis of iterates is empty.
    - `keep`: what is stored for the backward pass, see `Backprop`.

    **Returns:**

    A pytree like `z0` whose leaves have a first axis of length `steps`.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> print(eqloop.trajectory(lambda z, x: 0.5 * z + x, jnp.zeros(()), jnp.ones(()), 3))
    [1.   1.5  1.75]

    ```
    """

    def body(z, i):
        z = rematerialised(lambda z: f(z, later(x, i)), keep)(z)
        return z, z

    return jax.lax.scan(body, z0, jnp.arange(steps))[1]
