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
from . import _sudoku_board as board
from . import _sudoku_files as files
from . import _sudoku_folder as folder
from ._sudoku_splits import BY_QUANTILE, easy_and_hard
from ._sudoku_symmetry import symmetry
from ._sudoku_text import cells_of_text

# Random puzzles that cannot lose a given have 24.4 givens on average and hardly ever fewer than
# 22, though there are puzzles with 17 (box 2: from 4 on, of 4 to 6).
_LIMITS = {2: (4, 15), 3: (22, 80)}
_GIVENS = {2: (6, 4), 3: (34, 28)}
_GENERATED = {2: (2_000, 500), 3: (20_000, 2_000)}
_READ = (50_000, 10_000)
_COUNTED = 1000
"""Solutions of a pasted puzzle are counted up to this number."""
_SCALES = ("tdoku", "sukaku", "eqloop", "file", "blanks")
_UNITS = {"tdoku": "tdoku guesses", "eqloop": "guesses", "file": "file's own rating"}
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Sudoku(Task):
    """Sudokus of boxes 3x3 (9x9 cells) or 2x2 (4x4 cells), each with one solution.

    Tokens are 0 for a blank and 1..n for the digits; the model reads them one-hot, n + 1 channels
    per cell, and tells one of n + 1 classes, of which class 0 is never the target (as in "Stability
    and Generalization in Looped Transformers", arXiv 2604.15259).

    **Files:** rows with a column `question` and perhaps `answer`, `rating` and `source` (or what
    others call these), one puzzle a line, or a folder as HRM and TRM have it; see `_records` for
    the formats and `_sudoku_files` for the scales of the ratings.

    **Splits:** of a file, as in the paper: the first 50,000 rows (`rows`) rated below the 80 %
    quantile make `train` and `validation` (80/20, by `seed`), the first 10,000 rows from the
    quantile on make `hard`, and up to 10,000 of the rows below it that follow make `test`. Where
    ratings are too equal for that, see `_sudoku_splits`. Of puzzles that are symmetric copies of
    each other only the first counts (`augment` makes such copies while training). Without a file,
    `hard` has fewer givens than the rest.
    """

    box: int = 3
    """Cells along the side of a box, 2 or 3."""
    givens: int = 0
    """Generator: givens of each puzzle of train, validation and test; 0 for 34 (box 2: 6)."""
    hard_givens: int = 0
    """Generator: givens of each puzzle of `hard`; 0 for 28 (box 2: 4)."""
    easy: str = ""
    """File: ratings "low:high" (high excluded) of train, validation and test, instead of quantiles;
    goes with `hard`."""
    hard: str = ""
    """File: ratings "low:high" (high excluded) of `hard`."""
    scale: str = ""
    """File: use the rows with ratings on this scale only: tdoku, sukaku, eqloop, file or blanks."""
    unique: bool = False
    """File: also prove by the solver that each puzzle has one solution (2,000 to 60,000 rows/s)."""
    most_givens: int = 0
    """Fill in cells of training puzzles, so that each has a number of givens that is uniform from
    its own to this number; their difficulty is then the number of blanks. 0 for none."""

    def __post_init__(self):
        super().__post_init__()
        if self.box not in (2, 3):
            raise InputError(f"task.box={self.box}: boxes are 2x2 or 3x3; take 2 or 3")
        low, high = _LIMITS[self.box]
        for field in ("givens", "hard_givens"):
            value = getattr(self, field)
            if value and not low <= value <= high:
                raise InputError(
                    f"task.{field}={value}: the generator reaches {low} to {high} givens"
                    + (" (17 to 21 exist, but are too rare to come upon)" if self.box == 3 else "")
                )
        least, most = 1 if self.data else self._givens + 1, self.box**4 - 1
        if self.most_givens and not least <= self.most_givens <= most:
            raise InputError(
                f"task.most_givens={self.most_givens}: must be 0, or from {least} to {most}, more "
                "than the puzzles have"
            )
        if self.scale and self.scale not in _SCALES:
            raise InputError(f"task.scale={self.scale!r}: must be one of {', '.join(_SCALES)}")
        if bool(self.easy) != bool(self.hard):
            raise InputError("task.easy and task.hard go together; set both, or neither")
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
        """`rows` distinct puzzles with exactly `givens` givens and one solution each.

        The difficulty is the number of guesses of our own solver (`_sudoku_generator`). The first
        rows of a larger set are those of a smaller one. With `most_givens` cells are filled in.
        **Raises** `InputError` where there are not enough different puzzles (box 2).
        """
        return self._filled(self._generate(rows, seed, self._givens, progress), seed)

    def _filled(self, split: Split, seed: int) -> Split:
        if not self.most_givens:
            return split
        return files.with_more_givens(split, self.most_givens, seed, self.box)

    def _generate(self, rows: int, seed: int, givens: int, progress: Progress | None) -> Split:
        # Here, for it takes Numba, and there are runs that generate nothing.
        from ._sudoku_generator import make

        parts: list[Split] = []
        seen: set[bytes] = set()
        tries, fruitless, chunk = 0, 0, 256
        while len(seen) < rows:
            part = files.own(*make(seed, tries, chunk, self.box, givens), self.box)
            fresh = []
            for index, puzzle in enumerate(part.puzzles.tolist()):
                if puzzle not in seen and len(seen) < rows:
                    seen.add(puzzle)
                    fresh.append(index)
            parts.append(part.take(np.array(fresh, int)))
            tries += chunk
            fruitless = 0 if fresh else fruitless + chunk
            if fruitless >= 50_000:
                raise InputError(
                    f"only {len(seen)} different puzzles with {givens} givens were found in "
                    f"{tries} tries; ask for fewer rows or more givens"
                )
            if progress is not None:
                progress(len(seen), rows)
        return files.join(parts, self.box)

    def read(
        self, path: Path, *, on_bad: Callable[[Bad], None], progress: Progress | None = None
    ) -> Split:
        path = Path(path)
        reader = folder.read_folder if folder.is_folder(path) else files.read_rows
        return reader(path, self.box, on_bad=on_bad, progress=progress, unique=self.unique)

    def write(self, split: Split, path: Path) -> None:
        """Writes a CSV file with the columns `source,question,answer,rating`, compressed where
        `path` ends in `.gz` or `.zst`."""
        files.write_rows(split, Path(path))

    def load(self, *, progress: Progress | None = None) -> Dataset:
        if not self.data:
            # Said in full, for these may be the defaults, and defaults change.
            source = {"generator": "eqloop", "givens": [self._givens, self._hard_givens]}
            return dataset(self, source, lambda: self._made(progress))
        path = Path(self.data)
        source = describe(path, folder.parts(path) if folder.is_folder(path) else ())
        loaded = dataset(self, source, lambda: self._read_splits(path, progress))
        cut = str(cast(Mapping[str, object], loaded.manifest["read"])["cut"])
        if not (self.easy or cut.startswith(BY_QUANTILE)):
            _LOG.warning("%s: %s", path, cut)
        return loaded

    def _made(self, progress: Progress | None) -> tuple[dict[str, Split], dict[str, object]]:
        if not _LIMITS[self.box][0] <= self._hard_givens < self._givens:
            raise InputError(
                f"task.givens={self._givens}, task.hard_givens={self._hard_givens}: the hard split "
                f"must have fewer givens, though {_LIMITS[self.box][0]} or more; set either"
            )
        rows, held = _GENERATED[self.box]
        rows = self.rows or rows
        # The two sets differ in their givens, so none of one is in the other.
        easy = self._generate(rows + held, self.seed, self._givens, progress)
        hard = self._generate(held, self.seed, self._hard_givens, progress)
        splits = self._divide(easy, rows, held) | {"hard": hard}
        return splits, {"rows": len(easy) + len(hard)}

    def _read_splits(
        self, path: Path, progress: Progress | None
    ) -> tuple[dict[str, Split], dict[str, object]]:
        tally = Tally()
        split = self.read(path, on_bad=tally if self.skip_bad else refuse, progress=progress)
        read: dict[str, object] = {
            "rows": len(split),
            "bad": tally.count,
            "first_bad": [str(bad) for bad in tally.first],
        }
        if self.scale:
            split = split.take(split.columns["scale"] == self.scale.encode())
        scales = [scale.decode() for scale in np.unique(split.columns["scale"])]
        if len(scales) > 1:
            raise InputError(
                f"{path}: ratings on several scales ({', '.join(scales)}), which do not compare; "
                f"keep one: --set task.scale={scales[0]}"
            )
        from ._sudoku_orbits import orbits

        numbers = orbits(split.inputs, self.box)
        _, first = np.unique(numbers, return_index=True)
        if "group" in split.columns:
            _, of_group = np.unique(split.columns["group"], return_index=True)
            first = np.intersect1d(first, of_group)
        read["duplicates"] = len(split) - len(first)
        first = np.sort(first)
        split = split.take(first)
        easy, hard, cut = self._easy_and_hard(split, numbers[first])
        read |= {"scale": scales[0] if scales else "", "easy": int(easy.sum()), "cut": cut}
        rows, held = _READ
        rows = self.rows or min(rows, int(0.8 * easy.sum()))
        if not hard.any() or not 1 < rows < easy.sum():
            raise InputError(
                f"{path}: {easy.sum()} easy rows, {hard.sum()} hard ones ({cut}) do not make "
                f"train, validation, test and hard with {rows} rows to train and validate; take a "
                "larger file, a smaller task.rows, or bands of task.easy and task.hard"
            )
        splits = self._divide(split.take(easy), rows, held)
        return splits | {"hard": split.take(np.flatnonzero(hard)[:held])}, read

    def _easy_and_hard(
        self, split: Split, numbers: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, str]:
        ratings = split.difficulty
        if self.easy and self.hard:
            # The edges in float32, as the ratings are, or 4.1 would be below 4.1.
            masks = []
            for field in ("easy", "hard"):
                low, high = map(np.float32, _band(field, getattr(self, field)))
                masks.append((ratings >= low) & (ratings < high))
            return masks[0], masks[1], f"easy {self.easy}, hard {self.hard}"
        easy, cut = easy_and_hard(split, numbers)
        return easy, ~easy, cut

    def _divide(self, split: Split, rows: int, held: int) -> dict[str, Split]:
        train, validation = partition(rows, self.seed)
        return {
            "train": self._filled(split.take(train), self.seed),
            "validation": split.take(validation),
            "test": split.take(slice(rows, rows + held)),
        }

    def bands(self, split: Split) -> dict[str, Bool[np.ndarray, " examples"]]:
        """Bands of the ratings that occur: halves of the Sukaku rating, powers of two of the
        guesses, or the number of blanks."""
        found: dict[str, np.ndarray] = {}
        for scale in _SCALES:
            among = split.columns["scale"] == scale.encode()
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
                mask = among & (split.difficulty >= low) & (split.difficulty < high)
                if mask.any():
                    found[name] = mask
        return found

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
        """One-hot over blank and digits, float32."""
        return jax.nn.one_hot(tokens, self.channels, dtype=jnp.float32)

    def transform(
        self, key: PRNGKeyArray, tokens: UInt8[Array, "n n"], targets: UInt8[Array, "n n"]
    ) -> tuple[UInt8[Array, "n n"], UInt8[Array, "n n"]]:
        """One of the `n! (box!)^(2 box + 2) 2` symmetries: the digits renamed, the rows and
        columns permuted within and with their bands and stacks, the grid transposed or not.

        All are equally likely up to the bias of a remainder (of 2^32 by 9!: at most 1 in 10^4).
        """
        return symmetry(key, tokens, targets, self.box)

    def score(
        self,
        prediction: UInt8[Array, "n n"],
        tokens: UInt8[Array, "n n"],
        targets: UInt8[Array, "n n"],
    ) -> dict[str, Float[Array, ""] | Bool[Array, ""] | Int[Array, ""]]:
        """`exact`, `cells`, and `blanks`: the share of the blank cells right (1 without any)."""
        right = prediction == targets
        scores = super().score(prediction, tokens, targets)
        blank = tokens == np.uint8(0)
        blanks = jnp.sum(blank, dtype=jnp.float32)
        filled = jnp.sum(right & blank, dtype=jnp.float32)
        scores["blanks"] = jnp.where(blanks > 0, filled / jnp.maximum(blanks, 1.0), 1.0)
        return scores

    # --- one example, on the host

    def parse(self, text: str) -> Split:
        """One puzzle as people paste it (see `_sudoku_text`). It is solved; where it has several
        solutions `answered` is False, and `solutions` counts them up to `_COUNTED`.

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
        split = files.own(tokens[None], np.where(answered, solutions, 0), guesses, self.box)
        columns = dict(split.columns) | {"answered": answered, "solutions": counts}
        return dataclasses.replace(split, columns=columns)

    def check(self, split: Split, prediction: Shaped[np.ndarray, "n n"]) -> tuple[bool | None, str]:
        n = self.box**2
        givens = split.inputs[0]
        prediction = np.asarray(prediction).reshape(n, n)
        for row, column in np.argwhere((givens != 0) & (givens != prediction)).tolist():
            given, now = givens[row, column], prediction[row, column]
            return False, f"makes the given {given} in row {row + 1}, column {column + 1} a {now}"
        for row, column in np.argwhere((prediction < 1) | (prediction > n)).tolist():
            return False, f"leaves row {row + 1}, column {column + 1} blank"
        if clash := files.clashes(prediction, self.box):
            return False, clash
        return True, f"a valid completion of the {np.sum(givens != 0)} givens{_others(split)}"

    def render(self, split: Split, prediction: Shaped[np.ndarray, "n n"] | None = None) -> str:
        return board.render(split.inputs[0], split.targets[0], prediction, self.box)

    def draw(self, split: Split, prediction: Shaped[np.ndarray, "n n"] | None = None) -> str:
        return board.draw(split, prediction, self.box)


def _others(split: Split) -> str:
    """A remark on a puzzle from `parse` that has more than one solution."""
    count = int(split.columns["solutions"][0]) if "solutions" in split.columns else 1
    if count == 1:
        return ""
    if count < 0:
        return "; whether it is the only one is not known"
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
