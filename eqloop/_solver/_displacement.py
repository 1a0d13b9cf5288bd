"""A step size controller for steady states: bounds the error by a share of the step."""

from collections.abc import Callable
from typing import Any

import diffrax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .._iteration import Scalar
from .._norms import two_norm
from ._traced import traced_float


class DisplacementController(diffrax.AbstractStepSizeController):
    """Accept a step from z to z' whose error estimate is a small share of the step itself.

    ```
    |error| <= share (|z' - z| + |error|) + eps |z'|        2-norms, eps of the state's dtype
    ```

    For steady states, where only the end of the trajectory matters. Diffrax' own controllers bound
    the error by a share of the *state*. Near rest, that allows steps at which stiff components are
    unstable, and the residual stays at the level of the tolerance; a stricter tolerance takes many
    short steps on the way. A share of the step decreases with the residual, keeps the step within
    the region of stability, and does not depend on the units of z. Each step is 0.2 to 10 times as
    long as the one before, chosen so that the error is just within the bound.

    **Arguments:**

    - `share`: bound on the error, as a share of the step, in (0, 1). With 0.1, Bosh3 is stable at
        every eigenvalue that the flow damps, including those near the imaginary axis.
    - `longest`: upper bound on the step size, in units of the flow's time.

    **Raises** `ValueError` if the solver does not estimate its error.
    """

    share: Scalar = traced_float(0.1)
    longest: Scalar = traced_float(1.0)

    def wrap(self, direction: Any) -> "DisplacementController":
        del direction
        return self

    def init(
        self,
        terms: PyTree,
        t0: Any,
        t1: Any,
        y0: PyTree,
        dt0: Any,
        args: Any,
        func: Callable,
        error_order: Any,
    ) -> tuple[Array, None]:
        del terms, t1, y0, args, func, error_order
        return t0 + jnp.minimum(dt0, jnp.asarray(self.longest, t0.dtype)), None

    def adapt_step_size(
        self,
        t0: Any,
        t1: Any,
        y0: PyTree,
        y1_candidate: PyTree,
        args: Any,
        y_error: PyTree | None,
        error_order: Any,
        controller_state: None,
    ) -> tuple[Any, Any, Any, bool, None, diffrax.RESULTS]:
        del args
        if y_error is None or error_order is None:
            raise ValueError(
                "SteadyState: its solver estimates no error, so that no step size can be adapted: "
                "give it a controller = diffrax.ConstantStepSize()"
            )
        error, size = two_norm(y_error), two_norm(y1_candidate)
        displacement = two_norm(jtu.tree_map(lambda a, b: a - b, y1_candidate, y0))
        share, longest = (jnp.asarray(s, error.dtype) for s in (self.share, self.longest))
        allowed = share * (displacement + error) + jnp.finfo(error.dtype).eps * size
        # Treat a NaN error as an infinite one.
        excess = jnp.where(error < jnp.inf, error / jnp.where(allowed > 0, allowed, 1), jnp.inf)
        accepted = excess <= 1
        # The error is O(h^p), so its share of the step is O(h^(p - 1)).
        factor = jnp.clip(0.9 * excess ** (-1 / max(error_order - 1, 1)), 0.2, 10)
        start = jnp.where(accepted, t1, t0)
        step = jnp.minimum(factor * (t1 - t0).astype(error.dtype), longest)
        return (
            accepted,
            start,
            start + step.astype(start.dtype),
            False,
            None,
            diffrax.RESULTS.successful,
        )
