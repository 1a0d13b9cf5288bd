"""Puzzles as people paste them: frames, other signs for a blank, lines of position lists."""

import io
import re
import sys

import numpy as np
import pytest

from eqloop import InputError
from eqloop.tasks.chess import Chess
from eqloop.tasks.prefix_sums import PrefixSums
from eqloop.tasks.sudoku import Sudoku

SUDOKU = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
ROWS = [SUDOKU[i : i + 9] for i in range(0, 81, 9)]


def framed(row: str) -> str:
    return "| " + " | ".join(" ".join(row[i : i + 3]) for i in (0, 3, 6)) + " |"


BAR = "+-------+-------+-------+"
FRAMED = "\n".join(
    [BAR, *map(framed, ROWS[:3]), BAR, *map(framed, ROWS[3:6]), BAR, *map(framed, ROWS[6:]), BAR]
)
PASTED = {
    "one line": SUDOKU,
    "zeros": SUDOKU.replace(".", "0"),
    "stars": SUDOKU.replace(".", "*"),
    "underscores": SUDOKU.replace(".", "_"),
    "letters x": SUDOKU.replace(".", "x"),
    "dashes": SUDOKU.replace(".", "-"),
    "nine lines": "\n".join(ROWS),
    "nine lines, a comment": "# from a newspaper\n" + "\n".join(ROWS) + "\n\n",
    "nine lines of dashes": "\n".join(ROWS).replace(".", "-"),
    "a frame": FRAMED,
    "a frame, zeros, Windows line ends": FRAMED.replace(".", "0").replace("\n", "\r\n"),
    "a frame, underscores": FRAMED.replace(".", "_"),
    "spaces": " ".join(SUDOKU),
    "commas": ",".join(SUDOKU.replace(".", "0")),
    "lists of lists": str([[int(c) for c in row.replace(".", "0")] for row in ROWS]),
    "box drawing": FRAMED.translate(str.maketrans("|-+", "│─┼")),
    "with an identifier and a rating": f"0000183b305c {SUDOKU.replace('.', '0')}  1.2",
    "a row of a CSV file": f'7,"{SUDOKU}",{"1" * 81},28,0.0',
}


@pytest.mark.parametrize("case", PASTED)
def test_a_sudoku_as_it_is_pasted(case):
    split = Sudoku().parse(PASTED[case])
    assert split.puzzles[0].decode() == SUDOKU
    assert split.answered[0]


def test_our_own_board_is_read_back():
    task = Sudoku()
    board = task.render(task.parse(SUDOKU))
    assert task.parse(re.sub(r"\[/?\w+\]", "", board)).puzzles[0].decode() == SUDOKU


def test_several_sudokus_are_not_one():
    with pytest.raises(InputError, match=r"has 2 sudokus, one per line.*--data FILE"):
        Sudoku().parse(f"{SUDOKU}\n{SUDOKU}\n")


def test_a_sudoku_with_several_solutions_says_how_many():
    task = Sudoku(box=2)
    several = task.parse("1234" + "3412" + "2..." + "....")
    assert several.columns["solutions"].tolist() == [2]
    assert not several.answered[0]
    answer = np.array([[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]])
    valid, why = task.check(several, answer)
    assert valid
    assert why == "a valid completion of the 9 givens, one of 2"
    most = Sudoku().parse("." * 81)
    assert most.columns["solutions"].tolist() == [1000]


@pytest.mark.parametrize("text", ["0110 1001", "0,1,1,0,1,0,0,1", "[0, 1, 1, 0,\n 1, 0, 0, 1]\n"])
def test_bits_as_they_are_pasted(text):
    assert PrefixSums().parse(text).puzzles[0] == b"01101001"


MATE = "r1bqkb1r/pppp1ppp/2n2n2/4p2Q/2B1P3/8/PPPP1PPP/RNB1K1NR w KQkq -"
START = "rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq -"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (f"{MATE} 4 4", "h5f7"),
        (f'"{MATE} 4 4"\n', "h5f7"),
        (f"# a comment\n\n{MATE}\n", "h5f7"),
        (f'{START} bm e4; id "first";', "e2e4"),
        (f"{START} 0 1 bm e4 Nf3;", "e2e4 g1f3"),
        (f'{START} id "no best move";', ""),
    ],
)
def test_a_position_as_it_is_pasted(text, answer):
    split = Chess().parse(text)
    assert split.columns["answer"][0].decode() == answer
    assert split.answered[0] == bool(answer)
    assert split.targets.sum() == (2 if answer else 0)


def test_each_of_several_best_moves_is_right():
    task = Chess()
    split = task.parse(f"{START} bm e4 Nf3;")
    for move in ("e4", "Nf3"):
        target = task.parse(f"{START} bm {move};").targets[0]
        assert task.check(split, target)[0] is True
    wrong = task.parse(f"{START} bm a3;").targets[0]
    assert task.check(split, wrong) == (
        False,
        "a3 (a2a3) is legal, but the answer is e4 (e2e4)",
    )


def test_an_illegal_move_is_answered_with_the_mating_one():
    task = Chess()
    split = task.parse(MATE)
    illegal = task.parse(f"{START} bm a4;").targets[0]
    assert task.check(split, np.roll(illegal, 4, axis=1))[1].endswith("; Qxf7# (h5f7) mates")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"{START} bm Qh5;", "nor a line of EPD"),
        (f"{MATE} 4 4\n{START} 0 1", "has 2 lines"),
    ],
)
def test_positions_that_are_refused(text, why):
    with pytest.raises(InputError, match=why) as caught:
        Chess().parse(text)
    assert "\n" not in str(caught.value)


# --- the command


def test_solve_reads_a_file_and_standard_input(cli, tiny_run, tmp_path, monkeypatch):
    bits = "0110 1001 1001 0110\n"
    file = tmp_path / "bits.txt"
    file.write_text(bits)
    options = ("--iterations", 4, "--json")
    expected = cli("solve", tiny_run, "0110100110010110", *options)
    assert cli("solve", tiny_run, file, *options) == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(bits.encode())))
    assert cli("solve", tiny_run, "-", *options) == expected


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (b"0" * (2**20 + 1), "is longer than 1,048,576 bytes"),
    ],
)
def test_files_that_hold_no_puzzle(cli, tiny_run, tmp_path, content, why):
    file = tmp_path / "puzzle"
    file.write_bytes(content)
    code, _, err = cli("solve", tiny_run, file)
    assert code == 2
    assert why in err
    assert err.count("\n") == 1


def test_a_wrong_answer_is_shown_beside_the_right_one(cli, tiny_run):
    """The answer is wrong, since one iteration cannot carry a bit over sixteen cells."""
    code, out, _ = cli("solve", tiny_run, "1110100010110100", "--iterations", 1)
    assert code == 1
    shown = out.split("the right answer (")[1]
    assert "of 16 cells wrong):" in shown
    assert shown.rstrip().endswith("sums  1011000011011000")
