"""Sudoku: fill in the blanks of a grid so that each row, column and box has each digit once."""

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped, UInt8

from .._errors import InputError
from .._task import Bad, Dataset, Progress, Split, Tally, Task, dataset, describe, partition, refuse
from . import _hrm_folder as hrm
from . import _sudoku_board as board
from . import _sudoku_files as files
from . import _sudoku_folder as folder
from ._distinct import distinct_parts
from ._sudoku_splits import BY_QUANTILE, easy_and_hard
from ._sudoku_symmetry import symmetry
from ._sudoku_text import cells_of_text

# Random minimal puzzles have 24.4 givens on average and almost never fewer than 22, though puzzles
# with 17 exist (box 2: minimal puzzles have 4 to 6).
_LIMITS = {2: (4, 15), 3: (22, 80)}
_GIVENS = {2: (6, 4), 3: (34, 28)}
_GENERATED = {2: (2_000, 500), 3: (20_000, 2_000)}
_READ = (50_000, 10_000)
_COUNTED = 1000
"""Maximum number of solutions of a pasted puzzle that are counted."""
_SCALES = ("tdoku", "sukaku", "eqloop", "file", "blanks")
_UNITS = {"tdoku": "tdoku guesses", "eqloop": "guesses", "file": "file's own rating"}
AT_RANDOM = "at random; hard are the highest ratings of test"
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Sudoku(Task):
    """Sudokus with boxes of 3x3 (9x9 cells) or 2x2 (4x4 cells) and one solution each.

    Tokens are 0 for a blank and 1..n for the digits. The model reads them one-hot, n + 1 channels
    per cell, and predicts one of n + 1 classes; class 0 is never the target (as in "Stability and
    Generalization in Looped Transformers", arXiv 2604.15259).

    **Files:** rows with a column `question` and optionally `answer`, `rating` and `source` (or
    common other names), one puzzle per line, or a folder in the format of HRM and TRM; see
    `_records` for the formats and `_sudoku_files` for the scales of the ratings.

    **Splits:** for a file as in the paper: the first 50,000 rows (`rows`) rated below the 80 %
    quantile are `train` and `validation` (80/20, by `seed`), the first 10,000 rows from the
    quantile on are `hard`, and up to 10,000 of the following rows below it are `test`. If too many
    ratings are equal, see `_sudoku_splits`; with `random_rows` ratings do not matter, as in the
    protocol of HRM and TRM on Sudoku-Extreme. Among symmetric copies of a puzzle only the first is
    used (`augment` makes such copies in training). Without a file, `hard` has fewer givens than
    the other splits.

    ```python
    >>> import eqloop, numpy as np
    >>> task = eqloop.tasks.make_task("sudoku", {"box": 2})
    >>> tokens = np.array([[1, 2, 0, 0], [3, 4, 0, 0], [0, 0, 0, 0], [0, 0, 2, 1]], np.uint8)
    >>> task.encode(tokens).shape, task.classes
    ((4, 4, 5), 5)

    ```
    """

    box: int = 3
    """A box has this many cells along its side, 2 or 3."""
    givens: int = 0
    """The generator gives train, validation and test puzzles this many givens; 0 takes 34 (box 2:
    6)."""
    hard_givens: int = 0
    """The generator gives `hard` puzzles this many givens; 0 takes 28 (box 2: 4)."""
    easy: str = ""
    """The ratings of train, validation and test rows of a file are in this range "low:high" (high
    excluded), instead of in quantiles. It requires `hard`."""
    hard: str = ""
    """The ratings of `hard` rows of a file are in this range "low:high" (high excluded). It
    requires `easy`."""
    scale: str = ""
    """Only rows of a file with ratings on this scale are used: tdoku, sukaku, eqloop, file or
    blanks."""
    random_rows: bool = False
    """If true, rows of a file are divided at random by `seed` and not by rating: `rows` of them are
    train and validation, all others `test`, and the fifth of these with the highest ratings is
    `hard`, too. It excludes `easy` and `hard`."""
    unique: bool = False
    """If true, each puzzle of a file is proven to have one solution (2,000 to 60,000 rows/s)."""
    most_givens: int = 0
    """Random cells of a training puzzle are filled in, up to a number of givens that is uniform
    from that of the puzzle to this one. Its difficulty is then the number of blanks; 0 fills in
    nothing."""

    def __post_init__(self):
        super().__post_init__()
        if self.box not in (2, 3):
            raise InputError(f"task.box={self.box}: must be 2 or 3, for boxes of 2x2 or 3x3 cells")
        low, high = _LIMITS[self.box]
        for field in ("givens", "hard_givens"):
            value = getattr(self, field)
            if value and not low <= value <= high:
                raise InputError(
                    f"task.{field}={value}: the generator reaches {low} to {high} givens"
                    + (" (puzzles with 17 to 21 exist, but are too rare)" if self.box == 3 else "")
                )
        lowest, highest = 1 if self.data else self._givens + 1, self.box**4 - 1
        if self.most_givens and not lowest <= self.most_givens <= highest:
            raise InputError(
                f"task.most_givens={self.most_givens}: must be 0, or from {lowest} to {highest}, "
                "more than the puzzles have"
            )
        if self.scale and self.scale not in _SCALES:
            raise InputError(f"task.scale={self.scale!r}: must be one of {', '.join(_SCALES)}")
        if bool(self.easy) != bool(self.hard):
            raise InputError("task.easy and task.hard go together; set both, or neither")
        if self.random_rows and self.easy:
            raise InputError(
                "task.random_rows=true excludes task.easy and task.hard; leave them out"
            )
        if self.easy and self.hard:
            easy, hard = _band("easy", self.easy), _band("hard", self.hard)
            if easy[0] < hard[1] and hard[0] < easy[1]:
                raise InputError(f"task.easy={self.easy} and task.hard={self.hard} overlap")

    @property
    def _givens(self) -> int:
        return self.givens or _GIVENS[self.box][0]

    @property
    def _hard_givens(self) -> int:
        return self.hard_givens or min(_GIVENS[self.box][1], self._givens - 1)

    # --- what a model for this task looks like

    @property
    def grid(self) -> tuple[int, int]:
        return self.box**2, self.box**2

    @property
    def channels(self) -> int:
        return self.box**2 + 1

    @property
    def classes(self) -> int:
        return self.box**2 + 1

    # --- data

    def generate(self, rows: int, seed: int, *, progress: Progress | None = None) -> Split:
        """Generate `rows` distinct puzzles with exactly `givens` givens and one solution each.

        The difficulty is the number of guesses of the built-in solver (`_sudoku_generator`). A
        larger set begins with the rows of a smaller one. With `most_givens` cells are filled in.
        **Raises** `InputError` if there are not enough different puzzles (box 2).
        """
        return self._filled(self._generate(rows, seed, self._givens, progress), seed)

    def _filled(self, split: Split, seed: int) -> Split:
        if not self.most_givens:
            return split
        return files.with_more_givens(split, self.most_givens, seed, self.box)

    def _generate(self, rows: int, seed: int, givens: int, progress: Progress | None) -> Split:
        # Imported here, since it imports Numba and many runs generate nothing.
        from ._sudoku_generator import make

        def draw(first: int, count: int) -> tuple[Split, list[bytes]]:
            part = files.rows_on_scale(*make(seed, first, count, self.box, givens), self.box)
            return part, part.puzzles.tolist()

        parts = distinct_parts(
            rows,
            draw,
            what=f"puzzles with {givens} givens",
            advice="set fewer rows or more givens",
            progress=progress,
        )
        return files.join(parts, self.box)

    def read(
        self, path: Path, *, on_bad: Callable[[Bad], None], progress: Progress | None = None
    ) -> Split:
        path = Path(path)
        reader = folder.read_folder if hrm.is_folder(path) else files.read_rows
        return reader(path, self.box, on_bad=on_bad, progress=progress, unique=self.unique)

    def write(self, split: Split, path: Path) -> None:
        """Write a CSV file with the columns `source,question,answer,rating`, compressed if `path`
        ends in `.gz` or `.zst`."""
        files.write_rows(split, Path(path))

    def load(self, *, progress: Progress | None = None) -> Dataset:
        if not self.data:
            # Record the numbers themselves: the fields may be 0, and defaults may change.
            source = {"generator": "eqloop", "givens": [self._givens, self._hard_givens]}
            return dataset(self, source, lambda: self._generated_splits(progress))
        path = Path(self.data)
        source = describe(path, folder.parts(path) if hrm.is_folder(path) else ())
        loaded = dataset(self, source, lambda: self._read_splits(path, progress))
        rule = str(cast(Mapping[str, object], loaded.manifest["read"])["cut"])
        if not (self.easy or self.random_rows or rule.startswith(BY_QUANTILE)):
            _LOG.warning("%s: %s", path, rule)
        return loaded

    def _generated_splits(
        self, progress: Progress | None
    ) -> tuple[dict[str, Split], dict[str, object]]:
        if not _LIMITS[self.box][0] <= self._hard_givens < self._givens:
            raise InputError(
                f"task.givens={self._givens}, task.hard_givens={self._hard_givens}: the hard split "
                f"must have fewer givens, but at least {_LIMITS[self.box][0]}; set either field"
            )
        rows, test_rows = _GENERATED[self.box]
        rows = self.rows or rows
        # The sets are disjoint, since their numbers of givens differ.
        easy = self._generate(rows + test_rows, self.seed, self._givens, progress)
        hard = self._generate(test_rows, self.seed, self._hard_givens, progress)
        splits = self._divide(easy, rows, test_rows) | {"hard": hard}
        return splits, {"rows": len(easy) + len(hard)}

    def _read_splits(
        self, path: Path, progress: Progress | None
    ) -> tuple[dict[str, Split], dict[str, object]]:
        tally = Tally()
        split = self.read(path, on_bad=tally if self.skip_bad else refuse, progress=progress)
        counts: dict[str, object] = {
            "rows": len(split),
            "bad": tally.count,
            "first_bad": [str(bad) for bad in tally.first],
        }
        if self.scale:
            split = split.take(split.columns["scale"] == self.scale.encode())
        scales = [scale.decode() for scale in np.unique(split.columns["scale"])]
        if len(scales) > 1:
            raise InputError(
                f"{path}: has ratings on several scales ({', '.join(scales)}), which cannot be "
                f"compared; choose one: --set task.scale={scales[0]}"
            )
        from ._sudoku_orbits import orbits

        numbers = orbits(split.inputs, self.box)
        _, first_rows = np.unique(numbers, return_index=True)
        if "group" in split.columns:
            _, first_of_group = np.unique(split.columns["group"], return_index=True)
            first_rows = np.intersect1d(first_rows, first_of_group)
        counts["duplicates"] = len(split) - len(first_rows)
        first_rows = np.sort(first_rows)
        split = split.take(first_rows)
        if self.random_rows:
            counts |= {"scale": scales[0] if scales else "", "easy": len(split), "cut": AT_RANDOM}
            return self._divide_at_random(split), counts
        easy, hard, rule = self._easy_and_hard(split, numbers[first_rows])
        counts |= {"scale": scales[0] if scales else "", "easy": int(easy.sum()), "cut": rule}
        rows, test_rows = _READ
        rows = self.rows or min(rows, int(0.8 * easy.sum()))
        if not hard.any() or not 1 < rows < easy.sum():
            raise InputError(
                f"{path}: {easy.sum()} easy and {hard.sum()} hard rows ({rule}) are too few for "
                f"train, validation, test and hard with {rows} rows for train and validation; use "
                "a larger file, a smaller task.rows, or bands in task.easy and task.hard"
            )
        splits = self._divide(split.take(easy), rows, test_rows)
        return splits | {"hard": split.take(np.flatnonzero(hard)[:test_rows])}, counts

    def _easy_and_hard(
        self, split: Split, numbers: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, str]:
        ratings = split.difficulty
        if self.easy and self.hard:
            # Compare in float32, the dtype of the ratings; otherwise 4.1 would be below 4.1.
            masks = []
            for field in ("easy", "hard"):
                low, high = map(np.float32, _band(field, getattr(self, field)))
                masks.append((ratings >= low) & (ratings < high))
            return masks[0], masks[1], f"easy {self.easy}, hard {self.hard}"
        easy, rule = easy_and_hard(split, numbers)
        return easy, ~easy, rule

    def _divide_at_random(self, split: Split) -> dict[str, Split]:
        rows = self.rows or min(_READ[0], int(0.8 * len(split)))
        if not 1 < rows <= len(split) - 5:
            raise InputError(
                f"{self.data}: {len(split)} rows are too few for train, validation, test and hard "
                f"with task.rows={rows}; use a larger file, or a smaller task.rows"
            )
        order = np.random.RandomState(self.seed).permutation(len(split))
        splits = self._divide(split.take(order), rows, len(split))
        rest = splits["test"]
        by_rating = np.argsort(rest.difficulty, kind="stable")
        hardest = np.sort(by_rating[len(rest) - len(rest) // 5 :])
        return splits | {"hard": rest.take(hardest)}

    def _divide(self, split: Split, rows: int, test_rows: int) -> dict[str, Split]:
        train, validation = partition(rows, self.seed)
        return {
            "train": self._filled(split.take(train), self.seed),
            "validation": split.take(validation),
            "test": split.take(slice(rows, rows + test_rows)),
        }

    def bands(self, split: Split) -> dict[str, Bool[np.ndarray, " examples"]]:
        """Bands of the ratings that occur: steps of 0.5 for Sukaku ratings, powers of two for
        guesses, or the number of blanks."""
        bands: dict[str, np.ndarray] = {}
        for scale in _SCALES:
            on_scale = split.columns["scale"] == scale.encode()
            if scale == "sukaku":
                halves = [half / 2 for half in range(2, 26)]
                edges = [(f"sukaku {low}-{low + 0.4}", low, low + 0.5) for low in halves]
                edges = [("sukaku below 1", 0, 1), *edges, ("sukaku 13 and more", 13, math.inf)]
            elif scale == "blanks":
                edges = [(f"blanks {blanks}", blanks, blanks + 1) for blanks in range(self.box**4)]
            else:
                unit = _UNITS[scale]
                powers = [(1 << i, 2 << i) for i in range(10)]
                edges = [(f"{unit} 0", 0, 1), (f"{unit} 1", 1, 2)]
                edges += [(f"{unit} {low}-{high - 1}", low, high) for low, high in powers[1:]]
                edges += [(f"{unit} 1024 and more", 1024, math.inf)]
            for name, low, high in edges:
                mask = on_scale & (split.difficulty >= low) & (split.difficulty < high)
                if mask.any():
                    bands[name] = mask
        return bands

    def remarks(self, split: Split) -> dict[str, int]:
        if not len(split):
            return {}
        from ._sudoku_generator import solve
        from ._sudoku_orbits import orbits

        counts, _, _ = solve(split.inputs.reshape(len(split), -1), self.box)
        return {
            "have more than one solution": int(np.sum(counts != 1)),
            "are symmetric copies of a row before them, or the same puzzle": len(split)
            - len(np.unique(orbits(split.inputs, self.box))),
            "are rated by the program's own solver (scale = eqloop)": int(
                np.sum(split.columns["scale"] == b"eqloop")
            ),
        }

    # --- one example, on the device

    def encode(self, tokens: UInt8[Array, "n n"]) -> Float[Array, "n n channels"]:
        """One-hot over the blank and the digits, float32."""
        return jax.nn.one_hot(tokens, self.channels, dtype=jnp.float32)

    def transform(
        self, key: PRNGKeyArray, tokens: UInt8[Array, "n n"], targets: UInt8[Array, "n n"]
    ) -> tuple[UInt8[Array, "n n"], UInt8[Array, "n n"]]:
        """Apply a random one of the `n! (box!)^(2 box + 2) 2` symmetries: permute the digits,
        permute the rows within bands and the bands, the columns likewise, and transpose or not.

        All are equally likely up to the bias of a remainder (2^32 modulo 9!: at most 1 in 10^4).
        """
        return symmetry(key, tokens, targets, self.box)

    def score(
        self,
        prediction: UInt8[Array, "n n"],
        tokens: UInt8[Array, "n n"],
        targets: UInt8[Array, "n n"],
    ) -> dict[str, Float[Array, ""] | Bool[Array, ""] | Int[Array, ""]]:
        """`exact`, `cells`, and `blanks`: share of right blank cells (1 without blanks)."""
        correct = prediction == targets
        scores = super().score(prediction, tokens, targets)
        blank = tokens == np.uint8(0)
        blanks = jnp.sum(blank, dtype=jnp.float32)
        filled = jnp.sum(correct & blank, dtype=jnp.float32)
        scores["blanks"] = jnp.where(blanks > 0, filled / jnp.maximum(blanks, 1.0), 1.0)
        return scores

    # --- one example, on the host

    def parse(self, text: str) -> Split:
        """Parse one pasted puzzle (see `_sudoku_text`) and solve it. If it has several solutions,
        `answered` is False; the column `solutions` counts them up to `_COUNTED`.

        **Raises** `InputError` for a wrong length or character, or a puzzle without a solution.
        """
        from ._sudoku_generator import solve

        n = self.box**2
        tokens = files.tokens_of(cells_of_text(text, n).encode(), self.box)
        if clash := files.clashes(tokens.reshape(n, n), self.box):
            raise InputError(f"the givens contradict each other: {clash}; check the puzzle")
        counts, solutions, guesses = solve(tokens[None], self.box, _COUNTED)
        if counts[0] == 0:
            raise InputError("this sudoku has no solution; check its givens")
        answered = counts == 1
        split = files.rows_on_scale(
            tokens[None], np.where(answered, solutions, 0), guesses, self.box
        )
        columns = dict(split.columns) | {"answered": answered, "solutions": counts}
        return dataclasses.replace(split, columns=columns)

    def check(self, split: Split, prediction: Shaped[np.ndarray, "n n"]) -> tuple[bool | None, str]:
        n = self.box**2
        givens = split.inputs[0]
        prediction = np.asarray(prediction).reshape(n, n)
        for row, column in np.argwhere((givens != 0) & (givens != prediction)).tolist():
            given, digit = givens[row, column], prediction[row, column]
            return (
                False,
                f"changes the given {given} in row {row + 1}, column {column + 1} to {digit}",
            )
        for row, column in np.argwhere((prediction < 1) | (prediction > n)).tolist():
            return False, f"leaves row {row + 1}, column {column + 1} blank"
        if clash := files.clashes(prediction, self.box):
            return False, clash
        return (
            True,
            f"a valid completion of the {np.sum(givens != 0)} givens{_other_solutions(split)}",
        )

    def render(self, split: Split, prediction: Shaped[np.ndarray, "n n"] | None = None) -> str:
        return board.render(split.inputs[0], split.targets[0], prediction, self.box)

    def draw(self, split: Split, prediction: Shaped[np.ndarray, "n n"] | None = None) -> str:
        return board.draw(split, prediction, self.box)


def _other_solutions(split: Split) -> str:
    """A remark for a puzzle from `parse` with more than one solution."""
    count = int(split.columns["solutions"][0]) if "solutions" in split.columns else 1
    if count == 1:
        return ""
    if count < 0:
        return "; it is unknown whether there are others"
    return f", one of {'at least ' if count == _COUNTED else ''}{count:,}"


def _band(field: str, text: str) -> tuple[float, float]:
    """The two ends of "low:high"."""
    low, colon, high = text.partition(":")
    try:
        band = float(low), float(high)
    except ValueError:
        band = (math.nan, math.nan)
    if not colon or not 0 <= band[0] < band[1]:
        raise InputError(f"task.{field}={text!r}: must be low:high with 0 <= low < high")
    return band
