"""Fixed-point (Picard) iteration until it converges."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
import optimistix as optx
from jaxtyping import Array, Bool, Float, PyTree

from .._norms import two_norm


class _State(eqx.Module):
    difference: Float[Array, ""]
    size: Float[Array, ""]


class FixedPoint(optx.AbstractFixedPointSolver):
    """`z <- (1 - damping) f(z, x) + damping z` until `|f(z) - z| <= atol + rtol |f(z)|`, 2-norms.

    An Optimistix solver, also of use with `optimistix.fixed_point`; it differs from
    `optimistix.FixedPointIteration` in that its tolerance is on the relative residual of the
    whole state, not on each element. Converges where the spectral radius of
    `(1 - damping) J + damping I` is below one. When not to use it: where that radius is close to
    or above one.

    **Arguments:**

    - `rtol`, `atol`: the tolerance. In float32 an `rtol` below 1e-6 is not reached.
    - `damping`: in [0, 1).

    **Raises** `ValueError` for a damping outside [0, 1).
    """

    rtol: float = 1e-3
    atol: float = 0.0
    damping: float = 0.0
    norm: Any = eqx.field(default=two_norm, static=True)

    def __check_init__(self):
        if isinstance(self.damping, float) and not 0 <= self.damping < 1:
            raise ValueError(f"FixedPoint: damping = {self.damping} must be in [0, 1)")

    def relax(self, value: PyTree, z: PyTree) -> PyTree:
        """`(1 - damping) value + damping z`."""
        return jtu.tree_map(lambda a, b: a + self.damping * (b - a), value, z)

    def init(self, fn, y, args, options, f_struct, aux_struct, tags) -> _State:
        return _State(jnp.array(jnp.inf), jnp.array(0.0))

    def step(self, fn, y, args, options, state, tags) -> tuple[PyTree, _State, Any]:
        value, aux = fn(y, args)
        difference = jtu.tree_map(lambda a, b: a - b, value, y)
        return self.relax(value, y), _State(self.norm(difference), self.norm(value)), aux

    def terminate(self, fn, y, args, options, state, tags) -> tuple[Bool[Array, ""], optx.RESULTS]:
        # Optimistix itself looks for inf and nan, one step later.
        converged = state.difference <= self.atol + self.rtol * state.size
        return converged, optx.RESULTS.successful

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {}
