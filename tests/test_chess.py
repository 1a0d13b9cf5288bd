"""Chess: two independent routes to every encoding agree, and no row is dropped unseen."""

import csv
import dataclasses
import gzip
import io
import itertools
import xml.etree.ElementTree as ET

import chess
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from eqloop._errors import InputError
from eqloop._task import Split, Tally, refuse
from eqloop.cli._run import open_model
from eqloop.run import create_run, resolve
from eqloop.tasks import TASKS, make_task
from eqloop.tasks import _chess_kernels as kernels
from eqloop.tasks._chess_moves import mating_moves
from eqloop.tasks._chess_rows import (
    ENCODINGS,
    HEADER,
    Row,
    cells_of,
    encode,
    hashes,
    read_board,
    replay,
    tokens_of,
)
from eqloop.tasks._chess_splits import Index, easy_to_hard, paper, paper_has_enough
from eqloop.tasks.chess import EXAMPLE, Chess
from eqloop.train import init_state

CHOICES = ("paper", "easy-to-hard")
"""What a user can name; the third of `ENCODINGS` is for runs of version 1."""
GOOD = (
    "9Pdl2,8/pp6/4pb2/1q3k2/7r/P3Q2P/1PP1N3/1K2R3 w - - 3 34,e2d4 f6d4 e3f3 f5g5,2007,,100,,"
    "defensiveMove endgame,,"
)


@pytest.fixture(scope="module")
def generated() -> Split:
    return Chess().generate(300, 7)


@pytest.fixture(scope="module")
def real(shared) -> list[Row]:
    """Rows of a uniform sample of the Lichess database."""
    with gzip.open(shared / "data/chess/lichess_puzzles_random_2026.csv.gz", "rt") as handle:
        return [
            Row(line, r["PuzzleId"], r["FEN"], r["Moves"], r["Rating"], r["Themes"])
            for line, r in enumerate(itertools.islice(csv.DictReader(handle), 2000), 2)
        ]


def bad_rows(rows):
    tally = Tally()
    split = encode(rows, "paper", tally, "file")
    return split, tally


# --- the rules


@pytest.mark.parametrize(
    ("fen", "counts"),
    [  # https://www.chessprogramming.org/Perft_Results
        (chess.STARTING_FEN, [20, 400, 8902]),
        ("r3k2r/p1ppqpb1/bn2pnp1/3PN3/1p2P3/2N2Q1p/PPPBBPPP/R3K2R w KQkq - 0 1", [48, 2039]),
        ("8/2p5/3p4/KP5r/1R3p1k/8/4P1P1/8 w - - 0 1", [14, 191, 2812]),
        ("rnbq1k1r/pp1Pbppp/2p5/8/2B5/8/PPP1NnPP/RNBQK2R w KQ - 1 8", [44, 1486]),
        ("r3k2r/Pppp1ppp/1b3nbN/nP6/BBP1P3/q4N2/Pp1P2PP/R2Q1RK1 w kq - 0 1", [6, 264, 9467]),
    ],
)
def test_compiled_rules_count_the_known_numbers_of_positions(fen, counts):
    def perft(board, state, depth):
        moves = np.empty(kernels.MAX_MOVES, np.int64)
        count = kernels.legal_moves(board, state, moves)
        if depth == 1:
            return count
        total = 0
        for move in moves[:count]:
            child, after = board.copy(), state.copy()
            assert kernels.make(child, after, move)
            total += perft(child, after, depth - 1)
        return total

    board, state = np.empty(64, np.uint8), np.empty(kernels.STATE, np.int64)
    assert kernels.read_fen(np.frombuffer(fen.encode(), np.uint8), board, state)
    assert [perft(board, state, depth + 1) for depth in range(len(counts))] == counts


def agree(rows, split, encoding):
    """Compare every array of a split with python-chess."""
    assert len(rows) == len(split)
    for index, row in enumerate(rows):
        board, opponent, answer = replay(row)
        cells = cells_of(board, encoding)
        example = split.take(slice(index, index + 1))
        assert example.puzzles[0].decode() == board.fen()
        assert example.columns["answer"][0].decode() == answer.uci()
        assert example.columns["opponent"][0].decode() == opponent.uci()
        np.testing.assert_array_equal(example.inputs[0], tokens_of(board, encoding))
        marked = {int(i) for i in np.flatnonzero(example.targets[0])}
        assert marked == {cells[answer.from_square], cells[answer.to_square]}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_compiled_encoder_agrees_with_python_chess_on_real_rows(real, encoding):
    agree(real, encode(real, encoding, refuse, "file"), encoding)


def test_nearly_all_real_rows_take_the_compiled_way(real, monkeypatch):
    replayed = []
    monkeypatch.setattr(
        "eqloop.tasks._chess_rows.replay", lambda row: replayed.append(row) or replay(row)
    )
    encode(real, "paper", refuse, "file")
    assert len(replayed) < 0.01 * len(real)


def test_fens_of_all_kinds_agree_with_python_chess():
    """The FENs cover castling, en passant before and after, promotion, double check, and odd but
    legal spelling."""
    rows = [
        Row(2, "a", fen, moves, "1000", "")
        for fen, moves in [
            ("r3k2r/8/8/8/8/8/8/R3K2R w KQkq - 0 1", "e1g1 e8c8"),
            ("r3k2r/8/8/8/8/8/8/R3K2R w KQkq - 0 1", "e1c1 e8g8"),
            ("r3k2r/8/8/8/8/8/8/R3K2R b Kq - 9 9", "a8a1 e1e2"),
            (
                "r3k2r/8/8/8/8/8/8/R3K2R w KQkq - 0 1",
                "e1h1 e8a8",
            ),  # the king takes its own rook, which is castling
            ("4k3/8/8/8/3p4/8/4P3/4K3 w - - 0 1", "e2e4 d4e3"),
            ("4k3/8/8/8/3pP3/8/8/4K3 b - e3 0 1", "d4e3 e1f1"),
            ("8/8/8/8/k2pP2R/8/8/4K3 b - - 0 1", "a4b4 e4e5"),
            ("8/8/8/8/k2p3R/8/4P3/4K3 w - - 0 1", "e2e4 a4b4"),  # d4e3 would expose the king
            ("3r2k1/4P3/8/8/8/8/8/4K3 b - - 0 40", "g8f7 e7d8n f7e8 d8e6"),
            ("4k3/4r3/8/1b6/8/8/8/4RK2 w - - 0 1", "e1e5 e7e5"),
            ("4k3/8/8/1b6/8/5n2/8/4K2R w K - 0 1", "e1f2 f3h4"),
            ("4k3/8/8/8/8/5n2/4r3/4K3 w - - 0 1", "e1d1 e2e5"),
            (" r3k2r/8/8/8/8/8/8/R3K2R  w KQkq - 0 0 ", "e1g1  e8c8 "),
            ("r3k2r/8/8/8/8/8/8/R3K2R w HAha - 007 012", "e1g1 e8c8"),
            ("6k1/8/8/8/8/8/8/Q~3K3 w - - 0 1", "a1a8 g8f7"),
            (
                "6k1/5ppp/8/8/8/8/8/4R1K1 b KQkq - 0 1",
                "h7h6 e1e8",
            ),  # some board editors write it so
        ]
    ]
    good = []
    for row in rows:
        try:
            replay(row)
        except ValueError:
            continue
        good.append(row)
    assert len(good) >= len(rows) - 3
    split, tally = bad_rows(rows)
    assert tally.count == len(rows) - len(good)
    agree(good, split, "paper")


# --- orientation


@pytest.mark.parametrize("encoding", CHOICES)
@pytest.mark.parametrize("source", ["generated", "real"])
def test_input_and_target_are_in_one_frame(encoding, source, request):
    """For both colours, the from square holds one of the mover's pieces and the to square holds
    none."""
    if source == "real":
        split = encode(request.getfixturevalue("real"), encoding, refuse, "file")
    else:
        split = Chess(encoding=encoding).generate(200, 1)
    own_pieces = (split.inputs >= 1) & (split.inputs <= 6)
    assert np.all(split.targets.sum(axis=(1, 2)) == 2)
    assert np.all((own_pieces & (split.targets == 1)).sum(axis=(1, 2)) == 1)
    black = np.array([b" b " in puzzle for puzzle in split.puzzles])
    assert 0.2 < black.mean() < 0.8
    if encoding == "paper":  # K is 6; the mover's king stands on the right, and pawns move up
        assert np.all(np.argwhere(split.inputs == 6)[:, 2] >= 4)
        pawns = np.argwhere(split.inputs == 1)
        assert pawns[:, 1].mean() > 3.5
    else:  # K is 1, P is 6; White's pawns are at the low rows, whoever moves
        for mover, token in ((~black, 6), (black, 12)):
            assert np.argwhere(split.inputs[mover] == token)[:, 1].mean() < 3.5


@pytest.mark.parametrize(
    ("encoding", "fen", "cells"),
    [  # one position per encoding, worked out by hand: cell -> token
        ("paper", "4k3/8/8/8/8/8/P7/R3K3 w - - 0 1", {56: 4, 48: 1, 60: 6, 4: 12}),
        ("paper", "4k3/8/8/8/8/8/P7/1K5R w - - 0 1", {56: 4, 55: 1, 62: 6, 3: 12}),
        ("paper", "r3k3/p7/8/8/8/8/8/4K3 b - - 0 1", {56: 4, 48: 1, 60: 6, 4: 12}),
        ("paper", "6k1/8/8/q7/8/8/8/5K2 b - - 0 1", {62: 6, 32: 5, 5: 12}),
        ("easy-to-hard", "4k3/8/8/8/8/8/P7/1K5R w - - 0 1", {1: 1, 7: 5, 8: 6, 60: 7}),
        ("easy-to-hard", "r3k3/p7/8/8/8/8/8/4K2Q b - - 0 1", {60: 1, 56: 5, 48: 6, 4: 7, 7: 8}),
    ],
)
def test_orientation_by_hand(encoding, fen, cells):
    split = Chess(encoding=encoding).parse(fen)
    tokens = split.inputs.ravel()
    assert {int(i): int(tokens[i]) for i in np.flatnonzero(tokens)} == cells


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_colours_swapped_give_the_same_example(generated, encoding):
    """The public easy-to-hard frame turns nothing, so there the example is upside down."""
    for puzzle in generated.puzzles[:50]:
        board = chess.Board(puzzle.decode())
        tokens, mirrored = tokens_of(board, encoding), tokens_of(board.mirror(), encoding)
        np.testing.assert_array_equal(
            tokens, mirrored[::-1] if encoding == "easy-to-hard" else mirrored
        )


def test_runs_of_version_1_keep_their_frame():
    """In version 1, "easy-to-hard" mirrored the ranks for Black; "paper" has not changed."""
    fen = "r3k3/p7/8/8/8/8/8/4K2Q b - - 0 1"
    for encoding in CHOICES:
        old = make_task("chess", {"encoding": encoding}, version=1)
        new = make_task("chess", {"encoding": encoding}, version=2)
        assert (old.version, new.version) == (1, Chess.version)
        assert dataclasses.asdict(old) == dataclasses.asdict(new)
        old_inputs, new_inputs = old.parse(fen).inputs, new.parse(fen).inputs
        np.testing.assert_array_equal(
            old_inputs, new_inputs if encoding == "paper" else new_inputs[:, ::-1]
        )
    tokens = make_task("chess", {"encoding": "easy-to-hard"}, version=1).parse(fen).inputs.ravel()
    cells = {int(i): int(tokens[i]) for i in np.flatnonzero(tokens)}
    assert cells == {4: 1, 0: 5, 8: 6, 60: 7, 63: 8}
    for version in (0, 3, "1", [1]):
        with pytest.raises(InputError, match="of the task chess is not known"):
            make_task("chess", {}, version=version)


def test_a_run_opens_with_the_version_it_was_made_with(tmp_path):
    settings = ["task.encoding=easy-to-hard", "model.width=16", "model.heads=2"]
    spec = resolve("chess", "quick", settings, make_task=make_task)
    for version in (1, 2):
        create_run(tmp_path / str(version), spec, {"version": version}).save(
            init_state(spec), 1, None
        )
        _, task, _, _ = open_model(tmp_path / str(version), "best")
        assert task.version == version


# --- bad rows

FEN = "4k3/8/8/8/8/8/4P3/4K3 w - - 0 1"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        (("a", "", "e2e4 e8e7", "1000", ""), "cannot be read (empty fen)"),
        (("a", "4k3/8/8/8/8/8/4P3 w - - 0 1", "e2e4 e8e7", "1000", ""), "expected 8 rows"),
        (("a", FEN.replace("4P3", "4P4"), "e2e4 e8e7", "1000", ""), "expected 8 columns"),
        (("a", FEN.replace(" w ", " x "), "e2e4 e8e7", "1000", ""), "expected 'w' or 'b'"),
        (("a", FEN.replace("k", "K"), "e2e4 e8e7", "1000", ""), "no black king"),
        (("a", FEN.replace("4P3", "4Pk2"), "e2e4 e8e7", "1000", ""), "too many kings"),
        (("a", "4k3/4P3/8/8/8/8/8/P3K3 w - - 0 1", "e1e2 e8e7", "1", ""), "pawns on backrank"),
        (("a", "4k3/8/8/8/8/8/4R3/4K3 w - - 0 1", "e1d1 e8d8", "1", ""), "opposite check"),
        (("a", FEN.replace("- -", "- e6"), "e2e4 e8e7", "1000", ""), "invalid ep square"),
        (("a", FEN, "", "1000", ""), "has 0 move(s)"),
        (("a", FEN, "e2e4", "1000", ""), "has 1 move(s)"),
        (("a", FEN, "e2e4 e8e7 e4e5", "1000", ""), "an odd number"),
        (("a", FEN, "e2e5 e8e7", "1000", ""), "move 1 of Moves, 'e2e5', is illegal"),
        (("a", FEN, "e2e4 e8e6", "1000", ""), "move 2 of Moves, 'e8e6', is illegal"),
        (("a", FEN, "e2e4 e8e7 e4e6", "1000", ""), "move 3 of Moves, 'e4e6', is illegal"),
        (("a", FEN, "e2e4 Ke7", "1000", ""), "move 2 of Moves, 'Ke7', is not a UCI move"),
        (("a", FEN, "0000 e8e7", "1000", ""), "move 1 of Moves, '0000', is not a UCI move"),
        (("a", FEN, "P@e4 e8e7", "1000", ""), "is illegal"),
        (("a", FEN, "e2e4 e8e7", "", ""), "Rating '' is not a whole number"),
        (("a", FEN, "e2e4 e8e7", "fast", ""), "Rating 'fast' is not a whole number"),
        (("a", FEN, "e2e4 e8e7", "-1", ""), "Rating '-1' is not a whole number"),
        (("a", FEN, "e2e4 e8e7", "1500.5", ""), "Rating '1500.5' is not a whole number"),
        (("a", FEN, "e2e4 e8e7", "99999", ""), "Rating '99999' is not a whole number"),
        (("a", FEN, "e2e4 e8e7", "1000", "mate mateIn1"), "does not mate"),
        (("a" * 99, FEN, "e2e4 e8e7", "1000", ""), "longer than 32 bytes"),
        (("a", FEN, "e2e4 e8e7", "1000", "fork\0"), "has a zero byte"),
        (
            ("a", FEN.replace("0 1", "0 " + "9" * 70), "e2e4 e8e7", "1", ""),
            "clocks that are too large",
        ),
    ],
)
def test_bad_rows_are_reported_with_their_line(fields, why):
    rows = [Row._make((2, *fields)), Row(3, "b", FEN, "e2e4 e8e7", "1000", "")]
    split, tally = bad_rows(rows)
    assert len(split) == 1
    assert tally.count == 1
    assert tally.first[0].where == "file:2"
    assert why in tally.first[0].why
    assert "\n" not in str(tally.first[0])


def test_bad_files(tmp_path):
    path = tmp_path / "p.csv"
    for text, why in [
        ("", "empty"),
        (HEADER + "\n", "no rows"),
        ("PuzzleId,FEN,Moves\na,b,c\n", "Rating"),
    ]:
        path.write_text(text)
        with pytest.raises(InputError, match=why):
            Chess().read(path, on_bad=refuse)
    path.write_text(f"{HEADER}\n{GOOD}\nbroken,row\n")
    with pytest.raises(InputError, match=r"p\.csv:3.*--skip-bad"):
        Chess().read(path, on_bad=refuse)
    tally = Tally()
    assert len(Chess().read(path, on_bad=tally)) == 1
    assert tally.count == 1


def test_optional_columns_may_be_absent(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(f"Rating,Moves,FEN\n1000,e2e4 e8e7,{FEN}\n")
    split = Chess().read(path, on_bad=refuse)
    assert split.columns["ids"].tolist() == [b""]
    assert split.columns["themes"].tolist() == [b""]


ROW = Row._make((2, "x", *GOOD.split(",")[1:4], "mate endgame"))
TEXT = st.text(max_size=60)
ALPHABET = "abcdefgh12345678 /-PNBRQKpnbrqkw09,~\té"


@st.composite
def near_rows(draw):
    """A good row with a few characters changed, so that the compiled encoder might accept it."""
    fields = [ROW.id, ROW.fen, ROW.moves, ROW.rating, ROW.themes]
    for _ in range(draw(st.integers(1, 3))):
        which = draw(st.sampled_from([1, 1, 1, 2, 2, 3]))
        text = fields[which]
        at = draw(st.integers(0, len(text)))
        new = draw(st.sampled_from(["", *ALPHABET]))
        fields[which] = text[:at] + new + text[at + draw(st.integers(0, 1)) :]
    return Row._make((2, *fields))


@settings(max_examples=300, deadline=None)
@given(st.one_of(near_rows(), st.builds(Row, st.just(2), TEXT, TEXT, TEXT, TEXT, TEXT)))
@example(ROW)
@example(ROW._replace(fen="8/pp6/4pb2/1q3k2/7r/P3Q2P/1PP1N3/1K2R3 w  - 3 34"))
@example(ROW._replace(fen="8/pp6/4pb2/1q3k~2/7r/P3Q2P/1PP1N3/1K2R3 w - - 3 34"))
def test_any_text_gives_a_bad_row_or_a_good_one(row):
    split, tally = bad_rows([row])
    assert len(split) + tally.count == 1
    if len(split):  # if python-chess takes the row, both results agree
        agree([row], split, "paper")
        again = Chess().parse(split.puzzles[0].decode())
        np.testing.assert_array_equal(again.inputs, split.inputs)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=80), st.just(GOOD), st.just(GOOD[:-20])), min_size=1))
def test_any_lines_give_bad_rows_or_good_ones(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("rows") / "p.csv"
    text = "\n".join([HEADER, *lines, GOOD])
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    tally = Tally()
    split = Chess().read(path, on_bad=tally)
    # the reader counts lines with universal newlines and skips blank ones
    data = text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
    rows = sum(not line.isspace() for line in io.StringIO(data, newline=None)) - 1
    assert len(split) >= 1
    assert len(split) + tally.count == rows


# --- the generator


def test_generated_positions_have_exactly_one_mate_and_are_distinct(generated):
    pieces = set()
    for index in range(len(generated)):
        board = read_board(generated.puzzles[index].decode())
        mating = mating_moves(board)
        assert [move.uci() for move in mating] == [generated.columns["answer"][index].decode()]
        assert generated.difficulty[index] == 400 + 20 * board.legal_moves.count()
        pieces.add(board.piece_type_at(mating[0].from_square))
    assert len({tokens.tobytes() for tokens in generated.inputs}) == len(generated) == 300
    assert {chess.PAWN, chess.KNIGHT, chess.BISHOP, chess.ROOK, chess.QUEEN} <= pieces


def test_the_generator_is_a_pure_function_of_its_seed(generated):
    again, other_seed = Chess().generate(40, 7), Chess().generate(40, 8)
    np.testing.assert_array_equal(again.inputs, generated.inputs[:40])
    assert not np.any(np.isin(other_seed.puzzles, generated.puzzles))
    assert len(Chess().generate(0, 7)) == 0


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".csv.zst"])
def test_written_and_read_again(generated, tmp_path, suffix):
    path = tmp_path / f"p{suffix}"
    Chess().write(generated, path)
    again = Chess().read(path, on_bad=refuse)
    for field in dataclasses.fields(generated):
        if field.name != "columns":
            np.testing.assert_array_equal(
                getattr(generated, field.name), getattr(again, field.name)
            )
    assert generated.columns.keys() == again.columns.keys()
    for name, column in generated.columns.items():
        np.testing.assert_array_equal(column, again.columns[name])


def test_a_typed_puzzle_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="before the opponent's move"):
        Chess().write(Chess().parse(EXAMPLE), tmp_path / "p.csv")


# --- splits


def overlap(splits) -> int:
    codes = [set(hashes(split.inputs).tolist()) for split in splits.values()]
    return sum(map(len, codes)) - len(set.union(*codes))


@pytest.mark.parametrize("encoding", CHOICES)
def test_splits_of_a_real_file(shared, tmp_path, monkeypatch, encoding):
    monkeypatch.setenv("EQLOOP_CACHE", str(tmp_path))
    file = shared / "data/chess/lichess_puzzles_head10k_2024.csv.gz"
    task = make_task("chess", {"data": str(file), "encoding": encoding})
    progress = []
    data = task.load(progress=lambda done, total: progress.append((done, total)))
    splits = data.splits
    assert {"train", "validation", "test", "hard"} <= splits.keys()
    assert all(len(split) for split in splits.values())
    assert overlap(splits) == 0
    assert progress[-1][0] == progress[-1][1]
    easy = max(splits[name].difficulty.max() for name in ("train", "validation", "test"))
    assert easy <= splits["hard"].difficulty.min()
    if encoding == "paper":
        assert easy <= 1600
        assert 1601 <= splits["hard"].difficulty.min() <= splits["hard"].difficulty.max() <= 2000
    ratio = len(splits["train"]) / (len(splits["validation"]) + len(splits["train"]))
    assert abs(ratio - (0.8 if encoding == "paper" else 8 / 9)) < 0.01
    again = task.load()  # the second load reads the cache
    assert again.manifest == data.manifest
    fewer = dataclasses.replace(task, rows=500).load().splits
    assert abs(len(fewer["train"]) + len(fewer["validation"]) - 500) <= 1
    bands = task.bands(splits["test"])
    ratings = [mask for name, mask in bands.items() if name.startswith("rating")]
    assert np.all(np.sum(ratings, axis=0) == 1)
    assert bands["theme:mateIn1"].sum() > 10


def test_splits_of_the_generator(tmp_path, monkeypatch):
    monkeypatch.setenv("EQLOOP_CACHE", str(tmp_path))
    splits = make_task("chess", {"rows": 200}).load().splits
    sizes = {name: len(split) for name, split in splits.items()}
    assert sizes == {"train": 160, "validation": 40, "test": 20, "hard": 20}
    assert overlap(splits) == 0
    assert splits["hard"].difficulty.min() >= splits["train"].difficulty.max()


@pytest.mark.parametrize("rule", [paper, easy_to_hard])
def test_rules_at_full_size(rule):
    """A database in which a tenth of the rows are duplicates is split by its ratings and hashes
    alone."""
    rng = np.random.default_rng(0)
    count = 900_000
    index = Index(
        rng.integers(400, 3000, count).astype(np.float32),
        rng.integers(0, count * 5, count).astype(np.uint64),
    )
    chosen = rule(index, 0, 42)
    sizes = {name: len(rows) for name, rows in chosen.items()}
    if rule is paper:
        assert sizes == {
            "train": 40_000, "validation": 10_000, "test": 10_000, "hard": 10_000, "harder": 10_000,
        }  # fmt: skip
        # later rows cannot matter: the head of the file gives the same splits
        head = Index(index.ratings[:200_000], index.hashes[:200_000])
        assert paper_has_enough(head, 0)
        assert not paper_has_enough(Index(head.ratings[:90_000], head.hashes[:90_000]), 0)
        for name, rows in rule(head, 0, 42).items():
            np.testing.assert_array_equal(rows, chosen[name])
    else:
        assert sizes["train"] == 480_000
        assert sizes["validation"] == sizes["test"] == 60_000
        assert sizes["hard"] == 100_000
    rows = np.concatenate(list(chosen.values()))
    assert len(np.unique(index.hashes[rows])) == len(rows)


def test_too_few_puzzles_are_refused(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(f"{HEADER}\n{GOOD}\n")
    with pytest.raises(InputError, match="fewer than 10 distinct puzzles"):
        Chess(data=str(path)).load()


def test_fields_are_checked():
    with pytest.raises(InputError, match="encoding"):
        make_task("chess", {"encoding": "pgn"})
    with pytest.raises(InputError, match="rows"):
        Chess(rows=-1)
    assert TASKS["chess"] is Chess


# --- on the device


@pytest.mark.parametrize("encoding", CHOICES)
def test_encode_gives_one_plane_per_piece(generated, encoding):
    planes = jax.jit(jax.vmap(Chess(encoding=encoding).encode))(jnp.asarray(generated.inputs))
    assert planes.shape == (300, 8, 8, 12)
    assert planes.dtype == jnp.float32
    tokens = np.where(planes.any(axis=-1), np.argmax(planes, axis=-1) + 1, 0)
    np.testing.assert_array_equal(tokens, generated.inputs)
    np.testing.assert_array_equal(planes.sum(axis=-1), generated.inputs > 0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_ties_give_exactly_two_squares(dtype):
    tokens = jnp.zeros((8, 8), jnp.uint8)
    predict = jax.jit(Chess().predict)
    for value in (0.0, -3.5, 1e30):
        logits = jnp.full((8, 8, 2), value, dtype)
        assert int(predict(logits, tokens).sum()) == 2
    # three equal maxima: a threshold would mark three cells
    logits = jnp.zeros((8, 8, 2), dtype).at[[1, 4, 6], [2, 2, 2], 1].set(1)
    assert np.argwhere(predict(logits, tokens)).tolist() == [[1, 2], [4, 2]]
    # class 0 is ignored
    logits = logits.at[:, :, 0].set(jnp.arange(64, dtype=dtype).reshape(8, 8))
    assert np.argwhere(predict(logits, tokens)).tolist() == [[1, 2], [4, 2]]


def test_score(generated):
    task = Chess()
    tokens, targets = jnp.asarray(generated.inputs[0]), jnp.asarray(generated.targets[0])
    right = task.score(targets, tokens, targets)
    assert bool(right["exact"])
    assert float(right["cells"]) == 1.0
    wrong = task.score(jnp.zeros_like(targets), tokens, targets)
    assert not bool(wrong["exact"])
    assert float(wrong["cells"]) == 62 / 64


@pytest.mark.parametrize("encoding", CHOICES)
def test_mirrored_examples_are_examples(encoding):
    """A mirrored board without castling rights has the mirrored answer as its only mate."""
    task = Chess(encoding=encoding)
    split = task.generate(20, 3)
    keys = jax.random.split(jax.random.key(0), 20)
    tokens, targets = jax.jit(jax.vmap(task.transform))(
        keys, jnp.asarray(split.inputs), jnp.asarray(split.targets)
    )
    flips = 0
    for index, puzzle in enumerate(split.puzzles):
        board = chess.Board(puzzle.decode())
        board.castling_rights = chess.BB_EMPTY
        parsed = task.parse(board.fen())
        if (np.asarray(tokens[index]) != parsed.inputs[0]).any():
            flips += 1
            parsed = task.parse(board.transform(chess.flip_horizontal).fen())
        np.testing.assert_array_equal(tokens[index], parsed.inputs[0])
        if puzzle.split()[2] == b"-":
            np.testing.assert_array_equal(targets[index], parsed.targets[0])
    assert (flips > 0) == (encoding == "easy-to-hard")


# --- judge, parse, check, render


def prediction(task, fen, *names):
    cells = cells_of(chess.Board(fen), task.encoding)
    mask = np.zeros(64, np.uint8)
    mask[[cells[chess.parse_square(name)] for name in names]] = 1
    return mask.reshape(8, 8)


TWO_MATES = "6k1/5ppp/8/8/8/8/8/R2QR1K1 w - - 0 1"  # Ra8, Re8 and Qd8 all mate
QUIET = "4k3/8/8/8/8/8/4P3/4K3 b - - 0 1"


@pytest.mark.parametrize("encoding", CHOICES)
@pytest.mark.parametrize(
    ("fen", "squares", "legal", "mate", "right", "why"),
    [
        (TWO_MATES, ("a1", "a8"), 1, 1, True, "Ra8# (a1a8)"),
        (TWO_MATES, ("e1", "e8"), 1, 1, True, "mates"),
        (TWO_MATES, ("d1", "d8"), 1, 1, True, "mates"),
        (TWO_MATES, ("a1", "a7"), 1, 0, False, "is legal, but the answer is"),
        (TWO_MATES, ("g8", "h8"), 0, 0, False, "no legal move joins g8 and h8"),
        (TWO_MATES, ("a1",), 0, 0, False, "1 squares are marked"),
        (TWO_MATES, ("a1", "a8", "a7"), 0, 0, False, "3 squares are marked"),
        (QUIET, ("e8", "d8"), 1, np.nan, None, "the rules alone do not decide"),
        (QUIET, ("e8", "e6"), 0, np.nan, False, "no legal move"),
        # e7e8 mates by a queen or a rook, not by a knight or a bishop
        ("k7/4P3/1K6/8/8/8/8/8 w - - 0 1", ("e7", "e8"), 1, 1, True, "e8=Q# (e7e8q)"),
        # the compiled reader leaves a position with two checkers to python-chess
        ("4k3/8/8/8/8/5n2/8/4K2r w - - 0 1", ("e1", "e2"), 1, np.nan, None, "Ke2"),
    ],
)
def test_judge_and_check(encoding, fen, squares, legal, mate, right, why):
    task = Chess(encoding=encoding)
    split = task.parse(fen)
    mask = prediction(task, fen, *squares)
    judged = task.judge(split, mask[None])
    np.testing.assert_array_equal(judged["legal"], np.array([legal], np.float32))
    np.testing.assert_array_equal(judged["mate"], np.array([mate], np.float32))
    np.testing.assert_array_equal(judged["credit"], np.array([mate], np.float32))
    assert task.check(split, mask)[0] is right
    assert why in task.check(split, mask)[1]


def test_credit_is_exact_match_where_there_is_no_mate(real):
    task = Chess()
    split = encode(real[:600], "paper", refuse, "file")
    judged = task.judge(split, split.targets)
    mate_in_1 = np.array([b"mateIn1" in text.split() for text in split.columns["themes"]])
    np.testing.assert_array_equal(~np.isnan(judged["mate"]), mate_in_1)
    assert all(np.nanmin(values) == 1 for values in judged.values())
    missed = task.judge(split, np.roll(split.targets, 1, axis=0))
    assert np.nanmean(missed["credit"]) < 0.1
    assert not np.isnan(missed["credit"]).any()
    assert missed["legal"].mean() < 0.3


@pytest.mark.parametrize("encoding", CHOICES)
def test_puzzles_parse_to_the_tokens_they_came_from(generated, encoding):
    task = Chess(encoding=encoding)
    split = task.generate(60, 7)
    for index in range(60):
        parsed = task.parse(split.puzzles[index].decode())
        np.testing.assert_array_equal(parsed.inputs[0], split.inputs[index])
        np.testing.assert_array_equal(parsed.targets[0], split.targets[index])
        assert parsed.columns["answered"].tolist() == [True]
        assert parsed.columns.keys() == split.columns.keys()
        assert task.check(parsed, split.targets[index])[0] is True


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a FEN"),
        ("hello", "not a FEN"),
        ("hello world", "cannot be read"),
        ("8/8/8/8/8/8/8/8 w - - 0 1", "no white king"),
        ("4k3/8/8/8/8/8/4R3/4K3 w - - 0 1", "opposite check"),
        ("7k/5Q2/6K1/8/8/8/8/8 b - - 0 1", "stalemate"),
        ("R6k/8/6K1/8/8/8/8/8 b - - 0 1", "the game is over (mate)"),
        (EXAMPLE + " extra parts", "nor a line of EPD"),
    ],
)
def test_bad_puzzles(text, why):
    with pytest.raises(InputError) as caught:
        Chess().parse(text)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_board_can_be_read_without_colour():
    def plain(markup):
        out = io.StringIO()
        Console(file=out, color_system=None, width=80).print(markup)
        return out.getvalue()

    task = Chess()
    split = task.parse(EXAMPLE)
    text = plain(task.render(split, split.targets[0]))
    assert text.splitlines()[0] == "White to move"
    assert text.splitlines()[2].split() == ["8", "r", ".", "b", "q", "k", "b", ".", "r"]
    assert text.splitlines()[-3].split() == list("abcdefgh")
    assert "(Q)" in text
    assert ">p<" in text
    assert "Qxf7# (h5f7)" in text
    bare = plain(task.render(split))
    assert "(" not in bare

    black = task.parse(QUIET)
    rows = plain(task.render(black)).splitlines()
    assert rows[0] == "Black to move"
    # the files run from h to a, as Black sees them
    assert rows[2].split() == ["1", ".", ".", ".", "K", ".", ".", ".", "."]
    assert rows[-1].split() == list("hgfedcba")
    wrong = plain(task.render(black, prediction(task, QUIET, "a3", "b3")))
    assert wrong.count("?.?") == 2
    assert "not a legal move" in wrong


def test_drawing_tells_prediction_and_answer_apart_without_colour():
    task = Chess()
    example = task.parse(EXAMPLE)
    svg = "{http://www.w3.org/2000/svg}"

    def count(split, mask):
        drawing = ET.fromstring(task.draw(split, mask))
        dashed = [rect for rect in drawing.iter(f"{svg}rect") if rect.get("stroke-dasharray")]
        crosses = [use for use in drawing.iter(f"{svg}use") if use.get("href") == "#xx"]
        return len(list(drawing.iter(f"{svg}line"))), len(dashed), len(crosses)

    assert count(example, None) == (0, 0, 0)
    assert count(example, example.targets[0]) == (1, 2, 0)  # an arrow on the squares of the answer
    assert "predicted: Qxf7# (h5f7)" in task.draw(example, example.targets[0])
    assert count(example, prediction(task, EXAMPLE, "h5", "e5")) == (1, 2, 1)
    assert count(example, prediction(task, EXAMPLE, "a5", "b5")) == (0, 2, 2)  # no piece to move
    black = task.parse(QUIET)  # the answer is not known
    assert count(black, prediction(task, QUIET, "e8", "e7")) == (1, 0, 0)
    corner = next(ET.fromstring(task.draw(black)).iter(f"{svg}use"))
    assert corner.get("transform") == "translate(135, 0)"  # the white king, as Black sees it
