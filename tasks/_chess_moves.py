"""From two marked cells back to chess: which move a prediction is, whether it is legal or mates,
and the board as text. All by python-chess, except the judging of many predictions at once."""

import chess
import numpy as np

from .._task import Split
from ._chess_rows import ENCODINGS, Encoding, cells_of, lines, quote, read_board


def position(text: str) -> tuple[chess.Board, list[chess.Move]]:
    """The position of a FEN or of one line of a position list (EPD: four fields of a FEN, then
    operations), and the best moves that its operation `bm` names.

    **Raises** `ValueError`, one line, where it is neither, or illegal.
    """
    found = [line.strip().strip("\"'") for line in text.splitlines() if line.split("#")[0].strip()]
    if len(found) > 1:
        raise ValueError(f"the text holds {len(found)} lines, not one position: choose one of them")
    fields = found[0].split() if found else []
    if len(fields) < 2:
        raise ValueError(f"{quote(text)} is not a FEN with a side to move")
    clocks = 4 + sum(field.lstrip("-").isdecimal() for field in fields[4:6])
    board = read_board(" ".join(fields[:clocks]))
    if not fields[clocks:]:
        return board, []
    try:
        _, operations = chess.Board.from_epd(" ".join(fields[:4] + fields[clocks:]))
    except ValueError as error:
        raise ValueError(f"{quote(found[0])} is not a FEN, nor a line of EPD ({error})") from None
    best = operations.get("bm")
    return board, list(best) if isinstance(best, list) else []


def marked(board: chess.Board, prediction: np.ndarray, encoding: Encoding) -> list[int]:
    """The squares that a prediction marks on the board, in the board's own coordinates."""
    cells = cells_of(board, encoding)
    flat = np.asarray(prediction).ravel() != 0
    return [square for square in chess.SQUARES if flat[cells[square]]]


def mates(board: chess.Board, move: chess.Move) -> bool:
    """Whether a legal move mates."""
    after = board.copy(stack=False)
    after.push(move)
    return after.is_checkmate()


def mating_moves(board: chess.Board) -> list[chess.Move]:
    return [move for move in board.legal_moves if mates(board, move)]


def move_between(board: chess.Board, squares: list[int]) -> chess.Move | None:
    """The legal move that joins two squares, whichever holds the mover's piece. Of promotions the
    one that mates, otherwise to a queen. None where there is none."""
    found = [
        move
        for move in board.legal_moves
        if sorted((move.from_square, move.to_square)) == sorted(squares)
    ]
    found.sort(key=lambda move: (not mates(board, move), -(move.promotion or 0)))
    return found[0] if found else None


def ends(board: chess.Board, squares: list[int]) -> tuple[int, int] | None:
    """Which of two squares a move leaves and which it reaches, also where no legal move joins
    them, as long as one of them holds a piece of the mover's and the other does not."""
    if len(squares) != 2:
        return None
    move = move_between(board, squares)
    if move is not None:  # castling written as king takes rook has two own pieces
        return move.from_square, move.to_square
    own = [square for square in squares if board.color_at(square) == board.turn]
    if len(own) != 1:
        return None
    return own[0], sum(squares) - own[0]


def name(board: chess.Board, move: chess.Move) -> str:
    """A move in both notations: `Qxf7# (h5f7)`."""
    return f"{board.san(move)} ({move.uci()})"


def check(
    board: chess.Board, prediction: np.ndarray, answer: str, encoding: Encoding
) -> tuple[bool | None, str]:
    """Whether a prediction is right, and one line that says why. `answer` is a move in UCI, or
    several of them that are equally good, or empty."""
    squares = marked(board, prediction, encoding)
    if len(squares) != 2:
        return False, f"{len(squares)} squares are marked, and a move has two"
    best = [chess.Move.from_uci(text) for text in answer.split()]
    move = move_between(board, squares)
    if move is None:
        names = " and ".join(map(chess.square_name, squares))
        return False, f"no legal move joins {names}{_instead(board, best)}"
    chosen = [known for known in best if {known.from_square, known.to_square} == set(squares)]
    known, same = (chosen or best or [None])[0], bool(chosen)
    if same and mates(board, move):
        return True, f"{name(board, move)} is the answer, and mates"
    if same and known is not None:
        return True, f"{name(board, known)} is the answer"
    if mates(board, move):
        own = f"; the puzzle's own answer is {name(board, known)}" if known else ""
        return True, f"{name(board, move)} mates{own}"
    if known is not None:
        return False, f"{name(board, move)} is legal, but the answer is {name(board, known)}"
    return None, f"{name(board, move)} is legal; whether it is best the rules alone cannot tell"


def _instead(board: chess.Board, best: list[chess.Move]) -> str:
    """The moves that mate at once, or else those that are known to be best."""
    mating = mating_moves(board)
    verb = "mates" if len(mating) == 1 else "mate" if mating else "is the answer"
    moves = ", ".join(name(board, move) for move in mating or best[:1])
    return f"; {moves} {verb}" if moves else ""


def judge(split: Split, predictions: np.ndarray, encoding: Encoding) -> dict[str, np.ndarray]:
    """`legal`, `mate` and `credit` of each prediction; see `Chess.judge`."""
    from . import _chess_kernels as kernels

    count = len(split)
    flat = np.asarray(predictions).reshape(count, 64) != 0
    # (-1, -1), which no move joins, unless exactly two squares are marked
    pairs = np.full((count, 2), -1, np.int64)
    two = flat.sum(axis=1) == 2
    pairs[two] = np.nonzero(flat[two])[1].reshape(-1, 2)
    fens = [puzzle.decode() for puzzle in split.puzzles]
    legal, mate, exists, known = np.zeros((4, count), np.bool_)
    code = ENCODINGS.index(encoding)
    kernels.judge_rows(lines(fens), pairs, code, legal, mate, exists, known)
    for index in np.flatnonzero(~known).tolist():
        board = chess.Board(fens[index])
        mating = mating_moves(board)
        exists[index] = bool(mating)
        squares = marked(board, predictions[index], encoding)
        move = move_between(board, squares) if len(squares) == 2 else None
        legal[index] = move is not None
        mate[index] = move in mating
    exact = (flat == (split.targets.reshape(count, 64) != 0)).all(axis=1)
    exact = np.where(split.columns["answered"], exact.astype(np.float32), np.float32(np.nan))
    mating_credit = mate.astype(np.float32)
    return {
        "legal": legal.astype(np.float32),
        "mate": np.where(exists, mating_credit, np.float32(np.nan)),
        "credit": np.where(exists, mating_credit, exact),
    }


def render(board: chess.Board, prediction: np.ndarray | None, encoding: Encoding) -> str:
    """The board as rich markup, from the mover's side, in true coordinates.

    White is in capitals, Black in small letters, as in a FEN. The predicted squares also carry
    signs, so that they can be told without colour: `(N)` from, `>.<` to, `?.?` where the squares
    marked are no move of a piece of the mover's.
    """
    squares = [] if prediction is None else marked(board, prediction, encoding)
    signs = dict.fromkeys(squares, "??")
    if found := ends(board, squares):
        signs = {found[0]: "()", found[1]: "><"}
    move = move_between(board, squares) if len(squares) == 2 else None

    white = board.turn == chess.WHITE
    rows = [f"[bold]{'White' if white else 'Black'} to move[/]", ""]
    files = range(8) if white else range(7, -1, -1)
    for rank in range(7, -1, -1) if white else range(8):
        cells = ""
        for file in files:
            square = chess.square(file, rank)
            piece = board.piece_at(square)
            letter = piece.symbol() if piece else "."
            style = "dim" if piece is None else "bold" if piece.color == board.turn else "default"
            if square in signs:
                left, right = signs[square]
                cells += f"[bold green]{left}{letter}{right}[/]"
            else:
                cells += f" [{style}]{letter}[/] "
        rows.append(f" {rank + 1} {cells}")
    rows.append("   " + "".join(f" {chess.FILE_NAMES[file]} " for file in files))
    if prediction is not None:
        rows.append("")
        if move is not None:
            rows.append(f"(x) from, >x< to: {name(board, move)}")
        else:
            names = " ".join(map(chess.square_name, squares)) or "none"
            rows.append(f"squares marked: {names}, not a legal move")
    return "\n".join(rows)
