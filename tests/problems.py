"""The table of fixed-point problems, and the solvers and gradients that are tried on them.

A new problem is a line here; a new solver or gradient of the package is here by its row in
`eqloop.run`. Answers come from a dense Newton iteration in float64, gradients from the dense
`(I - J)^-T`: neither shares code with the library.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.flatten_util import ravel_pytree

import eqloop
from eqloop import nn, run
from eqloop._build import make_gradient, make_solver
from eqloop.run import SolverSpec


class Linear(eqx.Module):
    """`f(z, x) = A z + x`."""

    a: jax.Array

    def __call__(self, z, x):
        return self.a @ z + x


class Tanh(eqx.Module):
    w: jax.Array
    u: jax.Array

    def __call__(self, z, x):
        return jnp.tanh(self.w @ z + self.u @ x)


class Tree(eqx.Module):
    """A state in two parts of different shapes, each driven by the other."""

    rate: jax.Array

    def __call__(self, z, x):
        return {
            "a": 0.5 * jnp.sin(z["b"][0]) + x,
            "b": self.rate * jnp.outer(jnp.ones(2, x.dtype), z["a"]) + 0.1 * z["b"],
        }


@dataclasses.dataclass(frozen=True)
class Problem:
    """A problem `dtype -> (f, z0, x)`. `solvers` names those that must reach the fixed point ("all"
    for all); `rtol` is the tolerance they are given in float64."""

    name: str
    make: Callable[[Any], tuple[Any, Any, Any]]
    solvers: tuple[str, ...] = ("all",)
    rtol: float = 1e-11

    def reached_by(self, solver: str) -> bool:
        return "all" in self.solvers or solver in self.solvers


ACCELERATED = ("anderson", "broyden", "newton", "chord")


def spectrum(*blocks: Any, seed: int = 1) -> Callable[[Any], tuple[Any, Any, Any]]:
    """A linear map with the given blocks on the diagonal of its real Schur form, in a random
    orthonormal basis."""

    def make(dtype):
        d = jax.scipy.linalg.block_diag(*(jnp.atleast_2d(jnp.asarray(b, dtype)) for b in blocks))
        q, _ = jnp.linalg.qr(jr.normal(jr.key(seed), d.shape, dtype))
        x = jr.normal(jr.key(seed + 1), (len(d),), dtype)
        return Linear(q @ d @ q.T), jnp.zeros(len(d), dtype), x

    return make


def tanh_network(dtype):
    w_key, u_key = jr.split(jr.key(1))
    w = jr.normal(w_key, (5, 5), dtype)
    f = Tanh(0.7 * w / jnp.linalg.norm(w, 2), jr.normal(u_key, (5, 2), dtype))
    return f, jnp.zeros(5, dtype), jnp.array([0.3, -0.7], dtype)


def pytree(dtype):
    z0 = {"a": jnp.zeros(3, dtype), "b": jnp.zeros((2, 3), dtype)}
    return Tree(jnp.asarray(0.7, dtype)), z0, jnp.array([0.2, -0.1, 0.4], dtype)


def block(recall: Any, norm: Any, residual: Any = "add"):
    """The paper's block on a grid of 2 x 2 cells, with weights small enough to contract."""

    def make(dtype):
        block_map = nn.Block(
            8, 2, recall=recall, norm=norm, residual=residual, mlp_ratio=1, key=jr.key(3)
        )
        block_map = jax.tree.map(
            lambda leaf: (0.4 if leaf.ndim > 1 else 1.0) * leaf.astype(dtype),
            block_map,
            is_leaf=eqx.is_array,
        )
        e = jr.normal(jr.key(4), (2, 2, 8), dtype)
        return block_map, e, e

    return make


class Injected(eqx.Module):
    """A block as a map of the state and the embedding."""

    block: nn.Block

    def __call__(self, z, e):
        return self.block(z, self.block.inject(e))


def injected(*args, **kwargs):
    def make(dtype):
        wrapped, z0, e = block(*args, **kwargs)(dtype)
        return Injected(wrapped), z0, e

    return make


def turn(size: float, angle: float):
    c, s = size * jnp.cos(angle), size * jnp.sin(angle)
    return jnp.array([[c, -s], [s, c]])


PROBLEMS = [
    # All linear maps have one size, so that they share one program.
    Problem("contraction", spectrum(0.8, -0.6, 0.3, 0.1, -0.2)),
    Problem("rotation", spectrum(turn(0.9, 1.0), turn(0.7, 2.5), 0.2)),
    # Re < 1: the flow and the accelerated solvers reach it, plain iteration spirals away.
    # Its imaginary part is below (2 - b) / b = 3 too, up to which the reversible solver converges.
    Problem(
        "spiral",
        spectrum(turn(1.3, 1.8), 0.5, 0.2, -0.3),
        (*ACCELERATED, "steady-state", "reversible"),
    ),
    Problem("expanding", spectrum(3.0, -2.0, 0.5, 0.2, -0.3), ACCELERATED),
    Problem(
        "ill-conditioned",
        spectrum(1 - 1e-4, 0.5, -0.3, 0.2, -0.1),
        ("anderson", "broyden", "newton"),
    ),
    Problem("tanh", tanh_network, ("fixed-point", "anderson")),
    # test_solvers runs every solver on it in Optimistix, and test_gradients every gradient.
    Problem("pytree", pytree, ("fixed-point", "newton")),
    # Blocks: each recall, norm placement and residual once, and each class of solver once.
    Problem("external-pre", injected("external", "pre"), ("fixed-point",)),
    Problem("external-post", injected("external", "post"), ("chord",)),
    Problem("internal-post", injected("internal", "post"), ("steady-state",)),
    Problem("internal-sandwich", injected("internal", "sandwich"), ("broyden",)),
    Problem("none-post", injected("none", "post"), ("anderson",)),
    Problem("external-gru", injected("external", "peri", "gru"), ("newton",)),
]

SOLVERS: dict[str, Callable[[float], Any]] = {
    "fixed-point": lambda rtol: eqloop.FixedPoint(rtol),
    "damped": lambda rtol: eqloop.FixedPoint(rtol, damping=0.3),
    "anderson": lambda rtol: eqloop.Anderson(rtol, ridge=0.0),
    "broyden": lambda rtol: eqloop.Broyden(rtol),
    "newton": lambda rtol: eqloop.NewtonKrylov(rtol, forcing=1e-6),
    "chord": lambda rtol: eqloop.Chord(rtol, forcing=1e-6),
    "reversible": lambda rtol: eqloop.Reversible(rtol),
    "steady-state": lambda rtol: eqloop.SteadyState(
        rtol, controller=diffrax.PIDController(rtol=1e-4, atol=rtol, dtmax=1.0)
    ),
}

GRADIENTS: dict[str, Callable[[float], Any]] = {
    "backprop": lambda rtol: eqloop.Backprop(),
    "truncated": lambda rtol: eqloop.Truncated(4),
    "last-steps": lambda rtol: eqloop.Truncated(4, follow=True),
    "one-step": lambda rtol: eqloop.OneStep(),
    "phantom": lambda rtol: eqloop.Phantom(4, damping=0.3),
    "neumann": lambda rtol: eqloop.Neumann(4),
    "implicit": lambda rtol: eqloop.Implicit(rtol),
    "implicit-anderson": lambda rtol: eqloop.Implicit(rtol, solver=eqloop.Anderson(ridge=0.0)),
}

# A new row of the package is tested with its default settings until it has settings above.
for _name, _facts in run.SOLVERS.items():
    if _facts.converges:
        SOLVERS.setdefault(
            _name,
            lambda rtol, name=_name: make_solver(
                SolverSpec(name=name, rtol=rtol, gradient="implicit")
            ),
        )
for _name in run.GRADIENTS:
    GRADIENTS.setdefault(
        _name,
        lambda rtol, name=_name: make_gradient(SolverSpec(gradient=name, gradient_rtol=rtol)),
    )


@eqx.filter_jit
def dense_fixed_point(f, z, x):
    """Newton's method with a dense Jacobian, from `z`: `(z*, df/dz)`, both raveled."""
    flat, unravel = ravel_pytree(z)

    def raveled(v):
        return ravel_pytree(f(unravel(v), x))[0]

    def newton(_, v):
        j = jax.jacfwd(raveled)(v)
        return v + jnp.linalg.solve(jnp.eye(v.size, dtype=v.dtype) - j, raveled(v) - v)

    flat = jax.lax.fori_loop(0, 20, newton, flat)
    return flat, jax.jacfwd(raveled)(flat)


def weighted(z):
    """A loss that no symmetry of a state can make zero."""
    flat, _ = ravel_pytree(z)
    return jnp.arange(1, flat.size + 1, dtype=flat.dtype) @ flat


def inverse(jacobian):
    """`(I - J)^-1`."""
    return np.linalg.inv(np.eye(len(jacobian)) - jacobian)


def dense_gradient(f, z, x, matrix=inverse):
    """The gradient of `weighted(z*)` with respect to `(f, x)` where `(I - J)^-1` is `matrix(J)`,
    at `z*` refined from `z`."""
    flat, jacobian = dense_fixed_point(f, z, x)
    return _times_slope(f, z, x, flat, jnp.asarray(matrix(np.asarray(jacobian))))


@eqx.filter_jit
def _times_slope(f, z, x, flat, matrix):
    """`g^T matrix df/d(f, x)` at `flat`, for the gradient g of `weighted`."""
    unravel = ravel_pytree(z)[1]
    g = ravel_pytree(jax.grad(weighted)(unravel(flat)))[0]
    _, back = jax.vjp(lambda f, x: f(unravel(flat), x), f, x)
    return back(unravel(matrix.T @ g))
