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
"""Factor on error estimates: in a Jordan block of size m, whose eigenvalues rounding splits, the
true error is m times the first-order estimate."""
DRAWS = 4
CERTAIN = 1e-2
"""Maximum error of a known eigenvalue, relative to the largest modulus."""


@dataclasses.dataclass(frozen=True)
class Eigenvalues:
    """The eigenvalues of largest modulus of each operator of a batch, largest first.

    **Attributes:**

    - `values`: the eigenvalues, shape `(batch, count)`; NaN if there are fewer, or if products were
        not finite.
    - `converged`: whether `|A y - value y| <= rtol |value|` for the unit eigenvector y, and
        `errors` is at most a hundredth of the largest modulus; shape `(batch, count)`.
    - `errors`: estimate of `|value - true|`, shape `(batch, count)`: 5 times that residual (or the
        rounding error, if larger) times the condition `1 / |l^H y|` of the eigenvalue, where l is
        its left eigenvector; or 5 times its shift under random perturbations of ten times that
        residual, if that is less. A small residual alone says little if the operator is far from
        normal: near a Jordan block of 20 a residual of 1e-4 moves eigenvalues by 0.6 (Trefethen and
        Embree 2005).
    - `vectors`: unit eigenvector y of the first eigenvalue, flattened, shape `(batch, size)`.
    - `products`: number of products with each operator, shape `(batch,)`.
    """

    values: Complex[np.ndarray, "batch count"]
    converged: Bool[np.ndarray, "batch count"]
    errors: Float[np.ndarray, "batch count"]
    vectors: Complex[np.ndarray, "batch size"]
    products: Int[np.ndarray, " batch"]

    def take(self, index: Int[np.ndarray, " some"]) -> "Eigenvalues":
        """Return the members of the batch at the indices `index`, an integer array."""
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
    """Compute the eigenvalues of largest modulus of `v -> operator(z, x, v)`, for each (z, x) of a
    batch.

    The method is Krylov-Schur: Arnoldi's method grows a real basis V of a Krylov space to `memory`
    vectors, with `A V = V B + v b^T`. A restart keeps the part of the real Schur form of B with the
    largest eigenvalues, without splitting conjugate pairs (Stewart 2002,
    doi:10.1137/S0895479800371529). JAX computes the products for the whole batch, LAPACK solves the
    small dense problems in float64. An eigenvalue of multiplicity m is returned at least once, not
    necessarily m times.

    **Arguments:**

    - `operator`: an Equinox module or any function of a state, an input and a vector like the
        state; linear in the vector.
    - `zs`: states, stacked along a first axis.
    - `xs`: inputs, stacked along a first axis.
    - `key`: random key for the initial vectors.
    - `count`: number of eigenvalues.
    - `rtol`: relative residual at which an eigenvalue has converged.
    - `memory`: number of basis vectors, more than `count + 2`; uses this many copies of the state.
    - `cycles`: maximum number of restarts; stops early if all eigenvalues have converged, or if
        rounding prevents that.

    **Returns:**

    The `Eigenvalues`, largest modulus first.

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
    first_column, products = np.zeros(batch, np.int32), np.zeros(batch, np.int64)
    ritz: list[_Ritz] = []
    for cycle in range(cycles):
        basis, grown = _grow(
            operator, zs, xs, basis, jnp.asarray(matrix, dtype), jnp.asarray(first_column)
        )
        matrix = np.array(grown, np.float64)
        products += memory - first_column
        eps = float(jnp.finfo(dtype).eps)
        # A finished problem keeps its solution: if its basis ended early, the zeros after it are no
        # eigenvalues.
        ritz = [
            ritz[example]
            if cycle and ritz[example].keep == 0
            else _ritz(matrix[example], int(first_column[example]), count, rtol, eps)
            for example in range(batch)
        ]
        if cycle == cycles - 1 or all(solution.keep == 0 for solution in ritz):
            break
        turns = np.zeros((batch, memory + 1, memory + 1))
        for example, solution in enumerate(ritz):
            turns[example], matrix[example], first_column[example] = solution.restart(
                matrix[example]
            )
        basis = _turn(basis, jnp.asarray(turns, dtype))
    coordinates = np.zeros((batch, memory), complex)
    for example, solution in enumerate(ritz):
        coordinates[example, : len(solution.coordinates)] = solution.coordinates
    flat = np.asarray(basis[:, :memory])
    return Eigenvalues(
        values=np.stack([solution.values for solution in ritz]),
        converged=np.stack([solution.converged for solution in ritz]),
        errors=np.stack([solution.errors for solution in ritz]),
        vectors=np.einsum("bmn,bm->bn", flat, coordinates),
        products=products,
    )


@eqx.filter_jit
def _start(zs: PyTree, keys: PRNGKeyArray, memory: int) -> Float[Array, "batch rows size"]:
    def start_vector(z, key):
        flat, _ = ravel_pytree(z)
        v = jr.normal(key, flat.shape, flat.dtype)
        rows = jnp.zeros((memory + 1, flat.size), flat.dtype)
        return rows.at[0].set(v / jnp.linalg.norm(v))

    return jax.vmap(start_vector)(zs, keys)


@eqx.filter_jit
def _grow(
    operator: Callable,
    zs: PyTree,
    xs: PyTree,
    basis: Float[Array, "batch rows size"],
    matrix: Float[Array, "batch rows columns"],
    first_column: Int[Array, " batch"],
) -> tuple[Array, Array]:
    """Fill the columns from `first_column` on, with one product per column."""
    columns = matrix.shape[-1]

    def grow(operator, z, x, basis, matrix, first_column):
        _, unravel = ravel_pytree(z)

        def column(carry):
            basis, matrix, j = carry
            w, _ = ravel_pytree(operator(z, x, unravel(basis[j])))
            size = jnp.linalg.norm(w)
            # Gram-Schmidt, twice; rows that are not filled yet are zero.
            h = basis @ w
            w = w - h @ basis
            again = basis @ w
            w = w - again @ basis
            norm = jnp.linalg.norm(w)
            # In an invariant subspace the remainder is rounding error: end the basis.
            tiny = norm <= 10 * jnp.finfo(w.dtype).eps * size
            row = jnp.where(tiny, 0, w / jnp.where(tiny, 1, norm))
            filled = (h + again).at[j + 1].set(jnp.where(tiny, 0, norm))
            return basis.at[j + 1].set(row), matrix.at[:, j].set(filled), j + 1

        return jax.lax.while_loop(lambda c: c[2] < columns, column, (basis, matrix, first_column))[
            :2
        ]

    return eqx.filter_vmap(grow, in_axes=(None, 0, 0, 0, 0, 0))(
        operator, zs, xs, basis, matrix, first_column
    )


@jax.jit
def _turn(
    basis: Float[Array, "batch rows size"], turns: Float[Array, "batch rows rows"]
) -> Float[Array, "batch rows size"]:
    return jnp.einsum("brs,brn->bsn", turns, basis)


@dataclasses.dataclass(frozen=True)
class _Ritz:
    """Solution of the small problem of one example; `coordinates`: of the leading vector."""

    values: np.ndarray
    converged: np.ndarray
    errors: np.ndarray
    coordinates: np.ndarray
    keep: int = 0
    cut: float = 0.0

    def restart(self, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """The combination of the basis vectors, the new matrix, and the first column to fill. A
        finished example is unchanged."""
        rows, columns = matrix.shape
        if self.keep == 0:
            return np.eye(rows), matrix, columns
        form, turn, count = schur(  # pyright: ignore[reportAssignmentType]
            matrix[:columns], output="real", sort=lambda re, im: np.hypot(re, im) > self.cut
        )
        turns, new = np.zeros((rows, rows)), np.zeros_like(matrix)
        turns[:columns, :count] = turn[:, :count]
        turns[columns, count] = 1  # the vector that continues the basis
        new[:count, :count] = form[:count, :count]
        new[count, :count] = matrix[columns] @ turn[:, :count]
        return turns, new, count


def _ritz(matrix: np.ndarray, first_column: int, count: int, rtol: float, eps: float) -> _Ritz:
    columns = matrix.shape[1]
    values, converged = np.full(count, complex(np.nan, np.nan)), np.zeros(count, bool)
    errors = np.full(count, np.nan)
    if not np.all(np.isfinite(matrix)):
        return _Ritz(values, converged, errors, np.zeros(1))
    # A zero below the diagonal of a new column ends the basis: the part before it is exact.
    size = next((j + 1 for j in range(first_column, columns) if matrix[j + 1, j] == 0), columns)
    small, coupling = matrix[:size, :size], matrix[size, :size]
    eigenvalues, left_vectors, right_vectors = eig(small, left=True, right=True)  # pyright: ignore
    order = np.argsort(-np.abs(eigenvalues), kind="stable")
    eigenvalues, left_vectors, right_vectors = (
        eigenvalues[order],
        left_vectors[:, order],
        right_vectors[:, order],
    )
    residual = np.abs(coupling @ right_vectors)
    overlap = np.abs(np.sum(np.conj(left_vectors) * right_vectors, axis=0))
    condition = 1 / np.maximum(overlap, np.finfo(float).tiny)
    rounding, limit = eps * np.linalg.norm(small, 2), CERTAIN * np.abs(eigenvalues[0])
    size_of_error = np.maximum(residual, rounding)
    error = SPLIT * condition * size_of_error
    found_count = min(count, size)
    limit = max(limit, SPLIT * rounding)
    for k in np.flatnonzero(error[:found_count] > limit):
        # The first-order estimate is infinite for a double eigenvalue.
        error[k] = min(error[k], SPLIT * _shift(small, eigenvalues[k], 10 * size_of_error[k]))
    values[:found_count], errors[:found_count] = eigenvalues[:found_count], error[:found_count]
    settled = residual[:found_count] <= np.maximum(
        rtol * np.abs(eigenvalues[:found_count]), 10 * rounding
    )
    certain = error[:found_count] <= limit
    converged[:found_count] = settled & certain
    # More cycles reduce residuals, but not the rounding error.
    finished = np.all(settled & (certain | (residual[:found_count] <= 10 * rounding)))
    if size < columns or finished or size <= count + 2:
        return _Ritz(values, converged, errors, right_vectors[:, 0])
    # Cut at the widest gap between moduli, which is never inside a conjugate pair.
    moduli = np.abs(eigenvalues)
    places = np.arange(count, max(count + 1, (size + count) // 2))
    gaps = moduli[places] / np.maximum(moduli[places - 1], np.finfo(float).tiny)
    keep = int(places[np.argmin(gaps)])
    cut = float(np.sqrt(moduli[keep - 1] * moduli[keep]))
    return _Ritz(values, converged, errors, right_vectors[:, 0], keep, cut)


def _shift(matrix: np.ndarray, value: complex, size: float) -> float:
    """Largest shift of an eigenvalue under random perturbations of the matrix of 2-norm `size`."""
    rng, shifts = np.random.default_rng(0), []
    for _ in range(DRAWS):
        change = rng.normal(size=matrix.shape)
        change *= size / np.linalg.norm(change, 2)
        shifts.append(np.abs(np.linalg.eigvals(matrix + change) - value).min())
    return float(max(shifts))
