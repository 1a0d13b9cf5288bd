"""Maps whose limits, spectra and basins are known, for the tests of `eqloop.stability`.

Coefficients are leaves or inputs, so that one compiled program serves many maps.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg


def by_matrix(z, x):
    """`A z + b`, where the matrix is part of the input, so that a batch has different spectra."""
    return x["a"] @ z + x["b"]


class Affine(eqx.Module):
    """`A z + B x`."""

    a: jax.Array
    b: jax.Array

    def __call__(self, z, x):
        return self.a @ z + self.b @ x


def polynomial(z, x):
    """`sum_k x[k] z^k`, applied to every number of the state."""
    total = jnp.zeros_like(z)
    for c in jnp.flip(x):
        total = total * z + c
    return total


def logistic(r: float) -> list[float]:
    return [0, r, -r, 0]


def henon(z, x):
    """The Henon map: the first coefficient is a, the second b."""
    return jnp.stack([1 - x[0] * z[0] ** 2 + z[1], x[1] * z[0]])


def turn(size: float, angle: float) -> np.ndarray:
    c, s = size * np.cos(angle), size * np.sin(angle)
    return np.array([[c, -s], [s, c]])


def jordan(value: float, size: int = 2) -> np.ndarray:
    return value * np.eye(size) + np.eye(size, k=1)


def dense(size: int, *blocks, skew: float = 0.0, rest: float = 0.3, seed: int = 0) -> np.ndarray:
    """A matrix with the given blocks on the diagonal of its real Schur form, filled up by real
    eigenvalues evenly spread within `rest`; `skew` is the size of what is above the diagonal."""
    rng = np.random.default_rng(seed)
    left = size - sum(len(np.atleast_2d(b)) for b in blocks)
    d = scipy.linalg.block_diag(*blocks, *np.linspace(-rest, rest, left))
    if skew:
        edge = sum(len(np.atleast_2d(b)) for b in blocks)
        above = np.triu(rng.normal(size=(size, size)), 1)
        above[:edge, :edge] = 0  # leave the blocks unchanged
        d = d + skew / np.sqrt(size) * above
    q, _ = np.linalg.qr(rng.normal(size=(size, size)))
    return q @ d @ q.T


def stack(matrices, dtype: Any = np.float64, shift: float = 1.0):
    """Return `zs, xs` of `by_matrix`: zs is zero, and b is such that the fixed point is all
    `shift`."""
    a = jnp.asarray(np.stack(matrices), dtype)
    b = shift * (1 - jnp.sum(a, axis=2))
    return jnp.zeros_like(b), {"a": a, "b": b}
