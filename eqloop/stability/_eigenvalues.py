"""The leading eigenvalues of a matrix-free operator."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Complex, Float, Int, PRNGKeyArray, PyTree
from scipy.linalg import eig, schur

from ._closed import closed
from ._trees import head

SPLIT = 5
"""Factor on the estimates of an error: in a Jordan block of size m, which rounding takes apart, the
true error is m times that of first order."""
DRAWS = 4
CERTAIN = 1e-2
"""An eigenvalue is known where its error is at most this part of the largest modulus."""


@dataclasses.dataclass(frozen=True)
class Eigenvalues:
    """The eigenvalues of largest modulus of each operator of a batch, largest first.

    **Attributes:**

    - `values`: NaN where there are fewer, or where products were not finite.
    - `converged`: whether `|A y - value y| <= rtol |value|` for the unit vector y that belongs to
        it, and `errors` is at most a hundredth of the largest modulus.
    - `errors`: estimate of `|value - true|`: `SPLIT` times that residual (at least what rounding
        leaves) times the condition `1 / |l^H y|` of the eigenvalue, l being its left eigenvector;
        or what random changes of ten times that residual move it by, if that is less. A small
        residual alone says little where the operator is far from normal: near a Jordan block of
        20 a residual of 1e-4 moves eigenvalues by 0.6 (Trefethen and Embree 2005).
    - `vectors`: y of the first one.
    - `products`: with each operator.
    """

    values: Complex[np.ndarray, "batch count"]
    converged: Bool[np.ndarray, "batch count"]
    errors: Float[np.ndarray, "batch count"]
    vectors: Complex[np.ndarray, "batch size"]
    products: Int[np.ndarray, " batch"]

    def take(self, index: Int[np.ndarray, " some"]) -> "Eigenvalues":
        """Return the members of the batch at these indices."""
        return Eigenvalues(
            *(getattr(self, field.name)[index] for field in dataclasses.fields(self))
        )


def leading_eigenvalues(
    operator: Callable[[PyTree, PyTree, PyTree], PyTree],
    zs: PyTree,
    xs: PyTree,
    *,
    key: PRNGKeyArray,
    count: int = 6,
    rtol: float = 1e-4,
    memory: int = 24,
    cycles: int = 10,
) -> Eigenvalues:
    """Return the eigenvalues of largest modulus of `v -> operator(z, x, v)`, for each (z, x) of a
    batch.

    Arnoldi's method with the restarts of Krylov and Schur: a real basis V of a Krylov space is
    grown to `memory` vectors, in which `A V = V B + v b^T`; of the real Schur form of B the part
    with the largest eigenvalues is kept, pairs of conjugates whole, and grown again (Stewart 2002,
    doi:10.1137/S0895479800371529). Products are done in JAX for the whole batch, the small dense
    problems by LAPACK in float64. An eigenvalue of multiplicity m is found once or more, not
    necessarily m times.

    **Arguments:**

    - `operator`: an Equinox module or any function, linear in its third argument.
    - `zs`, `xs`: states and inputs, stacked along a first axis.
    - `key`: a random key, for the first vectors.
    - `count`: number of eigenvalues.
    - `rtol`: relative residual at which an eigenvalue has converged.
    - `memory`: number of basis vectors, more than `count + 2`.
    - `cycles`: maximum number of restarts; stops early if all eigenvalues have converged, or if
        rounding prevents that.

    **Returns:**

    The `Eigenvalues`, of largest modulus first.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> operator = lambda z, x, v: x * v            # a diagonal matrix
    >>> zs, xs = jnp.zeros((1, 3)), jnp.array([[1.0, -3.0, 2.0]])
    >>> leading = eqloop.stability.leading_eigenvalues(operator, zs, xs, key=jr.key(0), count=2)
    >>> print(leading.values.real.round(3))
    [[-3.  2.]]

    ```
    """
    z, x = head((zs, xs))
    operator = closed(operator, z, x, z, derivative=False)
    size = ravel_pytree(z)[0].size
    memory = min(memory, size)
    basis = _start(zs, jr.split(key, len(jax.tree.leaves(zs)[0])), memory)
    batch, dtype = len(basis), basis.dtype
    matrix = np.zeros((batch, memory + 1, memory))
    begun, products = np.zeros(batch, np.int32), np.zeros(batch, np.int64)
    ritz: list[_Ritz] = []
    for cycle in range(cycles):
        basis, grown = _grow(
            operator, zs, xs, basis, jnp.asarray(matrix, dtype), jnp.asarray(begun)
        )
        matrix = np.array(grown, np.float64)
        products += memory - begun
        eps = float(jnp.finfo(dtype).eps)
        # What is done, or cannot go on, stays as it was found: where its basis ended early, the
        # zeros after that are no eigenvalues.
        ritz = [
            ritz[example]
            if cycle and ritz[example].keep == 0
            else _ritz(matrix[example], int(begun[example]), count, rtol, eps)
            for example in range(batch)
        ]
        if cycle == cycles - 1 or all(solution.keep == 0 for solution in ritz):
            break
        turns = np.zeros((batch, memory + 1, memory + 1))
        for example, solution in enumerate(ritz):
            turns[example], matrix[example], begun[example] = solution.restart(matrix[example])
        basis = _turn(basis, jnp.asarray(turns, dtype))
    first = np.zeros((batch, memory), complex)
    for example, solution in enumerate(ritz):
        first[example, : len(solution.first)] = solution.first
    flat = np.asarray(basis[:, :memory])
    return Eigenvalues(
        values=np.stack([solution.values for solution in ritz]),
        converged=np.stack([solution.converged for solution in ritz]),
        errors=np.stack([solution.errors for solution in ritz]),
        vectors=np.einsum("bmn,bm->bn", flat, first),
        products=products,
    )


@eqx.filter_jit
def _start(zs: PyTree, keys: PRNGKeyArray, memory: int) -> Float[Array, "batch rows size"]:
    def one(z, key):
        flat, _ = ravel_pytree(z)
        v = jr.normal(key, flat.shape, flat.dtype)
        rows = jnp.zeros((memory + 1, flat.size), flat.dtype)
        return rows.at[0].set(v / jnp.linalg.norm(v))

    return jax.vmap(one)(zs, keys)


@eqx.filter_jit
def _grow(
    operator: Callable,
    zs: PyTree,
    xs: PyTree,
    basis: Float[Array, "batch rows size"],
    matrix: Float[Array, "batch rows columns"],
    begun: Int[Array, " batch"],
) -> tuple[Array, Array]:
    """Fill the columns from `begun` on, one product each."""
    columns = matrix.shape[-1]

    def one(operator, z, x, basis, matrix, begun):
        _, unravel = ravel_pytree(z)

        def column(carry):
            basis, matrix, j = carry
            w, _ = ravel_pytree(operator(z, x, unravel(basis[j])))
            size = jnp.linalg.norm(w)
            # Gram and Schmidt, twice; the rows that are still to come are zero.
            h = basis @ w
            w = w - h @ basis
            again = basis @ w
            w = w - again @ basis
            left = jnp.linalg.norm(w)
            # What is left of an invariant subspace is rounding: end there.
            tiny = left <= 10 * jnp.finfo(w.dtype).eps * size
            row = jnp.where(tiny, 0, w / jnp.where(tiny, 1, left))
            filled = (h + again).at[j + 1].set(jnp.where(tiny, 0, left))
            return basis.at[j + 1].set(row), matrix.at[:, j].set(filled), j + 1

        return jax.lax.while_loop(lambda c: c[2] < columns, column, (basis, matrix, begun))[:2]

    return eqx.filter_vmap(one, in_axes=(None, 0, 0, 0, 0, 0))(
        operator, zs, xs, basis, matrix, begun
    )


@jax.jit
def _turn(
    basis: Float[Array, "batch rows size"], turns: Float[Array, "batch rows rows"]
) -> Float[Array, "batch rows size"]:
    return jnp.einsum("brs,brn->bsn", turns, basis)


@dataclasses.dataclass(frozen=True)
class _Ritz:
    """What the small problem of one example says; `first` are coordinates of the leading vector."""

    values: np.ndarray
    converged: np.ndarray
    errors: np.ndarray
    first: np.ndarray
    keep: int = 0
    cut: float = 0.0

    def restart(self, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """How to combine the basis, its new matrix, and the column to go on from. An example that
        is done, or cannot go on, stays as it is."""
        rows, columns = matrix.shape
        if self.keep == 0:
            return np.eye(rows), matrix, columns
        form, turn, kept = schur(  # pyright: ignore[reportAssignmentType]
            matrix[:columns], output="real", sort=lambda re, im: np.hypot(re, im) > self.cut
        )
        turns, new = np.zeros((rows, rows)), np.zeros_like(matrix)
        turns[:columns, :kept] = turn[:, :kept]
        turns[columns, kept] = 1  # the vector to go on with
        new[:kept, :kept] = form[:kept, :kept]
        new[kept, :kept] = matrix[columns] @ turn[:, :kept]
        return turns, new, kept


def _ritz(matrix: np.ndarray, begun: int, count: int, rtol: float, eps: float) -> _Ritz:
    columns = matrix.shape[1]
    values, converged = np.full(count, complex(np.nan, np.nan)), np.zeros(count, bool)
    errors = np.full(count, np.nan)
    if not np.all(np.isfinite(matrix)):
        return _Ritz(values, converged, errors, np.zeros(1))
    # A zero below the diagonal of a new column ends the basis: what is before it is exact.
    size = next((j + 1 for j in range(begun, columns) if matrix[j + 1, j] == 0), columns)
    small, last = matrix[:size, :size], matrix[size, :size]
    eigenvalues, left, right = eig(small, left=True, right=True)  # pyright: ignore
    order = np.argsort(-np.abs(eigenvalues), kind="stable")
    eigenvalues, left, right = eigenvalues[order], left[:, order], right[:, order]
    residual = np.abs(last @ right)
    overlap = np.abs(np.sum(np.conj(left) * right, axis=0))
    condition = 1 / np.maximum(overlap, np.finfo(float).tiny)
    rounding, limit = eps * np.linalg.norm(small, 2), CERTAIN * np.abs(eigenvalues[0])
    size_of_error = np.maximum(residual, rounding)
    error = SPLIT * condition * size_of_error
    top = min(count, size)
    limit = max(limit, SPLIT * rounding)
    for k in np.flatnonzero(error[:top] > limit):
        # The first order is too much where an eigenvalue is double, and its condition infinite.
        error[k] = min(error[k], SPLIT * _shift(small, eigenvalues[k], 10 * size_of_error[k]))
    values[:top], errors[:top] = eigenvalues[:top], error[:top]
    settled = residual[:top] <= np.maximum(rtol * np.abs(eigenvalues[:top]), 10 * rounding)
    certain = error[:top] <= limit
    converged[:top] = settled & certain
    # More cycles make residuals smaller, but not what rounding leaves.
    done = np.all(settled & (certain | (residual[:top] <= 10 * rounding)))
    if size < columns or done or size <= count + 2:
        return _Ritz(values, converged, errors, right[:, 0])
    # Cut where the moduli leave the widest gap: never inside a pair of conjugates.
    moduli = np.abs(eigenvalues)
    places = np.arange(count, max(count + 1, (size + count) // 2))
    gaps = moduli[places] / np.maximum(moduli[places - 1], np.finfo(float).tiny)
    keep = int(places[np.argmin(gaps)])
    cut = float(np.sqrt(moduli[keep - 1] * moduli[keep]))
    return _Ritz(values, converged, errors, right[:, 0], keep, cut)


def _shift(matrix: np.ndarray, value: complex, size: float) -> float:
    """How far an eigenvalue moves by changes of the matrix of 2-norm `size`, drawn at random."""
    rng, moved = np.random.default_rng(0), []
    for _ in range(DRAWS):
        change = rng.normal(size=matrix.shape)
        change *= size / np.linalg.norm(change, 2)
        moved.append(np.abs(np.linalg.eigvals(matrix + change) - value).min())
    return float(max(moved))
