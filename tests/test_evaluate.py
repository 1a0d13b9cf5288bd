"""Evaluation: the grid, the numbers in it, and an early exit that changes no prediction."""

import dataclasses
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tiny_task import Tiny

import eqloop
from eqloop import InputError
from eqloop._schema import to_table
from eqloop.evaluate import evaluate, geometric
from eqloop.nn import NormKind

TASK = Tiny()
SPLIT = TASK.generate(70, 0)


def make_model(norm: NormKind = "post", scale=1.0, **fields) -> eqloop.LoopedTransformer:
    """A small model; `scale` on the recall's state weight decides how fast it contracts."""
    model = eqloop.LoopedTransformer(
        (6,), 1, 2, width=16, heads=2, norm=norm, attention=3, key=jr.key(0), **fields
    )
    where = lambda m: m.blocks[0].recall.state.weight  # noqa: E731
    return eqx.tree_at(where, model, scale * where(model))


def by_hand(model, iterations: int):
    """Return the states after 1, 2, ... iterations for the whole split, from one plain call after
    another."""
    f = model.loop()

    def example_states(tokens):
        e = model.embed(TASK.encode(tokens))
        return eqloop.trajectory(f, e, f.inject(e), iterations)

    states = jax.jit(jax.vmap(example_states))(jnp.asarray(SPLIT.inputs))
    logits = jax.jit(jax.vmap(jax.vmap(model.coda)))(states)
    return np.asarray(states), np.asarray(jnp.argmax(logits, -1))


def test_the_grid_is_geometric_and_ends_where_asked():
    assert geometric(16) == [1, 2, 3, 4, 6, 8, 12, 16]
    assert geometric(500)[-3:] == [256, 384, 500]
    assert geometric(1) == [1]
    assert geometric(7) == [1, 2, 3, 4, 6, 7]


def test_every_number_against_plain_iteration():
    model = make_model()
    evaluation = evaluate(model, TASK, SPLIT, iterations=40, batch_size=32, early_exit=False)
    states, predictions = by_hand(model, 40)
    place = np.array(evaluation.iterations) - 1
    right = predictions == SPLIT.targets[:, None]
    np.testing.assert_allclose(
        evaluation.overall.scores["cells"], right.mean((0, 2))[place], rtol=1e-5
    )
    np.testing.assert_allclose(evaluation.overall.scores["exact"], right.all(2).mean(0)[place])
    np.testing.assert_array_equal(evaluation.predictions, predictions[:, -1])

    flat = states.reshape(len(states), 40, -1)
    residual = np.linalg.norm(flat[:, 1:] - flat[:, :-1], axis=-1)
    residual /= np.linalg.norm(flat[:, 1:], axis=-1)
    points = place[1:] - 1
    np.testing.assert_allclose(
        evaluation.overall.residual_mean[1:], residual.mean(0)[points], rtol=1e-2, atol=1e-6
    )
    np.testing.assert_allclose(
        evaluation.overall.converged[1:], (residual < 1e-3).mean(0)[points], atol=0.03
    )
    assert evaluation.iterations_run == evaluation.iterations_asked == 40 * 70


def test_known_depth_is_that_of_the_window_and_the_blocks():
    """Two blocks attend twice in an iteration, so they need half as many."""

    class Deep(Tiny):
        def known_depth(self, split, attention):
            return np.arange(len(split)) * 12.0 / int(attention)

    for blocks, depth in ((1, 2.0), (2, 1.0)):
        result = evaluate(make_model(blocks=blocks), Deep(), SPLIT.take(slice(2)), iterations=1)
        assert result.overall.known_depth == depth
        assert to_table(result)["overall"]["known_depth"] == depth
    plain = evaluate(make_model(), TASK, SPLIT.take(slice(2)), iterations=1)
    assert "known_depth" not in to_table(plain)["overall"]


def test_bands_and_host_scores():
    evaluation = evaluate(make_model(), TASK, SPLIT, iterations=4, early_exit=False)
    few, many = evaluation.bands["few ones"], evaluation.bands["many ones"]
    assert few.examples + many.examples == evaluation.overall.examples == 70
    mixed = (
        few.examples * np.array(few.scores["cells"])
        + many.examples * np.array(many.scores["cells"])
    ) / 70
    np.testing.assert_allclose(mixed, evaluation.overall.scores["cells"])
    np.testing.assert_allclose(evaluation.judged["ones"], evaluation.predictions.mean(), rtol=1e-6)
    assert list(evaluation.overall.scores) == ["exact", "cells"]


def test_known_depth_is_drawn_in():
    depths = {"a": 2.0, "b": np.nan, "c": 3.0, "d": 9.0}  # the last one is beyond the axis
    curves = {name: [0.0, 1.0] for name in depths}
    axes = eqloop.report.accuracy_figure(curves, [1, 4], depths=depths).axes[0]
    drawn = axes.lines[len(curves) :]
    assert [list(line.get_xdata()) for line in drawn] == [[2, 2], [3, 3]]  # pyright: ignore
    assert [line.get_label() for line in drawn] == ["known depth", "_"]
    assert drawn[1].get_color() == axes.lines[2].get_color()


@pytest.mark.parametrize(
    ("recall", "norm", "scale", "batch_size"),
    [
        ("external", "post", 0.3, 64),
        ("internal", "post", 1.0, 64),
        ("internal", "post", 2.5, 70),
        ("internal", "pre", 3.0, 32),
    ],
)
def test_early_exit_changes_no_prediction(recall, norm, scale, batch_size):
    """The models converge fast, slowly or not at all; batches shrink, and one is padded."""
    model = make_model(norm, scale, recall=recall)
    options = {"iterations": 200, "batch_size": batch_size}
    full = evaluate(model, TASK, SPLIT, early_exit=False, **options)
    early = evaluate(model, TASK, SPLIT, early_exit=True, **options)
    np.testing.assert_array_equal(early.predictions, full.predictions)
    np.testing.assert_array_equal(early.settled, full.settled)
    for name, curve in full.overall.scores.items():
        assert early.overall.scores[name] == curve
    assert early.overall.converged == full.overall.converged
    assert (early.iterations_run < full.iterations_run) == (norm == "post")


def test_what_converges_stops_and_what_does_not_goes_on():
    fast = evaluate(make_model(scale=0.3, recall="external"), TASK, SPLIT, iterations=500)
    assert fast.overall.settled == 1.0
    assert fast.iterations_run * 20 < fast.iterations_asked
    # With W_x = 3 and no outer normalisation the state grows without bound.
    drift = evaluate(make_model("pre", 3.0, recall="external"), TASK, SPLIT, iterations=64)
    assert drift.overall.settled < 1.0
    assert drift.iterations_run > 0.5 * drift.iterations_asked


def test_iterating_compiles_one_program(caplog):
    split = TASK.generate(7, 1)  # a size that no other test compiles
    with jax.log_compiles():
        evaluate(make_model(scale=2.5), TASK, split, grid=[8, 32])
    compiled = [line for line in caplog.messages if line.startswith("Compiling jit(")]
    for name in ("_advance", "_check", "_read"):
        assert sum(f"jit({name})" in line for line in compiled) == 1, name


def test_settling_is_the_first_residual_below_the_tolerance():
    model = make_model(scale=0.3, recall="external")
    states, _ = by_hand(model, 60)
    flat = states.reshape(len(states), 60, -1)
    residual = np.linalg.norm(np.diff(flat, axis=1), axis=-1) / np.linalg.norm(flat[:, 1:], axis=-1)
    first = 2 + np.argmax(residual < 1e-2, axis=1)
    evaluation = evaluate(model, TASK, SPLIT, iterations=60, tolerance=1e-2)
    # The others differ by rounding at the tolerance.
    assert np.mean(evaluation.settled == first) > 0.95
    assert np.max(np.abs(evaluation.settled - first)) <= 1
    assert evaluation.overall.settled_median == np.median(evaluation.settled)


def test_overthinking_is_best_less_last():
    evaluation = evaluate(make_model(scale=2.5), TASK, SPLIT, iterations=30, early_exit=False)
    curve = evaluation.overall.scores["cells"]
    overthinking = evaluation.overall.overthinking["cells"]
    assert overthinking["best"] == max(curve)
    assert overthinking["iterations"] == evaluation.iterations[int(np.argmax(curve))]
    assert overthinking["penalty"] == max(curve) - curve[-1]


def test_other_grids_than_the_model_was_made_for():
    longer = Tiny(length=11)
    evaluation = evaluate(make_model(), longer, longer.generate(5, 1), iterations=12)
    assert evaluation.predictions.shape == (5, 11)


def test_a_state_that_blows_up_is_told_not_hidden():
    model = make_model()
    broken = eqx.tree_at(lambda m: m.prelude.bias, model, jnp.full(16, jnp.nan))
    evaluation = evaluate(broken, TASK, SPLIT, iterations=20)
    assert evaluation.overall.converged == [0.0] * len(evaluation.iterations)
    assert evaluation.overall.settled == 0.0
    assert evaluation.tables()["overall"]["residual_mean"][-1] is None


def test_it_is_json():
    evaluation = evaluate(make_model(), TASK, SPLIT, iterations=9)
    back = json.loads(json.dumps(evaluation.tables(), allow_nan=False))
    assert back["iterations"] == [1, 2, 3, 4, 6, 8, 9]
    assert len(back["settled"]) == 70
    assert back["overall"]["scores"].keys() == {"exact", "cells"}


def test_nothing_to_evaluate():
    with pytest.raises(InputError, match="the split is empty"):
        evaluate(make_model(), TASK, SPLIT.take(slice(0)))
    with pytest.raises(InputError, match="iterations must be at least 1, got 0"):
        evaluate(make_model(), TASK, SPLIT, iterations=0)
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        evaluate(make_model(), TASK, SPLIT, batch_size=0)
    with pytest.raises(InputError, match="grid must hold at least one number of iterations"):
        evaluate(make_model(), TASK, SPLIT, grid=[])
    for point in (0, -4, 2.5):
        with pytest.raises(InputError, match=f"grid must hold integers of at least 1, got {point}"):
            evaluate(make_model(), TASK, SPLIT, grid=[point, 4])  # pyright: ignore


def test_a_grid_is_measured_in_ascending_order():
    given = evaluate(make_model(), TASK, SPLIT, grid=np.array([4, 1, 4]))  # pyright: ignore
    assert given.iterations == [1, 4]
    assert given.overall.exact == evaluate(make_model(), TASK, SPLIT, grid=[1, 4]).overall.exact
    assert json.loads(json.dumps(given.tables()))["iterations"] == [1, 4]


def test_what_has_no_answer_is_not_scored():
    answered = np.arange(len(SPLIT)) % 7 > 0
    split = dataclasses.replace(SPLIT, columns={"answered": answered})
    with pytest.raises(InputError, match=r"^10 rows have no answer, so they cannot be scored"):
        evaluate(make_model(), TASK, split, iterations=4)
    assert evaluate(make_model(), TASK, split.take(answered), iterations=4).overall.examples == 60


@pytest.mark.parametrize("early_exit", [True, False])
def test_limited_work_measures_the_same_sample_each_time(early_exit):
    """The measured numbers are those of the first examples of one random order, as if these were
    the whole split."""
    options = {"iterations": 40, "batch_size": 32, "early_exit": early_exit}
    calls: list[tuple[int, int]] = []
    work = 40 * 40
    limited = evaluate(
        make_model(), TASK, SPLIT, work=work, progress=lambda *at: calls.append(at), **options
    )
    count = limited.overall.examples
    sample = np.random.RandomState(0).permutation(70)[:count]
    alone = evaluate(make_model(), TASK, SPLIT.take(sample), **options)
    np.testing.assert_array_equal(limited.predictions, alone.predictions)
    np.testing.assert_array_equal(limited.settled, alone.settled)
    for name, curve in alone.overall.scores.items():
        np.testing.assert_allclose(limited.overall.scores[name], curve)
    assert count == 40 if not early_exit else count >= 40  # in batches of 20
    used = [at[0] for at in calls]
    assert used == sorted(used)
    assert {at[1] for at in calls} == {work}
    assert used[-1] <= work


def test_work_for_all_measures_all():
    calls: list[tuple[int, int]] = []
    evaluation = evaluate(
        make_model(), TASK, SPLIT, iterations=8, batch_size=32, work=1e9,
        progress=lambda *at: calls.append(at),
    )  # fmt: skip
    assert evaluation.overall.examples == 70
    assert calls[-1] == (8 * 96, 8 * 96)
