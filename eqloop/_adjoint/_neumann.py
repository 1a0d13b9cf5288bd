"""The Neumann series."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Int

from .._iteration import clamp, python_int
from .._norms import two_norm
from .._solution import BackwardReport
from ._cotangent import AbstractCotangentSolve
from ._tail import check_damping, check_steps


class Neumann(AbstractCotangentSolve):
    """`u = (1 - damping) sum_{k < steps} (A^T)^k g` instead of `(I - J)^-T g`, with
    `A = (1 - damping) J + damping I`.

    Its residual is `|(A^T)^steps g| / |g|`. It makes `steps` products with `J^T` at the fixed point
    (the last one for the residual alone) in constant memory; `OneStep` is one undamped term. With
    damping it is the gradient of `Phantom` without its memory.

    Derivatives of any order and in both modes are those of the fixed point with the series instead
    of every inverse: `sum_k J^k v` for a tangent v. They are not the derivatives of the truncated
    series, and a Hessian is symmetric only up to the truncation error. An f without forward mode
    has its first gradient in reverse mode; `jvp` then raises `TypeError`.

    When not to use it: if the spectral radius of A is near or above one, where the series
    converges slowly or diverges; `Implicit` needs fewer products there.

    **Arguments:**

    - `steps`: number of terms, an integer or a traced integer scalar; a traced value below 1
        counts as 1.
    - `damping`: weight of the identity in A, in [0, 1).

    **Raises** `ValueError` for an argument out of range.

    **Source:** arXiv 2111.05177.

    ```python
    >>> import eqloop, jax, jax.numpy as jnp
    >>> def state(x):
    ...     f, z0 = lambda z, x: 0.5 * z + x, jnp.zeros(())
    ...     solver, gradient = eqloop.FixedPoint(), eqloop.Neumann(3)
    ...     return eqloop.equilibrium(f, z0, x, solver=solver, gradient=gradient).state
    >>> print(jax.grad(state)(1.0))         # 1 + 0.5 + 0.25
    1.75

    ```
    """

    steps: int | Int[Array, ""] = eqx.field(default=5, converter=python_int)
    damping: float = eqx.field(default=0.0, static=True)

    def __check_init__(self):
        check_steps(self)
        check_damping(self)

    def solve(self, product, cotangent, residual):
        del residual

        def damped(u):
            return jtu.tree_map(lambda a, b: a + self.damping * (b - a), product(u), u)

        def add_term(_, carry):
            partial_sum, term = carry
            return jtu.tree_map(lambda a, b: a + b, partial_sum, term), damped(term)

        steps = clamp(self.steps, 1)
        zeros = jtu.tree_map(jnp.zeros_like, cotangent)
        total, next_term = jax.lax.fori_loop(0, steps, add_term, (zeros, cotangent))
        u = jtu.tree_map(lambda a: (1 - self.damping) * a, total)
        size = two_norm(cotangent)
        residual = two_norm(next_term) / jnp.where(size > 0, size, 1)
        return u, BackwardReport.of(residual=residual, products=jnp.asarray(steps))
