"""Curricula: which examples the first steps draw, and training sets of several difficulties."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tiny_task import Tiny, tiny_spec

from eqloop import InputError
from eqloop._task import refuse
from eqloop.tasks.prefix_sums import PrefixSums
from eqloop.tasks.sudoku import Sudoku
from eqloop.train import train
from eqloop.train._step import Order

DIFFICULTY = np.random.RandomState(0).randint(0, 12, 200).astype(np.float32)


def order(seed: int = 3, steps: int = 40, share: float = 0.1, difficulty=DIFFICULTY) -> Order:
    return Order(
        seed, len(difficulty), 16, difficulty=difficulty, curriculum_steps=steps,
        curriculum_share=share,
    )  # fmt: skip


# --- which examples a step draws from


def test_a_curriculum_is_a_pure_function_of_seed_and_step():
    first = [order()(step).tolist() for step in range(60)]
    jumped = order()
    assert [jumped(step).tolist() for step in (59, 0, 39, 7)] == [first[i] for i in (59, 0, 39, 7)]
    assert order(4)(7).tolist() != first[7]


def test_each_step_draws_from_the_easiest_share_and_later_ones_as_without_a_curriculum():
    scheduled, plain = order(), Order(3, 200, 16)
    ranked = np.sort(DIFFICULTY)
    for step in range(60):
        examples = scheduled(step)
        assert len(set(examples.tolist())) == 16
        share = 0.1 + 0.9 * step / 40
        if step < 40:
            easiest = scheduled.easiest(step)
            assert abs(easiest - share * 200) <= 0.5 + 1e-9
            assert DIFFICULTY[examples].max() <= ranked[easiest - 1]
        else:
            assert scheduled.easiest(step) == 200
            np.testing.assert_array_equal(examples, plain(step))


def test_examples_within_the_share_are_equally_likely_also_those_of_equal_difficulty():
    counts, ties = np.zeros(200), np.zeros(200)
    scheduled = order(share=0.5, steps=10**9)  # half of the examples, all through the test
    for step in range(2000):
        counts[scheduled(step)] += 1
    assert np.count_nonzero(counts) == scheduled.easiest(0) == 100
    expected = 2000 * 16 / 100  # draws without replacement have a standard deviation of 16.4
    assert np.all(np.abs(counts[counts > 0] - expected) < 5 * 16.4)
    # The seed decides which of the examples at the edge belong to the easiest half.
    edge = np.sort(DIFFICULTY)[99]
    for seed in range(40):
        ties[order(seed, share=0.5)._ranked[:100]] += 1
    assert np.all(ties[edge > DIFFICULTY] == 40)
    assert np.all(ties[edge < DIFFICULTY] == 0)
    among = ties[edge == DIFFICULTY]
    assert among.min() > 0
    assert among.max() < 40


def test_an_unknown_difficulty_comes_last():
    difficulty = np.where(np.arange(200) % 2, DIFFICULTY, np.nan)
    assert np.isfinite(difficulty[order(share=0.4, difficulty=difficulty)(0)]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": 0.05}, "train.curriculum_share = 0.05 is 10 of the 200 training examples"),
        ({"difficulty": np.ones(200)}, "train.curriculum_steps = 40 has no effect"),
        ({"difficulty": np.full(200, np.nan)}, "train.curriculum_steps = 40 has no effect"),
    ],
)
def test_a_curriculum_that_cannot_be_is_one_line(arguments, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        order(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0, 1, -0.5, float("nan")])
def test_a_share_is_between_0_and_1(share):
    with pytest.raises(InputError, match=r"train\.curriculum_share must be between 0 and 1"):
        tiny_spec(f"train.curriculum_share={share}")


def test_training_sees_the_curriculum_and_resumes_in_it(tmp_path, monkeypatch):
    spec = tiny_spec(
        "task.rows=64", "train.steps=8", "train.curriculum_steps=6", "train.checkpoint_every=3"
    )
    batches, call = [], Order.__call__

    def noted(self, step):
        batches.append((step, call(self, step).tolist()))
        return call(self, step)

    monkeypatch.setattr(Order, "__call__", noted)
    train(spec, Tiny(rows=64), tmp_path / "whole")
    difficulty = Tiny(rows=64).load().splits["train"].difficulty
    assert [step for step, _ in batches] == list(range(8))
    assert max(difficulty[batches[0][1]]) <= np.sort(difficulty)[len(difficulty) // 4]

    stopped = tmp_path / "stopped"
    train(spec.with_steps(3), Tiny(rows=64), stopped)
    train(None, Tiny(rows=64), stopped, resume=True, steps=8)
    assert batches[8:11] == batches[:3]
    assert batches[11:] == batches[3:8]


# --- prefix sums: several strings in a row

PACKED = PrefixSums(length=24, shortest=3, mark_first=True, rows=300, test_rows=20, augment=True)


def _one_by_one(tokens: np.ndarray) -> tuple[list[int], int]:
    """Compute the running parity and the longest string of a row, bit by bit."""
    sums, lengths = [], []
    for cell, token in enumerate(tokens.tolist()):
        begins = cell == 0 or token >= 2
        lengths = [*lengths, 1] if begins else [*lengths[:-1], lengths[-1] + 1]
        sums.append((token + (0 if begins else sums[-1])) % 2)
    return sums, max(lengths)


def test_a_row_of_several_strings_begins_anew_at_each_of_them():
    split = PACKED.load().splits["train"]
    for tokens, targets, longest in zip(split.inputs, split.targets, split.difficulty, strict=True):
        assert (targets.tolist(), longest) == _one_by_one(tokens)
    assert set(split.difficulty.tolist()) == set(range(3, 25))
    counts = np.bincount(split.difficulty.astype(int))[3:]
    assert np.all(counts < 5 * len(split) / 22)


def test_augmentation_is_a_symmetry_of_rows_of_several_strings():
    split = PACKED.generate(60, 1)
    keys = jr.split(jr.key(0), 60)
    tokens, targets = jax.vmap(PACKED.transform)(
        keys, jnp.asarray(split.inputs), jnp.asarray(split.targets)
    )
    assert tokens.dtype == targets.dtype == np.uint8
    np.testing.assert_array_equal(np.asarray(tokens) > 1, split.inputs > 1)
    assert 0.4 < np.mean(np.asarray(tokens) != split.inputs) < 0.6
    for row, target in zip(np.asarray(tokens), np.asarray(targets), strict=True):
        assert target.tolist() == _one_by_one(row)[0]


def test_the_input_has_a_mark_where_each_string_begins_and_nothing_else_changes():
    plain = PrefixSums(length=24, mark_first=True)
    ordinary, packed = plain.generate(30, 1), PACKED.generate(30, 1)
    np.testing.assert_array_equal(packed.inputs & 1, ordinary.inputs)
    for row, several in zip(ordinary.inputs, packed.inputs, strict=True):
        expected = np.array(plain.encode(jnp.asarray(row)))
        np.testing.assert_array_equal(PACKED.encode(jnp.asarray(row)), expected)
        expected[:, 1] += several > 1
        np.testing.assert_array_equal(PACKED.encode(jnp.asarray(several)), expected)


def test_only_the_training_rows_are_cut():
    ordinary = PrefixSums(length=24, mark_first=True, rows=300, test_rows=20).load()
    packed = PACKED.load().splits
    for name, split in ordinary.splits.items():
        same = np.array_equal(packed[name].inputs, split.inputs)
        assert same == (name != "train")
        np.testing.assert_array_equal(packed[name].inputs & 1, split.inputs)


def test_rows_of_several_strings_are_written_read_and_trained_on_as_they_are(tmp_path):
    split, path = PACKED.generate(300, 5), tmp_path / "set.csv"
    PACKED.write(split, path)
    back = PACKED.read(path, on_bad=refuse)
    for name in ("inputs", "targets", "difficulty", "puzzles"):
        np.testing.assert_array_equal(getattr(back, name), getattr(split, name))
    for index in range(20):
        parsed = PACKED.parse(split.puzzles[index].decode())
        np.testing.assert_array_equal(parsed.inputs[0], split.inputs[index])
        assert PACKED.check(parsed, split.targets[index])[0] is True
        assert PACKED.render(parsed, parsed.targets[0])
        assert "<svg" in PACKED.draw(parsed, parsed.targets[0])
    splits = dataclasses.replace(PACKED, rows=0, data=str(path)).load().splits
    assert set(splits["train"].puzzles) <= set(split.puzzles)
    assert splits["train"].difficulty.min() < 24
    assert set(splits["validation"].difficulty) == {24}
    with pytest.raises(InputError, match=r"2 and 3 require task\.shortest"):
        PrefixSums(length=24).read(path, on_bad=refuse)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shortest": 4}, "set task.mark_first=true"),
        ({"shortest": 32, "mark_first": True}, "must be 0, or from 1 to 31"),
        ({"shortest": -1, "mark_first": True}, "must be 0, or from 1 to 31"),
    ],
)
def test_a_shortest_string_that_cannot_be_is_one_line(fields, message):
    with pytest.raises(InputError, match=re.escape(message)):
        PrefixSums(**fields)


# --- sudoku: several numbers of givens


def test_training_sudokus_have_an_even_number_of_givens_up_to_the_most(tmp_path):
    plain = Sudoku(box=2, rows=400).load().splits
    task = Sudoku(box=2, rows=400, most_givens=12)
    mixed = task.load().splits
    for name in plain:
        assert np.array_equal(plain[name].inputs, mixed[name].inputs) == (name != "train")
    before, after = plain["train"], mixed["train"]
    given = before.inputs > 0
    np.testing.assert_array_equal(after.inputs[given], before.inputs[given])
    filled = after.inputs > 0
    np.testing.assert_array_equal(after.inputs[filled], after.targets[filled])
    np.testing.assert_array_equal(after.targets, before.targets)
    counts = np.bincount(filled.sum((1, 2)), minlength=13)
    assert not counts[:6].any()
    assert np.all(np.abs(counts[6:] - len(after) / 7) < 5 * np.sqrt(len(after) / 7))
    np.testing.assert_array_equal(after.difficulty, 16 - filled.sum((1, 2)))
    assert np.all(task.remarks(after)["have more than one solution"] == 0)
    assert list(task.bands(after)) == [f"blanks {n}" for n in range(4, 11)]

    longer, path = task.generate(30, 3), tmp_path / "set.csv"
    np.testing.assert_array_equal(longer.inputs[:12], task.generate(12, 3).inputs)
    task.write(longer, path)
    back = task.read(path, on_bad=refuse)
    np.testing.assert_array_equal(back.difficulty, longer.difficulty)
    np.testing.assert_array_equal(back.columns["scale"], longer.columns["scale"])


@pytest.mark.parametrize("most", [-1, 6, 16])
def test_a_number_of_givens_that_cannot_be_is_one_line(most):
    with pytest.raises(InputError, match=r"must be 0, or from 7 to 15"):
        Sudoku(box=2, most_givens=most)
