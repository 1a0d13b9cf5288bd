"""The prefix-sums task: its laws, its file and its faults."""

import xml.etree.ElementTree as ET

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eqloop import InputError
from eqloop._task import Tally, refuse
from eqloop.tasks import make_task
from eqloop.tasks.prefix_sums import PrefixSums


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EQLOOP_CACHE", str(tmp_path / "cache"))


@given(st.text("01", min_size=5, max_size=80))
def test_targets_are_the_running_parity(text):
    split = PrefixSums().parse(text)
    assert [int(t) for t in split.targets[0]] == [
        text[: i + 1].count("1") % 2 for i in range(len(text))
    ]
    assert split.puzzles[0].decode() == text


def test_splits_are_disjoint_and_of_their_lengths():
    data = PrefixSums(length=10, rows=500, test_rows=400, validation_length=40).load()
    shapes = {name: split.inputs.shape for name, split in data.splits.items()}
    assert shapes == {
        "train": (400, 10),
        "validation": (100, 40),
        "test": (400, 10),
        "hard": (400, 40),
        "hard-x2": (400, 80),
        "hard-x4": (400, 160),
    }
    pools = {name: set(split.puzzles.tolist()) for name, split in data.splits.items()}
    assert all(len(pools[name]) == shapes[name][0] for name in pools)
    assert not pools["train"] & pools["test"]
    assert not pools["validation"] & pools["hard"]


def test_validation_never_overlaps_test_at_one_length():
    data = PrefixSums(length=9, rows=400, test_rows=112).load().splits
    parts = [set(data[name].puzzles.tolist()) for name in ("train", "validation", "test")]
    assert len(set.union(*parts)) == 512 == sum(map(len, parts))
    with pytest.raises(InputError, match="only 512 strings of 9 bits"):
        PrefixSums(length=9, rows=401, test_rows=112).load()


def test_the_same_fields_give_the_same_rows_and_another_seed_others():
    a, b, c = (PrefixSums(rows=50, test_rows=5, seed=s).load().manifest for s in (1, 1, 2))
    assert a == b
    assert a["splits"] != c["splits"]


def test_transform_is_a_symmetry():
    task = PrefixSums()
    split = task.generate(64, 0)
    keys = jr.split(jr.key(0), 64)
    tokens, targets = jax.vmap(task.transform)(
        keys, jnp.asarray(split.inputs), jnp.asarray(split.targets)
    )
    np.testing.assert_array_equal(np.cumsum(tokens, axis=1) % 2, targets)
    assert 0.4 < np.mean(np.asarray(tokens) != split.inputs) < 0.6


def test_the_mark_is_a_channel_of_its_own():
    tokens = jnp.array([1, 0, 1, 1, 0], jnp.uint8)
    plain, marked = PrefixSums().encode(tokens), PrefixSums(mark_first=True).encode(tokens)
    np.testing.assert_array_equal(plain[:, 0], [0.5, -0.5, 0.5, 0.5, -0.5])
    np.testing.assert_array_equal(marked[:, 0], plain[:, 0])
    np.testing.assert_array_equal(marked[:, 1], [1, 0, 0, 0, 0])
    for task, encoded in ((PrefixSums(), plain), (PrefixSums(mark_first=True), marked)):
        assert encoded.shape == (5, task.channels)


def test_write_and_read_give_the_same_split(tmp_path):
    task = PrefixSums(length=12)
    split = task.generate(30, 3)
    for suffix in ("csv", "csv.gz", "csv.zst"):
        path = tmp_path / f"bits.{suffix}"
        task.write(split, path)
        back = task.read(path, on_bad=refuse)
        np.testing.assert_array_equal(back.puzzles, split.puzzles)
        np.testing.assert_array_equal(back.targets, split.targets)
    data = PrefixSums(length=12, data=str(path), test_rows=8).load()
    assert data.manifest["read"] == {"rows": 30, "bad": 0}
    trained = set(data.splits["train"].puzzles) | set(data.splits["validation"].puzzles)
    assert trained == set(split.puzzles.tolist())
    assert not trained & set(data.splits["test"].puzzles.tolist())


def test_bad_rows_are_named_with_their_line(tmp_path):
    path = tmp_path / "bits.csv"
    path.write_text("question,answer\n01011,01101\n0102,\n010,\n010110,\n01011,00000\n11111,\n")
    tally = Tally()
    split = PrefixSums().read(path, on_bad=tally)
    assert split.puzzles.tolist() == [b"01011", b"11111"]
    assert [str(bad).removeprefix(f"{path}:").split(":")[0] for bad in tally.first] == list("3456")
    with pytest.raises(InputError, match=r"bits\.csv:3: expected a string of 0 and 1"):
        PrefixSums().read(path, on_bad=refuse)


@pytest.mark.parametrize("text", ["", "0101", "01012", "abc", "0 1 0 2 1"])
def test_a_puzzle_that_is_no_bit_string_is_refused(text):
    with pytest.raises(InputError):
        PrefixSums().parse(text)


def test_check_and_render():
    task = PrefixSums()
    split = task.parse("0110100")
    right = split.targets[0]
    assert task.check(split, right)[0] is True
    wrong = right ^ np.array([0, 0, 1, 0, 0, 0, 0], np.uint8)
    assert task.check(split, wrong) == (False, "1 of 7 cells are wrong, the first at 2")
    assert "^" in task.render(split, wrong)
    assert "^" not in task.render(split, right)


def test_drawing_wraps_long_strings_and_strikes_wrong_sums():
    task = PrefixSums()
    split = task.generate(1, 0)
    right = split.targets[0]
    wrong = right.copy()
    wrong[[3, 30]] ^= 1

    def lines(prediction):
        svg = ET.fromstring(task.draw(split, prediction))
        return [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]

    bits, sums = ("".join(map(str, row)) for row in (split.inputs[0], wrong))
    assert lines(wrong) == [
        "bits",
        "sums",
        bits[:16],
        sums[:16],
        "bits",
        "sums",
        bits[16:],
        sums[16:],
    ]
    assert "·" * 16 in lines(None)
    assert task.draw(split, wrong).count("zl") == 2  # a wrong sum has a box and a stroke through it
    assert "zl" not in task.draw(split, right)
    assert "30 right, 2 wrong" in task.draw(split, wrong)


def test_made_by_name_with_fields():
    assert make_task("prefix-sums", {"length": 16}) == PrefixSums(length=16)
    with pytest.raises(InputError, match="length"):
        make_task("prefix-sums", {"lenght": 16})
