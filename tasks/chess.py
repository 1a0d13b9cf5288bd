"""Chess puzzles: mark the two squares of the best move.

Lichess puzzles (https://database.lichess.org/#puzzles) or positions from a generator with exactly
one mating move. Input: twelve planes of pieces, seen from the side to move. Answer: an 8x8 mask
of the squares that the move leaves and reaches; the promotion piece is ignored.
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
"""Of the themes of a split, so many of the most frequent become bands."""


@dataclasses.dataclass(frozen=True)
class Chess(Task):
    """Two-square chess puzzles.

    Tokens are 0 for an empty square, 1..6 for the mover's pieces and 7..12 for the other side's.
    What the model sees has no castling rights, en passant square or clocks.

    Columns of a split: `answer` (UCI), `answered`, `themes` (space-separated), `ids` (PuzzleId),
    and what a Lichess row needs besides: `before` (the FEN before the opponent's move) and
    `opponent` (that move). All but `answered` are bytes.
    """

    encoding: Literal["paper", "easy-to-hard"] = "paper"
    """How a board becomes planes, and which rows are which split (see `_chess_splits`):

    - `"paper"`: planes P N B R Q K of the mover, then of the other side. The mover sits at the
      bottom (row 0 is rank 8 for White, rank 1 for Black, the board turned by 180 degrees), then
      files are mirrored where needed so that the mover's king is in columns 4..7.
    - `"easy-to-hard"`: planes K Q B N R P of the mover, then of the other side; row 0 is rank 1
      and column 0 the a file whoever moves, as in the public easy-to-hard data sets.
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
        """`rows` distinct positions with exactly one mating move; see `_chess_generator`. Their
        difficulty is 400 + 20 * (legal moves), a stand-in for a rating."""
        return _chess_generator.generate(rows, seed, self._encoding, progress=progress)

    def stream(
        self, path: Path, *, on_bad: Callable[[Bad], None], progress: Progress | None = None
    ) -> Iterator[Split]:
        """As `read`, in chunks of at most 16,384 rows: for files larger than the memory."""
        return _chess_rows.stream(Path(path), self._encoding, on_bad=on_bad, progress=progress)

    def read(
        self, path: Path, *, on_bad: Callable[[Bad], None], progress: Progress | None = None
    ) -> Split:
        """The good rows of a Lichess file, in its order; see `_records` for its formats.

        Needs the columns FEN, Moves and Rating; PuzzleId and Themes are used where they are there.
        FEN is the position before the opponent's move, which is the first of Moves. Bad is a row
        whose FEN is illegal or unreadable, with an illegal move anywhere in Moves or fewer than two
        or an odd number of them, with a Rating that is no number, or with the theme mateIn1 and an
        answer that does not mate.
        """
        return _chess_rows.join(list(self.stream(path, on_bad=on_bad, progress=progress)))

    def write(self, split: Split, path: Path) -> None:
        """Write a Lichess CSV file. Of a solution only the opponent's move and the answer are
        kept. **Raises** `InputError` for a puzzle from `parse`: what was played before it is not
        known."""
        if not np.all(split.columns["before"] != b""):
            raise InputError(
                f"{path}: not written, for a Lichess row needs the position before the opponent's "
                "move; write puzzles that were read from a file or generated"
            )
        _chess_rows.write(split, path)

    def load(self, *, progress: Progress | None = None) -> Dataset:
        if not self.data:

            def made():
                return _chess_splits.from_generator(
                    lambda rows: self.generate(rows, self.seed, progress=progress),
                    self.rows,
                    self.seed,
                )

            return dataset(self, {"generator": "mate in 1, exactly one"}, made)

        path = Path(self.data)

        def build():
            tally = Tally()
            splits, read = _chess_splits.from_file(
                path,
                self._encoding,
                self.rows,
                self.seed,
                on_bad=tally if self.skip_bad else refuse,
                progress=progress,
            )
            return splits, read | {"bad": tally.count, "first_bad": [str(b) for b in tally.first]}

        return dataset(self, describe(path), build)

    def bands(self, split: Split) -> dict[str, Bool[np.ndarray, " examples"]]:
        """Rating bands of 200 points ("rating 1000-1199"), then the most frequent themes
        ("theme:fork"), of which an example may have many."""
        known = split.difficulty[np.isfinite(split.difficulty)]
        lows = np.unique(known // 200).astype(int) * 200
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
        # -1, an empty square, has no plane: `one_hot` gives zeros
        return jax.nn.one_hot(tokens.astype(jnp.int32) - 1, 12, dtype=jnp.float32)

    def transform(
        self, key: PRNGKeyArray, tokens: UInt8[Array, "*grid"], targets: UInt8[Array, "*grid"]
    ) -> tuple[UInt8[Array, "*grid"], UInt8[Array, "*grid"]]:
        """`"easy-to-hard"`: files mirrored, one time in two. `"paper"`: nothing, for there the
        files already are in a standard order.

        A mirrored position obeys the same rules except for castling, and castling rights are not
        in the planes: to the model the mirror is a symmetry, up to the few answers that castle.
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
        """The two cells with the highest class-1 logit, chosen by index: always exactly two, also
        where logits tie (the first in row-major order), as in bfloat16 they often do."""
        del tokens
        scores = logits[..., 1].reshape(64)
        _, best = jax.lax.top_k(scores, 2)
        return jnp.zeros(64, jnp.uint8).at[best].set(1).reshape(8, 8)

    # --- one example, on the host

    def judge(
        self, split: Split, predictions: Shaped[np.ndarray, "examples *grid"]
    ) -> dict[str, Float[np.ndarray, " examples"]]:
        """What rules code says of each prediction, 0 or 1 or NaN.

        - `legal`: some legal move joins the two squares (whichever is the first).
        - `mate`: it mates. NaN where the position has no mate in 1.
        - `credit`: mate-aware exact match: `mate` where there is a mate in 1 (about 3 % of those
          have several, and Lichess accepts any), `exact` elsewhere; NaN where neither is known.

        Of a promotion the piece is ignored: the best one counts.
        """
        return _chess_moves.judge(split, predictions, self._encoding)

    def parse(self, text: str) -> Split:
        """A puzzle position as a FEN, or as a line of a position list (EPD) that may name the best
        moves (`bm Qxf7; id "1";`). The side to move is to solve it.

        The answer is the best moves of the line, or the first move that mates at once where it
        names none; otherwise it is not known. The difficulty is the estimate
        400 + 20 * (legal moves).
        """
        try:
            board, best = _chess_moves.position(text)
        except ValueError as error:
            raise InputError(f"{error}; give a FEN such as {EXAMPLE!r}") from None
        moves = board.legal_moves.count()
        if moves == 0:
            over = "mate" if board.is_check() else "stalemate"
            raise InputError(f"the game is over ({over}): give a FEN with a move to find")
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
        """A prediction is right if it is the answer or mates."""
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
    """The task as runs of version 1 saw it: in `"easy-to-hard"` the ranks are mirrored for Black,
    so that the mover sits at row 0. The public data sets do not do so."""

    name: ClassVar[str] = "chess"
    version: ClassVar[int] = 1

    @property
    def _encoding(self) -> Encoding:
        return "easy-to-hard-1" if self.encoding == "easy-to-hard" else self.encoding
