"""Gradients that work on the cotangent of the fixed point, and on nothing else."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import PyTree

from .._iteration import stop_gradient, unroll
from .._solution import BackwardReport, Equilibrium
from .._solver import approach
from ._base import AbstractGradient
from ._finish import finish


class AbstractCotangentSolve(AbstractGradient):
    """A gradient that turns a cotangent g of z* into an approximation u of `(I - df/dz)^-T g`,
    which then goes on through one evaluation of f at z*.

    Memory does not depend on the number of iterations. The gradient with respect to z0 is zero.
    A new one is a file with one method.
    """

    @abc.abstractmethod
    def solve(
        self, product: Callable[[PyTree], PyTree], cotangent: PyTree
    ) -> tuple[PyTree, BackwardReport]:
        """`u`, where `product(u) = (df/dz)^T u`, and how well it went."""

    def run(self, f, z0, x, solver, *, max_steps, probe) -> Equilibrium:
        reached = approach(f, z0, x, solver, reserve=1, max_steps=max_steps)
        z, state = unroll(f, reached.state, x, 1)
        probe = BackwardReport.zeros() if probe is None else probe
        frozen = stop_gradient((f, z, x))
        state = _solve_cotangent((state, probe), self, *frozen)
        return finish(state, z, state, solver, reached, 1)


@eqx.filter_custom_vjp
def _solve_cotangent(
    state_and_probe: tuple[PyTree, BackwardReport],
    gradient: AbstractCotangentSolve,
    f: Any,
    z: PyTree,
    x: PyTree,
) -> PyTree:
    """The identity on the state, whose backward pass multiplies by `(I - df/dz)^-T`.

    Only the cotangent passes through it, never the gradient of a weight: so a `vmap` over
    examples does not make one gradient of the weights per example.
    """
    del gradient, f, z, x
    return state_and_probe[0]


@_solve_cotangent.def_fwd
def _forward(perturbed, state_and_probe, gradient, f, z, x):
    del perturbed, gradient, f, z, x
    return state_and_probe[0], None


@_solve_cotangent.def_bwd
def _backward(residuals, cotangent, perturbed, state_and_probe, gradient, f, z, x):
    del residuals, perturbed
    # A part of the state that the loss does not look at comes without a cotangent.
    cotangent = jtu.tree_map(lambda a, g: jnp.zeros_like(a) if g is None else g, z, cotangent)
    _, transpose = jax.vjp(lambda z: f(z, x), z)
    u, report = gradient.solve(lambda u: transpose(u)[0], cotangent)
    _, probe = state_and_probe
    return u, jtu.tree_map(lambda a, b: a.astype(b.dtype), report, probe)
