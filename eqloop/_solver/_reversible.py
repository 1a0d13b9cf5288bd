"""Reversible fixed-point iteration of two coupled states."""

from collections.abc import Callable

import equinox as eqx
import jax.tree_util as jtu
from jaxtyping import PyTree

from .._iteration import Scalar
from .._norms import two_norm
from ._iterative import AbstractSolver, Iterate, Norm, Proposal
from ._traced import traced_float


class Reversible(AbstractSolver):
    """Two coupled states that can be computed backwards, so that `Backprop` stores few of them.

    From `y_0 = z_0`, with the share b, `mix`, of each new value:

    ```
    y_{n+1} = (1 - b) y_n + b f(z_n)
    z_{n+1} = (1 - b) z_n + b f(y_{n+1})
    ```

    A step takes two evaluations. It converges to a fixed point of f at which the eigenvalues of the
    Jacobian lie in the ellipse of half-axes 1 (real) and `(2 - b) / b` (imaginary), slower than
    plain iteration where that converges: an eigenvalue l shrinks by `s^2` per step, where s is the
    larger root of `s^2 = b l s + 1 - b`.

    `Backprop` computes the states of earlier steps from those of later ones,

    ```
    z_n = (z_{n+1} - b f(y_{n+1})) / (1 - b)
    y_n = (y_{n+1} - b f(z_n)) / (1 - b)
    ```

    so that they need not be stored. But a loop that converges forgets its past, and going back
    amplifies rounding by up to `(1 - b)^-2` per step. Both states are therefore stored every k
    steps, which keeps half of their digits: in float32 k = 5 for b = 0.5, 37 for b = 0.1, 396 for
    b = 0.01; in float64 13, 85 and 896. Up to that error the gradient is exact. Memory is constant
    over k steps, and grows by two states every k steps beyond.

    When not to use it: if the loop converges, where `Implicit` needs less memory and `FixedPoint`
    fewer evaluations; for many steps with a large b, where `Unroll` with
    `Backprop(checkpoints=...)` is exact in as little memory; with any gradient but `Backprop`.

    **Arguments:**

    - `rtol`, `atol`, `norm`, `curve`, `min_steps`: see `AbstractSolver`. With `rtol=0.0` it makes
        `max_steps` steps.
    - `mix`: the share b, in (0, 1).

    **Raises** `ValueError` for an argument out of range.

    **Source:** McCallum, Arora and Foster 2025, arXiv 2509.12917.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> f = lambda z, x: jnp.cos(z) + x
    >>> solver = eqloop.Reversible(rtol=1e-5)
    >>> eq = eqloop.equilibrium(f, jnp.zeros(()), jnp.zeros(()), solver=solver)
    >>> print(f"{eq.state:.4f}, {bool(eq.result == eqloop.RESULTS.successful)}")
    0.7391, True

    ```
    """

    rtol: Scalar = traced_float(1e-3)
    atol: Scalar = traced_float(0.0)
    mix: float = eqx.field(default=0.5, static=True)
    norm: Norm = eqx.field(default=two_norm, static=True)
    curve: int = eqx.field(default=0, static=True)

    def __check_init__(self):
        if not 0 < self.mix < 1:
            raise ValueError(f"Reversible: mix = {self.mix} must be in (0, 1)")

    def start(self, f: Callable, z: PyTree) -> PyTree:
        """The state of the solver is y."""
        del f
        return z

    def propose(self, f: Callable, at: Iterate, state: PyTree) -> Proposal:
        y = self.blend(state, at.value)
        return Proposal(self.blend(at.z, f(y)), y, 1)

    def blend(self, old: PyTree, value: PyTree) -> PyTree:
        """`(1 - b) old + b value`."""
        return jtu.tree_map(lambda a, b: a + self.mix * (b - a), old, value)

    def unblend(self, new: PyTree, value: PyTree) -> PyTree:
        """The `old` of which `blend` makes `new`."""
        return jtu.tree_map(lambda a, b: b + (a - b) / (1 - self.mix), new, value)
