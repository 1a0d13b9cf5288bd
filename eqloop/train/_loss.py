"""The losses of one batch: after the last iteration, drawn at random, or over all of them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from .._adjoint import AbstractGradient, Backprop, Truncated
from .._build import make_gradient, make_solver
from .._cross_entropy import cross_entropy
from .._iteration import advance, trajectory
from .._model import LoopedTransformer
from .._norms import relative_residual
from .._solution import RESULTS, BackwardReport
from .._solver import Solver, Unroll
from ..run import SolverSpec, Spec


class Examples(eqx.Module):
    """What one loop returned for each example of a batch: reported, never fed back."""

    loss: Float[Array, "*batch"]
    cells: Float[Array, "*batch"]
    iterations: Int[Array, "*batch"]
    evaluations: Int[Array, "*batch"]
    residual: Float[Array, "*batch"]
    converged: Bool[Array, "*batch"]


def cells_right(
    logits: Float[Array, "*grid classes"], targets: UInt8[Array, "*grid"]
) -> Float[Array, ""]:
    """Share of cells whose likeliest class is the target."""
    return jnp.mean(jnp.argmax(logits, -1) == targets.astype(jnp.int32), dtype=jnp.float32)


def draw(most: int, key: PRNGKeyArray) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """`n ~ U{0 .. most-1}` and `k ~ U{1 .. most-n}`."""
    n_key, k_key = jr.split(key)
    n = jr.randint(n_key, (), 0, most)
    return n, jr.randint(k_key, (), 1, most - n + 1)


def progressive(spec: SolverSpec, key: PRNGKeyArray) -> tuple[Solver, AbstractGradient]:
    """The paper's scheme for one batch: n iterations without gradient, then k with it.

    Both are drawn (see `draw`, with `most` = `solver.steps`) and traced: one program serves every
    draw. With another gradient than `backprop` that one is taken at the end of the n + k
    iterations (`truncated`: of at most k of them).
    """
    most = spec.steps
    n, k = draw(most, key)
    gradient = make_gradient(spec)
    if isinstance(gradient, Backprop):
        gradient = Truncated(k, max_steps=most, checkpoints=gradient.checkpoints)
    elif isinstance(gradient, Truncated):
        gradient = Truncated(jnp.minimum(k, gradient.steps), max_steps=spec.gradient_steps)
    return Unroll(n + k, max_steps=most, rtol=spec.rtol), gradient


def batch_loss(
    model: LoopedTransformer,
    probes: BackwardReport,
    inputs: Float[Array, "batch *grid channels"],
    targets: UInt8[Array, "batch *grid"],
    key: PRNGKeyArray,
    spec: Spec,
) -> tuple[Float[Array, ""], Examples]:
    """The mean loss of a batch, and what happened in each example.

    **Arguments:**

    - `probes`: one zero `BackwardReport` per example; their gradient is the report of each
      backward solve.
    - `key`: draws the numbers of iterations, the same for the whole batch.
    """
    if spec.train.loss == "mean":
        examples = _mean_over_iterations(model, inputs, targets, key, spec)
        return jnp.mean(examples.loss), examples
    if spec.train.loss == "progressive":
        solver, gradient = progressive(spec.solver, key)
    else:
        solver, gradient = make_solver(spec.solver), make_gradient(spec.solver)

    def one(x, wanted, probe):
        out = model(
            x, solver=solver, gradient=gradient, max_steps=spec.solver.max_steps, probe=probe
        )
        return Examples(
            loss=cross_entropy(out.logits, wanted),
            cells=cells_right(out.logits, wanted),
            iterations=out.steps,
            evaluations=out.evaluations,
            residual=out.residual,
            converged=out.result == RESULTS.successful,
        )

    examples = jax.vmap(one)(inputs, targets, probes)
    return jnp.mean(examples.loss), examples


def _mean_over_iterations(model, inputs, targets, key, spec: Spec) -> Examples:
    """Cross-entropy after each of `solver.steps` iterations, all with gradient, averaged.

    Before them, up to `train.burn_in` iterations without gradient, as many for the whole batch.
    """
    steps, burn_in = spec.solver.steps, spec.train.burn_in
    skipped = jr.randint(key, (), 0, burn_in + 1)
    f = model.loop()

    def one(x, wanted):
        e = model.embed(x)
        r = f.inject(e)
        start = advance(f, e, r, skipped) if burn_in else e
        states = trajectory(f, start, r, steps)
        # One iteration after another, rematerialised: the hidden layer of the coda for all of
        # them at once would be the largest array of the whole step.
        losses = jax.lax.map(jax.checkpoint(lambda z: cross_entropy(model.coda(z), wanted)), states)
        last, before = states[-1], states[-2] if steps > 1 else start
        residual = relative_residual(*jax.lax.stop_gradient((last, before)))
        return Examples(
            loss=jnp.mean(losses),
            cells=cells_right(model.coda(jax.lax.stop_gradient(last)), wanted),
            iterations=skipped + steps,
            evaluations=skipped + steps,
            residual=residual,
            converged=residual <= spec.solver.rtol,
        )

    return jax.vmap(one)(inputs, targets)
