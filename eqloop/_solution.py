"""What a solve returns."""

from typing import Generic, TypeVar

import equinox as eqx
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float, Int

Y = TypeVar("Y")


class RESULTS(optx.RESULTS):  # pyright: ignore[reportGeneralTypeIssues]
    """How a solve ended; `RESULTS[result]` is the text. Extends those of Optimistix."""

    successful = ""
    not_converged = (
        "The loop ended before its relative residual reached the tolerance. Allow more steps, "
        "loosen rtol, or add damping; see `residual` for how far it got."
    )


class Equilibrium(eqx.Module, Generic[Y]):
    """The state at the end of a loop, and how it got there. Under `vmap` each is per example.

    **Attributes:**

    - `state`: z, the last iterate.
    - `steps`: steps of the solver, and the plain iterations that the gradient makes after it (at
        least one, for all but `Backprop` of an `Unroll`).
    - `evaluations`: evaluations of f on the way, products with its Jacobian included.
    - `residual`: `|f(z') - z'| / |f(z')|`, 2-norm, of the last evaluation, whose value
        `f(z')` is `state`.
    - `result`: `RESULTS.successful` where the solve reached its tolerance.
    - `curve`: the relative residuals of the solver's first steps, where it was asked to keep them
        (`curve=` of the solver), else None.
    """

    state: Y
    steps: Int[Array, ""]
    evaluations: Int[Array, ""]
    residual: Float[Array, ""]
    result: RESULTS
    curve: Float[Array, " curve"] | None = None


class BackwardReport(eqx.Module):
    """What happened in a backward solve, delivered as a *gradient*.

    A backward pass has no outputs of its own, so the report travels as the cotangent of an
    argument: pass `BackwardReport.zeros()` as `probe=` and differentiate with respect to it. It
    is pure, so it works under `jit`, `vmap` and on several devices. Without a backward solve
    (`Backprop`, `Truncated`, `OneStep`, `Phantom`) the gradient is zero. Reports of several solves
    add up, as gradients do: of those that a second derivative takes, say. Solves for tangents
    (`jax.jvp`) report nothing.

    **Attributes:**

    - `residual`: `|(I - J)^T u - g| / |g|` of the u that was used.
    - `fallback`: 1 where the linear solve missed its tolerance, else 0. What is used then is its
        best iterate or the one-step gradient u = g, whichever has the lower residual.
    - `products`: vector-Jacobian products that the solve took, two to choose a fallback included.
    """

    residual: Float[Array, ""]
    fallback: Float[Array, ""]
    products: Float[Array, ""]

    @classmethod
    def zeros(cls) -> "BackwardReport":
        """The probe to pass in."""
        return cls(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))
