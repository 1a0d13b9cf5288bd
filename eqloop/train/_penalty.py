"""Penalties on a loop at the state where its solver stopped."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray


class AbstractPenalty(eqx.Module):
    """A term of the loss of one example, which depends on the weights through the loop f alone: the
    state z is a constant.

    **Attributes:**

    - `weight`: the factor of the term in the loss.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> class Size(eqloop.train.AbstractPenalty):
    ...     weight: float
    ...
    ...     def __call__(self, f, z, key):
    ...         return jnp.mean(jnp.square(f(z)))
    >>> loss = eqloop.train.Last(penalties=(Size(0.1),))
    >>> loss.penalties[0](lambda z: 2 * z, jnp.ones(4), jr.key(0)).item()
    4.0

    ```
    """

    weight: eqx.AbstractVar[float]

    @abc.abstractmethod
    def __call__(
        self, f: Callable[[Array], Array], z: Float[Array, "*shape"], key: PRNGKeyArray
    ) -> Float[Array, ""]:
        """The penalty, not yet multiplied by `weight`.

        **Arguments:**

        - `f`: the loop of the example, a map of the state alone.
        - `z`: the state, without derivatives.
        - `key`: for what is drawn.

        **Returns** one number.
        """


class TerminalResidual(AbstractPenalty):
    """`|f(z) - z|^2 / |z|^2`: what the loop still moves where its solver gave up.

    It pulls f(z) towards z, so that loops that do not converge come back to fixed points. With a
    large weight from random weights on, a model learns to move nothing at all.

    **Arguments:**

    - `weight`: the factor of the penalty in the loss.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> eqloop.train.TerminalResidual(0.1)(lambda z: 0.5 * z, jnp.ones(4), jr.key(0)).item()
    0.25

    ```
    """

    weight: float = eqx.field(static=True)

    def __call__(self, f, z, key):
        del key
        return jnp.sum(jnp.square(f(z) - z)) / (jnp.sum(jnp.square(z)) + jnp.finfo(z.dtype).tiny)


class JacobianNorm(AbstractPenalty):
    """`|J^T v|^2 / |v|^2` for a Gaussian v: Hutchinson's estimate of `|J|_F^2 / size` at z.

    **Arguments:**

    - `weight`: the factor of the penalty in the loss.

    **Source:** Bai et al. 2021, arXiv 2106.14342.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> eqloop.train.JacobianNorm(0.1)(lambda z: 0.5 * z, jnp.ones(4), jr.key(0)).item()
    0.25

    ```
    """

    weight: float = eqx.field(static=True)

    def __call__(self, f, z, key):
        v = jr.normal(key, z.shape, z.dtype)
        _, product = jax.vjp(f, z)
        return jnp.sum(jnp.square(product(v)[0])) / jnp.sum(jnp.square(v))
