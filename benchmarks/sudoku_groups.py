"""Which of rows, columns and boxes does a trained run know?

    python benchmarks/sudoku_groups.py RUN [--puzzles 64] [--iterations 64]

**Question:** A blank's digit cannot be one that its row, its column or its box has already. Which
of the three does a run use? For each of them: the mean probability that the run gives to digits
which this group excludes and the two others do not. A run that knows the group gives them nothing.

**Last numbers:** benchmarks/LOG.md, "What the plateau of sudoku is made of".
"""

import argparse
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import eqloop


def groups(givens: np.ndarray) -> dict[str, np.ndarray]:
    """Which digits the row, the column and the box of a cell have among the givens.

    - `givens`: digits of a batch of puzzles, 0 for a blank, shape `(batch, side, side)`.

    **Returns** a boolean array `(batch, side, side, side + 1)` for each group; digit 0 is False.
    """
    batch, side, _ = givens.shape
    box = round(side**0.5)
    has = givens[..., None] == np.arange(side + 1)
    has[..., 0] = False
    boxes = has.reshape(batch, box, box, box, box, side + 1).any(axis=(2, 4), keepdims=True)
    return {
        "row": np.broadcast_to(has.any(axis=2, keepdims=True), has.shape),
        "column": np.broadcast_to(has.any(axis=1, keepdims=True), has.shape),
        "box": np.broadcast_to(boxes, (batch, box, box, box, box, side + 1)).reshape(has.shape),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--puzzles", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=64)
    options = parser.parse_args()

    model, task, _ = eqloop.load(options.run)
    split = task.generate(options.puzzles, seed=99)
    solver = eqloop.Unroll(options.iterations)
    logits = eqx.filter_vmap(lambda x: model(x, solver=solver).logits)(
        jax.vmap(task.encode)(jnp.asarray(split.inputs))
    )
    chance = np.asarray(jax.nn.softmax(logits))
    has = groups(np.asarray(split.inputs))
    blank = np.asarray(split.inputs) == 0
    for name, own in has.items():
        others = np.any([other for key, other in has.items() if key != name], axis=0)
        excluded = blank[..., None] & own & ~others
        cells = excluded.any(axis=-1)
        mass = (chance * excluded).sum(axis=-1)[cells].mean()
        print(f"only the {name:6} excludes: probability {mass:.4f}, {cells.sum():,} blanks")
    right = (chance.argmax(axis=-1) == np.asarray(split.targets))[blank].mean()
    print(f"blanks right: {right:.1%}")


if __name__ == "__main__":
    main()
