"""Check, encode and write the rows of a Lichess puzzle file.

A row's FEN is the position *before* the opponent's move, `Moves[0]`; the puzzle is the board
after it and the answer is `Moves[1]`. The compiled encoder processes the common rows; python-chess
processes the rest and explains the faults of a row.
"""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import chess
import numpy as np

from .._task import Bad, Layout, Progress, Record, Split, read_records, write_text

Encoding = Literal["paper", "easy-to-hard", "easy-to-hard-1"]
"""`"easy-to-hard-1"` is `"easy-to-hard"` of version 1 of the task; only runs of it use this."""
ENCODINGS: tuple[Encoding, ...] = ("paper", "easy-to-hard", "easy-to-hard-1")
BEFORE = "FEN must be the position before the opponent's first move"

CHUNK = 16384
"""Number of rows that are encoded, and held in memory besides the result, at a time."""
HEADER = "PuzzleId,FEN,Moves,Rating,RatingDeviation,Popularity,NbPlays,Themes,GameUrl,OpeningTags"
_LONGEST = {"PuzzleId": 32, "FEN": 120, "Moves": 1024, "Themes": 512}
"""Maximum length of a field in bytes, since a column is as wide as its longest entry."""
_PUZZLE_BYTES = 96


_FEN = r"(?:[1-8pnbrqkPNBRQK]+/){7}[1-8pnbrqkPNBRQK]+"
_MOVES = r"\s[wb]\s\S+\s\S+"


def _plain(line: str) -> Record | None:
    """Parse a row of a Lichess file without a header; such files were published until 2022."""
    fields = line.rstrip("\n").split(",")
    if len(fields) < 4 or not re.match(_FEN, fields[1]):
        return None
    return dict(zip(HEADER.split(","), fields, strict=False))


LAYOUT = Layout(
    required=("FEN", "Moves", "Rating"),
    expected=(
        "expected a file of Lichess puzzles with the columns FEN, Moves and Rating (Moves in UCI), "
        f"and optionally PuzzleId and Themes; {BEFORE}, which is the first of Moves"
    ),
    names={"PuzzleId": ("puzzle_id", "id"), "Themes": ()},
    plain=_plain,
    row="row of a Lichess file",
    others=(
        (r"\[\w+ \"", "a PGN file: games, not puzzles with an opponent's move before them"),
        (
            rf"\s*{_FEN}{_MOVES}\s+(bm|dm|am|id|ce|acd)\b",
            "an EPD file: positions without the opponent's move before them (solve them one by one "
            "with `eqloop solve`)",
        ),
        (
            rf"\s*{_FEN}(\s+[wb]\b|\s*$)",
            "a list of positions, without moves (solve them one by one with `eqloop solve`)",
        ),
    ),
)


class Row(NamedTuple):
    """The line number and the used fields of a row, as in the file."""

    line: int
    id: str
    fen: str
    moves: str
    rating: str
    themes: str


def cells_of(board: chess.Board, encoding: Encoding) -> np.ndarray:
    """The map from squares to cells, `cells[square] = row * 8 + column`, `(64,)`.

    - `"paper"`: the mover is at the bottom (row 0 is rank 8 for White; for Black the board is
      rotated by 180 degrees); then files are mirrored if needed, so that the king of the mover is
      in columns 4..7.
    - `"easy-to-hard"`: row 0 is rank 1 and column 0 is the a-file, for both colours.
    - `"easy-to-hard-1"`: the same for White; for Black the ranks are mirrored.
    """
    rank, file = np.divmod(np.arange(64), 8)
    black = board.turn == chess.BLACK
    if encoding != "paper":
        mirrored = black and encoding == "easy-to-hard-1"
        return (7 - rank if mirrored else rank) * 8 + file
    row, column = (rank, 7 - file) if black else (7 - rank, file)
    king = board.king(board.turn)
    assert king is not None
    if column[king] < 4:
        column = 7 - column
    return row * 8 + column


def tokens_of(board: chess.Board, encoding: Encoding) -> np.ndarray:
    """Tokens, `(8, 8)`: 0 empty, 1..6 for the mover and 7..12 for the opponent, in the order
    P N B R Q K (`"paper"`) or K Q B N R P (the others)."""
    order = "pnbrqk" if encoding == "paper" else "kqbnrp"
    cells = cells_of(board, encoding)
    tokens = np.zeros(64, np.uint8)
    for square, piece in board.piece_map().items():
        token = 1 + order.index(chess.piece_symbol(piece.piece_type))
        tokens[cells[square]] = token + (0 if piece.color == board.turn else 6)
    return tokens.reshape(8, 8)


def quote(text: str, limit: int = 80) -> str:
    """Quote `text`, truncated to `limit` characters, for a message."""
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")


def read_board(fen: str) -> chess.Board:
    """Parse a FEN. **Raises** `ValueError`, one line, if it is unreadable or illegal."""
    try:
        board = chess.Board(fen)
    except ValueError as error:
        # The message of python-chess ends with a colon and the FEN.
        why = " ".join(str(error).split(": '")[0].split(': "')[0].split())
        raise ValueError(f"FEN {quote(fen)} cannot be read ({why})") from None
    if board.promoted & board.kings:
        # python-chess reads "k~" and calls the board valid, but its `king` then returns None.
        raise ValueError(f"FEN {quote(fen)} is illegal (a promoted king)")
    if board.status() & chess.STATUS_BAD_CASTLING_RIGHTS:
        # Board editors write "KQkq" by default; castling rights are no input of the model.
        board.castling_rights = board.clean_castling_rights()
    status = board.status()
    if status != chess.STATUS_VALID:
        names = [flag.name or "" for flag in chess.Status if flag and flag in status]
        why = ", ".join(name.lower().replace("_", " ") for name in names)
        raise ValueError(f"FEN {quote(fen)} is illegal ({why})")
    return board


def replay(row: Row) -> tuple[chess.Board, chess.Move, chess.Move]:
    """Replay a row with python-chess.

    **Returns** the board of the puzzle, the opponent's move and the answer.

    **Raises** `ValueError`, one line, if the row is bad.
    """
    board = read_board(row.fen)
    moves = row.moves.split()
    if len(moves) < 2:
        raise ValueError(
            f"Moves {quote(row.moves)} has {len(moves)} move(s), but the opponent's move and "
            f"the answer are needed; {BEFORE}"
        )
    played: list[chess.Move] = []
    puzzle = board
    for index, text in enumerate(moves):
        if index == 1:
            puzzle = board.copy(stack=False)
        try:
            move = board.parse_uci(text)
        except chess.InvalidMoveError:
            move = None
        except chess.IllegalMoveError:
            raise ValueError(
                f"move {index + 1} of Moves, {quote(text)}, is illegal in {board.fen()!r}"
            ) from None
        if not move:  # None, or the null move, which python-chess accepts
            fault = f"move {index + 1} of Moves, {quote(text)}, is not a UCI move"
            raise ValueError(fault + _other_notation(board, text))
        board.push(move)
        played.append(move)
        if index == 1 and "mateIn1" in row.themes.split() and not board.is_checkmate():
            raise ValueError(f"the themes say mateIn1, but the answer {text!r} does not mate")
    if len(moves) % 2:
        raise ValueError(
            f"Moves {quote(row.moves)} has {len(moves)} moves, an odd number, but the opponent "
            f"moves first and the solver last; {BEFORE}"
        )
    if len(puzzle.fen()) > _PUZZLE_BYTES:
        raise ValueError(f"FEN {quote(row.fen)} has clocks that are too large")
    return puzzle, played[0], played[1]


def _other_notation(board: chess.Board, text: str) -> str:
    if text.startswith(("[", "'", '"')):
        return "; write the moves without brackets and quotation marks, with spaces between"
    try:
        return f" but SAN; write UCI, as {board.parse_san(text).uci()}"
    except ValueError:
        return ""


def encode(
    rows: Sequence[Row], encoding: Encoding, on_bad: Callable[[Bad], None], source: str
) -> Split:
    """Encode the good rows as a split, in their order; `on_bad` gets the bad ones."""
    from . import _chess_kernels as kernels  # imported here because Numba compiles on import

    if not _all_valid(rows):
        usable = []
        for row in rows:
            if why := _faults(row):
                on_bad(Bad(f"{source}:{row.line}", why))
            else:
                usable.append(row)
        rows = usable
    count = len(rows)
    squares = np.zeros((count, 2), np.int64)
    tokens = np.zeros((count, 64), np.uint8)
    answers = np.zeros((count, 5), np.uint8)
    puzzles = np.zeros((count, _PUZZLE_BYTES), np.uint8)
    accepted = np.zeros(count, np.bool_)
    is_mate_in_1 = np.array(["mateIn1" in row.themes.split() for row in rows], np.bool_)
    kernels.encode_rows(
        lines([row.fen for row in rows]),
        lines([row.moves for row in rows]),
        is_mate_in_1,
        ENCODINGS.index(encoding),
        tokens,
        squares,
        answers,
        puzzles,
        accepted,
    )
    puzzle, answer = _strings(puzzles), _strings(answers)
    opponents = [row.moves[: row.moves.find(" ")] for row in rows]
    for index in np.flatnonzero(~accepted).tolist():
        try:
            board, opponent, move = replay(rows[index])
        except ValueError as error:
            on_bad(Bad(f"{source}:{rows[index].line}", str(error)))
            continue
        cells = cells_of(board, encoding)
        accepted[index] = True
        tokens[index] = tokens_of(board, encoding).ravel()
        squares[index] = cells[move.from_square], cells[move.to_square]
        answer[index] = move.uci().encode()
        puzzle[index] = board.fen().encode()
        opponents[index] = opponent.uci()
    targets = np.zeros((count, 64), np.uint8)
    np.put_along_axis(targets, squares, 1, axis=1)
    return Split(
        inputs=tokens.reshape(count, 8, 8),
        targets=targets.reshape(count, 8, 8),
        difficulty=np.array([int(row.rating) for row in rows], np.float32),
        puzzles=puzzle,
        columns={
            "answer": answer,
            "answered": np.ones(count, np.bool_),
            "themes": _bytes(row.themes for row in rows),
            "ids": _bytes(row.id for row in rows),
            "before": _bytes(row.fen for row in rows),
            "opponent": _bytes(opponents),
        },
    ).take(slice(None) if accepted.all() else accepted)


def hashes(tokens: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each position as the model sees it, `(examples,)`; duplicates are equal."""
    from . import _chess_kernels as kernels

    out = np.empty(len(tokens), np.uint64)
    kernels.hash_rows(np.ascontiguousarray(tokens).reshape(len(tokens), 64), out)
    return out


def stream(
    path: Path,
    encoding: Encoding,
    *,
    on_bad: Callable[[Bad], None],
    progress: Progress | None = None,
) -> Iterator[Split]:
    """Yield the good rows of a Lichess file in splits of at most `CHUNK` rows, so that the 4.9
    million rows of the database need the memory of one chunk."""
    rows: list[Row] = []
    for line, fields in read_records(path, LAYOUT, on_bad=on_bad, progress=progress):
        get = fields.get
        rows.append(
            Row(
                line,
                get("PuzzleId", ""),
                fields["FEN"],
                fields["Moves"],
                _integer_rating(fields["Rating"]),
                get("Themes", ""),
            )
        )
        if len(rows) == CHUNK:
            yield encode(rows, encoding, on_bad, str(path))
            rows = []
    if rows:
        yield encode(rows, encoding, on_bad, str(path))


def _integer_rating(rating: str) -> str:
    """Remove the fraction of a whole rating such as 1235.0, as pandas writes it."""
    integer, point, fraction = rating.strip().partition(".")
    return integer if point and not fraction.strip("0") else rating.strip()


def _all_valid(rows: Sequence[Row]) -> bool:
    """Whether `_faults` finds nothing in any row; faster than calling it for each row."""
    if not rows:
        return True
    _, ids, fens, moves, ratings, themes = zip(*rows, strict=True)
    for texts, longest in zip((ids, fens, moves, themes), _LONGEST.values(), strict=True):
        joined = "".join(texts)
        if "\0" in joined or not joined.isascii() or max(map(len, texts)) > longest:
            return False
    digits = "".join(ratings)
    sizes = set(map(len, ratings))
    return digits.isascii() and digits.isdigit() and min(sizes) > 0 and max(sizes) <= 4


def _faults(row: Row) -> str:
    """The fault of the fields of a row, or ""."""
    if not (row.rating.isascii() and row.rating.isdigit() and len(row.rating) <= 4):
        return f"Rating {quote(row.rating)} is not a whole number from 0 to 9999"
    for name, text in zip(_LONGEST, (row.id, row.fen, row.moves, row.themes), strict=True):
        if len(text.encode()) > _LONGEST[name]:
            return f"{name} {quote(text, 40)} is longer than {_LONGEST[name]} bytes"
        if "\0" in text:  # a column of bytes could not hold it
            return f"{name} {quote(text, 40)} has a zero byte"
    return ""


def write(split: Split, path: Path) -> None:
    """Write a Lichess file. Unknown columns are empty; Moves has the opponent's move and the
    answer."""
    column = {
        name: [item.decode() for item in split.columns[name]]
        for name in ("ids", "before", "opponent", "answer", "themes")
    }
    with write_text(path) as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(HEADER.split(","))
        for index in range(len(split)):
            moves = f"{column['opponent'][index]} {column['answer'][index]}"
            rating = round(float(split.difficulty[index]))
            start = [column["ids"][index], column["before"][index], moves, rating]
            writer.writerow([*start, "", "", "", column["themes"][index], "", ""])


def join(chunks: list[Split]) -> Split:
    """Concatenate the chunks to one split. The list is emptied, so that memory holds one copy."""
    if not chunks:
        return encode([], "paper", lambda bad: None, "")
    parts = [
        {"inputs": c.inputs, "targets": c.targets, "difficulty": c.difficulty, "puzzles": c.puzzles}
        | {f"columns/{name}": column for name, column in c.columns.items()}
        for c in chunks
    ]
    chunks.clear()
    arrays = {name: np.concatenate([part.pop(name) for part in parts]) for name in list(parts[0])}
    columns = {
        name.removeprefix("columns/"): arrays.pop(name) for name in list(arrays) if "/" in name
    }
    return Split(**arrays, columns=columns)


def lines(texts: Sequence[str]) -> np.ndarray:
    """Join texts with line ends, as bytes for the compiled functions. A text with a line end
    becomes empty, which these functions leave to python-chess."""
    joined = "\n".join(texts)
    if joined.count("\n") != max(len(texts) - 1, 0):
        joined = "\n".join("" if "\n" in text else text for text in texts)
    return np.frombuffer(joined.encode(), np.uint8)


def _strings(characters: np.ndarray) -> np.ndarray:
    return characters.view(f"S{characters.shape[1]}").reshape(len(characters))


def _bytes(texts: Iterator[str] | Sequence[str]) -> np.ndarray:
    # The dtype must be bytes even if the list or all texts are empty.
    return np.array([text.encode() for text in texts], np.bytes_)
