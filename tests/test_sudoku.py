"""Sudoku: symmetries map solutions to solutions, puzzles have one solution, files are read as
written."""

import dataclasses
import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.text import Text

from eqloop import InputError
from eqloop._task import Split, _files, _open
from eqloop.tasks import (
    _compiled,
    _sudoku_files,
    _sudoku_generator,
    _sudoku_symmetry,
    make_task,
)
from eqloop.tasks.sudoku import Sudoku

quick = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
)
BOXES = (2, 3)
GIVENS = {2: 6, 3: 28}
HARD = b"8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4.."


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("EQLOOP_CACHE", str(folder))
    return folder


def test_machine_code_is_cached_beside_the_data(cache, monkeypatch):
    """The folder that the user names for Numba goes first."""
    config = _compiled._CONFIG
    for named, expected in (("", cache / "numba"), (str(cache / "mine"), cache / "mine")):
        monkeypatch.setattr(config, "CACHE_DIR", named)
        dispatcher = _compiled.compiled(turn)
        assert Path(dispatcher.stats.cache_path).is_relative_to(expected)
        assert named == config.CACHE_DIR


def turn(number):
    return -number


@pytest.fixture(scope="module")
def generated() -> dict[int, Split]:
    return {box: Sudoku(box=box, givens=GIVENS[box]).generate(40, 7) for box in BOXES}


def slow_solutions(grid: list[list[int]], box: int, limit: int = 2) -> list[list[list[int]]]:
    """An independent solver: plain depth-first search in the cell with the fewest choices."""
    n = box * box
    best: tuple[int, int, list[int]] | None = None
    for r in range(n):
        for c in range(n):
            if grid[r][c] == 0:
                used = set(grid[r]) | {grid[i][c] for i in range(n)}
                top, left = r // box * box, c // box * box
                used |= {grid[top + i][left + j] for i in range(box) for j in range(box)}
                choices = [d for d in range(1, n + 1) if d not in used]
                if best is None or len(choices) < len(best[2]):
                    best = r, c, choices
    if best is None:
        return [[list(row) for row in grid]]
    solutions = []
    r, c, choices = best
    for digit in choices:
        grid[r][c] = digit
        solutions += slow_solutions(grid, box, limit - len(solutions))
        grid[r][c] = 0
        if len(solutions) >= limit:
            break
    return solutions


def is_solution(grid: np.ndarray, box: int) -> bool:
    """Check a solution by sets, not by bits as the package does."""
    n = box * box
    digits = set(range(1, n + 1))
    blocks = [
        grid[i : i + box, j : j + box].ravel() for i in range(0, n, box) for j in range(0, n, box)
    ]
    return all(set(line.tolist()) == digits for line in (*grid, *grid.T, *blocks))


def plain(task: Sudoku, split: Split, prediction=None) -> str:
    return Text.from_markup(task.render(split, prediction)).plain


# --- the generator


@pytest.mark.parametrize("box", BOXES)
def test_generated_puzzles_have_exactly_one_solution(generated, box):
    split = generated[box]
    for tokens, answer in list(zip(split.inputs, split.targets, strict=True))[:12]:
        assert np.sum(tokens != 0) == GIVENS[box]
        assert slow_solutions(tokens.tolist(), box) == [answer.tolist()]
    assert all(is_solution(answer, box) for answer in split.targets)
    assert len(set(split.puzzles.tolist())) == len(split) == 40
    assert all(split.columns["scale"] == b"eqloop")


@pytest.mark.parametrize("box", BOXES)
def test_generation_is_a_function_of_the_seed(generated, box):
    task = Sudoku(box=box, givens=GIVENS[box])
    again, fewer, other_seed = task.generate(40, 7), task.generate(13, 7), task.generate(40, 8)
    np.testing.assert_array_equal(again.inputs, generated[box].inputs)
    np.testing.assert_array_equal(again.targets, generated[box].targets)
    np.testing.assert_array_equal(fewer.inputs, generated[box].inputs[:13])
    assert not set(other_seed.puzzles.tolist()) >= set(again.puzzles.tolist())


def test_the_stream_of_puzzles_stays_what_it_was(generated):
    """A change of these puzzles needs a new `Sudoku.version`."""
    assert generated[2].puzzles[:2].tolist() == [b"4....2.1....142.", b".2434.....1...3."]
    assert generated[3].puzzles[0] == (
        b".857..2.1.......85..6.8..4.....378.4..4....5....9423..24.1.65..13...............9"
    )


@pytest.mark.parametrize(("box", "givens"), [(2, 4), (2, 15), (3, 24), (3, 40), (3, 80)])
def test_the_wanted_number_of_givens(box, givens):
    split = Sudoku(box=box, givens=givens).generate(5, 0)
    assert all(np.sum(tokens != 0) == givens for tokens in split.inputs)


def test_when_the_different_puzzles_run_out():
    with pytest.raises(InputError, match="different puzzles with 15 givens were found"):
        Sudoku(box=2, givens=15).generate(288 * 16 + 1, 0)


# --- the solver


def test_the_solver_on_what_it_can_meet():
    hard = _sudoku_files.tokens_of(HARD, 3)
    empty, full = np.zeros(81, np.uint8), None
    counts, solutions, guesses = _sudoku_generator.solve(np.stack([hard, empty]), 3)
    assert counts.tolist() == [1, 2]
    assert is_solution(solutions[0].reshape(9, 9), 3)
    assert np.all((hard == 0) | (hard == solutions[0]))
    assert is_solution(solutions[1].reshape(9, 9), 3)
    assert guesses[0] > 0
    full = solutions[:1]
    wrong = full.copy()
    wrong[0, 0] = wrong[0, 0] % 9 + 1
    assert _sudoku_generator.solve(full, 3)[0].tolist() == [1]
    assert _sudoku_generator.solve(wrong, 3)[0].tolist() == [0]


@quick
@given(st.lists(st.integers(0, 4), min_size=16, max_size=16), st.integers(1, 4))
def test_the_solver_agrees_with_the_slow_one(cells, limit):
    tokens = np.array([cells], np.uint8)
    if _sudoku_files.clashes(tokens.reshape(4, 4), 2):
        assert _sudoku_generator.solve(tokens, 2)[0][0] == 0
        return
    expected = slow_solutions(tokens.reshape(4, 4).tolist(), 2, limit)
    counts, solutions, _ = _sudoku_generator.solve(tokens, 2, limit)
    assert counts[0] == len(expected)
    if expected:
        assert is_solution(solutions.reshape(4, 4), 2)


def test_there_are_288_grids_of_4x4():
    assert _sudoku_generator.solve(np.zeros((1, 16), np.uint8), 2, 1000)[0].tolist() == [288]


# --- symmetries


@pytest.mark.parametrize("box", BOXES)
def test_a_symmetry_maps_puzzles_to_puzzles(generated, box):
    task, split = Sudoku(box=box), generated[box]
    n = box * box
    keys = jax.random.split(jax.random.key(0), len(split))
    move = jax.jit(jax.vmap(task.transform))
    tokens, targets = map(np.asarray, move(keys, split.inputs, split.targets))
    assert tokens.dtype == targets.dtype == np.uint8
    for before, clues, answer in zip(split.inputs, tokens, targets, strict=True):
        assert is_solution(answer, box)
        assert np.all((clues == 0) | (clues == answer))
        assert np.sum(clues != 0) == np.sum(before != 0)
    assert all(
        not text
        for text in _sudoku_files.faults(
            tokens.reshape(-1, n * n), targets.reshape(-1, n * n), box, unique=True
        )
    )
    again, _ = move(keys, split.inputs, split.targets)
    np.testing.assert_array_equal(again, tokens)
    assert not np.array_equal(tokens, split.inputs)


@pytest.mark.parametrize("box", BOXES)
def test_a_symmetry_moves_both_grids_alike(box):
    """The grids are moved cell by cell: where tokens and targets are equal, so are their images."""
    n = box * box
    grid = jax.random.randint(jax.random.key(1), (n, n), 0, n + 1).astype(jnp.uint8)
    move = jax.jit(jax.vmap(lambda key: Sudoku(box=box).transform(key, grid, grid)))
    moved, alike = move(jax.random.split(jax.random.key(0), 20))
    np.testing.assert_array_equal(moved, alike)
    before = np.bincount(np.asarray(grid).ravel(), minlength=n + 1)
    for cells in np.asarray(moved):
        after = np.bincount(cells.ravel(), minlength=n + 1)
        assert before[0] == after[0]
        assert sorted(before) == sorted(after)


def test_every_symmetry_comes_up_and_none_else():
    """The images are the orbit under swaps of digits, of rows and of bands, and the
    transposition."""
    task = Sudoku(box=2)
    # The identity is the only symmetry that leaves this grid as it is.
    start = np.array([[1, 1, 2, 0], [0, 3, 0, 0], [1, 0, 0, 4], [0, 0, 0, 0]], np.uint8)
    names = [[0, 2, 1, 3, 4], [0, 1, 3, 2, 4], [0, 1, 2, 4, 3]]
    lines = [[1, 0, 2, 3], [0, 1, 3, 2], [2, 3, 0, 1]]
    orbit, border = {start.tobytes()}, [start]
    while border:
        grid = border.pop()
        images = [np.array(name, np.uint8)[grid] for name in names]
        for image in (*images, *(grid[line] for line in lines), grid.T):
            if image.tobytes() not in orbit:
                orbit.add(image.tobytes())
                border.append(image)
    assert len(orbit) == 24 * 2**6 * 2
    tokens, keys = jnp.asarray(start), jax.random.split(jax.random.key(3), 40_000)
    moved, _ = jax.jit(jax.vmap(lambda key: task.transform(key, tokens, tokens)))(keys)
    images, counts = np.unique(np.asarray(moved).reshape(len(keys), -1), axis=0, return_counts=True)
    assert {image.tobytes() for image in images} == orbit
    mean = len(keys) / len(orbit)
    assert np.var(counts) == pytest.approx(mean, rel=0.15)  # as for a Poisson distribution


@pytest.mark.parametrize("box", BOXES)
def test_the_orders_of_lines_are_all_there_are(box):
    orders = _sudoku_symmetry.line_orders(box)
    assert len(np.unique(orders, axis=0)) == len(orders) == math.factorial(box) ** (box + 1)
    for order in orders[:: len(orders) // 8]:
        assert sorted(order.tolist()) == list(range(box * box))
        assert all(len(set(band // box)) == 1 for band in order.reshape(box, box))


# --- the example on the device


@pytest.mark.parametrize("box", BOXES)
def test_encoding_prediction_and_score(generated, box):
    task, split = Sudoku(box=box), generated[box]
    tokens, targets = jnp.asarray(split.inputs[0]), jnp.asarray(split.targets[0])
    x = task.encode(tokens)
    assert x.shape == (*task.grid, task.channels)
    assert x.dtype == jnp.float32
    np.testing.assert_array_equal(jnp.argmax(x, -1), tokens)
    logits = jax.nn.one_hot(targets, task.classes, dtype=jnp.float32)
    prediction = task.predict(logits, tokens)
    assert prediction.dtype == jnp.uint8
    np.testing.assert_array_equal(prediction, targets)
    assert {k: float(v) for k, v in task.score(prediction, tokens, targets).items()} == {
        "exact": 1,
        "cells": 1,
        "blanks": 1,
    }
    copied = task.score(tokens, tokens, targets)
    givens, cells = np.sum(split.inputs[0] != 0), split.inputs[0].size
    assert float(copied["exact"]) == float(copied["blanks"]) == 0
    assert float(copied["cells"]) == pytest.approx(givens / cells)
    assert float(task.score(targets, targets, targets)["blanks"]) == 1


# --- files


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".csv.zst"])
@pytest.mark.parametrize("box", BOXES)
def test_what_is_written_is_read_back(tmp_path, generated, box, suffix):
    task, split = Sudoku(box=box), generated[box]
    path = tmp_path / f"s{suffix}"
    task.write(split, path)
    progress: list[tuple[int, int | None]] = []
    back = task.read(path, on_bad=_files.refuse, progress=lambda *at: progress.append(at))
    for field in ("inputs", "targets", "difficulty", "puzzles"):
        np.testing.assert_array_equal(getattr(back, field), getattr(split, field))
    for name in ("scale", "source", "guesses"):
        np.testing.assert_array_equal(back.columns[name], split.columns[name])
    assert progress


QUESTION = ".234341221434321"
ANSWER = "1234341221434321"
GOOD = f"a,{QUESTION},{ANSWER},0"
BAD_ROWS = {
    "short question": (f"a,{QUESTION[:-1]},{ANSWER},0", "the question has 15 characters, not 16"),
    "long answer": (f"a,{QUESTION},{ANSWER}1,0", "the answer has 17 characters, not 16"),
    "letter": (f"a,x{QUESTION[1:]},{ANSWER},0", "question has a cell that is not ., 0 or 1-4"),
    "digit too high": (f"a,5{QUESTION[1:]},{ANSWER},0", "question has a cell that is not"),
    "blank in answer": (f"a,{QUESTION},{QUESTION},0", "answer has a cell that is not 1-4"),
    "contradiction": (f"a,2{QUESTION[1:]},{ANSWER},0", "the answer contradicts the question"),
    "invalid grid": (f"a,{'.' * 16},{'1234' * 4},0", "the answer is not a valid grid"),
    "rating text": (f"a,{QUESTION},{ANSWER},easy", "the rating 'easy' is not a number"),
    "rating nan": (f"a,{QUESTION},{ANSWER},nan", "the rating 'nan' is not a number"),
    "rating negative": (f"a,{QUESTION},{ANSWER},-1", "the rating '-1' is not a number >= 0"),
    "no rating": (f"a,{QUESTION},{ANSWER},", "the rating '' is not a number"),
    "long source": (f"{'a' * 65},{QUESTION},{ANSWER},0", "the source has more than 64 bytes"),
    "not ASCII": (f"a,{'²' * 16},{ANSWER},0", "question has characters that are not digits"),
    "too few fields": (f"a,{QUESTION},{ANSWER}", "3 fields, but the header has 4"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_told_with_its_line(tmp_path, case):
    row, message = BAD_ROWS[case]
    path = tmp_path / "s.csv"
    path.write_text(f"source,question,answer,rating\n{GOOD}\n{row}\n{GOOD}\n", "utf-8")
    task, tally = Sudoku(box=2), _files.Tally()
    assert len(task.read(path, on_bad=tally)) == 2
    assert [bad.where for bad in tally.first] == [f"{path}:3"]
    assert message in tally.first[0].why
    with pytest.raises(InputError, match=r"s\.csv:3: .*--skip-bad"):
        task.read(path, on_bad=_files.refuse)


def test_bad_rows_are_told_in_the_order_of_the_file(tmp_path):
    path = tmp_path / "s.csv"
    rows = [GOOD, "a", BAD_ROWS["contradiction"][0], GOOD, "b", BAD_ROWS["short question"][0]]
    path.write_text("source,question,answer,rating\n" + "\n".join(rows))
    tally = _files.Tally()
    assert len(Sudoku(box=2).read(path, on_bad=tally)) == 2
    assert [bad.where for bad in tally.first] == [f"{path}:{line}" for line in (3, 4, 6, 7)]


def test_nothing_but_bad_rows(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("source,question,answer,rating\n" + "x\n" * 9000 + BAD_ROWS["letter"][0])
    tally = _files.Tally()
    assert len(Sudoku(box=2).read(path, on_bad=tally)) == 0
    assert tally.count == 9001


def test_a_puzzle_with_two_solutions_is_bad_where_that_is_asked(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text(f"source,question,answer,rating\n{GOOD}\na,{'.' * 16},{ANSWER},0\n")
    assert len(Sudoku(box=2).read(path, on_bad=_files.refuse)) == 2
    with pytest.raises(InputError, match=r"s\.csv:3: the question has more than one solution"):
        Sudoku(box=2, unique=True).read(path, on_bad=_files.refuse)


@quick
@given(st.lists(st.text('01234.x,"é\n', max_size=40), max_size=6))
def test_any_text_gives_valid_rows_or_bad_ones(tmp_path, lines):
    path = tmp_path / "s.csv"
    path.write_text("source,question,answer,rating\n" + "\n".join([GOOD, *lines]), "utf-8")
    tally = _files.Tally()
    split = Sudoku(box=2).read(path, on_bad=tally)
    assert all(is_solution(answer, 2) for answer in split.targets)
    text = path.read_text("utf-8").split("\n")
    assert len(split) + tally.count == sum(bool(line.strip()) for line in text) - 1


def test_the_two_scales_are_told_apart(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text(
        "rating,answer,question,source\n"
        f"3,{ANSWER},{QUESTION},sudoku_exchange_se4.1\n"
        f"7,{ANSWER},{QUESTION.replace('.', '0')},puzzles2_17_clue\n"
    )
    task = Sudoku(box=2)
    split = task.read(path, on_bad=_files.refuse)
    np.testing.assert_array_equal(split.columns["scale"], [b"sukaku", b"tdoku"])
    np.testing.assert_array_equal(split.difficulty, np.array([4.1, 7], np.float32))
    np.testing.assert_array_equal(split.columns["guesses"], [3, 7])
    np.testing.assert_array_equal(split.inputs[0], split.inputs[1])
    assert {name: mask.tolist() for name, mask in task.bands(split).items()} == {
        "tdoku guesses 4-7": [False, True],
        "sukaku 4.0-4.4": [True, False],
    }
    with pytest.raises(InputError, match="several scales"):
        dataclasses.replace(task, data=str(path)).load()


# --- folders of HRM


def write_folder(folder: Path, split: Split, copies: int = 1, **changes: object) -> Path:
    folder.mkdir(parents=True)
    rows, cells = len(split), split.inputs[0].size
    arrays: dict[str, object] = {
        "inputs": split.inputs.reshape(rows, -1).astype(np.int64) + 1,
        "labels": split.targets.reshape(rows, -1).astype(np.int64) + 1,
        "puzzle_indices": np.arange(rows + 1, dtype=np.int32),
        "group_indices": np.arange(0, rows + 1, copies, dtype=np.int32),
        "puzzle_identifiers": np.zeros(rows, np.int32),
    }
    for name, array in (arrays | changes).items():
        if array is not None:
            np.save(folder / f"all__{name}.npy", np.asarray(array))
    (folder / "dataset.json").write_text(json.dumps({"seq_len": cells, "pad_id": 0}))
    return folder


@pytest.mark.parametrize("box", BOXES)
def test_a_folder_is_read(tmp_path, generated, box):
    task, split = Sudoku(box=box), generated[box]
    folder = write_folder(tmp_path / "train", split)
    back = task.read(folder, on_bad=_files.refuse)
    for field in ("inputs", "targets", "difficulty", "puzzles"):
        np.testing.assert_array_equal(getattr(back, field), getattr(split, field))
    with pytest.raises(InputError, match="has several sets; name one of them"):
        dataclasses.replace(task, data=str(tmp_path)).load()


def test_only_the_first_copy_of_a_group_is_used(tmp_path, generated):
    task = Sudoku(data=str(write_folder(tmp_path / "train", generated[3], copies=2)))
    split = task.read(Path(task.data), on_bad=_files.refuse)
    np.testing.assert_array_equal(split.columns["group"], np.repeat(np.arange(20), 2))
    np.testing.assert_array_equal(split.difficulty[::2], split.difficulty[1::2])
    loaded = task.load()
    assert loaded.manifest["read"]["duplicates"] == 20  # pyright: ignore[reportIndexIssue]
    used = np.concatenate([part.puzzles for part in loaded.splits.values()])
    assert set(used.tolist()) <= set(generated[3].puzzles[::2].tolist())


def test_folders_that_cannot_be_used(tmp_path, generated):
    split, task = generated[3], Sudoku()
    whole = split.inputs.reshape(40, -1).astype(np.int64) + 1
    cases = {
        "rows": ({"labels": whole[:-1]}, "40 inputs but 39 labels"),
        "floats": ({"inputs": whole * 0.5}, "not integers of shape"),
        "flat": ({"inputs": whole.ravel()}, "not integers of shape"),
        "none": ({"inputs": whole[:0], "labels": whole[:0]}, "no rows"),
        "missing": ({"labels": None}, "no such file"),
        "groups": ({"group_indices": np.array([0, 7])}, "does not divide the 40 rows"),
        "objects": ({"inputs": np.array([{}])}, "not a whole .npy file"),
    }
    for name, (changes, message) in cases.items():
        folder = write_folder(tmp_path / name, split, **changes)
        with pytest.raises(InputError, match=message):
            task.read(folder, on_bad=_files.refuse)
    folder = write_folder(tmp_path / "cut", split)
    inputs = folder / "all__inputs.npy"
    inputs.write_bytes(inputs.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"inputs\.npy: not a whole"):
        task.read(folder, on_bad=_files.refuse)
    for text, message in (("{", "not JSON"), ("{}", "not JSON"), ('{"seq_len": 16}', "task.box")):
        (folder / "dataset.json").write_text(text)
        with pytest.raises(InputError, match=message):
            task.read(folder, on_bad=_files.refuse)
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match=r"without dataset\.json"):
        task.read(tmp_path / "other", on_bad=_files.refuse)


def test_bad_rows_of_a_folder(tmp_path, generated):
    inputs = generated[3].inputs.reshape(40, -1).astype(np.int64) + 1
    inputs[3, 0], inputs[5, 0] = 0, 11
    folder = write_folder(tmp_path / "train", generated[3], inputs=inputs)
    tally = _files.Tally()
    assert len(Sudoku().read(folder, on_bad=tally)) == 38
    assert [bad.where.rpartition(":")[2] for bad in tally.first] == ["row 3", "row 5"]


# --- splits


def assert_disjoint(
    splits: dict[str, Split], names: Sequence[str] = ("train", "validation", "test", "hard")
) -> None:
    assert list(splits) == list(names)
    assert all(len(split) for split in splits.values())
    puzzles = [puzzle for split in splits.values() for puzzle in split.puzzles.tolist()]
    assert len(set(puzzles)) == len(puzzles)


@pytest.mark.parametrize("box", BOXES)
def test_generated_splits(box):
    task = Sudoku(box=box, rows=100)
    first, again = task.load(), dataclasses.replace(task, augment=True).load()
    assert_disjoint(dict(first.splits))
    assert len(first.splits["train"]) == 80
    assert len(first.splits["validation"]) == 20
    easy, hard = (np.mean(first.splits[name].inputs != 0) for name in ("test", "hard"))
    assert hard < easy
    assert first.manifest["splits"] == again.manifest["splits"]
    json.dumps(first.manifest)
    other_seed = dataclasses.replace(task, seed=1).load()
    assert other_seed.manifest["splits"] != first.manifest["splits"]


def test_the_hard_split_has_fewer_givens():
    for fields in ({"givens": 22}, {"givens": 26, "hard_givens": 27}, {"box": 2, "givens": 4}):
        with pytest.raises(InputError, match=r"must have fewer givens"):
            make_task("sudoku", fields).load()


@pytest.fixture
def rated(tmp_path) -> Path:
    """A file of 300 puzzles rated 0, 0.1, ..., the first 10 of which occur twice."""
    split = Sudoku().generate(300, 0)
    ratings = np.random.RandomState(0).permutation(300).astype(np.float32) / 10
    split = dataclasses.replace(split, columns=dict(split.columns) | {"guesses": ratings})
    path = tmp_path / "rated.csv"
    Sudoku().write(split.take(np.r_[0:300, 0:10]), path)
    return path


def test_splits_of_a_file_by_quantile(rated):
    loaded = Sudoku(data=str(rated)).load()
    splits = dict(loaded.splits)
    assert_disjoint(splits)
    read = loaded.manifest["read"]
    assert isinstance(read, dict)
    assert (read["rows"], read["duplicates"], read["bad"]) == (310, 10, 0)
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 154,
        "validation": 38,
        "test": 48,
        "hard": 60,
    }
    easiest = min(splits["hard"].difficulty)
    assert all(max(splits[name].difficulty) < easiest for name in ("train", "validation", "test"))
    fewer = Sudoku(data=str(rated), rows=10).load().splits
    assert len(fewer["train"]) + len(fewer["validation"]) == 10
    assert len(fewer["test"]) == 230


def test_splits_of_a_file_by_bands(rated):
    splits = Sudoku(data=str(rated), easy="0:4.1", hard="4.1:10").load().splits
    assert_disjoint(dict(splits))
    assert sum(len(splits[name]) for name in ("train", "validation", "test")) == 41
    assert splits["hard"].difficulty.min() == np.float32(4.1)
    assert len(splits["hard"]) == 59


def test_splits_of_a_file_at_random(rated):
    """The protocol of Sudoku-Extreme: `rows` puzzles of any rating, and all others as test."""
    task = Sudoku(data=str(rated), rows=50, random_rows=True)
    splits, again = dict(task.load().splits), task.load().splits
    sizes = {name: len(split) for name, split in splits.items()}
    assert sizes == {"train": 40, "validation": 10, "test": 250, "hard": 50}
    hard = splits.pop("hard")
    assert_disjoint(splits, ["train", "validation", "test"])
    assert set(hard.puzzles.tolist()) < set(splits["test"].puzzles.tolist())
    assert np.sort(splits["test"].difficulty)[-50] == hard.difficulty.min()
    ratings = splits["train"].difficulty
    assert ratings.min() < 5 < 25 < ratings.max()
    np.testing.assert_array_equal(again["train"].inputs, splits["train"].inputs)
    other = dataclasses.replace(task, seed=1).load().splits["train"]
    assert set(other.puzzles.tolist()) != set(splits["train"].puzzles.tolist())
    with pytest.raises(InputError, match=r"300 rows are too few .* task\.rows=296"):
        dataclasses.replace(task, rows=296).load()


def test_files_that_make_no_splits(rated, tmp_path):
    with pytest.raises(InputError, match=r"a smaller task\.rows"):
        Sudoku(data=str(rated), rows=240).load()
    with pytest.raises(InputError, match="0 hard rows"):
        Sudoku(data=str(rated), easy="0:4", hard="100:200").load()
    with pytest.raises(InputError, match="are too few for"):
        Sudoku(data=str(rated), scale="sukaku").load()
    with pytest.raises(InputError, match="no such file"):
        Sudoku(data=str(tmp_path / "none.csv")).load()
    with pytest.raises(InputError, match=r"rated\.csv:2: the question has 81 characters, not 16"):
        Sudoku(box=2, data=str(rated)).load()


def test_bad_rows_are_refused_or_counted_in_the_manifest(rated):
    rated.write_text(rated.read_text() + "x\n")
    with pytest.raises(InputError, match=r"rated\.csv:312"):
        Sudoku(data=str(rated)).load()
    read = Sudoku(data=str(rated), skip_bad=True).load().manifest["read"]
    assert isinstance(read, dict)
    assert read["bad"] == 1
    assert "rated.csv:312" in read["first_bad"][0]


def test_bands_part_a_split(generated):
    for split in generated.values():
        masks = np.stack(list(Sudoku().bands(split).values()))
        np.testing.assert_array_equal(masks.sum(0), 1)


def test_the_real_file(shared, tmp_path):
    whole = shared / "data" / "sudoku" / "sudoku_exchange_se_2.5_4.8.csv.gz"
    path = tmp_path / "head.csv"
    with _open.open_text(whole) as text:
        path.write_text("".join(text.readline() for _ in range(3001)))
    loaded = Sudoku(data=str(path), unique=True).load()
    assert_disjoint(dict(loaded.splits))
    read = loaded.manifest["read"]
    assert isinstance(read, dict)
    assert (read["rows"], read["scale"]) == (3000, "sukaku")
    assert loaded.splits["train"].difficulty.min() >= 2.5


# --- what a user types


@pytest.mark.parametrize("box", BOXES)
def test_parsing_gives_the_tokens_back(generated, box):
    task, split = Sudoku(box=box), generated[box]
    for row in range(5):
        puzzle = split.take(slice(row, row + 1))
        parsed = task.parse(puzzle.puzzles[0].decode().replace(".", "0" if row % 2 else "."))
        np.testing.assert_array_equal(parsed.inputs, puzzle.inputs)
        np.testing.assert_array_equal(parsed.targets, puzzle.targets)
        np.testing.assert_array_equal(parsed.difficulty, puzzle.difficulty)
        assert parsed.columns["answered"].tolist() == [True]
        assert parsed.puzzles[0] == puzzle.puzzles[0]


def test_parsing_over_several_lines():
    split = Sudoku(box=2).parse(" 12.. 34..\n..12\n....\n")
    assert split.puzzles[0] == b"12..34....12...."
    assert not split.columns["answered"][0]
    assert not split.targets.any()


TYPED = {
    "empty": ("", 3, "81 characters, row by row, with . or 0 for blanks; this text has 0"),
    "4x4 for 9x9": ("." * 16, 3, "this text has 16; 4x4 is task.box=2"),
    "9x9 for 4x4": ("." * 81, 2, "this text has 81; 9x9 is task.box=3"),
    "letter": ("." * 80 + "z", 3, "character 'z' in row 9, column 9"),
    "umlaut": ("ä" + "." * 80, 3, "character 'ä' in row 1, column 1"),
    "digit too high": ("5" + "." * 15, 2, "character '5' in row 1, column 1: must be 1-4"),
    "twice in a row": ("1......1." + "." * 72, 3, "row 1 has 1 twice"),
    "twice in a column": ("7" + "." * 71 + "7" + "." * 8, 3, "column 1 has 7 twice"),
    "twice in a box": ("7" + "." * 9 + "7" + "." * 70, 3, "box 1 has 7 twice"),
    "no solution": ("123." + "...4" + "." * 8, 2, "this sudoku has no solution"),
}


@pytest.mark.parametrize("case", TYPED)
def test_puzzles_that_are_refused(case):
    text, box, message = TYPED[case]
    with pytest.raises(InputError, match=message) as caught:
        Sudoku(box=box).parse(text)
    assert "\n" not in str(caught.value)


@quick
@given(st.text("01234. z", max_size=20))
def test_anything_typed_is_a_puzzle_or_one_line(text):
    task, refused = Sudoku(box=2), ""
    try:
        split = task.parse(text)
    except InputError as error:
        refused = str(error)
    else:
        assert split.puzzles[0].decode() == "".join(text.split()).replace("0", ".")
        if split.columns["answered"][0]:
            assert task.check(split, split.targets[0])[0]
    assert "\n" not in refused


def test_the_checker(generated):
    task, puzzle = Sudoku(), generated[3].take(slice(1))
    answer = puzzle.targets[0]
    assert task.check(puzzle, answer) == (True, "a valid completion of the 28 givens")
    row, column = np.argwhere(puzzle.inputs[0] != 0)[0]
    wrong = answer.copy()
    wrong[row, column] = answer[row, column] % 9 + 1
    assert task.check(puzzle, wrong)[0] is False
    assert f"row {row + 1}, column {column + 1}" in task.check(puzzle, wrong)[1]
    row, column = np.argwhere(puzzle.inputs[0] == 0)[0]
    for digit, message in ((0, "leaves row"), (answer[row, column] % 9 + 1, "twice")):
        wrong = answer.copy()
        wrong[row, column] = digit
        valid, why = task.check(puzzle, wrong)
        assert valid is False
        assert message in why


def test_any_valid_completion_passes():
    task = Sudoku(box=2)
    split = task.parse("." * 16)
    assert task.check(split, _sudoku_files.tokens_of(ANSWER.encode(), 2).reshape(4, 4))[0]


def test_the_board():
    task = Sudoku(box=2)
    split = task.parse(QUESTION.replace("2", ".", 1))
    assert plain(task, split).splitlines()[:3] == [
        "┌──────┬──────┐",
        "│ .  . │ 3  4 │",
        "│ 3  4 │ 1  2 │",
    ]
    prediction = split.targets[0].copy()
    prediction[0, 1] = 4
    lines = plain(task, split, prediction).splitlines()
    assert lines[1] == "│·1 !4 │ 3  4 │"
    assert lines[-1] == "5 given  ·5 filled in  !5 wrong"
    assert "!" not in plain(task, split, split.targets[0])
    unknown = dataclasses.replace(split, targets=np.zeros_like(split.targets))
    assert "!" not in plain(task, unknown, prediction)
    assert "!?" in plain(task, split, split.inputs[0])


@pytest.mark.parametrize("box", BOXES)
def test_the_drawing(generated, box):
    """Givens are bold and predictions are not; wrong digits are struck through, a changed given
    among them."""
    task, split = Sudoku(box=box), generated[box].take(slice(0, 1))
    n = box * box
    givens, answer = split.inputs[0], split.targets[0]

    def digits(prediction=None):
        svg = ET.fromstring(task.draw(split, prediction))
        return {t.get("font-weight"): t.text for t in svg.iter("{http://www.w3.org/2000/svg}text")}

    bold = "".join(map(str, givens[givens != 0]))
    assert digits() == {"700": bold}
    assert digits(answer) == {"700": bold, "400": "".join(map(str, answer[givens == 0]))}
    wrong = answer.copy()
    for cell, digit in ((np.argwhere(givens == 0)[0], 0), (np.argwhere(givens)[-1], n)):
        wrong[tuple(cell)] = digit if answer[tuple(cell)] != digit else 1
    assert "?" in (digits(wrong)["400"] or "")
    assert task.draw(split, wrong).count("zl") == 2
    assert "zl" not in task.draw(split, answer) + task.draw(split)
    thick, thin = 2 * (box + 1), 2 * (n - box)
    lines = [path for path in ET.fromstring(task.draw(split)).iter() if path.get("stroke-width")]
    assert [(path.get("d") or "").count("M") for path in lines] == [thin, thick]


# --- its fields

FIELDS = {
    "box": ({"box": 4}, "task.box=4"),
    "few givens": ({"givens": 17}, "task.givens=17: the generator reaches 22 to 80"),
    "scale": ({"scale": "se"}, "must be one of tdoku, sukaku, eqloop"),
    "rows": ({"rows": -1}, "task.rows=-1"),
    "seed": ({"seed": -1}, "task.seed=-1"),
    "one band": ({"easy": "1:2"}, "go together"),
    "random bands": ({"easy": "1:2", "hard": "2:3", "random_rows": True}, "leave them out"),
    "bands overlap": ({"easy": "1:3", "hard": "2:4"}, "overlap"),
    "band upside down": ({"easy": "2:1", "hard": "2:4"}, "must be low:high"),
    "band of text": ({"easy": "a:b", "hard": "2:4"}, "must be low:high"),
}


@pytest.mark.parametrize("case", FIELDS)
def test_fields_that_are_refused(case):
    fields, message = FIELDS[case]
    with pytest.raises(InputError, match=message):
        make_task("sudoku", fields)
