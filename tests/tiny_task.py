"""A task small enough to train in a test: each cell's class is whether it equals its left
neighbour."""

import dataclasses
import time
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from eqloop import InputError
from eqloop._fields import nearest
from eqloop._task import AbstractTask, Dataset, Split
from eqloop.run import Spec, overlay
from eqloop.tasks._svg import glyphs, picture
from eqloop.train._step import Order


@dataclasses.dataclass(frozen=True)
class Tiny(AbstractTask):
    name: ClassVar[str] = "tiny"
    version: ClassVar[int] = 1
    length: int = 6

    @property
    def grid(self) -> tuple[int, ...]:
        return (self.length,)

    @property
    def channels(self) -> int:
        return 1

    @property
    def classes(self) -> int:
        return 2

    @property
    def attention(self):
        return 3

    def generate(self, rows, seed, *, progress=None) -> Split:
        inputs = np.random.default_rng(seed).integers(0, 2, (rows, self.length), np.uint8)
        targets = (inputs == np.roll(inputs, 1, axis=-1)).astype(np.uint8)
        return Split(
            inputs=inputs,
            targets=targets,
            difficulty=inputs.sum(-1).astype(np.float32),
            puzzles=np.array(["".join(map(str, row)).encode() for row in inputs]),
        )

    def load(self, *, progress=None) -> Dataset:
        rows = self.rows or 64
        names = ("train", "validation", "test", "hard")
        splits = {
            name: self.generate(rows if name == "train" else 24, self.seed + i)
            for i, name in enumerate(names)
        }
        manifest = {"task": self.name, "version": self.version, "fields": dataclasses.asdict(self)}
        return Dataset(splits, manifest)

    def bands(self, split):
        return {"few ones": split.difficulty <= 3, "many ones": split.difficulty > 3}

    def encode(self, tokens):
        return tokens[..., None].astype(jnp.float32) - 0.5

    def transform(self, key, tokens, targets):
        flip = jax.random.bernoulli(key)
        return jnp.where(flip, 1 - tokens, tokens), targets

    def predict(self, logits, tokens):
        return jnp.argmax(logits, -1).astype(jnp.uint8)

    def score(self, prediction, tokens, targets):
        right = prediction == targets
        return {"exact": jnp.all(right), "cells": jnp.mean(right, dtype=jnp.float32)}

    def judge(self, split, predictions):
        return {"ones": predictions.mean(-1)}

    def read(self, path, *, on_bad, progress=None):
        raise NotImplementedError

    def write(self, split, path):
        raise NotImplementedError

    def parse(self, text):
        raise NotImplementedError

    def check(self, split, prediction):
        raise NotImplementedError

    def render(self, split, prediction=None):
        raise NotImplementedError

    def draw(self, split, prediction=None):
        shown = split.inputs[0] if prediction is None else prediction
        return picture("tiny", 60, 20, [glyphs("".join(map(str, shown)), [(5, 15)] * len(shown))])


def make_task(name: str, fields: Any) -> AbstractTask:
    """As `eqloop.tasks.make_task`, for this one task under any name."""
    known = [field.name for field in dataclasses.fields(Tiny)]
    for field in fields:
        if field not in known:
            raise InputError(f"unknown field task.{field}{nearest(field, known)}")
    return Tiny(**fields)


TABLES = {
    "model": {"width": 16, "heads": 2, "recall": "external"},
    "solver": {"steps": 4},
    "train": {
        "steps": 20,
        "batch": 8,
        "lr": 2e-3,
        "schedule": "warmup-cosine",
        "warmup": 10,
        "loss": "mean",
        "validation_iterations": 24,
    },
}


def slow_steps(pause: float) -> None:
    """From now on each training step of this process begins with so many seconds of sleep."""
    order = Order.__call__

    def slow(self, step):
        time.sleep(pause)
        return order(self, step)

    Order.__call__ = slow


def tiny_spec(*settings: str, **shortcuts: str | int | None) -> Spec:
    """A spec that trains in a moment, with settings as on the command line."""
    return overlay(TABLES, "tiny", settings, make_task=make_task, **shortcuts)
