"""Group words: the laws of groups, products against permutations, and prefix sums as words over
Z2."""

import functools
import xml.etree.ElementTree as ET
from typing import Any

import jax
import jax.random as jr
import numpy as np
import pytest

from eqloop import InputError
from eqloop._task import refuse
from eqloop.tasks._groups import group, product
from eqloop.tasks.group_words import GroupWords
from eqloop.tasks.prefix_sums import PrefixSums

ORDERS = {"Z2": 2, "Z7": 7, "Z120": 120, "D3": 6, "D4": 8, "D60": 120}
ORDERS |= {"S3": 6, "S4": 24, "S5": 120, "A3": 3, "A4": 12, "A5": 60}


@pytest.mark.parametrize("name", ORDERS)
def test_the_laws_of_a_group(name):
    found = group(name)
    table, order, numbers = found.table.astype(int), found.order, np.arange(found.order)
    assert order == ORDERS[name] == len(set(found.names))
    np.testing.assert_array_equal(table[0], numbers)
    np.testing.assert_array_equal(table[:, 0], numbers)
    # (ab)c = a(bc) for all a, b and c.
    np.testing.assert_array_equal(table[table], table[:, table].reshape(order, order, order))
    inverse = np.argmin(table, axis=1)
    np.testing.assert_array_equal(table[numbers, inverse], 0)
    np.testing.assert_array_equal(table[inverse, numbers], 0)
    assert is_commutative(table) == (name[0] == "Z" or name == "A3")
    assert closure(table, {0, *found.generators}) == set(numbers.tolist())


def is_commutative(table) -> bool:
    return bool((table == table.T).all())


def closure(table, elements: set[int]) -> set[int]:
    """The subgroup that elements generate: all their products."""
    while True:
        members = sorted(elements)
        larger = elements | set(table[np.ix_(members, members)].ravel().tolist())
        if larger == elements:
            return elements
        elements = larger


@pytest.mark.parametrize(
    ("name", "derived"), [("S5", "A5"), ("A5", "A5"), ("S4", "A4"), ("S3", "A3"), ("Z7", "Z1")]
)
def test_commutator_subgroups(name, derived):
    """That of S5 is A5, and that of A5 is A5 itself: neither is solvable."""
    found, table = group(name), group(name).table.astype(int)
    inverse = np.argmin(table, axis=1)
    a, b = np.indices(table.shape)
    commutators = table[table[inverse[a], inverse[b]], table[a, b]]
    subgroup = {found.names[k] for k in closure(table, set(commutators.ravel().tolist()))}
    assert subgroup == ({"0"} if derived == "Z1" else set(group(derived).names))


@pytest.mark.parametrize("name", ["", "Z1", "Z121", "S6", "S2", "A6", "D2", "z3", "Z03", "S3 "])
def test_names_of_no_group(name):
    with pytest.raises(InputError, match=r"task\.group=.*: must be one of Z2 to Z120"):
        GroupWords(group=name)


def test_names_are_what_they_say():
    """213 then 132 takes 1 to 2 to 3; a rotation by 2 then 3 is one by 5; s0 r1 s0 is r4 in D5."""
    words = {"S3": ("213 132", "213 312"), "Z7": ("2 3 4", "2 5 2")}
    words |= {"D5": ("s0 r1 s0", "s0 s1 r4"), "A4": ("2314 2314 2314", "2314 3124 1234")}
    for name, (word, expected) in words.items():
        task = GroupWords(group=name)
        products = task.parse(word).targets[0]
        assert " ".join(task.symbols[element] for element in products) == expected


@pytest.mark.parametrize("name", ["S3", "A5", "S5"])
def test_targets_are_products_of_permutations(name):
    task = GroupWords(group=name, length=16)
    split = task.generate(10, 0)
    permutations = [tuple(int(c) - 1 for c in text) for text in group(name).names]
    for word, targets in zip(split.inputs.tolist(), split.targets.tolist(), strict=True):
        for end in range(1, 17):
            expected = functools.reduce(product, [permutations[letter] for letter in word[:end]])
            assert permutations[targets[end - 1]] == expected


def test_words_over_z2_are_prefix_sums():
    """The same strings and sums in every split, also with several strings per row."""
    fields: dict[str, Any] = {"length": 8, "rows": 60, "test_rows": 20, "validation_length": 16}
    several: dict[str, Any] = {"shortest": 3}
    for more in ({}, several):
        bits = PrefixSums(**fields, **more, mark_first=bool(more)).load().splits
        words = GroupWords(group="Z2", **fields, **more).load().splits
        assert list(bits) == list(words)
        for name, split in bits.items():
            np.testing.assert_array_equal(words[name].inputs, split.inputs)
            np.testing.assert_array_equal(words[name].targets, split.targets)
            np.testing.assert_array_equal(words[name].difficulty, split.difficulty)


@pytest.mark.parametrize("fields", [{}, {"shortest": 3}, {"generators": True}], ids=str)
def test_a_transformed_word_has_its_products(fields):
    task = GroupWords(group="S4", length=20, **fields)
    split = task.generate(16, 1)
    assert len(np.unique(split.inputs % 24)) == (3 if fields.get("generators") else 24)
    tokens, targets = map(
        np.asarray,
        jax.jit(jax.vmap(task.transform))(jr.split(jr.key(0), 16), split.inputs, split.targets),
    )
    np.testing.assert_array_equal(task.answered(tokens).targets, targets)
    np.testing.assert_array_equal(tokens >= 24, split.inputs >= 24)
    assert set(np.unique(tokens % 24)) <= set(np.unique(split.inputs % 24))
    assert np.mean(tokens != split.inputs) > 0.5


def test_several_words_in_a_row():
    task = GroupWords(shortest=4, length=12)
    split = task.parse("213 132 132 |132 213 213 |321 321 213 132 321 321")
    assert split.difficulty.tolist() == [6]
    assert split.targets[0, [3, 6]].tolist() == [1, 5]
    encoded = np.asarray(task.encode(split.inputs[0]))
    assert np.flatnonzero(encoded[:, -1]).tolist() == [0, 3, 6]
    np.testing.assert_array_equal(encoded[:, :-1].argmax(1), split.inputs[0] % 6)
    assert encoded.shape == (12, task.channels)


def test_splits_are_of_their_lengths():
    splits = GroupWords(length=8, rows=50, test_rows=10, validation_length=16).load().splits
    lengths = {name: split.inputs.shape[1] for name, split in splits.items()}
    assert lengths == {
        **{"train": 8, "validation": 16, "test": 8},
        **{"hard": 32, "hard-x2": 64, "hard-x4": 128},
    }
    with pytest.raises(InputError, match="only 243 words of 5 letters"):
        GroupWords(group="A4", generators=True, length=5, rows=300).load()


FAULTS = {
    "no element": ("213 124", "", "'124' is not a symbol of this task (123 132"),
    "wrong answer": ("213 132", "213 132", "the answer '213 132' is wrong"),
    "short answer": ("213 132", "213", "has 1 cells, but the question has 2"),
    "another length": ("213 132 213", "", "3 cells, but the rows before have 2"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_bad_rows_of_a_file(case, tmp_path):
    question, answer, words = FAULTS[case]
    path = tmp_path / "words.csv"
    path.write_text(f"question,answer\n213 132,\n{question},{answer}\n")
    with pytest.raises(InputError) as caught:
        GroupWords().read(path, on_bad=refuse)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert words in str(caught.value)


def test_a_file_gives_the_training_words(tmp_path):
    task = GroupWords(group="A5", length=8, test_rows=5)
    split, path = task.generate(30, 0), tmp_path / "words.csv"
    task.write(split, path)
    splits = GroupWords(group="A5", length=8, test_rows=5, data=str(path)).load().splits
    trained = {*splits["train"].puzzles.tolist(), *splits["validation"].puzzles.tolist()}
    assert trained == set(split.puzzles.tolist())
    assert not trained & set(splits["test"].puzzles.tolist())
    with pytest.raises(InputError, match=r"shape \(8,\), but the grid of the task is \(9,\)"):
        GroupWords(group="A5", length=9, data=str(path)).load()


def test_pictures_have_the_names():
    task = GroupWords(group="S5", length=12)
    split = task.generate(1, 0)
    wrong = split.targets[0].copy()
    wrong[3] = (wrong[3] + 1) % 120
    first, answer, mark = task.render(split, wrong).splitlines()[:3]
    assert first.split("] ")[1].split() == [task.symbols[letter] for letter in split.inputs[0, :10]]
    name = task.symbols[wrong[3]]
    places = (mark.replace("[red]", "").index("^^^^^"), answer.replace("[bold]", "").index(name))
    assert places[0] == places[1] > 0
    svg = task.draw(split, wrong)
    assert "11 right, 1 wrong" in svg
    shown = "".join(element.text or "" for element in ET.fromstring(svg).iter() if element.get("x"))
    for name in (task.symbols[letter] for letter in split.inputs[0]):
        assert name in shown


def test_known_depth():
    split = GroupWords(length=33).generate(2, 0)
    task = GroupWords()
    assert task.known_depth(split, 5).tolist() == [16, 16]
    assert task.known_depth(split, 3).tolist() == [32, 32]
    assert task.known_depth(split, "full").tolist() == [pytest.approx(np.log2(33))] * 2
    assert PrefixSums().known_depth(split, 5).tolist() == [16, 16]
