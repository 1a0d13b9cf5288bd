"""The backward pass: gradient norms, conditioning of I - J, and local stability."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._linear import solve_identity_minus
from .._norms import two_norm
from .._stability_report import Geometry, Summary
from ._closed import closed
from ._eigenvalues import Eigenvalues, leading_eigenvalues
from ._operators import Gram, InverseGram, state_jacobian
from ._orbits import Orbits, distance, iterate_to_tolerance
from ._reachability import band
from ._spectrum import jacobian_eigenvalues
from ._statistics import share, summary
from ._trees import head, inner, take
from ._work import Tick, silent

BACKWARD = 32
TERMS = (1, 2, 4, 8, 16)
PHANTOM = (4, 8)
DAMPING = 0.5
GRADIENTS = tuple(
    ["one-step" if k == 1 else f"neumann-{k}" for k in TERMS] + [f"phantom-{k}" for k in PHANTOM]
)
PUSH = 1e-2
PUSHED_STEPS = 8

Loss = Callable[[Any, Any], Array]


def geometry(
    orbits: Orbits,
    *,
    key: PRNGKeyArray,
    loss: Loss | None = None,
    targets: PyTree = None,
    leading: Eigenvalues | None = None,
    tick: Tick = silent,
) -> Geometry:
    """Measure how a gradient at the end of each loop propagates backwards.

    `|dL/dz_t|` is measured over the first 32 iterations from the start. Everything else is measured
    at the fixed points of the examples that converged: the cotangent `u = (I - J)^-T g` of the
    implicit gradient, compared with `sum_{k < K} (J^T)^k g` of the Neumann series (at a fixed point
    also of back-propagation through K iterations) and with the damped sum of the phantom gradient;
    the singular values of `I - J`; and a perturbation of 1 % of the state along the leading
    eigenvector of J, which decays if and only if the eigenvalue lies inside the unit circle.

    **Arguments:**

    - `orbits`: from `follow_orbits`.
    - `key`: a random key.
    - `loss`: a function of one state and its target, with a scalar value; by default a random
        linear function of the state.
    - `targets`: a pytree of arrays, stacked along a first axis of examples.
    - `leading`: from `jacobian_eigenvalues`; computed here by default.
    - `tick`: called with the name of each stage that is done (see `planned`).

    **Returns:**

    The `Geometry`.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> f, start = lambda z, x: 0.5 * jnp.tanh(z) + x, lambda x: 0 * x
    >>> xs = jr.normal(jr.key(0), (4, 2))
    >>> orbits = eqloop.stability.follow_orbits(f, start, xs, iterations=32)
    >>> part = eqloop.stability.geometry(orbits, key=jr.key(1))
    >>> print(part.returned.share, part.solved.share, part.condition.median < 2)
    1.0 1.0 True

    ```
    """
    loss_key, eigen_key, *sigma_keys = jr.split(key, 4)
    if leading is None:
        leading = jacobian_eigenvalues(orbits, key=eigen_key)
    keys = jr.split(loss_key, len(orbits))
    if loss is None:
        loss = inner
        targets = _random(orbits.z0s, keys)
    else:
        loss = closed(loss, *head((orbits.z0s, targets)))
    backward = min(BACKWARD, orbits.iterations)
    norms = _backward(orbits.f, loss, orbits.z0s, orbits.xs, targets, backward)
    home = np.flatnonzero(orbits.converged)
    local = _at_fixed_points(
        orbits.take(home), take(targets, home), loss, leading.take(home), sigma_keys, tick
    )
    tick("return to the fixed points")

    def spread(values: np.ndarray) -> Summary:
        """Summarise over all examples; those without a fixed point are NaN."""
        all_values = np.full(len(orbits), math.nan)
        all_values[home] = values
        return summary(all_values)

    return Geometry(
        iterations=list(range(norms.shape[1])),
        gradient_norm=band(np.asarray(norms, np.float64)),
        cosines={name: spread(local.cosines[name]) for name in GRADIENTS},
        ratios={name: spread(local.ratios[name]) for name in GRADIENTS},
        sigma_min=spread(local.sigma_min),
        sigma_max=spread(local.sigma_max),
        condition=spread(local.sigma_max / local.sigma_min),
        products=spread(local.products),
        solved=share(local.solved),
        return_factor=spread(local.factor),
        return_predicted=spread(local.modulus),
        returned=share(local.returned[np.isfinite(local.factor)]),
    )


@dataclasses.dataclass(frozen=True)
class _LocalGeometry:
    """One number per fixed point; see `Geometry`."""

    cosines: dict[str, np.ndarray]
    ratios: dict[str, np.ndarray]
    products: np.ndarray
    solved: np.ndarray
    sigma_min: np.ndarray
    sigma_max: np.ndarray
    factor: np.ndarray
    modulus: np.ndarray
    returned: np.ndarray


def _at_fixed_points(
    home: Orbits,
    targets: PyTree,
    loss: Loss,
    leading: Eigenvalues,
    keys: Sequence[PRNGKeyArray],
    tick: Tick,
) -> _LocalGeometry:
    if not len(home):
        tick("gradients")
        tick("conditioning")
        empty, empties = np.zeros(0), dict.fromkeys(GRADIENTS, np.zeros(0))
        return _LocalGeometry(
            empties, empties, empty, empty > 0, empty, empty, empty, empty, empty > 0
        )
    f, state, xs = home.f, home.state, home.xs
    rtol = max(1e-6, 100 * home.eps)
    likeness, products, solved = _cotangents(f, loss, state, xs, targets, rtol)
    solved = np.asarray(solved)
    tick("gradients")
    largest = leading_eigenvalues(Gram(f, minus=True), state, xs, key=keys[0], count=1, memory=12)
    smallest = leading_eigenvalues(
        InverseGram(f, rtol), state, xs, key=keys[1], count=1, memory=10, cycles=2
    )
    tick("conditioning")
    factor, returned = return_test(home, leading)
    return _LocalGeometry(
        cosines={name: np.where(solved, c, math.nan) for name, (c, _) in likeness.items()},
        ratios={name: np.where(solved, r, math.nan) for name, (_, r) in likeness.items()},
        products=np.asarray(products, np.float64),
        solved=solved,
        sigma_min=1 / np.sqrt(_first(smallest)),
        # An eigenvalue that is zero may be found below it; one of an inverse may not.
        sigma_max=np.sqrt(np.maximum(0, _first(largest))),
        factor=factor,
        modulus=np.where(np.isfinite(factor), np.abs(leading.values[:, 0]), math.nan),
        returned=returned,
    )


def _first(eigenvalues: Eigenvalues) -> Float[np.ndarray, " examples"]:
    """The largest of each, where it has converged."""
    return np.where(eigenvalues.converged[:, 0], np.real(eigenvalues.values[:, 0]), math.nan)


def return_test(
    orbits: Orbits, leading: Eigenvalues
) -> tuple[Float[np.ndarray, " examples"], np.ndarray]:
    """Push each fixed point along the leading eigenvector of J and iterate.

    The push is 1 % of the norm of the state, along the real and along the imaginary part of the
    eigenvector; the growth is that of both together, per iteration, over 8 iterations. A loop has
    returned if it covers at least half of the way back within its iterations, after the push along
    the real part.

    **Arguments:**

    - `orbits`: from `follow_orbits`.
    - `leading`: from `jacobian_eigenvalues`.

    **Returns:**

    The growth, NaN where the loop or the eigenvector did not converge; and a mask of the loops that
    returned. Both have shape `(examples,)`. A growth below about 0.2 is not resolved in float32:
    within 8 iterations the push becomes smaller than the rounding of the state.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> f, start = lambda z, x: 0.5 * jnp.tanh(z) + x, lambda x: 0 * x
    >>> xs = jr.normal(jr.key(0), (4, 2))
    >>> orbits = eqloop.stability.follow_orbits(f, start, xs, iterations=32)
    >>> leading = eqloop.stability.jacobian_eigenvalues(orbits, key=jr.key(1))
    >>> growth, returned = eqloop.stability.return_test(orbits, leading)
    >>> print(growth.round(2), abs(leading.values[:, 0]).round(2), returned.mean())
    [0. 0.49 0.45 0.27] [0.03 0.49 0.45 0.27] 1.0

    ```
    """
    real, imaginary = (jnp.asarray(part(leading.vectors)) for part in (np.real, np.imag))
    growth, pushed = _push_along(orbits.f, orbits.state, orbits.xs, real, imaginary)
    known = orbits.converged & leading.converged[:, 0]
    factor = np.where(known, np.asarray(growth, np.float64), math.nan)
    # To the smallest residual: right after a small push, a larger tolerance is already met.
    end, _ = iterate_to_tolerance(
        orbits.f, pushed, orbits.xs, rtol=orbits.min_residual, max_steps=orbits.iterations
    )
    return factor, distance(end, orbits.state) <= distance(pushed, orbits.state) / 2


@eqx.filter_jit
def _random(zs: PyTree, keys: PRNGKeyArray) -> PyTree:
    def one(z, key):
        flat, unravel = ravel_pytree(z)
        return unravel(jr.normal(key, flat.shape, flat.dtype))

    return jax.vmap(one)(zs, keys)


@eqx.filter_jit
def _backward(
    f, loss: Loss, z0s: PyTree, xs: PyTree, targets: PyTree, steps: int
) -> Float[Array, "examples iterations"]:
    """`|dL/dz_t| / |dL/dz_T|` for t = 0 ... T."""

    def one(f, z0, x, target):
        last, states = jax.lax.scan(lambda z, _: (f(z, x), z), z0, length=steps)
        g = jax.grad(loss)(last, target)

        def back(g, z):
            g = jax.vjp(lambda z: f(z, x), z)[1](g)[0]
            return g, two_norm(g)

        norms = jax.lax.scan(back, g, states, reverse=True)[1]
        return jnp.append(norms, two_norm(g)) / two_norm(g)

    return eqx.filter_vmap(one, in_axes=(None, 0, 0, 0))(f, z0s, xs, targets)


@eqx.filter_jit
def _cotangents(f, loss: Loss, states: PyTree, xs: PyTree, targets: PyTree, rtol: float):
    """Cosine and quotient of norms of each gradient's cotangent to the implicit one; products
    and success of the solve for that one."""

    def one(f, z, x, target):
        g, unravel = ravel_pytree(jax.grad(loss)(z, target))
        transposed = state_jacobian(f, z, x).T.mv

        def product(v):
            return ravel_pytree(transposed(unravel(v)))[0]

        solution = solve_identity_minus(product, g, rtol=rtol, restart=20, cycles=10)
        truth = solution.u

        def like(u):
            sizes = jnp.linalg.norm(u), jnp.linalg.norm(truth)
            return u @ truth / (sizes[0] * sizes[1]), sizes[0] / sizes[1]

        def series(product, terms, scale):
            """The partial sums `scale sum_{k < K} A^k g` for each K of `terms`."""

            def body(carry, _):
                power, total = carry
                total = total + power
                return (product(power), total), total

            sums = jax.lax.scan(body, (scale * g, jnp.zeros_like(g)), length=max(terms))[1]
            return [sums[k - 1] for k in terms]

        damped = lambda v: (1 - DAMPING) * product(v) + DAMPING * v  # noqa: E731
        sums = series(product, TERMS, 1.0) + series(damped, PHANTOM, 1 - DAMPING)
        likeness = {name: like(u) for name, u in zip(GRADIENTS, sums, strict=True)}
        return likeness, solution.products, solution.solved

    return eqx.filter_vmap(one, in_axes=(None, 0, 0, 0))(f, states, xs, targets)


@eqx.filter_jit
def _push_along(
    f, states: PyTree, xs: PyTree, real: Float[Array, "n size"], imaginary: Float[Array, "n size"]
) -> tuple[Float[Array, " n"], PyTree]:
    def one(f, z, x, real, imaginary):
        flat, unravel = ravel_pytree(z)
        size = jnp.linalg.norm(flat)
        size = PUSH * jnp.where(size > 0, size, 1)
        directions = size * jnp.stack([real, imaginary]).astype(flat.dtype)

        def run(v):
            end = jax.lax.fori_loop(0, PUSHED_STEPS, lambda _, z: f(z, x), unravel(flat + v))
            return ravel_pytree(end)[0]

        # Against where the state itself goes: it need not be a fixed point to the last digit.
        moved = jax.vmap(run)(directions) - run(jnp.zeros_like(flat))[None]
        growth = jnp.linalg.norm(moved) / jnp.linalg.norm(directions)
        return growth ** (1 / PUSHED_STEPS), unravel(flat + directions[0])

    return eqx.filter_vmap(one, in_axes=(None, 0, 0, 0, 0))(f, states, xs, real, imaginary)
