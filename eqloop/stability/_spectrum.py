"""The Jacobian at the end of each orbit: eigenvalues, singular values, Lyapunov exponents."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._iteration import Map
from .._stability_report import Spectrum
from ._closed import closed
from ._eigenvalues import Eigenvalues, leading_eigenvalues
from ._operators import Gram, Jacobian
from ._orbits import Orbits
from ._statistics import block_means, share, summary
from ._trees import head
from ._work import Tick, silent

EDGE = 0.05
"""A leading Lyapunov exponent within this of zero is marginal (per iteration)."""
REGIMES = ("contracting", "marginal", "expanding", "unknown")
BLOCKS = 8


def spectrum(
    orbits: Orbits,
    *,
    key: PRNGKeyArray,
    count: int = 6,
    exponents: int = 2,
    leading: Eigenvalues | None = None,
    tick: Tick = silent,
) -> Spectrum:
    """Measure the eigenvalues and the largest singular value of `J = df/dz` at the end of each
    orbit, and the Lyapunov exponents along it.

    Where the loop has converged, the leading exponent is the logarithm of the spectral radius; the
    two are measured in different ways. The regime of an example follows from the leading exponent
    and the 95 % interval of its mean over blocks of the orbit: contracting below -0.05, expanding
    above 0.05, and marginal where the interval reaches between.

    **Arguments:**

    - `orbits`: from `follow_orbits`.
    - `key`: a random key.
    - `count`: number of eigenvalues.
    - `exponents`: number of Lyapunov exponents.
    - `leading`: from `jacobian_eigenvalues`; computed here by default.
    - `tick`: called with the name of each stage that is done (see `planned`).

    **Returns:**

    The `Spectrum`.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> f, start = lambda z, x: 0.5 * jnp.tanh(z) + x, lambda x: 0 * x
    >>> xs = jr.normal(jr.key(0), (4, 2))
    >>> orbits = eqloop.stability.follow_orbits(f, start, xs, iterations=32)
    >>> part = eqloop.stability.spectrum(orbits, key=jr.key(1))
    >>> print(part.regimes[0], f"{part.radius.median:.1f}")
    contracting 0.4

    ```
    """
    eigen_key, sigma_key, lyapunov_key = jr.split(key, 3)
    if leading is None:
        leading = jacobian_eigenvalues(orbits, key=eigen_key, count=count)
    radius = np.where(leading.converged[:, 0], np.abs(leading.values[:, 0]), math.nan)
    there = orbits.converged
    gram = leading_eigenvalues(
        Gram(orbits.f), orbits.state, orbits.xs, key=sigma_key, count=1, memory=12
    )
    square = np.where(gram.converged[:, 0], np.real(gram.values[:, 0]), math.nan)
    sigma = np.sqrt(np.maximum(square, 0))
    tick("singular values")
    lyapunov, error = lyapunov_exponents(
        orbits.f,
        orbits.z0s,
        orbits.xs,
        key=lyapunov_key,
        count=exponents,
        iterations=orbits.iterations,
    )
    tick("Lyapunov exponents")
    regimes = [regime(*pair) for pair in zip(lyapunov[:, 0], error[:, 0], strict=True)]
    with np.errstate(divide="ignore", invalid="ignore"):
        non_normality = sigma / radius
    return Spectrum(
        eigenvalues=[
            [[v.real, v.imag, float(ok)] for v, ok in zip(values, converged, strict=True)]
            for values, converged in zip(leading.values, leading.converged, strict=True)
        ],
        radius=summary(radius),
        radius_error=summary(leading.errors[:, 0]),
        radius_at_fixed_points=summary(np.where(there, radius, math.nan)),
        sigma_max=summary(sigma),
        non_normality=summary(non_normality),
        at_fixed_point=there.tolist(),
        lyapunov=[summary(exponent) for exponent in lyapunov.T],
        regimes=regimes,
        regime_shares={
            name: share(np.array([label == name for label in regimes])) for name in REGIMES
        },
    )


def jacobian_eigenvalues(orbits: Orbits, *, key: PRNGKeyArray, count: int = 6) -> Eigenvalues:
    """The leading eigenvalues of `df/dz` at the end of each orbit.

    **Arguments:**

    - `orbits`: from `follow_orbits`.
    - `key`: a random key.
    - `count`: number of eigenvalues.

    **Returns:**

    The `Eigenvalues`, largest modulus first.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr, numpy as np
    >>> f, start = lambda z, x: 0.5 * jnp.tanh(z) + x, lambda x: 0 * x
    >>> xs = jr.normal(jr.key(0), (4, 2))
    >>> orbits = eqloop.stability.follow_orbits(f, start, xs, iterations=32)
    >>> leading = eqloop.stability.jacobian_eigenvalues(orbits, key=jr.key(1))
    >>> slopes = 0.5 / jnp.cosh(orbits.state) ** 2              # f' in each entry of the state
    >>> print(leading.values[:, 0].real.round(3), np.asarray(slopes.max(axis=1)).round(3))
    [0.029 0.488 0.446 0.266] [0.029 0.488 0.446 0.266]

    ```
    """
    return leading_eigenvalues(Jacobian(orbits.f), orbits.state, orbits.xs, key=key, count=count)


def regime(exponent: float, error: float) -> str:
    """Classify a leading exponent, `error` being half of its 95 % interval."""
    if exponent + error < -EDGE:
        return "contracting"
    if exponent - error > EDGE:
        return "expanding"
    return "unknown" if math.isnan(exponent + error) else "marginal"


def lyapunov_exponents(
    f: Map,
    z0s: PyTree,
    xs: PyTree,
    *,
    key: PRNGKeyArray,
    count: int = 2,
    iterations: int = 256,
    driven: bool = False,
) -> tuple[Float[np.ndarray, "examples count"], Float[np.ndarray, "examples count"]]:
    """Measure the `count` largest Lyapunov exponents of each orbit, per iteration.

    `count` random vectors are pushed forward by the Jacobian and orthonormalised after each
    iteration; the exponents are the mean logarithms of the norms before normalisation. The first
    half of the iterations is discarded as a transient; the second half is split into 8 blocks,
    whose means give the interval.

    With `driven`, iteration t uses the input x_t of a sequence. The exponents are then conditional
    on it: below 0, orbits from all nearby states come together, and the state becomes a function of
    the inputs (an echo state).

    **Arguments:**

    - `f`: the map, of a state and an input of one example.
    - `z0s`, `xs`: the starts and the inputs, stacked along a first axis.
    - `key`: a random key.
    - `count`: number of exponents; at most the size of the state is used.
    - `iterations`: iterations per orbit, at least 16.
    - `driven`: whether the arrays of `xs` have a second axis, of at least `iterations` inputs.

    **Returns:**

    The exponents, largest first, and half of their 95 % intervals, both of shape `(examples,
    count)`.

    **Raises** `ValueError` for fewer than 16 iterations, or fewer inputs than iterations.

    **Source:** Benettin et al. 1980, doi:10.1007/BF02128237.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> f, zeros = lambda z, x: jnp.array([0.5, 0.25]) * z + x, jnp.zeros((1, 2))
    >>> exponents, _ = eqloop.stability.lyapunov_exponents(f, zeros, zeros + 1, key=jr.key(0))
    >>> print(jnp.exp(exponents).round(2))
    [[0.5  0.25]]

    ```
    """
    if iterations < 2 * BLOCKS:
        raise ValueError(f"iterations = {iterations} must be at least {2 * BLOCKS}")
    if driven and min((leaf.shape[1] for leaf in jax.tree.leaves(xs)), default=0) < iterations:
        raise ValueError(f"xs: a driven map needs as many inputs as iterations, {iterations}")
    z, x = head((z0s, xs))
    f = closed(f, z, head(x) if driven else x)
    size = ravel_pytree(z)[0].size
    examples = len(jax.tree.leaves(z0s)[0])
    blocks = _push(
        f,
        z0s,
        xs,
        jr.split(key, examples),
        min(count, size),
        jnp.asarray(iterations // 2),
        jnp.asarray(iterations // 2 // BLOCKS),
        driven,
    )
    return block_means(np.asarray(blocks))


@eqx.filter_jit
def _push(
    f: Map,
    z0s: PyTree,
    xs: PyTree,
    keys: PRNGKeyArray,
    count: int,
    burn: Array,
    block: Array,
    driven: bool,
) -> Float[Array, "examples blocks count"]:
    def one(f, z, x, key):
        _, unravel = ravel_pytree(z)

        def step(t, carry):
            z, q, logs = carry
            now = jax.tree.map(lambda leaf: leaf[t], x) if driven else x
            value, product = jax.linearize(lambda z: f(z, now), z)
            pushed = jax.vmap(lambda v: ravel_pytree(product(unravel(v)))[0])(q)
            q, sizes = _orthonormal(pushed)
            return value, q, logs + jnp.log(jnp.maximum(sizes, jnp.finfo(sizes.dtype).tiny))

        flat, _ = ravel_pytree(z)
        q, _ = _orthonormal(jr.normal(key, (count, flat.size), flat.dtype))
        none = jnp.zeros(count, flat.dtype)
        z, q, _ = jax.lax.fori_loop(0, burn, step, (z, q, none))

        def run_block(carry, number):
            first = burn + number * block
            z, q, logs = jax.lax.fori_loop(first, first + block, step, (*carry, none))
            return (z, q), logs / block.astype(logs.dtype)

        return jax.lax.scan(run_block, (z, q), jnp.arange(BLOCKS, dtype=burn.dtype))[1]

    return eqx.filter_vmap(one, in_axes=(None, 0, 0, 0))(f, z0s, xs, keys)


def _orthonormal(
    rows: Float[Array, "count size"],
) -> tuple[Float[Array, "count size"], Float[Array, " count"]]:
    """Orthonormalise the rows by Gram-Schmidt (twice: once is inaccurate for nearly parallel rows),
    and return the norm of each row before normalisation."""
    done, sizes = [], []
    for row in rows:
        for _ in range(2):
            for other in done:
                row = row - (other @ row) * other
        size = jnp.linalg.norm(row)
        done.append(row / jnp.where(size > 0, size, 1))
        sizes.append(size)
    return jnp.stack(done), jnp.stack(sizes)
