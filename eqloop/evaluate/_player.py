"""The loop at work on some examples: the board after each iteration, for the page to step
through."""

from collections.abc import Sequence

import numpy as np

from .._model import LoopedTransformer
from .._task import Split, Task
from ..run import Frame, PlayedExample, Player
from ._trace import trace

CLOSE = 32
"""Iterations that are all shown; later ones thin out."""


def player(
    model: LoopedTransformer,
    task: Task,
    split: Split,
    *,
    names: Sequence[str],
    iterations: int,
    rtol: float,
) -> Player:
    """The answer of the loop after each of a number of iterations, for each example of a split.

    **Arguments:** `names`: a title for each example of the split.
    """
    examples: list[PlayedExample] = []
    for number, name in enumerate(names):
        one = split.take(np.array([number]))
        traced = trace(model, task, one.inputs[0], iterations=iterations, rtol=rtol)
        frames: list[Frame] = []
        before = None
        for count in _shown(len(traced.residuals), traced.changes()):
            answer = traced.predictions[count - 1]
            picture = task.draw(one, answer)
            frames.append(
                {
                    "iterations": count,
                    "residual": float(traced.residuals[count - 1]),
                    "svg": None if picture == before else picture,
                    "right": int(np.sum(answer == one.targets[0])),
                    "cells": int(answer.size),
                }
            )
            before = picture
        examples.append(
            {
                "title": name,
                "puzzle_svg": task.draw(one),
                "target_svg": task.draw(one, one.targets[0]),
                "frames": frames,
            }
        )
    return {"examples": examples}


def _shown(last: int, changes: list[int]) -> list[int]:
    """All of the first iterations, then where the answer changes (up to as many again), then each
    an eighth later than the one before."""
    found = {*range(1, min(last, CLOSE) + 1), last}
    found |= set([each for each in changes if each > CLOSE][:CLOSE])
    later = CLOSE
    while later < last:
        found.add(later)
        later += max(1, later // 8)
    return sorted(found)
