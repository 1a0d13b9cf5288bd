"""From the tokens of a puzzle to the embedding that the loop sees."""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

HALF_ROOT = 0.707106781
"""1 / sqrt(2) as TRM, HRM and FPRM write it, with nine digits."""


class TokenEmbedding(eqx.Module):
    """`e = sqrt(width) [puzzle tokens; embedding of the cells]`: extra positions, which hold a
    vector of the puzzle, before the cells.

    The vector of the puzzle is padded with zeros to `extra` tokens. With learned positions, the
    tokens become `0.707106781 (tokens + positions)` before they are scaled.

    **Arguments:**

    - `tokens`: the vector of each token, shape `(vocabulary, width)`.
    - `positions`: a vector for each position, the extra ones first, or None.
    - `puzzles`: the vector of each puzzle, shape `(puzzles, numbers)`, or None.
    - `extra`: number of extra positions.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> embed = eqloop.recursive.TokenEmbedding(jnp.eye(4), None, jnp.ones((1, 3)), 1)
    >>> print(embed(jnp.array([2]), embed.puzzles[0]))
    [[2. 2. 2. 0.]
     [0. 0. 2. 0.]]

    ```
    """

    tokens: Float[Array, "vocabulary width"]
    positions: Float[Array, "positions width"] | None
    puzzles: Float[Array, "puzzles numbers"] | None
    extra: int = eqx.field(static=True)

    def __call__(
        self, inputs: Int[Array, " cells"], puzzle: Float[Array, " numbers"] | None
    ) -> Float[Array, "positions width"]:
        """Embed the cells.

        **Arguments:**

        - `inputs`: the token of each cell, shape `(cells,)`.
        - `puzzle`: the vector of the puzzle, or None where there are none.

        **Returns:**

        An array of shape `(extra + cells, width)`.
        """
        e = self.tokens[inputs]
        if self.extra:
            e = jnp.concatenate([self.extra_tokens(puzzle), e])
        if self.positions is not None:
            e = HALF_ROOT * (e + self.positions)
        return math.sqrt(self.tokens.shape[-1]) * e

    def extra_tokens(self, puzzle: Float[Array, " numbers"] | None) -> Float[Array, "extra width"]:
        """Return the tokens of the extra positions: the vector of a puzzle, padded with zeros.

        **Arguments:**

        - `puzzle`: the vector of the puzzle, or None where there are none.
        """
        width = self.tokens.shape[-1]
        vector = jnp.zeros(0, self.tokens.dtype) if puzzle is None else puzzle
        return jnp.pad(vector, (0, self.extra * width - len(vector))).reshape(self.extra, width)
