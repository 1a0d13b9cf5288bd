"""Mazes: the solver against enumeration, unique paths, symmetries, files, and folders of HRM."""

import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqloop import InputError
from eqloop._task import Tally, refuse
from eqloop.tasks import _maze_paths as paths
from eqloop.tasks._maze_kernels import solve
from eqloop.tasks.maze import Maze, canonical

TREE, BRAIDED = Maze(size=9), Maze(size=9, loops=1.0)
TWO_PATHS = "#######\n#S....#\n#.###.#\n#.###.#\n#....G#\n#######\n#######"


@pytest.fixture(scope="module")
def generated():
    return {task.loops: task.generate(60, 3) for task in (TREE, BRAIDED)}


def shortest_paths(maze: np.ndarray) -> list[np.ndarray]:
    """All shortest paths, by enumeration of all paths that never come back to a cell."""
    n = len(maze)
    (start,), (goal,) = np.argwhere(maze == 2).tolist(), np.argwhere(maze == 3).tolist()
    found: list[list[tuple[int, int]]] = []

    def walk(way):
        if found and len(way) > len(found[0]):
            return
        row, column = way[-1]
        if way[-1] == tuple(goal):
            if found and len(way) < len(found[0]):
                found.clear()
            found.append(way)
            return
        for cell in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if min(cell) >= 0 and max(cell) < n and maze[cell] and cell not in way:
                walk([*way, cell])

    walk([tuple(start)])
    marks = np.zeros((len(found), n, n), bool)
    for mark, way in zip(marks, found, strict=True):
        mark[tuple(np.transpose(way))] = True
    return list(marks)


@pytest.fixture(scope="module")
def open_mazes():
    """Boards of 5 x 5 cells with random walls, where many have several shortest paths, or none."""
    random = np.random.default_rng(0)
    mazes = (random.random((80, 25)) < 0.75).astype(np.uint8)
    for maze in mazes:
        maze[random.choice(25, 2, replace=False)] = 2, 3
    mazes = mazes.reshape(-1, 5, 5)
    return mazes, [shortest_paths(maze) for maze in mazes]


def test_the_solver_agrees_with_enumeration(open_mazes):
    mazes, expected = open_mazes
    marks, moves, counts = solve(mazes)
    assert {0, 1, 2} < {len(ways) for ways in expected}
    for mark, length, count, ways in zip(marks, moves, counts, expected, strict=True):
        assert count == len(ways)
        assert length == (ways[0].sum() - 1 if ways else -1)
        assert not ways or any((mark == way).all() for way in ways)


def test_marks_are_a_shortest_path_if_enumeration_has_them(open_mazes):
    """Right marks, right ones with one or two other cells, and right ones beside a cycle; by NumPy
    and by JAX."""
    mazes, expected = open_mazes
    random = np.random.default_rng(1)
    cases = []
    for maze, ways in zip(mazes, expected, strict=True):
        for way in ways:
            for flips in (0, 1, 2, 2, 2):
                marks = way.copy()
                marks.flat[random.choice(25, flips, replace=False)] ^= True
                cases.append((maze, marks, way.sum() - 1, any((marks == w).all() for w in ways)))
    cycle = np.zeros((9, 9), np.uint8)
    cycle[5:8, 5:8], cycle[1, 1:4], cycle[6, 6] = 1, (2, 1, 3), 0
    straight = np.zeros((9, 9), bool)
    straight[1, 1:4] = True
    both = straight | (np.arange(81).reshape(9, 9) > 40) & (cycle == 1)
    for xp in (np, jnp):
        tokens, marks, moves, wanted = map(np.stack, zip(*cases, strict=True))
        right = paths.is_shortest(xp.asarray(tokens), xp.asarray(marks), moves.astype(np.int32), xp)
        np.testing.assert_array_equal(right, wanted)
    assert wanted.sum() > 80 < (~wanted).sum()
    assert paths.is_shortest(cycle, straight, np.int32(2), np)
    assert not paths.is_shortest(cycle, both, np.int32(2), np)


@pytest.mark.parametrize("task", [TREE, BRAIDED], ids=["tree", "braided"])
def test_generated_mazes_have_one_shortest_path(task, generated):
    split = generated[task.loops]
    marks, moves, counts = solve(split.inputs)
    assert (counts == 1).all()
    np.testing.assert_array_equal(marks, split.targets)
    np.testing.assert_array_equal(moves, split.difficulty)
    for maze in split.inputs:
        free = np.pad(maze > 0, 1)
        rooms = np.argwhere(maze[1::2, 1::2] > 0) * 2 + 2
        exits = [
            sum(free[y + dy, x + dx] for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)))
            for y, x in rooms.tolist()
        ]
        assert len(rooms) == 16
        passages = int(free.sum()) - 16
        # A tree of 16 rooms has 15 passages; where all dead ends are opened, none is left.
        assert passages == 15 if task is TREE else passages > 15 and min(exits) > 1
        assert not maze[::2, ::2].any()


def test_the_stream_of_mazes_stays_what_it_was(generated):
    assert generated[0.0].puzzles[0].decode() == STREAM[0]
    assert generated[1.0].puzzles[0].decode() == STREAM[1]


STREAM = (
    "##########.....#.####.#.#.##...#..S########.##G..#...##.###.####.......##########",
    "##########.......##.#.#.#.##...#...########.##.......##.###.#.##..S...G##########",
)


def test_a_larger_set_begins_with_a_smaller_one_and_has_no_copies(generated):
    split = generated[0.0]
    np.testing.assert_array_equal(TREE.generate(20, 3).inputs, split.inputs[:20])
    assert len(set(canonical(split.inputs))) == len(split)
    with pytest.raises(InputError, match="only 6 different mazes of 5 x 5 cells"):
        Maze(size=5).generate(50, 0)


def test_the_range_of_path_lengths():
    moves = Maze(size=9, shortest=10, longest=12).generate(20, 0).difficulty
    assert set(moves.tolist()) == {10, 12}


def test_symmetries():
    """Random keys give all 8 copies, each with its shortest path, and they count as one maze."""
    one = TREE.generate(1, 5)
    keys = jr.split(jr.key(0), 64)
    tokens, targets = map(
        np.asarray,
        jax.jit(jax.vmap(TREE.transform, (0, None, None)))(keys, one.inputs[0], one.targets[0]),
    )
    assert len({maze.tobytes() for maze in tokens}) == 8
    np.testing.assert_array_equal(solve(tokens)[0], targets)
    assert len(set(canonical(tokens))) == 1


def test_several_right_answers():
    task = Maze(size=7)
    split = task.parse(TWO_PATHS)
    first = split.targets[0]
    second = np.where((split.inputs[0] > 0) & (split.inputs[0] < 2), 1 - first, first)
    assert split.columns["paths"].tolist() == [2]
    assert task.check(split, second) == (True, "a shortest path of 7 moves, one of 2")
    scores = [task.score(marks, split.inputs[0], first) for marks in (first, second)]
    assert [bool(score["exact"]) for score in scores] == [True, True]
    assert [bool(score["match"]) for score in scores] == [True, False]
    assert "wrong" in task.draw(split, second)
    assert "--wrong" not in task.draw(split, second)
    assert "!" not in task.render(split, second)
    assert task.remarks(split)["have more than one shortest path"] == 1


def test_what_the_checker_says():
    split = TREE.parse("#####\n#S..#\n###.#\n#G..#\n#####")
    right = split.targets[0]
    for cell, words in (
        ((0, 0), "marks the wall in row 1, column 1"),
        ((1, 1), "leaves out the start in row 2, column 2"),
        ((3, 1), "leaves out the goal in row 4, column 2"),
        ((1, 2), "the 6 marked cells are not a shortest path, which has 7"),
    ):
        wrong = right.copy()
        wrong[cell] ^= 1
        assert TREE.check(split, wrong) == (False, words)
        assert "--wrong" in TREE.draw(split, wrong)


# --- texts and files


def test_forms_of_one_maze():
    lines = ["#####", "#S..#", "###.#", "#G..#", "#####"]
    expected = TREE.parse("".join(lines)).inputs
    for text in ("\n".join(lines), "\r\n".join(lines) + "\n", "  " + "\n  ".join(lines)):
        np.testing.assert_array_equal(TREE.parse(text).inputs, expected)
    np.testing.assert_array_equal(TREE.parse("\n".join(lines).replace(".", " ")).inputs, expected)


BAD = {
    "no square": ("######", "6 cells in 1 rows are no square"),
    "too small": ("S..G", "2 x 2 cells; a side has 5 to 255"),
    "symbol": ("S" + "." * 22 + "xG", "'x' is none of #.SG"),
    "no start": ("." * 24 + "G", "0 cells that are the start (S)"),
    "two goals": ("S" + "." * 22 + "GG", "2 cells that are the goal (G)"),
    "closed": ("S" + "." * 4 + "#" * 15 + "." * 4 + "G", "no path leads from the start"),
}


@pytest.mark.parametrize("case", BAD)
def test_texts_that_are_no_maze(case):
    text, words = BAD[case]
    with pytest.raises(InputError) as caught:
        TREE.parse(text)
    assert words in str(caught.value)


OPEN = "S....####....####....G...."
FAULTS = {
    "another maze": ("S...G" + "#" * 20, "Soo.G" + "#" * 19 + ".", "not the maze with o"),
    "a gap": ("S...G" + "#" * 20, "Soo.G" + "#" * 20, "not a shortest path from S to G"),
    "a detour": (
        "S...G....." + "#" * 15,
        "S...Goooo." + "#" * 15,
        "which has 4 moves",
    ),
    "another size of answer": ("S...G" + "#" * 20, "S" + "o" * 34 + "G", "not the maze with o"),
    "another size": ("S" + "." * 34 + "G", "", "6 x 6 cells, but the rows before have 5 x 5"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_bad_rows_of_a_file(case, tmp_path):
    question, answer, words = FAULTS[case]
    path = tmp_path / "mazes.csv"
    path.write_text(f"question,answer\nS...G{'#' * 20},\n{question},{answer}\n")
    with pytest.raises(InputError) as caught:
        TREE.read(path, on_bad=refuse)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert words in str(caught.value)


def test_a_file_with_spaces_as_free_cells(tmp_path):
    """As the CSV files that HRM's builder reads."""
    path = tmp_path / "mazes.csv"
    path.write_text(f"source,question,answer,rating\nx,   SG{'#' * 20},   SG{'#' * 20},1\n")
    split = TREE.read(path, on_bad=refuse)
    assert split.inputs[0, 0].tolist() == [1, 1, 1, 2, 3]
    assert split.difficulty.tolist() == [1]


def test_one_path_is_proven_where_that_is_asked(tmp_path):
    path = tmp_path / "mazes.csv"
    path.write_text(f"question\n{TWO_PATHS.replace(chr(10), '')}\n")
    assert len(Maze().read(path, on_bad=refuse)) == 1
    with pytest.raises(InputError, match="2 shortest paths lead from S to G"):
        Maze(unique=True).read(path, on_bad=refuse)


# --- folders of HRM


def test_a_folder_is_written_as_hrm_does(tmp_path):
    """The tokens are 1 + the place in `# SGo`, as in build_maze_dataset.py of HRM."""
    split = TREE.parse("#####\n#S..#\n###.#\n#G..#\n#####")
    TREE.write(split, tmp_path / "train")
    arrays = {path.name: np.load(path) for path in (tmp_path / "train").glob("*.npy")}
    text = {
        "all__inputs.npy": "######S  #### ##G  ######",
        "all__labels.npy": "######Soo####o##Goo######",
    }
    for name, cells in text.items():
        assert arrays[name].tolist() == [["# SGo".index(cell) + 1 for cell in cells]]
    table = json.loads((tmp_path / "train" / "dataset.json").read_text())
    assert (table["seq_len"], table["vocab_size"], table["pad_id"]) == (25, 6, 0)
    assert arrays["all__group_indices.npy"].tolist() == [0, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["train"]
    with pytest.raises(InputError, match="cannot be written"):
        TREE.write(split, tmp_path / "train")


def test_a_folder_is_read_and_makes_splits(tmp_path, generated):
    split = generated[0.0]
    # Copies, as HRM's augmentation makes them, are used once.
    copies = Maze().generate(60, 3)
    turned = paths.split_of(
        np.concatenate([split.inputs, copies.inputs[:, ::-1]]),
        np.concatenate([split.targets, copies.targets[:, ::-1]]),
        np.tile(split.difficulty, 2),
        np.ones(120),
    )
    folder = tmp_path / "train"
    TREE.write(turned, folder)
    back = TREE.read(folder, on_bad=refuse)
    np.testing.assert_array_equal(back.inputs, turned.inputs)
    np.testing.assert_array_equal(back.targets, turned.targets)
    data = Maze(data=str(folder)).load()
    assert [len(part) for part in data.splits.values()] == [30, 8, 10, 12]
    assert data.splits["hard"].difficulty.min() >= data.splits["train"].difficulty.max()
    assert data.manifest["source"]["path"] == str(folder)  # pyright: ignore
    with pytest.raises(InputError, match=r"shape \(9, 9\), but the grid of the task is \(11, 11\)"):
        Maze(size=11, data=str(folder)).load()


def test_folders_that_are_no_mazes(tmp_path, generated):
    for number, (name, values, words) in enumerate(
        (
            ("dataset.json", {"seq_len": 80, "vocab_size": 6}, "are not those of square mazes"),
            ("dataset.json", {"seq_len": 81, "vocab_size": 11}, "vocab_size 11 are not those"),
            ("all__inputs.npy", np.zeros((60, 81), int), "row 0: cell 0 has the token 0 and"),
            ("all__labels.npy", np.ones((60, 81), int), "and the label 1; tokens are 1 to 4"),
            ("all__labels.npy", np.ones((59, 81), int), "60 inputs but 59 labels"),
        )
    ):
        folder = tmp_path / str(number) / "train"
        folder.parent.mkdir()
        TREE.write(generated[0.0], folder)
        if isinstance(values, dict):
            (folder / name).write_text(json.dumps(values))
        else:
            np.save(folder / name, values)
        with pytest.raises(InputError) as caught:
            TREE.read(folder, on_bad=refuse)
        assert words in str(caught.value)
        with pytest.raises(InputError, match="has several sets; name one of them"):
            TREE.read(folder.parent, on_bad=refuse)


def test_the_folder_of_the_collection(shared):
    """Its rows are random tokens: read to the end, and every row is bad."""
    tally = Tally()
    folder = Path(shared, "data/files/s33_trm_maze/train")
    assert len(Maze().read(folder, on_bad=tally)) == 0
    assert (tally.count, str(tally.first[0])) == (
        4,
        f"{folder / 'all__inputs.npy'}:row 0: cell 0 has the token 5 and the label 5; tokens are 1 "
        "to 4, and labels the same, or 5 for a free cell on the path",
    )


# --- splits, fields, depth


@pytest.mark.parametrize("sizes", [{}, {"validation_size": 9, "hard_size": 9}])
def test_no_two_splits_have_copies_of_a_maze(sizes):
    splits = Maze(size=7, rows=40, test_rows=12, **sizes).load().splits
    expected = {"train": 7, "validation": 7, "test": 7, "hard": 13, "hard-x2": 25}
    if sizes:
        expected |= {"validation": 9, "hard": 9, "hard-x2": 17}
    assert {name: split.inputs.shape[1] for name, split in splits.items()} == expected
    texts = [canonical(split.inputs) for split in splits.values()]
    assert [len(part) for part in texts] == [32, 8, 12, 12, 12]
    assert len(set(itertools.chain(*texts))) == 76


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"size": 8}, "task.size=8: must be odd"),
        ({"size": 3}, "task.size=3: must be odd and from 5"),
        ({"hard_size": 300}, "task.hard_size=300"),
        ({"shortest": 9, "longest": 8}, "the first at most the second"),
        ({"loops": 1.5}, "must be a probability"),
        ({"test_rows": -1}, "task.test_rows=-1"),
    ],
)
def test_fields_that_are_refused(fields, words):
    with pytest.raises(InputError, match=words):
        Maze(**fields)
    assert Maze(size=30, data="x").grid == (30, 30)


def test_known_depth():
    split = TREE.parse("S........" + "########." * 7 + "G........")
    assert split.difficulty.tolist() == [24]
    assert [TREE.known_depth(split, window).tolist() for window in (3, 5)] == [[24], [12]]
    assert TREE.known_depth(split, "full").tolist() == [pytest.approx(np.log2(24))]
