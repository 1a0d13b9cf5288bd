"""Random numbers of steps, drawn for every batch."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Int, PRNGKeyArray

SIGMA = 0.5
"""Standard deviation of the logarithm in the law `log-normal`."""


class Budget(eqx.Module):
    """A number of steps between `least` and `most`, drawn for a whole batch.

    - "uniform": every number is equally likely.
    - "poisson": Poisson with mean `(least + most) / 2`, clipped to the range.
    - "log-normal": the exponential of a Gaussian with standard deviation `SIGMA` = 0.5, with mean
        `(least + most) / 2`, rounded and clipped to the range.

    The number is traced, so that one program serves all draws.

    **Arguments:**

    - `law`: "uniform", "poisson" or "log-normal".
    - `least`: the smallest number.
    - `most`: the largest number.

    **Raises** `ValueError` for another law, and unless `1 <= least <= most`.

    **Source:** Geiping et al. 2025, arXiv 2502.05171, draws iterations from a Poisson law whose
    rate is log-normal with this `SIGMA`.

    ```python
    >>> import eqloop, jax, jax.random as jr
    >>> budget = eqloop.train.Budget("log-normal", 2, 64)
    >>> draws = jax.vmap(budget)(jr.split(jr.key(0), 1000))
    >>> draws.min().item() >= 2, draws.max().item() <= 64
    (True, True)

    ```
    """

    law: str = eqx.field(static=True)
    least: int = eqx.field(static=True)
    most: int = eqx.field(static=True)

    def __check_init__(self):
        if self.law not in LAWS:
            raise ValueError(f"Budget: law = {self.law!r} must be one of {', '.join(LAWS)}")
        if not 1 <= self.least <= self.most:
            raise ValueError(
                f"Budget: least = {self.least} must be at least 1 and at most most = {self.most}"
            )

    def __call__(self, key: PRNGKeyArray) -> Int[Array, ""]:
        number = LAWS[self.law](key, self.least, self.most)
        return jnp.clip(number, self.least, self.most).astype(jnp.int32)


def _uniform(key: PRNGKeyArray, least: int, most: int) -> Array:
    return least + jr.randint(key, (), 0, most - least + 1)


def _poisson(key: PRNGKeyArray, least: int, most: int) -> Array:
    return jr.poisson(key, (least + most) / 2)


def _log_normal(key: PRNGKeyArray, least: int, most: int) -> Array:
    exponent = SIGMA * jr.normal(key, (), jnp.float32) - SIGMA**2 / 2
    return jnp.round((least + most) / 2 * jnp.exp(exponent))


LAWS: dict[str, Callable[[PRNGKeyArray, int, int], Array]] = {
    "uniform": _uniform,
    "poisson": _poisson,
    "log-normal": _log_normal,
}
"""Law -> function from a key and the range to a number that is not clipped yet."""
