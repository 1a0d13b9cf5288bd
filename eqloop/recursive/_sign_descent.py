"""Descent by signs, for vectors of puzzles: most of them have no gradient in most steps."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def sign_descent(
    vectors: Float[Array, "puzzles numbers"],
    identifiers: Int[Array, " batch"],
    gradients: Float[Array, "batch numbers"],
    learning_rate: float | Float[Array, ""],
    weight_decay: float = 0.1,
) -> Float[Array, "puzzles numbers"]:
    """`w <- (1 - lr weight_decay) w - lr sign(g)` for the puzzles of a batch; the others stay.

    **Arguments:**

    - `vectors`: the vectors of all puzzles, shape `(puzzles, numbers)`.
    - `identifiers`: the puzzle of each row, shape `(batch,)`.
    - `gradients`: the gradient by the vector of each row, shape `(batch, numbers)` (see
        `RecursiveModel.segment`). The gradients of rows with the same puzzle are summed first.
    - `learning_rate`: step size.
    - `weight_decay`: factor of the decay.

    **Returns:**

    The next vectors, shape `(puzzles, numbers)`.

    **Source:** the optimiser of puzzle vectors of HRM and TRM.

    ```python
    >>> import eqloop, jax.numpy as jnp
    >>> ids, gradients = jnp.array([2, 0, 2]), jnp.array([[1.0], [-4.0], [-3.0]])
    >>> print(eqloop.recursive.sign_descent(jnp.zeros((3, 1)), ids, gradients, 0.5)[:, 0])
    [0.5 0.  0.5]

    ```
    """
    total = jax.ops.segment_sum(gradients, identifiers, len(vectors))
    moved = (1 - learning_rate * weight_decay) * vectors - learning_rate * jnp.sign(total)
    present = jnp.zeros((len(vectors), 1), bool).at[identifiers].set(True)
    return jnp.where(present, moved, vectors)
