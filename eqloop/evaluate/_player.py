"""The answers of the loop after each iteration on a few examples, for the player of the page."""

from collections.abc import Sequence

import numpy as np

from .._model import AbstractLoopedModel
from .._task import Split, Task
from ..run import Frame, PlayedExample, Player
from ._trace import trace

CLOSE = 32
"""Every iteration up to this one has a frame; later frames become sparse."""


def player(
    model: AbstractLoopedModel,
    task: Task,
    split: Split,
    *,
    names: Sequence[str],
    iterations: int,
    rtol: float,
) -> Player:
    """Record the answer of the loop after selected iterations, for each example of a split.

    **Arguments:**

    - `model`, `task`: the model, and the task that draws puzzles and answers.
    - `split`: the examples.
    - `names`: one title per example.
    - `iterations`, `rtol`: see `trace`.

    **Returns** the content of `player.json`.

    **Raises** `InputError` if a puzzle is too small for the model.

    ```python
    >>> import eqloop, jax.random as jr
    >>> task = eqloop.tasks.make_task("prefix-sums", {"length": 8, "rows": 20, "test_rows": 4})
    >>> split = task.load().splits["test"].take([0])
    >>> model = eqloop.LoopedTransformer((8,), 1, 2, 8, 2, key=jr.key(0))  # untrained
    >>> [example] = eqloop.evaluate.player(
    ...     model, task, split, names=["first"], iterations=3, rtol=1e-4
    ... ).examples
    >>> [frame.iterations for frame in example.frames], example.puzzle_svg[:4]
    ([1, 2, 3], '<svg')

    ```
    """
    examples: list[PlayedExample] = []
    for number, name in enumerate(names):
        one = split.take(np.array([number]))
        traced = trace(model, task, one.inputs[0], iterations=iterations, rtol=rtol)
        frames: list[Frame] = []
        before = None
        for count in _frames(len(traced.residuals), traced.changes()):
            answer = traced.predictions[count - 1]
            picture = task.draw(one, answer)
            frames.append(
                Frame(
                    iterations=count,
                    residual=float(traced.residuals[count - 1]),
                    svg=None if picture == before else picture,
                    right=int(np.sum(answer == one.targets[0])),
                    cells=int(answer.size),
                )
            )
            before = picture
        examples.append(
            PlayedExample(name, task.draw(one), task.draw(one, one.targets[0]), tuple(frames))
        )
    return Player(tuple(examples))


def _frames(last: int, changes: list[int]) -> list[int]:
    """The iterations with a frame: the first `CLOSE`, then the first `CLOSE` at which the answer
    changes, and a geometric grid of ratio 9/8."""
    counts = {*range(1, min(last, CLOSE) + 1), last}
    counts |= set([count for count in changes if count > CLOSE][:CLOSE])
    later = CLOSE
    while later < last:
        counts.add(later)
        later += max(1, later // 8)
    return sorted(counts)
