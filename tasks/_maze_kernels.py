"""The maze generator and solver, compiled by Numba; importing this module imports Numba.

A maze has `n x n` cells: walls, free cells, one start and one goal. A move goes to one of the four
neighbours of a cell. The solver is a breadth-first search from the start that also counts shortest
paths: the ways to a cell are those to its neighbours one move nearer.

The generator digs a random spanning tree of the rooms (cells with two odd coordinates) by
randomised depth-first search, as Schwarzschild et al. do (arXiv 2108.06011): such trees have long
paths. Then it opens a share of the dead ends towards a random further room.

All compiled code is in this file on purpose: the disk cache of Numba checks only the modification
time of the file of the function that is called.
"""

import numpy as np

from ._compiled import compiled
from ._maze_paths import GOAL, START

MOST_WAYS = 1 << 20
"""More shortest paths are not counted."""


@compiled
def _random(state):
    """The next number of splitmix64."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@compiled
def _below(state, bound):
    return np.int64(((_random(state) >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32))


@compiled
def _next(cell, side, n):
    """The neighbour of a cell on a side (0 up, 1 left, 2 right, 3 down); -1 beyond the border."""
    row, column = cell // n, cell % n
    if side == 0:
        return cell - n if row > 0 else -1
    if side == 1:
        return cell - 1 if column > 0 else -1
    if side == 2:
        return cell + 1 if column < n - 1 else -1
    return cell + n if row < n - 1 else -1


@compiled
def _flood(maze, n, start, moves, ways, queue):
    """Fill `moves` with the distance of each cell from the start (-1: unreachable), and `ways` with
    the number of shortest paths."""
    moves[:] = -1
    ways[:] = 0
    moves[start], ways[start] = 0, 1
    queue[0] = start
    head, tail = 0, 1
    while head < tail:
        cell = queue[head]
        head += 1
        for side in range(4):
            after = _next(cell, side, n)
            if after < 0 or maze[after] == 0:
                continue
            if moves[after] < 0:
                moves[after] = moves[cell] + 1
                queue[tail] = after
                tail += 1
            if moves[after] == moves[cell] + 1:
                ways[after] = min(ways[after] + ways[cell], MOST_WAYS)


@compiled
def _mark(n, goal, moves, path):
    """Mark a shortest path from the start to the goal, the first of equal steps."""
    path[:] = 0
    cell = goal
    path[cell] = 1
    while moves[cell] > 0:
        for side in range(4):
            before = _next(cell, side, n)
            if before >= 0 and moves[before] == moves[cell] - 1:
                cell = before
                break
        path[cell] = 1


@compiled
def _dig(maze, n, state, stack):
    """A random spanning tree of the rooms."""
    rooms = (n - 1) // 2
    maze[:] = 0
    cell = (1 + 2 * _below(state, rooms)) * n + 1 + 2 * _below(state, rooms)
    maze[cell] = 1
    stack[0] = cell
    height = 1
    while height > 0:
        cell = stack[height - 1]
        # Choose among the sides with an undug room with equal probability.
        count, chosen = 0, -1
        for side in range(4):
            room = _beyond(cell, side, n)
            if room >= 0 and maze[room] == 0:
                count += 1
                if _below(state, count) == 0:
                    chosen = side
        if chosen < 0:
            height -= 1
            continue
        maze[_next(cell, chosen, n)] = 1
        room = _beyond(cell, chosen, n)
        maze[room] = 1
        stack[height] = room
        height += 1


@compiled
def _beyond(room, side, n):
    """The room on a side of a room; -1 if there is none."""
    wall = _next(room, side, n)
    cell = _next(wall, side, n) if wall >= 0 else -1
    # The cell beyond a wall of the border is no room.
    return cell if cell >= 0 and _next(cell, side, n) >= 0 else -1


@compiled
def _open_dead_ends(maze, n, state, share):
    """Open each dead end with probability `share` / 2^20, towards a random room beyond a wall."""
    for row in range(1, n, 2):
        for column in range(1, n, 2):
            cell = row * n + column
            exits, count, chosen = 0, 0, -1
            for side in range(4):
                if maze[_next(cell, side, n)]:
                    exits += 1
                elif _beyond(cell, side, n) >= 0:
                    count += 1
                    if _below(state, count) == 0:
                        chosen = side
            if exits == 1 and chosen >= 0 and _below(state, 1 << 20) < share:
                maze[_next(cell, chosen, n)] = 1


@compiled
def _make(seed, first, n, share, least, most, mazes, paths, lengths):
    cells = n * n
    state = np.empty(1, np.uint64)
    stack = np.empty(cells, np.int64)
    moves = np.empty(cells, np.int64)
    ways = np.empty(cells, np.int64)
    for row in range(len(mazes)):
        # Each attempt has its own random stream, so that its maze does not depend on the others.
        state[0] = np.uint64(seed)
        state[0] = _random(state) + np.uint64(first + row)
        state[0] = _random(state)
        maze = mazes[row]
        _dig(maze, n, state, stack)
        _open_dead_ends(maze, n, state, share)
        rooms = (n - 1) // 2
        start = (1 + 2 * _below(state, rooms)) * n + 1 + 2 * _below(state, rooms)
        _flood(maze, n, start, moves, ways, stack)
        count, goal = 0, -1
        for y in range(1, n, 2):
            for x in range(1, n, 2):
                cell = y * n + x
                length = moves[cell]
                if cell != start and ways[cell] == 1 and least <= length <= most:
                    count += 1
                    if _below(state, count) == 0:
                        goal = cell
        lengths[row] = -1
        if goal >= 0:
            lengths[row] = moves[goal]
            _mark(n, goal, moves, paths[row])
            maze[start], maze[goal] = START, GOAL


@compiled
def _solve(mazes, n, paths, lengths, counts):
    cells = n * n
    queue = np.empty(cells, np.int64)
    moves = np.empty(cells, np.int64)
    ways = np.empty(cells, np.int64)
    for row in range(len(mazes)):
        start = goal = 0
        for cell in range(cells):
            if mazes[row, cell] == START:
                start = cell
            elif mazes[row, cell] == GOAL:
                goal = cell
        _flood(mazes[row], n, start, moves, ways, queue)
        lengths[row], counts[row] = moves[goal], ways[goal]
        if moves[goal] >= 0:
            _mark(n, goal, moves, paths[row])


def make(
    seed: int, first: int, rows: int, size: int, loops: float, least: int, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make attempts `first` to `first + rows - 1` of the stream `seed`.

    **Returns** the mazes and their paths, `(successes, size, size)` uint8, and the numbers of
    moves, of those attempts that have a goal with exactly one shortest path, of `least` to `most`
    moves. Mazes may repeat.
    """
    mazes, paths = np.zeros((2, rows, size * size), np.uint8)
    lengths = np.zeros(rows, np.int64)
    _make(np.uint64(seed), first, size, round(loops * 2**20), least, most, mazes, paths, lengths)
    mazes, paths = (cells[lengths >= 0].reshape(-1, size, size) for cells in (mazes, paths))
    return mazes, paths, lengths[lengths >= 0]


def solve(mazes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solve `mazes`, `(rows, n, n)` uint8, each with one start and one goal.

    **Returns** for each maze the cells of a shortest path, `(rows, n, n)` uint8, the number of its
    moves (-1 if there is no path), and the number of shortest paths, at most `MOST_WAYS`.
    """
    n = mazes.shape[-1]
    flat = np.ascontiguousarray(mazes, np.uint8).reshape(len(mazes), n * n)
    paths, lengths, counts = np.zeros_like(flat), *np.zeros((2, len(flat)), np.int64)
    _solve(flat, n, paths, lengths, counts)
    return paths.reshape(mazes.shape), lengths, counts
