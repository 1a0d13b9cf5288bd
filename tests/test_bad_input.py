"""Bad input prints one line that says what is wrong, where, and what to do, and leaves nothing
half-done. `CASES` is the table: a command and the line that it ends with. In both, `{d}` is the
folder with the files made below, `{run}` a trained run, `{sudoku}` and `{chess}` untrained ones;
`[damage]` in front of a command names a damage that is first done to a copy of the run."""

import gzip
import shlex
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from eqloop.cli import main

PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
ANSWER = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
START = "rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1"
LICHESS = "PuzzleId,FEN,Moves,Rating,RatingDeviation,Popularity,NbPlays,Themes,GameUrl,OpeningTags"
SUDOKU = "source,question,answer,rating"


def sudoku(question: str = PUZZLE, answer: str = ANSWER, rating: str = "0") -> bytes:
    return f"{SUDOKU}\na,{question},{answer},{rating}\n".encode()


def chess(fen: str = START, moves: str = "e2e4 e7e5", rating: str = "900") -> bytes:
    return f"{LICHESS}\nabc,{fen},{moves},{rating},75,90,100,mate,,\n".encode()


# The end of each message that refuses the content of a file.
BITS = (
    "expected strings of 0 and 1: a column question (or input) and, if known, a column answer "
    "(output); or one string per line"
)
SUDOKUS = (
    "expected a file of sudokus: with a column question (or puzzle, or quizzes) and optional "
    "columns answer (solution), rating and source; or one puzzle of 81 characters per line"
)
CHESS = (
    "expected a file of Lichess puzzles with the columns FEN, Moves and Rating (Moves in UCI), and "
    "optionally PuzzleId and Themes; FEN must be the position before the opponent's first move, "
    "which is the first of Moves"
)
GOOD = sudoku() + b"".join(sudoku().splitlines(True)[1:] * 2000)

FILES: dict[str, bytes] = {
    "empty.csv": b"",
    "header.csv": b"question,answer\n",
    "column.csv": b"puzzle,solution\n0101010,0110011\n",
    "twice.csv": b"question,question\n0101010,0110011\n",
    "latin.csv": "question,Lösung\n".encode("latin-1"),
    "binary.csv": bytes(range(256)),
    "cut.csv.gz": gzip.compress(GOOD)[:-20],
    "broken.csv.gz": b"\x1f\x8b" + GOOD,
    "cut.csv.zst": zstandard.compress(GOOD)[:-9],
    "broken.csv.zst": b"\x28\xb5\x2f\xfd" + GOOD,
    "bits-letter.csv": b"question\n01012\n",
    "bits-length.csv": b"question\n010101\n01010101\n",
    "bits-answer.csv": b"question,answer\n010101,011111\n",
    "fields.csv": b"question,answer\n010101\n",
    "sudoku-short.csv": sudoku(question=PUZZLE[:-1]),
    "sudoku-letter.csv": sudoku(question="x" + PUZZLE[1:]),
    "sudoku-clash.csv": sudoku(question="55" + PUZZLE[2:]),
    "sudoku-contradiction.csv": sudoku(answer="6" + ANSWER[1:]),
    "sudoku-rating.csv": sudoku(rating="hard"),
    "chess-fen.csv": chess(fen="rnbqkbnr/ppp w KQkq - 0 1"),
    "chess-kings.csv": chess(fen="8/8/8/8/8/8/8/K7 w - - 0 1"),
    "chess-illegal.csv": chess(moves="e2e5 e7e5"),
    "chess-answer.csv": chess(moves="e2e4 e7e2"),
    "chess-one.csv": chess(moves="e2e4"),
    "chess-rating.csv": chess(rating="?"),
    "folder/dataset.json": b"{}",
}


def truncate(run: Path) -> None:
    path = last(run)
    path.write_bytes(path.read_bytes()[:-100])


def alter(run: Path) -> None:
    path = last(run)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def forge_header(run: Path) -> None:
    path = last(run)
    path.write_bytes(struct.pack("<Q", 1 << 40) + path.read_bytes()[8:])


def last(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-*"))


def edit_spec(old: str, new: str) -> Callable[[Path], None]:
    def edit(run: Path) -> None:
        path = run / "spec.toml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return edit


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": truncate,
    "altered": alter,
    "forged": forge_header,
    "pickle": lambda run: last(run).write_bytes(b"\x80\x04cos\nsystem\n(S'echo'\ntR."),
    "no-checkpoint": lambda run: shutil.rmtree(run / "checkpoints"),
    "best-gone": lambda run: (run / "checkpoints" / "best.json").write_text(
        '{"cells": 1.0, "exact": 1.0, "step": 3}'
    ),
    "best-cut": lambda run: (run / "checkpoints" / "best.json").write_text('{"step": 3}'),
    "best-damaged": lambda run: (run / "checkpoints" / "best.json").write_text("{"),
    "no-spec": lambda run: (run / "spec.toml").unlink(),
    "no-manifest": lambda run: (run / "data.json").unlink(),
    "spec-not-toml": edit_spec("[model]", "[model"),
    "spec-unknown": edit_spec("width = 16", "wdith = 16"),
    "spec-other": edit_spec("width = 16", "width = 32"),
    "spec-task": edit_spec('name = "prefix-sums"', 'name = "prefix-sum"'),
    "spec-future": edit_spec("format = 1", "format = 99"),
    "other-data": edit_spec("length = 8", "length = 9"),
}

CASES: list[tuple[str, str]] = [
    (
        "trian",
        "No such command 'trian'. Did you mean 'train'?; see `eqloop --help`",
    ),
    (
        "train --stepz 3",
        "No such option: --stepz (Possible options: --seed, --set, --steps); see `eqloop train "
        "--help`",
    ),
    (
        "train --steps ten",
        "Invalid value for '--steps': Input should be a valid integer, unable to parse string "
        "as an integer; see `eqloop train --help`",
    ),
    (
        "train --steps 0",
        "train.steps must be at least 1, got 0",
    ),
    (
        "train --steps",
        "Option '--steps' requires an argument",
    ),
    (
        "train --seed -1",
        "train.seed must be at least 0, got -1",
    ),
    (
        "train surplus",
        "Got unexpected extra argument(s) (surplus); see `eqloop train --help`",
    ),
    (
        "train --task sudko",
        "unknown task 'sudko'; did you mean sudoku?; for a task of a file use --task FILE.py:CLASS",
    ),
    (
        "train --preset fast",
        "unknown preset 'fast'; known: eqr, eqr-small, equilibrium, extreme, fprm, fprm-small, "
        "hrm, hrm-small, paper, paper-small, quick, trm, trm-small",
    ),
    (
        "train --solver jacobi",
        "solver.name must be one of unroll, fixed-point, adaptive-damping, anderson, broyden, "
        "newton, chord, reversible, steady-state, got 'jacobi'",
    ),
    (
        "train --solver newton --gradient backprop",
        "solver.gradient = \"backprop\" cannot follow the steps of solver.name = 'newton': use "
        '"implicit", "phantom" or "neumann"',
    ),
    (
        "train --gradient exact",
        "solver.gradient must be one of backprop, truncated, last-steps, one-step, phantom, "
        "neumann, implicit, got 'exact'",
    ),
    (
        "train --recall inner",
        "model.recall must be one of none, external, internal, got 'inner'; did you mean none?",
    ),
    (
        "train --norm batch",
        "model.norm must be one of pre, peri, post, sandwich, got 'batch'",
    ),
    (
        "train --set width=3",
        "--set width=3: write GROUP.FIELD=VALUE; did you mean model.width?",
    ),
    (
        "train --set model.widht=64",
        "unknown field model.widht; did you mean model.width?",
    ),
    (
        "train --set model.width=big",
        "model.width must be a whole number, got 'big'",
    ),
    (
        "train --set model.width=65",
        "model.width must be a multiple of 2 x model.heads = 16, got 65",
    ),
    (
        "train --set task.length=8 --set model.attention=9",
        "model.attention = 9 is wider than the task's grid of 8 cells: set model.attention = "
        '"task"',
    ),
    (
        "train --set modle.width=64",
        "unknown field modle.width; did you mean model.width?",
    ),
    (
        "train --set model.grid=[4]",
        "model.grid is given by the task and cannot be set",
    ),
    (
        "train --set task.length=nan",
        "task.length must be a whole number, got nan",
    ),
    (
        "train --set task.lenght=16",
        "unknown field task.lenght; did you mean task.length?",
    ),
    (
        "train --set train.lr=-1",
        "train.lr must be above 0, got -1.0",
    ),
    (
        "train --set train.validation_split=test",
        "train.validation_split must be a validation split: a checkpoint is never chosen on "
        "test data, got 'test'",
    ),
    (
        "train --set train.batch=100000",
        "train.batch = 100000 exceeds the 8000 training examples: lower it, or raise task.rows",
    ),
    (
        "train --task sudoku --data {d}/nowhere.csv",
        "{d}/nowhere.csv: no such file; check the path",
    ),
    (
        "train --task sudoku --data {d}/sudoku-clash.csv",
        "{d}/sudoku-clash.csv:2: the answer contradicts the question; correct the row, or "
        "use --skip-bad",
    ),
    (
        "train --out {run}",
        "{run} is a run already: go on with --resume {run}, or choose --out",
    ),
    (
        "train --out {d}",
        "{d} is not empty and not a run: choose another --out",
    ),
    (
        "train --out {d}/empty.csv",
        "{d}/empty.csv is a file: choose another --out",
    ),
    (
        "train --resume {d}/nowhere",
        "{d}/nowhere is not a run: there is no such folder",
    ),
    (
        "train --resume {d}",
        "{d} is not a run: it has no spec.toml",
    ),
    (
        "train --resume {run} --norm pre",
        "--resume {run}: goes on as its spec.toml says; leave out --norm",
    ),
    (
        "[truncated] train --resume {run}",
        "{run}/checkpoints/step-00000004.safetensors is not a whole checkpoint (Error while "
        "deserializing header: incomplete metadata, file not fully covered); the checkpoint "
        "before it is of step 2: delete the file to go on from there",
    ),
    (
        "[no-manifest] train --resume {run}",
        "{run} has no data.json, which says what data it used",
    ),
    (
        "[other-data] train --resume {run}",
        "the data has changed since {run} began ('fields' in its data.json differs): restore "
        "it, or begin a new run with --out",
    ),
    (
        "train --gradient implicit --set train.loss=mean",
        "train.loss = 'mean' is differentiated through every iteration: with solver.gradient = "
        '\'implicit\' use train.loss = "last" or "progressive"',
    ),
    (
        "eval",
        "Missing argument 'RUN'; see `eqloop eval --help`",
    ),
    (
        "eval {d}/nowhere",
        "{d}/nowhere is not a run: there is no such folder",
    ),
    (
        "eval {d}/empty.csv",
        "{d}/empty.csv is not a run: there is no such folder",
    ),
    (
        "eval {run} --split tset",
        "--split tset: must be one of train, validation, test, hard, hard-x2, hard-x4",
    ),
    (
        "eval {run} --iterations 0",
        "Invalid value for '--iterations': Input should be greater than or equal to 1; see "
        "`eqloop eval --help`",
    ),
    (
        "eval {run} --checkpoint first",
        "--checkpoint first: must be best, last or a step (2, 4)",
    ),
    (
        "eval {run} --checkpoint 3",
        "{run} has no checkpoint of step 3; there are 2, 4",
    ),
    (
        "eval {run} --plot {d}/a.jpg",
        "--plot {d}/a.jpg: the name must end in .png, .svg, .pdf",
    ),
    (
        "eval {run} --plot {d}/nowhere/a.png",
        "--plot {d}/nowhere/a.png: there is no folder {d}/nowhere; make it first",
    ),
    (
        "eval {run} --data {d}/nowhere.csv",
        "{d}/nowhere.csv: no such file; check the path",
    ),
    (
        "eval {run} --data {d}/bits-letter.csv",
        "{d}/bits-letter.csv:2: expected a string of 0 and 1, got '01012' (2 and 3 require "
        "task.shortest); correct the row, or use --skip-bad",
    ),
    (
        "[truncated] eval {run}",
        "{run}/checkpoints/step-00000004.safetensors is not a whole checkpoint (Error while "
        "deserializing header: incomplete metadata, file not fully covered); the checkpoint "
        "before it is of step 2: delete the file to go on from there",
    ),
    (
        "[altered] eval {run}",
        "{run}/checkpoints/step-00000004.safetensors is damaged or was altered: its SHA-256 "
        "does not fit its content; the checkpoint before it is of step 2: delete the file to "
        "go on from there",
    ),
    (
        "[forged] eval {run}",
        "{run}/checkpoints/step-00000004.safetensors is not a whole checkpoint (Error while "
        "deserializing header: header too large); the checkpoint before it is of step 2: "
        "delete the file to go on from there",
    ),
    (
        "[pickle] eval {run} --checkpoint last",
        "{run}/checkpoints/step-00000004.safetensors is not a whole checkpoint (Error while "
        "deserializing header: header too large); the checkpoint before it is of step 2: "
        "delete the file to go on from there",
    ),
    (
        "[no-checkpoint] eval {run}",
        "{run} has no checkpoint yet: resume it, or let it run longer",
    ),
    (
        "[best-gone] eval {run}",
        "{run} has no checkpoint of step 3; there are 2, 4",
    ),
    (
        "[best-cut] eval {run}",
        "{run}/checkpoints/best.json is damaged: delete it, or name a step",
    ),
    (
        "[best-damaged] eval {run}",
        "{run}/checkpoints/best.json is damaged: delete it, or name a step",
    ),
    (
        "[no-spec] eval {run}",
        "{run} is not a run: it has no spec.toml",
    ),
    (
        "[spec-not-toml] eval {run}",
        "{run}/spec.toml is not valid TOML: Expected ']' at the end of a table declaration (at "
        "line 18, column 7)",
    ),
    (
        "[spec-unknown] eval {run}",
        "{run}/spec.toml: unknown field model.wdith; did you mean model.width?",
    ),
    (
        "[spec-other] eval {run}",
        "{run}/checkpoints/step-00000004.safetensors was trained with another spec than "
        "{run}/spec.toml now holds (model.width: 16 -> 32): restore that file",
    ),
    (
        "[spec-task] eval {run}",
        "{run}/spec.toml: unknown task 'prefix-sum'; did you mean prefix-sums?; for a task of a "
        "file use --task FILE.py:CLASS",
    ),
    (
        "[spec-future] eval {run}",
        "{run}/spec.toml: format 99 is not the one this eqloop reads (1); use the version of "
        "eqloop that wrote it",
    ),
    (
        "[other-data] eval {run}",
        "{run}/checkpoints/step-00000004.safetensors was trained with another spec than "
        "{run}/spec.toml now holds (task.hard_length: 8 -> 9; task.length: 8 -> 9): restore "
        "that file",
    ),
    (
        "eval {run} --iterations 512 --budget 64",
        "--iterations has no effect with --budget: leave out one of them",
    ),
    (
        "solve {run}",
        "Missing argument 'PUZZLE'; see `eqloop solve --help`",
    ),
    (
        "solve {run} 0110100110 --budget 64 --iterations 8",
        "--iterations has no effect with --budget: leave out one of them",
    ),
    (
        "solve {run} 0120110",
        "puzzle '0120110': expected a string of 0 and 1, got '0120110' (2 and 3 require "
        "task.shortest)",
    ),
    (
        "solve {run} 01",
        "puzzle '01': 2 bits; at least 5 are needed",
    ),
    (
        "solve {run} ''",
        "puzzle '': 0 bits; at least 5 are needed",
    ),
    (
        "solve {d} 010101",
        "{d} is not a run: it has no spec.toml",
    ),
    (
        "solve {sudoku} 53..7",
        "a 9x9 sudoku has 81 characters, row by row, with . or 0 for blanks; this text has 5",
    ),
    (
        "solve {sudoku} "
        "xyzxyz...xyzxyz...xyzxyz...xyzxyz...xyzxyz...xyzxyz...xyzxyz...xyzxyz...xyzxyz...",
        "character 'y' in row 1, column 2: must be 1-9, or one of .0*_xX? for a blank",
    ),
    (
        "solve {sudoku} "
        "55..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79",
        "the givens contradict each other: row 1 has 5 twice; check the puzzle",
    ),
    (
        "solve {chess} e2e4",
        "'e2e4' is not a FEN with a side to move; give a FEN such as "
        "'r1bqkb1r/pppp1ppp/2n2n2/4p2Q/2B1P3/8/PPPP1PPP/RNB1K1NR w KQkq - 4 4'",
    ),
    (
        "solve {chess} '8/8/8/8/8/8/8/K7 w - - 0 1'",
        "FEN '8/8/8/8/8/8/8/K7 w - - 0 1' is illegal (no black king); give a FEN such as "
        "'r1bqkb1r/pppp1ppp/2n2n2/4p2Q/2B1P3/8/PPPP1PPP/RNB1K1NR w KQkq - 4 4'",
    ),
    (
        "solve {chess} 'rnb1kbnr/pppp1ppp/8/4p3/6Pq/5P2/PPPPP2P/RNBQKBNR w KQkq - 1 3'",
        "the game is over (mate): give a FEN with a move to find",
    ),
    (
        "solve {sudoku} "
        "531.7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79",
        "this sudoku has no solution; check its givens",
    ),
    (
        "data",
        "Missing command; see `eqloop data --help`",
    ),
    (
        "data mkae",
        "No such command 'mkae'. Did you mean 'make'?; see `eqloop data --help`",
    ),
    (
        "data make --task sudoku --rows 0 --out {d}/a.csv",
        "Invalid value for '--rows' / '-n': Input should be greater than or equal to 1; see "
        "`eqloop data make --help`",
    ),
    (
        "data make --task sudoku --rows 5",
        "Missing option '--out' / '-o'; see `eqloop data make --help`",
    ),
    (
        "data make --task sudoku --rows 5 --out {d}",
        "--out {d}: is a folder; name a file to write",
    ),
    (
        "data make --task sudoku --rows 5 --out {d}/empty.csv",
        "--out {d}/empty.csv: exists; add --force to replace it",
    ),
    (
        "data make --task sudoku --rows 5 --out {d}/nowhere/a.csv",
        "--out {d}/nowhere/a.csv: there is no folder {d}/nowhere; make it first",
    ),
    (
        "data make --task sudoku --rows 5 --out {d}/a.csv --set task.givens=5",
        "task.givens=5: the generator reaches 22 to 80 givens (puzzles with 17 to 21 "
        "exist, but are too rare)",
    ),
    (
        "data make --task sudoku --rows 5 --out {d}/a.csv --set model.width=5",
        "--set model.width=5: there is only data here; write task.FIELD=VALUE",
    ),
    (
        "data make --task sudoku --rows 5 --out {d}/a.csv --seed -1",
        "task.seed=-1: must be from 0 to 2^32 - 1",
    ),
    (
        "data make --task prefix-sums --rows 500 --out {d}/a.csv --set task.length=8",
        "there are only 256 strings of 8 bits, not 500; lower task.rows and task.test_rows, or "
        "use a greater length",
    ),
    (
        "data show --task prefix-sums {d}/nowhere.csv",
        "{d}/nowhere.csv: no such file; check the path",
    ),
    (
        "data show --task prefix-sums {d}/bits-length.csv --index 1",
        "--index 1: {d}/bits-length.csv has 1 good rows and 1 bad ones, which do not count; "
        "the first is 0",
    ),
    (
        "data show --task prefix-sums --index -1",
        "Invalid value for '--index' / '-i': Input should be greater than or equal to 0; see "
        "`eqloop data show --help`",
    ),
    (
        "data check {d}/nowhere.csv --task sudoku",
        "{d}/nowhere.csv: no such file; check the path",
    ),
    (
        "data check {d}/empty.csv",
        "Missing option '--task' / '-t'; see `eqloop data check --help`",
    ),
    (
        "data check {d}/empty.csv --task go",
        "unknown task 'go'; known: chess, group-words, maze, prefix-sums, sudoku; for a task of a "
        "file use --task FILE.py:CLASS",
    ),
    (
        "data check {d}/empty.csv --task prefix-sums",
        f"{{d}}/empty.csv: the file is empty; {BITS}",
    ),
    (
        "data check {d}/header.csv --task prefix-sums",
        f"{{d}}/header.csv: has a header but no rows; {BITS}",
    ),
    (
        "data check {d}/column.csv --task prefix-sums",
        f"{{d}}/column.csv:1: no column 'question' (found: 'puzzle, solution'); {BITS}",
    ),
    (
        "data check {d}/twice.csv --task prefix-sums",
        "{d}/twice.csv:1: column 'question' occurs twice; name each column once",
    ),
    (
        "data check {d}/latin.csv --task prefix-sums",
        f"{{d}}/latin.csv:1: not UTF-8 text; {BITS}",
    ),
    (
        "data check {d}/binary.csv --task chess",
        "{d}/binary.csv:1: no column 'FEN' (found: '\\x00\\x01\\x02\\x03\\x04\\x05\\x06\\x07\\x08')"
        f"; {CHESS}",
    ),
    (
        "data check {d}/cut.csv.gz --task sudoku",
        "{d}/cut.csv.gz: is truncated; fetch or copy it again",
    ),
    (
        "data check {d}/broken.csv.gz --task sudoku",
        "{d}/broken.csv.gz: cannot be decompressed (Unknown compression method); fetch or "
        "copy it again",
    ),
    (
        "data check {d}/cut.csv.zst --task sudoku",
        "{d}/cut.csv.zst: is truncated; fetch or copy it again",
    ),
    (
        "data check {d}/broken.csv.zst --task sudoku",
        "{d}/broken.csv.zst: cannot be decompressed (zstd decompressor error: Dictionary "
        "mismatch); fetch or copy it again",
    ),
    (
        "data check {d}/folder --task prefix-sums",
        "{d}/folder: is a folder, but a file is needed; name a file in it",
    ),
    (
        "data check {d}/folder --task sudoku",
        "{d}/folder/dataset.json: not JSON with a field seq_len; make the folder again",
    ),
    (
        "data check {d}/header.csv --task sudoku",
        f"{{d}}/header.csv: has a header but no rows; {SUDOKUS}",
    ),
    (
        "data check {d}/header.csv --task chess",
        f"{{d}}/header.csv:1: no column 'FEN' (found: 'question, answer'); {CHESS}",
    ),
]

BAD_ROWS: list[tuple[str, str, str]] = [
    (
        "bits-letter.csv",
        "prefix-sums",
        "2: expected a string of 0 and 1, got '01012' (2 and 3 require task.shortest)",
    ),
    (
        "bits-length.csv",
        "prefix-sums",
        "3: 8 bits, but the rows before have 6; --set task.length=8 reads such rows",
    ),
    (
        "bits-answer.csv",
        "prefix-sums",
        "2: the answer '011111' is not the prefix sums of the question",
    ),
    (
        "fields.csv",
        "prefix-sums",
        "2: 1 fields, but the header has 2",
    ),
    (
        "sudoku-short.csv",
        "sudoku",
        "2: the question has 80 characters, not 81",
    ),
    (
        "sudoku-letter.csv",
        "sudoku",
        "2: the question has a cell that is not ., 0 or 1-9",
    ),
    (
        "sudoku-clash.csv",
        "sudoku",
        "2: the answer contradicts the question",
    ),
    (
        "sudoku-contradiction.csv",
        "sudoku",
        "2: the answer contradicts the question",
    ),
    (
        "sudoku-rating.csv",
        "sudoku",
        "2: the rating 'hard' is not a number >= 0",
    ),
    (
        "chess-fen.csv",
        "chess",
        "2: FEN 'rnbqkbnr/ppp w KQkq - 0 1' cannot be read (expected 8 rows in "
        "position part of fen)",
    ),
    (
        "chess-kings.csv",
        "chess",
        "2: FEN '8/8/8/8/8/8/8/K7 w - - 0 1' is illegal (no black king)",
    ),
    (
        "chess-illegal.csv",
        "chess",
        "2: move 1 of Moves, 'e2e5', is illegal in "
        "'rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1'",
    ),
    (
        "chess-answer.csv",
        "chess",
        "2: move 2 of Moves, 'e7e2', is illegal in "
        "'rnbqkbnr/pppppppp/8/8/4P3/8/PPPP1PPP/RNBQKBNR b KQkq - 0 1'",
    ),
    (
        "chess-one.csv",
        "chess",
        "2: Moves 'e2e4' has 1 move(s), but the opponent's move and the answer are needed; FEN "
        "must be the position before the opponent's first move",
    ),
    (
        "chess-rating.csv",
        "chess",
        "2: Rating '?' is not a whole number from 0 to 9999",
    ),
]


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> dict[str, Path]:
    """Runs of the other tasks, each with one checkpoint of untrained weights."""
    from eqloop.run import create_run, resolve
    from eqloop.tasks import make_task
    from eqloop.train import init_state

    runs = {}
    for task in ("sudoku", "chess"):
        spec = resolve(task, "quick", ["model.width=16", "model.heads=2"], make_task=make_task)
        runs[task] = tmp_path_factory.mktemp("untrained") / task
        create_run(runs[task], spec, {}).save(init_state(spec), 1, None)
    return runs


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, content in FILES.items():
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_bytes(content)
    return tmp_path / "d"


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(("command", "line"), CASES, ids=[command for command, _ in CASES])
def test_one_line_and_exit_code_2(
    command, line, folder, tiny_run, untrained, tmp_path, monkeypatch, capsys
):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    if command.startswith("["):
        damage, command = command.removeprefix("[").split("] ")
        DAMAGES[damage](run)
    places = {"{d}": folder, "{run}": run}
    places |= {f"{{{task}}}": path for task, path in untrained.items()}
    for name, path in places.items():
        command, line = command.replace(name, str(path)), line.replace(name, str(path))
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    code = main(shlex.split(command))
    out, err = capsys.readouterr()
    assert (err, out, code) == (f"error: {line}\n", "", 2)
    assert contents(tmp_path) == before, "something was half done"


@pytest.mark.parametrize(("name", "task", "line"), BAD_ROWS, ids=[name for name, *_ in BAD_ROWS])
def test_bad_rows_are_named_and_counted(name, task, line, folder, capsys):
    """Each file has one bad row: `data check` names it and exits with 1; training refuses the
    file."""
    path = folder / name
    assert main(["data", "check", str(path), "--task", task]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[0] == f"{path}:{line}"
    good = int(name == "bits-length.csv")
    assert out.splitlines()[1] == f"{path}: {good} rows are good, 1 are bad"
    assert main(["train", "--task", task, "--data", str(path), "--out", str(folder / "run")]) == 2
    _, err = capsys.readouterr()
    advice = "correct the row, or use --skip-bad"
    assert err == f"error: {path}:{line}; {advice}\n"
    assert not (folder / "run").exists()


def test_the_table_is_long_enough():
    assert len(CASES) + len(BAD_ROWS) >= 30
    assert len({command for command, _ in CASES}) == len(CASES)


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch):
    """An error that the user cannot mend, such as a bug, keeps its traceback."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("eqloop.tasks.make_task", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        main(["data", "show", "--task", "sudoku"])
