"""The unstable directions of points: eigenvalues of df/dz outside the unit circle, counted with
their multiplicity."""

import dataclasses
import math

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Complex, Float, PRNGKeyArray, PyTree

from .._iteration import Map
from ._eigenvalues import SPLIT, Eigenvalues, leading_eigenvalues
from ._operators import Jacobian, state_jacobian
from ._orbits import precision
from ._trees import take

MOST = 64
"""Unstable directions of a point beyond this number are not counted."""


@dataclasses.dataclass
class Unstable:
    """The linear part of the map at one point, filled in from the largest eigenvalue downwards.

    **Attributes:**

    - `basis`: orthonormal basis of the unstable directions, shape `(unstable, size)`.
    - `values`: the leading eigenvalues, unstable ones with their multiplicity.
    - `errors`: estimates of their errors.
    - `right`: unit eigenvector of the first one.
    - `modulus`: of the largest eigenvalue that is not certainly outside of the unit circle; NaN if
        there is none, or if the derivative of f is not finite.
    - `error`: its error.
    - `reach`: how far the fixed point may be from z, along the eigenvector of that one.
    - `complete`: whether that one, and with it every other, is certainly inside.
    """

    basis: Float[np.ndarray, "unstable size"]
    values: Complex[np.ndarray, " count"]
    errors: Float[np.ndarray, " count"]
    right: Complex[np.ndarray, " size"]
    modulus: float = math.nan
    error: float = math.nan
    reach: float = 0.0
    complete: bool = True

    def add(self, value: complex, vector: Complex[np.ndarray, " size"], error: float) -> None:
        """Add an unstable eigenvalue, with its conjugate if it is complex."""
        pair = 1 + (value.imag != 0)
        rows = np.concatenate([self.basis, np.stack([np.real(vector), np.imag(vector)])[:pair]])
        self.basis = np.linalg.qr(rows.T)[0].T
        self.values = np.append(self.values, [value, np.conj(value)][:pair])
        self.errors = np.append(self.errors, [error] * pair)

    def close(self, rest: Eigenvalues, place: int, error: float, reach: float, count: int) -> None:
        """Add those of the other eigenvalues that are known; `error` is that of the first."""
        self.modulus, self.error = float(np.abs(rest.values[place, 0])), error
        self.reach = reach
        self.complete = self.modulus + error < 1
        # A space without these directions has fewer eigenvalues, and zeros in their place.
        known = np.isfinite(rest.values[place]) & (
            np.arange(rest.values.shape[1]) < max(1, self.basis.shape[1] - len(self.basis))
        )
        most = max(count, len(self.basis))
        self.values = np.append(self.values, rest.values[place, known])[:most]
        self.errors = np.append(self.errors, rest.errors[place, known])[:most]


class Deflated(eqx.Module):
    """`v -> (I - Q^T Q) J v`, called as `operator(z, (x, Q), v)`. If the rows of Q are an
    orthonormal basis of an invariant subspace of J, its eigenvalues are the others of J, and 0."""

    f: Map

    def __call__(self, z: PyTree, x: tuple[PyTree, Array], v: PyTree) -> PyTree:
        x, rows = x
        w, unravel = ravel_pytree(state_jacobian(self.f, z, x).mv(v))
        return unravel(w - (rows @ w) @ rows)


class Transposed(eqx.Module):
    """`v -> J^T v`, an operator for `leading_eigenvalues`."""

    f: Map

    def __call__(self, z: PyTree, x: PyTree, v: PyTree) -> PyTree:
        return state_jacobian(self.f, z, x).T.mv(v)


def unstable_directions(
    f: Map,
    zs: PyTree,
    xs: PyTree,
    *,
    misses: Float[np.ndarray, " points"],
    sizes: Float[np.ndarray, " points"],
    key: PRNGKeyArray,
    count: int,
) -> list[Unstable]:
    """The leading eigenvalues of J at each point. A Krylov space has one copy of each eigenvalue;
    those outside the unit circle are taken out one after the other, until the largest that is left
    is inside.

    The error of an eigenvalue includes its change within the error of the point, about
    `misses / |1 - value|` along the eigenvector.

    **Arguments:**

    - `misses`: the larger of `|f(z) - z|` and its rounding error, of each point.
    - `sizes`: upper bounds on the error of each point.
    - `count`: number of eigenvalues.
    """
    points: list[Unstable] = []
    rows = np.arange(len(misses))
    while rows.size:
        key, round_key = jr.split(key)
        leading, error = _largest(
            f,
            take(zs, rows),
            take(xs, rows),
            [points[row].basis for row in rows] if points else None,
            misses[rows],
            sizes[rows],
            round_key,
            count,
        )
        if not points:
            size = leading.vectors.shape[1]
            none = np.zeros((0, size)), np.zeros(0, complex), np.zeros(0)
            points = [Unstable(*none, vector) for vector in leading.vectors]
        reach = _reach(leading.values[:, 0], misses[rows], sizes[rows])
        unfinished = []
        for place, row in enumerate(rows):
            point, value = points[row], complex(leading.values[place, 0])
            if abs(value) - error[place] > 1 and len(point.basis) < MOST:
                point.add(value, leading.vectors[place], float(error[place]))
                if len(point.basis) < point.basis.shape[1]:
                    unfinished.append(row)
            else:
                point.close(leading, place, float(error[place]), float(reach[place]), count)
        rows = np.array(unfinished, np.int64)
    return points


def _largest(
    f: Map,
    zs: PyTree,
    xs: PyTree,
    bases: list[Float[np.ndarray, "unstable size"]] | None,
    misses: Float[np.ndarray, " points"],
    sizes: Float[np.ndarray, " points"],
    key: PRNGKeyArray,
    count: int,
) -> tuple[Eigenvalues, Float[np.ndarray, " points"]]:
    """The leading eigenvalues without those of the spaces with these bases, and the error of the
    first. Where that is not told from 1, it is computed as accurately as the precision allows."""
    operator = Jacobian(f) if bases is None else Deflated(f)
    inputs = xs if bases is None else (xs, _stacked(bases, precision(zs)))
    leading = leading_eigenvalues(operator, zs, inputs, key=key, count=count)
    error = _error(f, zs, xs, leading, misses, sizes)
    near = ~(np.abs(np.abs(leading.values[:, 0]) - 1) > error)
    if not near.any():
        return leading, error
    rtol = 10 * precision(zs)
    first = leading_eigenvalues(operator, zs, inputs, key=key, count=1, rtol=rtol, cycles=30)
    first_error = _error(f, zs, xs, first, misses, sizes)
    better = near & (first_error < error)
    for accurate, rough in ((first.values, leading.values), (first.errors, leading.errors)):
        rough[better, 0] = accurate[better, 0]
    leading.vectors[better] = first.vectors[better]
    return leading, np.where(better, first_error, error)


def left_vectors(
    f: Map, zs: PyTree, xs: PyTree, unstable: list[Unstable], *, key: PRNGKeyArray
) -> Complex[np.ndarray, "points size"]:
    """Unit vectors w with `J^T w = value w` for the first eigenvalue; NaN where the leading
    eigenvalue of `J^T` is another one within the errors."""
    leading = leading_eigenvalues(Transposed(f), zs, xs, key=key, count=1)
    values = np.array([part.values[0] for part in unstable])
    errors = np.array([part.errors[0] for part in unstable]) + leading.errors[:, 0]
    found = leading.values[:, 0]
    conjugate = np.imag(found) * np.imag(values) < 0
    same = np.abs(np.where(conjugate, found.conj(), found) - values) <= errors
    vectors = np.where(conjugate[:, None], leading.vectors.conj(), leading.vectors)
    return np.where(same[:, None], vectors, np.nan)


def _stacked(bases: list[Float[np.ndarray, "unstable size"]], eps: float) -> np.ndarray:
    """The bases, filled up by rows of zeros to one number of rows: a power of two, so that few
    programs are compiled. `eps` is that of the states."""
    most = max(len(basis) for basis in bases)
    dtype = np.float32 if eps > np.finfo(np.float64).eps else np.float64
    rows = np.zeros((len(bases), 1 << (most - 1).bit_length(), bases[0].shape[1]), dtype)
    for row, basis in zip(rows, bases, strict=True):
        row[: len(basis)] = basis
    return rows


def _reach(
    values: Complex[np.ndarray, " points"],
    misses: Float[np.ndarray, " points"],
    sizes: Float[np.ndarray, " points"],
) -> Float[np.ndarray, " points"]:
    """How far a fixed point may be along the eigenvector, at most the size."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.fmin(misses / np.abs(1 - values), sizes)


def _error(
    f: Map, zs: PyTree, xs: PyTree, leading: Eigenvalues, misses: np.ndarray, sizes: np.ndarray
) -> Float[np.ndarray, " points"]:
    """The error of the first eigenvalue, within the error of the point."""
    lengths = _reach(leading.values[:, 0], misses, sizes)
    change = _change(f, zs, xs, np.real(leading.vectors), lengths)
    return leading.errors[:, 0] + SPLIT * np.asarray(change, np.float64)


@eqx.filter_jit
def _change(
    f: Map, zs: PyTree, xs: PyTree, vectors: np.ndarray, lengths: np.ndarray
) -> Float[Array, " points"]:
    """`|J(z + length v) v - J(z) v|`."""

    def one(f, z, x, v, length):
        flat, unravel = ravel_pytree(z)
        v, length = v.astype(flat.dtype), length.astype(flat.dtype)

        def product(z):
            return ravel_pytree(state_jacobian(f, unravel(z), x).mv(unravel(v)))[0]

        return jnp.linalg.norm(product(flat + length * v) - product(flat))

    return eqx.filter_vmap(one, in_axes=(None, 0, 0, 0, 0))(f, zs, xs, vectors, lengths)
