"""The laws that every task obeys: the table is `TASKS`, so that a new task is tested as soon as it
is named."""

import dataclasses
import re
import xml.etree.ElementTree as ET

import jax
import jax.random as jr
import numpy as np
import pytest
import tiny_task

from eqloop import InputError
from eqloop._task import Split, Task, refuse
from eqloop.run import resolve
from eqloop.tasks import TASKS, make_task

ROWS = 12
SVG = "{http://www.w3.org/2000/svg}"
XLINK = "http://www.w3.org/1999/xlink"


@pytest.fixture(scope="module", params=list(TASKS))
def task(request) -> Task:
    return make_task(request.param, {"rows": 60})


@pytest.fixture(scope="module")
def generated(task) -> Split:
    return task.generate(ROWS, 7)


def test_name_and_shapes(task, generated):
    assert TASKS[task.name] is type(task)
    assert generated.inputs.shape == generated.targets.shape == (ROWS, *task.grid)
    assert generated.inputs.dtype == generated.targets.dtype == np.uint8
    assert generated.difficulty.shape == generated.puzzles.shape == (ROWS,)
    assert generated.targets.max() < task.classes
    encoded = jax.eval_shape(task.encode, generated.inputs[0])
    assert encoded.shape == (*task.grid, task.channels)
    assert encoded.dtype == np.float32


def test_there_is_a_quick_preset(task):
    spec = resolve(task.name, "quick", make_task=make_task)
    assert (spec.task_name, spec.model.grid) == (task.name, task.grid)


def test_a_new_task_has_the_general_one():
    spec = resolve("tiny", "quick", make_task=tiny_task.make_task)
    assert (spec.task_name, spec.train.loss, spec.model.grid) == ("tiny", "mean", (6,))


def test_generation_is_a_pure_function(task, generated):
    again = task.generate(ROWS, 7)
    np.testing.assert_array_equal(again.inputs, generated.inputs)
    np.testing.assert_array_equal(again.targets, generated.targets)
    assert (task.generate(ROWS, 8).inputs != generated.inputs).any()
    assert len(set(generated.puzzles.tolist())) == ROWS


def test_the_target_is_the_answer(task, generated):
    """Logits that are certain of the target predict it, have full scores and pass the checker."""
    logits = 20 * jax.nn.one_hot(generated.targets, task.classes)
    predictions = np.asarray(jax.vmap(task.predict)(logits, generated.inputs))
    np.testing.assert_array_equal(predictions, generated.targets)
    scores = jax.vmap(task.score)(predictions, generated.inputs, generated.targets)
    assert {"exact", "cells"} <= set(scores)
    for values in scores.values():
        assert np.all(np.asarray(values, np.float32) == 1)
    for index in range(ROWS):
        answered, why = task.check(generated.take(slice(index, index + 1)), predictions[index])
        assert answered is True, why


def test_a_wrong_cell_is_no_answer(task, generated):
    wrong = generated.targets.copy()
    wrong[:, *(0 for _ in task.grid)] ^= 1
    scores = jax.vmap(task.score)(wrong, generated.inputs, generated.targets)
    assert not np.any(np.asarray(scores["exact"]))
    assert np.all(np.asarray(scores["cells"]) < 1)


def test_a_puzzle_is_parsed_as_it_is_written(task, generated):
    for index in range(4):
        parsed = task.parse(generated.puzzles[index].decode())
        assert len(parsed) == 1
        np.testing.assert_array_equal(parsed.inputs[0], generated.inputs[index])
        assert parsed.puzzles[0] == generated.puzzles[index]


@pytest.mark.parametrize("text", ["", "?", "\x00", "12" * 2500, "é" * 81, "[bold]"])
def test_a_malformed_puzzle_is_one_line(task, text):
    with pytest.raises(InputError) as caught:
        task.parse(text)
    line = str(caught.value)
    assert line
    assert "\n" not in line
    assert len(line) < 300


def test_a_file_is_read_as_it_was_written(task, generated, tmp_path):
    task.write(generated, tmp_path / "set.csv.gz")
    back = task.read(tmp_path / "set.csv.gz", on_bad=refuse)
    np.testing.assert_array_equal(back.inputs, generated.inputs)
    np.testing.assert_array_equal(back.targets, generated.targets)
    np.testing.assert_array_equal(back.difficulty, generated.difficulty)


def test_a_symmetry_maps_examples_to_examples(task, generated):
    keys = jr.split(jr.key(0), ROWS)
    moved = jax.jit(jax.vmap(task.transform))
    inputs, targets = moved(keys, generated.inputs, generated.targets)
    assert inputs.dtype == targets.dtype == np.uint8
    assert inputs.shape == targets.shape == generated.inputs.shape
    # The images have the classes of the task.
    assert np.asarray(targets).max() < task.classes


def test_remarks_count_rows(task, generated):
    assert all(0 <= count <= ROWS for count in task.remarks(generated).values())
    assert task.remarks(generated.take(slice(0))) == {}


def test_bands_and_board(task, generated):
    bands = task.bands(generated)
    assert bands
    assert all(mask.shape == (ROWS,) and mask.dtype == bool for mask in bands.values())
    assert np.any(list(bands.values()), axis=0).all()
    puzzle = generated.take(slice(0, 1))
    assert task.render(puzzle).strip()
    assert task.render(puzzle, puzzle.targets[0]) != task.render(puzzle)


def test_drawing(task, generated):
    """The drawing is an SVG that needs nothing else, has no size of its own, and marks wrong
    cells."""
    puzzle = generated.take(slice(0, 1))
    wrong = puzzle.targets[0].copy()
    wrong.flat[:2] ^= 1
    drawings = [task.draw(puzzle), task.draw(puzzle, puzzle.targets[0]), task.draw(puzzle, wrong)]
    assert len(set(drawings)) == 3
    for text in drawings:
        svg = ET.fromstring(text)
        assert svg.tag == f"{SVG}svg"
        assert svg.get("role") == "img"
        assert svg.get("viewBox")
        assert svg.get("width") is svg.get("height") is None
        assert (svg.findtext(f"{SVG}title") or "").strip()
        assert set(re.findall(r"https?://[^\"]*", text)) <= {SVG[1:-1], XLINK}
        assert all(element.get("href", "#").startswith("#") for element in svg.iter())
        assert not {element.tag for element in svg.iter()} & {f"{SVG}style", f"{SVG}script"}
        assert len(text) < 20_000
    assert "wrong" in drawings[2].lower()


def test_where_the_answer_is_not_known_nothing_is_wrong(task, generated):
    puzzle = generated.take(slice(0, 1))
    unknown = dataclasses.replace(
        puzzle,
        targets=np.zeros_like(puzzle.targets),
        columns={**puzzle.columns, "answered": np.array([False])},
    )
    for mark in ("var(--wrong", "#xx", "stroke-dasharray"):
        assert mark not in task.draw(unknown, puzzle.targets[0])


def test_splits_and_manifest(task):
    data = task.load()
    assert list(data.splits)[:4] == ["train", "validation", "test", "hard"]
    pools = {name: set(split.puzzles.tolist()) for name, split in data.splits.items()}
    assert all(pools.values())
    assert not pools["train"] & pools["validation"]
    for name in pools.keys() - {"train", "validation"}:
        assert not (pools["train"] | pools["validation"]) & pools[name], name
    assert data.manifest["task"] == task.name
    assert data.manifest == task.load().manifest  # from the cache


def test_an_unknown_task_or_field_names_the_nearest():
    with pytest.raises(InputError, match="did you mean sudoku"):
        make_task("soduku", {})
    with pytest.raises(InputError, match=r"unknown field task\.bix; did you mean task\.box"):
        make_task("sudoku", {"bix": 3})
