"""Chess puzzles: mark the two squares of the best move.

The puzzles come from Lichess (https://database.lichess.org/#puzzles) or from a generator of
positions with exactly one mating move. The input has twelve planes of pieces, seen from the side to
move. The answer is an 8x8 mask of the from and to squares; the promotion piece is ignored.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, Literal

import chess
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, Shaped, UInt8

from .._errors import InputError
from .._task import Bad, Dataset, Progress, Split, Tally, Task, dataset, describe, refuse
from . import _chess_generator, _chess_moves, _chess_picture, _chess_rows, _chess_splits
from ._chess_rows import Encoding

THEMES_SHOWN = 12
"""Number of the most frequent themes of a split that become bands."""


@dataclasses.dataclass(frozen=True)
class Chess(Task):
    """Two-square chess puzzles.

    Tokens are 0 for an empty square, 1..6 for the pieces of the mover and 7..12 for those of the
    opponent. The model sees no castling rights, en passant square or clocks.

    Columns of a split: `answer` (UCI), `answered`, `themes` (space-separated), `ids` (PuzzleId),
    and, to write a Lichess row, `before` (the FEN before the opponent's move) and `opponent` (that
    move). All but `answered` are bytes.

    ```python
    >>> import eqloop
    >>> task = eqloop.tasks.make_task("chess", {})
    >>> split = task.parse("6k1/5ppp/8/8/8/8/8/R5K1 w - - 0 1")
    >>> split.inputs.shape, task.encode(split.inputs[0]).shape
    ((1, 8, 8), (8, 8, 12))

    ```
    """

    encoding: Literal["paper", "easy-to-hard"] = "paper"
    """The encoding decides the planes of a board and the rule that divides rows into splits (see
    `_chess_splits`):

    - `"paper"` has planes P N B R Q K of the mover, then of the opponent. The mover is at the
      bottom (row 0 is rank 8 for White; for Black the board is rotated by 180 degrees, so row 0 is
      rank 1); then files are mirrored if needed, so that the king of the mover is in columns 4..7.
    - `"easy-to-hard"` has planes K Q B N R P of the mover, then of the opponent; for both colours
      row 0 is rank 1 and column 0 is the a-file, as in the public easy-to-hard data sets.
    """

    version: ClassVar[int] = 2

    def __post_init__(self):
        super().__post_init__()
        if self.encoding not in ("paper", "easy-to-hard"):
            raise InputError(f"task.encoding={self.encoding!r}: must be one of paper, easy-to-hard")

    @property
    def _encoding(self) -> Encoding:
        return self.encoding

    @property
    def grid(self) -> tuple[int, ...]:
        return (8, 8)

    @property
    def channels(self) -> int:
        return 12

    @property
    def classes(self) -> int:
        return 2

    # --- data, on the host

    def generate(self, rows: int, seed: int, *, progress: Progress | None = None) -> Split:
        """Generate `rows` distinct positions with exactly one mating move; see `_chess_generator`.
        Their difficulty is 400 + 20 * (number of legal moves), an estimate of a rating."""
        return _chess_generator.generate(rows, seed, self._encoding, progress=progress)

    def stream(
        self, path: Path, *, on_bad: Callable[[Bad], None], progress: Progress | None = None
    ) -> Iterator[Split]:
        """As `read`, in chunks of at most 16,384 rows, for files that do not fit into memory."""
        return _chess_rows.stream(Path(path), self._encoding, on_bad=on_bad, progress=progress)

    def read(
        self, path: Path, *, on_bad: Callable[[Bad], None], progress: Progress | None = None
    ) -> Split:
        """Read the good rows of a Lichess file, in its order; see `_records` for the formats.

        The columns FEN, Moves and Rating are required; PuzzleId and Themes are used if present.
        FEN is the position before the opponent's move, which is the first of Moves. A row is bad if
        its FEN is illegal or unreadable, if Moves has an illegal move, fewer than two moves or an
        odd number of them, if Rating is no number, or if the theme is mateIn1 and the answer does
        not mate.
        """
        return _chess_rows.join(list(self.stream(path, on_bad=on_bad, progress=progress)))

    def write(self, split: Split, path: Path) -> None:
        """Write a Lichess CSV file, with the opponent's move and the answer but no further moves of
        the solution. **Raises** `InputError` for a puzzle from `parse`, since the position before
        it is unknown."""
        if not np.all(split.columns["before"] != b""):
            raise InputError(
                f"{path}: not written, since a Lichess row needs the position before the "
                "opponent's move; write puzzles that were read from a file or generated"
            )
        _chess_rows.write(split, path)

    def load(self, *, progress: Progress | None = None) -> Dataset:
        if not self.data:

            def generate():
                return _chess_splits.from_generator(
                    lambda rows: self.generate(rows, self.seed, progress=progress),
                    self.rows,
                    self.seed,
                )

            return dataset(self, {"generator": "mate in 1, exactly one"}, generate)

        path = Path(self.data)

        def build():
            tally = Tally()
            splits, counts = _chess_splits.from_file(
                path,
                self._encoding,
                self.rows,
                self.seed,
                on_bad=tally if self.skip_bad else refuse,
                progress=progress,
            )
            first_bad = [str(bad) for bad in tally.first]
            return splits, counts | {"bad": tally.count, "first_bad": first_bad}

        return dataset(self, describe(path), build)

    def bands(self, split: Split) -> dict[str, Bool[np.ndarray, " examples"]]:
        """Rating bands of 200 points ("rating 1000-1199"), then the most frequent themes
        ("theme:fork"); an example may have several themes."""
        ratings = split.difficulty[np.isfinite(split.difficulty)]
        lows = np.unique(ratings // 200).astype(int) * 200
        bands = {
            f"rating {low}-{low + 199}": (split.difficulty >= low) & (split.difficulty < low + 200)
            for low in lows.tolist()
        }
        themes = [text.decode().split() for text in split.columns["themes"]]
        counts = collections.Counter(theme for row in themes for theme in set(row))
        common = sorted(counts, key=lambda theme: (-counts[theme], theme))[:THEMES_SHOWN]
        sets = [frozenset(row) for row in themes]
        for theme in common:
            bands[f"theme:{theme}"] = np.array([theme in row for row in sets], np.bool_)
        return bands

    # --- one example, on the device

    def encode(self, tokens: UInt8[Array, "*grid"]) -> Float[Array, "*grid channels"]:
        # An empty square is -1 here, for which `one_hot` gives zeros.
        return jax.nn.one_hot(tokens.astype(jnp.int32) - 1, 12, dtype=jnp.float32)

    def transform(
        self, key: PRNGKeyArray, tokens: UInt8[Array, "*grid"], targets: UInt8[Array, "*grid"]
    ) -> tuple[UInt8[Array, "*grid"], UInt8[Array, "*grid"]]:
        """For `"easy-to-hard"`, mirror the files with probability 1/2. For `"paper"`, the identity:
        its files already have a standard order.

        A mirrored position obeys the same rules except for castling. Since the planes have no
        castling rights, the mirror is a symmetry for the model, up to the few answers that castle.
        """
        if self.encoding == "paper":
            return tokens, targets
        flip = jax.random.bernoulli(key)
        return (
            jnp.where(flip, tokens[:, ::-1], tokens),
            jnp.where(flip, targets[:, ::-1], targets),
        )

    def predict(
        self, logits: Float[Array, "*grid classes"], tokens: UInt8[Array, "*grid"]
    ) -> UInt8[Array, "*grid"]:
        """Mark the two cells with the highest class-1 logits. They are chosen by index, so there
        are exactly two even if logits tie, as is frequent in bfloat16; ties go to the first cell
        in row-major order."""
        del tokens
        scores = logits[..., 1].reshape(64)
        _, best = jax.lax.top_k(scores, 2)
        return jnp.zeros(64, jnp.uint8).at[best].set(1).reshape(8, 8)

    # --- one example, on the host

    def judge(
        self, split: Split, predictions: Shaped[np.ndarray, "examples *grid"]
    ) -> dict[str, Float[np.ndarray, " examples"]]:
        """Scores by the rules of chess: 0, 1 or NaN for each prediction.

        - `legal`: a legal move joins the two squares, in either direction.
        - `mate`: that move mates. NaN if the position has no mate in 1.
        - `credit`: mate-aware exact match: `mate` if there is a mate in 1 (about 3 % of those
          positions have several, and Lichess accepts any), else `exact`; NaN if neither is known.

        Promotion pieces are ignored: the best promotion counts.
        """
        return _chess_moves.judge(split, predictions, self._encoding)

    def parse(self, text: str) -> Split:
        """Parse the position of a puzzle as a FEN or a line of EPD, which may name the best moves
        (`bm Qxf7; id "1";`). The side to move solves it.

        The answer is the best moves of the line, or else the first move that mates at once;
        otherwise it is unknown. The difficulty is the estimate 400 + 20 * (number of legal moves).
        """
        try:
            board, best = _chess_moves.position(text)
        except ValueError as error:
            raise InputError(f"{error}; give a FEN such as {EXAMPLE!r}") from None
        moves = board.legal_moves.count()
        if moves == 0:
            ending = "mate" if board.is_check() else "stalemate"
            raise InputError(f"the game is over ({ending}): give a FEN with a move to find")
        best = best or _chess_moves.mating_moves(board)[:1]
        targets = np.zeros(64, np.uint8)
        if best:
            cells = _chess_rows.cells_of(board, self._encoding)
            targets[cells[[best[0].from_square, best[0].to_square]]] = 1
        return Split(
            inputs=_chess_rows.tokens_of(board, self._encoding)[None],
            targets=targets.reshape(1, 8, 8),
            difficulty=np.array([_chess_generator.difficulty_of(moves)], np.float32),
            puzzles=np.array([board.fen().encode()]),
            columns={
                "answer": np.array([" ".join(move.uci() for move in best).encode()]),
                "answered": np.array([bool(best)]),
                **{name: np.array([b""]) for name in ("themes", "ids", "before", "opponent")},
            },
        )

    def check(
        self, split: Split, prediction: Shaped[np.ndarray, "*grid"]
    ) -> tuple[bool | None, str]:
        """Check a prediction: it is right if it is the answer or mates."""
        board = chess.Board(split.puzzles[0].decode())
        answer = split.columns["answer"][0].decode() if split.columns["answered"][0] else ""
        return _chess_moves.check(board, prediction, answer, self._encoding)

    def render(self, split: Split, prediction: Shaped[np.ndarray, "*grid"] | None = None) -> str:
        """The board from the mover's side, in true coordinates; see `_chess_moves.render`."""
        board = chess.Board(split.puzzles[0].decode())
        return _chess_moves.render(board, prediction, self._encoding)

    def draw(self, split: Split, prediction: Shaped[np.ndarray, "*grid"] | None = None) -> str:
        """The board from the mover's side, in true coordinates; see `_chess_picture.draw`."""
        return _chess_picture.draw(split, prediction, self._encoding)


EXAMPLE = "r1bqkb1r/pppp1ppp/2n2n2/4p2Q/2B1P3/8/PPPP1PPP/RNB1K1NR w KQkq - 4 4"


@dataclasses.dataclass(frozen=True)
class ChessVersion1(Chess):
    """Version 1 of the task, for old runs: in `"easy-to-hard"` the ranks are mirrored for Black, so
    that the mover is at row 0. The public data sets do not mirror them."""

    name: ClassVar[str] = "chess"
    version: ClassVar[int] = 1

    @property
    def _encoding(self) -> Encoding:
        return "easy-to-hard-1" if self.encoding == "easy-to-hard" else self.encoding
