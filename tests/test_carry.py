"""Carried state: rows that continue over several optimiser steps."""

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
from eqloop._arrays import named_arrays
from eqloop._cross_entropy import cross_entropy
from eqloop.run import Spec, read_metrics, trained_iterations
from eqloop.train import TrainState, init_state, make_step, train
from eqloop.train._carry import Carry, no_rows
from eqloop.train._memory import memory_needed
from eqloop.train._state import skeleton
from eqloop.train._step import Order, put

BOTH = ("train.carry_steps=6", "train.carry_least=2", "train.carry_residual=0.3")
LAST = ("train.schedule=constant", "train.loss=last", "solver.steps=2", "task.augment=true")


def carry_of(state: TrainState) -> Carry:
    assert state.carry is not None
    return state.carry


def lives(spec: Spec, residuals: np.ndarray) -> dict[str, np.ndarray]:
    """The carry within each step, for residuals of shape (steps, batch), by the names of its
    arrays. Step n offers row i the example and the symmetry number n * batch + i."""
    batch = residuals.shape[1]

    def step(carry, now):
        number, residual = now
        offered = number * batch + jnp.arange(batch, dtype=jnp.int32)
        key = jr.fold_in(jr.key(0), number)
        carry = carry.begun(offered, jax.vmap(jr.key)(offered), key, spec.train)
        return carry.ended(carry.state + 1, residual, spec.train), carry

    steps = jnp.arange(len(residuals), dtype=jnp.int32)
    now = steps, jnp.asarray(residuals, jnp.float32)
    _, carries = eqx.filter_jit(jax.lax.scan)(step, no_rows(spec), now)
    return {name: np.asarray(array) for name, array in named_arrays(carries).items()}


# --- the rule


def test_rows_live_as_a_plain_loop_says():
    """Rows are replaced by residual and age, with drawn minimum ages; a residual that is not finite
    replaces no row."""
    spec = tiny_spec(*BOTH, "train.carry_random=0.4", "train.batch=32")
    residuals = np.random.default_rng(0).uniform(0, 1, (40, 32))
    residuals[5:9, 0] = np.nan
    carries = lives(spec, residuals)
    least_ages = []
    for row in range(32):
        age = example = born = least = 0
        for step in range(40):
            if age == 0:
                example, born, least = step * 32 + row, step, carries["least"][step, row]
                least_ages.append(least)
            now = [carries[name][step, row] for name in ("age", "example", "least")]
            assert now == [age, example, least]
            assert carries["key"][step, row, -1] == example
            most = 6 - row * 6 // 32 if born == 0 else 6
            age += 1
            if age >= most or (residuals[step, row] < 0.3 and age >= least):
                age = 0
    least_ages, counts = np.unique(least_ages, return_counts=True)
    assert least_ages.tolist() == [2, 3, 4, 5, 6]
    assert abs(counts[0] / counts.sum() - 0.6) < 0.1
    assert counts[1:].min() > 0.5 * counts[1:].max(), "uniform"


@pytest.mark.parametrize(("batch", "steps"), [(8, 4), (32, 6), (6, 4), (3, 16)])
def test_by_age_alone_as_many_are_replaced_at_every_step(batch, steps):
    spec = tiny_spec(f"train.batch={batch}", f"train.carry_steps={steps}")
    carries = lives(spec, np.zeros((3 * steps, batch)))
    began = np.sum(carries["age"] == 0, axis=1).tolist()
    assert began[0] == batch
    assert set(began[1:]) <= {batch // steps, -(-batch // steps)}
    assert sum(began[1 : steps + 1]) == batch


def test_by_residual_alone_a_row_stays_until_it_settles():
    """An age limit longer than the run has no effect."""
    spec = tiny_spec("train.carry_steps=1000", "train.carry_residual=0.5", "train.batch=3")
    residuals = np.ones((9, 3))
    residuals[4, 1] = residuals[6, 0] = 0.1
    carries = lives(spec, residuals)
    assert carries["age"][4:8].tolist() == [[4, 4, 4], [5, 0, 5], [6, 1, 6], [0, 2, 7]]


# --- the step


def step_by_step(spec: Spec, count: int):
    """Return the state before and after each of `count` steps, and the metrics."""
    task = Tiny(augment=True)
    step, order = make_step(spec, task), Order(0, 64, 8)
    data, state = put(task.load().splits["train"]), init_state(spec)
    for index in range(count):
        before = jax.tree.map(jnp.array, state)  # the step donates the memory of its arguments
        state, metrics = step(data, state, order(index))
        yield before, state, metrics


def test_n_steps_of_m_iterations_are_nm_iterations_and_the_gradient_is_of_the_last_m():
    """The weights stand still. The symmetry of a row stays the same; otherwise its state would
    belong to no input."""
    spec = tiny_spec(*LAST, "train.lr=1e-12", "train.carry_steps=3")
    split = Tiny(augment=True).load().splits["train"]

    def examples(carry):
        keys = carry.symmetries
        tokens, targets = (jnp.asarray(x)[carry.example] for x in (split.inputs, split.targets))
        tokens, targets = jax.vmap(Tiny().transform)(keys, tokens, targets)
        return jax.vmap(Tiny().encode)(tokens), targets

    @eqx.filter_jit
    def expected(model, carry, age):
        def advance(x, target, age):
            out = model(x, solver=eqloop.Unroll(2 * age, max_steps=6))
            return out.state, cross_entropy(out.logits, target)

        return jax.vmap(advance)(*examples(carry), age)

    @eqx.filter_jit
    def gradient(model, carry, is_new, states):
        def loss(model):
            def example_loss(x, target, is_new, state):
                start = jnp.where(is_new, model.embed(x), state)
                logits = model(x, start=start, solver=eqloop.Unroll(2)).logits
                return cross_entropy(logits, target)

            return jnp.mean(jax.vmap(example_loss)(*examples(carry), is_new, states))

        squares = [jnp.sum(leaf**2) for leaf in jax.tree.leaves(eqx.filter_grad(loss)(model))]
        return jnp.sqrt(sum(squares))

    ages = []
    for before, after, metrics in step_by_step(spec, 7):
        old, new = carry_of(before), carry_of(after)
        age = old.age + 1
        state, loss = expected(before.model, new, age)
        np.testing.assert_allclose(new.state, state, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(metrics["loss"], np.mean(loss), rtol=1e-4)
        norm = gradient(before.model, new, old.is_new, old.state)
        np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-3)
        assert metrics["age"] == np.mean(age)
        assert metrics["replaced"] == np.mean(new.age == 0)
        ages += age.tolist()
    assert set(ages) == {1, 2, 3}


def test_a_phase_of_one_step_per_example_is_training_without_a_carry():
    """The rows that begin together after that phase are not all replaced together."""
    off = tiny_spec(*LAST)
    phase = ("phases.1.until=3", "phases.1.train.carry_steps=1")
    spec = tiny_spec(*LAST, "train.carry_steps=3", *phase)
    assert spec.carries
    assert not off.carries
    assert init_state(off).carry is None
    assert not any(name.startswith("carry") for name in named_arrays(skeleton(off)))
    state, plain = init_state(spec), init_state(off)
    task, order = Tiny(augment=True), Order(0, 64, 8)
    data = put(task.load().splits["train"])
    first, then = (make_step(stage.spec, task) for stage in spec.stages)
    without = make_step(off, task)
    for index in range(3):
        plain, expected = without(data, plain, order(index))
        state, metrics = first(data, state, order(index))
        assert (metrics["age"], metrics["replaced"]) == (1, 1)
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
    for plain_leaf, carried_leaf in zip(
        *map(jax.tree.leaves, (plain.model, state.model)), strict=True
    ):
        np.testing.assert_allclose(plain_leaf, carried_leaf, rtol=1e-4, atol=1e-6)
    for index in range(3, 6):
        state, metrics = then(data, state, order(index))
        assert metrics["replaced"] in (0.25, 0.375)
    with pytest.raises(ValueError, match="state has no carry"):
        then(data, plain, order(0))


# --- runs


def test_killed_within_and_at_the_border_of_phases_it_resumes_bit_for_bit(tmp_path, monkeypatch):
    spec = tiny_spec(
        *BOTH,
        *("train.steps=8", "task.augment=true", "train.carry_random=0.3", "train.ema=0.9"),
        *("phases.1.until=3", "phases.1.solver.name=unroll", "train.checkpoint_every=100"),
        *("solver.gradient_restart=2", "solver.gradient_cycles=1", "solver.gradient_rtol=0.2"),
        solver="fixed-point",
    )
    task = Tiny(augment=True)
    whole = train(spec, task, tmp_path / "whole").run
    rows = [row for row in read_metrics(whole.metrics) if row["kind"] == "train"]
    assert all(row["age"] >= 1 and 0 <= row["replaced"] <= 1 for row in rows)
    assert max(row["age"] for row in rows) > 1
    new = 1.0
    for row in rows:
        mean = new * row["fallback_new"] + (1 - new) * row["fallback_carried"]
        assert mean == pytest.approx(row["fallback"])
        new = row["replaced"]
    assert len({row["fallback_carried"] for row in rows}) > 1

    stopped, order = tmp_path / "stopped", Order.__call__
    for number, stop in enumerate((3, 6)):

        def signalled(self, step, stop=stop):
            if step == stop - 1:
                signal.raise_signal(signal.SIGINT)
            return order(self, step)

        monkeypatch.setattr(Order, "__call__", signalled)
        outcome = train(None if number else spec, task, stopped, resume=bool(number))
        assert (outcome.status, outcome.step) == ("interrupted", stop)
    train(None, task, stopped, resume=True)
    path = whole.checkpoint(8).relative_to(whole.path)
    assert (stopped / path).read_bytes() == (whole.path / path).read_bytes()
    resumed_rows = [
        row for row in read_metrics(stopped / "metrics.jsonl") if row["kind"] == "train"
    ]
    for name in ("age", "replaced", "loss"):
        assert [row[name] for row in resumed_rows] == [row[name] for row in rows]

    continued = train(spec.with_steps(1), task, tmp_path / "from", start=whole.path).run
    first, _ = continued.load(0, skeleton(spec))
    assert not np.any(carry_of(first).age), "a run from another one begins with new rows"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["carry_steps=0"], "train.carry_steps must be at least 1"),
        (["carry_steps=1001"], "train.carry_steps must be at most 1000"),
        (["carry_steps=4", "carry_residual=-1"], "train.carry_residual must be at least 0"),
        (["carry_steps=4", "carry_random=2"], "train.carry_random must be in [0, 1]"),
        (["carry_residual=0.1"], "train.carry_residual = 0.1 has no effect with train.carry_steps"),
        (
            ["carry_steps=4", "carry_least=4", "carry_residual=0.1"],
            "train.carry_residual = 0.1 has no effect",
        ),
        (["carry_steps=4", "carry_least=2"], "train.carry_least = 2 has no effect without"),
        (["carry_steps=4", "carry_random=0.1"], "train.carry_random = 0.1 has no effect without"),
    ],
)
def test_each_mistake_gets_one_line(settings, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        tiny_spec(*(f"train.{setting}" for setting in settings))
    assert "\n" not in str(caught.value)


def test_what_follows_from_the_number_of_steps():
    """The spec determines the iterations that an example is trained for and the memory of the
    states."""
    spec = tiny_spec("train.carry_steps=5", "train.loss=last")
    assert trained_iterations(spec) == (4, 20)
    assert memory_needed(spec, 2)["carried states"] == 4 * 4 * 6 * 16
    assert "carried states" not in memory_needed(tiny_spec())
