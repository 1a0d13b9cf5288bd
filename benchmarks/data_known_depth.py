"""How fast are mazes and group words made, solved and read?

    python benchmarks/data_known_depth.py [--rounds N]

**Question:** Does a training set of 10,000 mazes or words take seconds, not minutes, on one core?
The best of several rounds counts, in CPU seconds of the one process; compiling is not counted.

**Last numbers** (rows per CPU second; one core of an AMD EPYC, shared, load average 10; Python
3.11, numba 0.68.1): mazes made, each with one shortest path proven, 82,897 of 9x9, 31,916 of
17x17, 6,077 of 33x33 (5,960 where half of the dead ends are opened); solved 1,746,458, 489,315
and 116,540; words of 32 elements made 206,529 over Z2, 224,184 over S3, 253,865 over S5; read,
checked and solved 4,149 mazes of a CSV file and 72,133 of a folder of HRM, 3,225 words over S5.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from eqloop._task import Split, Task, refuse
from eqloop.tasks._maze_kernels import solve
from eqloop.tasks.group_words import GroupWords
from eqloop.tasks.maze import Maze


def rate(rows: int, run: Callable[[int], object], rounds: int) -> float:
    """Rows per CPU second in the fastest round; `run` gets the number of the round."""
    run(rounds)
    seconds = []
    for number in range(rounds):
        began = time.process_time()
        run(number)
        seconds.append(time.process_time() - began)
    return rows / min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    table = Table("what", "rows per CPU second")

    def show(what: str, rows: int, run: Callable[[int], object]) -> None:
        table.add_row(what, f"{rate(rows, run, rounds):,.0f}")

    for size, loops, rows in ((9, 0, 2000), (17, 0, 1000), (33, 0, 300), (33, 0.5, 300)):
        maze = Maze(size=size, loops=loops)
        made = maze.generate(rows, 0)
        name = f"{size}x{size}, loops {loops:g}"
        show(f"mazes made and proven, {name}", rows, lambda n, m=maze, r=rows: m.generate(r, n))
        show(f"mazes solved, {name}", rows, lambda n, m=made: solve(m.inputs))
    for group in ("Z2", "S3", "A5", "S5"):
        words = GroupWords(group=group)
        show(f"words of 32 made, {group}", 5000, lambda n, w=words: w.generate(5000, n))
    with tempfile.TemporaryDirectory() as folder:
        sets: list[tuple[str, Task, Split]] = [
            ("mazes.csv", Maze(), Maze().generate(1000, 0)),
            ("mazes", Maze(), Maze().generate(1000, 0)),
            ("words.csv", GroupWords(group="S5"), GroupWords(group="S5").generate(1000, 0)),
        ]
        for name, task, split in sets:
            path = Path(folder, name)
            task.write(split, path)
            show(f"read: {name}", len(split), lambda n, t=task, p=path: t.read(p, on_bad=refuse))
    Console().print(table)


if __name__ == "__main__":
    main()
