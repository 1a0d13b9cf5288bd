"""What a solve returns."""

import dataclasses
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Float, Int

Y = TypeVar("Y")


class RESULTS(optx.RESULTS):  # pyright: ignore[reportGeneralTypeIssues]
    """How a solve ended; `RESULTS[result]` is the message. Extends the results of Optimistix.

    Solvers and gradients of this package return these members:

    - `successful`: the solve reached its tolerance; the message is empty.
    - `not_converged`: the steps ended before it did.
    - `nonfinite`: a value of the loop is infinite or NaN.
    - `stagnation`, `max_steps_reached`: as `not_converged`, and the last linear solve of
        `NewtonKrylov` or `Chord` missed its tolerance; it stalled, or ran out of cycles.

    Compare with `==`, also under `jax.jit`; an array of results has a leading axis under `vmap`.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> f, solver = lambda z, x: 2 * z + x, eqloop.FixedPoint()     # repels from -1
    >>> eq = eqloop.equilibrium(f, jnp.zeros(()), jnp.ones(()), solver=solver, max_steps=8)
    >>> print(bool(eq.result == eqloop.RESULTS.not_converged), f"{eq.residual:.2f}")
    True 0.50
    >>> print(eqloop.RESULTS[eq.result].split(".")[0])
    The loop ended before its relative residual reached the tolerance

    ```
    """

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

    - `state`: the last iterate of `Unroll`. For any other solver, the iterate that met the
        tolerance, or the one of lowest relative residual; followed by the plain iterations that the
        gradient makes after it, except the last. A pytree like `z0`.
    - `steps`: steps of the solver plus the plain iterations that the gradient makes after it (at
        least one, except for `Backprop` through an `Unroll`).
    - `evaluations`: evaluations of f, products with its Jacobian included.
    - `residual`: `|f(z') - z'| / |f(z')|`, in the 2-norm, of the last evaluation. z' is `state`;
        for `Unroll` it is the iterate before `state`.
    - `result`: `RESULTS.successful` if the solve reached its tolerance; `RESULTS[result]` is the
        message.
    - `curve`: relative residuals of the solver's first steps, shape `(solver.curve,)`; None if
        `solver.curve` is 0.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> f, solver = lambda z, x: 0.5 * z + x, eqloop.FixedPoint(rtol=0.01, curve=3)
    >>> eq = eqloop.equilibrium(f, jnp.zeros(()), jnp.ones(()), solver=solver)
    >>> print(eq.state, eq.steps, eq.curve.round(3))        # z_t = 2 - 2^(1 - t), here t = 6
    1.96875 8 [1.    0.333 0.143]

    ```
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
    solve (`Backprop`, `Truncated`, `OneStep`, `Phantom`) report zeros, except that `Backprop`
    through `Reversible` reports the error of its states as `residual`. Reports of several solves
    are summed, as gradients are: a second derivative makes several solves. Solves for tangents
    (`jax.jvp`) report nothing.

    **Attributes:**

    - `residual`: `|(I - J)^T u - g| / |g|` of the u that was used.
    - `products`: number of vector-Jacobian products, including those of a fallback.
    - `gain`: `|u| / |g|`.
    - `cosine`: of the angle between u and g.
    - `fallback`: 1 if u is not the solution of the linear system, else 0; the next three say why.
    - `untrusted`: 1 if the relative residual of the loop exceeds `Implicit.trust`.
    - `missed`: 1 if the linear solve missed its tolerance.
    - `oversized`: 1 if the solution exceeds `Implicit.largest`.
    - `series`: 1 if u is that of `Implicit.fallback`, the damped series; a fallback that is not the
        series is the best iterate of the linear solve.

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
    products: Float[Array, ""]
    gain: Float[Array, ""]
    cosine: Float[Array, ""]
    fallback: Float[Array, ""]
    untrusted: Float[Array, ""]
    missed: Float[Array, ""]
    oversized: Float[Array, ""]
    series: Float[Array, ""]

    @classmethod
    def zeros(cls) -> "BackwardReport":
        """Return the probe to pass in: zeros."""
        return cls(*(jnp.zeros(()) for _ in dataclasses.fields(cls)))

    @classmethod
    def of(cls, **values: Array) -> "BackwardReport":
        """Return a report with these `values`, scalars by the name of their field, and zeros for
        the other fields."""
        return dataclasses.replace(cls.zeros(), **values)
