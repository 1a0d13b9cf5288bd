"""The sudoku solver and generator, compiled by Numba; importing this module imports Numba.

A grid of boxes `box x box` has `n = box^2` digits and `n^2` cells in row-major order. The solver
holds one bit set of candidates per cell (bit `d - 1` for digit `d`), propagates naked and hidden
singles until nothing changes, then guesses in the first cell with the fewest candidates, smallest
digit first. **A rating is the number of guesses up to the first solution** (0 if singles alone
solve it). The guesses of tdoku have another scale, since tdoku propagates more.

The generator removes givens from a random solved grid in random order, each only if the solution
stays unique, that is if the remaining givens exclude every other digit in that cell.
"""

import functools

import numpy as np

from ._compiled import compiled

GAVE_UP = 1 << 20
"""Maximum number of guesses of the solver. The hardest known 9x9 puzzles need some hundreds."""


@functools.cache
def tables(box: int) -> tuple[np.ndarray, np.ndarray]:
    """The cells of each unit (rows, columns, boxes), `(3n, n)`, and the cells that share a unit
    with each cell, `(n^2, peers)`; int16."""
    n = box * box
    cells = np.arange(n * n, dtype=np.int16).reshape(n, n)
    boxes = cells.reshape(box, box, box, box).transpose(0, 2, 1, 3).reshape(n, n)
    units = np.concatenate([cells, cells.T, boxes])
    peers = [
        sorted({int(c) for unit in units if cell in unit for c in unit} - {cell})
        for cell in range(n * n)
    ]
    return np.ascontiguousarray(units), np.array(peers, np.int16)


@compiled
def _propagate(candidates, fixed, stack, height, units, peers):
    """Propagate singles until nothing changes; returns False on a contradiction.

    `stack[:height]` has the cells with one candidate left that are not yet `fixed`.
    """
    n = units.shape[1]
    full = (1 << n) - 1
    while True:
        while height > 0:
            height -= 1
            cell = stack[height]
            if fixed[cell]:
                continue
            fixed[cell] = 1
            bit = candidates[cell]
            for i in range(peers.shape[1]):
                peer = peers[cell, i]
                remaining = candidates[peer]
                if remaining & bit:
                    remaining &= ~bit
                    if remaining == 0:
                        return False
                    candidates[peer] = remaining
                    if remaining & (remaining - 1) == 0:
                        stack[height] = peer
                        height += 1
        for u in range(units.shape[0]):
            once = 0
            twice = 0
            for i in range(n):
                remaining = candidates[units[u, i]]
                twice |= once & remaining
                once |= remaining
            if once != full:
                return False
            once &= ~twice
            for i in range(n):
                cell = units[u, i]
                bit = candidates[cell] & once
                if bit and not fixed[cell]:
                    if bit & (bit - 1):
                        return False
                    candidates[cell] = bit
                    stack[height] = cell
                    height += 1
            if height > 0:
                # Propagate at once: later units see fewer candidates.
                break
        if height == 0:
            return True


@compiled
def _random(state):
    """The next 64 bits of splitmix64; advances `state[0]`."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@compiled
def _below(state, bound):
    """A random integer in [0, bound); the bias, bound / 2^32, does not matter here."""
    return np.int64(((_random(state) >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32))


@compiled
def _search(candidates, fixed, stack, height, units, peers, limit, solution, state, shuffle):
    """Search for solutions. Writes the first one to `solution`, one bit per cell. With `shuffle`,
    guesses take a random digit.

    **Returns** the number of solutions (at most `limit`; -1 if the solver gave up) and the number
    of guesses up to the first solution (in total if there is none).
    """
    cells, n = peers.shape[0], units.shape[1]
    if not _propagate(candidates[0], fixed[0], stack, height, units, peers):
        return 0, 0
    solutions, guesses, first_guesses, depth = 0, 0, 0, 0
    guess_cell = np.empty(cells + 1, np.int64)
    untried = np.zeros(cells + 1, np.int64)
    fresh = True
    while True:
        if fresh:
            best, fewest = -1, n + 1
            for cell in range(cells):
                if not fixed[depth, cell]:
                    count, bits = 0, candidates[depth, cell]
                    while bits:
                        bits &= bits - 1
                        count += 1
                    if count < fewest:
                        best, fewest = cell, count
                        if count == 2:
                            break
            if best < 0:
                if solutions == 0:
                    first_guesses = guesses
                    for cell in range(cells):
                        solution[cell] = candidates[depth, cell]
                solutions += 1
                if solutions == limit:
                    return solutions, first_guesses
                depth -= 1
            else:
                guess_cell[depth] = best
                untried[depth] = candidates[depth, best]
            fresh = False
        while depth >= 0 and untried[depth] == 0:
            depth -= 1
        if depth < 0:
            return solutions, first_guesses if solutions else guesses
        bit = untried[depth] & -untried[depth]
        if shuffle:
            count, bits = 0, untried[depth]
            while bits:
                bits &= bits - 1
                count += 1
            bits = untried[depth]
            for _ in range(_below(state, count)):
                bits &= bits - 1
            bit = bits & -bits
        untried[depth] &= ~bit
        guesses += 1
        if guesses > GAVE_UP:
            return -1, guesses
        for cell in range(cells):
            candidates[depth + 1, cell] = candidates[depth, cell]
            fixed[depth + 1, cell] = fixed[depth, cell]
        cell = guess_cell[depth]
        candidates[depth + 1, cell] = bit
        stack[0] = cell
        if _propagate(candidates[depth + 1], fixed[depth + 1], stack, 1, units, peers):
            depth += 1
            fresh = True


@compiled
def _load(tokens, candidates, fixed, stack, n):
    """Set level 0 to the givens; returns the height of `stack`."""
    height = 0
    for cell in range(tokens.shape[0]):
        fixed[0, cell] = 0
        if tokens[cell]:
            candidates[0, cell] = 1 << (tokens[cell] - 1)
            stack[height] = cell
            height += 1
        else:
            candidates[0, cell] = (1 << n) - 1
    return height


@compiled
def _digits(bits, out):
    for cell in range(bits.shape[0]):
        digit, b = 0, bits[cell]
        while b:
            digit += 1
            b >>= 1
        out[cell] = digit


@compiled
def _solve(puzzles, limit, units, peers, solutions, counts, guesses):
    cells, n = peers.shape[0], units.shape[1]
    candidates = np.empty((cells + 2, cells), np.int64)
    fixed = np.empty((cells + 2, cells), np.uint8)
    # A cell can be pushed as a naked single and as a hidden single of three units.
    stack = np.empty(8 * cells, np.int64)
    bits = np.zeros(cells, np.int64)
    state = np.zeros(1, np.uint64)
    for row in range(puzzles.shape[0]):
        height = _load(puzzles[row], candidates, fixed, stack, n)
        counts[row], guesses[row] = _search(
            candidates, fixed, stack, height, units, peers, limit, bits, state, False
        )
        if counts[row] != 0:
            _digits(bits, solutions[row])


@compiled
def _make(seed, start, givens, units, peers, puzzles, solutions, success, guesses):
    """Make attempts `start`, `start + 1`, ... of the stream `seed`, one per row."""
    cells, n = peers.shape[0], units.shape[1]
    candidates = np.empty((cells + 2, cells), np.int64)
    fixed = np.empty((cells + 2, cells), np.uint8)
    stack = np.empty(8 * cells, np.int64)
    bits = np.zeros(cells, np.int64)
    order = np.empty(cells, np.int64)
    state = np.zeros(1, np.uint64)
    tokens = np.empty(cells, np.uint8)
    for row in range(puzzles.shape[0]):
        # Each attempt has its own random stream, so that its puzzle does not depend on the others.
        state[0] = np.uint64(seed)
        state[0] = _random(state) + np.uint64(start + row)
        state[0] = _random(state)
        # A random first row and a solver with random guesses can produce every grid.
        for cell in range(cells):
            tokens[cell] = 0
            order[cell] = cell
        for i in range(n):
            j = _below(state, i + 1)
            tokens[i] = tokens[j]
            tokens[j] = i + 1
        height = _load(tokens, candidates, fixed, stack, n)
        _search(candidates, fixed, stack, height, units, peers, 1, bits, state, True)
        _digits(bits, solutions[row])
        for cell in range(cells):
            tokens[cell] = solutions[row, cell]
            j = _below(state, cell + 1)
            order[cell] = order[j]
            order[j] = cell
        count = cells
        for i in range(cells):
            if count == givens:
                break
            cell = order[i]
            digit = tokens[cell]
            tokens[cell] = 0
            other_digits = (1 << n) - 1 - (1 << (digit - 1))
            for p in range(peers.shape[1]):
                peer = tokens[peers[cell, p]]
                if peer:
                    other_digits &= ~(1 << (peer - 1))
            unique = other_digits == 0
            if not unique:
                height = _load(tokens, candidates, fixed, stack, n)
                candidates[0, cell] = other_digits
                if other_digits & (other_digits - 1) == 0:
                    stack[height] = cell
                    height += 1
                unique = (
                    _search(candidates, fixed, stack, height, units, peers, 1, bits, state, False)[
                        0
                    ]
                    == 0
                )
            if unique:
                count -= 1
            else:
                tokens[cell] = digit
        success[row] = count == givens
        if success[row]:
            for cell in range(cells):
                puzzles[row, cell] = tokens[cell]
            height = _load(tokens, candidates, fixed, stack, n)
            guesses[row] = _search(
                candidates, fixed, stack, height, units, peers, 1, bits, state, False
            )[1]


def solve(puzzles: np.ndarray, box: int, limit: int = 2) -> tuple[np.ndarray, ...]:
    """Solve each of `puzzles`, `(rows, n^2)` uint8 with 0 for blanks.

    **Returns** for each puzzle the number of solutions (at most `limit`; -1 if the solver gave up),
    the first solution (zeros if there is none), and the number of guesses up to it (in total if
    there is none).
    """
    puzzles = np.ascontiguousarray(puzzles, np.uint8)
    solutions = np.zeros_like(puzzles)
    counts = np.zeros(len(puzzles), np.int64)
    guesses = np.zeros(len(puzzles), np.int64)
    _solve(puzzles, limit, *tables(box), solutions, counts, guesses)
    return counts, solutions, guesses


def make(
    seed: int, start: int, rows: int, box: int, givens: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make attempts `start` to `start + rows - 1` of the stream `seed`.

    **Returns** the puzzles and solutions, `(successes, n^2)` uint8, and the guesses of those
    attempts that reached exactly `givens` givens. Puzzles may repeat.
    """
    units, peers = tables(box)
    puzzles = np.zeros((rows, len(peers)), np.uint8)
    solutions = np.zeros_like(puzzles)
    success = np.zeros(rows, np.bool_)
    guesses = np.zeros(rows, np.int64)
    # Seeds of the other generators may exceed 64 bits.
    word = np.uint64(seed % 2**64)
    _make(word, start, givens, units, peers, puzzles, solutions, success, guesses)
    return puzzles[success], solutions[success], guesses[success]
