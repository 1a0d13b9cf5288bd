"""The losses: after the last iteration, after a number that is drawn, or over all iterations."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from .._adjoint import AbstractGradient, Backprop, OneStep, Truncated
from .._cross_entropy import CROSS_ENTROPIES
from .._errors import InputError
from .._iteration import Count, advance, later, stop_gradient, trajectory
from .._model import AbstractLoopedModel, Output
from .._noise import PathNoise
from .._norms import relative_residual
from .._solution import RESULTS, BackwardReport
from .._solver import Solver, Unroll
from ._penalty import AbstractPenalty


class Examples(eqx.Module):
    """What the loop returned for each example of a batch: for the mean loss, the log and the
    states that a step carries on.

    **Attributes:**

    - `loss`: the loss of each example, of shape (batch,).
    - `cells`: share of cells that are right after the last iteration.
    - `iterations`: number of steps of the solver.
    - `evaluations`: number of evaluations of the loop.
    - `residual`: the last relative residual.
    - `converged`: whether it reached the tolerance of the solver.
    - `state`: the last state, detached, of shape (batch, *grid, width).
    - `q`: `q_halt` and `q_continue` in the last state, not detached, of shape (batch, 2); None for
      a model without a q head.
    - `right`: whether all cells are right after the last iteration; None without a q head.
    """

    loss: Float[Array, "*batch"]
    cells: Float[Array, "*batch"]
    iterations: Int[Array, "*batch"]
    evaluations: Int[Array, "*batch"]
    residual: Float[Array, "*batch"]
    converged: Bool[Array, "*batch"]
    state: Float[Array, "*batch_grid width"]
    q: Float[Array, "*batch 2"] | None = None
    right: Bool[Array, "*batch"] | None = None


def cells_right(
    logits: Float[Array, "*grid classes"], targets: UInt8[Array, "*grid"]
) -> Float[Array, ""]:
    """Share of cells whose likeliest class is the target."""
    return jnp.mean(_is_right(logits, targets), dtype=jnp.float32)


def _is_right(
    logits: Float[Array, "*grid classes"], targets: UInt8[Array, "*grid"]
) -> Bool[Array, "*grid"]:
    likeliest = jnp.argmax(logits, -1).astype(jnp.int32)
    return likeliest == targets.astype(jnp.int32)


def judged(
    model: AbstractLoopedModel,
    state: Float[Array, "*grid width"],
    logits: Float[Array, "*grid classes"],
    targets: UInt8[Array, "*grid"],
) -> dict[str, Array]:
    """What a q head says of the last state, and whether it should: the fields `q` and `right` of
    `Examples`, for a model that has one."""
    if (q := model.q_values(state)) is None:
        return {}
    return {"q": q, "right": jnp.all(_is_right(logits, targets))}


def draw(most: int, key: PRNGKeyArray) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """`n ~ U{0 .. most-1}` and `k ~ U{1 .. most-n}`."""
    n_key, k_key = jr.split(key)
    n = jr.randint(n_key, (), 0, most)
    return n, jr.randint(k_key, (), 1, most - n + 1)


class AbstractLoss(eqx.Module):
    """The loss of each example of a batch, after one or more numbers of iterations.

    A loss is called inside the compiled training step; its fields are constants of that program.

    ```python
    >>> import dataclasses, eqloop
    >>> class Scaled(eqloop.train.AbstractLoss):  # for eqloop.train.train(..., loss=Scaled(2.0))
    ...     factor: float
    ...
    ...     def __call__(self, *arguments, **options):
    ...         examples = eqloop.train.Last()(*arguments, **options)
    ...         return dataclasses.replace(examples, loss=self.factor * examples.loss)
    >>> Scaled(2.0)
    Scaled(factor=2.0)

    ```
    """

    @abc.abstractmethod
    def __call__(
        self,
        model: AbstractLoopedModel,
        probes: BackwardReport,
        inputs: Float[Array, "batch *grid channels"],
        targets: UInt8[Array, "batch *grid"],
        key: PRNGKeyArray,
        *,
        starts: Float[Array, "batch *grid width"] | None = None,
        solver: Solver,
        gradient: AbstractGradient,
        max_steps: Count,
    ) -> Examples:
        """The loss of each example, and what its loop returned.

        **Arguments:**

        - `model`: the model.
        - `probes`: one zero `BackwardReport` per example; their gradient is the report of each
          backward solve.
        - `inputs`: the encoded inputs, of shape (batch, *grid, channels).
        - `targets`: the class of each cell, of shape (batch, *grid).
        - `key`: for what is drawn, once for the whole batch.
        - `starts`: the initial states, of shape (batch, *grid, width); None for the embeddings of
          the inputs. Carried states and `solver.start` come this way: a loss that ignores them is
          refused.
        - `solver`, `gradient`: how the loop is run and differentiated.
        - `max_steps`: the most steps of a solver that converges. With a drawn budget it is traced,
          as is `solver.steps` of an `Unroll`.

        **Returns** an `Examples`.
        """


class Last(AbstractLoss):
    """The mean cross-entropy L after the last iteration, penalties on the loop at its state, and
    corrections of states on the way:

    ```
    L(z) + sum_j weight_j penalty_j(z) + sum_{i = 1 .. k} correction^i L(f(z_i))
    ```

    where `z_i` is where the solver is after `max_steps / 2^i` steps, a constant: one step of f is
    differentiated. The solver begins anew from each, and loses what it remembers of the steps
    before.

    **Source:** of the corrections, Bai et al. 2022, arXiv 2204.08442.

    **Arguments:**

    - `penalties`: terms that are added, each times its weight.
    - `share`: share of the steps that have penalties and corrections; drawn for the whole batch.
    - `path_noise`: standard deviation of the noise on the path (see `eqloop.PathNoise`), which
      every example and step draws for itself. The penalties and corrections are those of the
      loop without it.
    - `correction`: factor of the corrections, in [0, 1]; for solvers that converge.
    - `states`: their number k; `2^k` is at most `max_steps`.
    - `scores`: L has the probabilities "softmax" or "stablemax".

    ```python
    >>> import eqloop, jax, jax.numpy as jnp, jax.random as jr
    >>> model = eqloop.LoopedTransformer((8,), 1, 2, 8, 2, key=jr.key(0))
    >>> inputs, targets = jnp.zeros((4, 8, 1)), jnp.zeros((4, 8), jnp.uint8)
    >>> probes = jax.tree.map(lambda leaf: jnp.zeros(4, leaf.dtype), eqloop.BackwardReport.zeros())
    >>> options = {"solver": eqloop.Unroll(3), "gradient": eqloop.Backprop(), "max_steps": 3}
    >>> penalties = (eqloop.train.TerminalResidual(0.1),)
    >>> loss = lambda: eqloop.train.Last(penalties)(
    ...     model, probes, inputs, targets, jr.key(1), **options
    ... )
    >>> jax.eval_shape(loss).loss.shape
    (4,)

    ```
    """

    penalties: tuple[AbstractPenalty, ...] = ()
    share: float = eqx.field(default=1.0, static=True)
    path_noise: float = eqx.field(default=0.0, static=True)
    correction: float = eqx.field(default=0.0, static=True)
    states: int = eqx.field(default=1, static=True)
    scores: str = eqx.field(default="softmax", static=True)

    def __call__(
        self, model, probes, inputs, targets, key, *, starts=None, solver, gradient, max_steps
    ) -> Examples:
        share_key, penalty_key = jr.split(key)
        is_due = jr.uniform(share_key) < self.share
        budgets = self._budgets(max_steps)
        frozen = stop_gradient(model) if self.correction else model

        def one(x, wanted, probe, key, noise_key, start):
            way: list[Output] = []
            options = {"solver": solver, "path_noise": self.path_noise, "key": noise_key}
            for steps in budgets[:-1]:
                # Nothing is differentiated: this gradient only ends the solve by one iteration.
                way.append(frozen(x, start=start, gradient=OneStep(), max_steps=steps, **options))
                start = way[-1].state
            out = model(
                x, start=start, gradient=gradient, max_steps=budgets[-1], probe=probe, **options
            )
            loss = CROSS_ENTROPIES[self.scores](out.logits, wanted)
            if self.penalties or way:
                # One predicate for the batch: the other steps make no further evaluation.
                states = [part.state for part in way]
                loss += jax.lax.cond(
                    is_due,
                    lambda: self._terms(model, x, wanted, states, out.state, key),
                    lambda: jnp.zeros(()),
                )
            return Examples(
                loss=loss,
                cells=cells_right(out.logits, wanted),
                iterations=sum((part.steps for part in way), out.steps),
                evaluations=sum((part.evaluations for part in way), out.evaluations),
                residual=out.residual,
                converged=out.result == RESULTS.successful,
                state=jax.lax.stop_gradient(out.state),
                **judged(model, out.state, out.logits, wanted),
            )

        keys = jr.split(penalty_key, len(inputs))
        noise_keys = _noise_keys(self.path_noise, key, len(inputs))
        return jax.vmap(one)(inputs, targets, probes, keys, noise_keys, starts)

    def _budgets(self, max_steps: Count) -> list[Count]:
        """The steps from the start to the first state on the way, from each to the next, and from
        the last to the end."""
        if not self.correction:
            return [max_steps]
        ends = [max_steps // 2**i for i in range(self.states, 0, -1)]
        return [b - a for a, b in zip([0, *ends], [*ends, max_steps], strict=True)]

    def _terms(
        self,
        model: AbstractLoopedModel,
        x: Float[Array, "*grid channels"],
        wanted: UInt8[Array, "*grid"],
        way: list[Float[Array, "*grid width"]],
        state: Float[Array, "*grid width"],
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        """What is added to the loss of `state`: its penalties, and the corrections of `way`."""
        loop = model.loop()
        r, z = loop.inject(model.embed(x)), jax.lax.stop_gradient(state)
        total, cell_loss = jnp.zeros(()), CROSS_ENTROPIES[self.scores]
        for number, at in enumerate(reversed(way), 1):
            total += self.correction**number * cell_loss(model.coda(loop(at, r)), wanted)
        for number, penalty in enumerate(self.penalties):
            value = penalty(lambda z: loop(z, r), z, jr.fold_in(key, number))
            total += penalty.weight * value.astype(total.dtype)
        return total


class Progressive(AbstractLoss):
    """The paper's scheme: n iterations without gradient, then k with it, and `Last` after them.

    Both are drawn (see `draw`, with `most` = the steps of the `Unroll`) and traced: one program
    serves every draw. With another gradient than `Backprop` that one is taken at the end of the
    n + k iterations (`Truncated`: of at most k of them).

    **Arguments:**

    - `path_noise`, `scores`: see `Last`.

    ```python
    >>> import eqloop, jax, jax.numpy as jnp, jax.random as jr
    >>> model = eqloop.LoopedTransformer((8,), 1, 2, 8, 2, key=jr.key(0))
    >>> inputs, targets = jnp.zeros((4, 8, 1)), jnp.zeros((4, 8), jnp.uint8)
    >>> probes = jax.tree.map(lambda leaf: jnp.zeros(4, leaf.dtype), eqloop.BackwardReport.zeros())
    >>> options = {"solver": eqloop.Unroll(3), "gradient": eqloop.Backprop(), "max_steps": 3}
    >>> loss = lambda: eqloop.train.Progressive()(
    ...     model, probes, inputs, targets, jr.key(1), **options
    ... )
    >>> jax.eval_shape(loss).iterations.shape
    (4,)

    ```
    """

    path_noise: float = eqx.field(default=0.0, static=True)
    scores: str = eqx.field(default="softmax", static=True)

    def __call__(
        self, model, probes, inputs, targets, key, *, starts=None, solver, gradient, max_steps
    ) -> Examples:
        most = _steps(self, solver)
        n, k = draw(most, key)
        if isinstance(gradient, Backprop):
            gradient = Truncated(
                k, max_steps=most, keep=gradient.keep, checkpoints=gradient.checkpoints
            )
        elif isinstance(gradient, Truncated):
            steps = gradient.steps
            gradient = Truncated(
                jnp.minimum(k, steps), max_steps=gradient.max_steps or steps, keep=gradient.keep
            )
        drawn = Unroll(n + k, max_steps=most, rtol=solver.rtol)
        return Last(path_noise=self.path_noise, scores=self.scores)(
            model,
            probes,
            inputs,
            targets,
            key,
            starts=starts,
            solver=drawn,
            gradient=gradient,
            max_steps=max_steps,
        )


class Mean(AbstractLoss):
    """The cross-entropy after each iteration of an `Unroll`, all with gradient, averaged.

    **Arguments:**

    - `burn_in`: before them, up to this many iterations without gradient, drawn once for the whole
      batch.
    - `path_noise`, `scores`: see `Last`.

    ```python
    >>> import eqloop, jax, jax.numpy as jnp, jax.random as jr
    >>> model = eqloop.LoopedTransformer((8,), 1, 2, 8, 2, key=jr.key(0))
    >>> inputs, targets = jnp.zeros((4, 8, 1)), jnp.zeros((4, 8), jnp.uint8)
    >>> probes = jax.tree.map(lambda leaf: jnp.zeros(4, leaf.dtype), eqloop.BackwardReport.zeros())
    >>> options = {"solver": eqloop.Unroll(3), "gradient": eqloop.Backprop(), "max_steps": 3}
    >>> loss = lambda: eqloop.train.Mean()(
    ...     model, probes, inputs, targets, jr.key(1), **options
    ... )
    >>> jax.eval_shape(loss).state.shape
    (4, 8, 8)

    ```
    """

    burn_in: int = eqx.field(default=0, static=True)
    path_noise: float = eqx.field(default=0.0, static=True)
    scores: str = eqx.field(default="softmax", static=True)

    def __call__(
        self, model, probes, inputs, targets, key, *, starts=None, solver, gradient, max_steps
    ) -> Examples:
        steps = _steps(self, solver)
        keep = gradient.keep if isinstance(gradient, Backprop) else "marked"
        skipped = jr.randint(key, (), 0, self.burn_in + 1)
        loop = model.loop()
        f = PathNoise(loop, self.path_noise) if self.path_noise else loop

        def one(x, wanted, noise_key, start):
            e = model.embed(x)
            r = loop.inject(e)
            if isinstance(f, PathNoise):
                r = f.inject(r, noise_key)
            start = model.first_state(e) if start is None else start
            start = advance(f, start, r, skipped) if self.burn_in else start
            states = trajectory(f, start, later(r, skipped), steps, keep)
            # One iteration after another, rematerialised: the hidden layer of the coda for all of
            # them at once would be the largest array of the whole step.
            cell_loss = CROSS_ENTROPIES[self.scores]
            at = jax.checkpoint(lambda z: cell_loss(model.coda(z), wanted))
            losses = jax.lax.map(at, states)
            last, before = states[-1], states[-2] if steps > 1 else start
            residual = relative_residual(*jax.lax.stop_gradient((last, before)))
            logits = model.coda(jax.lax.stop_gradient(last))
            return Examples(
                loss=jnp.mean(losses),
                cells=cells_right(logits, wanted),
                iterations=skipped + steps,
                evaluations=skipped + steps,
                residual=residual,
                converged=residual <= solver.rtol,
                state=jax.lax.stop_gradient(last),
                **judged(model, last, logits, wanted),
            )

        noise_keys = _noise_keys(self.path_noise, key, len(inputs))
        return jax.vmap(one)(inputs, targets, noise_keys, starts)


def _noise_keys(path_noise: float, key: PRNGKeyArray, examples: int) -> PRNGKeyArray | None:
    """One key per example, apart from what the losses draw by themselves; None without noise."""
    return jr.split(jr.fold_in(key, 2), examples) if path_noise else None


def _steps(loss: AbstractLoss, solver: Solver) -> int:
    """The iterations of an `Unroll`. **Raises** `InputError` for another solver."""
    if isinstance(solver, Unroll) and isinstance(solver.steps, int):
        return solver.steps
    raise InputError(
        f"loss {type(loss).__name__} counts iterations, which solver {type(solver).__name__} does "
        "not have: use eqloop.Unroll, or the loss Last"
    )
