"""Interpret two marked cells as a chess move: is it legal, does it mate; and the board as text.
All functions use python-chess, except `judge`, which is compiled."""

import chess
import numpy as np

from .._task import Split
from ._chess_rows import ENCODINGS, Encoding, cells_of, lines, quote, read_board


def position(text: str) -> tuple[chess.Board, list[chess.Move]]:
    """Parse a FEN, or one line of EPD (four fields of a FEN, then operations).

    **Returns** the board and the best moves that the operation `bm` names.

    **Raises** `ValueError`, one line, if the text is neither or the position is illegal.
    """
    lines = [line.strip().strip("\"'") for line in text.splitlines() if line.split("#")[0].strip()]
    if len(lines) > 1:
        raise ValueError(f"the text has {len(lines)} lines, not one position: choose one of them")
    fields = lines[0].split() if lines else []
    if len(fields) < 2:
        raise ValueError(f"{quote(text)} is not a FEN with a side to move")
    clocks = 4 + sum(field.lstrip("-").isdecimal() for field in fields[4:6])
    board = read_board(" ".join(fields[:clocks]))
    if not fields[clocks:]:
        return board, []
    try:
        _, operations = chess.Board.from_epd(" ".join(fields[:4] + fields[clocks:]))
    except ValueError as error:
        raise ValueError(
            f"{quote(lines[0])} is neither a FEN nor a line of EPD ({error})"
        ) from None
    best = operations.get("bm")
    return board, list(best) if isinstance(best, list) else []


def marked(board: chess.Board, prediction: np.ndarray, encoding: Encoding) -> list[int]:
    """The squares that a prediction marks, in coordinates of the board."""
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
    """The legal move between two squares, in either direction, or None. Among promotions it is one
    that mates, otherwise the promotion to a queen."""
    moves = [
        move
        for move in board.legal_moves
        if sorted((move.from_square, move.to_square)) == sorted(squares)
    ]
    moves.sort(key=lambda move: (not mates(board, move), -(move.promotion or 0)))
    return moves[0] if moves else None


def from_and_to(board: chess.Board, squares: list[int]) -> tuple[int, int] | None:
    """Order two squares as (from, to). If no legal move joins them, the square with a piece of the
    mover is the first; None if both or neither have one."""
    if len(squares) != 2:
        return None
    move = move_between(board, squares)
    if move is not None:  # castling as king takes rook has two pieces of the mover
        return move.from_square, move.to_square
    starts = [square for square in squares if board.color_at(square) == board.turn]
    if len(starts) != 1:
        return None
    return starts[0], sum(squares) - starts[0]


def name(board: chess.Board, move: chess.Move) -> str:
    """A move in SAN and UCI: `Qxf7# (h5f7)`."""
    return f"{board.san(move)} ({move.uci()})"


def check(
    board: chess.Board, prediction: np.ndarray, answer: str, encoding: Encoding
) -> tuple[bool | None, str]:
    """Whether a prediction is right (None if undecided), and the reason in one line. `answer` has
    no move, one, or several equally good ones, in UCI."""
    squares = marked(board, prediction, encoding)
    if len(squares) != 2:
        return False, f"{len(squares)} squares are marked, but a move has two"
    best = [chess.Move.from_uci(text) for text in answer.split()]
    move = move_between(board, squares)
    if move is None:
        names = " and ".join(map(chess.square_name, squares))
        return False, f"no legal move joins {names}{_instead(board, best)}"
    matching = [right for right in best if {right.from_square, right.to_square} == set(squares)]
    expected, is_answer = (matching or best or [None])[0], bool(matching)
    if is_answer and mates(board, move):
        return True, f"{name(board, move)} is the answer, and mates"
    if is_answer and expected is not None:
        return True, f"{name(board, expected)} is the answer"
    if mates(board, move):
        remark = f"; the answer of the puzzle is {name(board, expected)}" if expected else ""
        return True, f"{name(board, move)} mates{remark}"
    if expected is not None:
        return False, f"{name(board, move)} is legal, but the answer is {name(board, expected)}"
    return None, f"{name(board, move)} is legal; the rules alone do not decide whether it is best"


def _instead(board: chess.Board, best: list[chess.Move]) -> str:
    """Names the moves that mate at once, or else the best known move."""
    mating = mating_moves(board)
    verb = "mates" if len(mating) == 1 else "mate" if mating else "is the answer"
    moves = ", ".join(name(board, move) for move in mating or best[:1])
    return f"; {moves} {verb}" if moves else ""


def judge(split: Split, predictions: np.ndarray, encoding: Encoding) -> dict[str, np.ndarray]:
    """`legal`, `mate` and `credit` of each prediction; see `Chess.judge`."""
    from . import _chess_kernels as kernels

    count = len(split)
    flat = np.asarray(predictions).reshape(count, 64) != 0
    # (-1, -1) is no move: the value for rows without exactly two marked squares
    pairs = np.full((count, 2), -1, np.int64)
    two = flat.sum(axis=1) == 2
    pairs[two] = np.nonzero(flat[two])[1].reshape(-1, 2)
    fens = [puzzle.decode() for puzzle in split.puzzles]
    legal, mate, exists, is_judged = np.zeros((4, count), np.bool_)
    code = ENCODINGS.index(encoding)
    kernels.judge_rows(lines(fens), pairs, code, legal, mate, exists, is_judged)
    for index in np.flatnonzero(~is_judged).tolist():
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

    Letters are those of a FEN: upper case for White, lower case for Black. Signs mark the predicted
    squares without colour: `(N)` from, `>.<` to, `?.?` if the marked squares are no move of a piece
    of the mover.
    """
    squares = [] if prediction is None else marked(board, prediction, encoding)
    signs = dict.fromkeys(squares, "??")
    if ordered := from_and_to(board, squares):
        signs = {ordered[0]: "()", ordered[1]: "><"}
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
