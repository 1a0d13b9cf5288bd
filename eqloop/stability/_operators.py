"""The derivatives of a map as linear operators, without a matrix."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import PyTree

from .._iteration import Map
from .._linear import solve_identity_minus
from ._trees import subtract


def state_jacobian(f: Map, z: PyTree, x: PyTree) -> lx.FunctionLinearOperator:
    """The Jacobian `J = df/dz` at one state and input, as a linear operator without a matrix.

    **Arguments:**

    - `f`: the map, of a state and an input.
    - `z`: the state, a pytree of floating-point arrays.
    - `x`: the input, a pytree.

    **Returns:**

    A Lineax operator on vectors like `z`: `J.mv(v)` is the product `J v`, and `J.T` the transpose.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> w, z = jnp.array([[0.0, 2.0], [3.0, 0.0]]), jnp.ones(2)
    >>> jacobian = eqloop.stability.state_jacobian(lambda z, x: w @ z + x, z, x=z)
    >>> v = jnp.array([1.0, 0.0])
    >>> print(jacobian.mv(v), jacobian.T.mv(v))
    [0. 3.] [0. 2.]

    ```
    """

    def product(v: PyTree) -> PyTree:
        return jax.jvp(lambda z: f(z, x), (z,), (v,))[1]

    return lx.FunctionLinearOperator(product, jax.eval_shape(lambda: z))


def input_jacobian(f: Map, z: PyTree, x: PyTree) -> lx.FunctionLinearOperator:
    """The derivative `df/dx` at one state and input, as a linear operator without a matrix. It is
    the derivative with respect to the floating-point arrays of x.

    **Arguments:**

    - `f`, `z`, `x`: see `state_jacobian`.

    **Returns:**

    A Lineax operator from vectors like `eqx.filter(x, eqx.is_inexact_array)` to vectors like `z`;
    see `state_jacobian`.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> w = jnp.array([[0.0, 2.0], [3.0, 0.0]])
    >>> derivative = eqloop.stability.input_jacobian(lambda z, x: z + w @ x, w[0], w[1])
    >>> print(derivative.mv(jnp.array([1.0, 0.0])))
    [0. 3.]

    ```
    """
    floats, rest = eqx.partition(x, eqx.is_inexact_array)

    def product(v: PyTree) -> PyTree:
        return jax.jvp(lambda floats: f(z, eqx.combine(floats, rest)), (floats,), (v,))[1]

    return lx.FunctionLinearOperator(product, jax.eval_shape(lambda: floats))


class Jacobian(eqx.Module):
    """`v -> J v` for the Jacobian `J = df/dz`, an operator for `leading_eigenvalues`. It is called
    as `operator(z, x, v)`, with a state, an input and a vector like the state.

    **Arguments:**

    - `f`: the map, of a state and an input.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> w = jnp.array([[0.0, 2.0], [3.0, 0.0]])
    >>> operator = eqloop.stability.Jacobian(lambda z, x: w @ z + x)
    >>> print(operator(jnp.ones(2), jnp.ones(2), jnp.array([1.0, 0.0])))
    [0. 3.]

    ```
    """

    f: Map

    def __call__(self, z: PyTree, x: PyTree, v: PyTree) -> PyTree:
        return state_jacobian(self.f, z, x).mv(v)


class Gram(eqx.Module):
    """`v -> A^T A v` for `A = J` or `A = I - J`, called as `Jacobian` is. Its eigenvalues are the
    squares of the singular values of A.

    **Arguments:**

    - `f`: the map, of a state and an input.
    - `minus`: whether A is `I - J`.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> w = jnp.array([[0.0, 2.0], [3.0, 0.0]])
    >>> operator = eqloop.stability.Gram(lambda z, x: w @ z + x)
    >>> print(operator(jnp.ones(2), jnp.ones(2), jnp.array([1.0, 0.0])))       # 3 squared
    [9. 0.]

    ```
    """

    f: Map
    minus: bool = False

    def __call__(self, z: PyTree, x: PyTree, v: PyTree) -> PyTree:
        jacobian = state_jacobian(self.f, z, x)
        forward, backward = jacobian.mv, jacobian.T.mv
        if not self.minus:
            return backward(forward(v))
        w = subtract(v, forward(v))
        return subtract(w, backward(w))


class InverseGram(eqx.Module):
    """`v -> ((I - J)^T (I - J))^-1 v`, by two solves with GMRES, called as `Jacobian` is. NaN if a
    solve misses its tolerance. Its largest eigenvalue is `sigma_min(I - J)^-2`.

    **Arguments:**

    - `f`: the map, of a state and an input.
    - `rtol`: relative residual, in the 2-norm, that a solve must reach.
    - `restart`: maximum number of products with the Jacobian per cycle; uses this many copies of
        the state.
    - `cycles`: maximum number of cycles per solve.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> w = jnp.array([[0.5, 0.0], [0.0, 0.0]])
    >>> operator = eqloop.stability.InverseGram(lambda z, x: w @ z + x, rtol=1e-6)
    >>> print(operator(jnp.ones(2), jnp.ones(2), jnp.ones(2)).round(4))        # (1 - 0.5)^-2
    [4. 1.]

    ```
    """

    f: Map
    rtol: float
    restart: int = eqx.field(default=20, static=True)
    cycles: int = eqx.field(default=5, static=True)

    def __call__(self, z: PyTree, x: PyTree, v: PyTree) -> PyTree:
        jacobian = state_jacobian(self.f, z, x)
        for product in (jacobian.T.mv, jacobian.mv):
            solution = solve_identity_minus(
                product, v, rtol=self.rtol, restart=self.restart, cycles=self.cycles
            )
            v = jtu.tree_map(lambda a, ok=solution.solved: jnp.where(ok, a, jnp.nan), solution.u)
        return v
