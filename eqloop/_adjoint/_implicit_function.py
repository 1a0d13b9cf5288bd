"""The fixed point as a function of the map and its input, differentiable in both modes and to any
order."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.core import ShapedArray
from jax.interpreters import ad
from jaxtyping import Array, Float, PyTree

from .._iteration import stop_gradient, with_derivatives_of
from .._norms import normalise, relative_residual, two_norm
from .._remat import rematerialised
from .._solution import BackwardReport


def fixed_point(
    gradient: Any, f: Any, z: PyTree, x: PyTree, probe: BackwardReport | None
) -> PyTree:
    """`f(z, x)` at a fixed point z of f, with the derivatives of the fixed point `z*(f, x)`.

    With theta the arrays of f, its tangent is

    ```
    dz* = (I - df/dz)^-1 dv,  dv = df/dtheta dtheta + df/dx dx
    ```

    where `gradient.solve` applies the inverse or its transpose. Both factors are functions of
    `(f, z*, x)`, so a second differentiation needs the derivatives of z* in them; see
    `_constant_at_first`.

    Ordinary differentiation of f at a constant z gives dv. The custom rule sees only the state's
    cotangent, never the weights; otherwise `vmap` would materialise one weight gradient per
    example, and a first reverse pass would need the forward mode of f.
    """
    z = _constant_at_first(gradient, f, z, x, probe)
    value = rematerialised(lambda z: f(z, x))(z)
    solve = _InverseSolve(gradient, relative_residual(*stop_gradient((value, z))))
    return _through_inverse(value, solve, f, z, x, probe)


class _InverseSolve(eqx.Module):
    """How `(I - df/dz)^-1` or its transpose is applied to a vector at a state of the loop."""

    gradient: Any
    residual: Float[Array, ""]

    def __call__(self, product: Callable, vector: PyTree) -> tuple[PyTree, BackwardReport]:
        u, report = self.gradient.solve(product, vector, self.residual)
        (unit_u, size), (unit_vector, scale) = normalise(u), normalise(vector)
        products = jtu.tree_map(lambda a, b: jnp.sum(a * b), unit_u, unit_vector)
        cosine = sum(jtu.tree_leaves(products), start=jnp.zeros((), size.dtype))
        gain = two_norm(u) / scale
        return u, dataclasses.replace(report, gain=gain, cosine=cosine)


@eqx.filter_custom_jvp
def _constant_at_first(gradient, f, z, x, probe):
    """z: a constant to the first differentiation, the fixed point to later ones."""
    del gradient, f, x, probe
    return z


@_constant_at_first.def_jvp
def _(primals, tangents):
    del tangents
    z = with_derivatives_of(fixed_point(*primals), primals[2])
    return z, jtu.tree_map(lambda _: None, z)


@eqx.filter_custom_jvp
def _through_inverse(value, solve, f, z, x, probe):
    """`value`, whose tangent is multiplied by `(I - df/dz)^-1`."""
    del solve, f, z, x, probe
    return value


@_through_inverse.def_jvp
def _(primals, tangents):
    value, solve, f, z, x, probe = primals
    vector, report_to = _dense(value, tangents[0]), _report_to(probe, tangents[-1])
    tangent, _ = _bind(solve, False, f, z, x, vector, report_to, probe)
    # After the first differentiation z carries the derivatives of the fixed point, so `value`,
    # which is f(z), must not add them a second time.
    return with_derivatives_of(z, value), tangent


def _report_to(probe: Any, tangent: Any) -> Any:
    """The tangent of the probe, or None if it is not differentiated."""
    return _dense(probe, tangent) if jtu.tree_leaves(tangent) else None


def _dense(primal: PyTree, tangent: PyTree) -> PyTree:
    """`tangent`, with None replaced by zeros."""
    return jtu.tree_map(eqxi.materialise_zeros, primal, tangent, is_leaf=lambda leaf: leaf is None)


# --- the linear solve, a primitive because its transpose writes the report


def _bind(
    solve: _InverseSolve,
    transposed: bool,
    f: Any,
    z: PyTree,
    x: PyTree,
    vector: PyTree,
    report_to: BackwardReport | None,
    probe: BackwardReport | None,
) -> tuple[PyTree, BackwardReport]:
    """`(I - J)^-1 vector` or `(I - J)^-T vector` for `J = df/dz (z, x)`, and a report on it.

    Linear in `vector` and in `report_to`; the result does not depend on the latter, whose
    cotangent is the report of the transposed solve. The solves of a second differentiation report
    to the `probe` of that differentiation.
    """
    # If `vmap` batches the Jacobian, it must batch the linear arguments as well: the transposed
    # solve then has one cotangent per example, and these are summed outside of it.
    batched = sum(
        (jnp.sum(leaf).astype(jnp.float32) for leaf in jtu.tree_leaves(z)),
        start=jnp.zeros((), jnp.float32),
    )
    vector, report_to = jtu.tree_map(
        lambda leaf: jnp.where(False, batched.astype(leaf.dtype), leaf), (vector, report_to)
    )
    return eqxi.filter_primitive_bind(
        _solve_p, solve, transposed, f, z, x, vector, report_to, probe
    )


def _product(transposed: bool, f: Any, z: PyTree, x: PyTree) -> Any:
    """`v -> J v`, or `v -> J^T v`, which needs only vector-Jacobian products of f."""
    if transposed:
        _, product = jax.vjp(lambda z: f(z, x), z)
        return lambda v: product(v)[0]
    return jax.linearize(lambda z: f(z, x), z)[1]


@eqxi.filter_primitive_def
def _impl(solve, transposed, f, z, x, vector, report_to, probe):
    del report_to, probe
    solution, report = solve(_product(transposed, f, z, x), vector)
    dtype = two_norm(vector).dtype
    return solution, jtu.tree_map(lambda leaf: leaf.astype(dtype), report)


@eqxi.filter_primitive_def
def _abstract_eval(solve, transposed, f, z, x, vector, report_to, probe):
    del solve, transposed, f, z, x, report_to, probe
    structs = jtu.tree_map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), vector)
    number = ShapedArray((), jax.eval_shape(two_norm, structs).dtype)
    return vector, jtu.tree_map(lambda _: number, BackwardReport.zeros())


@eqxi.filter_primitive_jvp
def _jvp(primals, tangents):
    solve, transposed, f, z, x, vector, _, probe = primals
    _, _, *moving, vector_tangent, _, probe_tangent = tangents
    solution, report = _bind(*primals)
    right_side = _dense(vector, vector_tangent)
    if jtu.tree_leaves(moving):
        # (I - J) s = v: (I - J) ds = dv + dJ s
        _, change = eqx.filter_jvp(
            lambda f, z, x: _product(transposed, f, z, x)(solution), (f, z, x), tuple(moving)
        )
        right_side = jtu.tree_map(lambda a, b: a + b, right_side, _dense(vector, change))
    report_to = _report_to(probe, probe_tangent)
    tangent, _ = _bind(solve, transposed, f, z, x, right_side, report_to, probe)
    return (solution, report), (tangent, jtu.tree_map(lambda _: None, report))


def _undefined(leaf: Any) -> bool:
    return isinstance(leaf, ad.UndefinedPrimal)


@eqxi.filter_primitive_transpose(materialise_zeros=True)  # pyright: ignore
def _transpose(inputs, cotangents):
    solve, transposed, f, z, x, vector, report_to, probe = inputs
    cotangent = _dense(z, cotangents[0])  # under `vmap`, zeros still arrive as None
    solution, report = _bind(solve, not transposed, f, z, x, cotangent, None, probe)

    def of_linear(linear, cotangent):
        return jtu.tree_map(
            lambda a, b: b.astype(a.aval.dtype) if _undefined(a) else None,
            linear,
            cotangent,
            is_leaf=_undefined,
        )

    no_cotangents = jtu.tree_map(lambda _: None, (solve, transposed, f, z, x))
    return (
        *no_cotangents,
        of_linear(vector, solution),
        None if report_to is None else of_linear(report_to, report),
        jtu.tree_map(lambda _: None, probe),
    )


_solve_p = eqxi.create_vprim("eqloop_solve", _impl, _abstract_eval, _jvp, _transpose)
