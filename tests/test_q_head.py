"""The q head in training: its loss, its gradient, and the rows that it ends."""

import dataclasses
import re
import signal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tiny_task import Tiny, tiny_spec

import eqloop
from eqloop import InputError
from eqloop._cross_entropy import cross_entropy
from eqloop.recursive import NestedTransformer
from eqloop.run import TrainSpec, read_metrics
from eqloop.sweep._cost import iterations
from eqloop.train import init_state, make_step, train
from eqloop.train._carry import no_rows
from eqloop.train._method import batch_loss, make_method
from eqloop.train._step import Order, put

MODEL = ("model.family=trm", "model.recall=internal", "model.attention=full", "model.q_head=true")
LOOP = ("solver.steps=2", "solver.gradient=truncated", "solver.gradient_steps=1")
TRAIN = ("train.loss=last", "train.schedule=constant", "train.q_weight=0.5", "model.cycles=1")
SETTINGS = (*MODEL, *LOOP, *TRAIN)
CARRY = ("train.carry_steps=4", "train.carry_q=compare", "train.carry_random=0.3")


def float64_model(key) -> NestedTransformer:
    """A small model whose q head has weights."""
    sizes = {"width": 8, "heads": 2, "layers": 1, "cycles": 1, "q_head": True}
    model = NestedTransformer("trm", (6,), 1, 2, **sizes, dtype=jnp.float64, key=key)
    assert model.q_head is not None
    drawn = jr.normal(key, (2, 8)), jnp.array([0.3, -0.4])
    return eqx.tree_at(lambda m: (m.q_head.weight, m.q_head.bias), model, drawn)


def batch(size: int = 8):
    split = Tiny().generate(size, 0)
    inputs = jax.vmap(Tiny().encode)(jnp.asarray(split.inputs))
    return inputs.astype(jnp.result_type(float)), jnp.asarray(split.targets)


def probes(size: int = 8) -> eqloop.BackwardReport:
    return jax.tree.map(lambda leaf: jnp.zeros(size, leaf.dtype), eqloop.BackwardReport.zeros())


# --- the loss


@pytest.mark.parametrize(("loss", "rule"), [("last", "compare"), ("mean", "halt")])
def test_the_loss_is_its_formula_and_has_its_gradient(loss, rule, x64):
    """By finite differences in float64, through all iterations. The answer of the first row is
    right: its target is 1."""
    settings = ["solver.gradient=backprop", f"train.loss={loss}", f"train.carry_q={rule}"]
    spec = tiny_spec(*MODEL, *LOOP[:1], *TRAIN, *settings, "train.carry_steps=3")
    method, model, (inputs, targets) = make_method(spec), float64_model(jr.key(1)), batch()
    ends = eqx.filter_jit(jax.vmap(lambda x: model(x, solver=eqloop.Unroll(2))))(inputs)
    targets = targets.at[0].set(jnp.argmax(ends.logits[0], -1).astype(jnp.uint8))
    is_last = jnp.arange(8) % 2 == 0

    def value(model):
        return batch_loss(model, probes(), inputs, targets, jr.key(0), method, None, is_last)

    def by_hand(model, frozen):
        def one(x, target, is_last):
            way = [model(x, solver=eqloop.Unroll(steps)) for steps in (1, 2)]
            losses = [cross_entropy(out.logits, target) for out in way]
            q_halt, q_continue = model.q_values(way[-1].state)
            likeliest = jnp.argmax(way[-1].logits, -1).astype(jnp.uint8)
            right = jnp.all(likeliest == target)
            total = jnp.mean(jnp.stack(losses)) if loss == "mean" else losses[-1]
            total += 0.5 * jnp.where(right, jnp.log1p(jnp.exp(-q_halt)), jnp.log1p(jnp.exp(q_halt)))
            if rule == "compare":
                later = frozen.q_values(frozen(x, solver=eqloop.Unroll(4)).state)
                wanted = jax.nn.sigmoid(jnp.where(is_last, later[0], jnp.max(later)))
                total += 0.5 * (jnp.log1p(jnp.exp(q_continue)) - wanted * q_continue)
            return total

        return jnp.mean(jax.vmap(one)(inputs, targets, is_last))

    value_and_grad = eqx.filter_jit(eqx.filter_value_and_grad(value, has_aux=True))
    (total, examples), slope = value_and_grad(model)
    assert examples.right is not None
    assert examples.right[0]
    assert not examples.right.all()
    direction = jax.tree.map(
        lambda leaf: jr.normal(jr.key(leaf.size), leaf.shape), eqx.filter(model, eqx.is_array)
    )

    @jax.jit
    def at(step):
        moved = jax.tree.map(lambda a, b: a + step * b, eqx.filter(model, eqx.is_array), direction)
        return by_hand(eqx.combine(moved, model), model)  # what is a target stands still

    np.testing.assert_allclose(total, at(0.0), rtol=1e-10)
    h = 1e-6
    wanted = (at(h) - at(-h)) / (2 * h)
    mine = sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), slope, direction)))
    np.testing.assert_allclose(mine, wanted, rtol=1e-7)


class Counted(eqx.Module):
    """A loop that counts its evaluations."""

    loop: eqx.Module
    calls: list[None] = eqx.field(static=True)

    def __call__(self, z, r):
        jax.debug.callback(lambda: self.calls.append(None))
        return self.loop(z, r)  # pyright: ignore[reportCallIssue]

    def inject(self, e):
        return self.loop.inject(e)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    "settings",
    [
        ("solver.name=unroll", "train.loss=mean", "solver.gradient=backprop"),
        ("solver.name=unroll", "train.loss=last", "solver.gradient=truncated"),
        ("solver.name=fixed-point", "train.loss=last", "solver.gradient=implicit"),
        ("solver.name=reversible", "train.loss=last", "solver.gradient=one-step"),
    ],
)
def test_the_cost_has_the_solve_for_the_target_of_q_continue(settings, monkeypatch):
    """It is what the evaluations of the loop in the loss have grown by."""
    size = ("solver.steps=5", "solver.max_steps=5", "solver.gradient_steps=2", "solver.rtol=1e-12")
    inputs, targets = batch(1)
    loop = NestedTransformer.loop
    counts, costs = [], []
    for rule in ("halt", "compare"):
        carry = f"train.carry_q={rule}", "train.carry_steps=4"
        spec = tiny_spec(*MODEL, *TRAIN, *size, *settings, *carry)
        calls = []
        monkeypatch.setattr(
            NestedTransformer, "loop", lambda self, calls=calls, **fold: Counted(loop(self), calls)
        )
        arguments = init_state(spec).model, probes(1), inputs, targets, jr.key(0)
        jax.block_until_ready(eqx.filter_jit(batch_loss)(*arguments, make_method(spec)))
        jax.effects_barrier()
        counts.append(len(calls))
        costs.append(iterations(spec))
    (halt, *others), (compare, *same) = costs
    assert compare - halt == counts[1] - counts[0] > 0
    assert same == others


def test_a_q_head_learns_what_is_right():
    """It begins at -5 in every state; its logs say how often it is right."""
    spec = tiny_spec(*SETTINGS, "train.lr=1e-2", "train.carry_steps=3")
    task = Tiny()
    data, step, state = put(task.load().splits["train"]), make_step(spec, task), init_state(spec)
    assert np.all(np.asarray(state.model.q_values(jnp.ones(spec.model.state_shape))) == -5)
    logs = []
    for _ in range(200):
        state, metrics = step(data, state, np.arange(8))
        logs.append({name: metrics[name].item() for name in ("right", "q_right", "q_loss")})
    right, q_loss = logs[0]["right"], logs[0]["q_loss"]
    assert q_loss == pytest.approx(np.log1p(np.exp(-5)) + 5 * right, rel=1e-5)
    assert logs[0]["q_right"] == 1 - right
    late = {name: np.mean([log[name] for log in logs[-20:]]) for name in logs[0]}
    assert late["right"] > 0.9
    assert late["q_right"] > 0.9
    assert late["q_loss"] < 0.3


# --- the rows


@pytest.mark.parametrize(
    ("rule", "ended"),
    [("none", [0, 0, 0, 0, 1]), ("halt", [1, 0, 0, 0, 1]), ("compare", [1, 0, 1, 0, 1])],
)
def test_rows_end_by_the_q_head_but_not_before_their_time(rule, ended):
    """The second must stay for longer, a value that is no number ends none, the last ends by
    age."""
    spec = tiny_spec(*SETTINGS, "train.batch=5", "train.carry_steps=4", f"train.carry_q={rule}")
    carry = no_rows(spec)
    assert carry is not None
    carry = dataclasses.replace(
        carry,
        age=jnp.array([1, 1, 1, 1, 3], jnp.int32),
        least=jnp.array([1, 3, 1, 1, 1], jnp.int32),
        most=jnp.full(5, 4, jnp.int32),
    )
    q = jnp.array([[1.0, 0.0], [1.0, 0.0], [-1.0, -2.0], [jnp.nan, 0.0], [-1.0, 0.0]])
    new = carry.ended(carry.state, jnp.ones(5), spec.train, q)
    assert new.is_new.tolist() == [bool(end) for end in ended]
    assert carry.is_last.tolist() == [False] * 4 + [True]


def test_killed_it_resumes_bit_for_bit(tmp_path, monkeypatch):
    """By age alone a quarter of the rows would end at every step: on both sides of the kill the q
    head ends others."""
    spec = tiny_spec(
        *(*SETTINGS, *CARRY, "train.lr=1e-2", "train.ema=0.9", "train.steps=20"),
        *("task.augment=true", "train.checkpoint_every=100", "train.validate_every=100"),
    )
    task = Tiny()
    whole = train(spec, task, tmp_path / "whole").run
    rows = [row for row in read_metrics(whole.metrics) if row["kind"] == "train"]
    assert max(row["replaced"] for row in rows[:12]) > 0.25
    assert max(row["replaced"] for row in rows[12:]) > 0.25
    stopped, order = tmp_path / "stopped", Order.__call__

    def signalled(self, step):
        if step == 11:
            signal.raise_signal(signal.SIGINT)
        return order(self, step)

    monkeypatch.setattr(Order, "__call__", signalled)
    assert train(spec, task, stopped).step == 12
    monkeypatch.undo()
    train(None, task, stopped, resume=True)
    path = whole.checkpoint(20).relative_to(whole.path)
    assert (stopped / path).read_bytes() == (whole.path / path).read_bytes()


# --- mistakes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.q_head=false"], "train.q_weight = 0.5 trains a q head, which the model does not"),
        (["train.q_weight=-1"], "train.q_weight must be at least 0"),
        (["train.loss=mine.py:Mine"], "train.q_weight = 0.5 is for the losses of the package"),
        (["train.carry_q=halt"], "train.carry_q = 'halt' has no effect with train.carry_steps = 1"),
        (["train.carry_q=stop"], "train.carry_q must be one of none, halt, compare"),
        ([*CARRY, "train.q_weight=0"], "train.carry_q = 'compare' needs a q head that is trained"),
        ([*CARRY, "train.carry_q=none"], "train.carry_random = 0.3 has no effect without"),
        (
            [*CARRY, "phases.1.until=2", "phases.1.train.carry_steps=1"],
            "phases.1: train.carry_q = 'compare' has no effect with train.carry_steps = 1",
        ),
    ],
)
def test_each_mistake_gets_one_line(settings, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        tiny_spec(*SETTINGS, *settings)
    assert "\n" not in str(caught.value)


def test_a_looped_transformer_has_none():
    with pytest.raises(InputError, match=r"model\.q_head = True has no effect on model\.family"):
        tiny_spec("model.q_head=true")
    assert TrainSpec().carry_q == "none"
