"""The map of FPRM: a transformer whose residual streams are scaled so that it can settle."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..nn import DepthwiseConv, MixerBlock, rms_normalise
from ._states import OneState


class ScaledResidual(eqx.Module):
    """A map `f(z, e) -> z` of n blocks, with shares `a1 = sigmoid(alpha_1)` and `a2` likewise per
    feature, `t = a1^(2 n)`, `b2 = 1 - a2 t` and `b1 = b2 (1 - a1) / (1 - t + 1e-5)`:

    ```
    h <- conv(z)                        (the cells; the extra positions before them stay)
    h <- a2 h + b2 e
    h <- a1 h + b1 branch(rms(h))       (twice in each block)
    ```

    and with `norm = "output"` a norm at the end.

    **Arguments:**

    - `conv`: the convolution, or None.
    - `layers`: the blocks.
    - `alpha_1`, `alpha_2`: logits of the shares, shape `(width,)`.
    - `extra`: number of positions before the cells.
    - `board`: how the convolution sees the cells: their number along each axis, or None for the
        axes of the state itself.
    - `norm`: "none", "input" (after the convolution) or "output".
    - `eps`: see `eqloop.nn.rms_normalise`.

    **Source:** github.com/nilskiKonjIzDunava/fprm.

    ```python
    >>> import eqloop, jax.numpy as jnp, jax.random as jr
    >>> mixer, mlp = eqloop.nn.CellMLP(9, 4, key=jr.key(0)), eqloop.nn.SwiGLU(8, 4, key=jr.key(1))
    >>> layers, logits = (eqloop.nn.MixerBlock(mixer, mlp),), jnp.full(8, -20.0)
    >>> f = eqloop.recursive.ScaledResidual(None, layers, logits, logits)
    >>> z, e = jr.normal(jr.key(2), (2, 9, 8))
    >>> change = f(eqloop.recursive.OneState(z), e).z - f(eqloop.recursive.OneState(2 * z), e).z
    >>> print(jnp.abs(change).max() < 1e-5)             # a2 = 0 forgets the state
    True

    ```
    """

    conv: DepthwiseConv | None
    layers: tuple[MixerBlock, ...]
    alpha_1: Float[Array, " width"]
    alpha_2: Float[Array, " width"]
    extra: int = eqx.field(default=0, static=True)
    board: tuple[int, ...] | None = eqx.field(default=None, static=True)
    norm: str = eqx.field(default="none", static=True)
    eps: float = eqx.field(default=1e-5, static=True)

    def inject(self, e, noise=None, key=None):
        """Return the input of the map: the embedding `e` itself."""
        del noise, key
        return e

    def __call__(self, z: OneState, e: Float[Array, "positions width"]) -> OneState:
        shape = (*(1,) * (z.z.ndim - 1), -1)
        a1, a2 = (jax.nn.sigmoid(a).reshape(shape) for a in (self.alpha_1, self.alpha_2))
        t = a1 ** (2 * len(self.layers))
        b2 = 1 - a2 * t
        b1 = b2 * (1 - a1) / (1 - t + 1e-5)

        def join(h, branch, axis):
            normed = rms_normalise(h, eps=self.eps, axis=axis)
            return a1 * h + b1 * branch(normed).astype(h.dtype)

        h = self._convolved(z.z)
        if self.norm == "input":
            h = rms_normalise(h, eps=self.eps)
        h = a2 * h + b2 * e
        for layer in self.layers:
            h = layer(h, join)
        return OneState(rms_normalise(h, eps=self.eps) if self.norm == "output" else h)

    def _convolved(self, z: Float[Array, "positions width"]) -> Float[Array, "positions width"]:
        if self.conv is None:
            return z
        cells = z[self.extra :]
        grid = cells.shape[:-1] if self.board is None else self.board
        convolved = self.conv(cells.reshape(*grid, -1)).reshape(cells.shape)
        return jnp.concatenate([z[: self.extra], convolved.astype(z.dtype)])
