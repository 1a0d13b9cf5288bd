"""Damped iteration whose damping grows while the residual does not fall."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, Int, PyTree

from .._iteration import Scalar, python_int
from .._norms import two_norm
from ._iterative import AbstractSolver, Iterate, Norm, Proposal
from ._traced import traced_float


class Damping(NamedTuple):
    """What `AdaptiveDamping` remembers of one example; a scalar each.

    **Attributes:**

    - `step_size`: share s of the new value in the next step.
    - `patience`: steps without a new minimum of the residual that are left until s shrinks.
    - `best_residual`: the smallest residual so far.
    - `residual`: the last residual; see `AdaptiveDamping.residual`.
    """

    step_size: Float[Array, ""]
    patience: Int[Array, ""]
    best_residual: Float[Array, ""]
    residual: Float[Array, ""]


class AdaptiveDamping(AbstractSolver):
    """`z <- s f(z, x) + (1 - s) z`, where s shrinks by a factor each time the residual stalls.

    After `patience` steps in a row without a new minimum of the residual, and while it is at least
    `rtol`, s is multiplied by `decay` from the next step on, and the patience is full again. The
    residual is the largest relative change of a cell (see `residual`). s is a constant for
    derivatives. When not to use it: if an eigenvalue of the Jacobian has a real part above one,
    where no damping converges.

    **Arguments:**

    - `rtol`, `atol`, `norm`, `curve`, `min_steps`: see `AbstractSolver`.
    - `step_size`: the initial s.
    - `decay`: the factor.
    - `patience`: the number of steps.

    **Raises** `ValueError` for an argument out of range.

    **Source:** fixed-point reasoning models (github.com/nilskiKonjIzDunava/fprm).

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> f = lambda z, x: -1.5 * z + x                   # diverges with s = 1
    >>> solver = eqloop.AdaptiveDamping(rtol=1e-5, decay=0.5, patience=2)
    >>> eq = eqloop.equilibrium(f, jnp.zeros(1), jnp.ones(1), solver=solver)
    >>> print(f"{eq.state.item():.4f}, {bool(eq.result == eqloop.RESULTS.successful)}")
    0.4000, True

    ```
    """

    rtol: Scalar = traced_float(1e-3)
    atol: Scalar = traced_float(0.0)
    step_size: Scalar = traced_float(1.0)
    decay: Scalar = traced_float(0.9)
    patience: int = eqx.field(default=5, static=True, converter=python_int)
    norm: Norm = eqx.field(default=two_norm, static=True)
    curve: int = eqx.field(default=0, static=True)

    def __check_init__(self):
        for name in ("step_size", "decay"):
            value = getattr(self, name)
            if isinstance(value, float) and not 0 < value <= 1:
                raise ValueError(f"AdaptiveDamping: {name} = {value} must be above 0 and at most 1")
        if self.patience < 1:
            raise ValueError(f"AdaptiveDamping: patience = {self.patience} must be at least 1")

    def start(self, f: Callable, z: PyTree) -> Damping:
        """Return the state before the first step, with full patience; `f` is not used."""
        del f
        dtype = two_norm(z).dtype
        inf = jnp.full((), jnp.inf, dtype)
        full = jnp.asarray(self.patience, jnp.int32)
        return Damping(jnp.asarray(self.step_size, dtype), full, inf, inf)

    def damp(self, z: PyTree, value: PyTree, state: Damping) -> tuple[PyTree, Damping]:
        """Return the next iterate and state, from an iterate `z` and `value = f(z)`.

        The step has the size of `state`; the new size acts from the next step on.
        """
        residual = cell_residual(value, z).astype(state.residual.dtype)
        is_new_minimum = residual < state.best_residual
        patience = jnp.where(is_new_minimum, self.patience, state.patience - 1)
        shrinks = (patience <= 0) & (residual >= jnp.asarray(self.rtol, residual.dtype))
        factor = jnp.where(shrinks, jnp.asarray(self.decay, residual.dtype), 1)

        def mix(new: Array, old: Array) -> Array:
            s = state.step_size.astype(old.dtype)
            return s * new + (1 - s) * old

        return jtu.tree_map(mix, value, z), Damping(
            step_size=state.step_size * factor,
            patience=jnp.where(shrinks, self.patience, patience),
            best_residual=jnp.where(is_new_minimum, residual, state.best_residual),
            residual=residual,
        )

    def propose(self, f: Callable, at: Iterate, state: Damping) -> Proposal:
        del f
        z, state = self.damp(at.z, at.value, state)
        return Proposal(z, state, 0)


def cell_residual(value: PyTree[Array], z: PyTree[Array]) -> Float[Array, ""]:
    """`max |value - z| / (max |value| + 1e-8)` with maxima over the features of a cell, the last
    axis; the largest over all cells and leaves, without a gradient."""

    def largest(new: Array, old: Array) -> Array:
        new, old = jax.lax.stop_gradient((jnp.atleast_1d(new), jnp.atleast_1d(old)))
        change = jnp.max(jnp.abs(old - new), axis=-1)
        return jnp.max(change / (jnp.max(jnp.abs(new), axis=-1) + 1e-8))

    leaves = jtu.tree_leaves(jtu.tree_map(largest, value, z))
    dtype = jnp.result_type(*leaves)
    return jnp.max(jnp.stack([leaf.astype(dtype) for leaf in leaves]))
