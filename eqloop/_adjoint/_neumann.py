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
from ._truncated import check_steps


class Neumann(AbstractCotangentSolve):
    """`u = sum_{k < steps} (J^T)^k g` in place of `(I - J)^-T g`.

    Its residual is `|(J^T)^steps g| / |g|`. It takes `steps` products with `J^T` at the fixed point
    (the last for the residual alone) in constant memory; `OneStep` is one term (arXiv 2111.05177).

    Derivatives of any order and in both modes are those of the fixed point with the series in place
    of every inverse: `sum_k J^k v` for a tangent v. They are not derivatives of the cut series, and
    a Hessian is symmetric only up to what the series leaves. An f without forward mode has its
    first gradient in reverse mode; `jvp` then raises `TypeError`.

    When not to use it: where the spectral radius of J is near or above one the series is slow or
    grows; `Implicit` needs fewer products there.

    **Arguments:**

    - `steps`: terms, an integer or a traced one, which counts as at least 1.

    **Raises** `ValueError` where `steps` is an integer below 1.
    """

    steps: int | Int[Array, ""] = eqx.field(default=5, converter=python_int)

    def __check_init__(self):
        check_steps(self)

    def solve(self, product, cotangent):
        def term(_, carry):
            total, term = carry
            return jtu.tree_map(lambda a, b: a + b, total, term), product(term)

        steps = clamp(self.steps, 1)
        none = jtu.tree_map(jnp.zeros_like, cotangent)
        u, left = jax.lax.fori_loop(0, steps, term, (none, cotangent))
        size = two_norm(cotangent)
        residual = two_norm(left) / jnp.where(size > 0, size, 1)
        products = jnp.asarray(steps, residual.dtype)
        return u, BackwardReport(residual, jnp.zeros_like(residual), products)
