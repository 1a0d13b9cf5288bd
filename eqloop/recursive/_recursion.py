"""The macro-iteration F of TRM, HRM and EqR, an ordinary map of a state and an input."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .._iteration import Iteration, stop_gradient
from ..nn import MixerBlock, rms_normalise
from ._states import LowLevel, TwoLevels

Net = Callable[[Float[Array, "positions width"]], Float[Array, "positions width"]]


class Stack(eqx.Module):
    """Blocks in sequence, `x <- rms(x + branch(x))` in each sub-block: a net of TRM, HRM or EqR.

    **Arguments:**

    - `layers`: the blocks.
    - `board`: how attention sees the positions: the cells along each axis, or None for a line.
    - `eps`: see `eqloop.nn.rms_normalise`.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> mixer, mlp = eqloop.nn.CellMLP(9, 4, key=jr.key(0)), eqloop.nn.SwiGLU(8, 4, key=jr.key(1))
    >>> net = eqloop.recursive.Stack((eqloop.nn.MixerBlock(mixer, mlp),))
    >>> z = net(jr.normal(jr.key(2), (9, 8)))
    >>> print(jnp.abs(jnp.square(z).mean(-1) - 1).max() < 1e-3)
    True

    ```
    """

    layers: tuple[MixerBlock, ...]
    board: tuple[int, ...] | None = eqx.field(default=None, static=True)
    eps: float = eqx.field(default=1e-5, static=True)

    def __call__(self, x: Float[Array, "positions width"]) -> Float[Array, "positions width"]:
        """Apply all blocks to `x`, shape `(positions, width)`."""

        def join(x, branch, axis):
            return rms_normalise(x + branch(x).astype(x.dtype), eps=self.eps, axis=axis)

        shape = x.shape
        if self.board is not None:
            x = x.reshape(*self.board, -1)
        for layer in self.layers:
            x = layer(x, join)
        return x.reshape(shape)


class Injection(eqx.Module):
    """The input of a `Recursion`; see `Recursion.inject`.

    **Attributes:**

    - `e`: the embedding of the input, shape `(positions, width)`.
    - `noise`: the draws of all iterations, or None.
    - `key`: the random key of the draws where `noise` is None.
    - `iteration`: the number of the iteration.
    """

    e: Float[Array, "positions width"]
    noise: Float[Array, "iterations calls positions width"] | None
    key: PRNGKeyArray
    iteration: Iteration


class Recursion(eqx.Module):
    """One cycle of a nested loop, as a map `f(z, x) -> z` of a state with two levels:

    ```
    z_L <- step(low, z_L, z_H + e)      (`cycles` times)
    z_H <- step(high, z_H, z_L)
    step(net, z, i) = (1 - mix) z + mix net(z + i) + noise_std eps
    ```

    TRM and EqR are `Unroll(n)` of it with the gradient `Truncated(1)`, TRM with `mix = 1`, without
    noise and with one net for both levels. HRM has two nets and `through_last`.
    `eqloop.equilibrium` takes it with any other solver and gradient, and `eqloop.stability`
    measures it.

    **Arguments:**

    - `low`: the net of the low level, a function of an array.
    - `high`: the net of the high level; None for the same net.
    - `cycles`: steps of the low level in one cycle.
    - `mix`: share of the new value in a step.
    - `noise_std`: standard deviation of the noise of a step. It is drawn at each iteration of an
        `Unroll`, and is the same throughout a solve by any other solver (see `eqloop.PathNoise`).
    - `through_last`: whether derivatives are those of the last step of either level only: the
        state before the last low step is a constant.

    **Raises** `ValueError` for a number of cycles below 1.

    **Source:** TRM, arXiv 2510.04871; HRM, arXiv 2506.21734; EqR (github.com/locuslab/EqR).

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> f = eqloop.recursive.Recursion(lambda x: 0.4 * x, cycles=2)
    >>> z = eqloop.recursive.TwoLevels(jnp.zeros((1, 1)), jnp.zeros((1, 1)))
    >>> x = f.inject(jnp.ones((1, 1)))
    >>> print(f(z, x).z_L)                              # 0.4 (0.4 + 1)
    [[0.56]]
    >>> eq = eqloop.equilibrium(f, z, x, solver=eqloop.FixedPoint(1e-6))
    >>> print(f"{eq.state.z_H.item():.4f} {eq.state.z_L.item():.4f}")
    0.8000 1.2000

    ```
    """

    low: Net
    high: Net | None = None
    cycles: int = eqx.field(default=6, static=True)
    mix: float = eqx.field(default=1.0, static=True)
    noise_std: float = eqx.field(default=0.0, static=True)
    through_last: bool = eqx.field(default=False, static=True)

    def __check_init__(self):
        if self.cycles < 1:
            raise ValueError(f"cycles = {self.cycles} must be at least 1")

    def inject(
        self,
        e: Float[Array, "positions width"],
        noise: Float[Array, "iterations calls positions width"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Injection:
        """Return the input of the map.

        **Arguments:**

        - `e`: the embedding, shape `(positions, width)`.
        - `noise`: standard normal draws, shape `(iterations, cycles + 1, positions, width)`: of
            each iteration those of its low steps, then that of its high step.
        - `key`: draws the noise where it is not given; `jax.random.key(0)` by default.
        """
        key = jr.key(0) if key is None else key
        return Injection(e, noise, key, Iteration(jnp.zeros((), jnp.int32)))

    def __call__(self, z: TwoLevels, x: Injection) -> TwoLevels:
        draws = self._draws(x)

        def step(net, z, i, eps):
            new = net(z + i).astype(z.dtype)
            if self.mix != 1:
                new = (1 - self.mix) * z + self.mix * new
            return new if eps is None else new + self.noise_std * eps.astype(z.dtype)

        def many(net, z, e, eps, length):
            def body(z_L, eps):
                return step(net, z_L, z.z_H + e, eps), None

            z_L, _ = jax.lax.scan(body, z.z_L, eps, length=length)
            return TwoLevels(z.z_H, z_L)

        constant = self.cycles - 1 if self.through_last else 0
        early, late, last = (
            None if draws is None else draws[part]
            for part in (slice(constant), slice(constant, -1), -1)
        )
        if self.through_last:
            low, e, z = stop_gradient((self.low, x.e, z))
            z = stop_gradient(many(low, z, e, early, constant))
        z = many(self.low, z, x.e, late, self.cycles - constant)
        high = self.low if self.high is None else self.high
        return TwoLevels(step(high, z.z_H, z.z_L, last), z.z_L)

    def _draws(self, x: Injection) -> Float[Array, "calls positions width"] | None:
        if not self.noise_std:
            return None
        number = x.iteration.number
        if x.noise is not None:
            return x.noise[number]
        return jr.normal(jr.fold_in(x.key, number), (self.cycles + 1, *x.e.shape), x.e.dtype)


class SingleRecursion(eqx.Module):
    """One cycle of TRM with one level: `cycles` times `z <- net(z + e)`, then once `z <- net(z)`.

    **Arguments:**

    - `low`: the net, a function of an array.
    - `cycles`: steps with the input in one cycle.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> f = eqloop.recursive.SingleRecursion(lambda x: 0.5 * x, cycles=1)
    >>> z = eqloop.recursive.LowLevel(jnp.zeros((1, 1)))
    >>> print(f(z, f.inject(jnp.ones((1, 1)))).z_L)
    [[0.25]]

    ```
    """

    low: Net
    cycles: int = eqx.field(default=6, static=True)

    def inject(self, e, noise=None, key=None):
        """Return the input of the map: the embedding `e` itself."""
        del noise, key
        return e

    def __call__(self, z: LowLevel, x: Float[Array, "positions width"]) -> LowLevel:
        def body(z, _):
            return self.low(z + x), None

        z_L, _ = jax.lax.scan(body, z.z_L, length=self.cycles)
        return LowLevel(self.low(z_L))
