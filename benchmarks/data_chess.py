"""How many chess rows per second are read and encoded, in how much memory, and how fast is the
mate-in-1 generator?

    python benchmarks/data_chess.py [LICHESS_CSV]

With a file: its rows. Without: 20,000 rows from the generator, written to a temporary file. The
streaming part repeats the file to at least 500,000 rows (and is run in a process of its own, so
that its peak memory is that of streaming alone). Times are CPU seconds of the
one process, all on one core.

Last numbers (2 cores of an AMD EPYC 9004 at 2.6 GHz, shared with other work; Python 3.11; the
95,190 rows of a Lichess excerpt, .csv.gz):

| what | rows/s |
|---|---|
| generate positions with exactly one mate (5,000) | 814 |
| encode, `paper` / `easy-to-hard` | 129,202 / 130,474 |
| the same by python-chess alone | 4,962 |
| read: decompress, parse, check, encode | 94,074 |
| judge predictions | 88,504 |
| stream 571,140 rows of .csv.zst | 94,653; peak memory 413 MB, as after the short file |

The generator compiles for 12 s once; afterwards the code is read from the disk.
"""

import functools
import itertools
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from eqloop._task import open_text, read_records, refuse, write_text
from eqloop.tasks._chess_rows import ENCODINGS, LAYOUT, Row, cells_of, encode, replay, tokens_of
from eqloop.tasks.chess import Chess

STREAM = """
import resource, sys, time
from pathlib import Path
from eqloop._task import refuse
from eqloop.tasks.chess import Chess

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

for chunk in Chess().stream(Path(sys.argv[2]), on_bad=refuse):
    pass  # compiles, and reads the small file once
small, start, rows = peak(), time.process_time(), 0
for chunk in Chess().stream(Path(sys.argv[1]), on_bad=refuse):
    rows += len(chunk)
print(rows, time.process_time() - start, small, peak())
"""


def timed(action, repeats: int = 3) -> float:
    """Return the CPU seconds of the fastest of a few runs: all work is on one core."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        action()
        best = min(best, time.process_time() - start)
    return best


def show(what: str, rows: int, seconds: float, note: str = "") -> None:
    print(f"{what:44} {rows:9,} {seconds:8.2f} s {rows / seconds:10,.0f} rows/s  {note}")


def main(folder: Path, path: Path | None) -> None:
    task = Chess()
    start = time.process_time()
    task.generate(1, 0)
    print(f"import and compile: {time.process_time() - start:.1f} s (0.1 when cached on the disk)")
    for count in (1_000, 5_000):
        seconds = timed(functools.partial(task.generate, count, 1), 1)
        show("generate positions with exactly one mate", count, seconds)
    if path is None:
        path = folder / "made.csv.gz"
        task.write(task.generate(20_000, 2), path)

    rows = [
        Row(line, f.get("PuzzleId", ""), f["FEN"], f["Moves"], f["Rating"], f.get("Themes", ""))
        for line, f in read_records(path, LAYOUT, on_bad=refuse)
    ]
    for encoding in ENCODINGS:
        seconds = timed(functools.partial(encode, rows, encoding, refuse, ""))
        show(f"encode {encoding}", len(rows), seconds)
    some = rows[:2000]

    def by_python_chess():
        for row in some:
            board, _, _ = replay(row)
            tokens_of(board, "paper")
            cells_of(board, "paper")
            board.fen()

    show("the same by python-chess", len(some), timed(by_python_chess))
    show("read (decompress, parse, check, encode)", len(rows), timed(lambda: read(path)))

    split = read(path).take(slice(0, 10_000))
    shuffled = split.targets[np.random.default_rng(0).permutation(len(split))]
    show("judge predictions", len(split), timed(lambda: task.judge(split, shuffled)))

    long = folder / "long.csv.zst"
    repeats = -(-500_000 // len(rows))
    with write_text(long) as out:
        for number in range(repeats):
            with open_text(path) as lines:
                out.writelines(itertools.islice(lines, 0 if number == 0 else 1, None))
    command = [sys.executable, "-c", STREAM, str(long), str(path)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    note = f"peak {float(answer[2]):,.0f} MB after the short file, {float(answer[3]):,.0f} after"
    show("stream a long .csv.zst", int(answer[0]), float(answer[1]), note)


def read(path: Path):
    return Chess().read(path, on_bad=refuse)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary), Path(sys.argv[1]) if len(sys.argv) > 1 else None)
