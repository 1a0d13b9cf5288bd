"""When a row of a batch ends, so that a new puzzle takes its place."""

import abc

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._q_head import says_right
from .._solver import Damping


class Row(eqx.Module):
    """What a law of halting sees of the rows of a batch, after a segment.

    **Attributes:**

    - `steps`: segments that each row has been worked on.
    - `q_halt`, `q_continue`: the outputs of the q head.
    - `damping`: what an `eqloop.AdaptiveDamping` remembers, or None.
    """

    steps: Int[Array, " batch"]
    q_halt: Float[Array, " batch"]
    q_continue: Float[Array, " batch"]
    damping: Damping | None


class AbstractHalting(eqx.Module):
    """A law of halting. A new law is a class with one method.

    ```python
    >>> import eqloop
    >>> class Never(eqloop.recursive.AbstractHalting):
    ...     def __call__(self, rows, key, *, inference):
    ...         return rows.steps < 0
    >>> Never()
    Never()

    ```
    """

    @abc.abstractmethod
    def __call__(self, rows: Row, key: PRNGKeyArray, *, inference: bool) -> Bool[Array, " batch"]:
        """Return which rows end.

        **Arguments:**

        - `rows`: the rows of a batch.
        - `key`: a random key, for exploration.
        - `inference`: whether the model is evaluated, and not trained.
        """


class ByAge(AbstractHalting):
    """A row ends after `most` segments.

    **Arguments:**

    - `most`: number of segments.
    - `most_inference`: number in evaluation; None for the same.

    ```python
    >>> import eqloop
    >>> eqloop.recursive.ByAge(16).limit(inference=True)
    16

    ```
    """

    most: int = eqx.field(static=True)
    most_inference: int | None = eqx.field(default=None, static=True)

    def limit(self, *, inference: bool) -> int:
        """The number of segments after which a row ends, in evaluation if `inference`."""
        return self.most_inference if inference and self.most_inference else self.most

    def __call__(self, rows, key, *, inference):
        del key
        return rows.steps >= self.limit(inference=inference)


class ByQ(AbstractHalting):
    """A row ends after `most` segments and, in training, where the q head says so: `q_halt > 0`, or
    `q_halt > q_continue`.

    A share `exploration` of the rows, drawn at each segment, must have taken at least U{2 .. most}
    segments. In evaluation all rows take `most` segments.

    **Arguments:**

    - `most`: number of segments.
    - `exploration`: share of the rows that explore.
    - `compare`: whether `q_halt` is compared with `q_continue`, as in HRM, and not with zero.

    **Source:** HRM, arXiv 2506.21734; TRM, arXiv 2510.04871.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> steps, q = jnp.array([1, 1, 3]), jnp.array([1.0, -1.0, -1.0])
    >>> rows = eqloop.recursive.Row(steps, q, q, None)
    >>> print(eqloop.recursive.ByQ(3)(rows, jr.key(0), inference=False))
    [ True False  True]

    ```
    """

    most: int = eqx.field(static=True)
    exploration: float = eqx.field(default=0.0, static=True)
    compare: bool = eqx.field(default=False, static=True)

    def __call__(self, rows, key, *, inference):
        is_last = rows.steps >= self.most
        if inference or self.most == 1:
            return is_last
        halted = is_last | says_right(rows.q_halt, rows.q_continue, compare=self.compare)
        if self.exploration:
            share_key, least_key = jr.split(key)
            explores = jr.uniform(share_key, halted.shape) < self.exploration
            least = jr.randint(least_key, halted.shape, 2, self.most + 1)
            halted &= rows.steps >= jnp.where(explores, least, 0)
        return halted


class ByResidual(AbstractHalting):
    """A row ends where its last residual is below `below`, where its step size is below 1e-3, or
    after `most` segments. In evaluation the largest residual and step size of the batch count, and
    the batch ends as a whole.

    **Arguments:**

    - `below`: the residual.
    - `most`, `most_inference`: see `ByAge`.

    **Raises** `ValueError`, when called, for rows without damping.

    **Source:** github.com/nilskiKonjIzDunava/fprm.

    ```python
    >>> import eqloop
    >>> eqloop.recursive.ByResidual(0.1, most=12).below
    0.1

    ```
    """

    below: float = eqx.field(static=True)
    most: int = eqx.field(static=True)
    most_inference: int | None = eqx.field(default=None, static=True)

    def __call__(self, rows, key, *, inference):
        if rows.damping is None:
            raise ValueError("ByResidual needs steps by eqloop.AdaptiveDamping")
        residual, step_size = rows.damping.residual, rows.damping.step_size
        if inference:
            residual = jnp.broadcast_to(jnp.max(residual), residual.shape)
            step_size = jnp.broadcast_to(jnp.max(step_size), step_size.shape)
        is_last = ByAge(self.most, self.most_inference)(rows, key, inference=inference)
        if self.most == 1 and not inference:
            return is_last
        return is_last | (residual < self.below) | (step_size < SMALLEST_STEP)


SMALLEST_STEP = 1e-3
