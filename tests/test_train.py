"""The step, the losses, the schedule and the loop."""

import dataclasses
import io
import json
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from report_example import an_evaluation
from rich.console import Console
from tiny_task import Tiny, make_task, tiny_spec

import eqloop
from eqloop import InputError
from eqloop._cross_entropy import cross_entropy
from eqloop._schema import from_table
from eqloop.run import Best, EvaluationRecord, Spec, open_run, read_metrics, trained_iterations
from eqloop.train import Diverged, _step, _trainer, init_state, make_step, train
from eqloop.train._loss import draw
from eqloop.train._method import batch_loss, make_method
from eqloop.train._state import make_optimiser, make_schedule, skeleton
from eqloop.train._step import METRICS, Order, put
from eqloop.train._trainer import Hook, Trainer, improves, validation_line


def batch(spec: Spec, size: int = 8):
    task = make_task("tiny", spec.task_fields)
    split = task.generate(size, 0)
    inputs = jax.vmap(task.encode)(jnp.asarray(split.inputs))
    return inputs, jnp.asarray(split.targets)


def probes(size: int = 8) -> eqloop.BackwardReport:
    return jax.tree.map(lambda leaf: jnp.zeros(size), eqloop.BackwardReport.zeros())


# --- order


def test_the_order_is_a_pure_function_of_seed_epoch_and_index():
    order = Order(3, 20, 6)
    first = [order(step).tolist() for step in range(9)]
    jumped = Order(3, 20, 6)
    assert [jumped(step).tolist() for step in (8, 0, 5)] == [first[8], first[0], first[5]]
    for epoch in range(3):
        examples = {example for part in first[3 * epoch : 3 * epoch + 3] for example in part}
        assert len(examples) == 18, "no example twice in an epoch"
    assert first[:3] != first[3:6]
    assert [Order(4, 20, 6)(step).tolist() for step in range(3)] != first[:3]


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(InputError, match=r"train\.batch = 9 exceeds the 8 training examples"):
        Order(0, 8, 9)


# --- schedule and optimiser


def test_the_schedule_of_the_paper():
    spec = tiny_spec("train.schedule=paper", "train.steps=8000", "train.epochs=100")
    rate = np.asarray(jax.vmap(make_schedule(spec.train))(jnp.arange(8000))) / spec.train.lr
    epoch = np.arange(8000) // 80
    expected = np.where(epoch < 10, 1 - np.exp(-(epoch + 1) / 10), 1.0)
    expected = np.where(epoch >= 60, 0.1, expected)
    np.testing.assert_allclose(rate, expected, rtol=1e-6)


def test_a_warm_up_to_a_constant_rate():
    """It counts from 1, as in the code of HRM: no step has the rate 0."""
    spec = tiny_spec("train.schedule=warmup-constant", "train.warmup=3", "train.steps=10")
    rate = np.asarray(jax.vmap(make_schedule(spec.train))(jnp.arange(10))) / spec.train.lr
    np.testing.assert_allclose(rate[:5], [0.25, 0.5, 0.75, 1, 1])


def test_adam_atan2_and_stablemax_train():
    """The first step of the optimiser is 0.997 lr in each weight with a gradient, whatever its
    size; its moments are those that a run can begin from."""
    settings = ["train.optimiser=adam-atan2", "train.scores=stablemax", "train.weight_decay=0"]
    spec = tiny_spec(*settings, "train.schedule=constant", "train.clip=0", "train.lr=1e-3")
    task = Tiny()
    data, step, before = put(task.load().splits["train"]), make_step(spec, task), init_state(spec)
    weights = np.asarray(before.model.coda.output.weight)
    after, metrics = step(data, before, np.arange(spec.train.batch))
    moved = np.abs(np.asarray(after.model.coda.output.weight) - weights)
    np.testing.assert_allclose(moved, 0.997e-3, rtol=1e-2)
    adamw = tiny_spec("train.schedule=constant", "train.clip=0")
    assert jax.tree.structure(skeleton(spec).optimiser) == jax.tree.structure(
        skeleton(adamw).optimiser
    )
    softmax = make_step(adamw, task)(data, init_state(adamw), np.arange(spec.train.batch))[1]
    assert metrics["loss"] != softmax["loss"]


def test_the_schedule_of_many_short_epochs():
    """The product steps x epochs does not fit into an int32."""
    spec = tiny_spec("train.schedule=paper", "train.steps=100_000", "train.epochs=30_000")
    steps = np.array([0, 17, 71_000, 72_000, 99_999])
    rate = np.asarray([make_schedule(spec.train)(step) for step in steps]) / spec.train.lr
    epoch = steps * 30_000 // 100_000
    expected = np.where(epoch < 3000, 1 - np.exp(-(epoch + 1) / 10), 1.0)
    np.testing.assert_allclose(rate, np.where(epoch >= 18_000, 0.1, expected), rtol=1e-6)


def test_warmup_and_cosine():
    spec = tiny_spec("train.steps=100", "train.warmup=9", "train.lr=1")
    rate = np.asarray(jax.vmap(make_schedule(spec.train))(jnp.arange(100)))
    np.testing.assert_allclose(rate[:9], np.arange(1, 10) / 10, rtol=1e-6)
    assert rate[9] == 1
    assert np.all(np.diff(rate[9:]) < 0)
    assert 0 < rate[-1] < 1e-3


def test_the_decay_spares_biases_and_gains():
    """With a zero gradient AdamW only decays: matrices shrink, and parameters of one axis stay."""
    spec = tiny_spec("train.schedule=constant", "train.lr=0.1", "train.weight_decay=0.5")
    state = init_state(spec)
    weights = eqx.filter(state.model, eqx.is_inexact_array)
    zero = jax.tree.map(jnp.zeros_like, weights)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = make_optimiser(spec.train).update(zero, state.optimiser, weights)
    for leaf, update in zip(jax.tree.leaves(weights), jax.tree.leaves(updates), strict=True):
        np.testing.assert_allclose(update, -0.05 * leaf if leaf.ndim > 1 else 0, rtol=1e-5)


# --- losses


def test_cross_entropy_is_the_mean_over_cells():
    logits = jr.normal(jr.key(0), (2, 3, 4))
    targets = jr.randint(jr.key(1), (2, 3), 0, 4).astype(jnp.uint8)
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -np.mean([np.log(chances[i, j, targets[i, j]]) for i in (0, 1) for j in range(3)])
    np.testing.assert_allclose(cross_entropy(logits, targets), expected, rtol=1e-5)


def test_the_mean_loss_is_the_mean_of_last_losses():
    spec = tiny_spec("train.loss=mean")
    inputs, targets = batch(spec)
    model = init_state(spec).model

    def value(spec):
        return batch_loss(model, probes(), inputs, targets, jr.key(0), make_method(spec))

    mean, mean_losses = value(spec)
    last_losses = [value(tiny_spec("train.loss=last", f"solver.steps={n}")) for n in (1, 2, 3, 4)]
    np.testing.assert_allclose(mean, np.mean([loss for loss, _ in last_losses]), rtol=1e-5)
    np.testing.assert_allclose(mean_losses.residual, last_losses[-1][1].residual, rtol=1e-4)
    assert mean_losses.iterations.tolist() == [4] * 8


def test_burn_in_runs_without_gradient_before_what_counts():
    spec = tiny_spec("train.loss=mean", "train.burn_in=5")
    inputs, targets = batch(spec)
    model = init_state(spec).model
    loss_by_steps = {}
    value, method = eqx.filter_jit(batch_loss), make_method(spec)
    for key in jr.split(jr.key(0), 20):
        loss, losses = value(model, probes(), inputs, targets, key, method)
        loss_by_steps[int(losses.iterations[0]) - 4] = float(loss)
    assert loss_by_steps.keys() <= set(range(6))
    assert len(loss_by_steps) > 3
    no_burn_in = make_method(tiny_spec("train.loss=mean"))
    plain, _ = value(model, probes(), inputs, targets, jr.key(0), no_burn_in)
    np.testing.assert_allclose(loss_by_steps[0], plain, rtol=1e-6)


def test_progressive_draws_what_the_paper_draws():
    """The means are 14.5 and 8.25 for T = 30."""
    n, k = map(np.asarray, jax.vmap(lambda key: draw(30, key))(jr.split(jr.key(0), 20_000)))
    assert (n.min(), n.max(), k.min(), k.max()) == (0, 29, 1, 30)
    assert (n + k).max() == 30
    np.testing.assert_allclose([n.mean(), k.mean()], [14.5, 8.25], rtol=0.02)


def test_progressive_is_n_iterations_without_and_k_with_gradient():
    few = ["train.loss=progressive"]
    spec = tiny_spec(*few)
    inputs, targets = batch(spec)
    model = init_state(spec).model
    keys = list(jr.split(jr.key(0), 20))
    draws = [tuple(map(int, draw(4, key))) for key in keys]
    n, k = next(pair for pair in draws if pair[0] > 0 and pair[1] > 1)
    key = keys[draws.index((n, k))]

    def by_hand(model):
        f = model.loop()

        def example_loss(x, target):
            e = model.embed(x)
            r, z = f.inject(e), e
            for _ in range(n):
                z = jax.lax.stop_gradient(f(z, r))
            for _ in range(k):
                z = f(z, r)
            return cross_entropy(model.coda(z), target)

        return jnp.mean(jax.vmap(example_loss)(inputs, targets))

    def by_loss(spec):
        method = make_method(spec)
        return lambda model: batch_loss(model, probes(), inputs, targets, key, method)[0]

    expected, actual, checkpointed = (
        eqx.filter_jit(eqx.filter_grad(f))(model)
        for f in (by_hand, by_loss(spec), by_loss(tiny_spec(*few, "solver.gradient_checkpoints=2")))
    )
    for a, b, c in zip(*map(jax.tree.leaves, (expected, actual, checkpointed)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(c, b, rtol=1e-5, atol=1e-7)


def compiled_gradient(spec):
    """The compiled gradient of the loss of one batch, and the weights that it takes."""
    inputs, targets = batch(spec)

    def loss(weights):
        model = eqx.combine(weights, static)
        return batch_loss(model, probes(), inputs, targets, jr.key(0), make_method(spec))[0]

    weights, static = eqx.partition(init_state(spec).model, eqx.is_array)
    return jax.jit(jax.grad(loss)).lower(weights).compile(), weights


@pytest.mark.usefixtures("compiled_anew")
def test_checkpoints_take_less_memory_where_the_loss_is_progressive():
    def bytes_of(*settings):
        spec = tiny_spec("train.loss=progressive", "solver.steps=64", *settings)
        memory = compiled_gradient(spec)[0].memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    assert bytes_of("solver.gradient_checkpoints=8") < 0.5 * bytes_of()


@pytest.mark.parametrize(
    "settings",
    [
        ("train.loss=progressive",),
        ("train.loss=mean",),
        ("train.loss=last",),
        ("train.loss=last", "solver.gradient=truncated", "solver.gradient_steps=8"),
        ("train.loss=last", "solver.name=anderson", "solver.gradient=backprop"),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("compiled_anew")
def test_products_that_are_kept_are_not_computed_again(settings):
    def compiled(keep):
        spec = tiny_spec("solver.steps=16", *settings, f"solver.gradient_keep={keep}")
        program, weights = compiled_gradient(spec)
        return program(weights), program.cost_analysis()["flops"]  # pyright: ignore

    (marked, more), (products, fewer) = compiled("marked"), compiled("products")
    assert fewer < 0.95 * more
    for a, b in zip(jax.tree.leaves(marked), jax.tree.leaves(products), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-6)


# --- the step

WAYS = {
    "mean": ["train.loss=mean", "train.burn_in=2", "train.ema=0.9"],
    "progressive": ["train.loss=progressive"],
    "implicit": ["solver.name=fixed-point", "solver.max_steps=20", "train.ema=0.5"],
    "truncated bf16": [
        "solver.gradient=truncated",
        "solver.gradient_steps=2",
        "model.precision=bfloat16",
    ],
    "untied": ["model.blocks=2", "model.recall=none", "solver.steps=1", "train.loss=last"],
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_one_program_serves_every_step(way, monkeypatch):
    """The step is traced once, whatever is drawn; the weights change and stay float32."""
    spec = tiny_spec("task.augment=true", *WAYS[way])
    traces = []
    _step._program.cache_clear()
    original = _step.batch_loss
    monkeypatch.setattr(_step, "batch_loss", lambda *a: (traces.append(1), original(*a))[1])
    task = make_task("tiny", spec.task_fields)
    step, order = make_step(spec, task), Order(0, 64, 8)
    data = put(task.load().splits["train"])
    before = init_state(spec)
    state = jax.tree.map(jnp.array, before)  # the step donates the memory of its arguments
    metrics = {}
    for index in range(4):
        state, metrics = step(data, state, order(index))
    assert len(traces) == 1
    assert state.step == 4
    assert metrics.keys() == set(METRICS)
    assert all(np.isfinite(float(value)) for value in metrics.values())
    assert metrics["grad_norm"] > 0
    for old, new in zip(jax.tree.leaves(before.model), jax.tree.leaves(state.model), strict=True):
        assert new.dtype == jnp.float32
        assert np.any(old != new)
    if state.ema is not None:
        assert np.any(state.ema.prelude.weight != state.model.prelude.weight)


@pytest.mark.usefixtures("compiled_anew")
def test_the_memory_of_the_state_is_given_to_the_next_one():
    """All of it is donated and nothing else: an unusable donation is a warning, and here an
    error."""
    spec = tiny_spec("train.ema=0.9", "model.precision=bfloat16")
    task = make_task("tiny", spec.task_fields)
    data, state = put(task.load().splits["train"]), init_state(spec)
    begin = jnp.zeros((), jnp.int32)
    fixed = _step._Fixed(data, jnp.arange(8), jax.random.key(0), jnp.ones(()), begin)
    program = _step._program(spec.of_all_seeds, task, None, None).lower(fixed, state).compile()
    arrays = [leaf for leaf in jax.tree.leaves(state) if eqx.is_array(leaf)]
    assert program.compiled.as_text().count("may-alias") == len(arrays)
    floats = {a.dtype for a in arrays if jnp.issubdtype(a.dtype, jnp.inexact)}
    assert floats == {
        jnp.dtype("float32")
    }  # master weights, their average, the optimiser's moments


def test_the_share_of_fallback_gradients_is_told():
    """One matrix product cannot solve the backward system to 1e-6: every gradient falls back."""
    fallback = {}
    for rtol, restart, cycles in ((1e-6, 1, 1), (1e-2, 10, 5)):
        spec = tiny_spec(
            "solver.name=fixed-point",
            f"solver.gradient_rtol={rtol}",
            f"solver.gradient_restart={restart}",
            f"solver.gradient_cycles={cycles}",
        )
        task = make_task("tiny", spec.task_fields)
        data = put(task.load().splits["train"])
        _, metrics = make_step(spec, task)(data, init_state(spec), Order(0, 64, 8)(0))
        fallback[restart] = float(metrics["fallback"])
    assert fallback == {1: 1.0, 10: 0.0}


def test_seeds_and_rates_share_one_program(monkeypatch):
    """Seed and rate are runtime values: the step is traced once for three runs that differ."""
    traces = []
    _step._program.cache_clear()
    original = _step.batch_loss
    monkeypatch.setattr(_step, "batch_loss", lambda *a: (traces.append(1), original(*a))[1])
    weights = []
    for setting in ("train.seed=0", "train.seed=1", "train.lr=0.02"):
        spec = tiny_spec("train.loss=progressive", setting)
        task = make_task("tiny", spec.task_fields)
        step, data = make_step(spec, task), put(task.load().splits["train"])
        state, metrics = step(data, init_state(tiny_spec()), Order(0, 64, 8)(0))
        weights.append(float(state.model.prelude.weight[0, 0]))
        assert metrics["lr"] == make_schedule(spec.train)(0)
    assert len(traces) == 1
    assert len(set(weights)) == 3


def test_adamw_is_optax_adamw():
    """The step equals that of a plain loop written with optax."""
    spec = tiny_spec("train.loss=last", "train.schedule=constant", "train.clip=0.1")
    task = make_task("tiny", spec.task_fields)
    order = Order(0, 64, 8)
    step, data = make_step(spec, task), put(task.load().splits["train"])
    state = init_state(spec)
    model = jax.tree.map(jnp.array, state.model)
    mask = jax.tree.map(lambda leaf: leaf.ndim > 1, model)
    optimiser = optax.chain(
        optax.clip_by_global_norm(0.1),
        optax.adamw(spec.train.lr, weight_decay=0.01, mask=mask),
    )
    memory = optimiser.init(eqx.filter(model, eqx.is_array))  # pyright: ignore[reportArgumentType]

    def objective(model, index):
        def example_loss(tokens, targets):
            out = model(task.encode(tokens), solver=eqloop.Unroll(4))
            return cross_entropy(out.logits, targets)

        return jnp.mean(
            jax.vmap(example_loss)(
                jnp.asarray(data.inputs[index]), jnp.asarray(data.targets[index])
            )
        )

    differentiate = eqx.filter_jit(eqx.filter_grad(objective))
    for n in range(3):
        state, _ = step(data, state, order(n))
        gradient = differentiate(model, order(n))
        with jax.numpy_dtype_promotion("standard"):
            updates, memory = optimiser.update(gradient, memory, eqx.filter(model, eqx.is_array))
        model = eqx.apply_updates(model, updates)
    for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(state.model), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)


# --- the loop


def test_validation_iterates_as_often_as_training_may(tmp_path):
    for settings, most in (
        (["solver.name=anderson", "solver.max_steps=7"], 7),
        (["train.loss=progressive"], 4),
        (["train.burn_in=5"], 9),
        (["train.loss=last", "phases.1.until=3", "phases.1.solver.steps=2"], 4),
        (["train.loss=last", "phases.1.until=1", "phases.1.solver.steps=6"], 6),
    ):
        spec = tiny_spec("train.steps=1", "train.validation_iterations=0", *settings)
        assert trained_iterations(spec)[1] == most
    train(spec, Tiny(), tmp_path / "run")
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert next(row for row in rows if row["kind"] == "validation")["iterations"][-1] == most


def run(path, *settings, **options):
    spec = tiny_spec("train.validate_every=10", "train.checkpoint_every=7", *settings)
    return train(spec, make_task("tiny", spec.task_fields), path, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "run"
    console = Console(record=True, width=200, file=io.StringIO())
    outcome = run(path, "train.tracker=tensorboard", console=console)
    return outcome, console.export_text()


def test_a_run_is_what_it_says(trained):
    outcome, output = trained
    path = outcome.run.path
    assert (outcome.status, outcome.step) == ("finished", 20)
    rows = read_metrics(path / "metrics.jsonl")
    steps = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in steps] == list(range(1, 21))
    assert set(METRICS) | {"examples_per_s", "seconds", "epoch"} <= steps[0].keys()
    validations = [row for row in rows if row["kind"] == "validation"]
    assert [row["step"] for row in validations] == [10, 20]
    assert validations[0]["iterations"][-1] == 24
    assert json.loads((path / "data.json").read_text())["task"] == "tiny"
    assert outcome.run.steps()[-1] == 20
    assert outcome.best.step in outcome.run.steps()
    assert "step 20: validation after 24 iterations: exact" in output
    assert list((path / "tensorboard").glob("events*"))


def test_the_best_is_the_first_of_the_highest(trained):
    outcome, _ = trained
    rows = [row for row in read_metrics(outcome.run.metrics) if row["kind"] == "validation"]
    ranks = [(row["exact"][-1], row["cells"][-1]) for row in rows]
    assert outcome.best.step == rows[ranks.index(max(ranks))]["step"]


@pytest.mark.parametrize(
    ("exact", "cells", "better"),
    [(0.6, 0.1, True), (0.5, 0.9, True), (0.5, 0.8, False), (0.5, 0.7, False), (0.4, 1.0, False)],
)
def test_what_improves(exact, cells, better):
    best = Best(cells=0.8, exact=0.5, step=10)
    assert improves({"exact": exact, "cells": cells}, best) is better
    assert improves({"exact": 0.0, "cells": 0.0}, None)


def test_when_a_hook_is_due():
    def steps(every: int, at_end: bool) -> list[int]:
        hook = Hook(every, lambda: False, at_end=at_end)
        return [step for step in range(1, 8) if hook.is_due(step, 7)]

    assert steps(3, False) == [3, 6]
    assert steps(3, True) == [3, 6, 7]
    assert steps(0, False) == []


def test_what_follows_each_step(tmp_path, monkeypatch):
    """Validation, audit and checkpoint follow in this order, each after all steps so far are
    logged; the best validation so far is saved."""
    calls = []

    def recorded(name: str, better_at: int = 0):
        def action(self):
            assert not self.pending
            calls.append((self.done, name))
            return self.done == better_at

        return action

    metrics = dict.fromkeys(METRICS, jnp.zeros(()))
    step = lambda data, state, order: (state, metrics)  # noqa: E731
    monkeypatch.setattr(_trainer, "make_step", lambda *arguments, **options: step)
    monkeypatch.setattr(Trainer, "_validate", recorded("validate", better_at=4))
    monkeypatch.setattr(Trainer, "_audit", recorded("audit"))
    monkeypatch.setattr(Trainer, "_save", recorded("save"))
    every = ("train.validate_every=2", "train.audit_every=3", "train.checkpoint_every=3")
    spec = tiny_spec("train.steps=7", *every)
    outcome = train(spec, make_task("tiny", spec.task_fields), tmp_path / "run")
    assert (outcome.status, outcome.step) == ("finished", 7)
    assert calls == [
        *((2, "validate"), (3, "audit"), (3, "save"), (4, "validate"), (4, "save")),
        *((6, "validate"), (6, "audit"), (6, "save"), (7, "validate"), (7, "save")),
    ]


def test_a_score_by_the_name_of_another_quantity_is_refused():
    evaluation = from_table(EvaluationRecord, an_evaluation([0.5, 0.75])).evaluation
    line = validation_line(3, "validation", evaluation, True)
    assert (line.scores["exact"], line.best) == ([0.5, 0.75], True)
    scores = {**evaluation.overall.scores, "residual": [0.0, 0.0]}
    overall = dataclasses.replace(evaluation.overall, scores=scores)
    misnamed = dataclasses.replace(evaluation, overall=overall)
    with pytest.raises(InputError, match="score 'residual', which is the name of another"):
        validation_line(3, "validation", misnamed, True)


def test_the_loss_falls(trained):
    rows = read_metrics(trained[0].run.metrics)
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_a_finished_run_has_nothing_left_to_do(trained):
    path = trained[0].run.path
    before = {file: file.read_bytes() for file in path.glob("checkpoints/*")}
    outcome = train(None, Tiny(), path, resume=True)
    assert (outcome.status, outcome.step, outcome.best) == ("finished", 20, trained[0].best)
    assert {file: file.read_bytes() for file in path.glob("checkpoints/*")} == before


def test_a_run_is_not_written_over(trained):
    with pytest.raises(InputError, match="a run already"):
        run(trained[0].run.path)


def test_resuming_with_another_spec_or_other_data_is_refused(trained):
    path = trained[0].run.path
    spec = trained[0].run.spec
    longer = dataclasses.replace(spec, train=dataclasses.replace(spec.train, steps=30))
    with pytest.raises(InputError, match=r"begun with another spec \(train.steps: 20 -> 30\)"):
        train(longer, Tiny(), path, resume=True)
    with pytest.raises(InputError, match=r"the data has changed .*'fields'"):
        train(spec, Tiny(rows=32), path, resume=True)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    path = tmp_path / "run"

    spec = tiny_spec("train.checkpoint_every=2", "train.schedule=constant", "train.lr=1e30")
    with pytest.raises(Diverged) as caught:
        train(spec, Tiny(), path)
    message = str(caught.value)
    assert "at step" in message
    assert "train.lr (now 1e+30)" in message
    assert "\n" not in message
    run = open_run(path)
    for step in run.steps():
        state, _ = run.load(step, skeleton(run.spec))
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state.model))
    last = read_metrics(path / "metrics.jsonl")[-1]
    assert last["loss"] is None or last["grad_norm"] is None  # JSON has no NaN, so this is null


def test_a_validation_split_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="validation_split = 'validation-long': the task has vali"):
        run(tmp_path / "run", "train.validation_split=validation-long")
    assert not (tmp_path / "run").exists(), "nothing is left of a run that could not begin"


def test_a_batch_that_does_not_fit_leaves_no_run(tmp_path):
    with pytest.raises(InputError, match="exceeds the 64 training examples"):
        run(tmp_path / "run", "train.batch=65")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("tracker", "package"),
    [("tensorboard", "tensorboardX"), ("trackio", "trackio"), ("wandb", "wandb")],
)
def test_a_missing_tracker_says_how_to_get_it(tracker, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"needs a package: pip install {package}"):
        run(tmp_path / "run", f"train.tracker={tracker}")
