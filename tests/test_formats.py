"""Files in the formats that people use: each is read, or refused in one line that says what it
is."""

import bz2
import dataclasses
import gzip
import io
import json
import os
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from eqloop import InputError
from eqloop._task import Split, Task, _dataset, _files, _open
from eqloop.cli import main
from eqloop.tasks import TASKS, make_task
from eqloop.tasks._chess_rows import BEFORE, HEADER
from eqloop.tasks._sudoku_orbits import orbits
from eqloop.tasks._sudoku_symmetry import line_orders
from eqloop.tasks.chess import Chess
from eqloop.tasks.prefix_sums import PrefixSums
from eqloop.tasks.sudoku import Sudoku


def read(task: Task, path: Path) -> tuple[Split, _files.Tally]:
    tally = _files.Tally()
    return task.read(path, on_bad=tally), tally


def refusal(task: Task, path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(task, path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text or repr(str(path)) in text
    return text


# --- the files of shared/data/files, as its README says

NOT_READ = {
    "c07_wac.epd": "this is an EPD file",
    "c08_dm.epd": "this is an EPD file",
    "c09_mate_in_2.pgn": "this is a PGN file",
    "c11_api_daily.json": "no column 'FEN'",
    "c17_placement_only.txt": "this is a list of positions",
    "c21_twic_bigbench.json": "no column 'FEN'",
    "c23_hf_train-00000.parquet": "a parquet file that cannot be read",  # a stand-in
    "c26_no_rating.csv": "no column 'Rating'",
    "c27_best_move.csv": "no column 'Moves'",
    "p06_32_data.npy": "this is a NumPy file",
    "p07_32_data.pth": "this is a PyTorch file",
    "p10_par8.cnf": "this is a file of clauses",
    "p11_prefix_sums_data": "is a folder, but a file is needed",
    "s07_euler96.txt": "this is a list of grids over nine lines each",
    "s08_sudocue.sdk": "this is a grid over nine lines",
    "s11_opensudoku.opensudoku": "this is an XML or HTML file",
    "s12_hodoku_library.txt": "this is a HoDoKu library",
    "s14_json_board.csv": "no column 'question'",
    "s31_hrm_aug3": "has several sets",
    "s32_trm_uint8": "has several sets",
    "s33_trm_maze": "a folder of mazes, not sudokus",
    "s33_trm_maze/train": "a folder of mazes, not sudokus",
}
ROWS: dict[str, tuple[int, int, str]] = {  # good rows, bad rows, and the scale or the fault
    "c01_headerless_9col_2021.csv": (63, 0, ""),
    "c02_9col_header_crlf.csv": (63, 0, ""),
    "c03_11col_dailydate_2026.csv": (60, 0, ""),
    "c04_openingfamily_2022.csv": (60, 0, ""),
    "c05_searchless_puzzles.csv": (1, 0, ""),
    "c06_mangled_ids.csv": (2, 0, ""),
    "c10_huggingface.jsonl": (30, 0, ""),
    "c12_lowercase_columns.csv": (60, 0, ""),
    "c13_san_moves.csv": (0, 60, "is not a UCI move but SAN; write UCI, as f5g4"),
    "c14_preplayed_fen.csv": (0, 60, BEFORE),
    "c15_float_ratings.csv": (60, 0, ""),
    "c16_four_field_fen.csv": (60, 0, ""),
    "c18_castling_960.csv": (2, 2, "3 moves, an odd number"),  # the two rows with a reply too many
    "c19_moves_in_brackets.csv": (0, 10, "write the moves without brackets"),
    "c20_blundernet_5col.csv": (5, 0, ""),
    "c22_pandas_index.csv": (60, 0, ""),
    "c24_lichess_2021.csv.bz2": (63, 0, ""),
    # Its castling field is read; its theme is wrong, for the king escapes to h7.
    "c25_editor_castling.csv": (0, 1, "the themes say mateIn1, but the answer 'e1e8' does not"),
    "p01_input_output.csv": (60, 0, ""),
    "p02_spaces.csv": (60, 0, ""),
    "p03_parity_only.csv": (60, 0, ""),
    "p04_parity.json": (60, 0, ""),
    "p05_one_per_line.txt": (60, 0, ""),
    "p08_mixed_lengths.csv": (20, 40, "--set task.length=17 reads such rows"),
    "p09_good.csv": (60, 0, ""),
    "s01_kaggle1m_quizzes_solutions.csv": (100, 0, "eqloop"),
    "s03_kaggle3m_radcliffe.csv": (100, 0, "file"),
    "s04_exchange_bank_diabolical.txt": (5, 0, "eqloop"),
    "s05_royle17.txt": (3, 0, "eqloop"),
    "s06_top95_comment.txt": (3, 0, "eqloop"),
    "s09_collection.sdm": (2, 0, "eqloop"),
    "s16_extreme_crlf_bom.csv": (150, 0, "sukaku"),
    "s17_extreme_semicolon_excel.csv": (150, 0, "sukaku"),
    "s18_extreme_tab.tsv": (150, 0, "sukaku"),
    "s19_excel_scientific.csv": (0, 1, "a spreadsheet has lost its digits"),
    "s20_question_answer_only.csv": (150, 0, "eqloop"),
    "s22_hf.jsonl": (50, 0, "sukaku"),
    "s23_nonunique.csv": (151, 0, "file sukaku"),
    "s24_converted_radcliffe.csv": (150, 0, "file"),
    "s25_rating_all_zero.csv": (200, 0, "file"),
    "s26_star_blanks.csv": (50, 0, "file"),
    "s27_word_ratings.csv": (0, 50, "the rating 'easy' is not a number"),
    "s28_quoted_spaces.csv": (50, 0, "file"),
    "s29_quoted_all.csv": (150, 0, "file"),
    "s30_pandas_index.csv": (150, 0, "sukaku"),
    "s31_hrm_aug3/train": (120, 0, "eqloop"),
    "s31_hrm_aug3/test": (30, 0, "eqloop"),
    "s32_trm_uint8/train": (60, 0, "eqloop"),
    "s32_trm_uint8/test": (60, 0, "eqloop"),
    "s34_kaggle_archive.zip": (150, 0, "sukaku"),
    "s35_symmetric_copies.csv": (300, 0, "file"),
    "s36_powershell_utf16.csv": (150, 0, "sukaku"),
    "s37_leading_zero_lost.csv": (0, 1, "did a spreadsheet remove its leading zeros"),
    "s38_empty_rating.csv": (0, 1, "the rating '' is not a number"),
}
TASK_OF = {"c": Chess(), "p": PrefixSums(), "s": Sudoku()}


@pytest.mark.parametrize("name", [*NOT_READ, *ROWS])
def test_files_of_the_collection(shared, name):
    path, task = shared / "data/files" / name, TASK_OF[name[0]]
    if name in NOT_READ:
        text = refusal(task, path)
        assert NOT_READ[name] in text
        assert BEFORE in text or task.name != "chess"
        return
    split, tally = read(task, path)
    good, bad, detail = ROWS[name]
    assert (len(split), tally.count) == (good, bad)
    if bad:
        assert any(detail in bad_row.why for bad_row in tally.first)
    elif task.name == "sudoku":
        scales = np.unique(split.columns["scale"]).tolist()
        assert b" ".join(scales).decode() == detail


def test_the_collection_is_complete(shared):
    files = {path.name for path in (shared / "data/files").iterdir()} - {"README.md"}
    assert files == {name.partition("/")[0] for name in (*NOT_READ, *ROWS)}


@pytest.mark.parametrize("name", ["hrm-deep-header", "hrm-negative-shape"])
def test_folders_with_hostile_headers(shared, name):
    assert "not a whole .npy file" in refusal(Sudoku(), shared / "data/faults" / name)


def test_rows_of_the_collection_make_splits(shared):
    """Rows with equal ratings and symmetric copies would leave a split that cannot be trained on,
    or leak between splits."""
    for name, rule in (
        ("s25_rating_all_zero.csv", "most ratings are equal; hard puzzles have"),
        ("s35_symmetric_copies.csv", "80 % quantile"),
    ):
        loaded = Sudoku(data=str(shared / "data/files" / name)).load()
        assert rule in loaded.manifest["read"]["cut"]  # pyright: ignore[reportIndexIssue]
        assert_no_copies(loaded.splits.values())


# --- sudokus, one set in many layouts


@pytest.fixture(scope="module")
def sudokus() -> Split:
    return Sudoku().generate(12, 0)


def rows_of(split: Split) -> list[dict[str, str]]:
    answers = ["".join(map(str, answer.ravel())) for answer in split.targets]
    return [
        {"question": question.decode(), "answer": answer}
        for question, answer in zip(split.puzzles, answers, strict=True)
    ]


def table(rows: list[dict[str, str]], separator: str = ",", end: str = "\n", **names: str) -> str:
    header = separator.join(names.get(name, name) for name in rows[0])
    return end.join([header, *(separator.join(row.values()) for row in rows)]) + end


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def parquet(rows: list[dict[str, str]]) -> bytes:
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), stream)
    return stream.getvalue()


def layouts(rows: list[dict[str, str]]) -> dict[str, bytes]:
    plain = table(rows).encode()
    lines = [row["question"] for row in rows]
    return {
        "columns of Kaggle": table(rows, question="quizzes", answer="solutions").encode(),
        "columns in capitals": table(rows, question="Puzzle", answer=" SOLUTION").encode(),
        "semicolons": table(rows, ";").encode(),
        "tabs": table(rows, "\t").encode(),
        "Windows": b"\xef\xbb\xbf" + table(rows, end="\r\n").encode(),
        "UTF-16": table(rows).encode("utf-16"),
        "UTF-16 without a mark": table(rows).encode("utf-16-le"),
        "quoted": table([{k: f'"{v}"' for k, v in row.items()} for row in rows], ", ").encode(),
        "JSON lines": "\n".join(map(json.dumps, rows)).encode(),
        "JSON array": json.dumps(rows, indent=1).encode(),
        "lines": "\n".join(lines).encode(),
        "lines and comments": "\n".join(["# mine", *(f"{q} // easy" for q in lines)]).encode(),
        "puzzle bank": "\n".join(f"00015097c6c3 {q}  7.2" for q in lines).encode(),
        "zeros for blanks": "\n".join(lines).replace(".", "0").encode(),
        "stars for blanks": "\n".join(lines).replace(".", "*").encode(),
        "parquet": parquet(rows),
        "gzip": gzip.compress(plain),
        "bzip2": bz2.compress(plain),
        "Zstandard": zstandard.compress(plain),
        "zip": zipped(**{"sudoku.csv": plain, "__MACOSX/._sudoku.csv": b"x"}),
        "gzip in zip": zipped(**{"sudoku.csv.gz": gzip.compress(plain)}),
    }


def test_every_layout_gives_the_same_sudokus(tmp_path, sudokus):
    for name, data in layouts(rows_of(sudokus)).items():
        path = tmp_path / "file"  # its name does not tell the format
        path.write_bytes(data)
        split, tally = read(Sudoku(), path)
        assert (len(split), tally.count) == (12, 0), name
        for field in ("inputs", "targets", "difficulty", "puzzles"):
            np.testing.assert_array_equal(getattr(split, field), getattr(sudokus, field), name)
        assert set(split.columns["scale"].tolist()) == {b"eqloop"}, name


def test_a_puzzle_without_an_answer_needs_one_solution(tmp_path):
    path = tmp_path / "s.txt"
    path.write_text("1234341221434321\n1...............\n11..............\n")
    split, tally = read(Sudoku(box=2), path)
    assert len(split) == 1
    assert [bad.why for bad in tally.first] == [
        "the puzzle has more than one solution, and the file gives no answer",
        "the puzzle has no solution",
    ]


def test_a_rating_of_unknown_origin_is_not_called_tdokus(tmp_path, sudokus):
    path = tmp_path / "s.csv"
    for source, scale in (
        ("puzzles0_kaggle", "tdoku"), ("sudoku_exchange_se4.1", "sukaku"), ("kaggle", "file"),
        ("", "file"),
    ):  # fmt: skip
        path.write_text(
            table([row | {"source": source, "rating": "3"} for row in rows_of(sudokus)])
        )
        split, _ = read(Sudoku(), path)
        assert set(split.columns["scale"].tolist()) == {scale.encode()}
        assert any("tdoku" in band for band in Sudoku().bands(split)) == (scale == "tdoku")


@pytest.mark.parametrize("rating", ["\u0661\u0662", "1_000", "0x1", "inf", "9" * 5000])
def test_what_is_no_rating(tmp_path, sudokus, rating):
    path = tmp_path / "s.csv"
    path.write_text(table([row | {"rating": rating} for row in rows_of(sudokus)]), "utf-8")
    split, tally = read(Sudoku(), path)
    assert (len(split), tally.count) == (0, 12)
    assert "is not a number >= 0" in tally.first[0].why


# --- copies of a sudoku


def assert_no_copies(splits) -> None:
    numbers = np.concatenate([orbits(split.inputs, 3) for split in splits])
    assert len(np.unique(numbers)) == len(numbers)


def arrays(split: Split) -> tuple[jax.Array, jax.Array]:
    return jnp.asarray(split.inputs), jnp.asarray(split.targets)


@pytest.mark.parametrize("box", [2, 3])
def test_symmetries_keep_the_number_of_a_puzzle(box):
    task = Sudoku(box=box)
    split = task.generate(40, 3)
    for seed in range(5):
        keys = jax.random.split(jax.random.key(seed), len(split))
        transformed, _ = jax.vmap(task.transform)(keys, *arrays(split))
        np.testing.assert_array_equal(
            orbits(np.asarray(transformed), box), orbits(split.inputs, box)
        )


def test_numbers_of_4x4_puzzles_are_those_of_a_canonical_form():
    """The canonical form is the least of all images of a puzzle, with its digits renamed in order
    of appearance."""
    puzzles = Sudoku(box=2, givens=5).generate(60, 1).inputs
    orders = line_orders(2)

    def canonical(puzzle: np.ndarray) -> bytes:
        images = []
        for grid in (puzzle, puzzle.T):
            for rows in orders:
                for columns in orders:
                    names: dict[int, int] = {0: 0}
                    image = grid[rows][:, columns].ravel().tolist()
                    images.append(bytes(names.setdefault(d, len(names)) for d in image))
        return min(images)

    forms = [canonical(puzzle) for puzzle in puzzles]
    numbers = orbits(puzzles, 2).tolist()
    assert len(set(forms)) == len(set(numbers)) == len(set(zip(forms, numbers, strict=True))) > 10


def test_copies_of_one_puzzle_lie_in_one_split(tmp_path):
    task = Sudoku()
    generated = task.generate(60, 5)
    keys = jax.random.split(jax.random.key(0), 60)
    inputs, targets = map(np.asarray, jax.vmap(task.transform)(keys, *arrays(generated)))
    copies = dataclasses.replace(
        generated,
        inputs=inputs,
        targets=targets,
        puzzles=np.array(["".join(map(str, p.ravel())).replace("0", ".").encode() for p in inputs]),
    )
    for name, split in (("a", generated), ("b", copies)):
        task.write(split, tmp_path / f"{name}.csv")
    path = tmp_path / "both.csv"
    rows = (tmp_path / "b.csv").read_text().splitlines(True)[1:]
    path.write_text((tmp_path / "a.csv").read_text() + "".join(rows))
    split, _ = read(task, path)
    assert task.remarks(split) == {
        "have more than one solution": 0,
        "are symmetric copies of a row before them, or the same puzzle": 60,
        "are rated by the program's own solver (scale = eqloop)": 120,
    }
    loaded = task_of(path).load()
    assert loaded.manifest["read"]["duplicates"] == 60  # pyright: ignore[reportIndexIssue]
    assert_no_copies(loaded.splits.values())


def task_of(path: Path, **fields: object) -> Task:
    return make_task("sudoku", {"data": str(path), **fields})


def test_the_program_trains_on_what_it_has_made(tmp_path, caplog):
    """All ratings and givens of a set of 4x4 sudokus are equal, so that a random fifth of it is the
    hard split."""
    path = tmp_path / "made.csv"
    assert (
        main(["data", "make", "-t", "sudoku", "--set", "task.box=2", "-n", "300", "-o", str(path)])
        == 0
    )
    splits = task_of(path, box=2).load().splits
    assert all(len(split) for split in splits.values())
    assert "a fifth at random is hard" in caplog.text
    longer = tmp_path / "longer.csv"
    longer.write_text(path.read_text() + "eqloop,.234341221434321,1234341221434321,0\n")
    more = task_of(longer, box=2).load().splits
    assert set(splits["hard"].puzzles.tolist()) <= set(more["hard"].puzzles.tolist())


def test_equal_ratings_are_parted_by_givens(tmp_path):
    parts = [Sudoku(givens=givens).generate(20, 1) for givens in (30, 32, 34, 36, 38)]
    rows = [row | {"rating": "7"} for part in parts for row in rows_of(part)]
    (tmp_path / "s.csv").write_text(table(rows))
    splits = task_of(tmp_path / "s.csv").load().splits
    givens = {name: np.count_nonzero(s.inputs, (1, 2)) for name, s in splits.items()}
    assert set(givens["hard"].tolist()) == {30}
    assert min(givens["train"].min(), givens["test"].min()) == 32


def test_the_check_counts_what_is_not_bad(tmp_path, capsys):
    path = tmp_path / "s.csv"
    path.write_text("question,answer,rating\n" + "1...............,1234341221434321,0\n" * 2)
    command = ["data", "check", str(path), "-t", "sudoku", "--set", "task.box=2"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        f"{path}: 2 rows are good, 0 are bad",
        "2 have more than one solution",
        "1 are symmetric copies of a row before them, or the same puzzle",
    ]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["remarks"]["have more than one solution"] == 2


# --- chess

FEN = "4k3/8/8/8/8/8/4P3/4K3 w - - 0 1"
CHESS = {
    "no header": f"00sHx,{FEN},e2e4 e8e7,1760,80,83,72,mate,https://lichess.org/x#34",
    "no header, ten columns": f"00sHx,{FEN},e2e4 e8e7,1760,80,83,72,mate,https://lichess.org/x#34,",
    "small letters": f"id,fen,moves,rating,themes\n00sHx,{FEN},e2e4 e8e7,1760,mate",
    "ratings of pandas": f",PuzzleId,FEN,Moves,Rating,Themes\n0,00sHx,{FEN},e2e4 e8e7,1760.0,mate",
    "castling of an editor": (
        f"{HEADER}\n00sHx,{FEN.replace('w - -', 'w KQkq -')},e2e4 e8e7,1760,,,,mate,,"
    ),
    "lists": json.dumps(
        {
            "PuzzleId": "00sHx",
            "FEN": FEN,
            "Moves": ["e2e4", "e8e7"],
            "Rating": 1760,
            "Themes": ["mate"],
        }
    ),
}


@pytest.mark.parametrize("name", CHESS)
def test_layouts_of_chess_puzzles(tmp_path, name):
    path = tmp_path / "p"
    path.write_text(CHESS[name] + "\n")
    split, tally = read(Chess(), path)
    assert tally.first == []
    assert split.puzzles.tolist() == [b"4k3/8/8/8/4P3/8/8/4K3 b - - 0 1"]
    columns = {name: split.columns[name].tolist() for name in ("answer", "ids", "themes")}
    assert columns == {"answer": [b"e8e7"], "ids": [b"00sHx"], "themes": [b"mate"]}
    assert split.difficulty.tolist() == [1760]


NO_PUZZLES = {
    "this is a PGN file": '[Event "?"]\n\n1. e4 e5 *\n',
    "this is an EPD file": f'{FEN[:-4]} bm e4; id "1";\n',
    "this is a list of positions": f"{FEN}\n",
    "no column 'FEN'": '{"game": {"id": "x"}}\n',
    "no column 'Moves'": f"fen,best_move\n{FEN},e2e4\n",
    "no column 'Rating'": f"FEN,Moves\n{FEN},e2e4 e8e7\n",
    "a header but no rows": f"{HEADER}\n",
    "the file is empty": "",
}


@pytest.mark.parametrize("message", NO_PUZZLES)
def test_every_refusal_says_which_position_fen_is(tmp_path, message):
    path = tmp_path / "p.csv"
    path.write_text(NO_PUZZLES[message])
    text = refusal(Chess(), path)
    assert message in text
    for word in (BEFORE, "FEN, Moves and Rating", "PuzzleId and Themes"):
        assert word in text


def test_the_help_says_which_position_fen_is(capsys):
    assert main(["data", "check", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "FEN is the position before the opponent's move, which is the first of Moves" in text


# --- prefix sums


def test_layouts_of_bit_strings(tmp_path):
    generated = PrefixSums(length=12).generate(5, 0)
    bits = [puzzle.decode() for puzzle in generated.puzzles]
    sums = ["".join(map(str, target)) for target in generated.targets]
    pairs = list(zip(bits, sums, strict=True))
    for text in (
        "\n".join(bits),
        "\n".join(map(" ".join, bits)),
        "input,output\n" + "\n".join(map(",".join, pairs)),
        "question,answer\n" + "\n".join(f"{' '.join(q)},{' '.join(a)}" for q, a in pairs),
        "question,answer\n" + "\n".join(f"{q},{a[-1]}" for q, a in pairs),
        json.dumps([{"instruction": "", "input": q, "output": a[-1]} for q, a in pairs]),
    ):
        (tmp_path / "bits").write_text(text)
        split, tally = read(PrefixSums(), tmp_path / "bits")
        assert tally.first == []
        np.testing.assert_array_equal(split.inputs, generated.inputs)
        np.testing.assert_array_equal(split.targets, generated.targets)


def test_the_length_picks_one_of_several(tmp_path, caplog):
    path = tmp_path / "bits"
    path.write_text("010101\n0101010\n1101010\n110101\n0000000\n")
    split, tally = read(PrefixSums(length=7), path)
    assert split.puzzles.tolist() == [b"0101010", b"1101010", b"0000000"]
    assert tally.count == 0
    split, tally = read(PrefixSums(), path)
    assert split.puzzles.tolist() == [b"010101", b"110101"]
    assert tally.count == 3
    assert f"{path}: 2 rows of 6 bits" in caplog.text
    assert f"{path}: 3 rows of 7 bits; --set task.length=7 reads these" in caplog.text


# --- what is no file of rows, for every task

OTHER_KINDS = {
    b"\x93NUMPY\x01\0": "a NumPy file",
    b"\x80\x04\x95\x10": "a pickle",
    b"SQLite format 3\0": "an SQLite database",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"%PDF-1.7": "a PDF file",
    b"\xfd7zXZ\0": "an xz file",
    b"<?xml version='1.0'?>": "an XML or HTML file",
    b"\x40\0\0\0\0\0\0\0" + b'{"__metadata__":{}}': "a safetensors file",
    zipped(**{"a.csv": b"", "b.csv": b""}): "a zip archive of 2 files",
    zipped(**{"32_data/data.pkl": b"", "32_data/data/0": b""}): "a PyTorch file",
    zipped(**{"[Content_Types].xml": b"", "xl/workbook.xml": b""}): "an office file",
    zipped(**{"x.npy": b""}): "a NumPy file",
    gzip.compress(gzip.compress(gzip.compress(b"x"))): "compressed more than 2 times",
    b"PAR1" + bytes(40): "a parquet file that cannot be read",
}


@pytest.mark.parametrize("name", list(TASKS))
def test_other_kinds_of_files_are_named(tmp_path, name):
    path = tmp_path / "rows.csv"
    for data, message in OTHER_KINDS.items():
        path.write_bytes(data)
        assert message in refusal(make_task(name, {}), path)


def test_parquet_without_its_reader(tmp_path, monkeypatch):
    path = tmp_path / "rows.parquet"
    path.write_bytes(parquet([{"question": "0101010"}]))
    assert read(PrefixSums(), path)[0].puzzles.tolist() == [b"0101010"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install pyarrow" in refusal(PrefixSums(), path)


@pytest.mark.parametrize("name", list(TASKS))
def test_what_is_no_regular_file_is_never_read(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path, message in (
        (tmp_path / "pipe", "not a regular file but a pipe"),
        (tmp_path / "loop", "Too many levels of symbolic links"),
        (Path("/dev/zero"), "not a regular file but a device"),
        (tmp_path, "a folder"),
        (tmp_path / ("x" * 300), "File name too long"),
        (tmp_path / "a\0b", "no such file"),
    ):
        assert message in refusal(make_task(name, {}), path)
        # A field with NUL is refused before the file is read.
        message = "must not contain NUL" if "\0" in str(path) else message
        with pytest.raises(InputError, match=message):
            make_task(name, {"data": str(path)}).load()


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, zstandard.compress])
def test_a_file_that_decompresses_without_end(tmp_path, monkeypatch, compress):
    monkeypatch.setattr(_open, "_BOMB_BYTES", 1 << 20)
    path = tmp_path / "rows.csv"
    path.write_bytes(compress(b"question\n" + b"0" * (4 << 20)))
    assert "decompresses to more than 200 times its size" in refusal(PrefixSums(), path)


JSON = {
    '{"question": ' + "[" * 100_000: "not one object per line",
    "[" * 100_000: "JSON that cannot be read",
    "[1, 2]": "a JSON array without objects",
    '{\n "question": "0101010"\n}': "not one object per line",
    "[]": "a JSON array without objects",
}


@pytest.mark.parametrize("text", JSON, ids=range(len(JSON)))
def test_json_that_is_no_rows(tmp_path, text):
    (tmp_path / "rows.json").write_text(text)
    assert JSON[text] in refusal(PrefixSums(), tmp_path / "rows.json")


def test_json_rows_that_are_bad(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = ['{"question": "0101010"}', "[" * 9000, '{"question": "\\ud800"}', '{"x": 1}', "3"]
    path.write_text("\n".join([*lines, '{"question": ' + "9" * 5000 + "}"]))
    split, tally = read(PrefixSums(), path)
    assert len(split) == 1
    assert [bad.where.rpartition(":")[2] for bad in tally.first] == list("23456")


def test_headers_of_numpy_files_that_no_parser_likes(tmp_path, sudokus):
    whole = np.zeros((3, 81), np.int64)
    (tmp_path / "dataset.json").write_text('{"seq_len": 81}')
    np.save(tmp_path / "all__labels.npy", whole)
    for shape in (
        "(-1, 81)",
        "(" * 9000,
        "(3, 81",
        "\0",
        "(True, 81)",
        "(9" + "9" * 5000 + ", 81)",
    ):
        header = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}, }}".encode()
        header += b" " * (-(len(header) + 11) % 64) + b"\n"
        start = b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little")
        (tmp_path / "all__inputs.npy").write_bytes(start + header + whole.tobytes())
        assert "all__inputs.npy: " in refusal(Sudoku(), tmp_path)


def test_a_cache_damaged_anywhere_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("EQLOOP_CACHE", str(tmp_path))
    arrays_to_cache = {"x": np.arange(40), "y": np.eye(3)}
    _dataset.cached({}, lambda: arrays_to_cache)
    (path,) = (tmp_path / "data").iterdir()
    data = path.read_bytes()
    for place in range(0, len(data), 31):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x21]) + data[place + 1 :])
        cached = _dataset.cached({}, lambda: arrays_to_cache)
        assert cached.keys() == arrays_to_cache.keys()
        for name, array in arrays_to_cache.items():
            np.testing.assert_array_equal(cached[name], array)


# --- what is replaced


def identity(path):
    status = path.lstat()
    return status.st_dev, status.st_ino, status.st_mode


def test_only_regular_files_are_replaced(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to("mine")
    (tmp_path / "nowhere").symlink_to("none")
    command = ["data", "make", "-t", "prefix-sums", "-n", "5", "--force", "-o"]
    for path in (*(tmp_path / name for name in ("pipe", "link", "nowhere")), Path("/dev/null")):
        before = identity(path)
        assert main([*command, str(path)]) == 2
        assert "only regular files will do" in capsys.readouterr().err
        with pytest.raises(InputError, match="only regular files"), _files.write_atomic(path):
            pass
        assert identity(path) == before
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "none").exists()
    assert main([*command, str(tmp_path / "mine")]) == 0
    assert (tmp_path / "mine").read_text().startswith("question,answer")
