"""Mazes: mark the cells of the shortest path from the start to the goal."""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped, UInt8

from .._errors import InputError
from .._scores import EXACT
from .._task import Bad, Progress, Split, Task, joined, partition
from . import _hrm_folder as hrm
from . import _maze_board as board
from . import _maze_files as files
from . import _maze_folder as folder
from . import _maze_paths as paths
from ._distinct import distinct_parts

WINDOW = 3
"""Default width of the attention window: a cell and its eight neighbours."""
MATCH = "match"


@dataclasses.dataclass(frozen=True)
class Maze(Task):
    """Mazes with one shortest path from start to goal, whose cells are the answer.

    Tokens are 0 for a wall, 1 for a free cell, 2 for the start and 3 for the goal. The model reads
    them one-hot and predicts for each cell whether it is on the path; start and goal are. Mazes of
    one size train it, and larger ones test it with more iterations, as in "Can You Learn an
    Algorithm?" (arXiv 2106.04537).

    **Generator:** rooms have two odd coordinates; randomised depth-first search digs a random
    spanning tree of them, and `loops` opens dead ends. Start and goal are rooms. A breadth-first
    search proves that there is exactly one shortest path.

    **Scores:** `exact` is 1 for any shortest path, `match` for the path of the answer only, and
    `cells` is the share of right cells. `exact` and `match` differ for mazes of files that have
    several shortest paths, as those of HRM ("Hierarchical Reasoning Model", arXiv 2506.21734) do.

    **Files:** a column `question` and optionally `answer` of `#`, `.` (or space), `S`, `G` and, on
    the path, `o`, row by row; or a folder in the format of HRM and TRM. A name without a suffix
    writes such a folder. An answer must be a shortest path.

    **Splits:** without a file `train` and `validation` (80/20 of `rows`, by `seed`) and `test` of
    `size` cells along a side, `hard` of `hard_size` and `hard-x2` of about twice that. In a file
    the longest fifth of the paths is `hard`. Of symmetric copies of a maze only one is used.

    ```python
    >>> import eqloop
    >>> task = eqloop.tasks.make_task("maze", {"size": 5})
    >>> maze = task.parse("#####\\n#S..#\\n###.#\\n#G..#\\n#####")
    >>> maze.targets[0].tolist(), maze.difficulty[0].item()
    ([[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]], 6.0)

    ```
    """

    size: int = 9
    """A maze has this many cells along a side; the generator makes odd ones."""
    validation_size: int = 0
    """The validation mazes of the generator have this many cells along a side; 0 takes `size`."""
    hard_size: int = 0
    """The hard mazes of the generator have this many cells along a side; 0 takes 2 size - 1."""
    test_rows: int = 1000
    """The test split and each hard split of the generator have this many mazes."""
    shortest: int = 0
    """The paths of train and test mazes of the generator have at least this many moves."""
    longest: int = 0
    """The paths of train and test mazes of the generator have at most this many moves; 0 sets no
    limit."""
    loops: float = 0.0
    """The generator opens each dead end with this probability; 0 makes trees."""
    unique: bool = False
    """If true, a maze of a file with several shortest paths is a bad row."""

    symbols: ClassVar[str] = paths.SYMBOLS

    def __post_init__(self):
        super().__post_init__()
        for field in ("size", "validation_size", "hard_size"):
            value = getattr(self, field)
            if value == 0 and field != "size":
                continue
            if not files.SMALLEST <= value <= files.LARGEST or not (value % 2 or self.data):
                raise InputError(
                    f"task.{field}={value}: must be odd and from {files.SMALLEST} to "
                    f"{files.LARGEST} (mazes of a file may be even)"
                )
        if not 0 <= self.shortest <= (self.longest or self.shortest):
            raise InputError(
                f"task.shortest={self.shortest}, task.longest={self.longest}: must be at least 0, "
                "and the first at most the second"
            )
        if not 0 <= self.loops <= 1:
            raise InputError(f"task.loops={self.loops}: must be a probability, from 0 to 1")
        if self.test_rows < 0:
            raise InputError(f"task.test_rows={self.test_rows}: must be 0 or more")

    # --- what a model for this task looks like

    @property
    def grid(self) -> tuple[int, int]:
        return self.size, self.size

    @property
    def channels(self) -> int:
        return len(self.symbols)

    @property
    def classes(self) -> int:
        return 2

    @property
    def attention(self) -> int:
        return WINDOW

    # --- data

    def generate(self, rows: int, seed: int, *, progress: Progress | None = None) -> Split:
        """Generate `rows` mazes, none of them a symmetric copy of another. A larger set begins with
        the rows of a smaller one. **Raises** `InputError` if there are not enough such mazes."""
        return self._generate(rows, seed, self.size, progress)

    def _generate(self, rows: int, seed: int, size: int, progress: Progress | None) -> Split:
        # Imported here, since it imports Numba.
        from ._maze_kernels import make

        limits = (self.shortest, self.longest or size**2) if size == self.size else (1, size**2)

        def draw(first: int, count: int) -> tuple[Split, list[bytes]]:
            mazes, marks, moves = make(seed, first, count, size, self.loops, *limits)
            return paths.split_of(mazes, marks, moves, np.ones(len(mazes))), canonical(mazes)

        parts = distinct_parts(
            rows,
            draw,
            what=f"mazes of {size} x {size} cells with these paths",
            advice="set fewer rows, another range of task.shortest and task.longest, or a larger "
            "task.size",
            progress=progress,
        )
        return joined([paths.none(size), *parts])

    def read(
        self, path: Path, *, on_bad: Callable[[Bad], None], progress: Progress | None = None
    ) -> Split:
        path = Path(path)
        reader = folder.read_folder if hrm.is_folder(path) else files.read_rows
        return reader(path, on_bad=on_bad, progress=progress, unique=self.unique)

    def write(self, split: Split, path: Path) -> None:
        """Write a file with the columns `question,answer`, compressed if `path` ends in `.gz` or
        `.zst`; or, if it has no suffix, a new folder in the format of HRM and TRM."""
        path = Path(path)
        (files.write_rows if path.suffix else folder.write_folder)(split, path)

    def _parts(self, path: Path) -> Sequence[str]:
        return hrm.parts(path) if hrm.is_folder(path) else ()

    @property
    def _source(self) -> dict[str, object]:
        return {"generator": "depth-first search"}

    def _splits(self, file_rows: Split | None, progress: Progress | None) -> dict[str, Split]:
        if file_rows is not None:
            return self._divide(file_rows)
        rows, middle = self.rows or 10_000, self.validation_size or self.size
        hard = self.hard_size or 2 * self.size - 1
        train, validation = partition(rows, self.seed)
        parts = [("train", self.size, rows), ("test", self.size, self.test_rows)]
        if middle != self.size:
            parts.append(("validation", middle, len(validation)))
        parts += [("hard", hard, self.test_rows), ("hard-x2", 2 * hard - 1, self.test_rows)]
        # Mazes of one size come from one stream, so that no two of them are copies.
        totals: collections.Counter[int] = collections.Counter()
        for _, size, count in parts:
            totals[size] += count
        streams = {
            size: self._generate(count, self.seed, size, progress) for size, count in totals.items()
        }
        splits, used = {}, collections.Counter[int]()
        for name, size, count in parts:
            splits[name] = streams[size].take(slice(used[size], used[size] + count))
            used[size] += count
        pool = splits["train"]
        return {
            "train": pool.take(train),
            "validation": pool.take(validation),
            **{name: splits[name] for name in splits if name != "train"},
        }

    def _divide(self, split: Split) -> dict[str, Split]:
        """The splits of a file."""
        split = self._usable(split)
        _, first = np.unique(np.array(canonical(split.inputs), object), return_index=True)
        split = split.take(np.sort(first))
        by_length = np.argsort(split.difficulty, kind="stable")
        hard = np.sort(by_length[len(split) - len(split) // 5 :])
        easy = np.setdiff1d(np.arange(len(split)), hard)
        rows = min(self.rows or len(easy), int(0.8 * len(easy)))
        if rows < 2 or not len(hard) or rows == len(easy):
            raise InputError(
                f"{self.data}: {len(split)} different mazes are too few for the splits train, "
                "validation, test and hard; use more"
            )
        train, validation = partition(rows, self.seed)
        return {
            "train": split.take(easy[train]),
            "validation": split.take(easy[validation]),
            "test": split.take(easy[rows:]),
            "hard": split.take(hard),
        }

    def bands(self, split: Split) -> dict[str, Bool[np.ndarray, " examples"]]:
        """Bands of the number of moves, each twice as wide as the one before."""
        edges = [1, *(8 << i for i in range(13))]
        bands = {
            f"{low} to {high - 1} moves": (split.difficulty >= low) & (split.difficulty < high)
            for low, high in itertools.pairwise(edges)
        }
        return {name: mask for name, mask in bands.items() if mask.any()}

    def remarks(self, split: Split) -> dict[str, int]:
        if not len(split):
            return {}
        return {
            "have more than one shortest path": int(np.sum(split.columns["paths"] > 1)),
            "are symmetric copies of a row before them, or the same maze": len(split)
            - len(set(canonical(split.inputs))),
        }

    def known_depth(
        self, split: Split, attention: Literal["full"] | int
    ) -> Float[np.ndarray, " examples"]:
        """For a path of L moves, the iterations after which a signal that follows it has come from
        one end to the other.

        With a window of w cells it advances by (w - 1) / 2 moves per iteration along a straight
        corridor: the depth is L / ((w - 1) / 2). This is the depth of an algorithm, not a bound:
        signals from both ends meet half way, windows see across walls and around corners, and in a
        tree the dead ends can be filled in instead. With full attention the depth is log2 L: cells
        that know which cell is 2^t moves further on double that number in an iteration.
        """
        if attention == "full":
            return np.log2(split.difficulty)
        return split.difficulty / max(attention // 2, 1)

    # --- one example, on the device

    def encode(self, tokens: UInt8[Array, "n n"]) -> Float[Array, "n n channels"]:
        """One-hot: wall, free, start, goal; float32."""
        return jax.nn.one_hot(tokens, self.channels, dtype=jnp.float32)

    def transform(
        self, key: PRNGKeyArray, tokens: UInt8[Array, "n n"], targets: UInt8[Array, "n n"]
    ) -> tuple[UInt8[Array, "n n"], UInt8[Array, "n n"]]:
        """Apply a random one of the 8 symmetries of the square to both grids."""
        both = jnp.stack([tokens, targets])
        down, across, turned = jr.bernoulli(key, shape=(3,))
        both = jnp.where(down, both[:, ::-1], both)
        both = jnp.where(across, both[:, :, ::-1], both)
        both = jnp.where(turned, both.swapaxes(1, 2), both)
        return both[0], both[1]

    def score(
        self,
        prediction: UInt8[Array, "n n"],
        tokens: UInt8[Array, "n n"],
        targets: UInt8[Array, "n n"],
    ) -> dict[str, Float[Array, ""] | Bool[Array, ""] | Int[Array, ""]]:
        """`exact`: whether the marked cells are a shortest path, which is as long as that of the
        target; `match`: whether they are those of the target; `cells`."""
        scores = super().score(prediction, tokens, targets)
        moves = jnp.sum(targets, dtype=jnp.int32) - 1
        marks = prediction == np.uint8(1)
        right = paths.is_shortest(tokens, marks, moves, jnp)
        return {**scores, EXACT: right, MATCH: scores[EXACT]}

    # --- one example, on the host

    def parse(self, text: str) -> Split:
        """Parse a maze: `#` wall, `.` or space free, `S` start, `G` goal; one line per row, or all
        rows in one line. The answer is a shortest path; the column `paths` counts them.

        **Raises** `InputError` if the text is no square maze, or has no path.
        """
        split, why = paths.solved(files.tokens_of_text(text)[None])
        if why[0]:
            raise InputError(f"maze {files.shortened(text)}: {why[0]}")
        return split

    def check(self, split: Split, prediction: Shaped[np.ndarray, "n n"]) -> tuple[bool | None, str]:
        return paths.check(split, np.asarray(prediction) == 1)

    def render(self, split: Split, prediction: Shaped[np.ndarray, "n n"] | None = None) -> str:
        return board.render(split, prediction)

    def draw(self, split: Split, prediction: Shaped[np.ndarray, "n n"] | None = None) -> str:
        return board.draw(split, prediction)


def canonical(mazes: np.ndarray) -> list[bytes]:
    """One text for each maze, `(rows, n, n)`; symmetric copies have the same text."""
    copies = [
        flipped
        for turned in (mazes, mazes.swapaxes(1, 2))
        for flipped in (turned, turned[:, ::-1], turned[:, :, ::-1], turned[:, ::-1, ::-1])
    ]
    return [min(copy[row].tobytes() for copy in copies) for row in range(len(mazes))]
