"""What a solve returns."""

from typing import Any, Generic, TypeVar

import equinox as eqx
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Float, Int

Y = TypeVar("Y")


class RESULTS(optx.RESULTS):  # pyright: ignore[reportGeneralTypeIssues]
    """How a solve ended; `RESULTS[result]` is the message. Extends the results of Optimistix."""

    successful = ""
    not_converged = (
        "The loop ended before its relative residual reached the tolerance. Allow more steps, "
        "loosen rtol, or add damping; see `residual` for how far it got."
    )


def select(condition: Bool[Array, ""], a: Any, b: Any, kind: Any = RESULTS) -> Any:
    """`a` if the condition holds, else `b`: `kind.where`, typed.

    Equinox types its enumerations as `enum.Enum`, whose members are final and whose `where` takes
    `Self`; `Any` here replaces a type-ignore at every use.

    **Arguments:**

    - `condition`: a boolean scalar, which may be traced.
    - `a`, `b`: members of `kind`.
    - `kind`: the enumeration.
    """
    return kind.where(condition, a, b)


class Equilibrium(eqx.Module, Generic[Y]):
    """The state at the end of a loop, and how the solve ended. Under `vmap` every attribute gets a
    leading axis of examples.

    **Attributes:**

    - `state`: z, the last iterate.
    - `steps`: steps of the solver plus the plain iterations that the gradient makes after it (at
        least one, except for `Backprop` through an `Unroll`).
    - `evaluations`: evaluations of f, products with its Jacobian included.
    - `residual`: `|f(z') - z'| / |f(z')|`, in the 2-norm, of the last evaluation, whose value
        `f(z')` is `state`.
    - `result`: `RESULTS.successful` if the solve reached its tolerance; `RESULTS[result]` is the
        message.
    - `curve`: relative residuals of the solver's first steps, shape `(solver.curve,)`; None if
        `solver.curve` is 0.
    """

    state: Y
    steps: Int[Array, ""]
    evaluations: Int[Array, ""]
    residual: Float[Array, ""]
    result: RESULTS
    curve: Float[Array, " curve"] | None = None


class BackwardReport(eqx.Module):
    """Diagnostics of a backward solve, delivered as a *gradient*.

    A backward pass has no outputs of its own, so the report travels as the cotangent of an
    argument: pass `BackwardReport.zeros()` as `probe=` and differentiate with respect to it. It
    is pure, so it works under `jit`, `vmap` and on several devices. Gradients without a backward
    solve (`Backprop`, `Truncated`, `OneStep`, `Phantom`) report zeros. Reports of several solves
    are summed, as gradients are: a second derivative makes several solves. Solves for tangents
    (`jax.jvp`) report nothing.

    **Attributes:**

    - `residual`: `|(I - J)^T u - g| / |g|` of the u that was used.
    - `fallback`: 1 if the linear solve missed its tolerance, else 0. The backward pass then uses
        its best iterate or the one-step gradient u = g, whichever has the lower residual.
    - `products`: number of vector-Jacobian products, including two to choose a fallback.

    ```python
    >>> import eqloop, jax, jax.numpy as jnp
    >>> def loss(x, probe):
    ...     f = lambda z, x: 0.5 * jnp.tanh(z) + x
    ...     solver = eqloop.FixedPoint()
    ...     return eqloop.equilibrium(f, jnp.zeros(()), x, solver=solver, probe=probe).state
    >>> zeros = eqloop.BackwardReport.zeros()
    >>> gradient, report = jax.grad(loss, argnums=(0, 1))(jnp.ones(()), zeros)
    >>> print(bool(report.residual < 1e-3), float(report.fallback))
    True 0.0

    ```
    """

    residual: Float[Array, ""]
    fallback: Float[Array, ""]
    products: Float[Array, ""]

    @classmethod
    def zeros(cls) -> "BackwardReport":
        """Return the probe to pass in: three zeros."""
        return cls(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))
