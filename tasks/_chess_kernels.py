"""Compiled chess: move rules, FEN, the row encoder, the judge and the mate-in-1 generator.

python-chess defines the rules; the functions here decide the common cases about fifty times as
fast. `encode_rows` therefore answers "accepted" or "unsure": rows of the second kind (a FEN with an
en passant square, two checkers, anything malformed) go to python-chess, which accepts them or
explains their fault. So the functions must be *sound*, not complete; tests compare them with
python-chess on real and random positions.

All compiled code is in this file on purpose: the disk cache of Numba checks only the modification
time of the file of the called function, and would use stale code of functions from other files.

A board is 64 codes, a1 = 0 to h8 = 63: 0 empty, 1..6 white P N B R Q K, 7..12 black. A state is
seven integers: side to move (0 white, 1 black), castling rights (1 K, 2 Q, 4 k, 8 q), en passant
square or -1, half-move clock, move number, square of the white king, of the black king. A move
is `from | to << 6 | promotion << 12`, with the promotion piece 2..5 (N B R Q) or 0.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

TURN, CASTLING, PASSANT, HALF, FULL, KINGS = range(6)
STATE = 7
MAX_MOVES = 320  # no known position has more than 218 legal moves; this bounds pseudo-legal moves
FEN_BYTES = 96
PAPER, EASY_TO_HARD, MIRRORED = 0, 1, 2


def _compile(function: Callable[..., Any]) -> Any:
    """`numba.njit`, with the compiled code cached on disk if a cache folder can be written."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no writable cache folder: compile in every process
        return numba.njit(nogil=True)(function)


def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Knight and king targets `(64, 8)` and the squares along eight rays `(64, 8, 7)`, -1 past
    the edge. The first four rays are those of a rook, the others those of a bishop."""
    lines = [(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)]
    jumps = [(1, 2), (2, 1), (2, -1), (1, -2), (-1, -2), (-2, -1), (-2, 1), (-1, 2)]
    knight = np.full((64, 8), -1, np.int8)
    king = np.full((64, 8), -1, np.int8)
    rays = np.full((64, 8, 7), -1, np.int8)
    for square in range(64):
        rank, file = divmod(square, 8)
        for i, (r, f) in enumerate(jumps):
            if 0 <= rank + r < 8 and 0 <= file + f < 8:
                knight[square, i] = (rank + r) * 8 + file + f
        for i, (r, f) in enumerate(lines):
            for step in range(1, 8):
                if 0 <= rank + step * r < 8 and 0 <= file + step * f < 8:
                    rays[square, i, step - 1] = (rank + step * r) * 8 + file + step * f
        king[square] = rays[square, :, 0]
    return knight, king, rays


KNIGHT, KING, RAYS = _tables()
LETTERS = np.frombuffer(b".PNBRQKpnbrqk", np.uint8)
ORDER = np.array([5, 3, 2, 4, 1, 0], np.int64)  # indices of P N B R Q K in K Q B N R P
CORNERS = np.array([7, 0, 63, 56], np.int64)  # squares of the rooks for the rights K Q k q
_START = b"rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1"
START = np.frombuffer(_START, np.uint8)


# --- rules


@_compile
def attackers(board, square, by):
    """The number of pieces of side `by` that attack `square`."""
    base = 6 * by
    count = 0
    for i in range(8):
        target = KNIGHT[square, i]
        if target >= 0 and board[target] == base + 2:
            count += 1
        target = KING[square, i]
        if target >= 0 and board[target] == base + 6:
            count += 1
        slider = base + 4 if i < 4 else base + 3
        for j in range(7):
            target = RAYS[square, i, j]
            if target < 0:
                break
            code = board[target]
            if code:
                if code == slider or code == base + 5:
                    count += 1
                break
    rank = (square >> 3) + (1 if by else -1)
    if 0 <= rank < 8:
        file = square & 7
        if file > 0 and board[rank * 8 + file - 1] == base + 1:
            count += 1
        if file < 7 and board[rank * 8 + file + 1] == base + 1:
            count += 1
    return count


@_compile
def attacked(board, square, by):
    """Whether a piece of side `by` attacks `square`; as `attackers(...) > 0`, but stops early."""
    base = 6 * by
    for i in range(8):
        target = KNIGHT[square, i]
        if target >= 0 and board[target] == base + 2:
            return True
        slider = base + 4 if i < 4 else base + 3
        for j in range(7):
            target = RAYS[square, i, j]
            if target < 0:
                break
            code = board[target]
            if code:
                if code == slider or code == base + 5 or (j == 0 and code == base + 6):
                    return True
                break
    rank = (square >> 3) + (1 if by else -1)
    if 0 <= rank < 8:
        file = square & 7
        if file > 0 and board[rank * 8 + file - 1] == base + 1:
            return True
        if file < 7 and board[rank * 8 + file + 1] == base + 1:
            return True
    return False


@_compile
def in_check(board, state):
    return attacked(board, state[KINGS + state[TURN]], 1 - state[TURN])


@_compile
def _add_pawn(moves, count, start, end):
    if end >= 56 or end < 8:
        for piece in range(2, 6):
            moves[count] = start | end << 6 | piece << 12
            count += 1
    else:
        moves[count] = start | end << 6
        count += 1
    return count


@_compile
def pseudo_moves(board, state, moves):
    """Write the pseudo-legal moves, which may leave the own king attacked; castling is legal."""
    turn = state[TURN]
    base = 6 * turn
    count = 0
    for start in range(64):
        piece = board[start] - base
        if piece < 1 or piece > 6:
            continue
        if piece == 1:
            step = -8 if turn else 8
            end = start + step
            if board[end] == 0:
                count = _add_pawn(moves, count, start, end)
                if (start >> 3) == (6 if turn else 1) and board[end + step] == 0:
                    moves[count] = start | (end + step) << 6
                    count += 1
            for side in (-1, 1):
                if not 0 <= (start & 7) + side < 8:
                    continue
                code = board[end + side]
                if 1 <= code - (6 - base) <= 6:
                    count = _add_pawn(moves, count, start, end + side)
                elif end + side == state[PASSANT]:
                    moves[count] = start | (end + side) << 6
                    count += 1
        elif piece == 2 or piece == 6:
            for i in range(8):
                end = KNIGHT[start, i] if piece == 2 else KING[start, i]
                if end >= 0 and not 1 <= board[end] - base <= 6:
                    moves[count] = start | np.int64(end) << 6
                    count += 1
        else:
            for i in range(4 if piece == 3 else 0, 4 if piece == 4 else 8):
                for j in range(7):
                    end = RAYS[start, i, j]
                    if end < 0 or 1 <= board[end] - base <= 6:
                        break
                    moves[count] = start | np.int64(end) << 6
                    count += 1
                    if board[end]:
                        break
    rights = state[CASTLING] >> 2 * turn
    home = 60 if turn else 4
    if rights & 3 and not attacked(board, home, 1 - turn):
        if (
            rights & 1
            and board[home + 1] == 0
            and board[home + 2] == 0
            and not attacked(board, home + 1, 1 - turn)
        ):
            moves[count] = home | (home + 2) << 6
            count += 1
        if (
            rights & 2
            and board[home - 1] == 0
            and board[home - 2] == 0
            and board[home - 3] == 0
            and not attacked(board, home - 1, 1 - turn)
        ):
            moves[count] = home | (home - 2) << 6
            count += 1
    return count


@_compile
def make(board, state, move):
    """Play a pseudo-legal move in place; returns False if it leaves the own king attacked."""
    start, end, promotion = move & 63, move >> 6 & 63, move >> 12
    turn = state[TURN]
    base = 6 * turn
    piece = board[start] - base
    capture = board[end] != 0
    board[start] = 0
    board[end] = base + (promotion if promotion else piece)
    passant = -1
    if piece == 1:
        if end == state[PASSANT]:
            board[end + (8 if turn else -8)] = 0
        elif abs(end - start) == 16:
            passant = (start + end) // 2
    elif piece == 6:
        state[KINGS + turn] = end
        if abs(end - start) == 2:
            rook, beside = (end + 1, end - 1) if end > start else (end - 2, end + 1)
            board[beside] = board[rook]
            board[rook] = 0
    if state[CASTLING]:
        for i in range(4):
            if start == CORNERS[i] or end == CORNERS[i] or start == (60 if i > 1 else 4):
                state[CASTLING] &= ~(1 << i)
    state[TURN] = 1 - turn
    state[PASSANT] = passant
    state[HALF] = 0 if piece == 1 or capture else state[HALF] + 1
    state[FULL] += turn
    return not attacked(board, state[KINGS + turn], 1 - turn)


@_compile
def copy(board, state, child, after):
    # Loops compile much faster than slices.
    for i in range(64):
        child[i] = board[i]
    for i in range(STATE):
        after[i] = state[i]


@_compile
def legal_moves(board, state, moves):
    """Write the legal moves and return their number."""
    total = pseudo_moves(board, state, moves)
    child, after = np.empty(64, np.uint8), np.empty(STATE, np.int64)
    count = 0
    for i in range(total):
        copy(board, state, child, after)
        if make(child, after, moves[i]):
            moves[count] = moves[i]
            count += 1
    return count


@_compile
def is_mate(board, state):
    """Whether the side to move is in check and has no legal move."""
    if not in_check(board, state):
        return False
    moves = np.empty(MAX_MOVES, np.int64)
    child, after = np.empty(64, np.uint8), np.empty(STATE, np.int64)
    for i in range(pseudo_moves(board, state, moves)):
        copy(board, state, child, after)
        if make(child, after, moves[i]):
            return False
    return True


# --- FEN


@_compile
def read_fen(text, board, state):
    """Read a FEN of the usual form (six fields, no en passant square). True only if python-chess
    calls it valid; False means "unsure", and then the contents of `board` and `state` are
    undefined."""
    for square in range(64):
        board[square] = 0
    size = text.size
    at, rank, file = 0, 7, 0
    digit = False
    while at < size and text[at] != 32:
        c = text[at]
        at += 1
        if c == 47:  # "/"
            if file != 8 or rank == 0:
                return False
            rank, file, digit = rank - 1, 0, False
        elif 49 <= c <= 56:
            if digit:
                return False
            file, digit = file + c - 48, True
            if file > 8:
                return False
        else:
            code = 0
            for i in range(1, 13):
                if LETTERS[i] == c:
                    code = i
            if code == 0 or file > 7:
                return False
            board[rank * 8 + file] = code
            file, digit = file + 1, False
    if rank != 0 or file != 8 or at + 10 > size:  # " w - - 0 1" is the shortest remainder
        return False
    if text[at + 1] == 119:
        state[TURN] = 0
    elif text[at + 1] == 98:
        state[TURN] = 1
    else:
        return False
    if text[at + 2] != 32:
        return False
    at += 3
    rights, last = 0, -1
    if text[at] == 45:  # "-"
        at += 1
    else:
        while at < size and text[at] != 32:
            c = text[at]
            i = 0 if c == 75 else 1 if c == 81 else 2 if c == 107 else 3 if c == 113 else -1
            if i <= last:
                return False
            side = i >> 1
            if board[CORNERS[i]] != 6 * side + 4 or board[60 if side else 4] != 6 * side + 6:
                return False
            rights, last = rights | 1 << i, i
            at += 1
        if last < 0:  # an empty field
            return False
    state[CASTLING] = rights
    if at + 6 > size or text[at] != 32 or text[at + 1] != 45 or text[at + 2] != 32:
        return False
    state[PASSANT] = -1
    at += 3
    for field in (HALF, FULL):
        start, value = at, 0
        while at < size and 48 <= text[at] <= 57:
            value = value * 10 + text[at] - 48
            at += 1
        if at == start or at - start > 5:
            return False
        state[field] = value
        if field == HALF:
            if at >= size or text[at] != 32:
                return False
            at += 1
    return at == size and state[FULL] >= 1 and plausible(board, state)


@_compile
def plausible(board, state):
    """Whether each side has one king (whose square is stored) and not too many pieces, pawns are
    between the back ranks, the side that just moved is not in check, and there is at most one
    checker."""
    counts = np.zeros(13, np.int64)
    for square in range(64):
        counts[board[square]] += 1
        if board[square] == 6 or board[square] == 12:
            state[KINGS + board[square] // 7] = square
    for base in (0, 6):
        total = 0
        for code in range(base + 1, base + 7):
            total += counts[code]
        if counts[base + 6] != 1 or counts[base + 1] > 8 or total > 16:
            return False
    for file in range(8):
        for square in (file, 56 + file):
            if board[square] == 1 or board[square] == 7:
                return False
    turn = state[TURN]
    return (
        not attacked(board, state[KINGS + 1 - turn], turn)
        and attackers(board, state[KINGS + turn], 1 - turn) <= 1
    )


@_compile
def _write_number(out, at, value):
    width, power = 1, 10
    while value >= power:
        width, power = width + 1, power * 10
    for i in range(width - 1, -1, -1):
        out[at + i] = 48 + value % 10
        value //= 10
    return at + width


@_compile
def write_fen(board, state, out):
    """Write the FEN as python-chess does (the en passant square only if a capture there is legal)
    and return its length."""
    at = 0
    for rank in range(7, -1, -1):
        empty = 0
        for file in range(8):
            code = board[rank * 8 + file]
            if code == 0:
                empty += 1
                continue
            if empty:
                out[at] = 48 + empty
                at += 1
                empty = 0
            out[at] = LETTERS[code]
            at += 1
        if empty:
            out[at] = 48 + empty
            at += 1
        if rank:
            out[at] = 47
            at += 1
    out[at] = 32
    out[at + 1] = 98 if state[TURN] else 119
    out[at + 2] = 32
    at += 3
    if state[CASTLING] == 0:
        out[at] = 45
        at += 1
    for i in range(4):
        if state[CASTLING] >> i & 1:
            out[at] = (75, 81, 107, 113)[i]
            at += 1
    out[at] = 32
    at += 1
    passant = state[PASSANT]
    if passant >= 0:
        capture = False
        child, after = np.empty(64, np.uint8), np.empty(STATE, np.int64)
        for side in (-1, 1):
            start = passant + (8 if state[TURN] else -8) + side
            if 0 <= (passant & 7) + side < 8 and board[start] == 6 * state[TURN] + 1:
                copy(board, state, child, after)
                capture = capture or make(child, after, start | passant << 6)
        if not capture:
            passant = -1
    if passant < 0:
        out[at] = 45
        at += 1
    else:
        out[at] = 97 + (passant & 7)
        out[at + 1] = 49 + (passant >> 3)
        at += 2
    out[at] = 32
    at = _write_number(out, at + 1, state[HALF])
    out[at] = 32
    return _write_number(out, at + 1, state[FULL])


@_compile
def read_move(text, at, end):
    """Parse the UCI move `text[at:end]`; -1 if malformed. Legality is not checked."""
    if end - at != 4 and end - at != 5:
        return -1
    for i in range(4):
        low = 97 if i % 2 == 0 else 49
        if not low <= text[at + i] < low + 8:
            return -1
    start = np.int64(text[at]) - 97 + (np.int64(text[at + 1]) - 49) * 8
    finish = np.int64(text[at + 2]) - 97 + (np.int64(text[at + 3]) - 49) * 8
    promotion = 0
    if end - at == 5:
        c = text[at + 4]
        promotion = 2 if c == 110 else 3 if c == 98 else 4 if c == 114 else 5 if c == 113 else 0
        if promotion == 0:
            return -1
    return start | finish << 6 | promotion << 12


@_compile
def write_move(move, out):
    """Write a move in UCI and return its length."""
    for i in range(2):
        square = move >> 6 * i & 63
        out[2 * i] = 97 + (square & 7)
        out[2 * i + 1] = 49 + (square >> 3)
    if move >> 12:
        out[4] = LETTERS[6 + (move >> 12)]
        return 5
    return 4


# --- the model's frame


@_compile
def frame(state, encoding, cells):
    """Write the cell (row * 8 + column) at which the model sees each square to `cells[square]`."""
    turn = state[TURN]
    king = state[KINGS + turn]
    flip = False
    if encoding == PAPER:
        # the column of the king after the mover is put at the bottom
        flip = ((7 - (king & 7)) if turn else (king & 7)) < 4
    for square in range(64):
        row, column = square >> 3, square & 7
        if encoding == PAPER:
            row, column = (row, 7 - column) if turn else (7 - row, column)
            if flip:
                column = 7 - column
        elif turn and encoding == MIRRORED:
            row = 7 - row
        cells[square] = row * 8 + column


@_compile
def tokenise(board, turn, encoding, cells, tokens):
    """Write the 64 tokens: 0 empty, 1..6 pieces of the mover, 7..12 of the opponent."""
    for square in range(64):
        code = np.int64(board[square])
        if code:
            code = (code + 5) % 12 if turn else code - 1  # 0..5 for P N B R Q K of the mover
            if encoding != PAPER:
                code = code // 6 * 6 + ORDER[code % 6]
            code += 1
        tokens[cells[square]] = code


# --- rows


@_compile
def encode_rows(fens, moves, is_mate_in_1, encoding, tokens, squares, answers, puzzles, accepted):
    """Encode rows given as newline-separated FENs and move lists.

    The position of a row is that after its first move, and its answer is the second move; the
    further moves are replayed. `is_mate_in_1` marks rows with the theme mate in 1. `accepted` is
    False for rows that python-chess must decide.
    """
    fen_at, move_at = 0, 0
    board, state = np.empty(64, np.uint8), np.empty(STATE, np.int64)
    cells, buffer = np.empty(64, np.int64), np.empty(MAX_MOVES, np.int64)
    for row in range(len(tokens)):
        fen_end, move_end = fen_at, move_at
        while fen_end < fens.size and fens[fen_end] != 10:
            fen_end += 1
        while move_end < moves.size and moves[move_end] != 10:
            move_end += 1
        ok = read_fen(fens[fen_at:fen_end], board, state)
        index, at = 0, move_at
        while ok and at < move_end:
            end = at
            while end < move_end and moves[end] != 32:
                end += 1
            move = read_move(moves, at, end)
            ok = False
            for i in range(pseudo_moves(board, state, buffer)):
                if buffer[i] == move:
                    ok = True
            if not ok:
                break
            if index == 1:
                frame(state, encoding, cells)
                tokenise(board, state[TURN], encoding, cells, tokens[row])
                squares[row, 0] = cells[move & 63]
                squares[row, 1] = cells[move >> 6 & 63]
                write_move(move, answers[row])
                write_fen(board, state, puzzles[row])
            ok = make(board, state, move)
            if index == 1 and is_mate_in_1[row] and ok:
                ok = is_mate(board, state)
            index += 1
            at = end + 1
        accepted[row] = ok and index >= 2 and index % 2 == 0
        fen_at, move_at = fen_end + 1, move_end + 1


@_compile
def hash_rows(tokens, out):
    """A 64-bit hash of the 64 tokens of each row (FNV-1a, then mixed)."""
    for row in range(len(tokens)):
        value = np.uint64(0xCBF29CE484222325)
        for i in range(64):
            value = (value ^ np.uint64(tokens[row, i])) * np.uint64(0x100000001B3)
        value ^= value >> np.uint64(32)
        value *= np.uint64(0xD6E8FEB86659FD93)
        out[row] = value ^ value >> np.uint64(32)


@_compile
def judge_rows(fens, pairs, encoding, legal, mate, exists, is_judged):
    """Judge predicted pairs of cells on newline-separated puzzle FENs.

    `legal`: a legal move joins the two squares, in either direction. `mate`: one of those moves
    mates. `exists`: the position has a mate in 1. `is_judged` is False for rows that python-chess
    must decide.
    """
    at = 0
    board, state = np.empty(64, np.uint8), np.empty(STATE, np.int64)
    child, after = np.empty(64, np.uint8), np.empty(STATE, np.int64)
    cells, moves = np.empty(64, np.int64), np.empty(MAX_MOVES, np.int64)
    for row in range(len(pairs)):
        end = at
        while end < fens.size and fens[end] != 10:
            end += 1
        is_judged[row] = read_fen(fens[at:end], board, state)
        at = end + 1
        if not is_judged[row]:
            continue
        frame(state, encoding, cells)
        for i in range(legal_moves(board, state, moves)):
            start, finish = cells[moves[i] & 63], cells[moves[i] >> 6 & 63]
            copy(board, state, child, after)
            make(child, after, moves[i])
            mates = is_mate(child, after)
            exists[row] |= mates
            if min(start, finish) == pairs[row, 0] and max(start, finish) == pairs[row, 1]:
                legal[row] = True
                mate[row] |= mates


# --- generator of positions with exactly one mating move


@_compile
def _random(seed):
    """The next number of splitmix64; `seed` is an array of one 64-bit word."""
    seed[0] += np.uint64(0x9E3779B97F4A7C15)
    value = seed[0]
    value = (value ^ value >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ value >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return value ^ value >> np.uint64(31)


@_compile
def _below(seed, bound):
    return np.int64(_random(seed) % np.uint64(bound))


@_compile
def only_mate(board, state):
    """The mating move if there is exactly one (promotions to different pieces are different moves),
    else -1; and the number of legal moves."""
    moves = np.empty(MAX_MOVES, np.int64)
    child, after = np.empty(64, np.uint8), np.empty(STATE, np.int64)
    mate, count = -1, 0
    for i in range(pseudo_moves(board, state, moves)):
        copy(board, state, child, after)
        if not make(child, after, moves[i]):
            continue
        count += 1
        if is_mate(child, after):
            if mate >= 0:
                return -1, count
            mate = moves[i]
    return mate, count


@_compile
def _place(seed, board, state):
    """Place random pieces on an empty board, more of them for the mating side."""
    for square in range(64):
        board[square] = 0
    mater = _below(seed, 2)
    state[TURN] = 1 - mater  # the losing side moves first
    state[CASTLING] = 0
    state[PASSANT] = -1
    state[HALF] = _below(seed, 10)
    state[FULL] = 20 + _below(seed, 60)
    crowd = 1 + _below(seed, 3)  # from 1, endgame, to 3, middlegame
    for side in range(2):
        square = _below(seed, 64)
        if side != mater and _below(seed, 4):  # mostly at the edge, where mates are frequent
            line, along = 7 * _below(seed, 2), _below(seed, 8)
            square = line * 8 + along if _below(seed, 2) else along * 8 + line
        if board[square]:
            return False
        board[square] = 6 * side + 6
    for side in range(2):
        for piece in range(1, 6):
            most = 2 * crowd if piece == 1 else 1 if piece == 5 or crowd == 1 else 2
            number = _below(seed, most + 1)
            if side != mater and piece == 5 and _below(seed, 2):
                number = 0
            for _ in range(number):
                square = 8 + _below(seed, 48) if piece == 1 else _below(seed, 64)
                if board[square] == 0:
                    board[square] = 6 * side + piece
    return plausible(board, state)


@_compile
def _try(board, state, move, fen, moves, legal):
    """Whether exactly one move mates after `move`; if so, writes the row."""
    child, after = np.empty(64, np.uint8), np.empty(STATE, np.int64)
    copy(board, state, child, after)
    make(child, after, move)
    if attackers(child, after[KINGS + after[TURN]], 1 - after[TURN]) > 1:
        return False  # `read_fen` would be unsure
    answer, count = only_mate(child, after)
    if answer < 0:
        return False
    write_fen(board, state, fen)
    moves[write_move(move, moves)] = 32
    at = 0
    while moves[at] != 32:
        at += 1
    write_move(answer, moves[at + 1 :])
    legal[0] = count
    return True


@_compile
def attempt(seed, fen, moves, legal):
    """Make one attempt, a pure function of `seed`: take a random legal game (with probability 1/2)
    or random positions, and search a move after which exactly one move mates. Returns whether
    there is one."""
    word = np.empty(1, np.uint64)
    word[0] = seed
    board, state = np.empty(64, np.uint8), np.empty(STATE, np.int64)
    buffer = np.empty(MAX_MOVES, np.int64)
    if _below(word, 2):
        read_fen(START, board, state)
        earliest = 6 + _below(word, 60)
        for ply in range(140):
            count = legal_moves(board, state, buffer)
            if count == 0:
                return False
            move = buffer[_below(word, count)]
            # `write_fen` may write an en passant square, which `read_fen` does not read.
            if (
                ply >= earliest
                and state[PASSANT] < 0
                and _try(board, state, move, fen, moves, legal)
            ):
                return True
            make(board, state, move)
        return False
    for _ in range(20):
        if not _place(word, board, state):
            continue
        count = legal_moves(board, state, buffer)
        for i in range(count):  # in random order, without replacement
            j = i + _below(word, count - i)
            buffer[i], buffer[j] = buffer[j], buffer[i]
            if _try(board, state, buffer[i], fen, moves, legal):
                return True
    return False


@_compile
def attempts(start, seed, success, fens, moves, legal):
    """Make attempts `start`, `start + 1`, ... of the stream `seed`."""
    for i in range(len(success)):
        word = np.empty(1, np.uint64)
        word[0] = np.uint64(seed) * np.uint64(0xD1342543DE82EF95) + np.uint64(start + i)
        success[i] = attempt(_random(word), fens[i], moves[i], legal[i : i + 1])
