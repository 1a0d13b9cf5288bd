"""The census of outcomes against answers, on affine maps whose orbits are known in closed form."""

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqloop._tables import plain
from eqloop.claims import Census, Decoder, census
from eqloop.report import markdown
from eqloop.report.figures._census_figures import outcomes_figure, verifiers_figure
from eqloop.report.tables._census_tables import (
    census_groups,
    outcomes_table,
    verifiers_table,
)
from eqloop.stability import Share, auroc, follow_orbits, share

ITERATIONS = 96
RTOL = 1e-4


class Signs:
    """A task whose answer is the sign of each number of the state, 1 if it is positive."""

    def predict(self, logits, tokens):
        del tokens
        return jnp.argmax(logits, -1).astype(jnp.uint8)

    def score(self, prediction, tokens, targets):
        del tokens
        return {"exact": jnp.all(prediction == targets)}


def logits(z):
    return jnp.stack([-z, z], axis=-1)


DECODER = Decoder(logits, Signs())  # pyright: ignore[reportArgumentType]


def affine(z, x):
    """`A z + b`, where x is the four numbers of A and the two of b."""
    return x[:4].reshape(2, 2) @ z + x[4:]


def ones(x):
    return jnp.ones(2, x.dtype)


def around(matrix, centre: float) -> np.ndarray:
    """The input of `affine` with this matrix and the fixed point (centre, centre)."""
    a = np.asarray(matrix) * np.eye(2) if np.ndim(matrix) == 0 else np.asarray(matrix)
    return np.concatenate([a.ravel(), (np.eye(2) - a) @ np.full(2, centre)])


def rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def counted(inputs, positive, *, f=affine, start=ones, difficulty=None, **options) -> Census:
    """The census of examples whose target is positive or not in both cells."""
    inputs = np.asarray(inputs, np.float32)
    targets = np.repeat(np.asarray(positive, np.uint8)[:, None], 2, axis=1)
    difficulty = np.ones(len(inputs)) if difficulty is None else difficulty
    options = {"iterations": ITERATIONS, "rtol": RTOL, "key": jr.key(0)} | options
    return census(f, start, DECODER, (inputs, targets, targets), difficulty, **options)


def hits(*shares: Share) -> list[tuple[int, int]]:
    return [(part.hits, part.count) for part in shares]


def test_every_outcome_can_be_right_and_wrong():
    """All of these states stay positive, so that the target decides what is right. A cycle, a
    drift, a rotation and a slow loop answer as well as a fixed point does."""
    maps = {
        "converged": around(0.5, 3),
        "cycle": around(-1, 3),
        "slow": around(0.98, 100),
        "wandering": around(rotation(1.0), 3),
        "diverged": around(1.1, -1),
    }
    kinds = [*maps, *maps, "converged"]
    right = np.arange(len(kinds)) < len(maps)
    result = counted([maps[kind] for kind in kinds], right)
    assert result.outcome_correct.outcomes == kinds
    assert result.outcome_correct.right == right.tolist()
    shares = result.outcome_correct.shares
    assert {name: (part.hits, part.count) for name, part in shares.items()} == {
        **dict.fromkeys(maps, (1, 2)), "converged": (1, 3), "unresolved": (0, 0),
    }  # fmt: skip
    assert 0 < shares["cycle"].low < 0.5 < shares["cycle"].high < 1
    parts = result.settled_wrong
    assert hits(parts.wrong_of_settled, parts.settled_and_wrong) == [(2, 3), (2, 11)]
    assert hits(parts.unsettled_of_right, parts.right_and_unsettled) == [(4, 5), (4, 11)]
    rates = -np.array(result.scores["rate"])
    assert rates[[0, 1, 2, 4]] == pytest.approx([0.5, 1, 0.98, 1.1], rel=1e-3)


def test_answers_freeze_and_states_settle_when_the_closed_form_says():
    """z_t = c + r^t (1 - c) changes its sign where r^t = c / (c - 1), and its residual is
    r^(t - 1) (1 - r) |1 - c| / |z_t|."""
    rates, centre = np.array([0.5, 0.7, 0.8]), -3.0
    result = counted([around(rate, centre) for rate in rates], np.zeros(3, bool))
    t = np.arange(1, ITERATIONS + 1)
    for example, rate in enumerate(rates):
        z = centre + rate**t * (1 - centre)
        residual = rate ** (t - 1.0) * (1 - rate) * (1 - centre) / np.abs(z)
        froze = t[z > 0][-1] + 1 if (z > 0).any() else 1
        settled = t[residual > RTOL][-1] + 1
        assert result.froze.answer.values[example] == froze
        assert result.froze.state.values[example] == settled
        assert result.froze.difference.values[example] == settled - froze
    assert (result.froze.answer_first.hits, result.froze.answer_first.count) == (3, 3)
    # The answer of this loop is there at the start; that of a cycle never freezes.
    result = counted([around(0.5, 3), around(-1, 0), around(0.5, 3)], [True, True, True])
    assert result.froze.answer.values[0] == 0
    assert np.isnan([result.froze.answer.values[1], result.froze.state.values[1]]).all()
    assert result.froze.answer.count == 2


def test_a_score_verifies_answers_where_right_and_wrong_loops_differ():
    """The right half settles, the wrong half rotates: the residual and the rate separate them. Then
    every loop settles, and the residual says nothing."""
    right = np.arange(16) < 8
    loops = [around(0.5, 3 + n / 8) for n in range(8)]
    loops += [around(rotation(1 + n / 64), 3) for n in range(8)]
    result = counted(loops, right)
    for name in ("residual", "rate"):
        area = result.auroc[name]
        assert (area.value, area.positives, area.negatives) == (1, 8, 8)
        assert area.p < 0.01
        assert area.value > area.null_high
        assert area.low > 0.5
    # A score is oriented: the loops that settle are now the wrong ones.
    assert counted(loops, ~right).auroc["residual"].value == 0
    assert counted([around(0.5, 3)] * 16, right).auroc["residual"].value == 0.5
    alike = counted(loops, np.ones(16, bool)).auroc["residual"]
    assert np.isnan(alike.value)
    assert alike.because == "all 16 examples with a score are right"


def test_scores_have_their_closed_forms():
    """Restarts of a contraction agree, those of a bistable map agree by chance."""
    centre = 0.7
    x = around(0.5, centre)
    sure = counted([x], [True], restarts=4)
    p = 1 / (1 + np.exp(-2 * centre))
    entropy = -p * np.log(p) - (1 - p) * np.log(1 - p)
    assert sure.scores["entropy"][0] == pytest.approx(-entropy, rel=1e-5)
    assert sure.scores["agreement"] == [1]
    many = counted(
        np.zeros((64, 6)), np.ones(64), f=lambda z, x: jnp.tanh(3 * z) + 0 * x[0], restarts=4
    )
    assert np.mean(many.scores["agreement"]) == pytest.approx(0.5, abs=4 / np.sqrt(4 * 2 * 64) / 2)
    none = counted([x], [True], restarts=0)
    assert none.auroc["agreement"].because == "the score is not known for any example"


def test_a_loop_that_does_nothing_is_seen():
    """The start of the first loop is its fixed point; the second ignores its input, so that it
    answers all alike; the third needs many iterations, more the harder the example is."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=(16, 6))
    positive = inputs[:, 0] > 0
    at_once = counted(
        inputs, positive, f=lambda z, x: x[:1] + 0 * z, start=lambda x: x[:1] + jnp.zeros(2)
    ).bypass
    assert at_once.right_at_start.share == at_once.right_after_one.share == 1
    assert at_once.distance.mean == 0
    assert at_once.iteration_probe is not None
    assert at_once.iteration_probe < 0.01
    deaf = counted(inputs, positive, f=lambda z, x: 0.5 * z + 1 + 0 * x[0])
    assert deaf.bypass.right_at_end.share == positive.mean()
    assert deaf.settled_wrong.wrong_of_settled.share == (~positive).mean()
    assert np.ptp(deaf.bypass.distance.values) == 0
    rates = np.linspace(0.3, 0.8, 16)
    works = counted([around(rate, -3) for rate in rates], np.zeros(16, bool), difficulty=rates)
    assert works.bypass.right_at_start.share == 0
    assert works.bypass.right_at_end.share == 1
    assert works.bypass.difficulty.value == pytest.approx(1, abs=0.01)
    assert works.bypass.distance.values == pytest.approx([4 / 3] * 16, rel=1e-4)


def test_a_state_that_counts_reveals_its_iteration():
    clock = counted(np.zeros((8, 6)), np.ones(8), f=lambda z, x: z + 1 + 0 * x[0])
    assert clock.bypass.iteration_probe == pytest.approx(1, abs=0.01)
    assert counted(np.zeros((3, 6)), np.ones(3)).bypass.iteration_probe is None


def test_a_loop_that_overflows_is_counted():
    result = counted([around(-20.0, 1.5)] * 2, [True, False])
    assert result.outcome_correct.outcomes == ["diverged", "diverged"]
    assert result.scores["residual"] == result.scores["rate"] == [-np.finfo(np.float32).max] * 2
    assert result.bypass.distance.count == result.froze.state.count == 0
    # Also in a file, where infinity would be null, the scores have a rank.
    saved = plain(dataclasses.asdict(result))
    assert np.isfinite(saved["scores"]["residual"] + saved["scores"]["rate"]).all()
    # States that are NaN from the start: one of three answers is right by accident.
    nothing = counted(np.full((3, 6), np.nan), [True, False, False])
    assert nothing.outcome_correct.shares["diverged"].count == 3
    assert nothing.auroc["entropy"].because == "the score is not known for any example"
    assert nothing.auroc["residual"].value == 0.5


def test_batches_and_orbits_that_have_been_followed_give_the_same_census():
    """70 examples are two batches of 64, the second of which is filled up."""
    random = np.random.default_rng(1)
    rates, right = random.uniform(0.2, 0.9, 70), random.random(70) < 0.5
    inputs = np.stack([around(rate, -3) for rate in rates]).astype(np.float32)
    batched = counted(inputs, right, restarts=0)
    labels = (np.repeat(right.astype(np.uint8)[:, None], 2, axis=1),) * 2
    orbits = follow_orbits(
        affine, ones, jnp.asarray(inputs), iterations=ITERATIONS, rtol=RTOL,
        observe=DECODER.read, labels=jax.tree.map(jnp.asarray, labels),
    )  # fmt: skip
    followed = counted(inputs, right, restarts=0, orbits=orbits)
    assert batched.examples == followed.examples == len(batched.outcome_correct.right) == 70
    assert batched.outcome_correct == followed.outcome_correct
    assert batched.froze.answer.values == followed.froze.answer.values
    # The probe is of a sample of 64 examples, and of all.
    probe = followed.bypass.iteration_probe
    assert batched.bypass.iteration_probe == pytest.approx(probe, abs=0.05)
    assert dataclasses.replace(batched.bypass, iteration_probe=probe) == followed.bypass


def test_orbits_hold_what_was_observed():
    """Over several chunks, with a label for each example."""
    inputs = np.stack([around(0.5, 3), around(0.9, 1)]).astype(np.float32)
    orbits = follow_orbits(
        affine, ones, jnp.asarray(inputs), iterations=70,
        observe=lambda z, label: {"sum": label * jnp.sum(z)}, labels=jnp.array([1.0, -1.0]),
    )  # fmt: skip
    t = np.arange(1, 71)
    expected = [2 * (3 - 2 * 0.5**t), -2 * np.ones(70)]
    np.testing.assert_allclose(orbits.observed["sum"], expected, rtol=1e-5)
    assert orbits.take(np.array([1])).observed["sum"].shape == (1, 70)
    plain_orbits = follow_orbits(affine, ones, jnp.asarray(inputs), iterations=70)
    assert plain_orbits.observed is None
    np.testing.assert_allclose(plain_orbits.residuals, orbits.residuals, rtol=1e-4, atol=1e-7)


def drawn(figure):
    (axes,) = figure.axes
    return axes, {str(line.get_label()): line for line in axes.lines}


def test_the_figures_show_the_census():
    """Bars are as long as the counts and differ without colour. The area under the drawn ROC curve
    is the AUROC."""
    random = np.random.default_rng(2)
    loops = [around(rate, 3) for rate in random.uniform(0.4, 0.9, 10)]
    loops += [around(rotation(1 + n / 200), 3) for n in range(6)]
    result = counted(loops, random.random(16) < 0.6)
    axes, _ = drawn(outcomes_figure(result))
    right, wrong = axes.containers
    shares = [part for part in result.outcome_correct.shares.values() if part.count]
    assert [bar.get_width() for bar in right] == [part.hits for part in shares]
    assert [bar.get_width() for bar in wrong] == [part.count - part.hits for part in shares]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["converged", "wandering"]
    assert right[0].get_hatch() != wrong[0].get_hatch()
    axes, lines = drawn(verifiers_figure(result))
    assert len(lines) == 1 + len(result.auroc)
    for name, area in result.auroc.items():
        (line,) = (line for label, line in lines.items() if label.startswith(name))
        heights, places = np.array(line.get_ydata()), np.array(line.get_xdata())
        assert np.trapezoid(heights, places) == pytest.approx(area.value)
    nothing = auroc(np.ones(3), np.ones(3, bool))
    all_right = dataclasses.replace(result, auroc=dict.fromkeys(result.auroc, nothing))
    axes, lines = drawn(verifiers_figure(all_right))
    assert "all 3 examples" in axes.texts[0].get_text()
    assert lines == {}


def test_the_tables_say_what_was_counted_and_what_was_not_measurable():
    loops = [around(0.5, 3)] * 4 + [around(-1, 3)] * 2
    result = counted(loops, [True, True, True, False, True, False])
    assert markdown(outcomes_table(result))[2:] == [
        "| converged | 3 | 1 | 75\xa0% | 30.1 to\xa095.4\xa0% |",
        "| cycle | 1 | 1 | 50\xa0% | 9.45 to\xa090.5\xa0% |",
    ]
    verifiers = {row[0]: row for row in verifiers_table(result).rows}
    entropy = verifiers["entropy of the answer"]
    assert float(entropy[1]) == pytest.approx(result.auroc["entropy"].value, rel=1e-2)
    assert float(entropy[-1]) == pytest.approx(result.auroc["entropy"].p, rel=1e-2)
    numbers = dict(row for _, rows in census_groups(result) for row in rows)
    assert numbers["settled but wrong, of those that settled"] == share(np.arange(4) < 1)
    assert numbers["right at the end"] == share(np.arange(6) < 4)
    none = verifiers_table(counted(loops, [True] * 6, restarts=0))
    assert "all 6 examples with a score are right; the score is not known" in none.note
    assert all(row[1] == "–" for row in none.rows)
