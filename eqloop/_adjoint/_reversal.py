"""The gradient of a `Reversible`, whose earlier states are computed from its last ones."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, Int, PyTree

from .._iteration import stop_gradient
from .._norms import two_norm
from .._precision import steps_backwards
from .._solution import BackwardReport
from .._solver import ForwardResult, Reversible, forward_result, iterate_watched
from ._follow import Tail


class _States(NamedTuple):
    y: PyTree
    z: PyTree


class _Record(NamedTuple):
    """What the forward pass stores: the states at the best iterate, the number of steps that led to
    it, and the states after every `stride` steps, stacked."""

    last: _States
    steps: Int[Array, "*batch"]
    checkpoints: _States


def solve_reversibly(
    f: Any,
    z0: PyTree,
    x: PyTree,
    solver: Reversible,
    *,
    max_steps: int,
    probe: BackwardReport | None,
) -> tuple[ForwardResult, PyTree]:
    """Run the solver. Returns where it stopped, and that state with its gradient with respect to
    the arrays of f and x and to z0.

    The backward pass reports as `residual` the largest relative difference of the states that it
    computes from those that were stored.

    **Raises** `ValueError` if not even one step can be computed backwards.
    """
    eps = float(jnp.finfo(two_norm(z0).dtype).eps)
    stride = min(steps_backwards(solver.mix, eps), max_steps)
    if stride < 1:
        raise ValueError(
            f"Backprop: Reversible(mix={solver.mix}) amplifies rounding too much to be computed "
            f"backwards: mix must be at most {1 - eps**0.25:.3f} here"
        )
    record, forward = _forward(*stop_gradient((f, z0, x)), solver, max_steps, stride)
    arrays, static = eqx.partition((f, x), eqx.is_array)
    leaves, structure = jtu.tree_flatten(arrays)

    def evaluate(leaves, z):
        f, x = eqx.combine(jtu.tree_unflatten(structure, leaves), static)
        return f(z, x)

    inexact = [eqx.is_inexact_array(leaf) for leaf in leaves]
    return forward, _last_state(leaves, z0, probe, record, _Loop(evaluate, inexact, solver, stride))


def _forward(f, z0, x, solver, max_steps, stride) -> tuple[_Record, ForwardResult]:
    def evaluate(z):
        return f(z, x)

    begin = solver.begin(evaluate, z0)
    count = -(-max_steps // stride)
    store = jtu.tree_map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), (z0, z0))

    def watch(seen, z, before, after):
        tail, store = seen
        place = before.count // stride

        def put(store):
            here = _States(before.state, z)
            return jtu.tree_map(lambda leaf, new: leaf.at[place].set(new), store, here)

        store = jax.lax.cond(before.count % stride == 0, put, lambda store: store, store)
        return tail.watch(z, before, after), store

    seen = (Tail.begin(z0, begin, 0), _States(*store))
    _, solve, (tail, store) = iterate_watched(
        evaluate, solver, z0, seen, watch, max_steps=max_steps
    )
    origin = tail.origin
    record = _Record(_States(origin.state, origin.z), origin.steps, store)
    return stop_gradient((record, forward_result(solver, solve)))


class _Loop(NamedTuple):
    """The static part. `evaluate` takes the arrays of f and x, of which those that are `inexact`
    have gradients, and a state, or a batch of them."""

    evaluate: Callable[[Sequence[Array], PyTree], PyTree]
    inexact: Sequence[bool]
    solver: Reversible
    stride: int


def _last_state(leaves, z0, probe, record: _Record, loop: _Loop) -> PyTree:
    @jax.custom_vjp
    def last_state(leaves, z0, probe, record):
        del leaves, z0, probe
        return record.last.z

    def forwards(leaves, z0, probe, record):
        return record.last.z, (leaves, probe, record)

    def backwards(residuals, cotangent):
        leaves, probe, record = _differentiated_once(residuals)
        gradients, start, drift = _reverse(loop, leaves, record, cotangent)
        iterator = iter(gradients)
        of_leaves = [next(iterator) if inexact else None for inexact in loop.inexact]
        report = BackwardReport.of(residual=drift)
        if probe is not None:
            probe = jtu.tree_map(lambda a, b: b.astype(a.dtype), probe, report)
        return of_leaves, start, probe, None

    last_state.defvjp(forwards, backwards)
    return last_state(leaves, z0, probe, record)


@jax.custom_jvp
def _differentiated_once(tree: PyTree) -> PyTree:
    return tree


@_differentiated_once.defjvp
def _(primals, tangents):
    raise ValueError(
        "Backprop through Reversible has first derivatives only: use Backprop with Unroll or "
        "FixedPoint for second ones"
    )


def _reverse(
    loop: _Loop, leaves: list[Array], record: _Record, cotangent: PyTree
) -> tuple[list[Array], PyTree, Float[Array, "*batch"]]:
    """The gradients of the inexact leaves and of z0, and the drift.

    Under `vmap` the loop runs once for the whole batch, and adds up the gradient of what its
    examples share. A batch of loops would have one such gradient for each of them.
    """

    @jax.custom_batching.custom_vmap
    def reverse(leaves, record, cotangent):
        return _reverse_loop(loop, leaves, record, cotangent)

    @reverse.def_vmap
    def _(size, is_batched, leaves, record, cotangent):
        axes, *others = is_batched

        def spread(leaf, is_batched):
            return leaf if is_batched else jnp.broadcast_to(leaf, (size, *leaf.shape))

        record, cotangent = jtu.tree_map(spread, (record, cotangent), tuple(others))
        in_axes = ([0 if is_batched else None for is_batched in axes], 0)
        many = loop._replace(evaluate=jax.vmap(loop.evaluate, in_axes=in_axes))
        result = _reverse(many, leaves, record, cotangent)
        of_leaves = [a for a, inexact in zip(axes, loop.inexact, strict=True) if inexact]
        others = jtu.tree_map(lambda _: True, result[1:])
        return result, (of_leaves, *others)

    return reverse(leaves, record, cotangent)


def _reverse_loop(loop: _Loop, leaves, record: _Record, cotangent):
    """From the last step to the first, with the steps of all examples of a batch counted from their
    start, so that they come to a checkpoint together."""
    solver, batch = loop.solver, record.steps.ndim

    def where(condition, a, b):
        def one(a, b):
            return jnp.where(jnp.expand_dims(condition, range(batch, a.ndim)), a, b)

        return jtu.tree_map(one, a, b)

    norm = two_norm
    for _ in range(batch):
        norm = jax.vmap(norm)

    inexact = [leaf for leaf, keep in zip(leaves, loop.inexact, strict=True) if keep]

    def evaluate(inexact, z):
        iterator = iter(inexact)
        merged = [
            next(iterator) if keep else leaf
            for leaf, keep in zip(leaves, loop.inexact, strict=True)
        ]
        return loop.evaluate(merged, z)

    def half_step(new, at, new_cotangent, at_cotangent, gradients, live):
        """Undo `new = (1 - b) old + b f(at)`: the old state, the cotangents of it and of `at`."""
        value, pull = jax.vjp(evaluate, inexact, at)
        scaled = jtu.tree_map(lambda a: solver.mix * a, new_cotangent)
        further, of_at = pull(where(live, scaled, jtu.tree_map(jnp.zeros_like, scaled)))
        return (
            solver.unblend(new, value),
            jtu.tree_map(lambda a: (1 - solver.mix) * a, new_cotangent),
            jtu.tree_map(jnp.add, at_cotangent, of_at),
            jtu.tree_map(jnp.add, gradients, further),
        )

    def body(carry):
        step, states, cotangents, gradients, drift = carry
        live = step <= record.steps
        z, z_bar, y_bar, gradients = half_step(
            states.z, states.y, cotangents.z, cotangents.y, gradients, live
        )
        y, y_bar, z_bar, gradients = half_step(states.y, z, y_bar, z_bar, gradients, live)
        states = where(live, _States(y, z), states)
        cotangents = where(live, _States(y_bar, z_bar), cotangents)

        def compare(states, drift):
            """Go on from what was stored, and say how far off the states were."""
            stored = jtu.tree_map(
                lambda leaf: jnp.take(leaf, (step - 1) // loop.stride, axis=batch),
                record.checkpoints,
            )
            size = norm(stored)
            off = norm(jtu.tree_map(jnp.subtract, states, stored)) / jnp.where(size > 0, size, 1)
            return where(live, stored, states), jnp.where(live, jnp.maximum(off, drift), drift)

        at_checkpoint = (step - 1) % loop.stride == 0
        states, drift = jax.lax.cond(
            at_checkpoint, compare, lambda states, drift: (states, drift), states, drift
        )
        return step - 1, states, cotangents, gradients, drift

    zeros = jtu.tree_map(jnp.zeros_like, cotangent)
    start = (
        jnp.max(record.steps),
        record.last,
        _States(zeros, cotangent),
        jtu.tree_map(jnp.zeros_like, inexact),
        jnp.zeros_like(norm(record.last)),
    )
    _, _, cotangents, gradients, drift = jax.lax.while_loop(lambda c: c[0] > 0, body, start)
    of_z0 = jtu.tree_map(jnp.add, cotangents.y, cotangents.z)
    return gradients, of_z0, drift
