"""Test-time compute: the queue changes no answer, budgets hold, and starts are selected as
requested."""

import dataclasses
import json
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tiny_task import Tiny

import eqloop
from eqloop import InputError
from eqloop._solver import iterate
from eqloop.evaluate import Solved, _batching, solve
from eqloop.evaluate._solve import choose_start, count_votes

TASK = Tiny()
SPLIT = TASK.generate(60, 0)


def make_model(gain: float, **fields) -> eqloop.LoopedTransformer:
    """A small model: the larger the embedding (`gain`), the faster its loop settles, and the more
    the speeds differ."""
    model = eqloop.LoopedTransformer(
        (6,), 1, 2, width=16, heads=2, attention=3, key=jr.key(0), **fields
    )
    where = lambda m: m.prelude.weight  # noqa: E731
    return eqx.tree_at(where, model, gain * where(model))


MODEL = make_model(4.0, recall="external")
"""Plain iteration takes it 11 to 21 steps."""
SOLVERS = {
    "fixed-point": eqloop.FixedPoint(rtol=1e-3),
    "damped": eqloop.FixedPoint(rtol=1e-3, damping=0.3, patience=2),
    "anderson": eqloop.Anderson(rtol=1e-3, memory=3),
    "broyden": eqloop.Broyden(rtol=1e-3, memory=4),
    "newton": eqloop.NewtonKrylov(rtol=1e-3),
    "chord": eqloop.Chord(rtol=1e-3),
    "steady-state": eqloop.SteadyState(rtol=1e-3),
}


def alone(solver, budget, model=MODEL):
    """Solve each example alone; return predictions, steps, evaluations and lowest residuals."""
    loop = model.loop(fold=True)

    @jax.jit
    def solve_example(tokens):
        e = model.embed(TASK.encode(tokens))
        r = loop.inject(e)
        _, progress = iterate(lambda z: loop(z, r), solver, e, max_steps=budget)
        prediction = TASK.predict(model.coda(progress.best), tokens)
        return prediction, progress.steps, progress.evaluations, progress.residual

    answers = [jax.device_get(solve_example(tokens)) for tokens in SPLIT.inputs]
    return [np.stack(columns) for columns in zip(*answers, strict=True)]


@pytest.mark.parametrize("name", SOLVERS)
def test_as_if_each_were_alone(name):
    """There are five times more examples than slots, so that most begin in a batch that already
    runs."""
    solver = SOLVERS[name]
    answers = solve(MODEL, TASK, SPLIT, solver=solver, budget=1000, batch_size=12)
    predictions, steps, evaluations, residual = alone(solver, 1000)
    assert answers.converged.all()
    assert len(set(steps.tolist())) > 1, "no example leaves before another"
    np.testing.assert_array_equal(answers.predictions, predictions)
    # Below a hundred steps the counts are equal; over hundreds of steps rounding may cost one.
    np.testing.assert_allclose(answers.steps[:, 0], steps, rtol=0.01)
    np.testing.assert_allclose(answers.evaluations[:, 0], evaluations, rtol=0.01)
    np.testing.assert_allclose(answers.residual[:, 0], residual, rtol=0.05)
    np.testing.assert_array_equal(
        answers.scores["exact"], (predictions == SPLIT.targets).all(1).astype(np.float32)
    )


@pytest.mark.usefixtures("compiled_fully")  # one selection depends on the last bit of a residual
@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_the_size_of_the_batch_changes_nothing(batch_size):
    # The noise is so large that rounding does not decide which start has the lower residual.
    options: dict[str, Any] = {"restarts": 2, "noise": 1.0}
    reference = solve(MODEL, TASK, SPLIT, batch_size=20, **options)
    answers = solve(MODEL, TASK, SPLIT, batch_size=batch_size, **options)
    for name in ("predictions", "chosen", "votes", "steps", "converged", "spent"):
        np.testing.assert_array_equal(getattr(answers, name), getattr(reference, name))


@pytest.mark.parametrize("budget", [1, 8, 15])
def test_the_budget_is_kept_to_the_evaluation(budget):
    """A start uses the evaluations that it needs if these are fewer than its budget, otherwise the
    whole budget."""
    unlimited = solve(MODEL, TASK, SPLIT, budget=1000, batch_size=16)
    assert unlimited.converged.all()
    answers = solve(MODEL, TASK, SPLIT, budget=budget, batch_size=16)
    np.testing.assert_array_equal(answers.evaluations, np.minimum(unlimited.evaluations, budget))
    np.testing.assert_array_equal(answers.converged, unlimited.evaluations <= budget)
    np.testing.assert_array_equal(answers.spent, unlimited.evaluations > budget)


def test_the_work_follows_the_difficulty(monkeypatch):
    """A few examples that never converge delay neither the others nor, at the end, the whole
    batch."""
    monkeypatch.setattr(_batching, "SMALL", 16)
    model = make_model(1.0, recall="external")
    options: dict[str, Any] = {"budget": 400, "batch_size": 16}
    easy = solve(model, TASK, SPLIT, **options).converged[:, 0]
    assert 10 < easy.sum() < 50
    order = np.concatenate([np.flatnonzero(~easy)[:1], np.tile(np.flatnonzero(easy), 4)])
    answers = solve(model, TASK, SPLIT.take(order), **options)
    np.testing.assert_array_equal(np.flatnonzero(answers.spent[:, 0]), [0])
    assert answers.steps[0, 0] == 400
    # In whole batches, the first example would have kept the other 15 running to the end.
    steps, whole_batches = answers.steps.sum(), answers.steps[1:].sum() + 16 * 400
    assert steps <= answers.slot_steps < min(whole_batches, 1.5 * steps)


def test_a_state_that_is_not_finite_has_neither_converged_nor_spent_its_budget():
    broken = eqx.tree_at(lambda m: m.prelude.bias, MODEL, jnp.full(16, jnp.nan))
    answers = solve(broken, TASK, SPLIT, budget=50, restarts=2, select="vote")
    assert not (answers.converged | answers.spent).any()
    assert (answers.steps == 1).all()
    assert answers.overall.converged == 0
    assert answers.tables()["residual"][0] == [None, None]


# --- restarts


def test_starts_are_the_models_own_and_seeded_noise():
    single = solve(MODEL, TASK, SPLIT, restarts=1)
    three = solve(MODEL, TASK, SPLIT, restarts=3, batch_size=33)
    fewer = solve(MODEL, TASK, SPLIT.take(slice(20)), restarts=3)
    other_key = solve(MODEL, TASK, SPLIT, restarts=3, key=jr.key(1))
    np.testing.assert_array_equal(three.steps[:, :1], single.steps)
    np.testing.assert_allclose(fewer.residual, three.residual[:20], rtol=1e-3)
    np.testing.assert_allclose(other_key.residual[:, 0], three.residual[:, 0], rtol=1e-3)
    assert (other_key.residual[:, 1:] != three.residual[:, 1:]).all()
    assert (three.residual[:, 1] != three.residual[:, 2]).all()
    still = solve(MODEL, TASK, SPLIT, restarts=3, noise=0.0)
    np.testing.assert_allclose(still.residual, np.repeat(single.residual, 3, axis=1), rtol=1e-3)


def test_selection_by_residual_and_by_vote():
    """The loop is cut off early, so that the starts disagree."""
    options: dict[str, Any] = {"budget": 2, "restarts": 5, "noise": 3.0}
    lowest = solve(MODEL, TASK, SPLIT, select="residual", **options)
    voted = solve(MODEL, TASK, SPLIT, select="vote", **options)
    row = np.arange(len(SPLIT))
    np.testing.assert_array_equal(lowest.residual, voted.residual)
    assert (lowest.residual[row, lowest.chosen] == lowest.residual.min(1)).all()
    assert (voted.votes[row, voted.chosen] == voted.votes.max(1)).all()
    assert (lowest.chosen != voted.chosen).any()
    assert (lowest.predictions != voted.predictions).any()


def test_votes_are_for_whole_answers_and_ties_go_to_the_lowest_residual():
    answers = np.array([[[0, 1], [1, 1], [0, 1], [1, 0]], [[0, 0], [1, 1], [0, 0], [1, 1]]])
    votes = count_votes(answers)
    np.testing.assert_array_equal(votes, [[2, 1, 2, 1], [2, 2, 2, 2]])
    residual = np.array([[0.3, 0.1, 0.2, 0.0], [0.3, 0.2, np.inf, 0.1]])
    np.testing.assert_array_equal(choose_start(residual), [3, 3])
    np.testing.assert_array_equal(choose_start(residual, votes), [2, 3])
    nowhere = np.full((1, 3), np.inf)
    assert choose_start(nowhere) == choose_start(nowhere, np.array([[1, 1, 1]])) == 0


# --- cost


def test_cost_by_band_adds_up():
    answers = solve(MODEL, TASK, SPLIT, restarts=2)
    few, many = answers.bands["few ones"], answers.bands["many ones"]
    assert few.examples + many.examples == answers.overall.examples == len(SPLIT)
    total = sum(c.examples * c.evaluations for c in (few, many))
    assert total == pytest.approx(answers.evaluations.sum())
    assert answers.overall.evaluations == pytest.approx(answers.evaluations.sum() / len(SPLIT))
    assert answers.overall.solved == pytest.approx(answers.scores["exact"].mean())
    assert answers.judged["ones"] == pytest.approx(answers.predictions.mean())
    for cost in (answers.overall, few, many):
        if cost.solved:
            evaluations = cost.evaluations / cost.solved
            assert cost.evaluations_per_solved == pytest.approx(evaluations)
            share = evaluations / answers.evaluations.sum()
            assert cost.seconds_per_solved == pytest.approx(share * answers.seconds)
        else:
            assert np.isnan(cost.evaluations_per_solved)


def test_it_is_json():
    answers = solve(MODEL, TASK, SPLIT, budget=3)
    back = json.loads(json.dumps(answers.tables(), allow_nan=False))
    assert len(back["evaluations"]) == len(SPLIT)
    assert back["bands"].keys() == {"few ones", "many ones"}


def test_what_has_no_answer_is_solved_and_not_scored():
    answered = SPLIT.difficulty <= 3
    known = dataclasses.replace(SPLIT, targets=solve(MODEL, TASK, SPLIT, budget=50).predictions)
    split = dataclasses.replace(known, columns={"answered": answered})
    full, partly = solve(MODEL, TASK, known, budget=50), solve(MODEL, TASK, split, budget=50)
    np.testing.assert_array_equal(partly.predictions, full.predictions)
    np.testing.assert_array_equal(partly.evaluations, full.evaluations)
    for name, score in partly.scores.items():
        np.testing.assert_array_equal(np.isnan(score), ~answered)
        np.testing.assert_array_equal(score[answered], full.scores[name][answered])
    assert partly.bands["few ones"].solved == full.bands["few ones"].solved == 1
    for cost in (partly.bands["many ones"], partly.overall):
        assert np.isnan([cost.solved, cost.evaluations_per_solved, cost.seconds_per_solved]).all()
    assert partly.overall.evaluations == full.overall.evaluations
    json.dumps(partly.tables(), allow_nan=False)


# --- compilation


def test_nothing_compiles_anew(monkeypatch):
    """A change of set, number of examples, budget, tolerance, restarts, noise or key needs no
    compilation."""
    traces = []
    original = eqloop.nn.Loop.__call__
    monkeypatch.setattr(eqloop.nn.Loop, "__call__", lambda *a: (traces.append(1), original(*a))[1])

    def run(count, seed, **options):
        solver = eqloop.FixedPoint(rtol=options.pop("rtol", 1e-3))
        return solve(
            MODEL, TASK, TASK.generate(count, seed), solver=solver, batch_size=9, **options
        )

    run(20, 0)
    first = len(traces)
    assert first > 0
    run(33, 1)
    run(20, 0, budget=3)
    run(20, 0, rtol=1e-2)
    run(20, 0, restarts=3, select="vote", noise=0.5, key=jr.key(7))
    assert len(traces) == first


# --- what is refused


def test_what_is_refused():
    with pytest.raises(InputError, match="the split is empty"):
        solve(MODEL, TASK, SPLIT.take(slice(0)))
    with pytest.raises(InputError, match="budget must be at least 1, got 0"):
        solve(MODEL, TASK, SPLIT, budget=0)
    with pytest.raises(InputError, match="restarts must be at least 1, got 0"):
        solve(MODEL, TASK, SPLIT, restarts=0)
    with pytest.raises(InputError, match="select must be residual or vote, got 'luck'"):
        solve(MODEL, TASK, SPLIT, select="luck")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="does not stop by itself"):
        solve(MODEL, TASK, SPLIT, solver=eqloop.Unroll(4))  # pyright: ignore[reportArgumentType]


def test_the_result_is_public():
    assert isinstance(solve(MODEL, TASK, SPLIT.take(slice(3))), Solved)
